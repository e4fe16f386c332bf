// Tasks and their results, shared by the engines. Everything is static, see avx512.h.
//
// Tasks go out one by one to whoever is free. A sequence of one split is finished by its task; the partial sums of the
// others are added in the order of splits. Where the reference is fixed, a row is only believed if it passes the end
// test.
#pragma once
#include "decode_attention_attend.h"
#include "decode_attention_balance.h"

namespace kn::decode_attention {
namespace {

inline bool fixed_reference(const call& c) {
  return c.softmax == KN_SOFTMAX_UNIFIED || c.softmax == KN_SOFTMAX_BOUNDED;
}

inline float sum_lanes(const float* lanes16) { return _mm512_reduce_add_ps(_mm512_load_ps(lanes16)); }

// Finite sums, and a denominator, its sink included, beside which the weights that flushed to 0, each below 2^-126, are
// 2^-24 at most.
inline bool fits(const call& c, const sequence& s, const float* sums, float total, float sink) {
  __m512 spoiled = _mm512_set1_ps(total - total);  // 0, or NaN if anything is infinite or NaN
  for (int64_t d = 0; d < c.out_row; d += 16) {
    const __m512 v = _mm512_load_ps(sums + d);
    spoiled = _mm512_add_ps(spoiled, _mm512_sub_ps(v, v));
  }
  return _mm512_cmp_ps_mask(spoiled, spoiled, _CMP_UNORD_Q) == 0 &&
         total + sink >= static_cast<float>(s.kv_len) * 0x1p-102f;
}

inline float exp2(float x) { return _mm512_cvtss_f32(exp2(1, _mm512_set1_ps(x))); }

// One row to out and lse, its sink included; false and nothing written if a fixed reference does not fit it. What the
// sink takes from the sums is multiplied as its root, twice: on a fixed reference they may be e^88, and e^-88 alone
// would flush to 0.
inline bool conclude(const call& c, const sequence& s, int64_t token, int64_t head, const float* sums, float total,
                     float reference, bool fixed) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const bool any = sees_any(p, a, s, token), sink = (p.flags & KN_ATTN_SINKS) != 0;
  const float sink2 = sink ? a.sinks[head] * kLog2e : 0;
  if (any && fixed && !fits(c, s, sums, total, sink ? exp2(sink2 - reference) : 0)) return false;
  float root = 1;
  if (any && sink) {
    if (sink2 > reference) {
      root = exp2((reference - sink2) / 2);
      reference = sink2;
    }
    total = total * root * root + exp2(sink2 - reference);
  }
  const int64_t row = s.token0 + token;
  char* const out = static_cast<char*>(a.out) + (row * a.out_token + head * a.out_head) * bytes_of(p.out_type);
  const __m512 factor = _mm512_set1_ps(root), divisor = _mm512_set1_ps(total);
  for (int64_t d = 0; d < p.v_head_dim; d += 16) {
    const __m512 sum = _mm512_mul_ps(_mm512_mul_ps(_mm512_load_ps(sums + d), factor), factor);
    const __m512 mean = _mm512_div_ps(sum, divisor);
    store(p.out_type, out, d, first_lanes(p.v_head_dim - d), any ? mean : _mm512_setzero_ps());
  }
  if (a.lse == nullptr) return true;
  const double seen = (reference + __builtin_log2(static_cast<double>(total))) * 0.6931471805599453;
  a.lse[row * a.lse_token + head] = any ? static_cast<float>(seen) : sink ? a.sinks[head] : -__builtin_inff();
  return true;
}

// After the last key of a task: sums in the order of the output. Where the engine multiplied in less than f32, by the
// weights as they were, so that the mean of equal values is that value.
template <class Engine>
void settle(const call& c, float* sums, const float* total, const float* rounded) {
  Engine::order(sums, c.out_row);
  if (!Engine::kRounds) return;
  const float exact = sum_lanes(total), used = sum_lanes(rounded);
  if (!(used > 0 && used < __builtin_inff()) || exact == used) return;
  const __m512 ratio = _mm512_set1_ps(exact / used);
  for (int64_t d = 0; d < c.out_row; d += 16) _mm512_store_ps(sums + d, _mm512_mul_ps(_mm512_load_ps(sums + d), ratio));
}

// Rows of one kv head again, over all keys, by the running maximum.
template <class Engine>
void redo(const call& c, const sequence& s, int64_t kv_head, const rows_of& rows, const work& w) {
  if (rows.count == 0) return;
  begin<Engine>(c, s, rows, kv_head, 1, false, w);
  attend<Engine>(c, s, rows, kv_head, 1, s.begin, s.kv_len, false, w);
  for (int64_t r = 0; r < rows.count; r++) {
    settle<Engine>(c, w.sums + r * c.out_row, w.total + r * 16, w.rounded + r * 16);
    conclude(c, s, rows.token[r], kv_head * c.group + rows.head[r], w.sums + r * c.out_row, sum_lanes(w.total + r * 16),
             w.reference[r], false);
  }
  if (c.args->recomputed != nullptr) __atomic_fetch_add(c.args->recomputed, rows.count, __ATOMIC_RELAXED);
}

inline rows_of rows_from(const call& c, const sequence& s, int64_t first) {
  rows_of rows{};
  rows.wanted = smaller(c.rows, s.tokens * c.group - first);
  rows.count = padded(c.pads, rows.wanted);
  for (int64_t r = 0; r < rows.count; r++) {
    const int64_t row = first + smaller(r, rows.wanted - 1);
    rows.token[r] = static_cast<int32_t>(row / c.group);
    rows.head[r] = static_cast<int32_t>(row % c.group);
  }
  return rows;
}

// The place whose task this is: the last one that begins at or before it.
inline int64_t owner(const int64_t* first, int64_t batch, int64_t item) {
  int64_t low = 0;
  for (int64_t high = batch; high - low > 1;) {
    const int64_t middle = low + (high - low) / 2;
    (first[middle] <= item ? low : high) = middle;
  }
  return low;
}

inline int64_t part_of(const call& c, const sequence& s, int64_t split, int64_t head, int64_t token) {
  return c.first_part[s.index] + (split * c.problem->q_heads + head) * s.tokens + token;
}

template <class Engine>
void task(void* context, int64_t index, int32_t worker) {
  const call& c = *static_cast<const call*>(context);
  const int64_t place = owner(c.first_item, c.args->batch, index), item = index - c.first_item[place];
  const sequence s = sequence_of(*c.problem, *c.args, c.order[place]);
  const int64_t split = item / c.head_blocks, splits = splits_of(c, s), keys = split_of(c, s);
  const int64_t head0 = item % c.head_blocks * c.heads, heads = smaller(c.heads, c.problem->kv_heads - head0);
  const int64_t from = larger(s.begin, (s.begin / keys + split) * keys);
  const int64_t to = smaller(s.kv_len, (from / keys + 1) * keys);
  const bool fixed = fixed_reference(c);
  work w;
  lay_out(c, c.scratch + worker * c.scratch_bytes, &w);
  for (int64_t first = 0; first < s.tokens * c.group; first += c.rows) {
    const rows_of rows = rows_from(c, s, first);
    begin<Engine>(c, s, rows, head0, heads, fixed, w);
    attend<Engine>(c, s, rows, head0, heads, from, to, fixed, w);
    uint64_t failed[kMostHeads] = {};
    for (int64_t i = 0; i < heads * rows.count; i++) {
      const int64_t r = i % rows.count, head = (head0 + i / rows.count) * c.group + rows.head[r];
      if (r >= rows.wanted) continue;
      float* const sums = w.sums + i * c.out_row;
      settle<Engine>(c, sums, w.total + i * 16, w.rounded + i * 16);
      const float total = sum_lanes(w.total + i * 16);
      if (splits > 1) {
        const int64_t part = part_of(c, s, split, head, rows.token[r]);
        memcpy(c.part_sums + part * c.out_row, sums, static_cast<size_t>(c.out_row) * 4);
        c.part_marks[part * 2] = total, c.part_marks[part * 2 + 1] = w.reference[i];
      } else if (!conclude(c, s, rows.token[r], head, sums, total, w.reference[i], fixed)) {
        failed[i / rows.count] |= uint64_t{1} << r;
      }
    }
    for (int64_t h = 0; h < heads; h++) {
      rows_of again{};
      for (int64_t r = 0; r < rows.wanted; r++)
        if (failed[h] >> r & 1) again.token[again.count] = rows.token[r], again.head[again.count++] = rows.head[r];
      redo<Engine>(c, s, head0 + h, again, w);
    }
  }
}

// One row from its partial sums. A fixed reference is the same in all of them, and they add up plainly.
inline float gather(const call& c, const sequence& s, int64_t head, int64_t token, bool fixed, float* sums,
                    float* reference) {
  const int64_t splits = splits_of(c, s);
  *reference = -__builtin_inff();
  float total = 0;
  for (int64_t i = 0; i < splits; i++) {
    const float r = c.part_marks[part_of(c, s, i, head, token) * 2 + 1];
    if (r > *reference) *reference = r;
  }
  memset(sums, 0, static_cast<size_t>(c.out_row) * 4);
  for (int64_t i = 0; i < splits; i++) {
    const int64_t part = part_of(c, s, i, head, token);
    const float r = c.part_marks[part * 2 + 1];
    if (!fixed && r == -__builtin_inff() && c.part_marks[part * 2] == 0) continue;  // a split that the row does not see
    const float scale = fixed || r == *reference ? 1 : exp2(r - *reference);
    total += c.part_marks[part * 2] * scale;
    for (int64_t d = 0; d < c.out_row; d += 16)
      _mm512_store_ps(sums + d, _mm512_fmadd_ps(_mm512_load_ps(c.part_sums + part * c.out_row + d),
                                                _mm512_set1_ps(scale), _mm512_load_ps(sums + d)));
  }
  return total;
}

// The rows of one sequence and kv head; a sequence without keys has them all empty.
template <class Engine>
void combine(void* context, int64_t index, int32_t worker) {
  const call& c = *static_cast<const call*>(context);
  const sequence s = sequence_of(*c.problem, *c.args, index / c.problem->kv_heads);
  const int64_t kv_head = index % c.problem->kv_heads;
  if (splits_of(c, s) == 1) return;
  const bool fixed = fixed_reference(c);
  work w;
  lay_out(c, c.scratch + worker * c.scratch_bytes, &w);
  for (int64_t first = 0; first < s.tokens * c.group; first += c.rows) {
    const rows_of rows = rows_from(c, s, first);
    rows_of again{};
    for (int64_t r = 0; r < rows.wanted; r++) {
      const int64_t head = kv_head * c.group + rows.head[r];
      float reference;
      const float total = gather(c, s, head, rows.token[r], fixed, w.sums, &reference);
      if (!conclude(c, s, rows.token[r], head, w.sums, total, reference, fixed))
        again.token[again.count] = rows.token[r], again.head[again.count++] = rows.head[r];
    }
    redo<Engine>(c, s, kv_head, again, w);
  }
}

inline void find_norms(void* context, int64_t b, int32_t) {
  const call& c = *static_cast<const call*>(context);
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const sequence s = sequence_of(p, a, b);
  float* const norms = c.norms + b * p.kv_heads;
  memset(norms, 0, static_cast<size_t>(p.kv_heads) * 4);
  const int64_t length = p.page_size > 0 ? p.page_size : kMost;
  for (int64_t i = s.begin / length; s.tokens > 0 && s.begin < s.kv_len && i * length < s.kv_len; i++) {
    const int64_t page = p.page_size > 0 ? a.pages[b * a.pages_ld + i] : b;
    for (int64_t h = 0; h < p.kv_heads; h++) {
      const float norm = a.key_norms[page * p.kv_heads + h];
      if (!(norm <= norms[h])) norms[h] = norm;  // NaN stays, and every row is done again
    }
  }
}

}  // namespace
}  // namespace kn::decode_attention
