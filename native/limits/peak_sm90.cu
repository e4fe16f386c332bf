// Products of tensor cores by wgmma, of ones in shared memory: 64 rows by 128, sixteen steps of k for each wait, by a
// warpgroup that is a block.
#include <sm90.cuh>

#include "peak_gpu.h"

namespace {

constexpr int kRows = 64, kColumns = 128, kStepsInTile = 4, kSteps = 16, kThreads = 128;

// Every element comes to rounds times the extent of k of the sixteen steps; a thread writes one.
template <class Type, class Sum>
__device__ __forceinline__ void multiply(uint32_t ones, char* tiles, const kn_peak_gpu& args) {
  for (int i = threadIdx.x; i < (kRows + kColumns) * kn::kTileBytes / 4; i += kThreads)
    reinterpret_cast<uint32_t*>(tiles)[i] = ones;
  kn::fence_proxy_async();
  __syncthreads();
  const uint64_t a = kn::tile_descriptor(tiles), b = kn::tile_descriptor(tiles + kRows * kn::kTileBytes);
  Sum d[kColumns / 2];
#pragma unroll
  for (int i = 0; i < kColumns / 2; i++) d[i] = 0;
  for (int r = 0; r < args.rounds; r++) {
    kn::wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSteps; s++) {
      const int at = s % kStepsInTile * kn::kDescriptorK;
      kn::wgmma(Type{}, d, a + at, b + at);
    }
    kn::wgmma_commit();
    kn::wgmma_wait<0>();
  }
  args.sums[blockIdx.x * kThreads + threadIdx.x] = static_cast<float>(d[0]);
}

}  // namespace

#if defined(KN_SIMT)
#define TILES(memory) memory
#else
#define TILES(memory) (memory + (-kn::shared_address(memory) & 1023u))
#endif
#define KERNEL(name, Type, Sum, ones)                     \
  KN_KERNEL(peak_sm90_##name, kThreads, 2, kn_peak_gpu) { \
    KN_DYNAMIC_SHARED(char, memory);                      \
    multiply<kn::Type, Sum>(ones, TILES(memory), args);   \
  }
KERNEL(bf16, bf16, float, 0x3f803f80)
KERNEL(f16, f16, float, 0x3c003c00)
KERNEL(s8, s8, int, 0x01010101)
