// A worker's walk over keys: chunks of tokens, the heads of a task, the rows of each. Everything is static, see
// avx512.h.
//
// An Engine has
//   kRounds: it multiplies weights in less than f32
//   key_steps, value_steps: those of scores and of add_values; kLargestWidth: see with_width
//   kPacked: rows of q that pack_q packs as one, where there are as many
//   kUnit: what 1 is worth that key_at returns; order takes care of values
//   kAsStored: it multiplies what the cache holds; see padded
//   kByLanes: many rows may go by lanes, see decode_attention_lanes.h; then kConverts: elements cost more to convert
//     than to multiply; kPair: elements in the dwords that are multiplied; key_lines and value_lines: what is copied
//     as another engine does
//   q_bytes(head_dim): of a row of q as it reads it
//   pack_q(problem, q, out, i, n): row i of the n of a kv head
//   scores<R, T, F, D>(m): s = q . k of R rows over T slots, by products<Engine, R, T, F, D>(m); F: it fetches what
//     m.ahead says; D is head_dim, or 0
//   out_row(problem): floats of a row of sums; order(sums, out_row): to the order of the output, at the end
//   put(weights, p): the weights of a row and chunk as it multiplies them; where it kRounds, returns the sum of what it
//     put, a part in each lane, and has weight_at(weights, i): 16 of these, as f32
//   hold(weights), if at all: once all rows are put
//   add_values<R, T, F, D>(m): sums += weights . v of R rows over T slots; D is v_head_dim, or 0
// or, in place of scores, add_values, value_steps and kLargestWidth,
//   attend(call, attending, work): scores, soften and sums of a chunk
#pragma once
#include "decode_attention_lanes.h"
#include "decode_attention_places.h"
#include "decode_attention_softmax.h"
#include "decode_attention_walk.h"

namespace kn::decode_attention {
namespace {

// The rows that are attended together, the same for every head of the task.
struct rows_of {
  int64_t count, wanted;              // the others are the last one again: see padded
  int32_t token[kRows], head[kRows];  // by tokens, ascending; the head within its group
};

// Neither a score nor the sink passes the bound, and 60 nats above the reference leave room for 2^28 values of up to
// 2^10. A bound of NaN stays, and the row is done again.
inline float bounded_reference(const call& c, const sequence& s, const char* q, int64_t head) {
  const kn_decode_attention_problem& p = *c.problem;
  float bound = p.softcap;
  if (by_norms(p, c.softmax)) {
    float norm = 0;
    for (int64_t d = 0; d < p.head_dim; d += 16) {
      const __m512 v = load(p.q_type, q, d, first_lanes(p.head_dim - d));
      norm += _mm512_reduce_add_ps(_mm512_mul_ps(v, v));
    }
    bound = __builtin_sqrtf(norm) * c.norms[s.index * p.kv_heads + head / c.group] * c.args->scale;
  }
  if ((p.flags & KN_ATTN_SINKS) && c.args->sinks[head] > bound) bound = c.args->sinks[head];
  return bound > 60 ? (bound - 60) * kLog2e : bound * 0;
}

// Before the first key. The reference of a row that runs is none yet.
template <class Engine>
void begin(const call& c, const sequence& s, const rows_of& rows, int64_t head0, int64_t heads, bool fixed,
           const work& w) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  for (int64_t h = 0; h < heads; h++) {
    for (int64_t r = 0; r < rows.count; r++) {
      const int64_t at = h * rows.count + r, head = (head0 + h) * c.group + rows.head[r];
      const char* q = static_cast<const char*>(a.q) +
                      ((s.token0 + rows.token[r]) * a.q_token + head * a.q_head) * bytes_of(p.q_type);
      Engine::pack_q(p, q, w.q + h * rows.count * c.q_row, r, rows.count);
      memset(w.sums + at * c.out_row, 0, static_cast<size_t>(c.out_row) * 4);
      memset(w.total + at * 16, 0, 64);
      memset(w.rounded + at * 16, 0, 64);
      w.reference[at] = -__builtin_inff();
      if (!fixed) continue;
      if (c.softmax == KN_SOFTMAX_UNIFIED) {
        w.reference[at] = a.phi[head] * kLog2e;
      } else {
        w.reference[at] = bounded_reference(c, s, q, head);
      }
    }
    if (c.lane_rows > 0 && lanes_for(rows.count) > 0) turn_q(c, rows.count, h, w);
  }
}

// What a run of rows with the same mask is attended with.
struct attending {
  const sequence* s;
  const rows_of* rows;
  int64_t head0, heads, first, count;  // kv heads; rows first .. first + count
  bool fixed;
  uint64_t seen;     // slots
  const view* keys;  // [heads]
};

// Scores to weights, for the rows of one head. Out of line, so that the walk over values keeps its registers.
template <class Engine>
[[gnu::noinline]] void soften(const call& c, const attending& t, int64_t h, const work& w) {
  const kn_decode_attention_problem& p = *c.problem;
  const float factor = c.plain ? c.scale2 : 1.0f, threshold = c.softmax == KN_SOFTMAX_LAZY ? kLazy : 0.0f;
  const marks& keys = t.keys[h].keys;
  const float* const v_scale = (p.flags & KN_ATTN_SCALES) ? keys.v_scale : nullptr;
  const auto rows = [&](auto seen) KN_INLINE {
    for (int64_t r = t.first; r < t.first + t.count; r++) {
      const int64_t at = h * t.rows->count + r;
      float *const row = w.scores + at * kChunk, *const total = w.total + at * 16, *const rounded = w.rounded + at * 16;
      vectors x;
      each_vector([&](auto i) KN_INLINE { x[i] = _mm512_load_ps(row + 16 * i); });
      if (!c.plain) {
        const int64_t head = (t.head0 + h) * c.group + t.rows->head[r];
        const float slope2 = (p.flags & KN_ATTN_ALIBI) ? c.args->alibi[head] * kLog2e : 0;
        rescore(c, keys, position_of(p, *c.args, *t.s, t.rows->token[r]), slope2, x);
      }
      float* const sums = w.sums + at * c.out_row;
      if (!t.fixed) renew(threshold, factor, x, seen, w.reference + at, total, rounded, sums, c.out_row);
      weigh<Engine>(factor, w.reference[at], x, seen, v_scale, total, rounded, row);
    }
  };
  if (t.seen == ~uint64_t{0})
    rows([](int) KN_INLINE { return __mmask16{0xffff}; });
  else
    rows([&](int i) KN_INLINE { return static_cast<__mmask16>(t.seen >> 16 * i); });
  if constexpr (requires(float* weights) { Engine::hold(weights); })
    for (int64_t r = t.first; r < t.first + t.count; r++) Engine::hold(w.scores + (h * t.rows->count + r) * kChunk);
}

// The widths that an engine is compiled for: 128 and 256 up to kLargestWidth.
template <class Engine>
constexpr bool has_width(int64_t width) {
  return !KN_INSTRUMENTED && (width == 128 || width == 256) && width <= Engine::kLargestWidth;
}

// Calls f<D>() for those, f<0>() for any other.
template <class Engine, class F>
inline KN_INLINE void with_width(int64_t width, F f) {
  if constexpr (has_width<Engine>(128))
    if (width == 128) return f.template operator()<128>();
  if constexpr (has_width<Engine>(256))
    if (width == 256) return f.template operator()<256>();
  f.template operator()<0>();
}

// The keys of one chunk for a run of rows.
template <class Engine>
void attend_chunk(const call& c, const attending& t, const work& w) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const auto rows_at = [&](int64_t head, int64_t row, int64_t slot) KN_INLINE {
    const int64_t i = head * t.rows->count + row;
    multiplication m{};
    m.problem = &p;
    m.q = w.q + i * c.q_row, m.q_row = c.q_row;
    m.scores = w.scores + i * kChunk, m.slot = slot;
    m.sums = w.sums + i * c.out_row, m.out_row = c.out_row;
    return m;
  };
  const int64_t bytes = bytes_of(p.kv_type), k_bytes = p.head_dim * bytes, v_bytes = p.v_head_dim * bytes;
  // Rows that are packed as one are multiplied as one, wanted or not.
  const int64_t packed = t.rows->count / Engine::kPacked * Engine::kPacked;
  const auto whole = [&](int64_t row, int64_t part) {
    return row < packed ? round_up(row - part, Engine::kPacked) : row;
  };
  const int64_t first = whole(t.first, Engine::kPacked - 1), end = whole(t.first + t.count, 0);
  using key_steps = typename Engine::key_steps;
  using value_steps = typename Engine::value_steps;
  const bool many_sums = t.heads * t.count * c.out_row * 4 > kManySums;
  const bool few_keys = p.kv_heads * k_bytes >= kLongToken;
  const bool few_values = p.kv_heads * v_bytes >= kLongToken && (value_steps::kSame || !many_sums);
  const bool across = stay<key_steps>(end - first, few_keys) == stay<value_steps>(t.count, few_values);
  const auto path_of = [&](int64_t head_bytes, int64_t head, int64_t token, int64_t other_head, bool few) {
    const int64_t ahead = bytes == 1 && !few ? kAheadInBytes : kAhead;
    return path{.heads_inside = head < token,
                .few = few,
                .crowded = head < token && token * bytes % kSets == 0,
                .head0 = t.head0,
                .heads = t.heads,
                .stride = head * bytes,
                .later = (across ? other_head : head) * bytes,
                .past = across ? 0 : kChunk,
                .ahead = c.by_l2 ? kNear : larger(ahead * kRuns / head_bytes, kRuns),
                .beyond = c.by_l2 ? larger(kBeyond * kRuns / head_bytes, kRuns) : 0};
  };
  const path keys = path_of(k_bytes, a.k_head, a.k_token, a.v_head, few_keys);
  with_width<Engine>(p.head_dim, [&]<int D>() {
    walk<key_steps, (D > 0 && Engine::kBytes == 4)>(
        keys, end - first,
        [&](int64_t head, int64_t row, int64_t slot, int64_t slots) KN_INLINE {
          multiplication m = rows_at(head, first + row, slot);
          keys.aim(&m, slots, head, [&](int64_t h) { return t.keys[h].at; });
          return m;
        },
        [&]<int R, int T, fetching F>(const multiplication& m) KN_INLINE { Engine::template scores<R, T, F, D>(m); });
  });
  // Late, what was fetched of a head's values arrives meanwhile; in f32 it was slower.
  constexpr bool kLate = Engine::kBytes < 4;
  for (int64_t h = 0; h < (kLate ? 0 : t.heads); h++) soften<Engine>(c, t, h, w);
  const path values = path_of(v_bytes, a.v_head, a.v_token, a.k_head, few_values);
  with_width<Engine>(p.v_head_dim, [&]<int D>() {
    walk<value_steps, (D > 0 && Engine::kBytes == 4)>(
        values, t.count,
        [&](int64_t head, int64_t row, int64_t slot, int64_t slots) KN_INLINE {
          if (kLate && slot == 0 && row == 0) soften<Engine>(c, t, head, w);
          multiplication m = rows_at(head, t.first + row, slot);
          values.aim(&m, slots, head, [&](int64_t h) { return t.keys[h].at + kChunk; });
          return m;
        },
        [&]<int R, int T, fetching F>(const multiplication& m)
            KN_INLINE { Engine::template add_values<R, T, F, D>(m); });
  });
}

// Rows as lanes: the keys of all heads, while their values are fetched, and then those, while the next keys are.
template <class Engine>
void attend_lanes(const call& c, const attending& t, const work& w) {
  using by_keys = by_lanes<typename lines_of<Engine>::keys>;
  using by_values = by_lanes<typename lines_of<Engine>::values>;
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const int64_t bytes = bytes_of(p.kv_type), n = t.rows->count, end = t.first + t.count;
  char* const copies[] = {w.copies, w.copies + c.copies / 2};
  const auto later = [&](int64_t place, int64_t token, int64_t head, int64_t dim) {
    return stream{t.keys, place, t.head0, t.heads, head * bytes, dim * bytes, head < token};
  };
  stream values = later(kChunk, a.v_token, a.v_head, p.v_head_dim);
  constexpr int64_t kTiles = kChunk / by_keys::kSlots;
  const auto tile = [&](int64_t i) {
    const int64_t h = i / kTiles, slot = i % kTiles * by_keys::kSlots;
    return source{t.keys[h].at + slot, k_offset(c, t.head0 + h), p.head_dim, copies[i % 2]};
  };
  by_keys::copy_keys(tile(0));
  for (int64_t i = 0; i < kTiles * t.heads; i++) {
    const int64_t h = i / kTiles, slot = i % kTiles * by_keys::kSlots;
    source next = tile(i + 1 < kTiles * t.heads ? i + 1 : i);  // the last copies what nobody reads
    next.to = copies[(i + 1) % 2];
    const auto score = [&]<bool kCopy>(int64_t r) {
      by_keys::template score<kCopy>(w.lanes + (h * c.lane_rows + r) * c.q_row, copies[i % 2], p.head_dim,
                                     smaller(16, end - r), w.scores + (h * n + r) * kChunk + slot, next, &values);
    };
    score.template operator()<true>(t.first);
    for (int64_t r = t.first + 16; r < end; r += 16) score.template operator()<false>(r);
  }
  stream keys = later(2 * kChunk, a.k_token, a.k_head, p.head_dim);
  const int64_t blocks = (p.v_head_dim + by_values::kBlock - 1) / by_values::kBlock;
  const auto block = [&](int64_t i) {
    const int64_t h = i / blocks, d = i % blocks * by_values::kBlock;
    return source{t.keys[h].at + kChunk, v_offset(c, t.head0 + h) + d * bytes, p.v_head_dim - d, copies[i % 2]};
  };
  by_values::copy_values(block(0));
  for (int64_t i = 0; i < blocks * t.heads; i++) {
    const int64_t h = i / blocks, d = i % blocks * by_values::kBlock, row = h * n + t.first;
    if (d == 0) soften<Engine>(c, t, h, w);
    source next = block(i + 1 < blocks * t.heads ? i + 1 : i);
    next.to = copies[(i + 1) % 2];
    const float* const weights = w.scores + row * kChunk;
    float* const sums = w.sums + row * c.out_row + d;
    if (d + by_values::kBlock <= c.out_row)
      by_values::template add_all<2>(copies[i % 2], weights, t.count, sums, c.out_row, next, &keys);
    else
      by_values::template add_all<1>(copies[i % 2], weights, t.count, sums, c.out_row, next, &keys);
  }
}

// The keys of one chunk for a run of rows: as many as are worth it by lanes.
template <class Engine>
void attend_rows(const call& c, const attending& t, const work& w) {
  attending part = t;
  if constexpr (Engine::kByLanes) {
    part.count = c.lane_rows > 0 && t.first % 16 == 0 ? lanes_for(t.count) : 0;
    if (part.count > 0) attend_lanes<Engine>(c, part, w);
    part.first += part.count, part.count = t.count - part.count;
  }
  if (part.count > 0) attend_chunk<Engine>(c, part, w);
}

// The keys of [from, to) for `rows` of `heads` kv heads.
template <class Engine>
void attend(const call& c, const sequence& s, const rows_of& rows, int64_t head0, int64_t heads, int64_t from,
            int64_t to, bool fixed, const work& w) {
  const kn_decode_attention_problem& p = *c.problem;
  located keys_at;
  view* const keys = w.keys;
  attending t{&s, &rows, head0, heads, 0, 0, fixed, 0, keys};
  locate(c, s, from / kChunk * kChunk, to, &keys_at);
  for (int64_t chunk = from / kChunk * kChunk; chunk < to; chunk += kChunk) {
    advance(&keys_at);
    if (chunk + kChunk < to) locate(c, s, chunk + kChunk, to, &keys_at);
    if (p.flags & KN_ATTN_ALIBI)
      for (int64_t h = 0; h < heads; h++) positions(c, s, chunk, keys[h].keys.position);
    for (int64_t r = 0; r < rows.count; r += t.count) {
      const uint64_t seen = seen_by(p, *c.args, s, rows.token[r], chunk);
      t.first = r, t.count = 1;
      for (; r + t.count < rows.count; t.count++) {
        const int32_t token = rows.token[r + t.count];
        if (token != rows.token[r + t.count - 1] && seen_by(p, *c.args, s, token, chunk) != seen) break;
      }
      if (seen == 0) continue;
      t.seen = slots_of(seen);
      for (int64_t h = 0; h < heads; h++) look(c, keys_at, head0 + h, t.seen, &keys[h]);
      if (p.flags & KN_ATTN_SCALES) scales(c, keys_at, head0, heads, t.seen, keys);
      if constexpr (requires { Engine::attend(c, t, w); })
        Engine::attend(c, t, w);
      else
        attend_rows<Engine>(c, t, w);
    }
  }
}

}  // namespace
}  // namespace kn::decode_attention
