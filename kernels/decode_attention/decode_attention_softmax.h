// From scores to weights: the exponents of 2, their reference, and the sums of a row.
#pragma once
#include <avx512.h>

#include "decode_attention_call.h"
#include "decode_attention_reduce.h"

namespace kn::decode_attention {
namespace {

// 2^x within 2 ulp: a polynomial of degree 6 on [-1/2, 1/2], interpolated at the Chebyshev points (2.6e-9). What would
// be less than the least normal number is 0, as is what is not seen; NaN stays.
inline __m512 exp2(__mmask16 seen, __m512 x) {
  seen = _mm512_mask_cmp_ps_mask(seen, x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  const __m512 n = _mm512_roundscale_ps(x, 8), r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.546144469856913e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3400428177615838e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.618056678524637e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550327226670302e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022650922288757e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931472067028326e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(seen, p, n);
}

// tanh |y| = -e / (2 + e), e = exp(-2|y|) - 1 = 2^n (exp(r) - 1) + 2^n - 1: no cancellation where y is small.
inline __m512 tanh(__m512 y) {
  const __m512 u = _mm512_max_ps(_mm512_set1_ps(-40.0f), _mm512_mul_ps(_mm512_abs_ps(y), _mm512_set1_ps(-2.0f)));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(u, _mm512_set1_ps(kLog2e)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), u);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r);
  const __m512 power = _mm512_scalef_ps(_mm512_set1_ps(1.0f), n);
  const __m512 e = _mm512_fmadd_ps(power, p, _mm512_sub_ps(power, _mm512_set1_ps(1.0f)));
  const __m512 t = _mm512_div_ps(_mm512_abs_ps(e), _mm512_add_ps(e, _mm512_set1_ps(2.0f)));
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(t, _mm512_and_ps(y, sign));
}

// The scores of a row and chunk, later its weights.
using vectors = __m512[kChunk / 16];

template <class F>
inline KN_INLINE void each_vector(F f) {
  each<kChunk / 16>(f);
}

// Scores to exponents, where there is more to it than a factor. `position` and `slope2` are of the row.
inline KN_INLINE void rescore(const call& c, const marks& keys, int64_t position, float slope2, vectors& x) {
  const int32_t flags = c.problem->flags;
  if (flags & KN_ATTN_SCALES)
    each_vector([&](auto i) KN_INLINE { x[i] = _mm512_mul_ps(x[i], _mm512_load_ps(keys.k_scale + 16 * i)); });
  if (c.cap2 > 0)
    each_vector([&](auto i) KN_INLINE {
      x[i] = _mm512_mul_ps(tanh(_mm512_mul_ps(x[i], _mm512_set1_ps(c.cap_in))), _mm512_set1_ps(c.cap2));
    });
  else
    each_vector([&](auto i) KN_INLINE { x[i] = _mm512_mul_ps(x[i], _mm512_set1_ps(c.scale2)); });
  if (flags & KN_ATTN_ALIBI)
    each_vector([&](auto i) KN_INLINE {
      const __m512i away = _mm512_sub_epi32(_mm512_load_si512(keys.position + 16 * i),
                                            _mm512_set1_epi32(static_cast<int32_t>(position)));
      x[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(away), _mm512_set1_ps(slope2), x[i]);
    });
}

// The running reference of one row: renewed when the largest exponent passes it by more than the threshold (0: sync),
// and the sums with it. Weights reach 2^threshold, far from the limits of f32 and bf16. seen(i): a mask.
constexpr float kLazy = 16.0f;

template <class Seen>
inline KN_INLINE void renew(float threshold, float factor, const vectors& x, Seen seen, float* reference, float* total,
                            float* rounded, float* sums, int64_t width) {
  __m512 top = _mm512_set1_ps(-__builtin_inff());
  each_vector([&](auto i) KN_INLINE { top = _mm512_mask_max_ps(top, seen(i), top, x[i]); });
  const float most = _mm512_reduce_max_ps(top) * factor;
  if (!(most > *reference + threshold)) return;
  const __m512 scale = exp2(0xffff, _mm512_set1_ps(*reference - most));
  *reference = most;
  _mm512_store_ps(total, _mm512_mul_ps(_mm512_load_ps(total), scale));
  _mm512_store_ps(rounded, _mm512_mul_ps(_mm512_load_ps(rounded), scale));
  for (int64_t d = 0; d < width; d += 16) _mm512_store_ps(sums + d, _mm512_mul_ps(_mm512_load_ps(sums + d), scale));
}

inline KN_INLINE __m512 sum_of(const vectors& x) {
  return _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
}

// Scores of one row become weights 2^(factor s - reference), for the engine to put where it multiplies them, values'
// scales included; what it rounded is summed without them, as the denominator is.
template <class Engine, class Seen>
inline KN_INLINE void weigh(float factor, float reference, vectors& x, Seen seen, const float* v_scale, float* total,
                            float* rounded, float* weights) {
  if (reference == -__builtin_inff()) reference = 0;  // every exponent so far is -infinity
  each_vector([&](auto i) KN_INLINE {
    x[i] = exp2(seen(i), _mm512_fmsub_ps(x[i], _mm512_set1_ps(factor), _mm512_set1_ps(reference)));
  });
  _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), sum_of(x)));
  __m512 stored;
  if (v_scale == nullptr) {
    stored = Engine::put(weights, x);
  } else {
    vectors scaled;
    each_vector([&](auto i) KN_INLINE { scaled[i] = _mm512_mul_ps(x[i], _mm512_load_ps(v_scale + 16 * i)); });
    stored = Engine::put(weights, scaled);
    if constexpr (Engine::kRounds) {
      // A scale that flushes its weight to 0 takes nothing from the others.
      each_vector([&](auto i) KN_INLINE {
        const __m512 one = Engine::weight_at(weights, i);
        const __mmask16 there = _mm512_cmp_ps_mask(one, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        x[i] = _mm512_mask_div_ps(x[i], there, one, _mm512_load_ps(v_scale + 16 * i));
      });
      stored = sum_of(x);
    }
  }
  if (Engine::kRounds) _mm512_store_ps(rounded, _mm512_add_ps(_mm512_load_ps(rounded), stored));
}

}  // namespace
}  // namespace kn::decode_attention
