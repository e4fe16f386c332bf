// Narrow weights as the operands of tensor cores: bf16 holds s8, and u4 less a zero point, exactly.
#pragma once
#include <mma.cuh>

#include "flat_gemm_gpu.cuh"

namespace kn::flat_gemm {

// 4 bytes of s8 as two pairs of bf16, exactly: the upper halves of exact floats.
__device__ __forceinline__ void decode_s8(uint32_t w, uint32_t& low, uint32_t& high) {
  w ^= 0x80808080u;
  const uint32_t f0 = bits_as<uint32_t>(byte_as_float<0>(w) - 128.0f),
                 f1 = bits_as<uint32_t>(byte_as_float<1>(w) - 128.0f);
  const uint32_t f2 = bits_as<uint32_t>(byte_as_float<2>(w) - 128.0f),
                 f3 = bits_as<uint32_t>(byte_as_float<3>(w) - 128.0f);
  low = f0 >> 16 | (f1 & 0xffff0000u);
  high = f2 >> 16 | (f3 & 0xffff0000u);
}

// Pairs of q less the zero point: 0x4300 | q is 128 + q in bf16, and the difference is exact.
__device__ __forceinline__ uint32_t subtract_zero(uint32_t pair, int zero) {
#if defined(KN_SIMT)
  const float z = static_cast<float>(128 + zero);
  return pack(bf16{}, widen_bf16(pair & 0xffffu) - z, widen_bf16(pair >> 16) - z);
#else
  const uint32_t minus = (0xc300u | static_cast<uint32_t>(zero)) * 0x10001u;
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(pair), "r"(0x3f803f80u), "r"(minus));
  return d;
#endif
}

// A byte of u4 weights, the lowest of b, as a pair.
__device__ __forceinline__ uint32_t decode_u4_pair(uint32_t b, int zero) {
  return subtract_zero((b & 15u) | (b & 0xf0u) << 12 | 0x43004300u, zero);
}

// What of a row of u4 weights is not the weight itself: of the group that holds element k.
struct group {
  float scale;
  int zero;
};

__device__ __forceinline__ group load_group(const kn_flat_gemm_gpu& a, int64_t column, int64_t k) {
  const int64_t columns = columns_of(a), count = (a.k + a.group - 1) / a.group;
  const int64_t at = w_row(a, column < columns ? column : columns - 1) * count + k / a.group;
  return {a.scales[at], a.flags & KN_GEMM_ZEROS ? a.zeros[at] & 15 : 8};
}

}  // namespace kn::flat_gemm
