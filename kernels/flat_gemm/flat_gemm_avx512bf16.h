// The engine of vdpbf16ps, x in bf16. It rounds like two fused multiply-adds and reads and writes denormals as zero. s8
// and u4 weights are exact in bf16 and become pairs in L1 or in registers.
#pragma once
#include "flat_gemm_registers.h"
#include "flat_gemm_unpack.h"

namespace kn::flat_gemm {
namespace {

struct dot_bf16 {
  using v = __m512;
  static constexpr int64_t kXBytes = 4;
  static v zero() { return _mm512_setzero_ps(); }
  static v load(const char* p) { return _mm512_loadu_ps(p); }
  static void store(char* p, v a) { _mm512_storeu_ps(p, a); }
  static v broadcast(const char* x) { return _mm512_castsi512_ps(broadcast_dword(x)); }
  static v dot(v c, v a, v b) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static v scale(v c, const float* s, v old) { return _mm512_fmadd_ps(c, _mm512_loadu_ps(s), old); }
};

// The decoders of flat_gemm_unpack.h as operands of dot_bf16.
struct s8_to_bf16 : no_zero, packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 2;
  template <int I, int R>
  static __m512 part(raw w, zero) {
    return _mm512_castsi512_ps(s8_pair<I, R>(w));
  }
};

struct u4_to_bf16 : packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 4;
  using zero = __m512i;
  static zero load_zero(const uint8_t* zeros) { return zero_pairs(zeros); }
  template <int T, int>
  static __m512 part(raw w, zero z) {
    return _mm512_castsi512_ps(u4_pair<T>(w, z));
  }
};

// Without zero points.
struct u4_less_8_to_bf16 : no_zero, packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 4;
  template <int T, int>
  static __m512 part(raw w, zero) {
    return _mm512_castsi512_ps(u4_pair<T>(w));
  }
};

struct bf16_engine {
  using x_t = uint16_t;
  static constexpr int32_t kInPlace = KN_BF16;
  static constexpr int64_t kBytesPerK = 32;
  static constexpr bool kWholeTiles = false;
  static constexpr bool kInteger = false;
  static int64_t row_tile(int64_t step) { return register_rows(step); }
  static void enter() {}
  static void leave() {}
  static bool unpacks(int32_t w_type) { return w_type != KN_BF16; }

  static void prepare(int32_t, const void* x, int64_t k, uint16_t* out, int64_t padded, float*) {
    if (k > 0) memcpy(out, x, static_cast<size_t>(k) * 2);
    if (padded > k) memset(out + k, 0, static_cast<size_t>(padded - k) * 2);
  }

  static void unpack(int64_t, int32_t w_type, int32_t group, const char* in, char* out, int64_t length,
                     const uint8_t* zeros) {
    unpack_bf16(w_type, group, in, out, length, zeros);
  }

  static void multiply(const multiplication<uint16_t>& r) { multiply_registers<dot_bf16, as_is<dot_bf16>>(r); }

  static constexpr bool kDecodes = true;
  static int64_t decode_rows(int32_t w_type, int64_t step) {
    return unpacks(w_type) ? decoded_rows(step) : register_rows(step);
  }
  static void multiply_packed(int32_t w_type, const multiplication<uint16_t>& r) {
    switch (w_type) {
      case KN_S8:
        return multiply_registers<dot_bf16, s8_to_bf16>(r);
      case KN_U4:
        return r.zeros == nullptr ? multiply_registers<dot_bf16, u4_less_8_to_bf16>(r)
                                  : multiply_registers<dot_bf16, u4_to_bf16>(r);
      default:
        return multiply_registers<dot_bf16, as_is<dot_bf16>>(r);
    }
  }
};

}  // namespace
}  // namespace kn::flat_gemm
