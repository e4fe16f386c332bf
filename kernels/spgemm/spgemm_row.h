// One row of C, or a range of its columns, by one of these accumulators; rows of few products are in spgemm_short.h.
//   sort   products with their places, sorted by column, equal columns added in the order of A's row: few products
//   dense  a sum and a mark per column: when the products are a good part of the span, or the span fits L2
//   blocks dense, a register of columns at once, where B is in blocks (spgemm_blocks.h)
//   masked spgemm_masked.h, or one of the others and a filter
//   hash   lines of one register of columns, compared at once: many products over a span that no cache holds
#pragma once
#include "spgemm_blocks.h"
#include "spgemm_masked.h"
#include "spgemm_short.h"

namespace kn::spgemm {
namespace {

constexpr int64_t kLine = 512;  // columns under one mark of the second level

template <class I, class S>
struct row_engine : row_operands<I, S> {
  using base = row_operands<I, S>;
  using base::a;
  using base::columns;
  using base::has;
  using base::measure;
  using base::p;
  using base::product;
  using base::segments;
  using typename base::extent;
  using typename base::V;
  using L = lanes<V>;
  static constexpr int kColumns = 64 / sizeof(I);

  const limits& limit;
  scratch<I, S>& s;
  const blocked_operand<I, S>* blocks;  // null: B is not in blocks

  // A row that may be shared is sorted whatever is asked, so that its order does not say who computed it.
  bool ordered(int64_t i) const { return !has(KN_SPGEMM_UNSORTED) || a.products[i + 1] - a.products[i] > limit.window; }

  row_engine(const kn_spgemm_problem& problem, const kn_spgemm_args& args, const limits& l, scratch<I, S>& worker,
             const blocked_operand<I, S>* b)
      : base{problem, args}, limit(l), s(worker), blocks(b) {}

  // Writes columns and values of the part and returns how many; v may be null where C has no values.
  int64_t compute(const part& r, I* c, V* v) {
    return has(KN_SPGEMM_MASK) ? compute_masked<I, S>(*this, r, c, v) : unmasked(r, c, v);
  }

  int64_t unmasked(const part& r, I* c, V* v) {
    const extent x = extent_of(r);
    if (x.products == 0) return 0;
    if (x.segments == 1 && has(KN_SPGEMM_B_SORTED) && !has(KN_SPGEMM_ACCUMULATE)) return copy(r, c, v);
    const int64_t span = x.high - x.low + 1;
    if (blocks != nullptr && r.whole && span <= kBlockSpan * x.products) return blocked<true>(r.i, x, c, v);
    const bool dense_fits = p.n <= limit.dense || span <= limit.dense - 64;
    if (dense_fits && span <= limit.density * x.products) return dense<false, false>(r, x, c, v);
    const int bits = 64 - __builtin_clzll(static_cast<uint64_t>(x.products));
    if (x.products <= limit.sort && span < (int64_t{1} << (32 - bits))) return sort(r, x, bits, c, v);
    if (dense_fits && (span <= limit.cached || x.products > limit.hashed())) return dense<false, true>(r, x, c, v);
    if (x.products <= limit.hashed()) return hash(r, x, c, v);
    // Only where B is sorted: `accepts` has seen to it.
    const int64_t middle = x.low + span / 2;
    const int64_t below = unmasked({r.i, x.low, middle, false}, c, v);
    return below + unmasked({r.i, middle, x.high + 1, false}, c + below, S::kValues ? v + below : v);
  }

  // All columns, where to pass over the empty ones costs less than to find the first and the last.
  extent extent_of(const part& r) const {
    const int64_t products = a.products[r.i + 1] - a.products[r.i], rows = a.a.offsets[r.i + 1] - a.a.offsets[r.i];
    const int64_t narrow = blocks != nullptr ? 64 : 8;  // columns for a product at most; blocks have bits for marks
    if (!r.whole || rows < 2 || p.n > smaller(narrow * products, limit.dense)) return measure(r);
    return {products, rows, 0, p.n - 1};
  }

  // A row of B times one number.
  int64_t copy(const part& r, I* c, V* v) {
    int64_t count = 0;
    segments(r, [&](const V* x, const I* from, const V* b, int64_t n) {
      memcpy(c, from, static_cast<size_t>(n) * sizeof(I));
      if (S::kValues)
        for (int64_t j = 0; j < n; j++) v[j] = S::add(S::zero(), product(x, b, j));
      count = n;
    });
    return count;
  }

  // Column above, place below: keys are distinct, and equal columns stay in the order in which they came.
  int64_t sort(const part& r, const extent& x, int bits, I* c, V* v) {
    int64_t count = 0;
    segments(r, [&](const V* coefficient, const I* from, const V* b, int64_t n) {
      expand(from, n, x.low, bits, count);
      if (S::kValues) multiply(coefficient, b, n, s.products + count);
      count += n;
    });
    const int64_t registers = (count + 15) / 16;
    _mm512_storeu_si512(s.keys + count, _mm512_set1_epi32(-1));
    s.keys[-1] = ~uint32_t{0};  // before the first key: no column
    sort_keys<keys32>(s.keys, registers);
    return reduce(count, x.low, bits, c, v);
  }

  void expand(const I* from, int64_t n, int64_t low, int bits, int64_t at) {
    const __m128i shift = _mm_cvtsi32_si128(bits);
    const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int64_t j = 0; j < n; j += 16) {
      const __mmask16 m = first_lanes(n - j);
      __m512i k;
      if constexpr (sizeof(I) == 4) {
        k = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(m, from + j), _mm512_set1_epi32(static_cast<int32_t>(low)));
      } else {
        const __m512i base = _mm512_set1_epi64(low);
        const __m512i k0 = _mm512_sub_epi64(_mm512_maskz_loadu_epi64(static_cast<__mmask8>(m), from + j), base);
        const __m512i k1 =
            _mm512_sub_epi64(_mm512_maskz_loadu_epi64(static_cast<__mmask8>(m >> 8), from + j + 8), base);
        k = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(k0)), _mm512_cvtepi64_epi32(k1), 1);
      }
      const __m512i place = _mm512_add_epi32(iota, _mm512_set1_epi32(static_cast<int32_t>(at + j)));
      _mm512_storeu_si512(s.keys + at + j, _mm512_or_si512(_mm512_sll_epi32(k, shift), place));
    }
  }

  // Stores whole registers: what is behind n is written again or not read.
  static void multiply(const V* coefficient, const V* b, int64_t n, V* to) {
    for (int64_t j = 0; j < n; j += L::count) {
      const auto m = static_cast<typename L::mask>(first_lanes(n - j));
      if (coefficient == nullptr)
        L::store(to + j, L::load(m, b + j));
      else
        L::store(to + j, S::mul(L::set(*coefficient), S::kReads ? L::load(m, b + j) : L::set(1)));
    }
  }

  // Sums begin in memory and not in a register: only equal columns wait for each other.
  int64_t reduce(int64_t count, int64_t low, int bits, I* c, V* v) {
    const uint32_t places = (uint32_t{1} << bits) - 1;
    const __m128i shift = _mm_cvtsi32_si128(bits);
    if (S::kValues)
      for (int64_t j = 0; j < count; j += L::count)
        L::store(v + j, static_cast<typename L::mask>(first_lanes(count - j)), L::set(S::zero()));
    int64_t at = -1;
    uint32_t last = ~uint32_t{0};
    for (int64_t j = 0; j < count;) {
      if (count - j >= 16) {
        const __m512i keys = _mm512_load_si512(s.keys + j), column = _mm512_srl_epi32(keys, shift);
        const __m512i before = _mm512_srl_epi32(_mm512_loadu_si512(s.keys + j - 1), shift);
        if (_mm512_cmpeq_epi32_mask(column, before) == 0) {
          store_columns(column, low, c + at + 1);
          if (S::kValues) gather(_mm512_and_si512(keys, _mm512_set1_epi32(static_cast<int32_t>(places))), v + at + 1);
          at += 16;
          j += 16;
          last = s.keys[j - 1] >> bits;
          continue;
        }
      }
      for (const int64_t end = smaller(j + 16, count); j < end; j++) {
        const uint32_t key = s.keys[j], column = key >> bits;
        at += column != last;
        last = column;
        c[at] = static_cast<I>(low + column);
        if (S::kValues) v[at] = S::add(v[at], s.products[key & places]);
      }
    }
    return at + 1;
  }

  static void store_columns(__m512i column, int64_t low, I* c) {
    if constexpr (sizeof(I) == 4) {
      _mm512_storeu_si512(c, _mm512_add_epi32(column, _mm512_set1_epi32(static_cast<int32_t>(low))));
    } else {
      const __m512i base = _mm512_set1_epi64(low);
      _mm512_storeu_si512(c, _mm512_add_epi64(_mm512_cvtepu32_epi64(_mm512_castsi512_si256(column)), base));
      _mm512_storeu_si512(c + 8, _mm512_add_epi64(_mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(column, 1)), base));
    }
  }

  // Sixteen products by their places.
  void gather(__m512i place, V* v) const {
    if constexpr (sizeof(V) == 4) {
      L::store(v, S::add(L::set(S::zero()), _mm512_i32gather_ps(place, s.products, 4)));
    } else {
      L::store(v, S::add(L::set(S::zero()), _mm512_i32gather_pd(_mm512_castsi512_si256(place), s.products, 8)));
      L::store(v + 8,
               S::add(L::set(S::zero()), _mm512_i32gather_pd(_mm512_extracti64x4_epi64(place, 1), s.products, 8)));
    }
  }

  void ready_dense() {
    if (s.state->dense) return;
    s.state->dense = true;
    for (int64_t j = 0; S::kValues && j < limit.dense; j++) s.sums[j] = S::zero();
    memset(s.marks, 0, static_cast<size_t>(limit.dense) + 64);
    memset(s.lines, 0, static_cast<size_t>(limit.dense / kLine) + 64);
  }

  // Where column 0 would be: the first column of the arrays is a multiple of 64, so that marks are read in aligned 64s.
  int64_t origin(const extent& x) const { return p.n <= limit.dense ? 0 : x.low & ~int64_t{63}; }

  template <bool Masked, bool Lines>
  int64_t dense(const part& r, const extent& x, I* c, V* v) {
    ready_dense();
    const int64_t zero = origin(x);
    if (Masked) mask_marks(r, zero, 1);
    const uint8_t wanted = has(KN_SPGEMM_COMPLEMENT) ? 0 : 1;
    segments(r, [&](const V* coefficient, const I* from, const V* b, int64_t n) {
      if (!Masked && n >= 16 && from[n - 1] - from[0] == n - 1 && (coefficient != nullptr && has(KN_SPGEMM_B_SORTED)))
        run<Lines>(coefficient, from[0] - zero, b, n);
      else
        scatter<Masked, Lines>(coefficient, from, b, n, zero, wanted);
    });
    emission to{zero, c, v};
    const int64_t first = (x.low - zero) / 64, last = (x.high - zero) / 64;
    if (Lines) {
      for (int64_t line = first / 8; line <= last / 8; line++) {
        if (!s.lines[line]) continue;
        s.lines[line] = 0;
        emit(line * 8, line * 8 + 8, to);
      }
    } else {
      for (int64_t block = first; block <= last; block += 64) emit(block, smaller(block + 64, last + 1), to);
    }
    gather(to);
    if (Masked) mask_marks(r, zero, 0);
    return to.count;
  }

  template <bool Columns>
  int64_t blocked(int64_t i, const extent& x, I* c, V* v, int64_t most = INT64_MAX) {
    using mask = typename L::mask;
    ready_dense();
    mask* marks = reinterpret_cast<mask*>(s.marks);
    blocks->add(*this, i, s.sums, marks);
    return blocks->template take<Columns>(x.low, x.high, s.sums, marks, c, v, most);
  }

  void mask_marks(const part& r, int64_t zero, uint8_t mark) {
    const I* m = columns(a.mask);
    const V* value = has(KN_SPGEMM_VALUED) ? static_cast<const V*>(a.mask.values) : nullptr;
    for (int64_t j = a.mask.offsets[r.i]; j < a.mask.offsets[r.i + 1]; j++)
      if (m[j] >= r.low && m[j] < r.high && (value == nullptr || value[j] != 0)) s.marks[m[j] - zero] = mark;
  }

  template <bool Masked, bool Lines>
  void scatter(const V* coefficient, const I* __restrict from, const V* __restrict b, int64_t n, int64_t zero,
               uint8_t wanted) {
    V* __restrict sums = s.sums - zero;
    uint8_t* __restrict marks = s.marks - zero;
    uint8_t* __restrict lines = s.lines;
    const bool addend = coefficient == nullptr;
    const V x = S::kReads && !addend ? *coefficient : V(0);
#pragma GCC unroll 4
    for (int64_t j = 0; j < n; j++) {
      const int64_t at = from[j];
      if (Masked && !addend && (marks[at] & 1) != wanted) continue;
      if (S::kValues) sums[at] = S::add(sums[at], addend ? b[j] : S::mul(x, S::kReads ? b[j] : V(0)));
      marks[at] = Masked ? marks[at] | 2 : 2;
      if (Lines) lines[(at - zero) / kLine] = 1;
    }
  }

  static void add_run(const V* coefficient, V* sums, const V* b, int64_t n) {
    const auto x = L::set(*coefficient);
    for (int64_t j = 0; j < n; j += L::count) {
      const auto m = static_cast<typename L::mask>(first_lanes(n - j));
      const auto y = S::kReads ? L::load(m, b + j) : L::set(1);
      L::store(sums + j, m, S::add(L::load(m, sums + j), S::mul(x, y)));
    }
  }

  // Consecutive columns: no scatter.
  template <bool Lines>
  void run(const V* coefficient, int64_t at, const V* b, int64_t n) {
    if (S::kValues) add_run(coefficient, s.sums + at, b, n);
    memset(s.marks + at, 2, static_cast<size_t>(n));
    if (Lines)
      for (int64_t line = at / kLine; line <= (at + n - 1) / kLine; line++) s.lines[line] = 1;
  }

  // Where the entries of a row go: columns of `count`, values of `gathered` so far.
  struct emission {
    int64_t zero;
    I* c;
    V* v;
    int64_t count = 0, gathered = 0;
  };

  // The touched columns of blocks [first, end) of 64, at most 64 of them, and their sums back to zero. Which blocks
  // have any is found without a branch: it is nothing that could be predicted.
  void emit(int64_t first, int64_t end, emission& to) {
    uint64_t touched[64], some = 0;
    for (int64_t block = first; block < end; block++) {
      const __m512i marks = _mm512_load_si512(s.marks + block * 64);
      const uint64_t t = _mm512_test_epi8_mask(marks, _mm512_set1_epi8(2));
      touched[block - first] = t;
      some |= uint64_t{t != 0} << (block - first);
    }
    for (; some != 0; some &= some - 1) {
      const int64_t block = first + __builtin_ctzll(some);
      const uint64_t t = touched[block - first];
      __m512i* marks = reinterpret_cast<__m512i*>(s.marks + block * 64);
      _mm512_store_si512(marks, _mm512_and_si512(_mm512_load_si512(marks), _mm512_set1_epi8(1)));
      emit_columns(t, to.zero + block * 64, to.c + to.count);
      const int n = __builtin_popcountll(t);
      if (S::kValues && n >= 12) {
        gather(to);
        V *sums = s.sums + block * 64, *v = to.v + to.count;
        for (int at = 0; at < 64; at += L::count) {
          const auto m = static_cast<typename L::mask>(t >> at);
          const int some_here = __builtin_popcount(m);
          L::store(v, static_cast<typename L::mask>(first_lanes(some_here)), L::compress(m, L::load(sums + at)));
          L::store(sums + at, L::set(S::zero()));
          v += some_here;
        }
        to.gathered = to.count + n;
      }
      to.count += n;
    }
  }

  // Values of columns that stand alone.
  void gather(emission& to) {
    V* sums = s.sums - to.zero;
    if (S::kValues)
      for (int64_t j = to.gathered; j < to.count; j++) {
        to.v[j] = sums[to.c[j]];
        sums[to.c[j]] = S::zero();
      }
    to.gathered = to.count;
  }

  // Whole registers are stored: what is behind the last column is written again or not read.
  static void emit_columns(uint64_t touched, int64_t base, I* to) {
    for (int at = 0; at < 64; at += 16) {
      const auto m = static_cast<__mmask16>(touched >> at);
      lanes<float>::store_columns(to, m, base + at);
      to += __builtin_popcount(m);
    }
  }

  // The place of a column in the table, which has lines of one register.
  int64_t place(I column, int64_t line_mask, int64_t& count) {
    int64_t line = static_cast<int64_t>((static_cast<uint64_t>(column) * 0x9e3779b97f4a7c15u) >> 40) & line_mask;
    for (;; line = (line + 1) & line_mask) {
      I* at = s.table + line * kColumns;
      uint32_t same, empty;
      const __m512i v = _mm512_load_si512(at);
      if constexpr (sizeof(I) == 4) {
        same = _mm512_cmpeq_epi32_mask(v, _mm512_set1_epi32(column));
        empty = _mm512_movepi32_mask(v);
      } else {
        same = _mm512_cmpeq_epi64_mask(v, _mm512_set1_epi64(column));
        empty = _mm512_movepi64_mask(v);
      }
      if (same != 0) return line * kColumns + __builtin_ctz(same);
      if (empty == 0) continue;
      const int64_t slot = line * kColumns + __builtin_ctz(empty);
      s.table[slot] = column;
      s.table_sums[slot] = S::zero();
      s.found[count++] = static_cast<uint64_t>(slot);
      return slot;
    }
  }

  int64_t hash(const part& r, const extent& x, I* c, V* v) {
    if (!s.state->hash) memset(s.table, 0xff, static_cast<size_t>(limit.hash) * sizeof(I));
    s.state->hash = true;
    int64_t lines = 1;
    while (lines * kColumns < limit.table * x.products) lines *= 2;
    int64_t count = 0;
    segments(r, [&](const V* coefficient, const I* from, const V* b, int64_t n) {
      for (int64_t j = 0; j < n; j++) {
        const int64_t slot = place(from[j], lines - 1, count);
        if (S::kValues) s.table_sums[slot] = S::add(s.table_sums[slot], product(coefficient, b, j));
      }
    });
    for (int64_t j = 0; j < count; j++) s.found[j] |= static_cast<uint64_t>(s.table[s.found[j]] - x.low) << kSlotBits;
    if (ordered(r.i)) {
      for (int64_t j = count; j % 8 != 0; j++) s.found[j] = ~uint64_t{0};
      sort_keys<keys64>(s.found, (count + 7) / 8);
    }
    for (int64_t j = 0; j < count; j++) {
      const int64_t slot = static_cast<int64_t>(s.found[j] & ((uint64_t{1} << kSlotBits) - 1));
      c[j] = static_cast<I>(x.low + static_cast<int64_t>(s.found[j] >> kSlotBits));
      if (S::kValues) v[j] = s.table_sums[slot];
      s.table[slot] = -1;
    }
    return count;
  }
};

}  // namespace
}  // namespace kn::spgemm
