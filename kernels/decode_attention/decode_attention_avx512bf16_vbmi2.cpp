// The row for e4m3 caches on machines with VBMI and vdpbf16ps (Zen 4, Sapphire Rapids and later). Elements are looked
// up 64 at a time in tables of 128 bytes; by way of f16 each 16 take as many instructions. Weights multiply in f32.
#include "decode_attention_f32.h"
#include "decode_attention_rows.h"

namespace kn::decode_attention {
namespace {

// The two bytes of a bf16, without its sign, for each e4m3 without its own, over 2^8 as from_e4m3 has it.
struct e4m3_table {
  alignas(64) uint8_t high[128]{}, low[128]{};
  constexpr e4m3_table() {
    for (int i = 0; i < 128; i++) {
      int exponent = i >> 3, mantissa = i & 7;
      if (exponent == 0 && mantissa > 0) {
        for (exponent = 1; mantissa < 8; exponent--) mantissa *= 2;
        mantissa -= 8;
      }
      int bits = (exponent + 127 - 7 - 8) << 7 | mantissa << 4;
      if (i == 0) bits = 0;
      if (i == 127) bits = 0x7fc0;
      high[i] = static_cast<uint8_t>(bits >> 8), low[i] = static_cast<uint8_t>(bits);
    }
  }
};
inline constexpr e4m3_table kTable;

// The bytes of 64 elements as bf16. Words are unpacked within lanes of 128 bits.
struct bytes {
  __m512i low, high;
  KN_INLINE __m512i first() const { return _mm512_unpacklo_epi8(low, high); }
  KN_INLINE __m512i second() const { return _mm512_unpackhi_epi8(low, high); }
};

inline KN_INLINE bytes look_up(__m512i x) {
  const auto in = [x](const uint8_t* table) KN_INLINE {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), x, _mm512_load_si512(table + 64));
  };
  const __m512i sign = _mm512_set1_epi8(-128);
  return {in(kTable.low), _mm512_ternarylogic_epi32(in(kTable.high), x, sign, 0xf8)};  // high | (x & sign)
}

// What is copied for rows by lanes, 32 elements at a time.
struct f32_lines : f32_engine<from_e4m3> {
  static KN_INLINE void two_at(const char* p, int64_t left, __m512i* to) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 8, 1, 5, 8, 8, 2, 6, 8, 8, 3, 7, 8, 8);
    const __m256i x = _mm256_maskz_loadu_epi8(first_words(left), p);
    const __m512i words = look_up(_mm512_permutexvar_epi32(order, _mm512_castsi256_si512(x))).first();
    _mm512_store_si512(to, _mm512_unpacklo_epi16(_mm512_setzero_si512(), words));
    _mm512_store_si512(to + 1, _mm512_unpackhi_epi16(_mm512_setzero_si512(), words));
  }
};

struct bf16_lines {
  static constexpr int64_t kBytes = 1, kPair = 2;
  static constexpr int kWidth = kStep;
  static __mmask32 mask(int64_t left) { return first_words(left); }
  static __m512i q_at(const char* row, int64_t d) { return _mm512_load_si512(row + d * 2); }
  static KN_INLINE __m512i key_at(const char* p, __mmask32 mask) {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 4, 2, 4, 3, 4);
    const __m512i x = _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(mask, p));
    return look_up(_mm512_permutexvar_epi64(order, x)).first();
  }
  static __m512 dot(__m512 sum, __m512i q, __m512i k) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(q), reinterpret_cast<__m512bh>(k));
  }
};

struct e4m3_engine : f32_engine<from_e4m3, 64> {
  using key_lines = f32_lines;
  using value_lines = f32_lines;
  struct elements {
    __m512 v[4];
  };

  static __mmask64 mask(int64_t left) { return left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1; }

  // Dwords go first to where unpacking leaves them in order.
  static KN_INLINE elements key_at(const char* p, __mmask64 mask) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const bytes b = look_up(_mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi8(mask, p)));
    const __m512i zero = _mm512_setzero_si512(), first = b.first(), second = b.second();
    const auto widened = [](__m512i v) KN_INLINE { return _mm512_castsi512_ps(v); };
    return {widened(_mm512_unpacklo_epi16(zero, first)), widened(_mm512_unpackhi_epi16(zero, first)),
            widened(_mm512_unpacklo_epi16(zero, second)), widened(_mm512_unpackhi_epi16(zero, second))};
  }

  static const char* q_at(const char* row, int64_t d) { return row + d * 4; }
  static KN_INLINE __m512 dot(__m512 sum, const char* q, const elements& k) {
    each<4>([&](auto i) KN_INLINE { sum = _mm512_fmadd_ps(k.v[i], _mm512_load_ps(q + i * 64), sum); });
    return sum;
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void scores(const multiplication& m) {
    store_scores<R, T>(products<e4m3_engine, R, T, F, D>(m), m.scores + m.slot);
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    const int64_t out_row = D > 0 ? D : m.out_row;
    const auto add = [&](int64_t d, int64_t left) KN_INLINE {
      fetch<F, T>(m, d);
      __m512 sum[R * 4];
      each<R * 4>([&](auto i) KN_INLINE { sum[i] = _mm512_load_ps(m.sums + i / 4 * out_row + d + i % 4 * 16); });
      each<T>([&](auto t) KN_INLINE {
        const elements v = key_at(moved(m.at[t], m.offset + d), mask(left));
        each<R>([&](auto r) KN_INLINE {
          const __m512 p = _mm512_set1_ps(m.scores[r * kChunk + m.slot + t]);
          each<4>([&](auto i) KN_INLINE { sum[r * 4 + i] = _mm512_fmadd_ps(p, v.v[i], sum[r * 4 + i]); });
        });
      });
      each<R * 4>([&](auto i) KN_INLINE { _mm512_store_ps(m.sums + i / 4 * out_row + d + i % 4 * 16, sum[i]); });
    };
    if constexpr (D > 0)
      each<D / kWidth>([&](auto i) KN_INLINE { add(i * kWidth, kWidth); });
    else
      over<D, kWidth>(m.problem->v_head_dim, add);
  }
};

// The same with keys times q in bf16, which both are without rounding: two of them at a time.
struct paired_keys : e4m3_engine {
  using key_lines = bf16_lines;
  struct elements {
    __m512i v[2];
  };

  static constexpr int64_t q_bytes(int64_t head_dim) { return round_up(head_dim, kWidth) * 2; }

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t) {
    out += i * q_bytes(p.head_dim);
    for (int64_t d = 0; d < round_up(p.head_dim, kWidth); d += kStep)
      _mm512_store_si512(out + d * 2, _mm512_maskz_loadu_epi16(first_words(larger(0, p.head_dim - d)), q + d * 2));
  }

  static KN_INLINE elements key_at(const char* p, __mmask64 mask) {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const bytes b = look_up(_mm512_permutexvar_epi64(order, _mm512_maskz_loadu_epi8(mask, p)));
    return {b.first(), b.second()};
  }

  static const char* q_at(const char* row, int64_t d) { return row + d * 2; }
  static KN_INLINE __m512 dot(__m512 sum, const char* q, const elements& k) {
    each<2>([&](auto i) KN_INLINE {
      const __m512i row = _mm512_load_si512(q + i * 64);
      sum = bf16_lines::dot(sum, row, k.v[i]);
    });
    return sum;
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void scores(const multiplication& m) {
    store_scores<R, T>(products<paired_keys, R, T, F, D>(m), m.scores + m.slot);
  }
};

struct vbmi2 {
  static bool takes(const kn_decode_attention_problem& p, const char** why) {
    KN_REQUIRE(p.kv_type == KN_E4M3);
    return true;
  }

  template <class F>
  static void with_engine(const kn_decode_attention_problem& p, F f) {
    return p.q_type == KN_BF16 ? f.template operator()<paired_keys>() : f.template operator()<e4m3_engine>();
  }
};

}  // namespace
}  // namespace kn::decode_attention

extern "C" const kn_row decode_attention_avx512bf16_vbmi2 =
    kn::decode_attention::row_of<kn::decode_attention::vbmi2>::row(
        "decode_attention/avx512bf16_vbmi2", "avx512bf16_vbmi2",
        KN_CPU_AVX512 | KN_CPU_AVX512BF16 | KN_CPU_AVX512VBMI2);
