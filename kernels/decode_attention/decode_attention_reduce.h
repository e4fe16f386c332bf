// 16 sums along vectors at once. Everything is static, see avx512.h.
#pragma once
#include <immintrin.h>
#include <unroll.h>

#include "decode_attention_tokens.h"

#define KN_INLINE __attribute__((always_inline))

namespace kn::decode_attention {
namespace {

// Calls f(d, elements that are left) for every Step of a width: D where the compiler knows it, so that no vector of it
// is masked, or 0.
template <int D, int Step, class F>
inline KN_INLINE void over(int64_t width, F f) {
  if constexpr (D > 0) {
    static_assert(D % Step == 0);
    for (int64_t d = 0; d < D; d += Step) f(d, int64_t{Step});
  } else {
    for (int64_t d = 0; d < width; d += Step) f(d, width - d);
  }
}

// Lane i becomes the sum of the lanes of v[i].
inline KN_INLINE __m512 sum_each(const __m512 (&v)[16]) {
  __m512 a[8], b[4], c[2];
  each<8>([&](auto i) KN_INLINE {
    a[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  });
  each<4>([&](auto i) KN_INLINE {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  });
  each<2>([&](auto i) KN_INLINE {
    c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                         _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
  });
  return _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// Lanes [R][16 / R] to R rows of scores.
template <int R>
inline KN_INLINE void store_scores(__m512 each, float* scores) {
  if constexpr (R == 1) _mm512_storeu_ps(scores, each);
  if constexpr (R == 2) {
    _mm256_storeu_ps(scores, _mm512_castps512_ps256(each));
    _mm256_storeu_ps(scores + kChunk, _mm512_extractf32x8_ps(each, 1));
  }
  if constexpr (R == 4) {
    _mm_storeu_ps(scores, _mm512_castps512_ps128(each));
    _mm_storeu_ps(scores + kChunk, _mm512_extractf32x4_ps(each, 1));
    _mm_storeu_ps(scores + 2 * kChunk, _mm512_extractf32x4_ps(each, 2));
    _mm_storeu_ps(scores + 3 * kChunk, _mm512_extractf32x4_ps(each, 3));
  }
}

}  // namespace
}  // namespace kn::decode_attention
