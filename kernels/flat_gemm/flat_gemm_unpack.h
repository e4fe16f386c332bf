// s8 and u4 weights on their way to floats: bytes taken out, and panels to bf16 pairs [k/2][16][2]. All of it is exact.
#pragma once
#include <avx512.h>
#include <unroll.h>

#include <bit>

namespace kn::flat_gemm {
namespace {

// bf16 of small integers by index mod 32, as vpermw looks them up.
struct alignas(64) integer_table {
  uint16_t at[32];
  constexpr explicit integer_table(int (*integer)(int index)) : at{} {
    for (int i = 0; i < 32; i++)
      at[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(integer(i))) >> 16);
  }
};

// For q - zero: indices from -16 to 15.
inline __m512i small_integers() {
  static constexpr integer_table table([](int i) { return i < 16 ? i : i - 32; });
  return _mm512_load_si512(table.at);
}

// For q without zero points, whatever the bit above it: the word itself is the index.
inline __m512i integers_less_8() {
  static constexpr integer_table table([](int i) { return i % 16 - 8; });
  return _mm512_load_si512(table.at);
}

// 32-bit lanes hold k..k+3 of a column. Byte I of each with its sign: one product, by 1 and the others by 0, in place
// of two shifts, unless the products that a pair of bytes then takes part in keep the multipliers busy.
template <int I, int Products>
inline __m512i s8_at(__m512i w) {
  if constexpr (Products <= 4) return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(1 << 8 * I), w);
  return _mm512_srai_epi32(I == 3 ? w : _mm512_slli_epi32(w, 24 - 8 * I), 24);
}

// An s8 has at most 8 significant bits, so the low half of its f32 is zero and a pair is one shift and one or.
template <int I, int R>
inline __m512i s8_pair(__m512i w) {
  const __m512i low = s8_at<2 * I, R>(w), high = s8_at<2 * I + 1, R>(w);
  return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(low)), 16),
                         _mm512_castps_si512(_mm512_cvtepi32_ps(high)));
}

inline __m512i zero_pairs(const uint8_t* zeros) {
  const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  return _mm512_or_si512(z, _mm512_slli_epi32(z, 16));
}

template <int T>
inline __m512i u4_pair(__m512i w, __m512i zero) {
  const __m512i shifted = _mm512_srli_epi16(w, 4 * T);
  const __m512i q = T == 3 ? shifted : _mm512_and_si512(shifted, _mm512_set1_epi16(15));
  return _mm512_permutexvar_epi16(_mm512_sub_epi16(q, zero), small_integers());
}

// The zero point is 8.
template <int T>
inline __m512i u4_pair(__m512i w) {
  return _mm512_permutexvar_epi16(T == 0 ? w : _mm512_srli_epi16(w, 4 * T), integers_less_8());
}

// zeros: of u4, or null.
inline void unpack_bf16(int32_t w_type, int32_t group, const char* in, char* out, int64_t length,
                        const uint8_t* zeros) {
  if (w_type == KN_S8) {
    for (int64_t k = 0; k < length; k += 4, in += 64, out += 128) {
      const __m512i w = _mm512_load_si512(in);
      each<2>([&](auto i) { _mm512_store_si512(out + i * 64, s8_pair<i, 0>(w)); });
    }
    return;
  }
  if (zeros == nullptr) {
    for (int64_t k = 0; k < length; k += 8, in += 64, out += 256) {
      const __m512i w = _mm512_load_si512(in);
      each<4>([&](auto t) { _mm512_store_si512(out + t * 64, u4_pair<t>(w)); });
    }
    return;
  }
  for (int64_t g = 0; g < length; g += group, zeros += 16) {
    const __m512i zero = zero_pairs(zeros);
    for (int64_t k = 0; k < group; k += 8, in += 64, out += 256) {
      const __m512i w = _mm512_load_si512(in);
      each<4>([&](auto t) { _mm512_store_si512(out + t * 64, u4_pair<t>(w, zero)); });
    }
  }
}

}  // namespace
}  // namespace kn::flat_gemm
