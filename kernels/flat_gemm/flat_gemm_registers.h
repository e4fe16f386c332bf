// The register-tile microkernel of the AVX-512 engines: R rows by P panels of accumulators, one dot instruction per
// accumulator and step. 2 P loads of weights feed R P dots, and each row costs one broadcast, so from P = 2 on the loads fit
// beside the dots. R P + P + 1 registers at most 32.
#pragma once
#include "flat_gemm_drive.h"

namespace kn::flat_gemm {
namespace {

constexpr int kRows[] = {16, 12, 6, 3};  // most rows for 1, 2, 4, 8 panels

inline int panel_slot(int64_t step) { return step == 1 ? 0 : step == 2 ? 1 : step == 4 ? 2 : 3; }

struct tile_call {
  const char* x;
  int64_t x_stride;  // bytes
  const char* w;
  int64_t w_stride;  // bytes from panel to panel
  int64_t steps;     // of 64 bytes of a panel
  char* acc;
  int64_t ld;  // bytes
  bool first;
  const float* scales;  // null, or 16 per panel: acc += scale * (this run's sum)
  int64_t scale_stride;  // elements
  const char* fetch;
};

// Dot: v a 512-bit accumulator type; zero(), broadcast(x at a step), dot(acc, x, w), kXBytes of x per step.
template <class Dot, int R, int P>
void tile(const tile_call& t) {
  typename Dot::v c[R][P];
  const bool load = !t.first && t.scales == nullptr;
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) c[r][p] = load ? Dot::load(t.acc + r * t.ld + p * 64) : Dot::zero();
  const char* x = t.x;
  const char* w = t.w;
  const char* fetch = t.fetch != nullptr ? t.fetch : t.w;  // a line that is here costs a slot, a branch here costs more
  for (int64_t s = 0; s < t.steps; s++) {
    _mm_prefetch(fetch, _MM_HINT_T1);
    if constexpr (R <= P) {
      typename Dot::v a[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) a[r] = Dot::broadcast(x + r * t.x_stride);
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        const typename Dot::v b = Dot::load(w + p * t.w_stride);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) c[r][p] = Dot::dot(c[r][p], a[r], b);
      }
    } else {
      typename Dot::v b[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) b[p] = Dot::load(w + p * t.w_stride);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const typename Dot::v a = Dot::broadcast(x + r * t.x_stride);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) c[r][p] = Dot::dot(c[r][p], a, b[p]);
      }
    }
    x += Dot::kXBytes;
    w += 64;
    fetch += 64;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) {
      char* at = t.acc + r * t.ld + p * 64;
      if (t.scales != nullptr)
        c[r][p] = Dot::scale(c[r][p], t.scales + p * t.scale_stride, t.first ? Dot::zero() : Dot::load(at));
      Dot::store(at, c[r][p]);
    }
}

using tile_function = void (*)(const tile_call&);

template <class Dot, int P, int... R>
constexpr void fill(tile_function* table) {
  ((table[R] = &tile<Dot, R, P>), ...);
}

template <class Dot>
struct tiles {
  tile_function at[4][17] = {};
  constexpr tiles() {
    fill<Dot, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>(at[0]);
    fill<Dot, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>(at[1]);
    fill<Dot, 4, 1, 2, 3, 4, 5, 6>(at[2]);
    fill<Dot, 8, 1, 2, 3>(at[3]);
  }
};

template <class Dot, class X>
void multiply_registers(int64_t rows, int64_t step, const X* x, int64_t ldx, const char* w, int64_t w_stride,
                        int64_t length, char* acc, int64_t ld, bool first, const float* scales, int64_t scale_stride,
                        const char* fetch) {
  static constexpr tiles<Dot> table;
  const int64_t x_bytes = static_cast<int64_t>(sizeof(X));
  table.at[panel_slot(step)][rows](tile_call{reinterpret_cast<const char*>(x), ldx * x_bytes, w, w_stride,
                                             length * x_bytes / Dot::kXBytes, acc, ld, first, scales, scale_stride,
                                             fetch});
}

inline int64_t register_rows(int64_t step) { return kRows[panel_slot(step)]; }

}  // namespace
}  // namespace kn::flat_gemm
