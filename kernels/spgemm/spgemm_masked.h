// Rows of C under a mask of few entries: each has a sum of its own, in the order of the mask, and marks say which one a
// column has. Products of other columns go to sums that nobody reads: whether a product is wanted cannot be predicted.
#pragma once
#include "spgemm_operands.h"

namespace kn::spgemm {
namespace {

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

// A row or part of it by an engine of rows: dense where the mask has many entries, over one range of columns after the
// other where they do not fit at once; then B is sorted.
template <class I, class S, class Engine>
int64_t compute_masked(Engine& engine, part r, I* c, typename S::value* v) {
  const int64_t n = engine.p.n, dense = engine.limit.dense;
  engine.ready_dense();
  const masked_rows<I, S> few{engine, engine.s.marks};
  int64_t count = r.whole && n <= dense && few.takes(r.i) ? few.compute(r.i, c, v) : -1;
  if (count >= 0) return count;
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
