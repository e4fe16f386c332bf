// New tokens into the pages of a cache, rounded to its type: a wave takes one head of a token. The bits are those of
// KvCache.Append on the CPU, but for the norms, which are sums in another order, rounded up.
#include <kn.h>

#include <gpu.cuh>

#include "kv_append_gpu.h"

namespace kn::kv_append {
namespace {

constexpr uint32_t kInfinite = 0x7f800000u;
constexpr float kLeastPeak = 0x1p-119f;  // below it a scale would be subnormal and its quotients inexact

struct place {
  int64_t page, slot;
  bool exists;
};

// Where token t goes: its sequence is the last one that starts at or before it.
__device__ __forceinline__ place place_of(const kn_kv_append& a, int32_t t) {
  int32_t b = a.q_start != nullptr ? 0 : t / a.q_len, above = a.q_start != nullptr ? a.batch : b + 1;
  while (above - b > 1) {
    const int32_t middle = b + (above - b) / 2;
    (a.q_start[middle] <= t ? b : above) = middle;
  }
  const int32_t end = a.q_start != nullptr ? a.q_start[b + 1] : (b + 1) * a.q_len;
  if (t >= end) return {0, 0, false};
  const int32_t position = a.kv_lens[b] - end + t;
  if (a.pages == nullptr) return {b, position, true};
  return {a.pages[b * a.pages_ld + position / a.page_size], position % a.page_size, true};
}

__device__ __forceinline__ float load(int32_t type, const void* base, int64_t index) {
  if (type == KN_F32) return static_cast<const float*>(base)[index];
  const uint16_t v = static_cast<const uint16_t*>(base)[index];
  return type == KN_BF16 ? widen_bf16(v) : widen_f16(v);
}

// To e4m3, nearest even, saturating: below the smallest normal a sum with 2^14 rounds, above it the fraction loses 20
// bits and the bias changes.
__device__ __forceinline__ uint8_t narrow_e4m3(float v) {
  const uint32_t sign = bits_as<uint32_t>(v) >> 31 << 7;
  if (v != v) return static_cast<uint8_t>(sign | 0x7fu);
  const float magnitude = __builtin_fminf(__builtin_fabsf(v), 448.0f);
  const uint32_t b = bits_as<uint32_t>(magnitude);
  const uint32_t value = magnitude < 0x1p-6f ? bits_as<uint32_t>(magnitude + 0x1p14f) - bits_as<uint32_t>(0x1p14f)
                                             : ((b + 0x7ffffu + (b >> 20 & 1)) >> 20) - (120u << 3);
  return static_cast<uint8_t>(sign | value);
}

// Stores v, and gives what is stored.
__device__ __forceinline__ float store(int32_t type, void* base, int64_t index, float v) {
  if (type == KN_F32) return static_cast<float*>(base)[index] = v;
  if (type == KN_BF16) return widen_bf16(static_cast<uint16_t*>(base)[index] = narrow_bf16(v));
  if (type == KN_F16) return widen_f16(static_cast<uint16_t*>(base)[index] = narrow_f16(v));
  if (type == KN_S8) return static_cast<int8_t*>(base)[index] = static_cast<int8_t>(__builtin_rintf(v));
  return widen_e4m3(static_cast<uint8_t*>(base)[index] = narrow_e4m3(v));
}

// One head; the sum of the squares of what a lane stored.
__device__ __forceinline__ double store_head(const kn_kv_append& a, const void* from, int64_t at, int32_t dim, void* to,
                                             int64_t to_at, float* scale) {
  float by = 1.0f;
  bool finite_head = true;
  if (scale != nullptr) {
    // As bits, so that an infinity is more than any number and a NaN more than that.
    int most = 0;
    for (int32_t d = lane_id(); d < dim; d += kWave) {
      const int b = bits_as<int>(__builtin_fabsf(load(a.in_type, from, at + d)));
      most = b > most ? b : most;
    }
    for (int s = kWave / 2; s > 0; s /= 2) {
      const int other = shuffle_xor(most, s);
      most = other > most ? other : most;
    }
    const float peak = bits_as<float>(most);
    finite_head = static_cast<uint32_t>(most) < kInfinite;
    const float step = peak < kLeastPeak ? 0.0f : peak / (a.kv_type == KN_S8 ? 127.0f : 448.0f);
    by = step > 0.0f ? step : kInfinity;
    if (lane_id() == 0) *scale = finite_head ? step : bits_as<float>(0x7fc00000u);
  }
  double squares = 0.0;
  for (int32_t d = lane_id(); d < dim; d += kWave) {
    const float v = load(a.in_type, from, at + d);
    const double x = store(a.kv_type, to, to_at + d, scale == nullptr ? v : finite_head ? v / by : 0.0f);
    squares += x * x;
  }
  return squares;
}

// The 2-norm of a key, rounded up: float64 sums err by less than the step to the next float.
__device__ __forceinline__ void bound_norm(float* norm, double squares, float scale) {
  for (int s = kWave / 2; s > 0; s /= 2) squares += bits_as<double>(shuffle(bits_as<int64_t>(squares), lane_id() ^ s));
  if (lane_id() != 0) return;
  const uint32_t b = bits_as<uint32_t>(static_cast<float>(__builtin_sqrt(squares) * scale));
  const uint32_t bound = (b & 0x7fffffffu) < kInfinite ? b + 1 : kInfinite;
  uint32_t* at = reinterpret_cast<uint32_t*>(norm);  // norms are not negative: their bits are in their order
  for (uint32_t seen = load_atomic(at); seen < bound;) {
    const uint32_t was = atomicCAS(at, seen, bound);
    if (was == seen) break;
    seen = was;
  }
}

}  // namespace
}  // namespace kn::kv_append

KN_KERNEL(kv_append_gpu_restart, 128, 8, kn_kv_append) {
  const int64_t i = int64_t{blockIdx.x} * 128 + threadIdx.x;
  const int32_t t = static_cast<int32_t>(i / args.kv_heads);
  if (t >= args.tokens) return;
  const kn::kv_append::place p = kn::kv_append::place_of(args, t);
  if (p.exists && p.slot == 0) args.key_norms[p.page * args.kv_heads + i % args.kv_heads] = 0.0f;
}

KN_KERNEL(kv_append_gpu, 4 * kn::kWave, 4, kn_kv_append) {
  using namespace kn;
  using namespace kn::kv_append;
  const int32_t t = static_cast<int32_t>(blockIdx.x), head = static_cast<int32_t>(blockIdx.y) * 4 + wave_id();
  if (head >= args.kv_heads) return;
  const place p = place_of(args, t);
  if (!p.exists) return;
  const int64_t scale_at = p.page * args.scale_page + p.slot * args.scale_token + head * args.scale_head;
  float* k_scale = args.k_scales != nullptr ? args.k_scales + scale_at : nullptr;
  float* v_scale = args.v_scales != nullptr ? args.v_scales + scale_at : nullptr;
  const double squares =
      store_head(args, args.k, t * args.k_token + head * args.k_head, args.head_dim, args.k_cache,
                 p.page * args.k_cache_page + p.slot * args.k_cache_token + head * args.k_cache_head, k_scale);
  store_head(args, args.v, t * args.v_token + head * args.v_head, args.v_head_dim, args.v_cache,
             p.page * args.v_cache_page + p.slot * args.v_cache_token + head * args.v_cache_head, v_scale);
  // A lane reads what it wrote itself.
  if (args.key_norms != nullptr)
    bound_norm(args.key_norms + p.page * args.kv_heads + head, squares,
               k_scale == nullptr || lane_id() != 0 ? 1.0f : *k_scale);
}
