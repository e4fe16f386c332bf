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
  static reg add(reg a, reg b) { return _mm512_add_pd(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_pd(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_pd(a, b); }  // b where either is NaN
  static reg max(reg a, reg b) { return _mm512_max_pd(a, b); }
  static mask nonzero(reg a) { return _mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NEQ_UQ); }
  static reg ones(mask m) { return _mm512_maskz_mov_pd(m, _mm512_set1_pd(1)); }
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
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_ps(a, b); }
  static reg max(reg a, reg b) { return _mm512_max_ps(a, b); }
  static mask nonzero(reg a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
  static reg ones(mask m) { return _mm512_maskz_mov_ps(m, _mm512_set1_ps(1)); }
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
