// The argument of the GPU kernels of sparse_linear, one struct for all of them. Addresses are the device's.
//
//   sparse_linear_gpu_<w>_m<M>         grid (ceil(n / 16), splits, tiles), block of 256; M = 1 4 8 16
//     <w>: f32 bf16 f16 s8, with any x that is no integer; s8_s8
//   sparse_linear_gpu_quantize         grid (m), block of 256: as flat_gemm_gpu_quantize, of x with its inputs
//   sparse_linear_gpu_reduce           grid (ceil(n / 256), m), block of 256: after splits > 1
// tiles = ceil(m / M); dimension z of a grid, and y of reduce's, are cut at 65535, and the kernels loop.
//
// layer.w is what prepack wrote (sparse_linear_panel.h), layer.scales its scales [panel][16], layer.ldw and layer.group
// are not read; layer.k_split is a multiple of 64. layer.partial is [splits, m, panels 16], a gated pair of panels side
// by side.
#pragma once
#include <flat_gemm/flat_gemm_gpu.h>

typedef struct kn_sparse_linear_gpu {
  kn_flat_gemm_gpu layer;
  const uint64_t* outputs;  // null: all are active
  const uint64_t* inputs;
  int64_t bits_at, values_at;  // bytes from layer.w
  int64_t k_padded, blocks;    // of a panel
} kn_sparse_linear_gpu;
