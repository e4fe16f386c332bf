// What a .cu file of this project includes first. The same source is compiled
//   by clang as CUDA or HIP with no vendor SDK: gpu_bare.cuh has what that would bring
//   by nvcc or hipcc, whose own headers bring the same names
//   by the host's compiler with KN_SIMT, for the simulated device: native/simt/simt.h brings the same names
// Kernels are spelled as in CUDA. What differs from target to target has one name here, in namespace kn.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(KN_SIMT)
#include <simt.h>
#elif defined(__HIPCC__) && !defined(KN_GPU_BARE)
#include <hip/hip_runtime.h>
#elif defined(__NVCC__)
#include <cuda_fp16.h>
#else
#include "gpu_bare.cuh"
#endif

// A kernel with its argument, one plain struct `args`, for blocks of at most `threads` threads, of which `blocks`
// should fit on a multiprocessor at once: that limits the registers.
#if defined(KN_SIMT)
#define KN_KERNEL(name, threads, blocks, Args) KN_SIMT_KERNEL(name, Args)
#elif defined(__AMDGCN__)  // the second bound is in waves per execution unit there
#define KN_KERNEL(name, threads, blocks, Args) \
  extern "C" __global__ __launch_bounds__(threads) void name(const Args args)
#else
#define KN_KERNEL(name, threads, blocks, Args) \
  extern "C" __global__ __launch_bounds__(threads, blocks) void name(const Args args)
#endif

// Memory whose size the launch gives, as elements of T, 16-byte aligned. One per kernel.
#if defined(KN_SIMT)
#define KN_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(kn_simt_dynamic_shared())
#else
#define KN_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __attribute__((aligned(128))) char kn_dynamic[]; \
  T* const name = reinterpret_cast<T*>(kn_dynamic)
#endif

namespace kn {

// Lanes that run in step: 32 on NVIDIA and RDNA, 64 on CDNA.
#if defined(KN_SIMT)
constexpr int kWave = KN_SIMT_WAVE;
#elif defined(__GFX9__)
constexpr int kWave = 64;
#else
constexpr int kWave = 32;
#endif

#if defined(KN_SIMT)
using lane_mask = uint64_t;
#else
using lane_mask = unsigned;
#endif

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % kWave); }
__device__ __forceinline__ int wave_id() { return static_cast<int>(threadIdx.x / kWave); }

template <class To, class From>
__device__ __forceinline__ To bits_as(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &v, sizeof to);
  return to;
}

// The value of lane (own lane xor lanes), or of any lane. All lanes of the wave call it.
#if defined(__AMDGCN__)
__device__ __forceinline__ int shuffle(int v, int lane) { return __builtin_amdgcn_ds_bpermute(lane * 4, v); }
__device__ __forceinline__ int shuffle_xor(int v, int lanes) { return shuffle(v, lane_id() ^ lanes); }
__device__ __forceinline__ float shuffle(float v, int lane) { return bits_as<float>(shuffle(bits_as<int>(v), lane)); }
__device__ __forceinline__ float shuffle_xor(float v, int lanes) { return shuffle(v, lane_id() ^ lanes); }
#else
constexpr unsigned kAllLanes = 0xffffffffu;
__device__ __forceinline__ int shuffle(int v, int lane) { return __shfl_sync(kAllLanes, v, lane); }
__device__ __forceinline__ float shuffle(float v, int lane) { return __shfl_sync(kAllLanes, v, lane); }
__device__ __forceinline__ int shuffle_xor(int v, int lanes) { return __shfl_xor_sync(kAllLanes, v, lanes); }
__device__ __forceinline__ float shuffle_xor(float v, int lanes) { return __shfl_xor_sync(kAllLanes, v, lanes); }
#endif

__device__ __forceinline__ int64_t shuffle(int64_t v, int lane) {
  const uint32_t low = static_cast<uint32_t>(shuffle(static_cast<int>(v), lane));
  return static_cast<int64_t>(shuffle(static_cast<int>(v >> 32), lane)) * (int64_t{1} << 32) | low;
}

// Whether any lane of the wave says so. All of them call it.
__device__ __forceinline__ bool any_lane(bool v) {
#if defined(__AMDGCN__)
  if constexpr (kWave == 64)
    return __builtin_amdgcn_ballot_w64(v) != 0;
  else
    return __builtin_amdgcn_ballot_w32(v) != 0;
#else
  return __any_sync(kAllLanes, v);
#endif
}

// A value that other threads may change by atomics meanwhile.
__device__ __forceinline__ unsigned load_atomic(const unsigned* p) {
#if defined(KN_SIMT)
  return static_cast<unsigned>(kn_simt_atomic_load(p, sizeof *p));
#elif defined(__AMDGCN__)
  return __hip_atomic_load(p, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
#elif defined(__NVCC__)
  return *static_cast<const volatile unsigned*>(p);
#else
  return __atomic_load_n(p, __ATOMIC_RELAXED);
#endif
}

// Orders the shared memory of a wave: what its lanes wrote before, they may read after. All of them call it.
__device__ __forceinline__ void sync_wave() {
#if defined(__AMDGCN__)
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
#else
  __syncwarp();
#endif
}

// The same for a group of `Lanes` lanes, a power of two, which others of the wave need not meet.
template <int Lanes>
__device__ __forceinline__ void sync_lanes() {
#if defined(__AMDGCN__)
  sync_wave();  // a compiler's fence: the lanes run in step
#else
  static_assert(Lanes < 32, "32 ones mean all lanes");
  __syncwarp(lane_mask{(1u << Lanes) - 1} << (lane_id() & ~(Lanes - 1)));
#endif
}

// Sums over groups of `lanes` lanes, a balanced tree whatever the lane: every lane gets the same bits.
template <class T>
__device__ __forceinline__ T sum_lanes(T v, int lanes = kWave) {
  for (int s = lanes / 2; s > 0; s /= 2) v += shuffle_xor(v, s);
  return v;
}

__device__ __forceinline__ float max_lanes(float v, int lanes = kWave) {
  for (int s = lanes / 2; s > 0; s /= 2) v = __builtin_fmaxf(v, shuffle_xor(v, s));
  return v;
}

// Within groups of `Lanes` lanes, lane l of a group gets the group's totals of values l N / Lanes and up, N / Lanes of
// them (one, where N <= Lanes), in v[0], v[1], ... Each step halves what is carried, so a lane sends about N values and
// not N log2(Lanes).
template <int N, int Lanes = kWave, int Count = N, int Step = Lanes / 2, class T>
__device__ __forceinline__ void scatter_sums(T (&v)[N]) {
  if constexpr (Step > 0 && Count > 1) {
    const bool upper = lane_id() & Step;
#pragma unroll
    for (int i = 0; i < Count / 2; i++) {
      const T low = v[i], high = v[i + Count / 2];
      const T sent = shuffle_xor(upper ? low : high, Step);
      v[i] = (upper ? high : low) + sent;
    }
    scatter_sums<N, Lanes, Count / 2, Step / 2>(v);
  } else if constexpr (Step > 0) {
    v[0] += shuffle_xor(v[0], Step);
    scatter_sums<N, Lanes, 1, Step / 2>(v);
  }
}

// 16 bytes, the widest load of a lane.
struct alignas(16) words {
  uint32_t v[4];
};
struct alignas(8) word_pair {
  uint32_t x, y;
};

__device__ __forceinline__ words load16(const void* p) { return *static_cast<const words*>(p); }

// The same for memory that is read once: it should not push out of L1 what is read again.
__device__ __forceinline__ words load16_once(const void* p) {
  words w;
#if defined(__CUDA_ARCH__)
  asm("{.reg .u64 g; cvta.to.global.u64 g, %4; ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [g];}"
      : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3])
      : "l"(p));
#elif defined(__AMDGCN__)
  typedef uint32_t vec __attribute__((ext_vector_type(4)));
  const vec x = __builtin_nontemporal_load(static_cast<const vec*>(p));
  w = {{x[0], x[1], x[2], x[3]}};
#else
  w = load16(p);
#endif
  return w;
}

__device__ __forceinline__ float widen_bf16(uint32_t v) { return bits_as<float>(v << 16); }

// Round to nearest even; NaN stays NaN, since adding the rounding bias could turn it into infinity.
__device__ __forceinline__ uint16_t narrow_bf16(float v) {
  const uint32_t b = bits_as<uint32_t>(v);
  return static_cast<uint16_t>((v != v ? b | 0x00400000u : b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}

#if defined(__NVCC__)
__device__ __forceinline__ float widen_f16(uint16_t v) { return __half2float(__ushort_as_half(v)); }
__device__ __forceinline__ uint16_t narrow_f16(float v) { return __half_as_ushort(__float2half_rn(v)); }
#else
__device__ __forceinline__ float widen_f16(uint16_t v) { return static_cast<float>(bits_as<_Float16>(v)); }
__device__ __forceinline__ uint16_t narrow_f16(float v) { return bits_as<uint16_t>(static_cast<_Float16>(v)); }
#endif

// Four products of bytes, added to c.
__device__ __forceinline__ int dot4(uint32_t a, uint32_t b, int c) {
#if defined(__CUDA_ARCH__)
  asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
  return c;
#elif defined(__gfx1100__)
  return __builtin_amdgcn_sudot4(true, static_cast<int>(a), true, static_cast<int>(b), c, false);
#elif defined(__AMDGCN__)
  return __builtin_amdgcn_sdot4(static_cast<int>(a), static_cast<int>(b), c, false);
#else
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
#endif
}

// Byte i of w, unsigned, as f32: 2^23 + byte is a pattern, one byte permutation; int to float has 1/8 of the rate.
template <int I>
__device__ __forceinline__ float byte_as_float(uint32_t w) {
#if defined(__CUDA_ARCH__)
  uint32_t f;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(f) : "r"(w), "r"(0x4b000000u), "n"(0x7440 | I));
  return bits_as<float>(f) - 8388608.0f;
#else
  return static_cast<float>((w >> (8 * I)) & 255u);  // v_cvt_f32_ubyteI
#endif
}

__device__ __forceinline__ int count_ones(uint32_t v) {
#if defined(__NVCC__)
  return __popc(v);
#else
  return __builtin_popcount(v);
#endif
}

__device__ __forceinline__ int trailing_zeros(uint32_t v) {
#if defined(__NVCC__)
  return __ffs(static_cast<int>(v)) - 1;
#else
  return __builtin_ctz(v);
#endif
}

// OCP E4M3 as f32: its exponent and mantissa in those of f32, 120 powers of two too low.
__device__ __forceinline__ float widen_e4m3(uint32_t byte) {
  const uint32_t magnitude = byte & 0x7fu;
  const float v = bits_as<float>(magnitude << 20) * 0x1p120f;
  const uint32_t b = magnitude == 0x7fu ? 0x7fc00000u : bits_as<uint32_t>(v);
  return bits_as<float>(b | (byte & 0x80u) << 24);
}

// 2^x within 2 ulp, denormal results as zero (AMD: or exact): the hardware's own instruction.
__device__ __forceinline__ float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(x));
  return x;
#elif defined(__AMDGCN__)
  return __builtin_amdgcn_exp2f(x);
#else
  return x < -126.0f ? 0.0f : __builtin_exp2f(x);
#endif
}

// e^x within 2 ulp: Cody-Waite reduction by ln 2 in two parts, the Taylor polynomial of degree 7 on |r| <= ln2/2 (its
// remainder is 2^-28), and 2^n in two factors, since n reaches beyond the exponents of normal numbers. NaN passes.
__device__ __forceinline__ float exp(float x) {
  const float clamped = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  const float n = __builtin_rintf(clamped * 1.44269504f);
  float r = __builtin_fmaf(n, -0.693145752f, clamped);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.0f / 5040;
  p = __builtin_fmaf(p, r, 1.0f / 720);
  p = __builtin_fmaf(p, r, 1.0f / 120);
  p = __builtin_fmaf(p, r, 1.0f / 24);
  p = __builtin_fmaf(p, r, 1.0f / 6);
  p = __builtin_fmaf(p, r, 0.5f);
  p = __builtin_fmaf(p, r, 1.0f);
  p = __builtin_fmaf(p, r, 1.0f);
  if (x != x) return x;
  const int whole = static_cast<int>(n), half = whole >> 1;
  return p * bits_as<float>((half + 127) << 23) * bits_as<float>((whole - half + 127) << 23);
}

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kLog2e = 1.44269504f;

__device__ __forceinline__ bool finite(float x) { return __builtin_fabsf(x) < kInfinity; }

// Natural logarithm of a normal x > 0 within 2 ulp: x = 2^e f, f in [sqrt(1/2), sqrt(2)), log f = 2 atanh((f-1)/(f+1)).
__device__ __forceinline__ float log(float x) {
  const int b = bits_as<int>(x), e = (b - 0x3f3504f3) >> 23;
  const float f = bits_as<float>(b - e * (1 << 23)), s = (f - 1.0f) / (f + 1.0f), z = s * s;
  float p = __builtin_fmaf(z, 2.0f / 9, 2.0f / 7);
  p = __builtin_fmaf(p, z, 2.0f / 5);
  p = __builtin_fmaf(p, z, 2.0f / 3);
  p = __builtin_fmaf(p * z, s, 2.0f * s);
  const float n = static_cast<float>(e);
  return __builtin_fmaf(n, 0.693145752f, __builtin_fmaf(n, 1.42860677e-6f, p));
}

// tanh within 3 ulp: Lambert's fraction to the seventh convergent below 1, where the other form cancels.
__device__ __forceinline__ float tanh(float x) {
  const float y = __builtin_fabsf(x), z = x * x;
  if (y < 1.0f) {
    const float over = __builtin_fmaf(z, __builtin_fmaf(z, z + 378.0f, 17325.0f), 135135.0f);
    const float under = __builtin_fmaf(z, __builtin_fmaf(z, __builtin_fmaf(z, 28.0f, 3150.0f), 62370.0f), 135135.0f);
    return x * (over / under);
  }
  const float t = 1.0f - 2.0f / (1.0f + exp(2.0f * y));
  return y != y ? x : x < 0.0f ? -t : t;
}

}  // namespace kn
