// What the GPU kernels of flat_gemm share: elements by dtype, the order of gated columns, the epilogue.
#pragma once
#include <gpu.cuh>

#include "flat_gemm.h"
#include "flat_gemm_gpu.h"

namespace kn::flat_gemm {

// Of an element.
template <int Type>
constexpr int kBits = Type == KN_F32  ? 32
                      : Type == KN_S8 ? 8
                      : Type == KN_U4 ? 4
                                      : 16;

// Sums of s8 by s8 are exact.
template <bool Integer>
struct sum_of {
  using type = float;
};
template <>
struct sum_of<true> {
  using type = int;
};

__device__ __forceinline__ float load_element(int32_t type, const void* base, int64_t index) {
  if (type == KN_F32) return static_cast<const float*>(base)[index];
  const uint16_t v = static_cast<const uint16_t*>(base)[index];
  return type == KN_BF16 ? widen_bf16(v) : widen_f16(v);
}

__device__ __forceinline__ void store_element(int32_t type, void* base, int64_t index, float v) {
  if (type == KN_F32) {
    static_cast<float*>(base)[index] = v;
    return;
  }
  static_cast<uint16_t*>(base)[index] = type == KN_BF16 ? narrow_bf16(v) : narrow_f16(v);
}

__device__ __forceinline__ bool gated(const kn_flat_gemm_gpu& a) { return a.flags & KN_GEMM_GATED; }
__device__ __forceinline__ int64_t columns_of(const kn_flat_gemm_gpu& a) { return int64_t{a.n} * (gated(a) ? 2 : 1); }

// The row of w behind a column: gate and up alternate, so that the two of a pair meet in one wave.
__device__ __forceinline__ int64_t w_row(const kn_flat_gemm_gpu& a, int64_t column) {
  return gated(a) ? column / 2 + (column & 1) * a.n : column;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

// erfc(z) for z >= 0 as t exp(-z^2 + p(t)), t = 1/(1 + z/2), with the polynomial of kernels/common/avx512.h.
__device__ __forceinline__ float erfc_positive(float z) {
  const float t = 1.0f / __builtin_fmaf(z, 0.5f, 1.0f);
  float p = 0.14493021368980408f;
  p = __builtin_fmaf(p, t, -0.6808272004127502f);
  p = __builtin_fmaf(p, t, 1.156733751296997f);
  p = __builtin_fmaf(p, t, -0.6962519288063049f);
  p = __builtin_fmaf(p, t, -0.08028043061494827f);
  p = __builtin_fmaf(p, t, 0.0012675861362367868f);
  p = __builtin_fmaf(p, t, 0.03460279852151871f);
  p = __builtin_fmaf(p, t, 0.38664039969444275f);
  p = __builtin_fmaf(p, t, 0.9986327886581421f);
  p = __builtin_fmaf(p, t, -1.265447974205017f);
  return t * exp(__builtin_fmaf(-z, z, p));
}

__device__ __forceinline__ float activate(int32_t activation, float z) {
  switch (activation) {
    case KN_ACT_RELU:
      return z < 0.0f ? 0.0f : z;  // NaN passes
    case KN_ACT_GELU_TANH:         // z/2 (1 + tanh u) = z sigmoid(2u): no cancellation for negative z
      return z * sigmoid(z * 1.59576912f * __builtin_fmaf(z * z, 0.044715f, 1.0f));
    case KN_ACT_GELU_ERF: {  // z/2 erfc(-z/sqrt2)
      const float u = z * -0.70710678f, e = erfc_positive(__builtin_fabsf(u));
      return z * 0.5f * (u < 0.0f ? 2.0f - e : e);
    }
    case KN_ACT_SILU:
      return z * sigmoid(z);
    default:
      return z;
  }
}

// A sum as the value before the activation.
__device__ __forceinline__ float finish(const kn_flat_gemm_gpu& a, float sum, int64_t row, int64_t at) {
  if (a.integer) sum *= a.x_scales[row];
  if (a.w_type == KN_S8) sum *= a.scales[at];
  return a.flags & KN_GEMM_BIAS ? sum + a.bias[at] : sum;
}

// y[row, column] from its sum; `up` is the other one of a gated pair.
__device__ __forceinline__ void write_output(const kn_flat_gemm_gpu& a, int64_t row, int64_t column, float sum,
                                             float up) {
  float y = activate(a.activation, finish(a, sum, row, column));
  if (gated(a)) y *= finish(a, up, row, column + a.n);
  if (a.flags & KN_GEMM_RESIDUAL) y += load_element(a.y_type, a.residual, row * a.ldr + column);
  store_element(a.y_type, a.y, row * a.ldy + column, y);
}

}  // namespace kn::flat_gemm
