// The schedule of values alone, as an inspector makes it for an executor: which products meet in a register of C, found
// once from the structures. A block is a register of consecutive entries of a row of C; a term is what one entry of A
// contributes to it from consecutive entries of B: one expansion, one product and one sum that stays in its register
// until its block is done. NUMERIC then neither looks at columns nor scatters, and the order of sums is that of A's row
// as before.
#pragma once
#include "spgemm_row.h"

namespace kn::spgemm {
namespace {

template <class I, class S>
struct scheduled_rows {
  using V = typename S::value;
  using L = lanes<V>;
  using mask = typename L::mask;

  row_engine<I, S>& engine;

  const kn_spgemm_schedule& schedule() const { return engine.a.schedule; }
  int64_t begin(int64_t i) const { return engine.a.c_offsets[i]; }
  int64_t entries(int64_t i) const { return begin(i + 1) - begin(i); }
  int64_t blocks(int64_t i) const { return (entries(i) + L::count - 1) / L::count; }
  // Terms of the blocks of row i.
  uint16_t* counts(int64_t i) const { return schedule().counts + begin(i) / L::count + i; }
  int64_t addends(int64_t i) const {
    return engine.has(KN_SPGEMM_ACCUMULATE) ? engine.a.d.offsets[i + 1] - engine.a.d.offsets[i] : 0;
  }

  // Whether row i has terms; one with too many for their counts has none, and is computed without.
  bool has(int64_t i) const { return schedule().offsets[i + 1] > schedule().offsets[i]; }

  // Counts the terms of every block and returns how many they are with the addends; `count` has room for a number per
  // block.
  int64_t size(int64_t i, uint32_t* count) const {
    const int64_t* offsets = engine.a.a.offsets;
    if (entries(i) == 0 || offsets[i + 1] - offsets[i] > UINT16_MAX) return 0;
    memset(count, 0, static_cast<size_t>(blocks(i)) * sizeof *count);
    terms(i, [&](const kn_spgemm_term&, uint32_t block) { count[block]++; });
    int64_t n = addends(i);
    uint32_t most = 0;
    for (int64_t block = 0; block < blocks(i); block++) {
      counts(i)[block] = static_cast<uint16_t>(count[block]);
      most = most < count[block] ? count[block] : most;
      n += count[block];
    }
    return most > UINT16_MAX || n > UINT32_MAX ? 0 : n;
  }

  // Writes them; `next` as count above.
  void fill(int64_t i, uint32_t* next) const {
    if (!has(i)) return;
    kn_spgemm_term* to = schedule().terms + schedule().offsets[i];
    uint32_t at = static_cast<uint32_t>(addends(i));
    for (int64_t block = 0; block < blocks(i); block++) {
      next[block] = at;
      at += counts(i)[block];
    }
    terms(i, [&](const kn_spgemm_term& t, uint32_t block) { to[next[block]++] = t; });
    const kn_csr& d = engine.a.d;
    for (int64_t j = 0; j < addends(i); j++) to[j] = {places()[engine.columns(d)[d.offsets[i] + j]], 0, 0};
  }

  // Places in its row of C by column, in the memory of sums.
  uint32_t* places() const { return reinterpret_cast<uint32_t*>(engine.s.sums); }

  // Calls f(term, block) in the order of A's row.
  template <class F>
  void terms(int64_t i, F&& f) const {
    const I* c = static_cast<const I*>(engine.a.c_columns) + begin(i);
    engine.ready_dense();
    for (int64_t j = 0; j < entries(i); j++) places()[c[j]] = static_cast<uint32_t>(j);
    if (!engine.has(KN_SPGEMM_MASK)) return products<false>(i, c, f);
    const part r = {i, 0, engine.p.n, true};
    engine.mask_marks(r, 0, 1);
    products<true>(i, c, f);
    engine.mask_marks(r, 0, 0);
  }

  template <bool Masked, class F>
  void products(int64_t i, const I* c, F& f) const {
    const kn_csr &a = engine.a.a, &b = engine.a.b;
    const I* ks = engine.columns(a);
    for (int64_t e = a.offsets[i]; e < a.offsets[i + 1]; e++) {
      const int64_t end = b.offsets[ks[e] + 1];
      for (int64_t j = b.offsets[ks[e]]; j < end;)
        j = piece<Masked>(i, c, j, end, static_cast<uint16_t>(e - a.offsets[i]), f);
    }
  }

  // The terms of some entries of B from j on; returns where the next ones begin. A term that may go on begins them, so
  // that there is one for each block where places ascend. Where terms end is nothing that could be predicted: no
  // branch.
  template <bool Masked, class F>
  int64_t piece(int64_t i, const I* c, int64_t j, int64_t end, uint16_t a, F& f) const {
    constexpr int64_t kPiece = 256;
    kn_spgemm_term found[kPiece + 1];
    uint32_t blocks[kPiece + 1];
    const I* columns = engine.columns(engine.a.b);
    const int64_t to = smaller(j + kPiece, end);
    const int64_t n = entries(i);
    const bool complement = engine.has(KN_SPGEMM_COMPLEMENT);
    uint32_t block = ~uint32_t{0}, last = 0, lanes = 0;
    int64_t first = j, count = 0;
    for (; j < to; j++) {
      const uint32_t at = places()[columns[j]], mine = at / L::count;
      // A valued mask may have changed since it made C: then C has no place for the product.
      const bool counts = !Masked || ((engine.s.marks[columns[j]] & 1) != complement && at < n && c[at] == columns[j]);
      const bool fresh = (mine != block) | (at <= last);
      count += fresh & counts;
      first = fresh ? j : first;
      lanes = (fresh ? 0 : lanes) | uint32_t{1} << (at % L::count);
      block = counts ? mine : ~uint32_t{0};
      last = at;
      if (!counts) continue;
      // In one store, since it is read in one.
      const uint64_t term = static_cast<uint32_t>(first) | uint64_t{a} << 32 | uint64_t{lanes} << 48;
      memcpy(found + count, &term, sizeof term);
      blocks[count] = mine;
    }
    const bool open = to < end && count > 1;
    for (int64_t t = 1; t <= count - open; t++) f(found[t], blocks[t]);
    return open ? found[count].b : to;
  }

  // Values of the blocks of row i that are the index-th of so many parts.
  void sum(int64_t i, int64_t index, int64_t parts) const {
    const int64_t n = entries(i), first = blocks(i) * index / parts, last = blocks(i) * (index + 1) / parts;
    V* v = static_cast<V*>(engine.a.c_values) + begin(i);
    const kn_spgemm_term* t = schedule().terms + schedule().offsets[i];
    const bool accumulate = engine.has(KN_SPGEMM_ACCUMULATE);
    if (accumulate) addend(i, t, v, first * L::count, smaller(last * L::count, n));
    t += addends(i);
    const uint16_t* count = counts(i);
    for (int64_t block = 0; block < first; block++) t += count[block];
    const V *a = engine.values(engine.a.a) + engine.a.a.offsets[i], *b = engine.values(engine.a.b);
    for (int64_t block = first; block < last; block++) {
      const auto row = static_cast<mask>(first_lanes(n - block * L::count));
      auto sums = accumulate ? L::load(row, v + block * L::count) : L::set(S::zero());
      for (const kn_spgemm_term* end = t + count[block]; t < end; t++) {
        const auto m = static_cast<mask>(t->lanes);
        const auto y = S::kReads ? S::mul(L::set(a[t->a]), L::expand(m, b + t->b)) : L::set(1);
        sums = L::blend(m, sums, S::add(sums, y));
      }
      L::store(v + block * L::count, row, sums);
    }
  }

  // zero (+) d at D's places among entries [from, to), zero elsewhere.
  void addend(int64_t i, const kn_spgemm_term* t, V* v, int64_t from, int64_t to) const {
    for (int64_t j = from; j < to; j++) v[j] = S::zero();
    const V* d = engine.values(engine.a.d) + engine.a.d.offsets[i];
    for (int64_t j = 0; j < addends(i); j++)
      if (t[j].b >= from && t[j].b < to) v[t[j].b] = S::add(S::zero(), d[j]);
  }
};

}  // namespace
}  // namespace kn::spgemm
