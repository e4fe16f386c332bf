// What sm_90 adds, by name: mbarriers, tensor copies (TMA) and the warpgroup's products (wgmma); for files with the
// suffix _sm90. Under KN_SIMT the simulated device does the same.
//
// Tiles in shared memory have rows of 128 bytes, 64 elements of k, in the 128-byte swizzle: 8 rows are 1024 bytes, at a
// multiple of 1024, in which piece p of 16 bytes of row r lies at p ^ r. Tensor copies write them and wgmma reads them
// so.
#pragma once
#include <mma.cuh>

namespace kn {

constexpr int kTileBytes = 128, kTileK = 64;  // a row of a tile

// cuTensorMapEncodeTiled's result; only the copy engine reads it.
struct alignas(64) tensor_map {
  uint64_t v[16];
};

// The address of a kernel's parameter where it is. Taking it in C++ would copy the parameter to local memory, where the
// copy engine does not find a tensor map.
#if defined(KN_SIMT)
#define KN_PARAMETER(kernel, args) (&(args))
#else
#define KN_PARAMETER(kernel, args)                                                         \
  ({                                                                                       \
    decltype(&(args)) p;                                                                   \
    asm("{.reg .u64 a; mov.u64 a, " #kernel "_param_0; cvta.param.u64 %0, a;}" : "=l"(p)); \
    p;                                                                                     \
  })
#endif

// Arrivals and bytes that a phase waits for. Phases have parity 0, 1, 0, ...
struct mbarrier {
  uint64_t state;

  __device__ __forceinline__ void init(int arrivals) {
#if defined(KN_SIMT)
    kn_simt_mbarrier_init(&state, arrivals);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
#endif
  }

  __device__ __forceinline__ void arrive() {
#if defined(KN_SIMT)
    kn_simt_mbarrier_arrive(&state, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
#endif
  }

  // The phase then also waits for so many bytes of tensor copies.
  __device__ __forceinline__ void arrive_expect(int bytes) {
#if defined(KN_SIMT)
    kn_simt_mbarrier_arrive(&state, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
#endif
  }

  // Until the phase of this parity is over; before the first phase, that of parity 1 is.
  __device__ __forceinline__ void wait(int parity) {
#if defined(KN_SIMT)
    kn_simt_mbarrier_wait(&state, parity);
#else
    asm volatile(
        "{.reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra over; bra again; over:}" ::
            "r"(shared_address(this)),
        "r"(parity)
        : "memory");
#endif
  }
};

// After init: what the copy engine then does to the barriers comes after it.
__device__ __forceinline__ void fence_mbarrier_init() {
#if !defined(KN_SIMT)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Between stores of this thread to shared memory and wgmma's reads of them, which take another path.
__device__ __forceinline__ void fence_proxy_async() {
#if defined(KN_SIMT)
  kn_simt_fence_proxy_async();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Registers of a thread from here on, a multiple of 8; all warps of a warpgroup call it. What some give others can
// take.
template <int Registers>
__device__ __forceinline__ void decrease_registers() {
#if !defined(KN_SIMT)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}
template <int Registers>
__device__ __forceinline__ void increase_registers() {
#if !defined(KN_SIMT)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

// A barrier of the first Threads threads, whole warps, which leaves the others alone.
template <int Threads>
__device__ __forceinline__ void sync_first() {
#if defined(KN_SIMT)
  kn_simt_named_barrier(1, Threads);
#else
  asm volatile("bar.sync 1, %0;" ::"n"(Threads) : "memory");
#endif
}

// Where a thread is in a ring of stages that all threads go through in the same order.
template <int Stages>
struct ring_position {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage < Stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Four 8 x 8 matrices of 16 bits, transposed: lane l gives the address of row l % 8 of matrix l / 8 and, in r[i],
// elements (2t, g) and (2t + 1, g) of matrix i.
__device__ __forceinline__ void stmatrix_x4_trans(void* row, const uint32_t (&r)[4]) {
#if defined(KN_SIMT)
  kn_simt_stmatrix(row, r, 4, true);
#else
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#endif
}

// A box of a tensor of three dimensions, from the element at (c0, c1, c2) on, to shared memory; elements outside of the
// tensor are zero. All bytes of the box count at the barrier.
__device__ __forceinline__ void copy_tensor(void* shared, const tensor_map* map, int c0, int c1, int c2,
                                            mbarrier& done) {
#if defined(KN_SIMT)
  kn_simt_copy_tensor(shared, map, c0, c1, c2, &done.state);
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(shared_address(shared)),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(&done))
      : "memory");
#endif
}

// Descriptor of a tile that begins at `rows`, a multiple of 1024 bytes: bits 0..13 the address / 16, 32..45 the
// distance of groups of 8 rows / 16, 62..63 the 128-byte swizzle. Bits 16..29 are for tiles wider than the swizzle.
__device__ __forceinline__ uint64_t tile_descriptor(const char* rows) {
#if defined(KN_SIMT)
  const uint64_t address = static_cast<uint64_t>(rows - static_cast<const char*>(kn_simt_dynamic_shared()));
#else
  const uint64_t address = shared_address(rows);
#endif
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}
constexpr int kDescriptorK = 2, kDescriptorRows = 8;  // what 16 elements of k, and a row, add to a descriptor
constexpr uint64_t tiles_apart(int bytes) { return static_cast<uint64_t>(bytes >> 4); }

// Registers are this thread's until the fence, and again after the wait; between them they are wgmma's.
__device__ __forceinline__ void wgmma_fence() {
#if defined(KN_SIMT)
  kn_simt_wgmma_fence();
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#if defined(KN_SIMT)
  kn_simt_wgmma_commit();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// For all but the last Groups groups.
template <int Groups>
__device__ __forceinline__ void wgmma_wait() {
#if defined(KN_SIMT)
  kn_simt_wgmma_wait(Groups);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
#endif
}

// The registers hold their values from here on. A constant would be stored where wgmma first names them, perhaps
// between two wgmmas of a group, which ptxas then serialises.
template <int R>
__device__ __forceinline__ void settle(float (&d)[R]) {
#if !defined(KN_SIMT)
#pragma unroll
  for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i]));
#endif
}

// d += a b^T: 64 rows of a by 2R rows of b over 16 of k, by the 4 warps of a warpgroup. Of warp w, d[4j + 2h + e] is
// element (16w + g + 8h, 8j + 2t + e), lane = 4g + t.
// Transposed: the tile of a has k as its rows and the 64 rows of the product along them, so 16 of k are 16 of its rows.
#if defined(KN_SIMT)
template <bool Transposed = false, int R>
__device__ __forceinline__ void wgmma(bf16, float (&d)[R], uint64_t a, uint64_t b) {
  kn_simt_wgmma(d, 2 * R, a, b, true, Transposed);
}
template <bool Transposed = false, int R>
__device__ __forceinline__ void wgmma(f16, float (&d)[R], uint64_t a, uint64_t b) {
  kn_simt_wgmma(d, 2 * R, a, b, false, Transposed);
}
// The same with the rows of a in registers: those of m16n8k16 for the 16 rows of a warp (mma.cuh).
template <int R>
__device__ __forceinline__ void wgmma(bf16, float (&d)[R], const uint32_t (&a)[4], uint64_t b) {
  kn_simt_wgmma_registers(d, 2 * R, a, b, true);
}
// 32 of k, which are the 32 bytes of 16 in two bytes.
template <int R>
__device__ __forceinline__ void wgmma(s8, int (&d)[R], uint64_t a, uint64_t b) {
  kn_simt_wgmma_s8(d, 2 * R, a, b);
}
#else
#define KN_LIST4 "%0, %1, %2, %3"
#define KN_LIST8 KN_LIST4 ", %4, %5, %6, %7"
#define KN_LIST16 KN_LIST8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define KN_LIST32 KN_LIST16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define KN_LIST64                                                                                \
  KN_LIST32                                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define KN_SUMS4(r, i) "+" r(d[i]), "+" r(d[i + 1]), "+" r(d[i + 2]), "+" r(d[i + 3])
#define KN_SUMS8(r, i) KN_SUMS4(r, i), KN_SUMS4(r, i + 4)
#define KN_SUMS16(r, i) KN_SUMS8(r, i), KN_SUMS8(r, i + 8)
#define KN_SUMS32(r, i) KN_SUMS16(r, i), KN_SUMS16(r, i + 16)
#define KN_SUMS64(r, i) KN_SUMS32(r, i), KN_SUMS32(r, i + 32)
#define KN_WGMMA(type, N, R, A, B, T)                                                                                  \
  template <bool Transposed = false>                                                                                   \
  __device__ __forceinline__ void wgmma(type, float(&d)[R], uint64_t a, uint64_t b) {                                  \
    asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." #type \
                 " {" KN_LIST##R "}, %" #A ", %" #B ", p, 1, 1, %" #T ", 0;}"                                          \
                 : KN_SUMS##R("f", 0)                                                                                  \
                 : "l"(a), "l"(b), "n"(Transposed ? 1 : 0));                                                           \
  }
#define KN_WGMMA_SIZES(type)         \
  KN_WGMMA(type, 8, 4, 4, 5, 6)      \
  KN_WGMMA(type, 16, 8, 8, 9, 10)    \
  KN_WGMMA(type, 32, 16, 16, 17, 18) \
  KN_WGMMA(type, 64, 32, 32, 33, 34) \
  KN_WGMMA(type, 128, 64, 64, 65, 66)
KN_WGMMA_SIZES(bf16)
KN_WGMMA_SIZES(f16)
#undef KN_WGMMA_SIZES
#undef KN_WGMMA
// The same with the rows of a in registers: those of m16n8k16 for the 16 rows of a warp (mma.cuh).
#define KN_WGMMA_REGISTERS(N, R, A0, A1, A2, A3, B)                                                                    \
  __device__ __forceinline__ void wgmma(bf16, float(&d)[R], const uint32_t(&a)[4], uint64_t b) {                       \
    asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N                            \
                 "k16.f32.bf16.bf16 {" KN_LIST##R "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 0;}" \
                 : KN_SUMS##R("f", 0)                                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                \
  }
KN_WGMMA_REGISTERS(8, 4, 4, 5, 6, 7, 8)
KN_WGMMA_REGISTERS(16, 8, 8, 9, 10, 11, 12)
KN_WGMMA_REGISTERS(32, 16, 16, 17, 18, 19, 20)
KN_WGMMA_REGISTERS(64, 32, 32, 33, 34, 35, 36)
KN_WGMMA_REGISTERS(128, 64, 64, 65, 66, 67, 68)
#undef KN_WGMMA_REGISTERS
// 32 of k, which are the 32 bytes of 16 in two bytes.
#define KN_WGMMA_S8(N, R, A, B)                                                             \
  __device__ __forceinline__ void wgmma(s8, int(&d)[R], uint64_t a, uint64_t b) {           \
    asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N \
                 "k32.s32.s8.s8 {" KN_LIST##R "}, %" #A ", %" #B ", p;}"                    \
                 : KN_SUMS##R("r", 0)                                                       \
                 : "l"(a), "l"(b));                                                         \
  }
KN_WGMMA_S8(8, 4, 4, 5)
KN_WGMMA_S8(16, 8, 8, 9)
KN_WGMMA_S8(32, 16, 16, 17)
KN_WGMMA_S8(64, 32, 32, 33)
KN_WGMMA_S8(128, 64, 64, 65)
#undef KN_WGMMA_S8
#endif

}  // namespace kn
