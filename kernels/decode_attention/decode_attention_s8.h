// The engine of an s8 cache, in integers: converting s8 to floats costs more instructions than multiplying it. A row of
// q is 16 bits in fixed point of its largest element, weights are 16 bits in fixed point of the largest of the chunk,
// and vpdpwssd adds two exact products to sums of 32 bits, which no chunk overflows. Needs VNNI alone. Everything is
// static, see avx512.h.
#pragma once
#include "decode_attention_attend.h"

namespace kn::decode_attention {
namespace {

struct s8_engine : paired_rows {
  static constexpr int64_t kBytes = 1;
  static constexpr bool kRounds = false;
  static constexpr bool kWide = true;
  // The same for any number of rows: where integers become floats is part of the result.
  struct value_steps {
    static constexpr int kMost = 8;
    static constexpr bool kSame = true;
    static constexpr int few(int) { return 2 * kRuns; }
    static constexpr int many(int) { return 4 * kRuns; }
    static constexpr int together(int) { return 4 * kRuns; }
  };
  static constexpr int64_t kHeader = 64;  // bytes before a row of q: what one unit of it is worth

  // |q . k| <= head_dim 2^15 2^7 < 2^31.
  static bool takes(const kn_decode_attention_problem& p) { return p.head_dim < 512; }

  static constexpr int64_t q_bytes(int64_t head_dim) { return kHeader + round_up(head_dim, kStep) * 2; }

  // The largest |x|, as bits: infinity and NaN are larger than any number.
  static __m512i larger_of(__m512i top, __m512 x) {
    return _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
  }

  static float as_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
  }

  // To the nearest of 2^exponent, 16 bits, saturated.
  static __m256i fixed(__m512 x, float exponent) {
    return _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_scalef_ps(x, _mm512_set1_ps(-exponent))));
  }

  // The exponent of a unit such that 2^15 units pass the largest value, and what a unit is worth: NaN where the largest
  // is infinite or NaN, which spoils whatever it multiplies.
  static float unit_of(uint32_t largest, float* exponent) {
    const int e = static_cast<int>(largest >> 23) - 126 - 15;
    *exponent = static_cast<float>(e);
    if (largest >= 0x7f800000u) return as_float(0x7fc00000u);
    return _mm512_cvtss_f32(_mm512_scalef_ps(_mm512_set1_ps(1.0f), _mm512_set1_ps(*exponent)));
  }

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t) {
    out += i * q_bytes(p.head_dim);
    __m512i top = _mm512_setzero_si512();
    for (int64_t d = 0; d < p.head_dim; d += 16)
      top = larger_of(top, load(p.q_type, q, d, first_lanes(p.head_dim - d)));
    float exponent;
    const float unit = unit_of(_mm512_reduce_max_epu32(top), &exponent);
    memcpy(out, &unit, sizeof unit);
    for (int64_t d = 0; d < round_up(p.head_dim, kStep); d += 16) {
      const __m512 x = load(p.q_type, q, d, first_lanes(larger(0, p.head_dim - d)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + kHeader + d * 2), fixed(x, exponent));
    }
  }

  static __m512i zero() { return _mm512_setzero_si512(); }
  static __m512i q_at(const char* row, int64_t d) { return _mm512_load_si512(row + kHeader + d * 2); }
  static __m512i key_at(const char* p, __mmask32 mask) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, p));
  }
  static __m512i dot(__m512i sum, __m512i q, __m512i k) { return _mm512_dpwssd_epi32(sum, q, k); }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void scores(const multiplication& m) {
    const int64_t q_row = D > 0 ? q_bytes(D) : m.q_row;
    const __m512i sums = products<s8_engine, R, T, F, D>(m);
    __m512 unit = _mm512_setzero_ps();
    each<R>([&](auto r) KN_INLINE {
      constexpr __mmask16 lanes = static_cast<__mmask16>(((1u << T) - 1) << (r * T));
      unit = _mm512_mask_mov_ps(unit, lanes, _mm512_castsi512_ps(broadcast_dword(m.q + r * q_row)));
    });
    store_scores<R, T>(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), unit), m.scores + m.slot);
  }

  static __m512 put(float* weights, int64_t i, __m512 p) {
    _mm512_store_ps(weights + i, p);
    return p;
  }

  // The weights of a row and chunk to fixed point: 16 bits a slot, and after them what a unit is worth.
  static float* unit_at(float* weights) { return weights + kChunk / 2; }
  static void hold(float* weights) {
    __m512 w[kChunk / 16];
    __m512i top = _mm512_setzero_si512();
    each<kChunk / 16>([&](auto i) { w[i] = _mm512_load_ps(weights + 16 * i), top = larger_of(top, w[i]); });
    float exponent;
    const float unit = unit_of(_mm512_reduce_max_epu32(top), &exponent);
    each<kChunk / 16>(
        [&](auto i) { _mm256_store_si256(reinterpret_cast<__m256i*>(weights) + i, fixed(w[i], exponent)); });
    *unit_at(weights) = unit;
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    const int64_t out_row = D > 0 ? D : m.out_row;
    const char* const* const at = m.at;
    const auto* const weights = reinterpret_cast<const uint16_t*>(m.scores) + m.slot;
    over<D, kStep>(m.problem->v_head_dim, [&](int64_t d, int64_t left) KN_INLINE {
      const __mmask32 mask = first_words(left);
      fetch<F, T>(m, d);
      const int64_t offset = m.offset + d;
      __m512i low[R], high[R];
      each<R>([&](auto r) KN_INLINE { low[r] = high[r] = _mm512_setzero_si512(); });
#pragma GCC unroll 8
      for (int64_t t = 0; t < T; t += 2) {
        const __m512i v0 = key_at(moved(at[t], offset), mask), v1 = key_at(moved(at[t + 1], offset), mask);
        const __m512i first = _mm512_unpacklo_epi16(v0, v1), second = _mm512_unpackhi_epi16(v0, v1);
        each<R>([&](auto r) KN_INLINE {
          const __m512i p = broadcast_dword(weights + r * kChunk * 2 + t);
          low[r] = _mm512_dpwssd_epi32(low[r], p, first);
          high[r] = _mm512_dpwssd_epi32(high[r], p, second);
        });
      }
      each<R>([&](auto r) KN_INLINE {
        const __m512 unit = _mm512_set1_ps(*unit_at(m.scores + r * kChunk));
        float* const sums = m.sums + r * out_row + d;
        _mm512_store_ps(sums, _mm512_fmadd_ps(_mm512_cvtepi32_ps(low[r]), unit, _mm512_load_ps(sums)));
        _mm512_store_ps(sums + 16, _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[r]), unit, _mm512_load_ps(sums + 16)));
      });
    });
  }
};

}  // namespace
}  // namespace kn::decode_attention
