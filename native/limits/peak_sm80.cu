// Products of tensor cores by mma.sync, of ones: 8 independent sums a warp hide their latency.
#include <mma.cuh>

#include "peak_gpu.h"

namespace {

constexpr int kSums = 8;

__device__ __forceinline__ void product(kn::bf16 type, float (&d)[4], const uint32_t (&ones)[4]) {
  kn::mma(type, d, ones, ones[0], ones[1]);
}
__device__ __forceinline__ void product(kn::f16 type, float (&d)[4], const uint32_t (&ones)[4]) {
  kn::mma(type, d, ones, ones[0], ones[1]);
}
__device__ __forceinline__ void product(kn::s8, int (&d)[4], const uint32_t (&ones)[4]) {
  kn::mma_s8(d, ones, ones[0], ones[1]);
}

// Every element of a sum comes to rounds times the extent of k; a thread writes one of each of its sums, added.
template <class Type, class Sum>
__device__ __forceinline__ void multiply(uint32_t pair, const kn_peak_gpu& args) {
  const uint32_t ones[4] = {pair, pair, pair, pair};
  Sum d[kSums][4] = {};
  for (int r = 0; r < args.rounds; r++) {
#pragma unroll
    for (int i = 0; i < kSums; i++) product(Type{}, d[i], ones);
  }
  Sum sum = 0;
#pragma unroll
  for (int i = 0; i < kSums; i++) sum += d[i][i % 4];
  args.sums[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<float>(sum);
}

}  // namespace

KN_KERNEL(peak_sm80_bf16, 256, 2, kn_peak_gpu) { multiply<kn::bf16, float>(0x3f803f80, args); }
KN_KERNEL(peak_sm80_f16, 256, 2, kn_peak_gpu) { multiply<kn::f16, float>(0x3c003c00, args); }
KN_KERNEL(peak_sm80_s8, 256, 2, kn_peak_gpu) { multiply<kn::s8, int>(0x01010101, args); }
