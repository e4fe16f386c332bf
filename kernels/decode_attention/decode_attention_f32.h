// The engine that multiplies in f32 whatever the cache holds. A few rows pass over the keys together: for scores, up to
// 16 sums over head_dim at a time end as the lanes of a vector; for values, lanes are v_head_dim. Everything is static,
// see avx512.h.
#pragma once
#include "decode_attention_attend.h"
#include "decode_attention_reduce.h"

namespace kn::decode_attention {
namespace {

// The elements of the cache that the mask has, as f32. kLargestWidth: see with_width; code of rare types is worth less
// of it. kUnit: what 1 of these is worth. kConverts: see decode_attention_attend.h.
struct as_stored {
  static constexpr float kUnit = 1;
  static constexpr bool kConverts = false;
};

struct from_f32 : as_stored {
  static constexpr int kLargestWidth = 256;
  static constexpr int64_t kBytes = 4;
  static __m512 at(const char* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
};

struct from_bf16 : as_stored {
  static constexpr int kLargestWidth = 256;
  static constexpr int64_t kBytes = 2;
  static __m512 at(const char* p, __mmask16 mask) { return widen_bf16(_mm256_maskz_loadu_epi16(mask, p)); }
};

struct from_f16 : as_stored {
  static constexpr int kLargestWidth = 256;
  static constexpr int64_t kBytes = 2;
  static __m512 at(const char* p, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)); }
};

struct from_s8 : as_stored {
  static constexpr bool kConverts = true;
  static constexpr int kLargestWidth = 0;
  static constexpr int64_t kBytes = 1;
  static __m512 widen(__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v)); }
  static __m512 at(const char* p, __mmask16 mask) { return widen(_mm_maskz_loadu_epi8(mask, p)); }
};

// Exponent and mantissa of e4m3 at their places in f16 are the value over 2^8, subnormals too.
struct from_e4m3 {
  static constexpr float kUnit = 256;
  static constexpr bool kConverts = true;
  static constexpr int kLargestWidth = 128;
  static constexpr int64_t kBytes = 1;
  static __m512 widen(__m128i v) {
    const __m256i w = _mm256_cvtepi8_epi16(v);  // the sign is above and in the highest bit of the exponent
    const __m256i half = _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16(static_cast<int16_t>(0xbfff)));
    const __m256i nan = _mm256_set1_epi16(0x7f);
    const __mmask16 is_nan = _mm256_cmpeq_epi16_mask(_mm256_and_si256(w, nan), nan);
    return _mm512_cvtph_ps(_mm256_mask_mov_epi16(half, is_nan, _mm256_set1_epi16(0x7e00)));
  }
  static __m512 at(const char* p, __mmask16 mask) { return widen(_mm_maskz_loadu_epi8(mask, p)); }
};

// Width: elements of a cache that are read at a time.
template <class From, int Width = 16>
struct f32_engine {
  static constexpr bool kRounds = false;
  static constexpr int64_t kPacked = 1, kPair = 1;
  static constexpr float kUnit = From::kUnit;
  static constexpr bool kByLanes = true, kConverts = From::kConverts;
  using key_steps = steps<4, 16>;
  using value_steps = steps<4, 16>;
  static int64_t out_row(const kn_decode_attention_problem& p) { return round_up(p.v_head_dim, Width); }
  static void order(float* sums, int64_t out_row) {
    for (int64_t d = 0; kUnit != 1 && d < out_row; d += 16)
      _mm512_store_ps(sums + d, _mm512_mul_ps(_mm512_load_ps(sums + d), _mm512_set1_ps(kUnit)));
  }
  static constexpr int kWidth = Width;
  static constexpr int64_t kBytes = From::kBytes;
  static constexpr bool kAsStored = kBytes == 4;
  static constexpr int kLargestWidth = From::kLargestWidth;
  static constexpr int64_t q_bytes(int64_t head_dim) { return round_up(head_dim, Width) * 4; }

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t) {
    out += i * q_bytes(p.head_dim);
    for (int64_t d = 0; d < round_up(p.head_dim, Width); d += 16)
      _mm512_store_ps(out + d * 4, load(p.q_type, q, d, first_lanes(larger(0, p.head_dim - d))));
  }

  static KN_INLINE __m512 put(float* weights, const vectors& p) {
    each_vector([&](auto i) KN_INLINE { _mm512_store_ps(weights + 16 * i, p[i]); });
    return _mm512_setzero_ps();
  }

  // q is padded with zeros; what follows the last element of a key is another one's.
  static __mmask16 mask(int64_t left) { return first_lanes(left); }
  static __m512 zero() { return _mm512_setzero_ps(); }
  static __m512 q_at(const char* row, int64_t d) { return _mm512_load_ps(row + d * 4); }
  static __m512 key_at(const char* p, __mmask16 mask) { return From::at(p, mask); }
  static __m512 dot(__m512 sum, __m512 q, __m512 k) { return _mm512_fmadd_ps(q, k, sum); }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void scores(const multiplication& m) {
    store_scores<R, T>(products<f32_engine, R, T, F, D>(m), m.scores + m.slot);
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    const int64_t out_row = D > 0 ? D : m.out_row;
    float* const sums = m.sums;
    const char* at[T];
    __m512 p[R * T];
    each<T>([&](auto t) KN_INLINE {
      at[t] = moved(m.at[t], m.offset);
      each<R>([&](auto r) KN_INLINE { p[r * T + t] = _mm512_set1_ps(m.scores[r * kChunk + m.slot + t]); });
    });
    const auto add = [&](int64_t d, int64_t left) KN_INLINE {
      const __mmask16 mask = first_lanes(left);
      fetch<F, T>(m, d * From::kBytes);
      __m512 sum[R];
      each<R>([&](auto r) KN_INLINE { sum[r] = _mm512_load_ps(sums + r * out_row + d); });
      each<T>([&](auto t) KN_INLINE {
        const __m512 v = From::at(at[t] + d * From::kBytes, mask);
        each<R>([&](auto r) KN_INLINE { sum[r] = _mm512_fmadd_ps(p[r * T + t], v, sum[r]); });
      });
      each<R>([&](auto r) KN_INLINE { _mm512_store_ps(sums + r * out_row + d, sum[r]); });
    };
    // Steps that share what they fetch are no faster for it.
    if constexpr (D > 0 && fetches_all(F))
      each<D / 16>([&](auto i) KN_INLINE { add(i * 16, 16); });
    else
      over<D, 16>(m.problem->v_head_dim, add);
  }
};

}  // namespace
}  // namespace kn::decode_attention
