// Kernels that the tests run to see that the simulated device does what CUDA says.
#include <gpu.cuh>

struct kn_simt_test {
  const void* in;
  void* out;
  int64_t n;
  int64_t mode;
};

// Sum of in[0 .. n) per block, by a tree in shared memory: log2(threads) + 1 barriers.
KN_KERNEL(simt_block_sum, 1024, 1, kn_simt_test) {
  KN_DYNAMIC_SHARED(int, partial);
  const unsigned t = threadIdx.x;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + t;
  partial[t] = i < args.n ? static_cast<const int*>(args.in)[i] : 0;
  __syncthreads();
  for (unsigned s = blockDim.x / 2; s > 0; s /= 2) {
    if (t < s) partial[t] += partial[t + s];
    __syncthreads();
  }
  if (t == 0) static_cast<int*>(args.out)[blockIdx.x] = partial[0];
}

// Every collective once; out[9 thread + ...].
KN_KERNEL(simt_collectives, 1024, 1, kn_simt_test) {
  const int lane = static_cast<int>(threadIdx.x % warpSize);
  const int v = static_cast<const int*>(args.in)[threadIdx.x];
  int64_t* const out = static_cast<int64_t*>(args.out) + threadIdx.x * 9;
  out[0] = __shfl_sync(0xffffffffu, v, 5);
  out[1] = __shfl_up_sync(0xffffffffu, v, 3);
  out[2] = __shfl_down_sync(0xffffffffu, v, 3, 8);
  out[3] = __shfl_xor_sync(0xffffffffu, v, warpSize / 2);
  out[4] = static_cast<int64_t>(__ballot_sync(0xffffffffu, v % 3 == 0));
  out[5] = __any_sync(0xffffffffu, v == 7) * 2 + __all_sync(0xffffffffu, v >= 0);
  out[6] = __syncthreads_count(v % 2) * 4 + __syncthreads_or(v == 7) * 2 + __syncthreads_and(v >= 0);
  // Half of the lanes take one way and half the other: their collectives do not meet.
  const uint64_t even = 0x5555555555555555ull;
  out[7] = lane % 2 ? __shfl_xor_sync(~even, v, 2) : __shfl_down_sync(even, v, 2, 4);
  out[8] = static_cast<int64_t>(__shfl_sync(0xffffffffu, static_cast<double>(v), lane ^ 1));
}

// Blocks of a cooperative grid add to one counter, meet, and all see the same total. Static shared memory survives.
KN_KERNEL(simt_grid, 1024, 1, kn_simt_test) {
  __shared__ int mine[64];
  unsigned* const counter = static_cast<unsigned*>(args.out);
  mine[threadIdx.x] = static_cast<int>(blockIdx.x * 100 + threadIdx.x);
  atomicAdd(counter, 1u);
  kn_simt_grid_barrier();
  const unsigned total = static_cast<unsigned>(kn_simt_load_acquire(counter, 4));
  kn_simt_grid_barrier();
  if (mine[threadIdx.x ^ 1] == static_cast<int>(blockIdx.x * 100 + (threadIdx.x ^ 1)))
    counter[1 + blockIdx.x * 64 + threadIdx.x] = total;
}

// Atomics of all kinds on global memory, from every thread.
KN_KERNEL(simt_atomics, 1024, 1, kn_simt_test) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  int* const i = static_cast<int*>(args.out);
  float* const f = static_cast<float*>(args.out) + 8;
  double* const d = static_cast<double*>(args.out) + 8;
  atomicAdd(&i[0], t);
  atomicMax(&i[1], t);
  atomicMin(&i[2], -t);
  atomicOr(&i[3], 1 << (t % 31));
  for (int seen = i[4], was = -1; seen != was;) was = seen, seen = atomicCAS(&i[4], was, was + 1);
  atomicAdd(&f[0], 1.0f);
  atomicAdd(&d[0], 0.5);
}

// Warp 1 fills one buffer 8 times, warp 0 reads it: barrier 1 says full, barrier 2 says empty. Each side waits at one
// and arrives at the other.
KN_KERNEL(simt_named_barriers, 64, 1, kn_simt_test) {
  KN_DYNAMIC_SHARED(int, buffer);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 8; i++) {
    if (threadIdx.x >= 32) {
      if (i > 0) kn_simt_named_barrier(2, 64);
      buffer[lane] = i * 100 + lane;
      kn_simt_named_arrive(1, 64);
    } else {
      kn_simt_named_barrier(1, 64);
      static_cast<int*>(args.out)[i * 32 + lane] = buffer[31 - lane];
      if (i < 7) kn_simt_named_arrive(2, 64);
    }
  }
}
