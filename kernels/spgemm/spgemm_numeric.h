// Values of a row of C whose columns are known. Where B is in blocks, marks find the order anew; else products are
// added in the dense accumulator, without marks, and sums are read at C's columns, which leaves no order to find.
// Products of a row of long enough segments are first written one after the other: the loads of all its rows of B are
// then in flight together, and one loop adds them.
#pragma once
#include "spgemm_row.h"

namespace kn::spgemm {
namespace {

constexpr int64_t kFew = 752;        // products that L1 keeps with their columns, beside sums
constexpr int64_t kLongSegment = 7;  // up to it (stencils) unfilled registers cost more
static_assert(kFew + 16 <= kShortBatch * (kShort + 32), "a register is stored behind the last product");

template <class I, class S>
struct numeric_rows {
  using V = typename S::value;
  using L = lanes<V>;

  row_engine<I, S>& engine;

  // n values of the part; the spare arrays take a row.
  void compute(const part& r, const I* c, V* v, int64_t n, I* spare_columns, V* spare_values) {
    // Under a mask some products are left out, and an unsorted C need not have what a range has: computed anew.
    if (engine.has(KN_SPGEMM_MASK) || !engine.ordered(r.i)) {
      const int64_t count = engine.compute(r, spare_columns, spare_values);
      memcpy(v, spare_values, static_cast<size_t>(smaller(count, n)) * sizeof(V));
      return;
    }
    if (n > 0 && engine.blocks != nullptr && r.whole) {
      const typename row_engine<I, S>::extent x = {0, 0, c[0], c[n - 1]};
      engine.template blocked<false>(r.i, x, nullptr, v, n);
      return;
    }
    engine.ready_dense();
    if (engine.p.n <= engine.limit.dense) return range(r, c, v, n, 0);
    while (n > 0) {
      const int64_t zero = c[0], end = zero + engine.limit.dense;
      const int64_t some = engine.bisect(c, 0, n, end);
      // Without order in B all of its row must fit, which accepts has seen to.
      range({r.i, zero, end, false}, c, v, some, zero);
      c += some;
      v += some;
      n -= some;
    }
  }

  void range(const part& r, const I* c, V* v, int64_t n, int64_t zero) {
    V* sums = engine.s.sums - zero;
    if (r.whole && few(r.i)) {
      const int64_t count = multiply(r);
      const uint32_t* __restrict at = &engine.s.batch->keys[0][0];
      const V* __restrict products = &engine.s.batch->products[0][0];
#pragma GCC unroll 4
      for (int64_t j = 0; j < count; j++) sums[at[j]] = S::add(sums[at[j]], products[j]);
    } else {
      scatter(r, sums);
    }
    for (int64_t j = 0; j < n; j++) {
      v[j] = sums[c[j]];
      sums[c[j]] = S::zero();
    }
  }

  // Whether the products fit the arrays of a batch of short rows, in segments that fill a register well enough.
  bool few(int64_t i) const {
    const int64_t* products = engine.a.products;
    const int64_t* offsets = engine.a.a.offsets;
    const int64_t count = products[i + 1] - products[i];
    return count <= kFew && count > kLongSegment * (offsets[i + 1] - offsets[i]);
  }

  // Columns and products of a row into those arrays. Whole registers are stored: the next segment begins where the last
  // one ends.
  int64_t multiply(const part& r) {
    uint32_t* __restrict at = &engine.s.batch->keys[0][0];
    V* __restrict products = &engine.s.batch->products[0][0];
    int64_t count = 0;
    engine.segments(r, [&](const V* x, const I* from, const V* b, int64_t n) {
      for (int64_t j = 0; j < n; j += L::count) {
        const auto m = static_cast<typename L::mask>(first_lanes(n - j));
        L::store_columns(at + count + j, L::load_columns(m, from + j));
        const auto y = S::kReads || x == nullptr ? L::load(m, b + j) : L::set(1);
        L::store(products + count + j, x == nullptr ? y : S::mul(L::set(*x), y));
      }
      count += n;
    });
    return count;
  }

  void scatter(const part& r, V* sums) {
    const bool sorted = engine.has(KN_SPGEMM_B_SORTED);
    engine.segments(r, [&](const V* x, const I* from, const V* b, int64_t count) {
      if (sorted && x != nullptr && count >= 16 && from[count - 1] - from[0] == count - 1)
        return engine.add_run(x, sums + from[0], b, count);
      const V coefficient = S::kReads && x != nullptr ? *x : V(0);
      if (x == nullptr) {
        for (int64_t j = 0; j < count; j++) sums[from[j]] = S::add(sums[from[j]], b[j]);
      } else {
#pragma GCC unroll 4
        for (int64_t j = 0; j < count; j++)
          sums[from[j]] = S::add(sums[from[j]], S::mul(coefficient, S::kReads ? b[j] : V(0)));
      }
    });
  }
};

}  // namespace
}  // namespace kn::spgemm
