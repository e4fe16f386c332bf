// The row for machines with vdpbf16ps (Cooper Lake, Sapphire Rapids, Zen 4 and later), q in bf16. It rounds like two
// fused multiply-adds and reads and writes denormals as zero. Weights are rounded to bf16 and multiply two tokens at a
// time.
#include "decode_attention_bf16.h"
#include "decode_attention_reduce.h"
#include "decode_attention_rows.h"
#include "decode_attention_s8.h"

namespace kn::decode_attention {
namespace {

inline __m512bh as_bf16(__m512i v) { return reinterpret_cast<__m512bh>(v); }

struct bf16_engine : bf16_rows {
  static constexpr int64_t kValueSlots = 32;

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t) {
    out += i * q_row(p);
    for (int64_t d = 0; d < p.head_dim; d += kStep)
      _mm512_store_si512(out + d * 2, _mm512_maskz_loadu_epi16(first_words(p.head_dim - d), q + d * 2));
  }

  template <int R, int D>
  static KN_INLINE void scores(const multiplication& m) {
    constexpr int T = 16 / R;
    const char* at[T];
    const char* ahead[T];
    __m512 sum[16];
    each<T>([&](auto t) KN_INLINE { at[t] = moved(m.at[t], m.offset), ahead[t] = moved(m.at[T + t], m.offset); });
    each<16>([&](auto i) KN_INLINE { sum[i] = _mm512_setzero_ps(); });
    over<D, kStep>(m.problem->head_dim, [&](int64_t d, int64_t left) KN_INLINE {
      const __mmask32 mask = first_words(left);
      __m512i a[R];
      each<R>([&](auto r) KN_INLINE { a[r] = _mm512_load_si512(m.q + r * (D > 0 ? D * 2 : m.q_row) + d * 2); });
      each<T>([&](auto t) KN_INLINE {
        if ((d * 2) % 64 == 0) _mm_prefetch(ahead[t] + d * 2, _MM_HINT_NTA);
        const __m512i k = from_bf16::at(at[t] + d * 2, mask);
        each<R>([&](auto r)
                    KN_INLINE { sum[r * T + t] = _mm512_dpbf16_ps(sum[r * T + t], as_bf16(a[r]), as_bf16(k)); });
      });
    });
    store_scores<R>(sum_each(sum), m.scores + m.slot);
  }

  template <int R, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    constexpr int P = 16 / R;
    const int64_t out_row = D > 0 ? D : m.out_row;
    float* const sums = m.sums;
    const char* at[2 * P];
    __m512i p[16];
    each<2 * P>([&](auto t) KN_INLINE { at[t] = moved(m.at[t], m.offset); });
    each<P>([&](auto t) KN_INLINE {
      each<R>([&](auto r) KN_INLINE {
        p[r * P + t] = broadcast_dword(reinterpret_cast<const uint16_t*>(m.scores + r * kChunk) + m.slot + 2 * t);
      });
    });
    over<D, kStep>(m.problem->v_head_dim, [&](int64_t d, int64_t left) KN_INLINE {
      const __mmask32 mask = first_words(left);
      __m512 low[R], high[R];
      each<R>([&](auto r) KN_INLINE {
        low[r] = _mm512_load_ps(sums + r * out_row + d);
        high[r] = _mm512_load_ps(sums + r * out_row + d + 16);
      });
      each<P>([&](auto t) KN_INLINE {
        if ((d * 2) % 64 == 0) {
          _mm_prefetch(moved(m.at[2 * (P + t)], m.offset + d * 2), _MM_HINT_NTA);
          _mm_prefetch(moved(m.at[2 * (P + t) + 1], m.offset + d * 2), _MM_HINT_NTA);
        }
        const __m512i v0 = from_bf16::at(at[2 * t] + d * 2, mask);
        const __m512i v1 = from_bf16::at(at[2 * t + 1] + d * 2, mask);
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
    });
  }
};

}  // namespace
}  // namespace kn::decode_attention

using namespace kn::decode_attention;
extern "C" const kn_row decode_attention_avx512bf16 = row_of<bf16<bf16_engine, s8_engine>>::row(
    "decode_attention/avx512bf16", "avx512bf16", KN_CPU_AVX512 | KN_CPU_AVX512BF16);
