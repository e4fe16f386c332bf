// The engines of any AVX-512 machine with VNNI: f32 multiply-add, with bf16, f16, s8 and u4 weights widened to f32 in
// L1 or in registers, and exact s8 x s8 by vpdpbusd.
#pragma once
#include "flat_gemm_quantize.h"
#include "flat_gemm_registers.h"
#include "flat_gemm_unpack.h"

namespace kn::flat_gemm {
namespace {

struct multiply_add {
  using v = __m512;
  static constexpr int64_t kXBytes = 4;
  static v zero() { return _mm512_setzero_ps(); }
  static v load(const char* p) { return _mm512_loadu_ps(p); }
  static void store(char* p, v a) { _mm512_storeu_ps(p, a); }
  static v broadcast(const char* x) { return _mm512_castsi512_ps(broadcast_dword(x)); }
  static v dot(v c, v a, v b) { return _mm512_fmadd_ps(a, b, c); }
  static v scale(v c, const float* s, v old) { return _mm512_fmadd_ps(c, _mm512_loadu_ps(s), old); }
};

// Decoders to f32, one operand per element of k.
struct f16_to_f32 : no_zero {
  static constexpr int64_t kRaw = 32;
  static constexpr int kParts = 1;
  using raw = __m256i;
  static raw load(const char* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }
  template <int, int>
  static __m512 part(raw w, zero) {
    return _mm512_cvtph_ps(w);
  }
};

struct bf16_to_f32 : no_zero, packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 2;
  template <int I, int>
  static __m512 part(raw pair, zero) {
    return _mm512_castsi512_ps(I == 0 ? _mm512_slli_epi32(pair, 16)
                                      : _mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))));
  }
};

struct s8_to_f32 : no_zero, packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 4;
  template <int I, int R>
  static __m512 part(raw w, zero) {
    return _mm512_cvtepi32_ps(s8_at<I, 2 * R>(w));
  }
};

// Nibble t of the word at parity i is k = 2 t + i.
struct u4_to_f32 : packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 8;
  using zero = __m512i;
  static zero load_zero(const uint8_t* zeros) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  }
  template <int I, int>
  static __m512 part(raw w, zero z) {
    const __m512i q = _mm512_and_si512(_mm512_srli_epi32(w, 4 * (I / 2) + 16 * (I % 2)), _mm512_set1_epi32(15));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(q, z));
  }
};

// Without zero points: the low 4 bits are the index of q - 8.
struct u4_less_8_to_f32 : no_zero, packed_zmm {
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 8;
  template <int I, int>
  static __m512 part(raw w, zero) {
    const __m512 integers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(I == 0 ? w : _mm512_srli_epi32(w, 4 * (I / 2) + 16 * (I % 2)), integers);
  }
};

struct f32_engine {
  using x_t = float;
  static constexpr int32_t kInPlace = KN_F32;
  static constexpr int64_t kBytesPerK = 64;
  static constexpr bool kWholeTiles = false;
  static constexpr bool kInteger = false;
  static int64_t row_tile(int64_t step) { return register_rows(step); }
  static void enter() {}
  static void leave() {}

  static void prepare(int32_t type, const void* x, int64_t k, float* out, int64_t padded, float*) {
    widen_row(type, x, k, out, padded);
  }

  static bool unpacks(int32_t w_type) { return w_type != KN_F32; }

  // A block of one panel to f32 [k][16].
  template <class Decode>
  static void unpack_as(const char* in, float* out, int64_t length, const uint8_t* zeros) {
    const typename Decode::zero zero = Decode::load_zero(zeros);
    for (int64_t k = 0; k < length; k += Decode::kParts, in += Decode::kRaw) {
      const typename Decode::raw w = Decode::load(in);
      each<Decode::kParts>([&](auto i) { _mm512_store_ps(out + (k + i) * 16, Decode::template part<i, 0>(w, zero)); });
    }
  }

  static void unpack(int64_t, int32_t w_type, int32_t group, const char* in, char* to, int64_t length,
                     const uint8_t* zeros) {
    float* out = reinterpret_cast<float*>(to);
    switch (w_type) {
      case KN_F16:
        return unpack_as<f16_to_f32>(in, out, length, nullptr);
      case KN_BF16:
        return unpack_as<bf16_to_f32>(in, out, length, nullptr);
      case KN_S8:
        return unpack_as<s8_to_f32>(in, out, length, nullptr);
      default:
        if (zeros == nullptr) return unpack_as<u4_less_8_to_f32>(in, out, length, nullptr);
        for (int64_t g = 0; g < length; g += group)
          unpack_as<u4_to_f32>(in + g * 8, out + g * 16, group, zeros + g / group * 16);
    }
  }

  static void multiply(const multiplication<float>& r) { multiply_registers<multiply_add, as_is<multiply_add>>(r); }

  static constexpr bool kDecodes = true;
  static int64_t decode_rows(int32_t w_type, int64_t step) {
    return unpacks(w_type) ? decoded_rows(step) : register_rows(step);
  }
  static void multiply_packed(int32_t w_type, const multiplication<float>& r) {
    switch (w_type) {
      case KN_F32:
        return multiply_registers<multiply_add, as_is<multiply_add>>(r);
      case KN_F16:
        return multiply_registers<multiply_add, f16_to_f32>(r);
      case KN_BF16:
        return multiply_registers<multiply_add, bf16_to_f32>(r);
      case KN_S8:
        return multiply_registers<multiply_add, s8_to_f32>(r);
      default:
        return r.zeros == nullptr ? multiply_registers<multiply_add, u4_less_8_to_f32>(r)
                                  : multiply_registers<multiply_add, u4_to_f32>(r);
    }
  }
};

struct dot_u8s8 {
  using v = __m512i;
  static constexpr int64_t kXBytes = 4;
  static v zero() { return _mm512_setzero_si512(); }
  static v load(const char* p) { return _mm512_loadu_si512(p); }
  static void store(char* p, v a) { _mm512_storeu_si512(p, a); }
  static v broadcast(const char* x) { return broadcast_dword(x); }
  static v dot(v c, v a, v b) { return _mm512_dpbusd_epi32(c, a, b); }
  static v scale(v c, const float*, v) { return c; }
};

// x + 128 as unsigned times s8 weights; 128 times the column's sum is taken off in the end. All of it is exact.
struct s8_engine {
  using x_t = uint8_t;
  static constexpr int32_t kInPlace = -1;
  static constexpr int64_t kBytesPerK = 16;
  static constexpr bool kWholeTiles = false;
  static constexpr bool kInteger = true;
  static constexpr int32_t kOffset = 128;
  static int64_t row_tile(int64_t step) { return register_rows(step); }
  static void enter() {}
  static void leave() {}
  static bool unpacks(int32_t) { return false; }
  static void unpack(int64_t, int32_t, int32_t, const char*, char*, int64_t, const uint8_t*) {}

  static void prepare(int32_t type, const void* x, int64_t k, uint8_t* out, int64_t padded, float* scale) {
    quantize_row(type, x, k, reinterpret_cast<int8_t*>(out), padded, scale);
    for (int64_t i = 0; i < padded; i += 64)
      _mm512_storeu_si512(out + i,
                          _mm512_xor_si512(_mm512_loadu_si512(out + i), _mm512_set1_epi8(static_cast<char>(0x80))));
  }

  static void multiply(const multiplication<uint8_t>& r) { multiply_registers<dot_u8s8, as_is<dot_u8s8>>(r); }

  static constexpr bool kDecodes = false;
};

}  // namespace
}  // namespace kn::flat_gemm
