// Short rows of one form: on a regular mesh the products of most rows have the columns of a row before them, all moved
// by as much. Their columns are sorted once, and their values are added for as many rows at once as there are lanes, a
// row in each, with no branch that depends on more than the form.
#pragma once
#include "spgemm_lanes.h"
#include "spgemm_operands.h"

namespace kn::spgemm {
namespace {

template <class I, class S>
struct row_forms {
  using V = typename S::value;
  using L = lanes<V>;
  using reg = typename L::reg;

  static constexpr int kLeast = 8;  // rows of a batch at least
  static constexpr int kTries = 4;  // batches one after the other

  short_batch<V>& batch;

  // A slot knows no forms of others: which are found does not depend on threads.
  void begin() const {
    for (row_form& f : batch.forms) f.products = 0;
    batch.tries = kTries;
  }

  // Adds the products of the rows that have a form, to where the products are, and returns the other rows.
  [[gnu::noinline]] uint32_t add(uint32_t rows) const {
    const uint32_t all = rows;
    row_form* unused = nullptr;
    for (row_form& f : batch.forms) {
      const uint32_t same = alike(f, rows);
      if (same == 0) unused = &f;
      add(f, same);
      rows &= ~same;
    }
    if (unused != nullptr && __builtin_popcount(rows) >= kLeast) {
      row_form& f = batch.candidate;
      take(f, __builtin_ctz(rows));
      const uint32_t same = alike(f, rows);
      if (same != 0) {
        order(f);
        *unused = f;
        add(f, same);
        rows &= ~same;
      }
    }
    batch.tries = rows != all ? kTries : batch.tries - 1;
    return rows;
  }

  // Which rows have the form, where they are enough.
  uint32_t alike(const row_form& f, uint32_t rows) const {
    const __m512i products = _mm512_set1_epi64(f.products);
    rows &= _mm512_cmpeq_epi64_mask(_mm512_load_si512(batch.counts), products) |
            _mm512_cmpeq_epi64_mask(_mm512_load_si512(batch.counts + 8), products) << 8;
    if (f.products == 0 || __builtin_popcount(rows) < kLeast) return 0;
    switch ((f.products + 15) / 16) {
      case 1:
        return alike<1>(f, rows);
      case 2:
        return alike<2>(f, rows);
      case 3:
        return alike<3>(f, rows);
      default:
        return alike<4>(f, rows);
    }
  }

  template <int R>
  uint32_t alike(const row_form& f, uint32_t rows) const {
    const uint64_t valid = ~uint64_t{0} >> (64 - f.products);
    uint32_t same = 0;
    for (uint32_t rest = rows; rest != 0; rest &= rest - 1) {
      const int b = __builtin_ctz(rest);
      const __m512i first = _mm512_set1_epi32(static_cast<int32_t>(batch.keys[b][0]));
      __mmask16 other = 0;
      each<R>([&](auto i) __attribute__((always_inline)) {
        const __m512i columns = _mm512_sub_epi32(_mm512_load_si512(batch.keys[b] + 16 * i), first);
        other |= _mm512_mask_cmpneq_epi32_mask(static_cast<__mmask16>(valid >> (16 * i)), columns,
                                               _mm512_load_si512(f.columns + 16 * i));
      });
      same |= uint32_t{other == 0} << b;
    }
    return __builtin_popcount(same) < kLeast ? 0 : same;
  }

  // The form of row b but for its order.
  void take(row_form& f, int b) const {
    f.products = batch.counts[b];
    f.first = batch.keys[b][0];
    const __m512i first = _mm512_set1_epi32(static_cast<int32_t>(f.first));
    for (int64_t j = 0; j < f.products; j += 16)
      _mm512_store_si512(f.columns + j, _mm512_sub_epi32(_mm512_load_si512(batch.keys[b] + j), first));
  }

  void order(row_form& f) const {
    alignas(64) uint32_t keys[kShort];
    for (int64_t j = 0; j < f.products; j++)
      keys[j] = (f.columns[j] + f.first) << kShortBits | static_cast<uint32_t>(j);
    for (int64_t j = f.products; j % 16 != 0; j++) keys[j] = ~uint32_t{0};
    sort_keys<keys32>(keys, (f.products + 15) / 16);
    f.entries = 0;
    for (int64_t j = 0; j < f.products; j++) {
      const uint32_t column = (keys[j] >> kShortBits) - f.first;
      f.entries += j == 0 || column != f.sorted[f.entries - 1];
      f.sorted[f.entries - 1] = column;
      f.places[j] = keys[j] & (kShort - 1);
      f.ends[f.entries - 1] = static_cast<uint8_t>(j + 1);
    }
  }

  // Rows of the form. Where they do not fill the lanes the last one does.
  void add(const row_form& f, uint32_t rows) const {
    while (rows != 0) {
      V* row[L::count];
      for (V*& r : row) {
        const int b = __builtin_ctz(rows);
        r = batch.products[b];
        batch.form[b] = &f;
        if ((rows & (rows - 1)) != 0 || &r == row + L::count - 1) rows &= rows - 1;
      }
      if (S::kValues) add(f, row);
    }
  }

  [[gnu::noinline]] void add(const row_form& f, V* const* row) const {
    alignas(64) V products[kShort * L::count];
    V* const sums = batch.sums;
    reg v[L::count];
    for (int64_t j = 0; j < f.products; j += L::count) {
      each<L::count>([&](auto i) __attribute__((always_inline)) { v[i] = L::load(row[i] + j); });
      transpose(v);
      each<L::count>([&](auto i) __attribute__((always_inline)) { L::store(products + (j + i) * L::count, v[i]); });
    }
    for (int64_t n = 0, j = 0; n < f.entries; n++) {
      reg sum = L::set(S::zero());
      do sum = S::add(sum, L::load(products + f.places[j] * int64_t{L::count}));
      while (++j < f.ends[n]);
      L::store(sums + n * L::count, sum);
    }
    for (int64_t n = 0; n < f.entries; n += L::count) {
      each<L::count>([&](auto i) __attribute__((always_inline)) { v[i] = L::load(sums + (n + i) * L::count); });
      transpose(v);
      each<L::count>([&](auto i) __attribute__((always_inline)) { L::store(row[i] + n, v[i]); });
    }
  }
};

}  // namespace
}  // namespace kn::spgemm
