// How a call is cut into tasks. Everything is static, see avx512.h.
//
// A task is the keys of one split of one sequence for some kv heads. Splits begin at multiples of their length. A call
// of INVARIANT cuts them as the launch says, so that a row's bits depend on its sequence alone; any other shortens
// those of costly sequences until no task is more than a small part of a worker's share. Costly tasks go out first.
#pragma once
#include "decode_attention_call.h"

namespace kn::decode_attention {
namespace {

constexpr int64_t kShares = 4;      // tasks that a worker's share of the call is cut into, at least,
constexpr int64_t kShortest = 256;  // but for splits of so few keys

inline bool cuts_by_cost(const kn_decode_attention_problem& p, int32_t workers) {
  return workers > 1 && (p.flags & KN_ATTN_INVARIANT) == 0;
}

// What a key costs for one kv head: to be loaded and decoded, about as much as two rows, and each row.
inline int64_t weight_of(const call& c, const sequence& s) { return 2 + s.tokens * c.group; }

inline int64_t keys_of(const sequence& s) { return s.tokens == 0 ? 0 : s.kv_len - s.begin; }

// Keys of a split of the sequence.
inline int64_t split_of(const call& c, const sequence& s) {
  const double keys = __builtin_ceil(c.most_cost / static_cast<double>(weight_of(c, s)));
  if (keys >= static_cast<double>(c.split)) return c.split;
  return smaller(c.split, larger(kShortest, round_up(static_cast<int64_t>(keys), kChunk)));
}

inline int64_t splits_of(const call& c, const sequence& s) {
  if (s.tokens == 0 || s.kv_len == 0) return 0;
  const int64_t split = split_of(c, s);
  return (s.kv_len + split - 1) / split - s.begin / split;
}

// The most that a task of the sequence costs for one kv head.
inline int64_t cost_of(const call& c, const sequence& s) {
  return smaller(keys_of(s), split_of(c, s)) * weight_of(c, s);
}

inline int64_t most_splits(const kn_decode_attention_problem& p, int64_t split) {
  const int64_t all = (p.kv_len + split - 1) / split;
  return p.window > 0 ? smaller(all, (p.window + p.q_len - 2) / split + 2) : all;
}

// Splits of sequences that have more than one, at most. By cost, n keys have n / split + 2 of them, where a split has
// the keys of the launch, or those of most_cost, of which all sequences together have kShares * workers.
inline int64_t most_parts(const call& c, int32_t workers) {
  const kn_decode_attention_problem& p = *c.problem;
  const int64_t each = most_splits(p, c.split), as_told = each > 1 ? times(each, p.batch) : 0;
  if (!cuts_by_cost(p, workers)) return as_told;
  const int64_t shortest = most_splits(p, smaller(c.split, kShortest));
  return shortest > 1 ? smaller(times(shortest, p.batch), times(each + 2, p.batch) + kShares * workers) : 0;
}

// Workers, the most that a task may cost, and the heads of a task.
inline void share(call& c, int32_t threads) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  // Fewer multiply-adds than this are done before another thread is awake.
  constexpr int64_t kSmall = int64_t{1} << 20;
  int64_t work = 0;
  double total = 0, longest = 0;
  for (int64_t b = 0; b < a.batch; b++) {
    const sequence s = sequence_of(p, a, b);
    work += keys_of(s) * s.tokens;
    total += static_cast<double>(keys_of(s) * weight_of(c, s));
  }
  c.workers = times(work, int64_t{p.q_heads} * (p.head_dim + p.v_head_dim)) < kSmall ? 1 : threads;
  total *= p.kv_heads;
  c.most_cost = cuts_by_cost(p, c.workers) ? total / (c.heads * kShares * c.workers) : __builtin_inf();
  for (int64_t b = 0; b < a.batch; b++) {
    const double cost = static_cast<double>(cost_of(c, sequence_of(p, a, b)));
    if (cost > longest) longest = cost;
  }
  // Fewer heads at a time where one task is more than a worker's share; no bit depends on it.
  while (c.heads > 1 && longest * c.heads * c.workers > total) c.heads = (c.heads + 1) / 2;
  c.head_blocks = (p.kv_heads + c.heads - 1) / c.heads;
  c.heads = (p.kv_heads + c.head_blocks - 1) / c.head_blocks;
}

// Sequences whose tasks cost most first, within a factor of 2, which is enough for the last task to be a short one.
inline void put_in_order(const call& c) {
  const kn_decode_attention_problem& p = *c.problem;
  const auto rank = [&](int64_t b) {
    const int64_t cost = cost_of(c, sequence_of(p, *c.args, b));
    return cost > 0 ? __builtin_clzll(static_cast<uint64_t>(cost)) : 64;
  };
  int64_t next[65 + 1] = {};
  for (int64_t b = 0; b < c.args->batch; b++) next[rank(b) + 1]++;
  for (int64_t i = 0; i < 65; i++) next[i + 1] += next[i];
  for (int64_t b = 0; b < c.args->batch; b++) c.order[next[rank(b)]++] = b;
}

}  // namespace
}  // namespace kn::decode_attention
