// The row for machines with AVX-512: everything is multiplied in f32. A few rows pass over the keys together: for
// scores, 16 sums over head_dim at a time end as the 16 lanes of a vector; for values, lanes are v_head_dim.
#include "decode_attention_rows.h"

namespace kn::decode_attention {
namespace {

// 16 elements of the cache as f32, or those of the mask and 0.
struct from_f32 {
  static constexpr int64_t kBytes = 4;
  static __m512 at(const char* p) { return _mm512_loadu_ps(p); }
  static __m512 at(const char* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
};

struct from_bf16 {
  static constexpr int64_t kBytes = 2;
  static __m512 at(const char* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m512 at(const char* p, __mmask16 mask) { return widen_bf16(_mm256_maskz_loadu_epi16(mask, p)); }
};

struct from_f16 {
  static constexpr int64_t kBytes = 2;
  static __m512 at(const char* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m512 at(const char* p, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)); }
};

struct from_s8 {
  static constexpr int64_t kBytes = 1;
  static __m512 widen(__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v)); }
  static __m512 at(const char* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static __m512 at(const char* p, __mmask16 mask) { return widen(_mm_maskz_loadu_epi8(mask, p)); }
};

// Exponent and mantissa of e4m3 at their places in f16 are the value over 2^8, subnormals too.
struct from_e4m3 {
  static constexpr int64_t kBytes = 1;
  static __m512 widen(__m128i v) {
    const __m256i w = _mm256_cvtepu8_epi16(v);
    const __m256i magnitude = _mm256_and_si256(w, _mm256_set1_epi16(0x7f));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(w, _mm256_set1_epi16(0x80)), 8);
    const __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7e00))),
                         _mm512_set1_ps(256.0f));
  }
  static __m512 at(const char* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static __m512 at(const char* p, __mmask16 mask) { return widen(_mm_maskz_loadu_epi8(mask, p)); }
};

// Lane i becomes the sum of the lanes of v[i].
inline __m512 sum_each(const __m512 (&v)[16]) {
  __m512 a[8], b[4], c[2];
  for (int i = 0; i < 8; i++)
    a[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  for (int i = 0; i < 4; i++) {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  for (int i = 0; i < 2; i++)
    c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                         _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

template <class From, int R>
void score_rows(const multiplication& m, int64_t row) {
  constexpr int T = 16 / R;  // tokens at a time
  const int64_t dim = m.problem->head_dim, whole = dim / 16 * 16;
  const char* q = m.q + row * m.q_row;
  const int64_t q_row = m.q_row, line = row == 0 ? dim * From::kBytes : 0;
  float* s = m.scores + row * kChunk;
  for (int64_t i = 0; i < m.count; i += T) {
    for (int t = 0; t < T; t++)
      for (int64_t b = 0; b < line; b += 64) _mm_prefetch(m.next[i + t] + m.next_offset + b, _MM_HINT_T1);
    const char* const* at = m.at + i;
    __m512 sum[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) sum[j] = _mm512_setzero_ps();
    for (int64_t d = 0; d < whole; d += 16) {
      __m512 a[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) a[r] = _mm512_load_ps(q + r * q_row + d * 4);
#pragma GCC unroll 16
      for (int t = 0; t < T; t++) {
        const __m512 k = From::at(at[t] + d * From::kBytes);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[r * T + t] = _mm512_fmadd_ps(a[r], k, sum[r * T + t]);
      }
    }
    if (whole < dim) {
#pragma GCC unroll 16
      for (int t = 0; t < T; t++) {
        const __m512 k = From::at(at[t] + whole * From::kBytes, 0xff);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
          sum[r * T + t] = _mm512_fmadd_ps(_mm512_load_ps(q + r * q_row + whole * 4), k, sum[r * T + t]);
      }
    }
    const __m512 each = sum_each(sum);
    if constexpr (R == 1) _mm512_store_ps(s + i, each);
    if constexpr (R == 2) {
      _mm256_store_ps(s + i, _mm512_castps512_ps256(each));
      _mm256_store_ps(s + kChunk + i, _mm512_extractf32x8_ps(each, 1));
    }
    if constexpr (R == 4) {
      _mm_store_ps(s + i, _mm512_castps512_ps128(each));
      _mm_store_ps(s + kChunk + i, _mm512_extractf32x4_ps(each, 1));
      _mm_store_ps(s + 2 * kChunk + i, _mm512_extractf32x4_ps(each, 2));
      _mm_store_ps(s + 3 * kChunk + i, _mm512_extractf32x4_ps(each, 3));
    }
  }
}

// N vectors of values from element d0 on; the last one has the lanes of the mask.
template <class From, int R, int N>
void add_columns(const multiplication& m, int64_t row, int64_t d0, __mmask16 mask) {
  const float* p = reinterpret_cast<const float*>(m.weights) + row * kChunk;
  float* out = m.sums + row * m.out_row + d0;
  const int64_t out_row = m.out_row, count = m.count, fetch = row == 0 ? N * 16 * From::kBytes : 0;
  __m512 sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sum[r][n] = _mm512_load_ps(out + r * out_row + n * 16);
  for (int64_t i = 0; i < count; i++) {
    for (int64_t b = 0; b < fetch; b += 64)
      _mm_prefetch(m.next[i] + m.next_offset + d0 * From::kBytes + b, _MM_HINT_T1);
    const char* at = m.at[i] + d0 * From::kBytes;
    __m512 v[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) v[n] = N > 1 ? From::at(at + n * 16 * From::kBytes) : From::at(at, mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512 w = _mm512_set1_ps(p[r * kChunk + i]);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) sum[r][n] = _mm512_fmadd_ps(w, v[n], sum[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) _mm512_store_ps(out + r * out_row + n * 16, sum[r][n]);
}

template <class From, int R>
void add_rows(const multiplication& m, int64_t row) {
  const int64_t dim = m.problem->v_head_dim;
  int64_t d = 0;
  if constexpr (R <= 2)
    for (; d + 128 <= dim; d += 128) add_columns<From, R, 8>(m, row, d, 0xffff);
  for (; d + 64 <= dim; d += 64) add_columns<From, R, 4>(m, row, d, 0xffff);
  for (; d + 32 <= dim; d += 32) add_columns<From, R, 2>(m, row, d, 0xffff);
  for (; d < dim; d += 16) add_columns<From, R, 1>(m, row, d, first_lanes(dim - d));
}

// Calls f.template operator()<R>(row) for runs of 4, 2 and 1 rows.
template <class F>
void by_rows(int64_t rows, F f) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) f.template operator()<4>(row);
  if (row + 2 <= rows) f.template operator()<2>(row), row += 2;
  if (row < rows) f.template operator()<1>(row);
}

template <class From>
struct f32_engine {
  static constexpr bool kRounds = false;
  static int64_t q_row(const kn_decode_attention_problem& p) { return lanes(p.head_dim) * 4; }

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out) {
    for (int64_t d = 0; d < p.head_dim; d += 16)
      _mm512_store_ps(out + d * 4, load(p.q_type, q, d, first_lanes(p.head_dim - d)));
  }

  static __m512 put(char* weights, int64_t i, __m512 p) {
    _mm512_store_ps(reinterpret_cast<float*>(weights) + i, p);
    return p;
  }

  static void scores(const multiplication& m) {
    by_rows(m.rows, [&]<int R>(int64_t row) { score_rows<From, R>(m, row); });
  }
  static void add_values(const multiplication& m) {
    by_rows(m.rows, [&]<int R>(int64_t row) { add_rows<From, R>(m, row); });
  }
};

struct avx512 {
  static bool takes(const kn_decode_attention_problem&, const char**) { return true; }

  template <class F>
  static void with_engine(const kn_decode_attention_problem& p, F f) {
    switch (p.kv_type) {
      case KN_BF16:
        return f.template operator()<f32_engine<from_bf16>>();
      case KN_F16:
        return f.template operator()<f32_engine<from_f16>>();
      case KN_S8:
        return f.template operator()<f32_engine<from_s8>>();
      case KN_E4M3:
        return f.template operator()<f32_engine<from_e4m3>>();
      default:
        return f.template operator()<f32_engine<from_f32>>();
    }
  }
};

}  // namespace
}  // namespace kn::decode_attention

extern "C" const kn_row decode_attention_avx512 =
    kn::decode_attention::row_of<kn::decode_attention::avx512>::row("decode_attention/avx512", "avx512", KN_CPU_AVX512);
