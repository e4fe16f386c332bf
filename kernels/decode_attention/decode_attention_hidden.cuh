// Keys that a mask hides from some rows of a block and not from others: a tensor core multiplies their values by a
// weight of 0, which is NaN for infinity and NaN. Tiles without such keys need none of this.
#pragma once
#include <mma.cuh>

#include "decode_attention_gpu.cuh"

namespace kn::decode_attention {

__device__ __forceinline__ bool sees(const problem& a, const sequence& s, const row& r, int32_t key) {
  return logit(a, s, r, 0.0f, key) != -kInfinity;
}

// Whether a mask may hide one of these keys from a row: new tokens, and what the last one's window has left.
__device__ __forceinline__ bool masks(const problem& a, const sequence& s, int64_t first, int32_t keys) {
  if (a.flags & KN_ATTN_FULL) return false;
  return first + keys > s.start || (a.window > 0 && first < int64_t{s.start} + s.tokens - a.window);
}

// Exponents that are all ones, in a pair of 16-bit floats.
__device__ __forceinline__ bool all_finite(bf16, uint32_t pair) {
  return (pair & 0x7f80u) != 0x7f80u && (pair & 0x7f800000u) != 0x7f800000u;
}
__device__ __forceinline__ bool all_finite(f16, uint32_t pair) {
  return (pair & 0x7c00u) != 0x7c00u && (pair & 0x7c000000u) != 0x7c000000u;
}

// Puts 0 in place of what is not finite.
template <class Element>
__device__ __forceinline__ uint32_t only_finite(Element, uint32_t pair) {
  return (all_finite(Element{}, pair & 0xffffu) ? pair & 0xffffu : 0u) |
         (all_finite(Element{}, pair & 0xffff0000u) ? pair & 0xffff0000u : 0u);
}

// Whether all of a tile in shared memory is finite, as far as this thread of `threads` looks.
template <class Element>
__device__ __forceinline__ bool all_finite(Element, const char* at, int bytes, int thread, int threads) {
  bool finite = true;
#pragma unroll 1
  for (int i = thread * 16; i < bytes; i += threads * 16) {
    const words w = load16(at + i);
#pragma unroll
    for (int e = 0; e < 4; e++) finite &= all_finite(Element{}, w.v[e]);
  }
  return finite;
}

}  // namespace kn::decode_attention
