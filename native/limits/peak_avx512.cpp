#include <immintrin.h>

#include "peak.h"

namespace {

struct f32 {
  using type = __m512;
  static constexpr int32_t ops = 32;
  const type a = _mm512_set1_ps(unknown()), b = a;
  type start(int i) const { return _mm512_set1_ps(static_cast<float>(i)); }
  type step(type sum) const { return _mm512_fmadd_ps(a, b, sum); }
};

struct u8s8 {
  using type = __m512i;
  static constexpr int32_t ops = 128;
  const type a = _mm512_set1_epi8(static_cast<char>(unknown() * 64)), b = a;
  type start(int i) const { return _mm512_set1_epi32(i); }
  type step(type sum) const { return _mm512_dpbusd_epi32(sum, a, b); }
};

}  // namespace

extern constexpr kn_peak kn_peak_f32_avx512 = peak_of<f32, 16>("f32_avx512", KN_CPU_AVX512);
extern constexpr kn_peak kn_peak_u8s8_avx512 = peak_of<u8s8, 16>("u8s8_avx512", KN_CPU_AVX512);
