// Results over disjoint keys joined by their lse: a block takes one row.
#include <kn.h>

#include <gpu.cuh>

#include "merge_states_gpu.h"

namespace kn::merge_states {
namespace {

__device__ __forceinline__ float load(int32_t type, const void* base, int64_t index) {
  if (type == KN_F32) return static_cast<const float*>(base)[index];
  const uint16_t v = static_cast<const uint16_t*>(base)[index];
  return type == KN_BF16 ? widen_bf16(v) : widen_f16(v);
}

}  // namespace
}  // namespace kn::merge_states

KN_KERNEL(merge_states_gpu, 128, 8, kn_merge_states) {
  using namespace kn;
  const int64_t token = blockIdx.x / static_cast<uint32_t>(args.heads),
                head = blockIdx.x % static_cast<uint32_t>(args.heads);
  const float* lses = args.lses + token * args.lses_token + head * args.lses_head;
  float most = -kInfinity, sum = 0.0f;
  for (int32_t i = 0; i < args.parts; i++) most = __builtin_fmaxf(most, lses[i * args.lses_part]);
  for (int32_t i = 0; i < args.parts; i++)
    if (lses[i * args.lses_part] != -kInfinity) sum += kn::exp(lses[i * args.lses_part] - most);
  for (int32_t d = static_cast<int32_t>(threadIdx.x); d < args.dim; d += 128) {
    float total = 0.0f;
    for (int32_t i = 0; i < args.parts; i++) {
      const float lse = lses[i * args.lses_part];
      if (lse == -kInfinity) continue;  // an empty part may hold anything, NaN too
      const int64_t at = i * args.outs_part + token * args.outs_token + head * args.outs_head + d;
      total = __builtin_fmaf(kn::exp(lse - most) / sum, merge_states::load(args.in_type, args.outs, at), total);
    }
    const int64_t at = token * args.out_token + head * args.out_head + d;
    if (args.out_type == KN_F32)
      static_cast<float*>(args.out)[at] = total;
    else
      static_cast<uint16_t*>(args.out)[at] = args.out_type == KN_BF16 ? narrow_bf16(total) : narrow_f16(total);
  }
  __syncthreads();  // lse may be a part's, which all have read now
  if (threadIdx.x == 0)
    // NaN and infinity stay, which `log` does not promise.
    args.lse[token * args.lse_token + head * args.lse_head] = sum == 0.0f   ? -kInfinity
                                                              : finite(sum) ? most + kn::log(sum)
                                                                            : sum;
}
