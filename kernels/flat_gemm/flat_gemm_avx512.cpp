// Rows for any AVX-512 machine with VNNI: f32 multiply-add, with bf16, f16, s8 and u4 weights widened to f32 in L1, and
// exact s8 x s8 by vpdpbusd.
#include "flat_gemm_quantize.h"
#include "flat_gemm_registers.h"
#include "flat_gemm_rows.h"

namespace kn::flat_gemm {
namespace {

struct multiply_add {
  using v = __m512;
  static constexpr int64_t kXBytes = 4;
  static v zero() { return _mm512_setzero_ps(); }
  static v load(const char* p) { return _mm512_loadu_ps(p); }
  static void store(char* p, v a) { _mm512_storeu_ps(p, a); }
  static v broadcast(const char* x) { return _mm512_set1_ps(*reinterpret_cast<const float*>(x)); }
  static v dot(v c, v a, v b) { return _mm512_fmadd_ps(a, b, c); }
  static v scale(v c, const float* s, v old) { return _mm512_fmadd_ps(c, _mm512_loadu_ps(s), old); }
};

struct f32_engine {
  using x_t = float;
  static constexpr int32_t kInPlace = KN_F32;
  static constexpr int64_t kBytesPerK = 64;
  static constexpr bool kWholeTiles = false, kInteger = false;
  static int64_t row_tile(int64_t step) { return register_rows(step); }
  static void enter() {}
  static void leave() {}

  static void prepare(int32_t type, const void* x, int64_t k, float* out, int64_t padded, float*) {
    widen_row(type, x, k, out, padded);
  }

  static bool unpacks(int32_t w_type) { return w_type != KN_F32; }

  // A block of one panel to f32 [k][16].
  static void unpack(int64_t, int32_t w_type, int32_t group, const char* in, char* to, int64_t length,
                     const uint8_t* zeros) {
    float* out = reinterpret_cast<float*>(to);
    const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
    switch (w_type) {
      case KN_F16:
        for (int64_t k = 0; k < length; k++)
          _mm512_store_ps(out + k * 16, _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(in) + k)));
        break;
      case KN_BF16:
        for (int64_t k = 0; k < length; k += 2) {
          const __m512i pair = _mm512_load_si512(in + k * 32);
          _mm512_store_ps(out + k * 16, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
          _mm512_store_ps(out + k * 16 + 16, _mm512_castsi512_ps(_mm512_and_si512(pair, high)));
        }
        break;
      case KN_S8:
        for (int64_t k = 0; k < length; k += 4) {
          const __m512i four = _mm512_load_si512(in + k * 16);
          for (int i = 0; i < 4; i++) {
            const __m512i one = _mm512_srai_epi32(_mm512_sll_epi32(four, _mm_cvtsi32_si128(24 - 8 * i)), 24);
            _mm512_store_ps(out + (k + i) * 16, _mm512_cvtepi32_ps(one));
          }
        }
        break;
      default:
        for (int64_t k = 0; k < length; k += 8) {
          const __m512i eight = _mm512_load_si512(in + k * 8);
          const __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros + k / group * 16)));
          for (int i = 0; i < 8; i++) {
            // k = 2 t + parity is nibble t of the word at `parity`.
            const __m128i shift = _mm_cvtsi32_si128(i % 2 * 16 + i / 2 * 4);
            const __m512i q = _mm512_and_si512(_mm512_srl_epi32(eight, shift), _mm512_set1_epi32(15));
            _mm512_store_ps(out + (k + i) * 16, _mm512_cvtepi32_ps(_mm512_sub_epi32(q, zero)));
          }
        }
    }
  }

  static void multiply(int64_t rows, int64_t step, const float* x, int64_t ldx, const char* w, int64_t w_stride,
                       int64_t length, char* acc, int64_t ld, bool first, const float* scales, int64_t scale_stride,
                       const char* fetch) {
    multiply_registers<multiply_add>(rows, step, x, ldx, w, w_stride, length, acc, ld, first, scales, scale_stride, fetch);
  }
};

struct dot_u8s8 {
  using v = __m512i;
  static constexpr int64_t kXBytes = 4;
  static v zero() { return _mm512_setzero_si512(); }
  static v load(const char* p) { return _mm512_loadu_si512(p); }
  static void store(char* p, v a) { _mm512_storeu_si512(p, a); }
  static v broadcast(const char* x) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
  static v dot(v c, v a, v b) { return _mm512_dpbusd_epi32(c, a, b); }
  static v scale(v c, const float*, v) { return c; }
};

// x + 128 as unsigned times s8 weights; 128 times the column's sum is taken off in the end. All of it is exact.
struct s8_engine {
  using x_t = uint8_t;
  static constexpr int32_t kInPlace = -1;
  static constexpr int64_t kBytesPerK = 16;
  static constexpr bool kWholeTiles = false, kInteger = true;
  static constexpr int32_t kOffset = 128;
  static int64_t row_tile(int64_t step) { return register_rows(step); }
  static void enter() {}
  static void leave() {}
  static bool unpacks(int32_t) { return false; }
  static void unpack(int64_t, int32_t, int32_t, const char*, char*, int64_t, const uint8_t*) {}

  static void prepare(int32_t type, const void* x, int64_t k, uint8_t* out, int64_t padded, float* scale) {
    quantize_row(type, x, k, reinterpret_cast<int8_t*>(out), padded, scale);
    for (int64_t i = 0; i < padded; i += 64)
      _mm512_storeu_si512(out + i, _mm512_xor_si512(_mm512_loadu_si512(out + i), _mm512_set1_epi8(static_cast<char>(0x80))));
  }

  static void multiply(int64_t rows, int64_t step, const uint8_t* x, int64_t ldx, const char* w, int64_t w_stride,
                       int64_t length, char* acc, int64_t ld, bool first, const float*, int64_t, const char* fetch) {
    multiply_registers<dot_u8s8>(rows, step, x, ldx, w, w_stride, length, acc, ld, first, nullptr, 0, fetch);
  }
};

struct avx512 {
  static constexpr const char* kBits = "avx512";

  static bool takes(const kn_flat_gemm_problem& p, const char** why) {
    const bool integer = p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X);
    KN_REQUIRE(!integer || p.k <= 65536);  // 255 * 128 * k fits in 32 bits
    return true;
  }

  template <class F>
  static void with_engine(const kn_flat_gemm_problem& p, F f) {
    if (p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X))
      f.template operator()<s8_engine>();
    else
      f.template operator()<f32_engine>();
  }
};

}  // namespace
}  // namespace kn::flat_gemm

using namespace kn::flat_gemm;
extern "C" const kn_row flat_gemm_avx512_gemv =
    row_of<avx512, gemv, gemv_params, 2>::row("flat_gemm/avx512_gemv", KN_CPU_AVX512);
extern "C" const kn_row flat_gemm_avx512_flat =
    row_of<avx512, flat, flat_params, 2>::row("flat_gemm/avx512_flat", KN_CPU_AVX512);
extern "C" const kn_row flat_gemm_avx512_block =
    row_of<avx512, block, block_params, 4>::row("flat_gemm/avx512_block", KN_CPU_AVX512);
