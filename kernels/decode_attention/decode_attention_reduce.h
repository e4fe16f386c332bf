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

constexpr int64_t kStep = 32;  // elements of 16 bits in a vector

inline __mmask32 first_words(int64_t count) { return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1; }

// Rows of sums whose elements come in pairs of tokens, interleaved within lanes of 128 bits: the sums of 32 elements
// are those of 0-3 of every 8, then of 4-7.
struct paired_rows {
  static constexpr int kWidth = kStep;
  static __mmask32 mask(int64_t left) { return first_words(left); }
  static int64_t out_row(const kn_decode_attention_problem& p) { return round_up(p.v_head_dim, kStep); }

  static void order(float* sums, int64_t out_row) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    for (int64_t d = 0; d < out_row; d += kStep) {
      const __m512 low = _mm512_load_ps(sums + d), high = _mm512_load_ps(sums + d + 16);
      _mm512_store_ps(sums + d, _mm512_permutex2var_ps(low, first, high));
      _mm512_store_ps(sums + d + 16, _mm512_permutex2var_ps(low, second, high));
    }
  }
};

inline KN_INLINE __m512 sum_of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
inline KN_INLINE __m512i sum_of(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }

// Lane i becomes the sum of the lanes of v[i], floats or integers.
template <class T>
inline KN_INLINE T sum_each(const T (&v)[16]) {
  const auto bits = [](T x) KN_INLINE { return reinterpret_cast<__m512>(x); };
  const auto sum = [](__m512 x, __m512 y) KN_INLINE {
    return reinterpret_cast<__m512>(sum_of(reinterpret_cast<T>(x), reinterpret_cast<T>(y)));
  };
  __m512 a[8], b[4], c[2];
  each<8>([&](auto i) KN_INLINE {
    const __m512 x = bits(v[2 * i]), y = bits(v[2 * i + 1]);
    a[i] = sum(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  });
  each<4>([&](auto i) KN_INLINE {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = sum(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  });
  each<2>([&](auto i) KN_INLINE {
    c[i] = sum(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
  });
  return reinterpret_cast<T>(sum(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd)));
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
