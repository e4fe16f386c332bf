// CUDA's names for clang without a vendor SDK: attributes, registers, shuffles, barriers, atomics of PTX and of AMD.
// Atomics are relaxed, and of the whole device. Included by gpu.cuh alone.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ inline __attribute__((always_inline))
#define KN_REGISTER(name, x_expression, y_expression, z_expression)             \
  struct kn_register_##name {                                                   \
    __declspec(property(get = get_x)) unsigned x;                               \
    __declspec(property(get = get_y)) unsigned y;                               \
    __declspec(property(get = get_z)) unsigned z;                               \
    static __device__ __forceinline__ unsigned get_x() { return x_expression; } \
    static __device__ __forceinline__ unsigned get_y() { return y_expression; } \
    static __device__ __forceinline__ unsigned get_z() { return z_expression; } \
  };                                                                            \
  extern const __device__ __attribute__((weak)) kn_register_##name name;
#if defined(__NVPTX__)
KN_REGISTER(threadIdx, __nvvm_read_ptx_sreg_tid_x(), __nvvm_read_ptx_sreg_tid_y(), __nvvm_read_ptx_sreg_tid_z())
KN_REGISTER(blockIdx, __nvvm_read_ptx_sreg_ctaid_x(), __nvvm_read_ptx_sreg_ctaid_y(), __nvvm_read_ptx_sreg_ctaid_z())
KN_REGISTER(blockDim, __nvvm_read_ptx_sreg_ntid_x(), __nvvm_read_ptx_sreg_ntid_y(), __nvvm_read_ptx_sreg_ntid_z())
KN_REGISTER(gridDim, __nvvm_read_ptx_sreg_nctaid_x(), __nvvm_read_ptx_sreg_nctaid_y(), __nvvm_read_ptx_sreg_nctaid_z())
// The last operand of shfl is the clamp: 31, for segments of a whole warp.
static __device__ __forceinline__ int __shfl_xor_sync(unsigned mask, int v, int lanes) {
  return __nvvm_shfl_sync_bfly_i32(mask, v, lanes, 31);
}
static __device__ __forceinline__ float __shfl_xor_sync(unsigned mask, float v, int lanes) {
  return __nvvm_shfl_sync_bfly_f32(mask, v, lanes, 31);
}
static __device__ __forceinline__ int __shfl_sync(unsigned mask, int v, int lane) {
  return __nvvm_shfl_sync_idx_i32(mask, v, lane, 31);
}
static __device__ __forceinline__ float __shfl_sync(unsigned mask, float v, int lane) {
  return __nvvm_shfl_sync_idx_f32(mask, v, lane, 31);
}
static __device__ __forceinline__ int __any_sync(unsigned mask, int v) { return __nvvm_vote_any_sync(mask, v); }
static __device__ __forceinline__ void __syncwarp(unsigned mask = 0xffffffffu) { __nvvm_bar_warp_sync(mask); }
static __device__ __forceinline__ void __threadfence() { __nvvm_membar_gl(); }
static __device__ __forceinline__ unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static __device__ __forceinline__ unsigned atomicAdd(unsigned* p, unsigned v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static __device__ __forceinline__ unsigned atomicOr(unsigned* p, unsigned v) {
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
static __device__ __forceinline__ unsigned long long atomicMax(unsigned long long* p, unsigned long long v) {
  return __atomic_fetch_max(p, v, __ATOMIC_RELAXED);
}
static __device__ __forceinline__ unsigned atomicCAS(unsigned* p, unsigned seen, unsigned v) {
  __atomic_compare_exchange_n(p, &seen, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return seen;
}
#else  // AMD
KN_REGISTER(threadIdx, __builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y(),
            __builtin_amdgcn_workitem_id_z())
KN_REGISTER(blockIdx, __builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),
            __builtin_amdgcn_workgroup_id_z())
KN_REGISTER(blockDim, __builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_workgroup_size_y(),
            __builtin_amdgcn_workgroup_size_z())
// Implicit arguments begin with the grid's size in blocks (code object 5).
#define KN_IMPLICIT(i) ((const __attribute__((address_space(4))) unsigned*)__builtin_amdgcn_implicitarg_ptr())[i]
KN_REGISTER(gridDim, KN_IMPLICIT(0), KN_IMPLICIT(1), KN_IMPLICIT(2))
#undef KN_IMPLICIT
static __device__ __forceinline__ void __syncthreads() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
static __device__ __forceinline__ void __threadfence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }
static __device__ __forceinline__ unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
  return __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
static __device__ __forceinline__ unsigned atomicAdd(unsigned* p, unsigned v) {
  return __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
static __device__ __forceinline__ unsigned atomicOr(unsigned* p, unsigned v) {
  return __hip_atomic_fetch_or(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
static __device__ __forceinline__ unsigned long long atomicMax(unsigned long long* p, unsigned long long v) {
  return __hip_atomic_fetch_max(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
static __device__ __forceinline__ unsigned atomicCAS(unsigned* p, unsigned seen, unsigned v) {
  __hip_atomic_compare_exchange_strong(p, &seen, v, __ATOMIC_RELAXED, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  return seen;
}
#endif
#undef KN_REGISTER
