// B in blocks: the entries of a row that lie in one aligned register of columns are one record, so that their products
// are one multiplication and one addition to sums in place, and marks are the record's bits. Pays where rows of B are
// used several times and their entries lie close together, as in meshes; what a block costs does not depend on how many
// columns it has.
#pragma once
#include "spgemm_operands.h"

namespace kn::spgemm {
namespace {

constexpr int64_t kBlockRows = 1024;                // of B in a task
constexpr int64_t kMostBlocked = int64_t{1} << 31;  // entries of B
constexpr int64_t kBlockSpan = 128;                 // columns for a product at most: marks are a bit for each
constexpr int64_t kSampledRows = 64;

// Columns [block * L::count, +L::count) that have the bits; their values are consecutive in B.
struct block_record {
  uint32_t block, bits;
};

// Records of a row of B.
struct block_range {
  uint32_t begin, end;
};

inline bool may_block(const kn_spgemm_problem& p, const limits& l) {
  return !((p.flags & KN_SPGEMM_MASK) && (p.flags & KN_SPGEMM_ACCUMULATE)) && (p.flags & KN_SPGEMM_B_SORTED) &&
         p.n <= kDense && p.b_nnz < kMostBlocked && p.b_nnz > 0 && p.products / p.b_nnz >= l.blocks;
}

inline int64_t ranges_bytes(const kn_spgemm_problem& p) {
  return round_up(p.k * static_cast<int64_t>(sizeof(block_range)), 64);
}

inline int64_t blocks_bytes(const kn_spgemm_problem& p, const limits& l) {
  return may_block(p, l) ? ranges_bytes(p) + round_up(p.b_nnz * static_cast<int64_t>(sizeof(block_record)), 64) : 0;
}

template <class I, class S>
struct blocked_operand {
  using V = typename S::value;
  using L = lanes<V>;
  using mask = typename L::mask;

  const kn_spgemm_problem& p;
  const kn_csr &a, &b;
  block_range* ranges;    // [k]
  block_record* records;  // [b_nnz]: a task's begin where its entries do

  // Records of row k, at `to`.
  int64_t split(int64_t k, block_record* to) const {
    const I* c = static_cast<const I*>(b.columns);
    int64_t at = -1;
    uint32_t block = ~uint32_t{0}, bits = 0;
    for (int64_t j = b.offsets[k]; j < b.offsets[k + 1]; j++) {
      const uint32_t column = static_cast<uint32_t>(c[j]), mine = column / L::count;
      bits = mine == block ? bits : 0;
      at += mine != block;
      block = mine;
      bits |= uint32_t{1} << (column % L::count);
      to[at] = {block, bits};
    }
    return at + 1;
  }

  void rows(int64_t from, int64_t to) const {
    int64_t at = b.offsets[from];
    for (int64_t k = from; k < to; k++) {
      const int64_t n = split(k, records + at);
      ranges[k] = {static_cast<uint32_t>(at), static_cast<uint32_t>(at + n)};
      at += n;
    }
  }

  static void task(void* context, int64_t index, int32_t) {
    const blocked_operand& self = *static_cast<const blocked_operand*>(context);
    self.rows(index * kBlockRows, smaller((index + 1) * kBlockRows, self.p.k));
  }

  // Whether blocks of some of the rows that A names hold `least` entries on average.
  bool fill(int64_t least) const {
    const I *ks = static_cast<const I*>(a.columns), *c = static_cast<const I*>(b.columns);
    int64_t entries = 0, blocks = 0;
    for (int64_t s = 0; s < kSampledRows; s++) {
      const I k = ks[a.offsets[p.m] * s / kSampledRows];
      const int64_t from = b.offsets[k], to = smaller(b.offsets[k + 1], from + 64);
      for (int64_t j = from; j < to; j++) blocks += j == from || c[j] / L::count != c[j - 1] / L::count;
      entries += to - from;
    }
    return entries >= least * blocks;
  }

  // Adds the products of row i of C, and marks their columns.
  void add(const row_operands<I, S>& operands, int64_t i, V* sums, mask* marks) const {
    static const V unread = 0;  // where there are no values
    const I* ks = operands.columns(a);
    const V *x = operands.values(a), *values = operands.values(b);
    const int64_t* offsets = b.offsets;
    addend(operands, i, sums, marks);
    const V* const all = S::kReads ? values + b.offsets[p.k] : nullptr;  // where B's values end
    for (int64_t e = a.offsets[i], end = a.offsets[i + 1]; e < end; e++) {
      const I k = ks[e];
      const block_range range = ranges[k];
      const auto coefficient = L::set(S::kReads ? x[e] : unread);
      const V* y = S::kReads ? values + offsets[k] : nullptr;
      for (const block_record *r = records + range.begin, *to = records + range.end; r < to; r++) {
        const auto m = static_cast<mask>(r->bits);
        V* at = sums + int64_t{r->block} * L::count;
        if (S::kValues) {
          auto product = coefficient;
          if (S::kReads) {
            const int n = __builtin_popcount(r->bits);
            const auto some = all - y >= L::count ? L::load(y) : L::load(static_cast<mask>(first_lanes(n)), y);
            product = L::expand(m, some);
            y += n;
          }
          const auto sum = L::load(at);
          L::store(at, L::blend(m, sum, S::add(sum, S::mul(coefficient, product))));
        }
        marks[r->block] |= m;
      }
    }
  }

  // D's entries of row i.
  static void addend(const row_operands<I, S>& operands, int64_t i, V* sums, mask* marks) {
    if (!operands.has(KN_SPGEMM_ACCUMULATE)) return;
    const kn_csr& d = operands.a.d;
    for (int64_t j = d.offsets[i]; j < d.offsets[i + 1]; j++) {
      const I at = operands.columns(d)[j];
      if (S::kValues) sums[at] = S::add(sums[at], operands.values(d)[j]);
      marks[at / L::count] |= static_cast<mask>(1 << (at % L::count));
    }
  }

  // The sums of the marked columns from low to high, in order, and both back to zero; `most` are written at most.
  template <bool Columns>
  static int64_t take(int64_t low, int64_t high, V* sums, mask* marks, I* c, V* v, int64_t most) {
    constexpr int kMarks = 64 / sizeof(mask);  // in a register
    int64_t count = 0;
    for (int64_t at = low / L::count / kMarks; at <= high / L::count / kMarks; at++) {
      const __m512i some = _mm512_load_si512(marks + at * kMarks);
      uint64_t marked;
      if constexpr (sizeof(mask) == 1)
        marked = _mm512_test_epi8_mask(some, some);
      else
        marked = _mm512_test_epi16_mask(some, some);
      if (marked == 0) continue;
      for (; marked != 0; marked &= marked - 1) {
        const int64_t block = at * kMarks + __builtin_ctzll(marked);
        const mask m = marks[block];
        const int n = __builtin_popcount(m);
        if (Columns) L::store_columns(c + count, m, block * L::count);
        if (S::kValues) {
          const auto sum = L::compress(m, L::load(sums + block * L::count));
          if (Columns)
            L::store(v + count, sum);
          else if (count + n <= most)  // not a lane more: another thread may have computed the next row
            L::store(v + count, static_cast<mask>(first_lanes(n)), sum);
          L::store(sums + block * L::count, L::set(S::zero()));
        }
        count += n;
      }
      _mm512_store_si512(marks + at * kMarks, _mm512_setzero_si512());
    }
    return count;
  }

  void make(int32_t threads) { kn_parallel(threads, (p.k + kBlockRows - 1) / kBlockRows, task, this); }
};

}  // namespace
}  // namespace kn::spgemm
