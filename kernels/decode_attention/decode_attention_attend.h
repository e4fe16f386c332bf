// A worker's walk over keys: chunks of tokens, the heads of a task, the rows of each. Everything is static, see
// avx512.h.
//
// An Engine has
//   kRounds: it multiplies weights in less than f32
//   q_row(problem): bytes of a row of q as it reads it
//   pack_q(problem, q, out): one row
//   scores(m): s = q . k of some rows over the tokens of a chunk
//   put(weights, i, p): 16 weights of a row from token i on as it multiplies them; returns them so, as f32
//   add_values(m): sums += weights . v
#pragma once
#include "decode_attention_softmax.h"

namespace kn::decode_attention {
namespace {

// What stands in for a key that is not seen: its score is finite and its value adds nothing, whatever memory holds.
alignas(64) inline constexpr char kNothing[kWidest * 4] = {};

// The keys of a chunk: where they lie for kv head 0. The first of all where there is none, for fetches.
struct located {
  const char* k[kChunk];
  const char* v[kChunk];
  int64_t scale[kChunk];
};

// Some rows of one kv head times the keys of a chunk.
struct multiplication {
  const kn_decode_attention_problem* problem;
  int64_t rows, count;    // count tokens: a multiple of 16
  const char* const* at;  // [count]: k or v of a token
  const char* q;          // [rows, q_row]
  int64_t q_row;          // bytes
  float* scores;          // [rows, kChunk]
  char* weights;          // [rows, kChunk]
  float* sums;            // [rows, out_row]
  int64_t out_row;
  const char* const* next;  // [kChunk]: what to fetch meanwhile, next_offset further
  int64_t next_offset;
};

// The rows that are attended together, the same for every head of the task.
struct rows_of {
  int64_t count;
  int32_t token[kRows], head[kRows];  // by tokens, ascending; the head within its group
};

inline void locate(const call& c, const sequence& s, int64_t chunk, int64_t end, located* out) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const int64_t k_bytes = bytes_of(p.kv_type), first = larger(chunk, s.begin), last = smaller(chunk + kChunk, end);
  const int64_t length = p.page_size > 0 ? p.page_size : kMost;
  for (int64_t i = 0; i < kChunk; i++)
    out->k[i] = static_cast<const char*>(a.k), out->v[i] = static_cast<const char*>(a.v);
  int64_t number = first / length, in_page = first % length;
  for (int64_t j = first; j < last; number++, in_page = 0) {
    const int64_t page = p.page_size > 0 ? a.pages[s.index * a.pages_ld + number] : s.index;
    const char* k = static_cast<const char*>(a.k) + (page * a.k_page + in_page * a.k_token) * k_bytes;
    const char* v = static_cast<const char*>(a.v) + (page * a.v_page + in_page * a.v_token) * k_bytes;
    int64_t scale = page * a.scale_page + in_page * a.scale_token;
    for (const int64_t stop = smaller(last, j + length - in_page); j < stop; j++) {
      out->k[j - chunk] = k, out->v[j - chunk] = v, out->scale[j - chunk] = scale;
      k += a.k_token * k_bytes, v += a.v_token * k_bytes, scale += a.scale_token;
    }
  }
}

// The chunk as one kv head and one set of seen keys have it.
struct view {
  const char* k[kChunk];
  const char* v[kChunk];
  marks keys;
};

inline void look(const call& c, const located& at, int64_t head, uint64_t seen, int64_t count, view* out) {
  const int64_t k_offset = head * c.k_head_bytes, v_offset = head * c.v_head_bytes;
  if (seen == ~uint64_t{0}) {
    for (int64_t i = 0; i < kChunk; i++) out->k[i] = at.k[i] + k_offset;
    for (int64_t i = 0; i < kChunk; i++) out->v[i] = at.v[i] + v_offset;
  } else {
    for (int64_t i = 0; i < count; i++) {
      const bool there = seen >> i & 1;
      out->k[i] = there ? at.k[i] + k_offset : kNothing;
      out->v[i] = there ? at.v[i] + v_offset : kNothing;
    }
  }
  if (!(c.problem->flags & KN_ATTN_SCALES)) return;
  const int64_t s_offset = head * c.args->scale_head;
  for (int64_t i = 0; i < count; i++) {
    const bool there = seen >> i & 1;
    out->keys.k_scale[i] = there ? c.args->k_scales[at.scale[i] + s_offset] : 0;
    out->keys.v_scale[i] = there ? c.args->v_scales[at.scale[i] + s_offset] : 0;
  }
}

inline void positions(const call& c, const sequence& s, int64_t chunk, int32_t* out) {
  const bool tree = (c.problem->flags & KN_ATTN_TREE) != 0;
  for (int64_t i = 0; i < kChunk; i++) {
    const int64_t t = chunk + i - s.first_new;
    out[i] = static_cast<int32_t>(tree && t >= 0 && t < s.tokens ? position_of(*c.problem, *c.args, s, t) : chunk + i);
  }
}

// Before the first key. The reference of a row that runs is none yet.
template <class Engine>
void begin(const call& c, const sequence& s, const rows_of& rows, int64_t head0, int64_t heads, bool fixed,
           const work& w) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  for (int64_t h = 0; h < heads; h++)
    for (int64_t r = 0; r < rows.count; r++) {
      const int64_t at = h * rows.count + r, head = (head0 + h) * c.group + rows.head[r];
      const char* q = static_cast<const char*>(a.q) +
                      ((s.token0 + rows.token[r]) * a.q_token + head * a.q_head) * bytes_of(p.q_type);
      Engine::pack_q(p, q, w.q + at * c.q_row);
      memset(w.sums + at * c.out_row, 0, static_cast<size_t>(c.out_row) * 4);
      memset(w.total + at * 16, 0, 64);
      memset(w.rounded + at * 16, 0, 64);
      w.reference[at] = -__builtin_inff();
      if (!fixed) continue;
      if (c.softmax == KN_SOFTMAX_UNIFIED) {
        w.reference[at] = a.phi[head] * kLog2e;
      } else if (!by_norms(p, c.softmax)) {
        w.reference[at] = 0;
      } else {
        // |q . k| scale <= bound, and 60 nats above the reference leave room for 2^28 values of up to 2^10.
        float norm = 0;
        for (int64_t d = 0; d < p.head_dim; d += 16) {
          const __m512 v = load(p.q_type, q, d, first_lanes(p.head_dim - d));
          norm += _mm512_reduce_add_ps(_mm512_mul_ps(v, v));
        }
        const float bound = __builtin_sqrtf(norm) * c.norms[s.index * p.kv_heads + head0 + h] * a.scale;
        w.reference[at] = bound > 60 ? (bound - 60) * kLog2e : bound * 0;
      }
    }
}

// The keys of [from, to) for `rows` of `heads` kv heads.
template <class Engine>
void attend(const call& c, const sequence& s, const rows_of& rows, int64_t head0, int64_t heads, int64_t from,
            int64_t to, bool fixed, const work& w) {
  const kn_decode_attention_problem& p = *c.problem;
  located chunks[2];
  view keys;
  const float factor = c.plain ? c.scale2 : 1.0f;
  const float threshold = c.softmax == KN_SOFTMAX_LAZY ? kLazy : 0.0f;
  int64_t chunk = from / kChunk * kChunk;
  locate(c, s, chunk, to, &chunks[0]);
  for (int turn = 0; chunk < to; chunk += kChunk, turn ^= 1) {
    const located &now = chunks[turn], &then = chunks[turn ^ 1];
    locate(c, s, chunk + kChunk < to ? chunk + kChunk : chunk, to, &chunks[turn ^ 1]);
    if (p.flags & KN_ATTN_ALIBI) positions(c, s, chunk, keys.keys.position);
    for (int64_t h = 0; h < heads; h++) {
      const bool wraps = h + 1 == heads;
      const located& next = wraps ? then : now;
      const int64_t next_head = wraps ? head0 : head0 + h + 1;
      for (int64_t r = 0, stop; r < rows.count; r = stop) {
        const uint64_t seen = seen_by(p, *c.args, s, rows.token[r], chunk);
        for (stop = r + 1; stop < rows.count; stop++)
          if (rows.token[stop] != rows.token[stop - 1] && seen_by(p, *c.args, s, rows.token[stop], chunk) != seen)
            break;
        if (seen == 0) continue;
        const int64_t count = round_up(64 - __builtin_clzll(seen), 16), at = h * rows.count + r;
        look(c, now, head0 + h, seen, count, &keys);
        multiplication m{};
        m.problem = &p, m.rows = stop - r, m.count = count;
        m.q = w.q + at * c.q_row, m.q_row = c.q_row;
        m.scores = w.scores, m.weights = w.weights;
        m.sums = w.sums + at * c.out_row, m.out_row = c.out_row;
        m.at = keys.k, m.next = next.k, m.next_offset = next_head * c.k_head_bytes;
        Engine::scores(m);
        for (int64_t i = 0; i < m.rows; i++) {
          float* const score = w.scores + i * kChunk;
          if (!c.plain) {
            const int64_t head = (head0 + h) * c.group + rows.head[r + i];
            const float slope2 = (p.flags & KN_ATTN_ALIBI) ? c.args->alibi[head] * kLog2e : 0;
            rescore(c, keys.keys, position_of(p, *c.args, s, rows.token[r + i]), slope2, count, score);
          }
          float *const total = w.total + (at + i) * 16, *const rounded = w.rounded + (at + i) * 16;
          if (!fixed)
            renew(threshold, factor, score, seen, count, w.reference + at + i, total, rounded, m.sums + i * c.out_row,
                  c.out_row);
          weigh<Engine>(factor, w.reference[at + i], score, seen, count,
                        (p.flags & KN_ATTN_SCALES) ? keys.keys.v_scale : nullptr, total, rounded,
                        w.weights + i * kChunk * kWeightBytes);
        }
        m.at = keys.v, m.next = next.v, m.next_offset = next_head * c.v_head_bytes;
        Engine::add_values(m);
      }
    }
  }
}

}  // namespace
}  // namespace kn::decode_attention
