// Rows of few products, computed in registers: no search and no branch on what the columns are. A key per product (its
// column above, its place below) is sorted, products follow their keys, and the products of a column are added to its
// first one, lane after lane in the order of A's row. Each step is taken for all rows of a batch before the next: a
// step is one chain of dependent instructions, and several rows of it are in flight at once.
#pragma once
#include "spgemm_forms.h"
#include "spgemm_lanes.h"
#include "spgemm_masked.h"
#include "spgemm_operands.h"
#include "spgemm_sort.h"

namespace kn::spgemm {
namespace {

template <class I, class S>
struct short_rows {
  using V = typename S::value;
  using L = lanes<V>;
  using reg = typename L::reg;
  using value_mask = typename L::mask;

  const row_operands<I, S>& operands;
  short_batch<V>& batch;
  const mask_filter<I, S> filter;
  const bool filtered;

  // Lanes of register i.
  static __mmask16 keys_of(uint64_t m, int i) { return static_cast<__mmask16>(m >> (16 * i)); }
  static value_mask values_of(uint64_t m, int i) { return static_cast<value_mask>(m >> (L::count * i)); }

  // How many of the rows from row i on make a batch.
  int at(int64_t i, int64_t last) const {
    if (operands.p.n > kShortColumns || (operands.has(KN_SPGEMM_MASK) && !filtered)) return 0;
    const int64_t* products = operands.a.products + i;
    const int most = static_cast<int>(smaller(kShortBatch, last - i));
    int n = 0;
    while (n < most && products[n + 1] - products[n] <= kShort) n++;
    return n;
  }

  // Columns and products of n rows from row i on. Whole registers are loaded and stored: the next segment begins where
  // the last one ends. Out of line, since its pointers must stay in registers.
  [[gnu::noinline]] void load(int64_t i, int n) {
    const I *ks = operands.columns(operands.a.a), *columns_b = operands.columns(operands.a.b);
    const V *values_a = operands.values(operands.a.a), *values_b = operands.values(operands.a.b);
    static const V unread = 0;  // where there are no values
    const int64_t *offsets = operands.a.b.offsets, *ends = operands.a.a.offsets + i, last = operands.p.b_nnz - L::count;
    int64_t e = ends[0];
    for (int b = 0; b < n; b++) {
      uint32_t* columns = batch.keys[b];
      V* products = batch.products[b];
      if (operands.has(KN_SPGEMM_ACCUMULATE)) {
        const kn_csr& d = operands.a.d;
        const int64_t from = d.offsets[i + b], count = d.offsets[i + b + 1] - from;
        segment(nullptr, operands.columns(d) + from, S::kValues ? operands.values(d) + from : &unread, count, columns,
                products);
        columns += count;
        products += count;
      }
      for (const int64_t end = ends[b + 1]; e < end; e++) {
        const int64_t from = offsets[ks[e]], count = offsets[ks[e] + 1] - from;
        if (__builtin_expect(count <= L::count && from <= last, 1)) {
          L::store_columns(columns, L::load_columns(columns_b + from));
          if (S::kValues)
            L::store(products,
                     S::kReads ? S::mul(L::set(values_a[e]), L::load(values_b + from)) : S::mul(L::set(1), L::set(1)));
        } else {
          segment(S::kReads ? values_a + e : &unread, columns_b + from, S::kReads ? values_b + from : &unread, count,
                  columns, products);
        }
        columns += count;
        products += count;
      }
      _mm512_storeu_si512(columns, _mm512_set1_epi32(-1));
      batch.counts[b] = columns - batch.keys[b];
    }
  }

  // Any segment; an addend's without x.
  [[gnu::noinline]] static void segment(const V* x, const I* from, const V* y, int64_t n, uint32_t* columns,
                                        V* products) {
    for (int64_t j = 0; j < n; j += L::count) {
      const auto m = static_cast<value_mask>(first_lanes(n - j));
      L::store_columns(columns + j, L::load_columns(m, from + j));
      if (!S::kValues) continue;
      const reg z = S::kReads || x == nullptr ? L::load(m, y + j) : L::set(1);
      L::store(products + j, x == nullptr ? z : S::mul(S::kReads ? L::set(*x) : L::set(1), z));
    }
  }

  void sort(int n) {
    batch.formed = 0;
    if (batch.tries > 0 && n >= row_forms<I, S>::kLeast) {
      const uint32_t all = (uint32_t{1} << n) - 1, rows = row_forms<I, S>{batch}.add(all);
      batch.formed = all & ~rows;
      if (batch.formed != 0) return in_turn(rows);
    }
    int64_t most = 0, registers = 0;
    for (int b = 0; b < n; b++) most = larger(most, registers_of(b)), registers += registers_of(b);
    if (n == kShortBatch && registers > kShortBatch * most * 5 / 8)
      in_lanes(most);
    else
      in_registers(n);
  }

  // All rows at once, as if they had as many registers as the longest.
  void in_lanes(int64_t registers) {
    uint32_t* rows[kShortBatch];
    for (int b = 0; b < kShortBatch; b++) {
      rows[b] = batch.keys[b];
      for (int64_t i = registers_of(b); i < registers; i++) _mm512_store_si512(rows[b] + 16 * i, _mm512_set1_epi32(-1));
    }
    switch (registers) {
      case 1:
        return lane_sort::sort<1>(rows);
      case 2:
        return lane_sort::sort<2>(rows);
      case 3:
        return lane_sort::sort<3>(rows);
      default:
        return lane_sort::sort<4>(rows);
    }
  }

  // Long rows two at a time: a sort is one chain of steps, and more than one of a long row never fits the window in
  // which instructions wait for each other.
  void in_registers(int n) {
    for (int b = 0; b < n; b++) {
      const int64_t registers = registers_of(b);
      const bool two = registers > 2 && b + 1 < n && registers_of(b + 1) == registers;
      if (two)
        registers == 3 ? sort<3, 2>(b) : sort<4, 2>(b);
      else
        sort(b, registers);
      b += two;
    }
  }

  // The few rows beside those of a form.
  [[gnu::noinline]] void in_turn(uint32_t rows) {
    for (; rows != 0; rows &= rows - 1) sort(__builtin_ctz(rows), registers_of(__builtin_ctz(rows)));
  }

  [[gnu::always_inline]] void sort(int b, int64_t registers) {
    switch (registers) {
      case 0:
        return;
      case 1:
        return sort<1, 1>(b);
      case 2:
        return sort<2, 1>(b);
      case 3:
        return sort<3, 1>(b);
      default:
        return sort<4, 1>(b);
    }
  }

  int64_t registers_of(int b) const { return (batch.counts[b] + 15) / 16; }

  static __m512i keys_with_places(__m512i columns, int place) {
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_or_si512(_mm512_slli_epi32(columns, kShortBits), _mm512_add_epi32(iota, _mm512_set1_epi32(place)));
  }

  // N rows of R registers of keys.
  template <int R, int N>
  void sort(int b) {
    __m512i v[N][R];
#pragma GCC unroll 8
    for (int i = 0; i < N * R; i++)
      v[i / R][i % R] = keys_with_places(_mm512_load_si512(batch.keys[b + i / R] + 16 * (i % R)), 16 * (i % R));
    sort_registers<keys32>(v);
#pragma GCC unroll 8
    for (int i = 0; i < N * R; i++) _mm512_store_si512(batch.keys[b + i / R] + 16 * (i % R), v[i / R][i % R]);
  }

  // Writes n rows and where they end.
  [[gnu::noinline]] int64_t reduce(int64_t i, int n, I* c, V* v, int64_t* ends, int64_t count) const {
    for (int b = 0; b < n; b++) {
      const bool formed = (batch.formed >> b & 1) != 0;
      const int64_t entries = formed ? copy(b, c + count, v + count) : reduce(b, c + count, v + count);
      ends[b] = count += filtered ? keep(i + b, c + count, v + count, entries) : entries;
    }
    return count;
  }

  // What the filter keeps of a row; where the mask's row is short too, every register of columns meets all of it.
  int64_t keep(int64_t i, I* c, V* v, int64_t count) const {
    const kn_csr& mask = operands.a.mask;
    const int64_t from = mask.offsets[i], to = mask.offsets[i + 1];
    if (to - from > kShort) return filter.keep(i, c, v, count);
    const I* const m = operands.columns(mask);
    const V* const value = operands.has(KN_SPGEMM_VALUED) ? operands.values(mask) : nullptr;
    int64_t kept = 0;
    for (int64_t at = 0; at < count; at += 16) {
      const __m512i columns = lanes<float>::load_columns(c + at);
      uint32_t k = 0;
      for (int64_t j = from; j < to; j++) {
        const uint32_t same = _mm512_cmpeq_epi32_mask(columns, _mm512_set1_epi32(static_cast<int32_t>(m[j])));
        k |= value == nullptr || value[j] != 0 ? same : 0;
      }
      k = (operands.has(KN_SPGEMM_COMPLEMENT) ? ~k : k) & first_lanes(count - at);
      store_columns(_mm512_maskz_compress_epi32(static_cast<__mmask16>(k), columns), c + kept);
      for (int lane = 0; S::kValues && lane < 16; lane += L::count) {
        const auto some = static_cast<value_mask>(k >> lane);
        L::store(v + kept, L::compress(some, L::load(v + at + lane)));
        kept += __builtin_popcount(some);
      }
      if (!S::kValues) kept += __builtin_popcount(k);
    }
    return kept;
  }

  // Writes the row in place b and returns how many entries it has. What is stored behind the last one is written again
  // or not read.
  int64_t reduce(int b, I* c, V* v) const {
    switch ((batch.counts[b] + L::count - 1) / L::count) {
      case 0:
        return 0;
      case 1:
        return reduce<1>(b, c, v);
      case 2:
        return reduce<2>(b, c, v);
      case 3:
        return reduce<3>(b, c, v);
      case 4:
        return reduce<4>(b, c, v);
      case 5:
        return reduce<most(5)>(b, c, v);
      case 6:
        return reduce<most(6)>(b, c, v);
      case 7:
        return reduce<most(7)>(b, c, v);
      default:
        return reduce<most(8)>(b, c, v);
    }
  }

  // The same of a row that has a form: its sums are where the products were.
  int64_t copy(int b, I* c, V* v) const {
    const row_form& f = *batch.form[b];
    const __m512i first = _mm512_set1_epi32(static_cast<int32_t>(batch.keys[b][0]));
    for (int64_t j = 0; j < f.entries; j += 16)
      store_columns(_mm512_add_epi32(_mm512_load_si512(f.sorted + j), first), c + j);
    for (int64_t j = 0; S::kValues && j < f.entries; j += L::count) L::store(v + j, L::load(batch.products[b] + j));
    return f.entries;
  }

  // A short row has not more registers of products.
  static constexpr int most(int n) { return n < kShort / L::count ? n : static_cast<int>(kShort / L::count); }

  // N registers of products.
  template <int N>
  int64_t reduce(int b, I* c, V* v) const {
    constexpr int R = (N * L::count + 15) / 16;  // of keys
    const uint64_t valid = ~uint64_t{0} >> (64 - batch.counts[b]);
    __m512i keys[R], columns[R], before = _mm512_set1_epi32(-1);
    uint64_t first = 0;  // lanes that begin a column
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) {
      keys[i] = _mm512_load_si512(batch.keys[b] + 16 * i);
      columns[i] = _mm512_srli_epi32(keys[i], kShortBits);
      const __mmask16 m = _mm512_cmpneq_epi32_mask(columns[i], _mm512_alignr_epi32(columns[i], before, 15));
      first |= (valid & uint64_t{m} << (16 * i));
      before = columns[i];
    }
    int64_t n = 0;
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) {
      store_columns(_mm512_maskz_compress_epi32(keys_of(first, i), columns[i]), c + n);
      n += __builtin_popcount(keys_of(first, i));
    }
    if (S::kValues) add<N>(batch.products[b], batch.keys[b], keys, first, valid, v);
    return n;
  }

  template <int N>
  [[gnu::always_inline]] static void add(const V* products, const uint32_t* sorted, const __m512i* keys, uint64_t first,
                                         uint64_t valid, V* v) {
    reg table[N], next[N], sums[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) table[i] = L::load(products + L::count * i);
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      next[i] = L::template pick<N>(table, keys, i, (1 << kShortBits) - 1);
      sums[i] = S::add(L::set(S::zero()), next[i]);
    }
    // In turn t the product t lanes above is added, where all lanes up to it have the same column.
    const uint64_t others = valid & ~first;
    uint64_t rest = others >> 1, more = first & rest;
    int turn = 1;
    for (; (more & (more - 1)) != 0; more &= (rest >>= 1), turn++) {
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) {
        next[i] = L::down(next[i], next[i + 1 < N ? i + 1 : i]);
        sums[i] = L::blend(values_of(more, i), sums[i], S::add(sums[i], next[i]));
      }
    }
    V* const all = v;
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      L::store(v, L::compress(values_of(first, i), sums[i]));
      v += __builtin_popcount(values_of(first, i));
    }
    if (more == 0) return;
    // One column is left, often that of the diagonal.
    const int lane = __builtin_ctzll(more) + turn;
    V& sum = all[__builtin_popcountll(first & (more - 1))];
    for (int n = lane + __builtin_ctzll(~(others >> lane)), j = lane; j < n; j++)
      sum = S::add(sum, products[sorted[j] & ((1 << kShortBits) - 1)]);
  }

  static void store_columns(__m512i columns, I* c) {
    if constexpr (sizeof(I) == 4) {
      _mm512_storeu_si512(c, columns);
    } else {
      _mm512_storeu_si512(c, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(columns)));
      _mm512_storeu_si512(c + 8, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(columns, 1)));
    }
  }
};

}  // namespace
}  // namespace kn::spgemm
