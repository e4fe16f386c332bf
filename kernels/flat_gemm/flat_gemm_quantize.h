// Quantisation of a row of x to s8, shared by the integer engines: their integers, and so their bits, must agree.
#pragma once
#include <avx512.h>
#include <float.h>

namespace kn::flat_gemm {
namespace {

// out = round_to_even(x * 127 / max|x|), *scale = its inverse; s8 input is copied. Zeros behind k up to `padded`, a
// multiple of 64. A row holding NaN or infinity gets the scale NaN, so that it spoils its own outputs and no others.
inline void quantize_row(int32_t type, const void* x, int64_t k, int8_t* out, int64_t padded, float* scale) {
  if (type == KN_S8) {
    if (k > 0) memcpy(out, x, static_cast<size_t>(k));
    if (padded > k) memset(out + k, 0, static_cast<size_t>(padded - k));
    return;
  }
  __m512 most = _mm512_setzero_ps(), poison = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i += 16) {
    const __m512 v = load(type, x, i, first_lanes(k - i));
    most = _mm512_max_ps(most, _mm512_abs_ps(v));
    poison = _mm512_fmadd_ps(v, _mm512_setzero_ps(), poison);  // 0, or NaN from NaN and infinity
  }
  const float peak = _mm512_reduce_max_ps(most), bad = _mm512_reduce_add_ps(poison);
  // 127 / peak overflows for a row of denormals; the largest float still keeps it exact enough to round.
  const float up = peak > 0.0f ? (127.0f / peak <= FLT_MAX ? 127.0f / peak : FLT_MAX) : 0.0f;
  *scale = bad != 0.0f || bad != bad ? bad : (up > 0.0f ? 1.0f / up : 0.0f);
  const __m512 inverse = _mm512_set1_ps(up);
  for (int64_t i = 0; i < padded; i += 16) {
    const __m512 v = load(type, x, i, first_lanes(k > i ? k - i : 0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse))));
  }
}

}  // namespace
}  // namespace kn::flat_gemm
