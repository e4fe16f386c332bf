// The argument of the GPU kernels of flat_gemm, one struct for all of them. Addresses are the device's.
//
//   flat_gemm_gpu_<w>_<x>_m<M>         grid (ceil(columns / 16), splits, tiles), block of 4 waves; M = 1 4 8 16
//     <w>_<x>: f32_f32 bf16_bf16 bf16_f16 bf16_f32 f16_bf16 f16_f16 f16_f32 s8_s8 s8_bf16 u4_bf16
//   flat_gemm_sm80_<w>_<x>_m<M>_n<N>   grid (ceil(columns / N), splits, tiles), block of 256; N = 32 with M = 8 16, or
//     N = 64 with M = 8 16 32 64; dynamic shared memory (M <= 16 ? 4 : 3) 16 (N bits(w) + M bits(x)) bytes
//     <w>_<x>: bf16_bf16 f16_f16 s8_bf16 u4_bf16 s8_s8
//   flat_gemm_sm90_<w>_<x>_m<M>        grid (any number of blocks, which share the tiles), block of 384; N = 128, M = 8
//     16 32 64, and 128 256 where w and x are of one type; argument kn_flat_gemm_sm90; dynamic shared memory 21504 +
//     stages 128 (128 + M bits(x) / bits(w)) bytes, stages the most that 208896 bytes hold
//     <w>_<x>: bf16_bf16 f16_f16 s8_s8 s8_bf16 u4_bf16
//   flat_gemm_gpu_quantize             grid (m), block of 256: x bf16 or f32 to s8 in `quantized` and `x_scales`; then
//     s8_s8 with that x
//   flat_gemm_gpu_reduce               grid (ceil(n / 256), m), block of 256: after splits > 1
// tiles = ceil(m / M); dimensions y and z of a grid are cut at 65535, and the kernels loop.
//
// columns = 2n when gated, else n. With splits > 1 the kernels leave sums in `partial` [splits, m, columns] (a gated
// pair side by side: gate 0, up 0, gate 1, ...), 4 bytes each, and reduce adds them in order. Integer kinds take k up
// to KN_FLAT_GEMM_GPU_INTEGER_K, which one s32 holds. Loads are of 16 bytes where x, w, ldx, ldw are multiples of that.
#pragma once
#include <stdint.h>

enum {
  KN_FLAT_GEMM_GPU_INTEGER_K = 131071,  // 2^31 / 2^14, less one
  KN_FLAT_GEMM_GPU_K_STEP = 128,        // k_split is a multiple
};

typedef struct kn_flat_gemm_gpu {
  const void* x;  // [m, k]
  const void* w;  // [columns, k] as in kn_flat_gemm_args
  const float* scales;
  const uint8_t* zeros;
  const float* bias;
  const void* residual;
  void* y;
  void* partial;      // splits > 1
  float* x_scales;    // [m]: s8 x; written by quantize
  int8_t* quantized;  // [m, ldq]: written by quantize
  int64_t ldx, ldw, ldr, ldy, ldq;
  int32_t m, n, k;
  int32_t k_split;  // k of one split: split s has [s k_split, min(k, (s + 1) k_split))
  int32_t splits;
  int32_t group;
  int32_t x_type, w_type, y_type;  // kn_dtype
  int32_t activation;              // kn_activation
  int32_t flags;                   // KN_GEMM_*
  int32_t integer;                 // 1: s8 x s8, sums are s32
} kn_flat_gemm_gpu;

// The argument of flat_gemm_sm90. A tensor map (cuTensorMapEncodeTiled: elements of 2 bytes, or bytes for s8 and u4;
// 128-byte swizzle, zeros outside) has dimensions (k, rows, parts) and boxes, R = 128 bytes of k, of
//   x: (R, M, 1) of [1, m, k]      w: (R, 128, 1) of [1, n, k], gated (R, 8, 2) of [2, n, k]
// It needs addresses and strides that are multiples of 16 bytes; an operand that has none is read by ordinary loads.
typedef struct kn_flat_gemm_sm90 {
  alignas(64) uint64_t x_map[16];
  uint64_t w_map[16];
  kn_flat_gemm_gpu call;
  int32_t x_mapped, w_mapped;  // 1: there is a map
  int64_t unused[2];
} kn_flat_gemm_sm90;
