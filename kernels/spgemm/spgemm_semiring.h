// The semirings on one value and on a register of them. Products are rounded before they are added (this family is
// compiled without contraction), so that scalar, vector and managed code give the same bits.
#pragma once
#include <avx512.h>

#include <limits>

#include "spgemm.h"

namespace kn::spgemm {
namespace {

template <class V>
struct lanes;

template <>
struct lanes<double> {
  using reg = __m512d;
  using mask = __mmask8;
  static constexpr int count = 8;
  static reg set(double v) { return _mm512_set1_pd(v); }
  static reg load(mask m, const double* p) { return _mm512_maskz_loadu_pd(m, p); }
  static reg load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, mask m, reg v) { _mm512_mask_storeu_pd(p, m, v); }
  static void store(double* p, reg v) { _mm512_storeu_pd(p, v); }
  static reg compress(mask m, reg v) { return _mm512_maskz_compress_pd(m, v); }
  static reg expand(mask m, reg v) { return _mm512_mask_expand_pd(_mm512_castsi512_pd(cleared()), m, v); }
  // As many elements as the mask has bits, and none behind them.
  static reg expand(mask m, const double* p) {
    return _mm512_mask_expandloadu_pd(_mm512_castsi512_pd(cleared()), m, p);
  }
  // Whole registers of the columns base + i of a mask.
  static void store_columns(int32_t* to, mask m, int64_t base) {
    const __m256i iota = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i columns = _mm256_add_epi32(iota, _mm256_set1_epi32(static_cast<int32_t>(base)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_compress_epi32(m, columns));
  }
  static void store_columns(int64_t* to, mask m, int64_t base) {
    const __m512i columns = _mm512_add_epi64(_mm512_set1_epi64(base), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(m, columns));
  }
  static reg add(reg a, reg b) { return _mm512_add_pd(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_pd(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_pd(a, b); }  // b where either is NaN
  static reg max(reg a, reg b) { return _mm512_max_pd(a, b); }
  static mask nonzero(reg a) { return _mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NEQ_UQ); }
  static reg ones(mask m) { return _mm512_maskz_mov_pd(m, _mm512_set1_pd(1)); }
  static reg blend(mask m, reg a, reg b) { return _mm512_mask_blend_pd(m, a, b); }
  // As many columns below 2^32 as there are lanes, and keys of them: column above, place below.
  static __m256i load_columns(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static __m256i load_columns(const int64_t* p) { return _mm512_cvtepi64_epi32(_mm512_loadu_si512(p)); }
  static __m256i load_columns(mask m, const int32_t* p) { return _mm256_maskz_loadu_epi32(m, p); }
  static __m256i load_columns(mask m, const int64_t* p) {
    return _mm512_cvtepi64_epi32(_mm512_maskz_loadu_epi64(m, p));
  }
  static void store_columns(uint32_t* to, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v); }
  static void store_keys(uint32_t* to, __m256i columns, int bits, int64_t place) {
    const __m256i iota = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i places = _mm256_add_epi32(iota, _mm256_set1_epi32(static_cast<int32_t>(place)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_or_si256(_mm256_slli_epi32(columns, bits), places));
  }
  // Every lane takes its upper neighbour.
  static reg down(reg v, reg above) {
    return _mm512_castsi512_pd(_mm512_alignr_epi64(_mm512_castpd_si512(above), _mm512_castpd_si512(v), 1));
  }
  // Register w of the table's elements in the order of the keys, whose low bits are places in the table.
  template <int N>
  static reg pick(const reg* table, const __m512i* keys, int w, int places) {
    const __m256i half = w % 2 == 0 ? _mm512_castsi512_si256(keys[w / 2]) : _mm512_extracti64x4_epi64(keys[w / 2], 1);
    const __m512i at = _mm512_cvtepu32_epi64(_mm256_and_si256(half, _mm256_set1_epi32(places)));
    reg v = N == 1 ? _mm512_permutexvar_pd(at, table[0]) : _mm512_permutex2var_pd(table[0], at, table[N > 1 ? 1 : 0]);
    for (int i = 2; i < N; i += 2) {
      const mask m = _mm512_cmpge_epi64_mask(at, _mm512_set1_epi64(8 * i));
      v = _mm512_mask_mov_pd(v, m, _mm512_permutex2var_pd(table[i], at, table[i + 1 < N ? i + 1 : i]));
    }
    return v;
  }
};

template <>
struct lanes<float> {
  using reg = __m512;
  using mask = __mmask16;
  static constexpr int count = 16;
  static reg set(float v) { return _mm512_set1_ps(v); }
  static reg load(mask m, const float* p) { return _mm512_maskz_loadu_ps(m, p); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, mask m, reg v) { _mm512_mask_storeu_ps(p, m, v); }
  static void store(float* p, reg v) { _mm512_storeu_ps(p, v); }
  static reg compress(mask m, reg v) { return _mm512_maskz_compress_ps(m, v); }
  static reg expand(mask m, reg v) { return _mm512_mask_expand_ps(_mm512_castsi512_ps(cleared()), m, v); }
  static reg expand(mask m, const float* p) { return _mm512_mask_expandloadu_ps(_mm512_castsi512_ps(cleared()), m, p); }
  static void store_columns(int32_t* to, mask m, int64_t base) {
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i columns = _mm512_add_epi32(iota, _mm512_set1_epi32(static_cast<int32_t>(base)));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(m, columns));
  }
  static void store_columns(int64_t* to, mask m, int64_t base) {
    lanes<double>::store_columns(to, static_cast<__mmask8>(m), base);
    lanes<double>::store_columns(to + __builtin_popcount(m & 255), static_cast<__mmask8>(m >> 8), base + 8);
  }
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_ps(a, b); }
  static reg max(reg a, reg b) { return _mm512_max_ps(a, b); }
  static mask nonzero(reg a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
  static reg ones(mask m) { return _mm512_maskz_mov_ps(m, _mm512_set1_ps(1)); }
  static reg blend(mask m, reg a, reg b) { return _mm512_mask_blend_ps(m, a, b); }
  static __m512i load_columns(const int32_t* p) { return _mm512_loadu_si512(p); }
  static __m512i load_columns(const int64_t* p) { return load_columns(0xffff, p); }
  static __m512i load_columns(mask m, const int32_t* p) { return _mm512_maskz_loadu_epi32(m, p); }
  static __m512i load_columns(mask m, const int64_t* p) {
    const __m512i low = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(m), p);
    const __m512i high = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(m >> 8), p + 8);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low)), _mm512_cvtepi64_epi32(high), 1);
  }
  static void store_columns(uint32_t* to, __m512i v) { _mm512_storeu_si512(to, v); }
  static void store_keys(uint32_t* to, __m512i columns, int bits, int64_t place) {
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i places = _mm512_add_epi32(iota, _mm512_set1_epi32(static_cast<int32_t>(place)));
    _mm512_storeu_si512(to, _mm512_or_si512(_mm512_slli_epi32(columns, bits), places));
  }
  static reg down(reg v, reg above) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(above), _mm512_castps_si512(v), 1));
  }
  template <int N>
  static reg pick(const reg* table, const __m512i* keys, int w, int places) {
    const __m512i at = _mm512_and_si512(keys[w], _mm512_set1_epi32(places));
    if (N == 1) return _mm512_permutexvar_ps(at, table[0]);
    reg v = _mm512_permutex2var_ps(table[0], at, table[N > 1 ? 1 : 0]);
    for (int i = 2; i < N; i += 2) {
      const mask m = _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(16 * i));
      v = _mm512_mask_mov_ps(v, m, _mm512_permutex2var_ps(table[i], at, table[i + 1 < N ? i + 1 : i]));
    }
    return v;
  }
};

// kReads: whether values of A and B are looked at; kValues: whether there are any in C.
template <class V>
struct plus_times {
  using value = V;
  using L = lanes<V>;
  using reg = typename L::reg;
  static constexpr bool kReads = true, kValues = true;
  static constexpr V zero() { return 0; }
  static V mul(V a, V b) { return a * b; }
  static V add(V s, V p) { return s + p; }
  static reg mul(reg a, reg b) { return L::mul(a, b); }
  static reg add(reg s, reg p) { return L::add(s, p); }
};

template <class V>
struct min_plus {
  using value = V;
  using L = lanes<V>;
  using reg = typename L::reg;
  static constexpr bool kReads = true, kValues = true;
  static constexpr V zero() { return std::numeric_limits<V>::infinity(); }
  static V mul(V a, V b) { return a + b; }
  static V add(V s, V p) { return p < s ? p : s; }
  static reg mul(reg a, reg b) { return L::add(a, b); }
  static reg add(reg s, reg p) { return L::min(p, s); }
};

template <class V>
struct max_plus {
  using value = V;
  using L = lanes<V>;
  using reg = typename L::reg;
  static constexpr bool kReads = true, kValues = true;
  static constexpr V zero() { return -std::numeric_limits<V>::infinity(); }
  static V mul(V a, V b) { return a + b; }
  static V add(V s, V p) { return p > s ? p : s; }
  static reg mul(reg a, reg b) { return L::add(a, b); }
  static reg add(reg s, reg p) { return L::max(p, s); }
};

template <class V>
struct or_and {
  using value = V;
  using L = lanes<V>;
  using reg = typename L::reg;
  static constexpr bool kReads = true, kValues = true;
  static constexpr V zero() { return 0; }
  static V mul(V a, V b) { return V((a != 0) & (b != 0)); }
  static V add(V s, V p) { return V((s != 0) | (p != 0)); }
  static reg mul(reg a, reg b) { return L::ones(static_cast<typename L::mask>(L::nonzero(a) & L::nonzero(b))); }
  static reg add(reg s, reg p) { return L::ones(static_cast<typename L::mask>(L::nonzero(s) | L::nonzero(p))); }
};

template <class V>
struct plus_pair {
  using value = V;
  using L = lanes<V>;
  using reg = typename L::reg;
  static constexpr bool kReads = false, kValues = true;
  static constexpr V zero() { return 0; }
  static V mul(V, V) { return 1; }
  static V add(V s, V p) { return s + p; }
  static reg mul(reg, reg) { return L::set(1); }
  static reg add(reg s, reg p) { return L::add(s, p); }
};

// The structure alone.
struct no_values {
  using value = float;
  using L = lanes<float>;
  using reg = L::reg;
  static constexpr bool kReads = false, kValues = false;
  static constexpr float zero() { return 0; }
  static float mul(float, float) { return 0; }
  static float add(float, float) { return 0; }
  static reg mul(reg a, reg) { return a; }
  static reg add(reg s, reg) { return s; }
};

}  // namespace
}  // namespace kn::spgemm
