// Rows of few products, computed in registers: no search and no branch on what the columns are. A key per product (its
// column above, its place below) is sorted, products follow their keys, and the products of a column are added to its
// first one, lane after lane in the order of A's row. Each step is taken for all rows of a batch before the next: a
// step is one chain of dependent instructions, and several rows of it are in flight at once.
#pragma once
#include "spgemm_lanes.h"
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

  bool takes(int64_t i) const {
    const int64_t* products = operands.a.products;
    return products[i + 1] - products[i] <= kShort && operands.p.n <= kShortColumns && !operands.has(KN_SPGEMM_MASK);
  }

  // Lanes of register i.
  static __mmask16 keys_of(uint64_t m, int i) { return static_cast<__mmask16>(m >> (16 * i)); }
  static value_mask values_of(uint64_t m, int i) { return static_cast<value_mask>(m >> (L::count * i)); }

  // Products of row i into place b. Whole registers are stored: the next segment begins where the last one ends.
  void load(int64_t i, int b) {
    uint32_t* keys = batch.keys[b];
    V* products = batch.products[b];
    int64_t count = 0;
    operands.segments({i, 0, operands.p.n, true}, [&](const V* x, const I* from, const V* y, int64_t n) {
      for (int64_t j = 0; j < n; j += L::count) {
        const auto m = static_cast<value_mask>(first_lanes(n - j));
        L::store_keys(keys + count + j, L::load_columns(m, from + j), kShortBits, count + j);
        if (S::kValues) {
          const reg z = S::kReads || x == nullptr ? L::load(m, y + j) : L::set(1);
          L::store(products + count + j, x == nullptr ? z : S::mul(L::set(*x), z));
        }
      }
      count += n;
    });
    _mm512_storeu_si512(keys + count, _mm512_set1_epi32(-1));
    batch.counts[b] = count;
  }

  void sort(int n) {
    int64_t most = 0, all = 0;
    for (int b = 0; b < n; b++) most = larger(most, registers_of(b)), all += registers_of(b);
    if (n == kShortBatch && all > kShortBatch * most * 5 / 8)
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
      switch (registers) {
        case 0:
          break;
        case 1:
          sort<1, 1>(b);
          break;
        case 2:
          sort<2, 1>(b);
          break;
        case 3:
          two ? sort<3, 2>(b) : sort<3, 1>(b);
          break;
        default:
          two ? sort<4, 2>(b) : sort<4, 1>(b);
      }
      b += two;
    }
  }

  int64_t registers_of(int b) const { return (batch.counts[b] + 15) / 16; }

  // N rows of R registers of keys.
  template <int R, int N>
  void sort(int b) {
    __m512i v[N][R];
#pragma GCC unroll 8
    for (int i = 0; i < N * R; i++) v[i / R][i % R] = _mm512_load_si512(batch.keys[b + i / R] + 16 * (i % R));
    sort_registers<keys32>(v);
#pragma GCC unroll 8
    for (int i = 0; i < N * R; i++) _mm512_store_si512(batch.keys[b + i / R] + 16 * (i % R), v[i / R][i % R]);
  }

  // Writes the row in place b and returns how many entries it has. What is stored behind the last one is written again
  // or not read.
  int64_t reduce(int b, I* c, V* v) const {
    const int64_t count = batch.counts[b];
    if (count == 0) return 0;
    if (count <= 16) return reduce<1>(b, c, v);
    if (count <= 32) return reduce<2>(b, c, v);
    if (count <= 48) return reduce<3>(b, c, v);
    return reduce<4>(b, c, v);
  }

  // R registers of keys.
  template <int R>
  int64_t reduce(int b, I* c, V* v) const {
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
    if (S::kValues) add<16 * R / L::count>(batch.products[b], keys, first, valid, v);
    return n;
  }

  template <int N>
  static void add(const V* products, const __m512i* keys, uint64_t first, uint64_t valid, V* v) {
    reg table[N], next[N], sums[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) table[i] = L::load(products + L::count * i);
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      next[i] = L::template pick<N>(table, keys, i, (1 << kShortBits) - 1);
      sums[i] = S::add(L::set(S::zero()), next[i]);
    }
    // In turn t the product t lanes above is added, where all lanes up to it have the same column.
    uint64_t rest = valid & ~first;
    for (uint64_t more = first & (rest >>= 1); more != 0; more &= (rest >>= 1)) {
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) {
        next[i] = L::down(next[i], next[i + 1 < N ? i + 1 : i]);
        sums[i] = L::blend(values_of(more, i), sums[i], S::add(sums[i], next[i]));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      L::store(v, L::compress(values_of(first, i), sums[i]));
      v += __builtin_popcount(values_of(first, i));
    }
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
