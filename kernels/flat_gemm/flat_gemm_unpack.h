// s8 and u4 panels to bf16 pairs [k/2][16][2], for the engines that multiply bf16. Both are exact.
#pragma once
#include <avx512.h>

namespace kn::flat_gemm {
namespace {

// bf16 of the integers 0..15 and -16..-1 at index i mod 32: what vpermw looks up for q - zero.
inline __m512i small_integers() {
  alignas(64) static constexpr uint16_t table[32] = {0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                                                     0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170,
                                                     0xc180, 0xc170, 0xc160, 0xc150, 0xc140, 0xc130, 0xc120, 0xc110,
                                                     0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80};
  return _mm512_load_si512(table);
}

// 32-bit lanes hold k..k+3 of a column. An s8 has at most 8 significant bits, so the low half of its f32 is zero and a
// pair is one shift and one or.
inline void s8_pairs(__m512i w, __m512i (&pairs)[2]) {
  const __m512i f0 = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w, 24), 24)));
  const __m512i f1 = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w, 16), 24)));
  const __m512i f2 = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w, 8), 24)));
  const __m512i f3 = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(w, 24)));
  pairs[0] = _mm512_or_si512(_mm512_srli_epi32(f0, 16), f1);
  pairs[1] = _mm512_or_si512(_mm512_srli_epi32(f2, 16), f3);
}

inline __m512i zero_pairs(const uint8_t* zeros) {
  const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  return _mm512_or_si512(z, _mm512_slli_epi32(z, 16));
}

inline void u4_pairs(__m512i w, __m512i zero, __m512i (&pairs)[4]) {
  const __m512i table = small_integers(), low = _mm512_set1_epi16(15);
  const __m512i q[4] = {_mm512_and_si512(w, low), _mm512_and_si512(_mm512_srli_epi16(w, 4), low),
                        _mm512_and_si512(_mm512_srli_epi16(w, 8), low), _mm512_srli_epi16(w, 12)};
  for (int t = 0; t < 4; t++) pairs[t] = _mm512_permutexvar_epi16(_mm512_sub_epi16(q[t], zero), table);
}

inline void unpack_bf16(int32_t w_type, int32_t group, const char* in, char* out, int64_t length,
                        const uint8_t* zeros) {
  if (w_type == KN_S8) {
    for (int64_t k = 0; k < length; k += 4, in += 64, out += 128) {
      __m512i pairs[2];
      s8_pairs(_mm512_load_si512(in), pairs);
      for (int i = 0; i < 2; i++) _mm512_store_si512(out + i * 64, pairs[i]);
    }
    return;
  }
  for (int64_t g = 0; g < length; g += group, zeros += 16) {
    const __m512i zero = zero_pairs(zeros);
    for (int64_t k = 0; k < group; k += 8, in += 64, out += 256) {
      __m512i pairs[4];
      u4_pairs(_mm512_load_si512(in), zero, pairs);
      for (int t = 0; t < 4; t++) _mm512_store_si512(out + t * 64, pairs[t]);
    }
  }
}

}  // namespace
}  // namespace kn::flat_gemm
