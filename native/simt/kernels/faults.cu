// Kernels with one planted fault each, at the line that ends in the comment "planted". With mode 0 they are correct.
#include <gpu.cuh>

struct kn_simt_test {
  const void* in;
  void* out;
  int64_t n;
  int64_t mode;
};

#define KERNEL(name) KN_KERNEL(simt_fault_##name, 1024, 1, kn_simt_test)

KERNEL(shared_bounds) {
  KN_DYNAMIC_SHARED(int, s);
  const unsigned t = threadIdx.x;
  s[t] = 1;
  __syncthreads();
  if (t == 7) s[t + (args.mode ? blockDim.x : 0)] = 2;  // planted
}

KERNEL(array_bounds) {
  __shared__ int first[64], second[64];
  first[threadIdx.x] = second[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 9) first[threadIdx.x + (args.mode ? 55 : 0)] = 2;  // planted
  __syncthreads();
  if (threadIdx.x == 0) static_cast<int*>(args.out)[0] = first[1] + second[0];
}

KERNEL(global_bounds) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < args.n + (args.mode ? 1 : 0)) static_cast<int*>(args.out)[i] = 3;  // planted
}

KERNEL(global_read) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  static_cast<int*>(args.out)[i] = static_cast<const int*>(args.in)[i];  // planted
}

KERNEL(race) {
  KN_DYNAMIC_SHARED(int, s);
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!args.mode) __syncthreads();
  static_cast<int*>(args.out)[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];  // planted
}

KERNEL(write_after_read) {
  KN_DYNAMIC_SHARED(int, s);
  s[threadIdx.x] = 1;
  __syncthreads();
  const int v = s[threadIdx.x ^ 1];
  if (!args.mode) __syncthreads();
  s[threadIdx.x] = v + 1;  // planted
}

KERNEL(wave_race) {
  KN_DYNAMIC_SHARED(int, s);
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!args.mode) __syncwarp();
  static_cast<int*>(args.out)[threadIdx.x] = s[threadIdx.x ^ 1];  // planted
}

KERNEL(divergent_barrier) {
  if (args.mode == 1 && threadIdx.x == 3) return;
  if (args.mode == 2 && threadIdx.x == 3)
    __syncthreads();
  else
    __syncthreads();  // planted
}

KERNEL(divergent_shuffle) {
  if (args.mode && threadIdx.x == 3) return;
  static_cast<int*>(args.out)[threadIdx.x] = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);  // planted
}

KERNEL(uninitialised) {
  KN_DYNAMIC_SHARED(int, s);
  if (threadIdx.x != 5 || !args.mode) s[threadIdx.x] = 1;
  __syncthreads();
  static_cast<int*>(args.out)[threadIdx.x] = s[threadIdx.x];  // planted
}

KERNEL(uninitialised_static) {
  __shared__ float s[64];
  if (threadIdx.x != 5 || !args.mode) s[threadIdx.x] = 1.0f;
  __syncthreads();
  static_cast<float*>(args.out)[threadIdx.x] = s[threadIdx.x];  // planted
}

KERNEL(uninitialised_global) {
  int* const in = static_cast<int*>(const_cast<void*>(args.in));
  if (threadIdx.x != 6 || !args.mode) in[threadIdx.x] = 1;
  static_cast<int*>(args.out)[threadIdx.x] = in[threadIdx.x];  // planted
}

KERNEL(atomic_race) {
  KN_DYNAMIC_SHARED(int, s);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  atomicAdd(&s[0], 1);
  if (!args.mode) __syncthreads();
  static_cast<int*>(args.out)[threadIdx.x] = s[0];  // planted
}

KERNEL(misaligned) {
  const char* const p = static_cast<const char*>(args.in) + (args.mode && threadIdx.x == 2 ? 8 : 0);
  const kn::words w = kn::load16(p);  // planted
  static_cast<uint32_t*>(args.out)[threadIdx.x] = w.v[threadIdx.x % 4];
}

KERNEL(async) {
  KN_DYNAMIC_SHARED(int, s);
  kn_simt_cp_async(&s[threadIdx.x * 4], static_cast<const int*>(args.in) + threadIdx.x * 4, 16, 16);
  kn_simt_cp_async_commit();
  kn_simt_cp_async_wait(args.mode ? 1 : 0);
  static_cast<int*>(args.out)[threadIdx.x] = s[threadIdx.x * 4];  // planted
}

// Each thread waits for its own copies, but a barrier is missing before another one reads them.
KERNEL(async_race) {
  KN_DYNAMIC_SHARED(int, s);
  kn_simt_cp_async(&s[threadIdx.x * 4], static_cast<const int*>(args.in) + threadIdx.x * 4, 16, 16);
  kn_simt_cp_async_commit();
  kn_simt_cp_async_wait(0);
  if (!args.mode)
    __syncthreads();
  else
    __syncwarp(1ull << threadIdx.x % warpSize);
  static_cast<int*>(args.out)[threadIdx.x] = s[threadIdx.x / 32 * 128 + (threadIdx.x + 31) % 32 * 4];  // planted
}

KERNEL(division) {
  static_cast<int*>(args.out)[threadIdx.x] = 7 / static_cast<int>(threadIdx.x + (args.mode ? 0 : 1));  // planted
}

KERNEL(trap) {
  if (args.mode && threadIdx.x == 1) __trap();  // planted
}

// stack
static __attribute__((noinline)) void need_stack(int64_t n) {  // planted
  volatile char large[200000];
  large[static_cast<size_t>(n)] = 1;
}

KERNEL(stack) {
  if (args.mode) need_stack(args.n);
}
