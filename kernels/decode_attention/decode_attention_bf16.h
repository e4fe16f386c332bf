// What the engines that multiply in bf16 have in common: the cache in bf16 (s8 is exact in it), weights in bf16, and
// sums of two interleaved tokens. Everything is static, see avx512.h.
#pragma once
#include "decode_attention_attend.h"

namespace kn::decode_attention {
namespace {

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

struct bf16_rows : paired_rows {
  static constexpr bool kRounds = true, kByLanes = false;
  static constexpr int64_t q_bytes(int64_t head_dim) { return round_up(head_dim, kStep) * 2; }

  static KN_INLINE __m512 put(float* weights, const vectors& p) {
    const __m512bh low = _mm512_cvtne2ps_pbh(p[1], p[0]), high = _mm512_cvtne2ps_pbh(p[3], p[2]);
    _mm512_store_si512(weights, reinterpret_cast<__m512i>(low));
    _mm512_store_si512(weights + 16, reinterpret_cast<__m512i>(high));
    const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
    return _mm512_dpbf16_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), low, ones), high, ones);
  }
  static __m512 weight_at(const float* weights, int64_t i) {
    return widen_bf16(_mm256_load_si256(reinterpret_cast<const __m256i*>(weights) + i));
  }
};

// A row of two such engines.
template <class Bf16, class S8>
struct bf16 {
  static bool takes(const kn_decode_attention_problem& p, const char** why) {
    KN_REQUIRE(p.q_type == KN_BF16);
    // Weights in bf16 times the wide range of e4m3 err by more than twice what plain attention does: f32 takes those.
    KN_REQUIRE(p.kv_type != KN_E4M3);
    const bool s8_engine_takes_head_dim = p.kv_type != KN_S8 || S8::takes(p);
    KN_REQUIRE(s8_engine_takes_head_dim);
    return true;
  }

  template <class F>
  static void with_engine(const kn_decode_attention_problem& p, F f) {
    return p.kv_type == KN_S8 ? f.template operator()<S8>() : f.template operator()<Bf16>();
  }
};

}  // namespace
}  // namespace kn::decode_attention
