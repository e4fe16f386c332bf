// What the GPU kernels of decode_attention share: sequences, masks, addresses, the softmax's reference, the last step.
#pragma once
#include <gpu.cuh>

#include "decode_attention.h"
#include "decode_attention_gpu.h"

namespace kn::decode_attention {

using problem = kn_decode_attention_gpu;

__device__ __forceinline__ float load_float(int32_t type, const void* base, int64_t index) {
  if (type == KN_F32) return static_cast<const float*>(base)[index];
  const uint16_t v = static_cast<const uint16_t*>(base)[index];
  return type == KN_BF16 ? widen_bf16(v) : widen_f16(v);
}

__device__ __forceinline__ void store_float(int32_t type, void* base, int64_t index, float v) {
  if (type == KN_F32) {
    static_cast<float*>(base)[index] = v;
    return;
  }
  static_cast<uint16_t*>(base)[index] = type == KN_BF16 ? narrow_bf16(v) : narrow_f16(v);
}

struct sequence {
  int32_t index, first_token, tokens;  // its new tokens among all
  int32_t length, start;  // in the cache; the first new token's place there, below 0 or past the end if it has none
  int32_t first, origin,
      splits;  // the first key that anything sees, where its split begins, and the splits from there on
};

__device__ __forceinline__ sequence sequence_of(const problem& a, int32_t index) {
  sequence s;
  s.index = index;
  s.first_token = a.q_start != nullptr ? a.q_start[index] : index * a.q_len;
  s.tokens = a.q_start != nullptr ? a.q_start[index + 1] - s.first_token : a.q_len;
  s.length = a.kv_lens[index];
  s.start = s.length + (a.kv_later != nullptr ? a.kv_later[index] : 0) - s.tokens;
  s.first = a.window > 0 && s.start - a.window + 1 > 0 ? s.start - a.window + 1 : 0;
  s.first = s.first < s.length ? s.first : s.length;
  // Splits begin at multiples of their length, so that a window moves none of them with the number of new tokens.
  s.origin = s.first - s.first % a.split_len;
  const int64_t keys = s.length - s.origin;
  s.splits = s.length <= s.first ? 0 : static_cast<int32_t>((keys + a.split_len - 1) / a.split_len);
  return s;
}

// One row of a block: a query head of a token, and what it sees.
struct row {
  int32_t token, head;  // of the sequence; of all query heads
  int32_t position;
  uint32_t tree;
  float slope;
  bool exists;
};

__device__ __forceinline__ row row_of(const problem& a, const sequence& s, int32_t kv_head, int32_t index) {
  const int32_t group = a.q_heads / a.kv_heads;
  row r;
  r.exists = index < s.tokens * group;
  r.token = r.exists ? index / group : 0;
  r.head = kv_head * group + (r.exists ? index % group : 0);
  r.position = s.start + r.token;
  r.tree = 0;
  if (a.flags & KN_ATTN_TREE) {
    r.tree = a.tree[s.first_token + r.token];
    r.position = s.start + __builtin_popcount(r.tree) - 1;
  }
  r.slope = a.flags & KN_ATTN_ALIBI ? a.alibi[r.head] : 0.0f;
  return r;
}

// The value before the softmax, of a dot product that has its scales: -infinity where the row does not see the key.
__device__ __forceinline__ float logit(const problem& a, const sequence& s, const row& r, float dot, int32_t key) {
  int32_t position = key;
  bool seen = r.exists;
  if (!(a.flags & KN_ATTN_FULL)) {
    const int32_t fresh = key - s.start;
    if (!(a.flags & KN_ATTN_TREE)) {
      seen &= key <= r.position;
    } else if (fresh >= 0) {
      seen &= (r.tree >> fresh & 1) != 0;
      position = s.start + __builtin_popcount(a.tree[s.first_token + fresh]) - 1;
    }
    if (a.window > 0) seen &= position > r.position - a.window;
  }
  float x = dot * a.scale;
  if (a.softcap > 0.0f) x = a.softcap * tanh(x / a.softcap);
  if (a.flags & KN_ATTN_ALIBI) x += r.slope * static_cast<float>(position - r.position);
  return seen ? x : -kInfinity;
}

// Whether token `token` sees any key at all, by the structure of the mask.
__device__ __forceinline__ bool sees_any(const problem& a, const sequence& s, int32_t token) {
  if (a.flags & KN_ATTN_FULL) return s.length > 0;
  const bool tree = a.flags & KN_ATTN_TREE;
  const uint32_t mask = tree ? a.tree[s.first_token + token] : 0;
  const int32_t position = s.start + (tree ? __builtin_popcount(mask) - 1 : token), end = tree ? s.start : position + 1;
  const int32_t first = a.window > 0 && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
  if (first < (end < s.length ? end : s.length)) return true;
  for (int32_t u = s.start < 0 ? -s.start : 0; tree && u <= token && s.start + u < s.length; u++)
    if ((mask >> u & 1) != 0 &&
        (a.window == 0 || s.start + __builtin_popcount(a.tree[s.first_token + u]) - 1 > position - a.window))
      return true;
  return false;
}

// e^(x - reference), 0 where x is -infinity.
__device__ __forceinline__ float weight(float x, float reference) {
  return x == -kInfinity ? 0.0f : exp2_fast((x - reference) * kLog2e);
}

// Where key `key` of a sequence lies: a page and the token of it.
struct place {
  int64_t page, token;
};

__device__ __forceinline__ place place_of(const problem& a, const sequence& s, int32_t key) {
  if (a.page_size == 0) return {s.index, key};
  const uint32_t size = static_cast<uint32_t>(a.page_size), k = static_cast<uint32_t>(key);
  // A division costs more than a key of few dimensions; page sizes are mostly powers of two.
  const uint32_t page = (size & (size - 1)) == 0 ? k >> trailing_zeros(size) : k / size;
  return {a.pages[s.index * a.pages_ld + page], k - page * size};
}

__device__ __forceinline__ int64_t scale_index(const problem& a, const place& p, int32_t kv_head) {
  return p.page * a.scale_page + p.token * a.scale_token + kv_head * a.scale_head;
}

__device__ __forceinline__ bool fixed_reference(const problem& a) { return a.softmax >= KN_SOFTMAX_UNIFIED; }

// A denominator of terms e^(x - reference) may lie this far above the largest x that is allowed, in nats: e^60 times
// the keys and the values stays finite, and e^-60 is far from the denormals.
constexpr float kSafe = 60.0f;

// The reference of `bounded`: |x| <= bound, by the softcap or by Cauchy-Schwarz. Slopes only lower x. All lanes call
// it.
__device__ __forceinline__ float bounded_reference(const problem& a, const sequence& s, int32_t kv_head, float q_norm) {
  if (a.softcap > 0.0f && a.softcap <= kSafe) return 0.0f;
  float norm = 0.0f;
  // Pages before the window may be gone.
  const int32_t begin = a.page_size == 0 ? 0 : s.first / a.page_size;
  const int32_t pages = s.first >= s.length ? 0
                        : a.page_size == 0  ? 1
                                            : static_cast<int32_t>((int64_t{s.length} + a.page_size - 1) / a.page_size);
  for (int32_t i = begin + lane_id(); i < pages; i += kWave) {
    const int64_t page = a.page_size == 0 ? s.index : a.pages[s.index * a.pages_ld + i];
    norm = __builtin_fmaxf(norm, a.key_norms[page * a.kv_heads + kv_head]);
  }
  const float bound =
      q_norm * max_lanes(norm) * a.scale * 1.001f;  // the roundings of 1024 squares, and of the dot product
  return bound <= kSafe ? 0.0f : bound - kSafe;
}

// `lazy` keeps its reference until a term would pass 2^8.
__device__ __forceinline__ float threshold(const problem& a) {
  return a.softmax == KN_SOFTMAX_LAZY ? 5.54517744f : 0.0f;
}

__device__ __forceinline__ float* partial_of(const problem& a, int64_t token, int32_t head, int64_t split) {
  return a.partial + ((token * a.q_heads + head) * a.splits + split) * (a.v_head_dim + 2);
}

// The sink is one more key of value 0. What it takes from the sums is multiplied as its root, twice: on a fixed
// reference they may be e^88, and e^-88 alone would flush to 0.
__device__ __forceinline__ void add_sink(const problem& a, int32_t head, float& sum, float& reference,
                                         float& denominator) {
  if (!(a.flags & KN_ATTN_SINKS)) return;
  const float sink = a.sinks[head];
  const float larger = denominator > 0.0f ? __builtin_fmaxf(reference, sink) : sink;
  const float root = denominator > 0.0f ? exp2_fast((reference - larger) * (0.5f * kLog2e)) : 0.0f;
  sum = sum * root * root;
  denominator = denominator * root * root + weight(sink, larger);
  reference = larger;
}

// Natural logarithm of denominator e^reference; NaN and infinity stay, which `log` does not promise.
__device__ __forceinline__ float log_sum(float reference, float denominator) {
  if (!finite(denominator)) return denominator;
  return denominator == 0.0f ? -kInfinity : reference + log(denominator);
}

// out and, by the thread that has the first value, lse.
__device__ __forceinline__ void write_value(const problem& a, int64_t token, int32_t head, int32_t d, float sum,
                                            float reference, float denominator) {
  add_sink(a, head, sum, reference, denominator);
  const float value = denominator == 0.0f ? 0.0f : sum / denominator;
  store_float(a.out_type, a.out, token * a.out_token + head * a.out_head + d, value);
  if (d == 0 && a.lse != nullptr) a.lse[token * a.lse_token + head] = log_sum(reference, denominator);
}

// Where the waves of a block leave their shares of Rows rows, each relative to its own reference.
template <int Waves, int Rows, int Head>
struct exchange {
  float o[Waves][Rows][Head];
  float m[Waves][Rows], l[Waves][Rows];

  // Sum, reference and denominator of a row over the waves, in their order.
  __device__ __forceinline__ float merge(int r, int d, float& reference, float& denominator) const {
    float sum = 0.0f;
    reference = -kInfinity, denominator = 0.0f;
    for (int w = 0; w < Waves; w++) reference = __builtin_fmaxf(reference, m[w][r]);
    for (int w = 0; w < Waves; w++) {
      const float f = weight(m[w][r], reference);
      denominator = __builtin_fmaf(f, l[w][r], denominator);
      sum = __builtin_fmaf(f, o[w][r][d], sum);
    }
    return sum;
  }

  // All rows of a block: to out, or as a split's partial sums.
  __device__ __forceinline__ void write(const problem& a, const sequence& s, int32_t kv_head, int32_t row0,
                                        int32_t split, bool direct, int threads = Waves * kWave) const {
    for (int i = static_cast<int>(threadIdx.x); i < Rows * a.v_head_dim; i += threads) {
      const int r = i / a.v_head_dim, d = i % a.v_head_dim;
      const row w = row_of(a, s, kv_head, row0 + r);
      if (!w.exists) continue;
      float reference, denominator;
      const float sum = merge(r, d, reference, denominator);
      const int64_t token = int64_t{s.first_token} + w.token;
      if (direct) {
        write_value(a, token, w.head, d, sum, reference, denominator);
        continue;
      }
      float* partial = partial_of(a, token, w.head, split);
      partial[d] = sum;
      if (d == 0) partial[a.v_head_dim] = reference, partial[a.v_head_dim + 1] = denominator;
    }
  }
};

// What a block does: rows row0 and up of a kv head against one split of a sequence's keys. Each launch has one grid.
struct work {
  sequence s;
  int32_t kv_head, row0, split;
  int32_t begin, end;  // keys
  int32_t walk;        // where waves begin to take turns, up to a round before `begin`: the same for any window
  bool direct;         // one split, whose sums are final
  bool empty;
};

constexpr int kRound = 128;  // a multiple of the keys that any kernel's block takes at a time

template <int Rows>
__device__ __forceinline__ work work_of(const problem& a) {
  work w;
  w.s = sequence_of(a, static_cast<int32_t>(blockIdx.x / static_cast<uint32_t>(a.splits)));
  w.split = static_cast<int32_t>(blockIdx.x % static_cast<uint32_t>(a.splits));
  w.kv_head = static_cast<int32_t>(blockIdx.y % static_cast<uint32_t>(a.kv_heads));
  w.row0 = static_cast<int32_t>(blockIdx.y / static_cast<uint32_t>(a.kv_heads)) * Rows;
  w.direct = a.splits == 1 && !fixed_reference(a);
  w.empty = w.row0 >= w.s.tokens * (a.q_heads / a.kv_heads) || (w.split >= w.s.splits && !w.direct);
  const int64_t origin = w.s.origin + int64_t{w.split} * a.split_len, end = origin + a.split_len;
  const int64_t begin = origin < w.s.first ? w.s.first : origin;
  w.begin = static_cast<int32_t>(begin < w.s.length ? begin : w.s.length);
  w.walk = static_cast<int32_t>(w.begin - (begin - origin) % kRound);
  w.end = static_cast<int32_t>(end < w.s.length ? end : w.s.length);
  if (w.begin >= w.end) w.walk = w.end;
  return w;
}

}  // namespace kn::decode_attention
