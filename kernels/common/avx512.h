// AVX-512 device helpers. Everything is static: no two files compiled with different flags may share an inline
// function.
#pragma once
#include <immintrin.h>
#include <kn.h>
#include <string.h>

namespace kn {
namespace {

inline __m512 widen_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }

// Round to nearest even; NaN stays NaN (quieted), since adding the rounding bias could turn it into infinity.
inline __m256i narrow_bf16(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
}

// Up to 16 consecutive elements of a kn_dtype as f32; lanes outside the mask are not touched in memory and read as 0.
inline __m512 load(int32_t type, const void* base, int64_t index, __mmask16 mask) {
  if (type == KN_F32) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(base) + index);
  const __m256i v = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(base) + index);
  return type == KN_BF16 ? widen_bf16(v) : _mm512_cvtph_ps(v);
}

inline void store(int32_t type, void* base, int64_t index, __mmask16 mask, __m512 v) {
  if (type == KN_F32) {
    _mm512_mask_storeu_ps(static_cast<float*>(base) + index, mask, v);
    return;
  }
  const __m256i h =
      type == KN_BF16 ? narrow_bf16(v) : _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_mask_storeu_epi16(static_cast<uint16_t*>(base) + index, mask, h);
}

// 32 bits from an address of any alignment in every lane: one vpbroadcastd.
inline __m512i broadcast_dword(const void* p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return _mm512_set1_epi32(v);
}

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : static_cast<__mmask16>((1u << count) - 1);
}

// Zen 5 waits for the old destination of a zero-masked vpexpand too. Cleared first, which renaming does for nothing,
// several are under way at once.
inline __m512i cleared() {
  __m512i zero = _mm512_setzero_si512();
#if defined(__GNUC__)
  __asm__("" : "+v"(zero));  // or the compiler would see zero-masking in it
#endif
  return zero;
}

// e^x within 2 ulp. Cody-Waite reduction by ln 2 in two parts, then the Taylor polynomial of degree 7 on |r| <= ln2/2,
// whose remainder is 2^-28. min and max take their second operand when one is NaN, so NaN passes through.
inline __m512 exp(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_min_ps(_mm512_set1_ps(89.0f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// erfc(z) for z >= 0 as t exp(-z^2 + p(t)), t = 1/(1 + z/2): p is a Chebyshev fit of degree 9 on t in [1/6, 1] made for
// this file, relative error 8.3e-8 in exact arithmetic.
inline __m512 erfc_positive(__m512 z) {
  const float c[10] = {-1.265447974205017f,    0.9986327886581421f,   0.38664039969444275f, 0.03460279852151871f,
                       0.0012675861362367868f, -0.08028043061494827f, -0.6962519288063049f, 1.156733751296997f,
                       -0.6808272004127502f,   0.14493021368980408f};
  const __m512 t = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(z, _mm512_set1_ps(0.5f), _mm512_set1_ps(1.0f)));
  __m512 p = _mm512_set1_ps(c[9]);
  for (int i = 8; i >= 0; i--) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(c[i]));
  return _mm512_mul_ps(t, exp(_mm512_fnmadd_ps(z, z, p)));
}

// x/2 erfc(-x/sqrt2), with erfc(-z) = 2 - erfc(z) where its argument is negative.
inline __m512 gelu_erf(__m512 x) {
  const __m512 z = _mm512_mul_ps(x, _mm512_set1_ps(-0.70710678f));
  const __m512 e = erfc_positive(_mm512_abs_ps(z));
  const __mmask16 negative = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 f = _mm512_mask_sub_ps(e, negative, _mm512_set1_ps(2.0f), e);
  return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), f);
}

// x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): no cancellation for negative x.
inline __m512 gelu_tanh(__m512 x) {
  const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));
  const __m512 two_u = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.59576912f)), cubic);
  return _mm512_mul_ps(x, sigmoid(two_u));
}

}  // namespace
}  // namespace kn
