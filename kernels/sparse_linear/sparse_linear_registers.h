// The microkernel that expands weights in registers: R rows by P panels of accumulators, as flat_gemm_registers.h has
// them, whose operands are expanded once per tile of rows.
#pragma once
#include <flat_gemm/flat_gemm_registers.h>
#include <require.h>

#include <utility>

#include "sparse_linear_expand.h"

namespace kn::sparse_linear {
namespace {

using flat_gemm::kPanel;

// Rows of x times `panels` panels over `length` elements of k; see flat_gemm's multiplication.
template <class X>
struct sparse_multiplication {
  int64_t rows, panels, length;
  const X* x;
  int64_t ldx;
  const char* values[8];
  const char* bits[8];
  int64_t ahead[8];  // bytes from the values of a panel to those that are to be asked for meanwhile
  bool two_lines;    // also for the line after that
  bool by_l2;        // to L2 first
  // Or, where `next` is not null, these instead: values and bits of all panels to come, each as one stream.
  const char *next, *next_bits;
  int64_t next_bytes;  // of values
  char* acc;
  int64_t ld;
  bool first;
};

// Most rows for 1, 2, 4 panels. One accumulator must not be needed again before its last sum is there, some 7 cycles,
// so that few panels want many rows.
constexpr int kRows[] = {16, 8, 6};

// Bytes of bits that are asked for before they are needed: beside the uneven streams of values, the hardware is late
// with this even one. Twice as many were slower for 4 rows at density 0.5.
constexpr int64_t kBitsAhead = 256;

// The same for values that were asked for as one stream, a step of panels ago, and wait in L2.
constexpr int64_t kNear = 256;

// And what each panel has ahead where it comes by way of L2: values to L1, bits to L1 and to L2.
constexpr int64_t kValuesByL2 = 512, kBitsByL2 = 128, kBitsToL2 = 1024;

// So few rows wait for loads: one across two lines takes a cycle, and others beside it nearly as much (see
// perf/floors/sparse_linear.cpp). Their bits come from the masks, and `ahead` stays in registers. More rows need the
// ports of those moves for products and the registers for x, as what is decoded does.
constexpr int kFewRows = 3;

// How values are asked for: those of each panel, or those of all panels to come as one stream, to L1 or to L2 (see
// kn_few_l1_misses).
enum class streams { many, many_by_l2, one, one_by_l2 };

template <class Dot, class Expand, class Decode, int R, int P, streams kStreams, class X>
void tile(const sparse_multiplication<X>& t) {
  using v = typename Dot::v;
  using word = typename Expand::word;
  constexpr int kParts = Decode::kParts;
  constexpr bool kFew = R <= kFewRows && kParts == 1,
                 kByL2 = kStreams == streams::many_by_l2 || kStreams == streams::one_by_l2;
  constexpr bool kOneStream = kStreams == streams::one || kStreams == streams::one_by_l2;
  constexpr auto ask = [](const char* line) __attribute__((always_inline)) {
    _mm_prefetch(line, kByL2 ? _MM_HINT_T1 : _MM_HINT_T0);
  };
  constexpr int64_t kNearBytes = kOneStream ? kNear : kByL2 ? kValuesByL2 : 0;
  // An expansion waits for the one before it in its register unless that was cleared. Where a register sees one per
  // vdpbf16ps of each accumulator, those take longer.
  constexpr auto zeros = [] { return Expand::kOperands > kParts ? _mm512_setzero_si512() : cleared(); };
  const int64_t x_stride = t.ldx * static_cast<int64_t>(sizeof(X));
  const int64_t steps = t.length * static_cast<int64_t>(sizeof(X)) / (Dot::kXBytes * kParts);
  v c[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) c[r][p] = t.first ? Dot::zero() : Dot::load(t.acc + r * t.ld + p * 64);
  const char *values[P], *bits[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) values[p] = t.values[p], bits[p] = t.bits[p];
  const char* x = reinterpret_cast<const char*>(t.x);
  const bool two_lines = Expand::kOperands > 1 && t.two_lines;
  constexpr int64_t kWord = sizeof(word);
  // Lines of the stream in every turn; as many as there are panels where it needs more, twice that with two_lines.
  constexpr int kLines = P < Expand::kOperands ? P : Expand::kOperands;
  const int64_t turns = steps / Expand::kOperands;
  const int64_t rate = kOneStream && turns > 0 ? t.next_bytes / turns + 1 : 0;
  const bool more = rate > kLines * 64;
  const char* next = t.next;
  for (int64_t s = 0; s < turns; s++, next += rate) {
    if (s % (64 / kWord) == 0)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const char* const at = bits[p] + s * kWord;
        _mm_prefetch(kOneStream ? t.next_bits + s * P * kWord + p * 64 : at + (kByL2 ? kBitsByL2 : kBitsAhead),
                     _MM_HINT_T0);
        if (kByL2 && !kOneStream) _mm_prefetch(at + kBitsToL2, _MM_HINT_T1);
      }
    word w[P];
    decltype(Expand::mask(nullptr)) m[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      const char* at = bits[p] + s * kWord;
      m[p] = Expand::mask(at), w[p] = kFew ? static_cast<word>(m[p]) : word_at<word>(at);
    }
    // Volatile: read anew in every turn, or the compiler would keep them in registers that it then lacks.
    using all = sparse_multiplication<X>;
    const std::conditional_t<kFew, all, volatile all>& again = t;
    each<Expand::kOperands>([&](auto o) __attribute__((always_inline)) {
      v b[P][kParts];
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        if (o == 0 && kNearBytes > 0) _mm_prefetch(values[p] + kNearBytes, _MM_HINT_T0);
        if (o == 0 && !kOneStream) ask(values[p] + again.ahead[p]);
        if (kOneStream && o == 0 && p < kLines) ask(next + p * 64);
        const auto raw =
            std::bit_cast<typename Decode::raw>(Expand::template expand<o>(zeros(), values[p], w[p], m[p]));
        each<kParts>([&](auto i) __attribute__((always_inline)) { b[p][i] = Decode::template part<i, R>(raw, {}); });
        if (o == Expand::kOperands - 1) values[p] = after<Expand>(values[p], w[p]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kParts; i++)
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const v a = Dot::broadcast(x + r * x_stride + i * Dot::kXBytes);
#pragma GCC unroll 4
          for (int p = 0; p < P; p++) c[r][p] = Dot::dot(c[r][p], a, b[p][i]);
        }
      x += Dot::kXBytes * kParts;
    });
    if (kOneStream && more)
#pragma GCC unroll 8
      for (int p = kLines; p < 2 * P; p++)
        if (p < P || two_lines) ask(next + p * 64);
    if (two_lines)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        if (kNearBytes > 0) _mm_prefetch(values[p] + kNearBytes + 64, _MM_HINT_T0);
        if (!kOneStream) ask(values[p] + again.ahead[p] + 64);
      }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) Dot::store(t.acc + r * t.ld + p * 64, c[r][p]);
}

template <class Dot, class Expand, class Decode, streams kStreams, class X>
struct tiles {
  void (*at[3][17])(const sparse_multiplication<X>&) = {};
  template <int P, int... R>
  constexpr void fill(std::integer_sequence<int, R...>) {
    ((at[flat_gemm::panel_slot(P)][R + 1] = &tile<Dot, Expand, Decode, R + 1, P, kStreams, X>), ...);
  }
  constexpr tiles() {
    fill<1>(std::make_integer_sequence<int, kRows[0]>{});
    fill<2>(std::make_integer_sequence<int, kRows[1]>{});
    fill<4>(std::make_integer_sequence<int, kRows[2]>{});
  }
};

template <class Dot, class Expand, class Decode, class X>
void multiply_expanded(const sparse_multiplication<X>& t) {
  static constexpr tiles<Dot, Expand, Decode, streams::many, X> many;
  static constexpr tiles<Dot, Expand, Decode, streams::many_by_l2, X> many_by_l2;
  static constexpr tiles<Dot, Expand, Decode, streams::one, X> one;
  static constexpr tiles<Dot, Expand, Decode, streams::one_by_l2, X> one_by_l2;
  const auto& at = t.next == nullptr ? (t.by_l2 ? many_by_l2.at : many.at) : t.by_l2 ? one_by_l2.at : one.at;
  at[flat_gemm::panel_slot(t.panels)][t.rows](t);
}

}  // namespace
}  // namespace kn::sparse_linear
