// Multiply-adds of f32 outside of any tensor core: 16 chains a thread hide their latency.
#include <gpu.cuh>

#include "peak_gpu.h"

constexpr int kChains = 16;

// A chain comes to 2 - 2^-rounds.
KN_KERNEL(peak_gpu_f32, 256, 4, kn_peak_gpu) {
  float v[kChains];
#pragma unroll
  for (int i = 0; i < kChains; i++) v[i] = 1;
  for (int r = 0; r < args.rounds; r++) {
#pragma unroll
    for (int i = 0; i < kChains; i++) v[i] = __builtin_fmaf(v[i], 0.5f, 1.0f);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChains; i++) sum += v[i];
  args.sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
