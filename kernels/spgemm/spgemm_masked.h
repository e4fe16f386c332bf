// Rows of C under a mask. Whether a product is wanted cannot be predicted, so that nothing here branches on it: under a
// mask of few entries each entry has a sum of its own, and products of other columns go to sums that nobody reads; else
// a row is computed as if there were no mask, and loses the columns that it does not admit.
#pragma once
#include "spgemm_operands.h"

namespace kn::spgemm {
namespace {

// Entries of a row that its mask admits, where D adds none: those of D stay whatever the mask says.
template <class I, class S>
struct mask_filter {
  using V = typename S::value;

  const row_operands<I, S>& operands;
  uint8_t* const marks;  // all 0, as they are left

  static bool serves(const kn_spgemm_problem& p, const limits& l) {
    return (p.flags & KN_SPGEMM_MASK) && !(p.flags & KN_SPGEMM_ACCUMULATE) && p.n <= l.dense;
  }

  // Moves the entries to keep, of `count`, to the front, and returns how many they are.
  int64_t keep(int64_t i, I* __restrict c, V* __restrict v, int64_t count) const {
    const kn_csr& mask = operands.a.mask;
    const I* const m = operands.columns(mask);
    const V* const value = operands.has(KN_SPGEMM_VALUED) ? operands.values(mask) : nullptr;
    const int64_t from = mask.offsets[i], to = mask.offsets[i + 1];
    for (int64_t j = from; j < to; j++) marks[m[j]] |= value == nullptr || value[j] != 0;
    const uint8_t wanted = operands.has(KN_SPGEMM_COMPLEMENT) ? 0 : 1;
    int64_t kept = 0;
#pragma GCC unroll 4
    for (int64_t j = 0; j < count; j++) {
      const I column = c[j];
      c[kept] = column;
      if (S::kValues) v[kept] = v[j];
      kept += marks[column] == wanted;
    }
    for (int64_t j = from; j < to; j++) marks[m[j]] = 0;
    return kept;
  }
};

// Rows under a mask of few entries.
template <class I, class S>
struct masked_rows {
  using V = typename S::value;
  static constexpr int64_t kMost = 247, kUnread = 8;  // numbers of sums are bytes; one unread sum would wait for itself

  const row_operands<I, S>& operands;
  uint8_t* const marks;  // all 0, as they are left

  bool takes(int64_t i) const {
    const int64_t* offsets = operands.a.mask.offsets;
    return !operands.has(KN_SPGEMM_COMPLEMENT | KN_SPGEMM_ACCUMULATE) && offsets[i + 1] - offsets[i] <= kMost;
  }

  // Returns how many entries it wrote, or -1 and nothing where the mask's columns do not ascend.
  int64_t compute(int64_t i, I* c, V* v) const {
    const kn_csr& mask = operands.a.mask;
    const I* const m = operands.columns(mask) + mask.offsets[i];
    const V* const value = operands.has(KN_SPGEMM_VALUED) ? operands.values(mask) + mask.offsets[i] : nullptr;
    const int64_t n = mask.offsets[i + 1] - mask.offsets[i];
    for (int64_t j = 1; j < n; j++)
      if (m[j] <= m[j - 1]) return -1;
    V sums[kMost + 1 + kUnread];
    uint8_t touched[kMost + 1 + kUnread];
    for (int64_t j = 0; S::kValues && j <= n; j++) sums[j] = S::zero();
    for (int64_t j = 0; S::kValues && j < kUnread; j++) sums[kMost + 1 + j] = S::zero();
    memset(touched, 0, sizeof touched);
    for (int64_t j = 0; j < n; j++)
      if (value == nullptr || value[j] != 0) marks[m[j]] = static_cast<uint8_t>(j + 1);
    operands.segments({i, 0, operands.p.n, true},
                      [&](const V* coefficient, const I* __restrict from, const V* __restrict b, int64_t count) {
                        const V x = S::kReads ? *coefficient : V(0);
#pragma GCC unroll 4
                        for (int64_t j = 0; j < count; j++) {
                          const int64_t mark = marks[from[j]], at = mark != 0 ? mark : kMost + 1 + j % kUnread;
                          if (S::kValues) sums[at] = S::add(sums[at], S::mul(x, S::kReads ? b[j] : V(0)));
                          touched[at] = 1;
                        }
                      });
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
      c[count] = m[j];
      if (S::kValues) v[count] = sums[j + 1];
      count += touched[j + 1];
      marks[m[j]] = 0;
    }
    return count;
  }
};

// A row or part of it by an engine of rows. With entries of D, or over more columns than the dense accumulator has, it
// is dense with a branch for each product, over one range of columns after the other; then B is sorted.
template <class I, class S, class Engine>
int64_t compute_masked(Engine& engine, part r, I* c, typename S::value* v) {
  const int64_t n = engine.p.n, dense = engine.limit.dense;
  engine.ready_dense();
  const masked_rows<I, S> few{engine, engine.s.marks};
  int64_t count = r.whole && n <= dense && engine.blocks == nullptr && few.takes(r.i) ? few.compute(r.i, c, v) : -1;
  if (count >= 0) return count;
  if (mask_filter<I, S>::serves(engine.p, engine.limit))
    return mask_filter<I, S>{engine, engine.s.marks}.keep(r.i, c, v, engine.unmasked(r, c, v));
  auto x = engine.measure(r);
  if (x.products != 0 && n <= dense) return engine.template dense<true, true>(r, x, c, v);
  for (count = 0; x.products != 0; x = engine.measure(r)) {
    const part range = {r.i, x.low, smaller(r.high, x.low + dense - 64), false};
    x = engine.measure(range);
    count += engine.template dense<true, true>(range, x, c + count, S::kValues ? v + count : v);
    r = {r.i, range.high, r.high, false};
  }
  return count;
}

}  // namespace
}  // namespace kn::spgemm
