// y[m,n] = act(x[m,k] . w[n,k]^T + bias[n]) (+ residual[m,n])
// gated:  y[m,n] = silu(x . w[0..n)^T + bias[0..n)) * (x . w[n..2n)^T + bias[n..2n)) (+ residual)
#pragma once
#include <kn.h>

typedef enum kn_activation {
  KN_ACT_NONE = 0,
  KN_ACT_RELU = 1,
  KN_ACT_GELU_TANH = 2,
  KN_ACT_GELU_ERF = 3,
  KN_ACT_SILU = 4,
} kn_activation;

enum {
  KN_GEMM_BIAS = 1 << 0,
  KN_GEMM_RESIDUAL = 1 << 1,
  KN_GEMM_GATED = 1 << 2,      // w holds 2n rows: n of the gate, then n of up; the activation is SiLU on the gate
  KN_GEMM_ZEROS = 1 << 3,      // u4 weights carry a zero point per group; without it the zero point is 8
  KN_GEMM_QUANTIZE_X = 1 << 4  // s8 weights with bf16 or f32 x: x is quantised per row to s8 inside the call
};

// What the choice depends on. m is the largest m that a call will bring.
//   w f32           x f32             y f32
//   w bf16, f16     x bf16, f16, f32  y bf16, f16, f32
//   w s8            x s8 (with x_scales), bf16, f32 (with QUANTIZE_X), bf16 (without)    y bf16, f32     scales f32 [n]
//   w u4            x bf16            y bf16, f32     scales f32 [n, ceil(k/group)], group 32, 64 or 128
typedef struct kn_flat_gemm_problem {
  uint32_t size;
  int32_t x_type, w_type, y_type;  // kn_dtype
  int32_t m, n, k;                 // 0 to 2^28, as are strides
  int32_t group;                   // u4: elements of k per scale; otherwise 0
  int32_t activation;              // kn_activation
  int32_t flags;                   // KN_GEMM_*
} kn_flat_gemm_problem;

// What changes per call. Strides are in elements, the last dimension is contiguous. N below is 2n when gated, else n.
typedef struct kn_flat_gemm_args {
  uint32_t size;
  int32_t m;              // rows of this call, 0 <= m <= problem.m
  const void* x;          // [m, k] x_type
  int64_t ldx;            // >= k
  const float* x_scales;  // [m], x s8 only: x = q * x_scales[row]
  const void* w;          // [N, k] w_type; prepack, and rows without a layout
  int64_t ldw;            // >= k; even for u4
  const float* scales;    // s8: [N]; u4: [N, ceil(k/group)]; prepack, and rows without a layout
  const uint8_t* zeros;   // u4 with ZEROS: [N, ceil(k/group)], each 0..15; same
  void* packed;           // packed_bytes, 64-byte aligned: written by prepack, read by run
  int64_t packed_bytes;
  const float* bias;     // [N]
  const void* residual;  // [m, n] y_type; may be y itself
  int64_t ldr;           // >= n
  void* y;               // [m, n] y_type; overlaps nothing else
  int64_t ldy;           // >= n
  void* workspace;       // 64-byte aligned
  int64_t workspace_bytes;
} kn_flat_gemm_args;
