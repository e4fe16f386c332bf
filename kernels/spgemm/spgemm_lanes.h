// Sixteen rows of keys sorted at once, a row in every lane: a comparison is two instructions for sixteen rows, where
// within a register it is five for one.
#pragma once
#include <unroll.h>

#include <array>

#include "spgemm_operands.h"
#include "spgemm_sort.h"

namespace kn::spgemm {
namespace {

// Rows to lanes and back.
[[gnu::always_inline]] inline void transpose(__m512i (&v)[16]) {
  __m512i w[16];
  each<8>([&](auto i) __attribute__((always_inline)) {
    w[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    w[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  });
  each<4>([&](auto i) __attribute__((always_inline)) {
    v[4 * i] = _mm512_unpacklo_epi64(w[4 * i], w[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(w[4 * i], w[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(w[4 * i + 1], w[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(w[4 * i + 1], w[4 * i + 3]);
  });
  // Register r of four rows has, in part p of 128 bits, column 4 p + r.
  each<4>([&](auto r) __attribute__((always_inline)) {
    w[r] = _mm512_shuffle_i32x4(v[r], v[4 + r], 0x88);
    w[4 + r] = _mm512_shuffle_i32x4(v[r], v[4 + r], 0xdd);
    w[8 + r] = _mm512_shuffle_i32x4(v[8 + r], v[12 + r], 0x88);
    w[12 + r] = _mm512_shuffle_i32x4(v[8 + r], v[12 + r], 0xdd);
  });
  each<4>([&](auto r) __attribute__((always_inline)) {
    v[r] = _mm512_shuffle_i32x4(w[r], w[8 + r], 0x88);
    v[4 + r] = _mm512_shuffle_i32x4(w[4 + r], w[12 + r], 0x88);
    v[8 + r] = _mm512_shuffle_i32x4(w[r], w[8 + r], 0xdd);
    v[12 + r] = _mm512_shuffle_i32x4(w[4 + r], w[12 + r], 0xdd);
  });
}

[[gnu::always_inline]] inline void transpose(__m512 (&v)[16]) {
  __m512i w[16];
  each<16>([&](auto i) __attribute__((always_inline)) { w[i] = _mm512_castps_si512(v[i]); });
  transpose(w);
  each<16>([&](auto i) __attribute__((always_inline)) { v[i] = _mm512_castsi512_ps(w[i]); });
}

[[gnu::always_inline]] inline void transpose(__m512d (&v)[8]) {
  __m512d w[8];
  each<4>([&](auto i) __attribute__((always_inline)) {
    w[2 * i] = _mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]);
    w[2 * i + 1] = _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]);
  });
  // Register r of two rows has, in part p of 128 bits, column 2 p + r.
  each<2>([&](auto r) __attribute__((always_inline)) {
    const __m512d even = _mm512_shuffle_f64x2(w[r], w[2 + r], 0x88), odd = _mm512_shuffle_f64x2(w[r], w[2 + r], 0xdd);
    const __m512d even4 = _mm512_shuffle_f64x2(w[4 + r], w[6 + r], 0x88);
    const __m512d odd4 = _mm512_shuffle_f64x2(w[4 + r], w[6 + r], 0xdd);
    v[r] = _mm512_shuffle_f64x2(even, even4, 0x88);
    v[2 + r] = _mm512_shuffle_f64x2(odd, odd4, 0x88);
    v[4 + r] = _mm512_shuffle_f64x2(even, even4, 0xdd);
    v[6 + r] = _mm512_shuffle_f64x2(odd, odd4, 0xdd);
  });
}

struct comparison {
  int low, high;
};

// Batcher's odd-even merge sort of 16 keys.
constexpr std::array<comparison, 63> network() {
  std::array<comparison, 63> all{};
  int n = 0;
  for (int sorted = 1; sorted < 16; sorted *= 2)
    for (int apart = sorted; apart >= 1; apart /= 2)
      for (int from = apart % sorted; from + apart < 16; from += 2 * apart)
        for (int i = from; i < from + apart && i + apart < 16; i++)
          if (i / (2 * sorted) == (i + apart) / (2 * sorted)) all[static_cast<size_t>(n++)] = {i, i + apart};
  return all;
}

inline constexpr std::array<comparison, 63> kNetwork = network();

struct lane_sort {
  using key = uint32_t;

  static void order(__m512i& a, __m512i& b) {
    const __m512i low = _mm512_min_epu32(a, b);
    b = _mm512_max_epu32(a, b);
    a = low;
  }

  [[gnu::always_inline]] static void sorted(__m512i (&v)[16]) {
    each<63>([&](auto i) __attribute__((always_inline)) { order(v[kNetwork[i].low], v[kNetwork[i].high]); });
  }

  // Of a bitonic sequence.
  [[gnu::always_inline]] static void merged(__m512i (&v)[16]) {
    each<4>([&](auto stage) __attribute__((always_inline)) {
      constexpr int apart = 8 >> decltype(stage)::value;
      each<8>([&](auto i) __attribute__((always_inline)) {
        constexpr int low = decltype(i)::value / apart * 2 * apart + decltype(i)::value % apart;
        order(v[low], v[low + apart]);
      });
    });
  }

  [[gnu::always_inline]] static void load(__m512i (&v)[16], const __m512i* from) {
    each<16>([&](auto i) __attribute__((always_inline)) { v[i] = _mm512_load_si512(from + i); });
  }
  [[gnu::always_inline]] static void store(__m512i* to, const __m512i (&v)[16]) {
    each<16>([&](auto i) __attribute__((always_inline)) { _mm512_store_si512(to + i, v[i]); });
  }
  [[gnu::always_inline]] static void load(__m512i (&v)[16], key* const* rows, int at) {
    each<16>([&](auto i) __attribute__((always_inline)) { v[i] = _mm512_load_si512(rows[i] + at); });
    transpose(v);
    each<16>([&](auto i) __attribute__((always_inline)) {
      v[i] = _mm512_or_si512(_mm512_slli_epi32(v[i], kShortBits), _mm512_set1_epi32(at + i));
    });
  }
  [[gnu::always_inline]] static void store(key* const* rows, int at, __m512i (&v)[16]) {
    transpose(v);
    each<16>([&](auto i) __attribute__((always_inline)) { _mm512_store_si512(rows[i] + at, v[i]); });
  }

  // Compares keys [low, low + n) with those that mirror them, which end before `end`.
  static void mirror(__m512i* v, int low, int n, int end) {
    for (int i = 0; i < n; i++) order(v[low + i], v[end - 1 - i]);
  }
  static void halves(__m512i* v) {
    for (int i = 0; i < 16; i++) order(v[i], v[16 + i]);
  }
  static void merge(__m512i* v) {
    __m512i t[16];
    load(t, v);
    merged(t);
    store(v, t);
  }

  // Sorts 16 rows of R registers each, 64-byte aligned.
  template <int R>
  [[gnu::noinline]] static void sort(key* const* rows) {
    static_assert(R >= 1 && R <= 4);
    __m512i t[16];
    if constexpr (R == 1) {
      load(t, rows, 0);
      sorted(t);
      store(rows, 0, t);
      return;
    }
    __m512i v[16 * R];
    for (int g = 0; g < R; g++) {
      load(t, rows, 16 * g);
      sorted(t);
      store(v + 16 * g, t);
    }
    for (int pair = 0; pair < R / 2; pair++) mirror(v + 32 * pair, 0, 16, 32);
    if constexpr (R > 2) {
      for (int g = 0; g < R / 2 * 2; g++) merge(v + 16 * g);
      if constexpr (R == 3)
        mirror(v, 16, 16, 48);
      else
        mirror(v, 0, 32, 64), halves(v + 32);
      halves(v);
    }
    for (int g = 0; g < R; g++) {
      load(t, v + 16 * g);
      merged(t);
      store(rows, 16 * g, t);
    }
  }
};

}  // namespace
}  // namespace kn::spgemm
