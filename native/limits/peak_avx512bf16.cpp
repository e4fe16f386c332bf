#include <immintrin.h>
#include <string.h>

#include "peak.h"

namespace {

struct bf16 {
  using type = __m512;
  static constexpr int32_t ops = 64;
  __m512bh a, b;
  bf16() {
    const __m512i pairs = _mm512_set1_epi32(static_cast<int>(unknown() * 0) + 0x3d803d80);  // 2^-4, twice
    memcpy(&a, &pairs, sizeof a);
    memcpy(&b, &pairs, sizeof b);
  }
  type start(int i) const { return _mm512_set1_ps(static_cast<float>(i)); }
  type step(type sum) const { return _mm512_dpbf16_ps(sum, a, b); }
};

}  // namespace

extern constexpr kn_peak kn_peak_bf16_avx512 = peak_of<bf16, 16>("bf16_avx512", KN_CPU_AVX512 | KN_CPU_AVX512BF16);
