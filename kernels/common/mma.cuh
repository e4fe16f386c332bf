// Tensor core and asynchronous copy instructions of sm_80, by name; for files with the suffix _sm80 and later. Under
// KN_SIMT the simulated device does the same with the same fragments.
//
// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16" and ".m16n8k32"), lane = 4 g + t, g = lane / 4, t = lane % 4.
// A register holds elements that neighbour along k: two of 16 bits, or four of 8.
//   16 bits: a[0] (row g, k 2t)  a[1] (g + 8, 2t)  a[2] (g, 2t + 8)  a[3] (g + 8, 2t + 8)
//            b[0] (k 2t, col g)  b[1] (2t + 8, g)
//   8 bits:  a[0] (g, 4t)  a[1] (g + 8, 4t)  a[2] (g, 4t + 16)  a[3] (g + 8, 4t + 16);  b[0] (4t, g)  b[1] (4t + 16, g)
//   d[0] (g, 2t)  d[1] (g, 2t + 1)  d[2] (g + 8, 2t)  d[3] (g + 8, 2t + 1)
#pragma once
#include <gpu.cuh>

namespace kn {

// What a kernel multiplies.
struct bf16 {};
struct f16 {};
struct s8 {};

// d += a b
__device__ __forceinline__ void mma(bf16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(KN_SIMT)
  const uint32_t b[2] = {b0, b1};
  kn_simt_mma_m16n8k16_bf16(d, a, b, d);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void mma(f16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(KN_SIMT)
  const uint32_t b[2] = {b0, b1};
  kn_simt_mma_m16n8k16_f16(d, a, b, d);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(KN_SIMT)
  const uint32_t b[2] = {b0, b1};
  kn_simt_mma_m16n8k32_s8(d, a, b, d);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

#if !defined(KN_SIMT)
// The address of shared memory as the instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  uint32_t a;
  asm("{.reg .u64 s; cvta.to.shared.u64 s, %1; cvt.u32.u64 %0, s;}" : "=r"(a) : "l"(p));
  return a;
}
#endif

// Four 8 x 8 matrices of 16 bits: lane l gives the address of row l % 8 of matrix l / 8 and gets, in r[i], elements 2t
// and 2t + 1 of row g of matrix i.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#if defined(KN_SIMT)
  kn_simt_ldmatrix(r, row, 4, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// The same, each matrix transposed: in r[i] elements (2t, g) and (2t + 1, g).
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#if defined(KN_SIMT)
  kn_simt_ldmatrix(r, row, 4, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// 16 bytes from global to shared memory behind the back of this thread; the last 16 - bytes of them are zeros, and the
// source is not read where bytes is 0. Past L1, since they are read once.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, int bytes = 16) {
#if defined(KN_SIMT)
  kn_simt_cp_async(shared, global, 16, bytes);
#else
  asm volatile("{.reg .u64 g; cvta.to.global.u64 g, %1; cp.async.cg.shared.global [%0], [g], 16, %2;}" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if defined(KN_SIMT)
  kn_simt_cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all but the last Groups groups of this thread. Others see them after a barrier.
template <int Groups>
__device__ __forceinline__ void cp_async_wait() {
#if defined(KN_SIMT)
  kn_simt_cp_async_wait(Groups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#endif
}

// 4 bytes from global to shared memory, likewise.
__device__ __forceinline__ void cp_async4(void* shared, const void* global) {
#if defined(KN_SIMT)
  kn_simt_cp_async(shared, global, 4, 4);
#else
  asm volatile(
      "{.reg .u64 g; cvta.to.global.u64 g, %1; cp.async.ca.shared.global [%0], [g], 4;}" ::"r"(shared_address(shared)),
      "l"(global)
      : "memory");
#endif
}

// A tile's row of Bytes in chunks of 16, xor-ed with a pattern of the row so that the rows that are read together lie
// in different banks: 8 rows of 1 chunk, 4 of 2, 2 of 4.
template <int Bytes>
__device__ __forceinline__ int swizzled(int row, int byte) {
  const int pattern = Bytes == 64 ? row >> 1 & 3 : (row & 1) << 2 | (row & 2) | (row >> 2 & 1);
  return row * Bytes + (byte ^ pattern << 4);
}

// 16 bytes at `from`, of which the first `valid` exist; the rest is zero.
__device__ __forceinline__ void copy16(char* to, const char* from, int64_t valid, bool aligned) {
  const int bytes = valid >= 16 ? 16 : valid > 0 ? static_cast<int>(valid) : 0;
  if (aligned) {
    cp_async16(to, from, bytes);
    return;
  }
  words w = {};
#pragma unroll  // or w lies in local memory
  for (int i = 0; i < 16; i++)
    if (i < bytes) w.v[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(from[i])) << (8 * (i % 4));
  *reinterpret_cast<words*>(to) = w;
}

// Two f32 as two of 16 bits, the first one low, to nearest even.
__device__ __forceinline__ uint32_t pack(bf16, float low, float high) {
#if defined(KN_SIMT)
  return narrow_bf16(low) | static_cast<uint32_t>(narrow_bf16(high)) << 16;
#else
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#endif
}
__device__ __forceinline__ uint32_t pack(f16, float low, float high) {
#if defined(KN_SIMT)
  return narrow_f16(low) | static_cast<uint32_t>(narrow_f16(high)) << 16;
#else
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#endif
}

}  // namespace kn
