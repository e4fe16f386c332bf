// What a .cu file sees when it is built for the simulated GPU (KN_SIMT): CUDA's spelling for plain C++. Included by
// kernels/common/gpu.cuh, whose macros choose between this and the device compilers; the kernels never include it.
//
// A source is built once for each wave size, KN_SIMT_WAVE 32 and 64, into one library. So whatever a .cu file defines
// is static, in an anonymous namespace or in namespace kn, which the second build renames, and kernels are defined by
// KN_SIMT_KERNEL. Lane masks are 64 bits wide; 0xffffffff, all that CUDA's masks can say, means every lane. Names in
// CUDA spelling behave as in CUDA; names with kn_simt_ are what gpu.cuh, mma.cuh and sm90.cuh call in place of an asm
// statement.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
// A block stays on one OS thread, and several blocks on one thread swap their copies.
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#ifndef KN_SIMT_WAVE
#define KN_SIMT_WAVE 32
#endif

// Defines and registers a kernel: KN_SIMT_KERNEL(name, Args) { ... args ... }. A third argument is the most threads
// that a block may have.
#define KN_SIMT_KERNEL(name, Args, ...)                                                                     \
  static void name(const Args args);                                                                        \
  static void name##_simt(const void* block) { name(*static_cast<const Args*>(block)); }                    \
  static kn_simt_registration name##_registration(#name, __FILE__, name##_simt, sizeof(Args), KN_SIMT_WAVE, \
                                                  (__VA_ARGS__ + 0));                                       \
  static void name(const Args args)

struct kn_simt_registration {
  kn_simt_registration(const char* name, const char* file, void (*entry)(const void*), size_t args_bytes, int wave,
                       int threads);
  const char* name;
  const char* file;
  void (*entry)(const void* args);
  size_t args_bytes;
  int wave, threads;
  kn_simt_registration* next;
};

struct kn_simt_uint3 {
  unsigned x, y, z;
};

// Constant for a thread, so the compiler may keep them across barriers.
#define KN_SIMT_CONST __attribute__((const))
KN_SIMT_CONST kn_simt_uint3 kn_simt_thread_idx();
KN_SIMT_CONST kn_simt_uint3 kn_simt_block_idx();
KN_SIMT_CONST kn_simt_uint3 kn_simt_block_dim();
KN_SIMT_CONST kn_simt_uint3 kn_simt_grid_dim();
KN_SIMT_CONST int kn_simt_lane();
KN_SIMT_CONST void* kn_simt_dynamic_shared();  // 1024-byte aligned
KN_SIMT_CONST unsigned kn_simt_dynamic_shared_bytes();
#define threadIdx (kn_simt_thread_idx())
#define blockIdx (kn_simt_block_idx())
#define blockDim (kn_simt_block_dim())
#define gridDim (kn_simt_grid_dim())
#define warpSize KN_SIMT_WAVE

// Barriers. The number of true predicates, whether any and whether all are come back together.
struct kn_simt_votes {
  int count, any, all;
};
kn_simt_votes kn_simt_barrier(int predicate, int line);  // every thread of the block, from one line of the source
void kn_simt_named_barrier(int id, int threads);         // bar.sync id, threads: id 1..15
void kn_simt_named_arrive(int id, int threads);          // bar.arrive id, threads
void kn_simt_wave_barrier(uint64_t mask);
void kn_simt_grid_barrier();                      // cooperative launches only
#define KN_SIMT_LINE int line = __builtin_LINE()  // that of the call
static inline void __syncthreads(KN_SIMT_LINE) { kn_simt_barrier(0, line); }
static inline int __syncthreads_count(int predicate, KN_SIMT_LINE) { return kn_simt_barrier(predicate, line).count; }
static inline int __syncthreads_or(int predicate, KN_SIMT_LINE) { return kn_simt_barrier(predicate, line).any; }
static inline int __syncthreads_and(int predicate, KN_SIMT_LINE) { return kn_simt_barrier(predicate, line).all; }
#undef KN_SIMT_LINE
static inline void __syncwarp(uint64_t mask = ~0ull) { kn_simt_wave_barrier(mask); }

// Wave collectives. Shuffles order no memory, as in CUDA.
enum kn_simt_shuffle_mode { KN_SIMT_IDX, KN_SIMT_UP, KN_SIMT_DOWN, KN_SIMT_XOR };
uint64_t kn_simt_shuffle(kn_simt_shuffle_mode mode, uint64_t mask, uint64_t value, int lane, int width);
uint64_t kn_simt_ballot(uint64_t mask, int predicate);
uint64_t kn_simt_match(uint64_t mask, uint64_t value);  // lanes that hold the same value
uint64_t kn_simt_active_mask();                         // lanes that have not returned from the kernel

#define KN_SIMT_SHUFFLE(name, mode)                                       \
  template <class T>                                                      \
  static inline T name(uint64_t mask, T value, int lane, int width = 0) { \
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");       \
    uint64_t bits = 0;                                                    \
    memcpy(&bits, &value, sizeof(T));                                     \
    bits = kn_simt_shuffle(mode, mask, bits, lane, width);                \
    memcpy(&value, &bits, sizeof(T));                                     \
    return value;                                                         \
  }
KN_SIMT_SHUFFLE(__shfl_sync, KN_SIMT_IDX)
KN_SIMT_SHUFFLE(__shfl_up_sync, KN_SIMT_UP)
KN_SIMT_SHUFFLE(__shfl_down_sync, KN_SIMT_DOWN)
KN_SIMT_SHUFFLE(__shfl_xor_sync, KN_SIMT_XOR)
#undef KN_SIMT_SHUFFLE
static inline uint64_t __ballot_sync(uint64_t mask, int predicate) { return kn_simt_ballot(mask, predicate); }
static inline int __any_sync(uint64_t mask, int predicate) { return kn_simt_ballot(mask, predicate) != 0; }
static inline int __all_sync(uint64_t mask, int predicate) { return kn_simt_ballot(mask, !predicate) == 0; }
static inline uint64_t __activemask() { return kn_simt_active_mask(); }

// Atomics on 4 or 8 bytes. They are checked like accesses, and do not race with one another.
uint64_t kn_simt_atomic_load(const void* address, size_t bytes);
bool kn_simt_atomic_exchange(void* address, uint64_t* seen, uint64_t wanted, size_t bytes);  // if it still holds *seen
template <class T, class F>
static inline T kn_simt_atomic_update(T* address, F next) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics are 4 or 8 bytes wide");
  uint64_t seen = kn_simt_atomic_load(address, sizeof(T)), wanted = 0;
  T old;
  do {
    memcpy(&old, &seen, sizeof(T));
    const T value = next(old);
    memcpy(&wanted, &value, sizeof(T));
  } while (!kn_simt_atomic_exchange(address, &seen, wanted, sizeof(T)));
  return old;
}
template <class T>
struct kn_simt_same {
  using type = T;
};
#define KN_SIMT_ATOMIC(name, expression)                                                            \
  template <class T>                                                                                \
  static inline T name(T* address, typename kn_simt_same<T>::type v) {                              \
    return kn_simt_atomic_update(address, [=]([[maybe_unused]] T old) -> T { return expression; }); \
  }
KN_SIMT_ATOMIC(atomicAdd, T(old + v))
KN_SIMT_ATOMIC(atomicSub, T(old - v))
KN_SIMT_ATOMIC(atomicMin, v < old ? v : old)
KN_SIMT_ATOMIC(atomicMax, v > old ? v : old)
KN_SIMT_ATOMIC(atomicAnd, T(old& v))
KN_SIMT_ATOMIC(atomicOr, T(old | v))
KN_SIMT_ATOMIC(atomicXor, T(old ^ v))
KN_SIMT_ATOMIC(atomicExch, v)
KN_SIMT_ATOMIC(atomicInc, old >= v ? T(0) : T(old + 1))
#undef KN_SIMT_ATOMIC
template <class T>
static inline T atomicCAS(T* address, typename kn_simt_same<T>::type compare, typename kn_simt_same<T>::type v) {
  return kn_simt_atomic_update(address, [=](T old) -> T { return old == compare ? v : old; });
}
// Loads and stores that order memory between blocks. A load lets other threads run now and then, so spin loops end.
uint64_t kn_simt_load_acquire(const void* address, size_t bytes);
void kn_simt_store_release(void* address, uint64_t value, size_t bytes);

void __threadfence();
static inline void __threadfence_block() {}
static inline void __threadfence_system() { __threadfence(); }
void kn_simt_yield();
static inline void __nanosleep(unsigned) { kn_simt_yield(); }
[[noreturn]] void __trap();
long long clock64();  // counts scheduler events: grows, and is the same in every run

// Matrix instructions of a whole warp of 32, fragments as in the PTX ISA.
void kn_simt_mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c);
void kn_simt_mma_m16n8k16_f16(float* d, const uint32_t* a, const uint32_t* b, const float* c);
void kn_simt_mma_m16n8k32_s8(int32_t* d, const uint32_t* a, const uint32_t* b, const int32_t* c);
// ldmatrix.sync.aligned.m8n8.x{count}[.trans].shared.b16: `row` is this lane's row address.
void kn_simt_ldmatrix(uint32_t* registers, const void* row, int count, bool transposed);
void kn_simt_stmatrix(void* row, const uint32_t* registers, int count, bool transposed);

// cp.async: bytes 4, 8 or 16, of which source_bytes are read and the rest is zero. The data arrive at the wait.
void kn_simt_cp_async(void* shared, const void* global, int bytes, int source_bytes);
void kn_simt_cp_async_commit();
void kn_simt_cp_async_wait(int groups);  // all but the latest `groups` groups; -1: everything, committed or not

// What sm_90 adds. An mbarrier's phases have parity 0, 1, 0, ...; a phase is over when all have arrived and the bytes
// that they expect have landed, which a tensor copy does not before some thread waits. `map` is what encode_tensor
// made.
void kn_simt_mbarrier_init(void* barrier, int arrivals);
void kn_simt_mbarrier_arrive(void* barrier, int expected_bytes);
void kn_simt_mbarrier_wait(void* barrier, int parity);
void kn_simt_copy_tensor(void* shared, const void* map, int c0, int c1, int c2, void* barrier);
void kn_simt_fence_proxy_async();
// wgmma.m64n{n}k16 with descriptors of K-major operands, a perhaps transposed, in the 128-byte swizzle, addresses in
// dynamic shared memory. Operands are read and d is written when the group is waited for; until then d holds NaN.
void kn_simt_wgmma(float* d, int n, uint64_t a, uint64_t b, bool bf16, bool transposed_a);
// The same with this warp's 16 rows of a in registers, which are read at once, as fragments of m16n8k16; and k32 of s8.
void kn_simt_wgmma_registers(float* d, int n, const uint32_t (&a)[4], uint64_t b, bool bf16);
void kn_simt_wgmma_s8(int32_t* d, int n, uint64_t a, uint64_t b);
void kn_simt_wgmma_fence();
void kn_simt_wgmma_commit();
void kn_simt_wgmma_wait(int groups);

// gcc leaves copies of more than 16 bytes out of its instrumentation.
#if defined(KN_SIMT_CHECKS) && !defined(__clang__)
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t bytes);
__forceinline__ void* kn_simt_memcpy(void* to, const void* from, size_t bytes) {
  if (__builtin_constant_p(bytes) && bytes <= 16) return __builtin_memcpy(to, from, bytes);
  return __tsan_memcpy(to, from, bytes);
}
#define memcpy kn_simt_memcpy
#define __builtin_memcpy kn_simt_memcpy
#endif
