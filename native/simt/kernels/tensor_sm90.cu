// Tensor copies and wgmma, so that a test sees the layout itself.
#include "sm90.cuh"

// The box at (n, n / 1000, n / 1000000) modulo 1000, each less 500, goes to out as it lies in shared memory. Two copies
// of it, since barriers are used again.
KN_KERNEL(simt_copy_tensor, 64, 1, kn_simt_tensor_test) {
  KN_DYNAMIC_SHARED(char, s);
  __shared__ kn::mbarrier full;
  if (threadIdx.x == 0) full.init(1);
  __syncthreads();
  const int bytes = static_cast<int>(kn_simt_dynamic_shared_bytes());
  const int x = static_cast<int>(args.n % 1000) - 500, y = static_cast<int>(args.n / 1000 % 1000) - 500;
  const int z = static_cast<int>(args.n / 1000000) - 500;
  for (int i = 0; i < 2; i++) {
    if (threadIdx.x == 0) {
      full.arrive_expect(bytes);
      kn::copy_tensor(s, &args.map, x, y, z, full);
    }
    full.wait(i);
    for (int b = static_cast<int>(threadIdx.x); b < bytes; b += 64) static_cast<char*>(args.out)[b] = s[b];
    __syncthreads();
  }
}

// The tile's product, R sums of each of 128 threads to out. mode 1: before they are there.
template <class Element, int R>
static void multiply(const kn_simt_tensor_test& args) {
  KN_DYNAMIC_SHARED(char, s);
  __shared__ kn::mbarrier full;
  if (threadIdx.x == 0) {
    full.init(1);
    full.arrive_expect(kn::kABytes + 2 * R * kn::kTileBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  __syncthreads();
  full.wait(0);
  float d[R];
  for (int i = 0; i < R; i++) d[i] = static_cast<float>(i);
  kn::wgmma_fence();
  kn::multiply_tile<Element>(s, d);
  if (!args.mode) kn::wgmma_wait<0>();
  for (int i = 0; i < R; i++) static_cast<float*>(args.out)[static_cast<int>(threadIdx.x) * R + i] = d[i];
  if (args.mode) kn::wgmma_wait<0>();
}

#define WGMMA(type, N) \
  KN_KERNEL(simt_wgmma_##type##_n##N, 128, 1, kn_simt_tensor_test) { multiply<kn::type, N / 2>(args); }
WGMMA(bf16, 8)
WGMMA(bf16, 16)
WGMMA(bf16, 128)
WGMMA(f16, 8)
WGMMA(f16, 64)
