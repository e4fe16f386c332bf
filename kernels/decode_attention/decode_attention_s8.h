// The engine of an s8 cache, in integers: converting s8 to floats costs more instructions than multiplying it. A row of
// q is 16 bits in fixed point of its largest element, weights are 16 bits in fixed point of the largest of the chunk,
// and vpdpwssd adds two exact products to sums of 32 bits, which no chunk overflows. Needs VNNI alone. Everything is
// static, see avx512.h.
#pragma once
#include "decode_attention_attend.h"

namespace kn::decode_attention {
namespace {

struct s8_engine : paired_rows {
  static constexpr int kLargestWidth = 256;
  static constexpr int64_t kBytes = 1;
  static constexpr bool kRounds = false;
  static constexpr int64_t kPacked = 4;
  static constexpr bool kAsStored = true, kByLanes = false;
  struct key_steps {
    static constexpr int kMost = 8;
    static constexpr bool kSame = false;
    static constexpr int few(int) { return kRuns; }
    static constexpr int many(int rows) { return rows == 8 ? kRuns : rows == 1 ? 4 * kRuns : 2 * kRuns; }
    static constexpr int together(int) { return kRuns; }
  };
  // The same for any number of rows: where integers become floats is part of the result.
  struct value_steps {
    static constexpr int kMost = 8;
    static constexpr bool kSame = true;
    static constexpr int few(int) { return 2 * kRuns; }
    static constexpr int many(int) { return 4 * kRuns; }
    static constexpr int together(int) { return 4 * kRuns; }
  };

  // |q . k| <= head_dim 2^15 2^7 < 2^31.
  static bool takes(const kn_decode_attention_problem& p) { return p.head_dim < 512; }

  // q is packed by four rows, what is left by one: what a row's sums are off by and what a unit is worth, a vector
  // each, and then, for every 64 bytes of the rows' first digits, those and the second ones.
  static constexpr int64_t kHeader = 128;
  static constexpr int64_t q_bytes(int64_t head_dim) { return kHeader + round_up(head_dim, 64) * 2; }

  // The largest |x|, as bits: infinity and NaN are larger than any number.
  static __m512i larger_of(__m512i top, __m512 x) {
    return _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
  }

  // The largest of the lanes, in each of them.
  static __m512i largest_of(__m512i x) {
    x = _mm512_max_epu32(x, _mm512_shuffle_i32x4(x, x, 0x4e));
    x = _mm512_max_epu32(x, _mm512_shuffle_i32x4(x, x, 0xb1));
    x = _mm512_max_epu32(x, _mm512_shuffle_epi32(x, _MM_PERM_BADC));
    return _mm512_max_epu32(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
  }

  static __mmask16 finite(__m512i bits) { return _mm512_cmplt_epu32_mask(bits, _mm512_set1_epi32(0x7f800000)); }

  // To the nearest of 2^exponent.
  static __m512i fixed(__m512 x, __m512 exponent) {
    return _mm512_cvtps_epi32(_mm512_scalef_ps(x, _mm512_sub_ps(_mm512_setzero_ps(), exponent)));
  }

  // The exponent of a unit such that 2^15 units, or `room` parts of 2^23 less, pass the largest value, and what a unit
  // is worth: NaN where the largest is infinite or NaN, which spoils whatever it multiplies.
  static __m512 unit_of(__m512i largest, int room, __m512* exponent) {
    const __m512i biased = _mm512_srli_epi32(_mm512_add_epi32(largest, _mm512_set1_epi32(room)), 23);
    *exponent = _mm512_cvtepi32_ps(_mm512_sub_epi32(biased, _mm512_set1_epi32(126 + 15)));
    return _mm512_mask_scalef_ps(_mm512_set1_ps(__builtin_nanf("")), finite(largest), _mm512_set1_ps(1.0f), *exponent);
  }

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t n) {
    const int64_t rows = i < n / kPacked * kPacked ? kPacked : 1, row = i % rows, width = 64 / rows;
    out += (i - row) * q_bytes(p.head_dim);
    __m512i largest = _mm512_setzero_si512(), sum = largest;
    for (int64_t d = 0; d < p.head_dim; d += 16)
      largest = larger_of(largest, load(p.q_type, q, d, first_lanes(p.head_dim - d)));
    largest = largest_of(largest);
    __m512 exponent;
    // The first digit of 32639.5 and more would be 128.
    const __m512 unit = unit_of(largest, 0x10100, &exponent);
    for (int64_t d = 0; d < round_up(p.head_dim, width); d += 16) {
      const __m512i x = fixed(load(p.q_type, q, d, first_lanes(larger(0, p.head_dim - d))), exponent);
      const __m512i first = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
      char* const to = out + kHeader + d / width * 128 + row * width + d % width;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(first));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 64), _mm512_cvtepi32_epi8(x));
      sum = _mm512_mask_add_epi32(sum, finite(largest), sum, x);  // else the unit spoils them anyway
    }
    const __mmask16 part = static_cast<__mmask16>(((1 << width / 4) - 1) << row * width / 4);
    _mm512_mask_storeu_epi32(out, part, _mm512_set1_epi32(128 * _mm512_reduce_add_epi32(sum)));
    _mm512_mask_storeu_ps(out + 64, part, unit);
  }

  // 64 / P elements of a key in each of P parts, and 128 more than they are. A mask would keep the compiler from a load
  // that broadcasts.
  template <int P>
  static KN_INLINE __m512i key_at(const char* p, int64_t left) {
    const __mmask64 mask = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    __m512i k;
    if constexpr (P == 1)
      k = _mm512_maskz_loadu_epi8(mask, p);
    else if (left >= 16)
      k = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    else
      k = _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), p));
    return _mm512_xor_si512(k, _mm512_set1_epi8(-128));
  }

  // Lanes [4][4]: the sums of each of the four parts of four vectors.
  static KN_INLINE __m512i sum_parts(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i x = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i y = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void scores(const multiplication& m) {
    constexpr int P = R >= 4 ? 4 : 1, G = R / P, kPart = 64 / P, kSlots = T < 8 / G ? T : 8 / G;
    const int64_t group = P * (D > 0 ? q_bytes(D) : m.q_row);
    __m512i sum[G][T];
    each<T / kSlots>([&](auto turn) KN_INLINE {
      constexpr int kFirst = decltype(turn)::value * kSlots;
      __m512i first[G * kSlots], second[G * kSlots];
      each<G * kSlots>([&](auto i) KN_INLINE { first[i] = second[i] = _mm512_setzero_si512(); });
      const auto add = [&](int64_t d, int64_t left) KN_INLINE {
        if (kFirst == 0) fetch<F, T>(m, d);
        const char* const digits = m.q + kHeader + d / kPart * 128;
        __m512i q[2 * G];
        each<2 * G>([&](auto i) KN_INLINE { q[i] = _mm512_load_si512(digits + i / 2 * group + i % 2 * 64); });
        each<kSlots>([&](auto t) KN_INLINE {
          const __m512i k = key_at<P>(moved(m.at[kFirst + t], m.offset + d), left);
          each<G>([&](auto g) KN_INLINE {
            constexpr int i = decltype(g)::value * kSlots + decltype(t)::value;
            first[i] = _mm512_dpbusd_epi32(first[i], k, q[2 * g]);
            second[i] = _mm512_dpbusd_epi32(second[i], k, q[2 * g + 1]);
          });
        });
      };
      if constexpr (D > 0)
        each<D / kPart>([&](auto i) KN_INLINE { add(i * kPart, kPart); });
      else
        over<0, kPart>(m.problem->head_dim, add);
      each<kSlots>([&](auto t) KN_INLINE {
        each<G>([&](auto g) KN_INLINE {
          constexpr int i = decltype(g)::value * kSlots + decltype(t)::value;
          sum[g][kFirst + t] = _mm512_add_epi32(_mm512_slli_epi32(first[i], 8), second[i]);
        });
      });
    });
    each<G>([&](auto g) KN_INLINE {
      const char* const header = m.q + g * group;
      float* const scores = m.scores + g * P * kChunk + m.slot;
      const auto finish = [&](__m512i x) KN_INLINE {
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(x, _mm512_load_si512(header))),
                             _mm512_load_ps(header + 64));
      };
      if constexpr (P == 1)
        store_scores<1, T>(finish(sum_each(sum[g])), scores);
      else
        each<T / 4>([&](auto i) KN_INLINE {
          const __m512i* const s = sum[g] + 4 * i;
          store_scores<4, 4>(finish(sum_parts(s[0], s[1], s[2], s[3])), scores + 4 * i);
        });
    });
  }

  static KN_INLINE __m512 put(float* weights, const vectors& p) {
    each_vector([&](auto i) KN_INLINE { _mm512_store_ps(weights + 16 * i, p[i]); });
    return _mm512_setzero_ps();
  }

  // The weights of a row and chunk to fixed point: 16 bits a slot, and after them what a unit is worth.
  static float* unit_at(float* weights) { return weights + kChunk / 2; }
  static KN_INLINE void hold(float* weights) {
    vectors p;
    __m512i largest = _mm512_setzero_si512();
    each_vector([&](auto i) KN_INLINE { p[i] = _mm512_load_ps(weights + 16 * i), largest = larger_of(largest, p[i]); });
    __m512 exponent;
    const __m512 unit = unit_of(largest_of(largest), 0, &exponent);
    each_vector([&](auto i) KN_INLINE {
      _mm256_store_si256(reinterpret_cast<__m256i*>(weights) + i, _mm512_cvtsepi32_epi16(fixed(p[i], exponent)));
    });
    *unit_at(weights) = _mm512_cvtss_f32(unit);
  }

  // 32 N columns from d on.
  template <int R, int T, int N, fetching F>
  static KN_INLINE void add_columns(const multiplication& m, int64_t out_row, int64_t d, int64_t left) {
    const __mmask32 mask = first_words(left);
    const auto* const weights = reinterpret_cast<const uint16_t*>(m.scores) + m.slot;
    __m512i low[R * N], high[R * N];
    each<R * N>([&](auto i) KN_INLINE { low[i] = high[i] = _mm512_setzero_si512(); });
    if constexpr (fetches_share(F)) each<N>([&](auto n) KN_INLINE { fetch<F, T>(m, d + 32 * n); });
    each<T / 2>([&](auto i) KN_INLINE {
      constexpr int t = 2 * decltype(i)::value;
      // Where steps do not share it, a token's lines with the token: they would wait for a burst of all.
      if constexpr (fetches_all(F)) each<N>([&](auto n) KN_INLINE { fetch<F, 2>(m, d + 32 * n, t); });
      __m512i first[N], second[N];
      each<N>([&](auto n) KN_INLINE {
        const int64_t offset = m.offset + d + 32 * n;
        const __m512i v0 = words_at(moved(m.at[t], offset), mask), v1 = words_at(moved(m.at[t + 1], offset), mask);
        first[n] = _mm512_unpacklo_epi16(v0, v1), second[n] = _mm512_unpackhi_epi16(v0, v1);
      });
      each<R>([&](auto r) KN_INLINE {
        const __m512i p = broadcast_dword(weights + r * kChunk * 2 + t);
        each<N>([&](auto n) KN_INLINE {
          low[r * N + n] = _mm512_dpwssd_epi32(low[r * N + n], p, first[n]);
          high[r * N + n] = _mm512_dpwssd_epi32(high[r * N + n], p, second[n]);
        });
      });
    });
    each<R>([&](auto r) KN_INLINE {
      const __m512 unit = _mm512_set1_ps(*unit_at(m.scores + r * kChunk));
      each<2 * N>([&](auto i) KN_INLINE {
        float* const sums = m.sums + r * out_row + d + 16 * i;
        const __m512i sum = i % 2 == 0 ? low[r * N + i / 2] : high[r * N + i / 2];
        _mm512_store_ps(sums, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), unit, _mm512_load_ps(sums)));
      });
    });
  }

  // As many columns at a time as leave 16 sums to registers: each waits four cycles for the one before. One row of a
  // width that is not known is faster without.
  template <int R, int T, fetching F, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    constexpr int N = R == 8 || (R == 1 && D == 0) ? 1 : R == 4 ? 2 : 4;
    static_assert(D % (32 * N) == 0);
    const int64_t out_row = D > 0 ? D : m.out_row, width = D > 0 ? D : m.problem->v_head_dim;
    int64_t d = 0;
    for (; d + 32 * N <= width; d += 32 * N) add_columns<R, T, N, F>(m, out_row, d, 32);
    if constexpr (D == 0)
      for (; d < width; d += 32) add_columns<R, T, 1, F>(m, out_row, d, width - d);
  }

  static __m512i words_at(const char* p, __mmask32 mask) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, p));
  }
};

}  // namespace
}  // namespace kn::decode_attention
