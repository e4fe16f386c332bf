// The row for machines with vdpbf16ps (Cooper Lake, Sapphire Rapids, Zen 4 and later), q in bf16. It rounds like two
// fused multiply-adds and reads and writes denormals as zero. Weights are rounded to bf16 and multiply two tokens at a
// time. s8 is exact in bf16.
#include "decode_attention_reduce.h"
#include "decode_attention_rows.h"

namespace kn::decode_attention {
namespace {

constexpr int64_t kStep = 32;  // elements of bf16 in a vector

inline __m512bh as_bf16(__m512i v) { return reinterpret_cast<__m512bh>(v); }

// The elements of the cache that the mask has, as bf16.
struct from_bf16 {
  static constexpr int64_t kBytes = 2;
  static __m512i at(const char* p, __mmask32 mask) { return _mm512_maskz_loadu_epi16(mask, p); }
};

struct from_s8 {
  static constexpr int64_t kBytes = 1;
  static __m512i at(const char* p, __mmask32 mask) {
    const __m256i v = _mm256_maskz_loadu_epi8(mask, p);
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(v)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(v, 1)));
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  }
};

inline __mmask32 first_words(int64_t count) { return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1; }

template <class From>
struct bf16_engine {
  static constexpr bool kRounds = true;
  static constexpr int64_t kValueSlots = 32;
  static int64_t q_row(const kn_decode_attention_problem& p) { return round_up(p.head_dim, kStep) * 2; }
  static int64_t out_row(const kn_decode_attention_problem& p) { return round_up(p.v_head_dim, kStep); }

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out) {
    for (int64_t d = 0; d < p.head_dim; d += kStep)
      _mm512_store_si512(out + d * 2, _mm512_maskz_loadu_epi16(first_words(p.head_dim - d), q + d * 2));
  }

  static __m512 put(float* weights, int64_t i, __m512 p) {
    const __m256i narrow = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(p));
    _mm256_store_si256(reinterpret_cast<__m256i*>(reinterpret_cast<uint16_t*>(weights) + i), narrow);
    return widen_bf16(narrow);
  }

  template <int R, int D>
  static KN_INLINE void scores(const multiplication& m) {
    constexpr int T = 16 / R;
    const char* at[T];
    const char* ahead[T];
    __m512 sum[16];
    each<T>([&](auto t) KN_INLINE { at[t] = m.at[t] + m.offset, ahead[t] = m.at[T + t] + m.offset; });
    each<16>([&](auto i) KN_INLINE { sum[i] = _mm512_setzero_ps(); });
    const auto step = [&](int64_t d, __mmask32 mask) KN_INLINE {
      __m512i a[R];
      each<R>([&](auto r) KN_INLINE { a[r] = _mm512_load_si512(m.q + r * (D > 0 ? D * 2 : m.q_row) + d * 2); });
      each<T>([&](auto t) KN_INLINE {
        if ((d * From::kBytes) % 64 == 0) _mm_prefetch(ahead[t] + d * From::kBytes, _MM_HINT_NTA);
        const __m512i k = From::at(at[t] + d * From::kBytes, mask);
        each<R>([&](auto r)
                    KN_INLINE { sum[r * T + t] = _mm512_dpbf16_ps(sum[r * T + t], as_bf16(a[r]), as_bf16(k)); });
      });
    };
    if constexpr (D > 0) {
      each<D / kStep>([&](auto i) KN_INLINE { step(i * kStep, ~__mmask32{0}); });
    } else {
      const int64_t dim = m.problem->head_dim;
      for (int64_t d = 0; d < dim; d += kStep) step(d, first_words(dim - d));
    }
    store_scores<R>(sum_each(sum), m.scores + m.slot);
  }

  // Two tokens interleaved within lanes of 128 bits: the sums of 32 elements are those of 0-3 of every 8, then of 4-7.
  template <int R, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    constexpr int P = 16 / R;
    const int64_t out_row = D > 0 ? D : m.out_row;
    float* const sums = m.sums;
    const char* at[2 * P];
    __m512i p[16];
    each<2 * P>([&](auto t) KN_INLINE { at[t] = m.at[t] + m.offset; });
    each<P>([&](auto t) KN_INLINE {
      each<R>([&](auto r) KN_INLINE {
        p[r * P + t] = broadcast_dword(reinterpret_cast<const uint16_t*>(m.scores + r * kChunk) + m.slot + 2 * t);
      });
    });
    const auto step = [&](int64_t d, __mmask32 mask) KN_INLINE {
      __m512 low[R], high[R];
      each<R>([&](auto r) KN_INLINE {
        low[r] = _mm512_load_ps(sums + r * out_row + d);
        high[r] = _mm512_load_ps(sums + r * out_row + d + 16);
      });
      each<P>([&](auto t) KN_INLINE {
        if ((d * From::kBytes) % 64 == 0) {
          _mm_prefetch(m.at[2 * (P + t)] + m.offset + d * From::kBytes, _MM_HINT_NTA);
          _mm_prefetch(m.at[2 * (P + t) + 1] + m.offset + d * From::kBytes, _MM_HINT_NTA);
        }
        const __m512i v0 = From::at(at[2 * t] + d * From::kBytes, mask);
        const __m512i v1 = From::at(at[2 * t + 1] + d * From::kBytes, mask);
        const __m512i first = _mm512_unpacklo_epi16(v0, v1), second = _mm512_unpackhi_epi16(v0, v1);
        each<R>([&](auto r) KN_INLINE {
          low[r] = _mm512_dpbf16_ps(low[r], as_bf16(p[r * P + t]), as_bf16(first));
          high[r] = _mm512_dpbf16_ps(high[r], as_bf16(p[r * P + t]), as_bf16(second));
        });
      });
      each<R>([&](auto r) KN_INLINE {
        _mm512_store_ps(sums + r * out_row + d, low[r]);
        _mm512_store_ps(sums + r * out_row + d + 16, high[r]);
      });
    };
    if constexpr (D > 0) {
      each<D / kStep>([&](auto i) KN_INLINE { step(i * kStep, ~__mmask32{0}); });
    } else {
      const int64_t dim = m.problem->v_head_dim;
      for (int64_t d = 0; d < dim; d += kStep) step(d, first_words(dim - d));
    }
  }

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

struct avx512bf16 {
  static bool takes(const kn_decode_attention_problem& p, const char** why) {
    KN_REQUIRE(p.q_type == KN_BF16);
    // Weights in bf16 times the wide range of e4m3 err by more than twice what plain attention does: f32 takes those.
    KN_REQUIRE(p.kv_type != KN_E4M3);
    return true;
  }

  template <class F>
  static void with_engine(const kn_decode_attention_problem& p, F f) {
    switch (p.kv_type) {
      case KN_S8:
        return f.template operator()<bf16_engine<from_s8>>();
      default:
        return f.template operator()<bf16_engine<from_bf16>>();
    }
  }
};

}  // namespace
}  // namespace kn::decode_attention

extern "C" const kn_row decode_attention_avx512bf16 =
    kn::decode_attention::row_of<kn::decode_attention::avx512bf16>::row("decode_attention/avx512bf16", "avx512bf16",
                                                                        KN_CPU_AVX512 | KN_CPU_AVX512BF16);
