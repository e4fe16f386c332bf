// decode_attention/sm90: values that are not finite and that some rows of a block do not see.
#pragma once
#include <sm90.cuh>

#include "decode_attention_hidden.cuh"

namespace kn::decode_attention {
namespace {

constexpr int kWarps = 4, kConsumers = kWarps * 32, kThreads = kConsumers + 32;  // the last warp copies
constexpr int kKeys = 64, kPartBytes = kKeys * kTileBytes;                       // 64 dimensions of a tile

__device__ __forceinline__ float widen(bf16, uint32_t v) { return widen_bf16(v & 0xffffu); }
__device__ __forceinline__ float widen(f16, uint32_t v) { return widen_f16(static_cast<uint16_t>(v)); }

// Products with values that are not finite, of the rows that see them alone: those values then are 0.
template <class A>
__device__ __forceinline__ void take_out(const typename A::job& j, int64_t tile, char* v, typename A::state& x) {
  using Element = typename A::element;
  constexpr int Rows = A::kRows, kParts = A::kParts;
  const bool spoilt = any_lane(!all_finite(Element{}, v, A::kSlotBytes, static_cast<int>(threadIdx.x), kConsumers));
  if (lane_id() == 0) j.lanes[wave_id()][0] = spoilt ? 1.0f : 0.0f;
  sync_first<kConsumers>();
  const float any = j.lanes[0][0] + j.lanes[1][0] + j.lanes[2][0] + j.lanes[3][0];
  sync_first<kConsumers>();  // before they are written again
  if (any == 0.0f) return;
  const int r = wave_id() * 16 + lane_id() / 4;
#pragma unroll 1
  for (int key = 0; key < kKeys; key++)
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) {
      if (tile + key >= j.w.end || !sees(j.a, j.w.s, j.rows[A::query(c)], static_cast<int32_t>(tile + key))) continue;
      const char* const p = j.p + A::piece(A::query(c), 0, 0, key * 2);
      const float upper = widen(Element{}, *reinterpret_cast<const uint16_t*>(p)),
                  lower = widen(Element{}, *reinterpret_cast<const uint16_t*>(p + A::kPBytes));
#pragma unroll
      for (int b = 0; b < kParts; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float value =
              widen(Element{}, *reinterpret_cast<const uint16_t*>(v + A::piece(key, b, kPartBytes, (r + h * 8) * 2)));
          float& o = x.o[b][c / 2 * 4 + h * 2 + c % 2];
          if (!finite(value)) o = __builtin_fmaf(lower, value, __builtin_fmaf(upper, value, o));
        }
    }
  sync_first<kConsumers>();
  for (int i = static_cast<int>(threadIdx.x) * 4; i < A::kSlotBytes; i += kConsumers * 4) {
    uint32_t& pair = *reinterpret_cast<uint32_t*>(v + i);
    pair = only_finite(Element{}, pair);
  }
  fence_proxy_async();
  sync_first<kConsumers>();
}

}  // namespace
}  // namespace kn::decode_attention
