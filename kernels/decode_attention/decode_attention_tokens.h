// Which keys a token sees: the mask as structure. Everything is static, see avx512.h.
#pragma once
#include "decode_attention.h"

namespace kn::decode_attention {
namespace {

constexpr int64_t kWidest = 1024;  // head_dim and v_head_dim
constexpr int64_t kChunk = 64;     // tokens that are scored before they are weighed: a mask is one word

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

struct sequence {
  int64_t index, token0, tokens;  // its new tokens in q
  int64_t kv_len, first_new;      // the first new token as a key; below 0 where the cache holds fewer, or past its end
  int64_t begin;                  // no token sees a key before this one, kv_len at most
};

inline sequence sequence_of(const kn_decode_attention_problem& p, const kn_decode_attention_args& a, int64_t index) {
  sequence s{};
  s.index = index;
  s.token0 = a.q_start != nullptr ? a.q_start[index] : index * a.q_len;
  s.tokens = a.q_start != nullptr ? a.q_start[index + 1] - s.token0 : a.q_len;
  s.kv_len = a.kv_lens[index];
  s.first_new = s.kv_len + (a.kv_later != nullptr ? a.kv_later[index] : 0) - s.tokens;
  s.begin = p.window > 0 ? smaller(s.kv_len, larger(0, s.first_new + 1 - p.window)) : 0;
  return s;
}

inline int64_t ones(uint32_t word) {
  int64_t count = 0;
  for (; word != 0; word &= word - 1) count++;
  return count;
}

inline int64_t position_of(const kn_decode_attention_problem& p, const kn_decode_attention_args& a, const sequence& s,
                           int64_t t) {
  return s.first_new + ((p.flags & KN_ATTN_TREE) ? ones(a.tree[s.token0 + t]) - 1 : t);
}

// Bit i: begin <= chunk + i < end.
inline uint64_t between(int64_t begin, int64_t end, int64_t chunk) {
  const int64_t b = larger(begin - chunk, 0), e = smaller(end - chunk, kChunk);
  return b < e ? ~uint64_t{0} >> (kChunk - (e - b)) << b : 0;
}

// Bit i: token t of the sequence sees the key chunk + i.
inline uint64_t seen_by(const kn_decode_attention_problem& p, const kn_decode_attention_args& a, const sequence& s,
                        int64_t t, int64_t chunk) {
  if (p.flags & KN_ATTN_FULL) return between(0, s.kv_len, chunk);
  const int64_t position = position_of(p, a, s, t), first = p.window > 0 ? larger(0, position - p.window + 1) : 0;
  if (!(p.flags & KN_ATTN_TREE)) return between(first, smaller(position + 1, s.kv_len), chunk);
  uint64_t seen = between(first, smaller(s.first_new, s.kv_len), chunk);
  for (int64_t u = chunk + kChunk <= s.first_new ? s.tokens : 0; u <= t; u++)
    if ((a.tree[s.token0 + t] >> u & 1) && (p.window == 0 || position_of(p, a, s, u) > position - p.window))
      seen |= between(larger(0, s.first_new + u), smaller(s.first_new + u + 1, s.kv_len), chunk);
  return seen;
}

// Whether token t sees any key at all.
inline bool sees_any(const kn_decode_attention_problem& p, const kn_decode_attention_args& a, const sequence& s,
                     int64_t t) {
  if (p.flags & KN_ATTN_FULL) return s.kv_len > 0;
  const int64_t position = position_of(p, a, s, t), first = p.window > 0 ? larger(0, position - p.window + 1) : 0;
  if (!(p.flags & KN_ATTN_TREE)) return first < smaller(position + 1, s.kv_len);
  if (first < smaller(s.first_new, s.kv_len)) return true;
  for (int64_t u = larger(0, -s.first_new); u <= t && s.first_new + u < s.kv_len; u++)
    if ((a.tree[s.token0 + t] >> u & 1) && (p.window == 0 || position_of(p, a, s, u) > position - p.window))
      return true;
  return false;
}

}  // namespace
}  // namespace kn::decode_attention
