// The check of lengths, page ids and masks that lie on the device: a wave takes one sequence after the other.
#include <gpu.cuh>

#include "attention_door_gpu.h"

namespace kn::attention_door {
namespace {

constexpr int kThreads = 256, kWaves = kThreads / kWave;
constexpr unsigned kSound = 0xffffffffu;

// The first rule that sequence b breaks, or 0. All lanes of the wave call it.
__device__ __forceinline__ unsigned fault_of(const kn_attention_door& a, int32_t b) {
  const int64_t first = a.q_start != nullptr ? a.q_start[b] : int64_t{b} * a.q_len;
  const int64_t end = a.q_start != nullptr ? a.q_start[b + 1] : first + a.q_len;
  const int64_t count = end - first, length = a.kv_lens[b];
  if (first < 0 || (b == 0 && first != 0) || count < 0 || count > a.q_len || end > a.tokens ||
      (b == a.batch - 1 && end != a.tokens))
    return KN_DOOR_Q_START;
  if (length < (a.append ? count : 0) || length > a.kv_len) return KN_DOOR_KV_LENS;
  const int64_t later = a.kv_later != nullptr ? a.kv_later[b] : 0;
  if (later < 0 || length + later > 1 << 28) return KN_DOOR_KV_LATER;
  bool wrong = false;
  if (a.pages != nullptr && count > 0) {
    // Pages that nothing sees any more may be gone already.
    const int64_t seen = a.append ? length - count : a.window > 0 ? length + later - count - a.window + 1 : 0;
    for (int64_t i = (seen > 0 ? seen : 0) / a.page_size + lane_id(); seen < length && i * a.page_size < length;
         i += kWave) {
      const int32_t id = a.pages[b * a.pages_ld + i];
      wrong |= id < 0 || id >= a.page_count;
    }
  }
  if (any_lane(wrong)) return KN_DOOR_PAGES;
  if (a.tree != nullptr)
    for (int32_t t = lane_id(); t < count; t += kWave) wrong |= a.tree[first + t] >> t != 1;
  return any_lane(wrong) ? KN_DOOR_TREE : 0;
}

}  // namespace
}  // namespace kn::attention_door

KN_KERNEL(attention_door_gpu, 256, 1, kn_attention_door) {
  using namespace kn;
  using namespace kn::attention_door;
  __shared__ unsigned found[kWaves];
  unsigned least = kSound;
  for (int32_t b = wave_id(); b < args.batch; b += kWaves)
    if (const unsigned what = fault_of(args, b); what != 0) {
      const unsigned code = what << 24 | static_cast<unsigned>(b);
      least = code < least ? code : least;
    }
  if (lane_id() == 0) found[wave_id()] = least;
  __syncthreads();
  for (int w = 0; w < kWaves; w++) least = found[w] < least ? found[w] : least;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i <= args.batch; i += kThreads)
    args.checked[i] = least != kSound ? 0 : args.q_start != nullptr ? args.q_start[i] : i * args.q_len;
  if (threadIdx.x == 0 && least != kSound) atomicCAS(args.fault, 0u, least);
}
