// What the GPU kernels of flat_gemm share: elements by dtype, the order of gated columns, the epilogue,
// quantisation of x.
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

// A sum as the value before the activation. The scale is that of s8 weights, else 1.
__device__ __forceinline__ float finish(const kn_flat_gemm_gpu& a, float sum, int64_t row, int64_t at, float scale) {
  if (a.integer) sum *= a.x_scales[row];
  sum *= scale;
  return a.flags & KN_GEMM_BIAS ? sum + a.bias[at] : sum;
}

// y[row, column] of a value, with the residual.
__device__ __forceinline__ void write_value(const kn_flat_gemm_gpu& a, int64_t row, int64_t column, float y) {
  if (a.flags & KN_GEMM_RESIDUAL) y += load_element(a.y_type, a.residual, row * a.ldr + column);
  store_element(a.y_type, a.y, row * a.ldy + column, y);
}

// y[row, column] from its sum and the scale of its weights; `up` is the other one of a gated pair.
__device__ __forceinline__ void write_output(const kn_flat_gemm_gpu& a, int64_t row, int64_t column, float sum,
                                             float scale, float up, float up_scale) {
  float y = activate(a.activation, finish(a, sum, row, column, scale));
  if (gated(a)) y *= finish(a, up, row, column + a.n, up_scale);
  write_value(a, row, column, y);
}

__device__ __forceinline__ void write_output(const kn_flat_gemm_gpu& a, int64_t row, int64_t column, float sum,
                                             float up) {
  const bool scaled = a.w_type == KN_S8;
  write_output(a, row, column, sum, scaled ? a.scales[column] : 1.0f, up,
               scaled && gated(a) ? a.scales[column + a.n] : 1.0f);
}

// x to s8, one block of 256 per row: round_to_even(x 127 / max|x|) and the inverse of that factor, as
// flat_gemm_quantize.h has it. load(row, k) is x.
template <class Load>
__device__ __forceinline__ void quantize(const kn_flat_gemm_gpu& a, Load load) {
  __shared__ float most[256], poison[256];
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < a.m; row += gridDim.x) {
    float peak = 0.0f, bad = 0.0f;
    for (int64_t i = thread; i < a.k; i += 256) {
      const float v = load(row, i);
      peak = __builtin_fmaxf(peak, __builtin_fabsf(v));
      bad = __builtin_fmaf(v, 0.0f, bad);  // 0, or NaN from NaN and infinity
    }
    most[thread] = peak, poison[thread] = bad;
    __syncthreads();
    for (int s = 128; s > 0; s /= 2) {
      if (thread < s) {
        most[thread] = __builtin_fmaxf(most[thread], most[thread + s]);
        poison[thread] += poison[thread + s];
      }
      __syncthreads();
    }
    peak = most[0], bad = poison[0];
    __syncthreads();  // before the next row writes them
    // 127 / peak overflows for a row of denormals; the largest float still keeps it exact enough to round.
    constexpr float kLargest = 3.40282347e38f;
    const float up = peak > 0.0f ? (127.0f / peak <= kLargest ? 127.0f / peak : kLargest) : 0.0f;
    if (thread == 0) a.x_scales[row] = bad != 0.0f || bad != bad ? bad : (up > 0.0f ? 1.0f / up : 0.0f);
    for (int64_t i = thread; i < a.ldq; i += 256) {
      const float v = i < a.k ? load(row, i) * up : 0.0f;
      const float q = __builtin_rintf(v);
      a.quantized[row * a.ldq + i] = static_cast<int8_t>(q > 127.0f ? 127 : q > -128.0f ? static_cast<int>(q) : -128);
    }
  }
}

// The partial sums of all splits, added in order; `first` is the place of the first split's, of rows of `columns`.
__device__ __forceinline__ float sum_of_splits(const kn_flat_gemm_gpu& a, int64_t first, int64_t columns) {
  float sum = 0.0f;
  int whole = 0;
  for (int64_t s = 0; s < a.splits; s++) {
    const int64_t i = first + s * a.m * columns;
    if (a.integer)
      whole += static_cast<const int*>(a.partial)[i];
    else
      sum += static_cast<const float*>(a.partial)[i];
  }
  return a.integer ? static_cast<float>(whole) : sum;
}

}  // namespace kn::flat_gemm
