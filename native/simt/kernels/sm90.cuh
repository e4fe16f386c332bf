// What the test kernels of sm_90 share.
#pragma once
#include <sm90.cuh>

struct kn_simt_tensor_test {
  kn::tensor_map map;
  const void* in;
  void* out;
  int64_t n;
  int64_t mode;
};

namespace kn {
namespace {

constexpr int kARows = 64, kABytes = kARows * kTileBytes;

// d += a b^T over a tile, whose rows are 64 of a and then those of b; transposed, the first 64 rows are the k of a.
template <class Element, bool Transposed = false, int R>
__device__ __forceinline__ void multiply_tile(const char* tile, float (&d)[R]) {
  const uint64_t a = tile_descriptor(tile), b = tile_descriptor(tile + kABytes);
  for (int k = 0; k < kTileK / 16; k++) {
    const uint64_t at = static_cast<uint64_t>(k * kDescriptorK);
    wgmma<Transposed>(Element{}, d, a + (Transposed ? tiles_apart(k * 16 * kTileBytes) : at), b + at);
  }
  wgmma_commit();
}

}  // namespace
}  // namespace kn
