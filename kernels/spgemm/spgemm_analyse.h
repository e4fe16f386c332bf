// The phase ANALYSE: offsets ascend, columns are in range, and how many products every row has. Passes over rows and
// entries in parallel, since each of them only reads.
#pragma once
#include <atomic>

#include "spgemm_rows.h"

namespace kn::spgemm {
namespace {

constexpr int64_t kBlock = 1 << 14;

struct analysis {
  const kn_spgemm_problem& p;
  const kn_spgemm_args& a;
  const kn_csr* x;        // of the pass
  int64_t rows, columns;  // of x
  std::atomic<bool> sound;
};

inline void offsets_task(void* context, int64_t task, int32_t) {
  analysis& w = *static_cast<analysis*>(context);
  bool ascending = true;
  const int64_t end = smaller((task + 1) * kBlock, w.rows);
  for (int64_t i = task * kBlock; i < end; i++) ascending &= w.x->offsets[i] <= w.x->offsets[i + 1];
  if (!ascending) w.sound.store(false, std::memory_order_relaxed);
}

inline void columns_task(void* context, int64_t task, int32_t) {
  analysis& w = *static_cast<analysis*>(context);
  const int64_t begin = task * kBlock, end = smaller((task + 1) * kBlock, w.x->offsets[w.rows]);
  bool outside = false;
  // As unsigned numbers the negative ones are too large as well.
  if (w.p.index_bytes == 4) {
    const auto* c = static_cast<const uint32_t*>(w.x->columns);
    for (int64_t j = begin; j < end; j++) outside |= c[j] >= static_cast<uint32_t>(w.columns);
  } else {
    const auto* c = static_cast<const uint64_t*>(w.x->columns);
    for (int64_t j = begin; j < end; j++) outside |= c[j] >= static_cast<uint64_t>(w.columns);
  }
  if (outside) w.sound.store(false, std::memory_order_relaxed);
}

template <class I>
int64_t products_of(const kn_csr& a, const int64_t* offsets, int64_t from, int64_t to) {
  const I* c = static_cast<const I*>(a.columns);
  int64_t products = 0;
  for (int64_t j = from; j < to; j++) products += offsets[c[j] + 1] - offsets[c[j]];
  return products;
}

// Of entries [from, to) of A.
inline int64_t products_of(const analysis& w, int64_t from, int64_t to) {
  return w.p.index_bytes == 4 ? products_of<int32_t>(w.a.a, w.a.b.offsets, from, to)
                              : products_of<int64_t>(w.a.a, w.a.b.offsets, from, to);
}

inline void products_task(void* context, int64_t task, int32_t) {
  analysis& w = *static_cast<analysis*>(context);
  const kn_spgemm_args& a = w.a;
  const int64_t end = smaller((task + 1) * kBlock, w.p.m);
  for (int64_t i = task * kBlock; i < end; i++) {
    int64_t products = w.p.flags & KN_SPGEMM_ACCUMULATE ? a.d.offsets[i + 1] - a.d.offsets[i] : 0;
    // Rows of B have up to 2^40 entries: no sum of so many of them passes 2^61.
    for (int64_t j = a.a.offsets[i], end; j < a.a.offsets[i + 1]; j = end) {
      end = smaller(a.a.offsets[i + 1], j + (1 << 20));
      products = smaller(products + products_of(w, j, end), kMostProducts + 1);
    }
    a.products[i + 1] = products;
  }
}

inline bool sound(analysis& w, int32_t threads, const kn_csr& x, int64_t rows, int64_t columns, bool of_columns) {
  w.x = &x;
  w.rows = rows;
  w.columns = columns;
  const int64_t tasks = ((of_columns ? x.offsets[rows] : rows) + kBlock - 1) / kBlock;
  kn_parallel(threads, tasks, of_columns ? columns_task : offsets_task, &w);
  return w.sound.load();
}

inline bool same(const kn_csr& a, const kn_csr& b) { return a.offsets == b.offsets && a.columns == b.columns; }

inline int32_t analyse(const kn_spgemm_problem& p, const kn_spgemm_args& a, int32_t threads) {
  analysis w{p, a, nullptr, 0, 0, true};
  const struct {
    const kn_csr& x;
    int64_t rows, columns;
    bool present;
    const char *offsets, *entries;
  } operands[] = {
      {a.a, p.m, p.k, true, "a: requires ascending offsets", "a: requires 0 <= column < k"},
      {a.b, p.k, p.n, true, "b: requires ascending offsets", "b: requires 0 <= column < n"},
      {a.mask, p.m, p.n, (p.flags & KN_SPGEMM_MASK) != 0, "mask: requires ascending offsets",
       "mask: requires 0 <= column < n"},
      {a.d, p.m, p.n, (p.flags & KN_SPGEMM_ACCUMULATE) != 0, "d: requires ascending offsets",
       "d: requires 0 <= column < n"},
  };
  for (const auto& o : operands) {
    if (!o.present || (&o.x == &a.b && same(a.a, a.b) && p.m == p.k && p.k == p.n)) continue;
    if (!sound(w, threads, o.x, o.rows, o.columns, false)) return kn_fail(KN_INVALID, o.offsets);
    if (!sound(w, threads, o.x, o.rows, o.columns, true)) return kn_fail(KN_INVALID, o.entries);
  }
  kn_parallel(threads, (p.m + kBlock - 1) / kBlock, products_task, &w);
  int64_t most = 0;
  a.products[0] = 0;
  for (int64_t i = 0; i < p.m; i++) {
    most = larger(most, a.products[i + 1]);
    if (p.flags & KN_SPGEMM_MASK) most = larger(most, a.mask.offsets[i + 1] - a.mask.offsets[i]);
    a.products[i + 1] += a.products[i];
    if (a.products[i + 1] > kMostProducts) return kn_fail(KN_INVALID, "products: requires products[m] <= 2^60");
  }
  *a.most = most;
  return KN_OK;
}

}  // namespace
}  // namespace kn::spgemm
