// Up to 16 sums along vectors at once. Everything is static, see avx512.h.
#pragma once
#include <immintrin.h>
#include <unroll.h>

#include "decode_attention_tokens.h"

// Instrumented, a function of every width, number of rows and way of fetching takes many minutes to compile.
// .ci/symbols defines KN_INLINE as nothing.
#if defined(__SANITIZE_ADDRESS__)
#define KN_INSTRUMENTED true
#define KN_INLINE
#else
#define KN_INSTRUMENTED false
#endif
#if !defined(KN_INLINE)
#define KN_INLINE __attribute__((always_inline))
#endif

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
  static constexpr float kUnit = 1;
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

// Lane i becomes the sum of the lanes of v[i], floats or integers; N is 4, 8 or 16, and lanes from N on repeat others.
// The order of the additions is the same for any N.
template <int N, class T>
inline KN_INLINE T sum_each(const T (&v)[N]) {
  const auto bits = [](T x) KN_INLINE { return reinterpret_cast<__m512>(x); };
  const auto sum = [](__m512 x, __m512 y) KN_INLINE {
    return reinterpret_cast<__m512>(sum_of(reinterpret_cast<T>(x), reinterpret_cast<T>(y)));
  };
  const auto halves = [&](__m512 x, __m512 y)
                          KN_INLINE { return sum(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd)); };
  __m512 a[N / 2], b[N / 4];
  each<N / 2>([&](auto i) KN_INLINE {
    const __m512 x = bits(v[2 * i]), y = bits(v[2 * i + 1]);
    a[i] = sum(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  });
  each<N / 4>([&](auto i) KN_INLINE {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = sum(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  });
  const __m512 first = halves(b[0], b[N / 4 > 1 ? 1 : 0]);
  if constexpr (N == 16) return reinterpret_cast<T>(halves(first, halves(b[2], b[3])));
  return reinterpret_cast<T>(halves(first, first));
}

// 16 x 16: v[i][j] to v[j][i].
inline KN_INLINE void transpose(__m512 (&v)[16]) {
  __m512 a[16];
  each<8>([&](auto i) KN_INLINE {
    a[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  });
  each<8>([&](auto i) KN_INLINE {
    constexpr int at = i / 2 * 4 + i % 2;
    const __m512d x = _mm512_castps_pd(a[at]), y = _mm512_castps_pd(a[at + 2]);
    v[i / 2 * 4 + i % 2 * 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
    v[i / 2 * 4 + i % 2 * 2 + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  });
  // Now v[4 a + c] has column 4 l + c of rows 4 a to 4 a + 3 in its lane l of 128 bits.
  each<8>([&](auto i) KN_INLINE {
    constexpr int at = i / 4 * 8 + i % 4;
    a[at] = _mm512_shuffle_f32x4(v[at], v[at + 4], 0x88);
    a[at + 4] = _mm512_shuffle_f32x4(v[at], v[at + 4], 0xdd);
  });
  each<8>([&](auto i) KN_INLINE {
    v[i] = _mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
  });
}

// Lanes [R][T] to R rows of scores.
template <int R, int T>
inline KN_INLINE void store_scores(__m512 lanes, float* scores) {
  if constexpr (T == 16) _mm512_storeu_ps(scores, lanes);
  if constexpr (T == 8)
    each<R>([&](auto r) KN_INLINE {
      _mm256_storeu_ps(scores + r * kChunk, _mm512_extractf32x8_ps(lanes, decltype(r)::value));
    });
  if constexpr (T == 4)
    each<R>([&](auto r)
                KN_INLINE { _mm_storeu_ps(scores + r * kChunk, _mm512_extractf32x4_ps(lanes, decltype(r)::value)); });
}

}  // namespace
}  // namespace kn::decode_attention
