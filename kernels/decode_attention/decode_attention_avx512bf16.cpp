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
  static constexpr int64_t kBytes = 2;
  static constexpr int64_t kPacked = 1, kPair = 2;
  static constexpr bool kAsStored = true, kByLanes = true, kConverts = false;
  static constexpr int kLargestWidth = 256;
  using key_steps = steps<4, 16>;
  // Eight rows share what it costs to interleave two tokens; their weights are read again for each vector.
  using value_steps = steps<8, 32>;

  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t) {
    out += i * q_bytes(p.head_dim);
    for (int64_t d = 0; d < p.head_dim; d += kStep)
      _mm512_store_si512(out + d * 2, _mm512_maskz_loadu_epi16(first_words(p.head_dim - d), q + d * 2));
  }

  static __m512 zero() { return _mm512_setzero_ps(); }
  static __m512i q_at(const char* row, int64_t d) { return _mm512_load_si512(row + d * 2); }
  static __m512i key_at(const char* p, __mmask32 mask) { return from_bf16::at(p, mask); }
  static __m512 dot(__m512 sum, __m512i q, __m512i k) { return _mm512_dpbf16_ps(sum, as_bf16(q), as_bf16(k)); }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void scores(const multiplication& m) {
    store_scores<R, T>(products<bf16_engine, R, T, F, D>(m), m.scores + m.slot);
  }

  template <int R, int T, fetching F, int D>
  static KN_INLINE void add_values(const multiplication& m) {
    // Few enough weights stay in registers; the compiler left to itself loads them again for each vector.
    constexpr bool kHeld = R * T <= 16;
    const int64_t out_row = D > 0 ? D : m.out_row;
    const auto* const weights = reinterpret_cast<const uint16_t*>(m.scores) + m.slot;
    const auto weight = [&](int r, int t) KN_INLINE { return broadcast_dword(weights + r * kChunk * 2 + t); };
    const char* at[T];
    each<T>([&](auto t) KN_INLINE { at[t] = moved(m.at[t], m.offset); });
    __m512i held[kHeld ? R * T / 2 : 1];
    if constexpr (kHeld)
      each<R * T / 2>([&](auto i) KN_INLINE {
        held[i] = weight(i % R, i / R * 2);
        asm("" : "+v"(held[i]));
      });
    const auto add = [&](int64_t d, int64_t left) KN_INLINE {
      const __mmask32 mask = first_words(left);
      fetch<F, T>(m, d * 2);
      __m512 low[R], high[R];
      each<R>([&](auto r) KN_INLINE {
        low[r] = _mm512_load_ps(m.sums + r * out_row + d);
        high[r] = _mm512_load_ps(m.sums + r * out_row + d + 16);
      });
      each<T / 2>([&](auto t) KN_INLINE {
        const __m512i v0 = from_bf16::at(at[2 * t] + d * 2, mask), v1 = from_bf16::at(at[2 * t + 1] + d * 2, mask);
        const __m512i first = _mm512_unpacklo_epi16(v0, v1), second = _mm512_unpackhi_epi16(v0, v1);
        each<R>([&](auto r) KN_INLINE {
          const __m512i p = kHeld ? held[t * R + r] : weight(r, 2 * t);
          low[r] = _mm512_dpbf16_ps(low[r], as_bf16(p), as_bf16(first));
          high[r] = _mm512_dpbf16_ps(high[r], as_bf16(p), as_bf16(second));
        });
      });
      each<R>([&](auto r) KN_INLINE {
        _mm512_store_ps(m.sums + r * out_row + d, low[r]);
        _mm512_store_ps(m.sums + r * out_row + d + 16, high[r]);
      });
    };
    if constexpr (D > 0 && kHeld)
      each<D / kStep>([&](auto i) KN_INLINE { add(i * kStep, kStep); });
    else
      over<D, kStep>(m.problem->v_head_dim, add);
  }
};

}  // namespace
}  // namespace kn::decode_attention

using namespace kn::decode_attention;
extern "C" const kn_row decode_attention_avx512bf16 = row_of<bf16<bf16_engine, s8_engine>>::row(
    "decode_attention/avx512bf16", "avx512bf16", KN_CPU_AVX512 | KN_CPU_AVX512BF16);
