// The register-tile microkernel of the AVX-512 engines: R rows by P panels of accumulators, one dot instruction per
// accumulator and step. 2 P loads of weights feed R P dots, and each row costs one broadcast, so from P = 2 on the
// loads fit beside the dots. R P + P + 1 registers at most 32.
#pragma once
#include <unroll.h>

#include "flat_gemm_drive.h"

namespace kn::flat_gemm {
namespace {

// Most rows for 1, 2, 4, 8 panels; with weights decoded on the way the decoder needs registers too.
constexpr int kRows[] = {16, 12, 6, 3}, kDecodedRows[] = {8, 8, 4, 2};

// Lines of a panel that one row reads together.
constexpr int kTogether = 4;

constexpr int panel_slot(int64_t step) { return step == 1 ? 0 : step == 2 ? 1 : step == 4 ? 2 : 3; }

// Decode: kRaw bytes of a panel, loaded, become kParts operands of Dot, in the order of k, each from the bytes alone:
// part<I, R> is the one at I, for R rows.

// A Decode that loads whole registers.
struct packed_zmm {
  using raw = __m512i;
  static raw load(const char* w) { return _mm512_load_si512(w); }
};

// A Decode of weights without zero points.
struct no_zero {
  struct zero {};
  static zero load_zero(const uint8_t*) { return {}; }
};

// Weights that are operands.
template <class Dot>
struct as_is : no_zero {
  using raw = typename Dot::v;
  static constexpr int64_t kRaw = 64;
  static constexpr int kParts = 1;
  static raw load(const char* w) { return Dot::load(w); }
  template <int, int>
  static raw part(raw w, zero) {
    return w;
  }
};

// Dot: v a 512-bit accumulator type; zero(), broadcast(x at a step), dot(acc, x, w), scale(sum, scales, acc), kXBytes
// of x per operand of weights.
template <class Dot, class Decode, int R, int P, class X>
void tile(const multiplication<X>& t) {
  using v = typename Dot::v;
  constexpr int kParts = Decode::kParts;
  const int64_t x_stride = t.ldx * static_cast<int64_t>(sizeof(X));
  const int64_t steps = t.length * static_cast<int64_t>(sizeof(X)) / (Dot::kXBytes * kParts);
  v c[R][P];
  const bool load = !t.first && t.scales == nullptr;
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) c[r][p] = load ? Dot::load(t.acc + r * t.ld + p * 64) : Dot::zero();
  typename Decode::zero zero[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; p++) zero[p] = Decode::load_zero(t.zeros == nullptr ? nullptr : t.zeros + p * t.group_stride);
  const char* x = reinterpret_cast<const char*>(t.x);
  const char* w = t.w;
  const char* fetch = t.fetch.from;
  const bool all = t.fetch.panels == P;
  // One of two hints for the whole pass: the branch is always the same.
  const auto ask = [&t](const char* line) __attribute__((always_inline)) {
    t.fetch.to_l1 ? _mm_prefetch(line, _MM_HINT_T0) : _mm_prefetch(line, _MM_HINT_T1);
  };
  int64_t s = 0;
  // One row leaves memory to the hardware, which sees longer runs where lines that follow one another are read
  // together.
  if constexpr (R == 1 && kParts == 1 && Decode::kRaw == 64 && P <= 4) {
    for (; t.alone && s + kTogether <= steps; s += kTogether) {
#pragma GCC unroll 4
      for (int p = 0; p < P; p++)
        each<kTogether>([&](auto i) __attribute__((always_inline)) {
          if (all) ask(fetch + p * t.fetch.stride + i * 64);
          const v b = Dot::load(w + p * t.w_stride + i * 64);
          c[0][p] = Dot::dot(c[0][p], Dot::broadcast(x + i * Dot::kXBytes), b);
        });
      x += Dot::kXBytes * kTogether;
      w += 64 * kTogether;
      fetch += t.fetch.advance * kTogether;
    }
  }
  for (; s < steps; s++) {
    if (all)
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) ask(fetch + p * t.fetch.stride);
    else
      for (int64_t p = 0; p < t.fetch.panels; p++) ask(fetch + p * t.fetch.stride);
    typename Decode::raw raw[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) raw[p] = Decode::load(w + p * t.w_stride);
    // One operand of k at a time and of the shorter side at once: all operands of a step would not fit in registers.
    each<kParts>([&](auto i) __attribute__((always_inline)) {
      constexpr int64_t at = i * Dot::kXBytes;
      if constexpr (R > P) {
        v b[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) b[p] = Decode::template part<i, R>(raw[p], zero[p]);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const v a = Dot::broadcast(x + r * x_stride + at);
#pragma GCC unroll 8
          for (int p = 0; p < P; p++) c[r][p] = Dot::dot(c[r][p], a, b[p]);
        }
      } else {
        v a[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) a[r] = Dot::broadcast(x + r * x_stride + at);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
          const v b = Decode::template part<i, R>(raw[p], zero[p]);
#pragma GCC unroll 16
          for (int r = 0; r < R; r++) c[r][p] = Dot::dot(c[r][p], a[r], b);
        }
      }
    });
    x += Dot::kXBytes * kParts;
    w += Decode::kRaw;
    fetch += t.fetch.advance;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) {
      char* at = t.acc + r * t.ld + p * 64;
      if (t.scales != nullptr)
        c[r][p] = Dot::scale(c[r][p], t.scales + p * t.group_stride, t.first ? Dot::zero() : Dot::load(at));
      Dot::store(at, c[r][p]);
    }
}

template <class Dot, class Decode, int P, class X, int... R>
constexpr void fill(void (**table)(const multiplication<X>&)) {
  ((table[R] = &tile<Dot, Decode, R, P, X>), ...);
}

template <class Dot, class Decode, class X>
struct tiles {
  void (*at[4][17])(const multiplication<X>&) = {};
  constexpr tiles() {
    if constexpr (Decode::kParts == 1 && Decode::kRaw == 64) {
      fill<Dot, Decode, 1, X, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>(at[0]);
      fill<Dot, Decode, 2, X, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>(at[1]);
      fill<Dot, Decode, 4, X, 1, 2, 3, 4, 5, 6>(at[2]);
      fill<Dot, Decode, 8, X, 1, 2, 3>(at[3]);
    } else {
      fill<Dot, Decode, 1, X, 1, 2, 3, 4, 5, 6, 7, 8>(at[0]);
      fill<Dot, Decode, 2, X, 1, 2, 3, 4, 5, 6, 7, 8>(at[1]);
      fill<Dot, Decode, 4, X, 1, 2, 3, 4>(at[2]);
      fill<Dot, Decode, 8, X, 1, 2>(at[3]);
    }
  }
};

template <class Dot, class Decode, class X>
void multiply_registers(const multiplication<X>& t) {
  static constexpr tiles<Dot, Decode, X> table;
  table.at[panel_slot(t.panels)][t.rows](t);
}

inline int64_t register_rows(int64_t step) { return kRows[panel_slot(step)]; }
inline int64_t decoded_rows(int64_t step) { return kDecodedRows[panel_slot(step)]; }

}  // namespace
}  // namespace kn::flat_gemm
