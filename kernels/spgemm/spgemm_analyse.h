// The phase ANALYSE: offsets ascend, columns are in range, and how many products every row has. Passes over rows and
// entries in parallel, since each of them only reads.
#pragma once
#include <immintrin.h>

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

// As unsigned numbers the negative ones are too large as well.
template <class U>
bool inside(const void* columns, int64_t from, int64_t to, int64_t end) {
  const U* c = static_cast<const U*>(columns);
  U most = 0;
  for (int64_t j = from; j < to; j++) most = c[j] > most ? c[j] : most;
  return from >= to || most < static_cast<U>(end);
}

inline void columns_task(void* context, int64_t task, int32_t) {
  analysis& w = *static_cast<analysis*>(context);
  const int64_t begin = task * kBlock, end = smaller((task + 1) * kBlock, w.x->offsets[w.rows]);
  const bool all = w.p.index_bytes == 4 ? inside<uint32_t>(w.x->columns, begin, end, w.columns)
                                        : inside<uint64_t>(w.x->columns, begin, end, w.columns);
  if (!all) w.sound.store(false, std::memory_order_relaxed);
}

// Products of the rows of a task up to the end of each. Rows are short and of any length: entries are added up without
// regard to rows, a piece of them at a time, and a row looks up the sum where it ends, so that no branch is on lengths.
template <class I>
void add_products(const analysis& w, int64_t first, int64_t last) {
  constexpr int64_t kPiece = 256;  // a row of B has up to 2^40 entries: no sum of so many passes 2^61
  const kn_spgemm_args& a = w.a;
  const I* c = static_cast<const I*>(a.a.columns);
  const int64_t *ends = a.a.offsets, *offsets = a.b.offsets;
  const int64_t* addends = w.p.flags & KN_SPGEMM_ACCUMULATE ? a.d.offsets : nullptr;
  int64_t* const products = a.products;
  __m128i sums[kPiece + 1];  // of where rows of B begin, and of where they end
  int64_t before = 0, i = first;
  for (int64_t j = ends[first]; i < last;) {
    const int64_t count = smaller(kPiece, ends[last] - j);
    sums[0] = _mm_setzero_si128();
#pragma GCC unroll 4
    for (int64_t n = 0; n < count; n++)
      sums[n + 1] = _mm_add_epi64(sums[n], _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets + c[j + n])));
    const auto sum = [&](int64_t n) { return before + sums[n][1] - sums[n][0]; };
    for (; i < last && ends[i + 1] <= j + count; i++)
      products[i + 1] = sum(ends[i + 1] - j) + (addends ? addends[i + 1] - addends[first] : 0);
    before = smaller(sum(count), kMostProducts + 1);
    j += count;
  }
}

inline void products_task(void* context, int64_t task, int32_t) {
  const analysis& w = *static_cast<const analysis*>(context);
  const int64_t first = task * kBlock, last = smaller(first + kBlock, w.p.m);
  return w.p.index_bytes == 4 ? add_products<int32_t>(w, first, last) : add_products<int64_t>(w, first, last);
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
  for (int64_t first = 0; first < p.m; first += kBlock) {
    const int64_t last = smaller(first + kBlock, p.m), before = a.products[first];
    for (int64_t i = first; i < last; i++) a.products[i + 1] += before;
    if (a.products[last] > kMostProducts) return kn_fail(KN_INVALID, "products: requires products[m] <= 2^60");
  }
  for (int64_t i = 0; i < p.m; i++) {
    most = larger(most, a.products[i + 1] - a.products[i]);
    if (p.flags & KN_SPGEMM_MASK) most = larger(most, a.mask.offsets[i + 1] - a.mask.offsets[i]);
  }
  *a.most = most;
  return KN_OK;
}

}  // namespace
}  // namespace kn::spgemm
