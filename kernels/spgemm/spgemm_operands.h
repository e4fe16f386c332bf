// What a row of C is computed from and in: the entries of D, the rows of B that its row of A names, and a worker's
// scratch.
#pragma once
#include "spgemm_rows.h"
#include "spgemm_semiring.h"

namespace kn::spgemm {
namespace {

// What of a worker's scratch is as it must be between rows; made so when it is first used.
struct scratch_state {
  bool dense, hash;
};

// Rows of at most kShort products are computed a batch at a time, see spgemm_short.h; whole registers are stored behind
// the last product.
constexpr int64_t kShort = 64, kShortColumns = int64_t{1} << 26;
constexpr int kShortBits = 6, kShortBatch = 16;

// What short rows of one form have in common, see spgemm_forms.h. Columns are counted from that of the first product.
struct row_form {
  alignas(64) uint32_t columns[kShort];  // of products
  alignas(64) uint32_t sorted[kShort];   // of entries
  uint8_t places[kShort];                // products by their columns
  uint8_t ends[kShort];                  // of an entry's products there
  int64_t products, entries;             // no products: no form
  uint32_t first;                        // the column of the first product in the row that had it first
};

constexpr int kForms = 2;

template <class V>
struct short_batch {
  alignas(64) uint32_t keys[kShortBatch][kShort + 32];
  alignas(64) V products[kShortBatch][kShort + 32];
  alignas(64) int64_t counts[kShortBatch];
  alignas(64) V sums[kShort * (64 / sizeof(V))];  // of entries of a form, a row in every lane
  row_form forms[kForms], candidate;
  uint32_t formed;                    // rows that have a form
  const row_form* form[kShortBatch];  // which one
  int32_t tries;                      // batches without a form, until none is looked for
};

// What a worker has, all of it in the workspace. Between rows: sums zero, marks 0, table empty.
template <class I, class S>
struct scratch {
  using V = typename S::value;
  uint32_t* keys;  // sort: [limits.sort + 64], and a line before the first
  V* products;     // [limits.sort + 16]
  V* sums;         // dense: [limits.dense]
  uint8_t* marks;  // [limits.dense + 64]: 1 mask, 2 touched
  uint8_t* lines;  // [limits.dense / kLine + 64]
  short_batch<V>* batch;
  I* table;         // hash: [limits.hash]
  V* table_sums;    // [limits.hash]
  uint64_t* found;  // [limits.hashed() + 8]
  scratch_state* state;
};

// Columns [low, high) of row i.
struct part {
  int64_t i, low, high;
  bool whole;
};

template <class I, class S>
struct row_operands {
  using V = typename S::value;

  const kn_spgemm_problem& p;
  const kn_spgemm_args& a;

  const I* columns(const kn_csr& x) const { return static_cast<const I*>(x.columns); }
  const V* values(const kn_csr& x) const { return static_cast<const V*>(x.values); }
  bool has(int32_t flag) const { return (p.flags & flag) != 0; }

  // Calls f(coefficient, columns, values, count) for D's entries, whose coefficient is null, and every row of B.
  template <class F>
  void segments(const part& r, F&& f) const {
    static const V unread = 0;  // where there are no values
    if (has(KN_SPGEMM_ACCUMULATE)) {
      const I* c = columns(a.d);
      const V* addends = S::kValues ? values(a.d) : &unread;
      for (int64_t j = a.d.offsets[r.i], end = a.d.offsets[r.i + 1]; j < end; j++) {
        if (r.whole) {
          f(static_cast<const V*>(nullptr), c + j, S::kValues ? addends + j : addends, end - j);
          break;
        }
        if (c[j] >= r.low && c[j] < r.high)
          f(static_cast<const V*>(nullptr), c + j, S::kValues ? addends + j : addends, int64_t{1});
      }
    }
    // Copies: f stores, and the compiler cannot know that it does not store to these.
    const I *ks = columns(a.a), *columns_b = columns(a.b);
    const V *values_a = values(a.a), *values_b = values(a.b);
    const int64_t* offsets = a.b.offsets;
    if (!r.whole && !has(KN_SPGEMM_B_SORTED)) {
      for (int64_t e = a.a.offsets[r.i], end = a.a.offsets[r.i + 1]; e < end; e++)
        select(r, S::kReads ? values_a + e : &unread, columns_b, values_b, offsets[ks[e]], offsets[ks[e] + 1], f);
      return;
    }
    for (int64_t e = a.a.offsets[r.i], end = a.a.offsets[r.i + 1]; e < end; e++) {
      int64_t from = offsets[ks[e]], to = offsets[ks[e] + 1];
      if (!r.whole) {
        from = bisect(columns_b, from, to, r.low);
        to = bisect(columns_b, from, to, r.high);
      }
      if (from < to)
        f(S::kReads ? values_a + e : &unread, columns_b + from, S::kReads ? values_b + from : &unread, to - from);
    }
  }

  // The entries of an unsorted row of B that fall into the part, in their order, some registers of them at a time. Out
  // of line, since the loop of sorted rows is slower with it inside.
  template <class F>
  [[gnu::noinline]] void select(const part& r, const V* coefficient, const I* c, const V* b, int64_t from, int64_t to,
                                F& f) const {
    constexpr int64_t kSome = 256;
    alignas(64) I kept[kSome + 16];
    alignas(64) V values[S::kReads ? kSome + 16 : 1];
    int64_t count = 0;
    for (int64_t j = from; j < to; j += 8) {
      const auto lanes = static_cast<__mmask8>(first_lanes(to - j));
      const __m512i columns = load_eight(lanes, c + j);
      const __mmask8 inside = _mm512_mask_cmpge_epi64_mask(lanes, columns, _mm512_set1_epi64(r.low)) &
                              _mm512_mask_cmplt_epi64_mask(lanes, columns, _mm512_set1_epi64(r.high));
      store_eight(kept + count, _mm512_maskz_compress_epi64(inside, columns));
      if constexpr (S::kReads) {
        if constexpr (sizeof(V) == 8)
          _mm512_storeu_pd(values + count, _mm512_maskz_compress_pd(inside, _mm512_maskz_loadu_pd(lanes, b + j)));
        else
          _mm256_storeu_ps(values + count, _mm256_maskz_compress_ps(inside, _mm256_maskz_loadu_ps(lanes, b + j)));
      }
      count += __builtin_popcount(inside);
      if (count > kSome - 8 || (j + 8 >= to && count > 0)) {
        f(coefficient, static_cast<const I*>(kept), static_cast<const V*>(values), count);
        count = 0;
      }
    }
  }

  static __m512i load_eight(__mmask8 m, const int32_t* c) {
    return _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(m, c));
  }
  static __m512i load_eight(__mmask8 m, const int64_t* c) { return _mm512_maskz_loadu_epi64(m, c); }
  static void store_eight(int32_t* to, __m512i v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi64_epi32(v));
  }
  static void store_eight(int64_t* to, __m512i v) { _mm512_storeu_si512(to, v); }

  static int64_t bisect(const I* c, int64_t low, int64_t high, int64_t wanted) {
    while (low < high) {
      const int64_t middle = (low + high) >> 1;
      if (c[middle] < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  static V product(const V* x, const V* b, int64_t j) {
    if (!S::kValues) return 0;
    return x == nullptr ? b[j] : S::mul(*x, S::kReads ? b[j] : V(0));
  }

  struct extent {
    int64_t products = 0, segments = 0, low = INT64_MAX, high = -1;  // columns low to high, both there
  };

  extent measure(const part& r) const {
    extent x;
    const bool sorted = has(KN_SPGEMM_B_SORTED);
    segments(r, [&](const V* coefficient, const I* c, const V*, int64_t n) {
      x.products += n;
      x.segments++;
      // D's columns may be in any order.
      if (coefficient == nullptr && n > 1) {
        for (int64_t j = 0; j < n; j++) {
          if (c[j] < x.low) x.low = c[j];
          if (c[j] > x.high) x.high = c[j];
        }
      } else if (sorted || n == 1) {
        if (c[0] < x.low) x.low = c[0];
        if (c[n - 1] > x.high) x.high = c[n - 1];
      } else {
        x.low = r.low;
        x.high = r.high - 1;
      }
    });
    return x;
  }

  // Rows of B that the next row wants, so that they are on their way while this one is computed.
  void prefetch(int64_t i) const {
    const I* ks = columns(a.a);
    const int64_t from = a.a.offsets[i], to = smaller(a.a.offsets[i + 1], from + 64);
    for (int64_t e = from; e < to; e++) {
      for (const int64_t j : {a.b.offsets[ks[e]], a.b.offsets[ks[e] + 1] - 1}) {
        _mm_prefetch(reinterpret_cast<const char*>(columns(a.b) + j), _MM_HINT_T0);
        if (S::kReads) _mm_prefetch(reinterpret_cast<const char*>(values(a.b) + j), _MM_HINT_T0);
      }
    }
  }
};

}  // namespace
}  // namespace kn::spgemm
