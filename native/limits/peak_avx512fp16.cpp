#include <immintrin.h>

#include "peak.h"

namespace {

struct f16 {
  using type = __m512h;
  static constexpr int32_t ops = 64;
  const type a = _mm512_castsi512_ph(_mm512_set1_epi16(static_cast<short>(unknown() * 0) + 0x2c00)), b = a;  // 2^-4
  type start(int i) const { return _mm512_castsi512_ph(_mm512_set1_epi16(static_cast<short>(0x3c00 + i))); }
  type step(type sum) const { return _mm512_fmadd_ph(a, b, sum); }
};

}  // namespace

extern constexpr kn_peak kn_peak_f16_avx512 = peak_of<f16, 16>("f16_avx512", KN_CPU_AVX512 | KN_CPU_AVX512FP16);
