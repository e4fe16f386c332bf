// The engines of AMX (Sapphire Rapids and later): bf16 x with bf16, s8 or u4 weights by tdpbf16ps, exact s8 x s8 by
// tdpbssd. 1 KB of a panel is one tile of weights as it lies. Rows of x are a tile of as many rows, so nothing is
// padded, read or written beyond them. Two tiles of rows by two panels load 4 tiles for 4 products, which the two load
// ports just sustain from L1; up to 16 rows take 4 panels instead, for 4 independent sums hide the latency of a
// product.
#pragma once
#include <amx.h>
#include <unroll.h>

#include "flat_gemm_drive.h"
#include "flat_gemm_quantize.h"
#include "flat_gemm_unpack.h"

namespace kn::flat_gemm {
namespace {

constexpr int64_t kStepBytes = 1024;  // of a panel in one tile
constexpr int64_t kStepK = 32;        // elements of k in such a tile of bf16
constexpr int64_t kAhead = 4096;  // of a panel streaming from memory: a page, which the hardware prefetcher stops at

// Where the weights of a pass are: in memory for their only pass; in cache; or still packed, and to be unpacked for
// this and all later passes.
enum class feed { memory, cache, s8, u4 };

struct packed_panel {
  const char* in;
  const uint8_t* zeros;
};

// Some rows and panels over a run of k.
struct pass {
  const char* x;
  int64_t x_stride;  // bytes
  const char* w;
  int64_t w_stride;  // bytes from panel to panel
  int64_t steps;
  char* sums;
  int64_t ld;  // bytes
  bool load;   // go on from the sums that are there
  ahead fetch;
  const packed_panel* packed;
  int64_t k, k_end;     // of this pass and of the unpacked block, from the begin of the block
  int32_t group_shift;  // log2 of the elements of k per zero point
};

template <feed F>
inline __attribute__((always_inline)) void unpack_step(const packed_panel& panel, int64_t k, int32_t group_shift,
                                                       const char* w) {
  char* out = const_cast<char*>(w);  // the worker's scratch
  const char* in = panel.in + k * (F == feed::s8 ? 16 : 8);
#pragma GCC unroll 8
  for (int i = 0; i < (F == feed::s8 ? 8 : 4); i++) _mm_prefetch(in + kAhead + i * 64, _MM_HINT_T1);
  if constexpr (F == feed::s8)
    unpack_bf16(KN_S8, 0, in, out, kStepK, nullptr);
  else
    unpack_bf16(KN_U4, kStepK, in, out, kStepK,
                panel.zeros == nullptr ? nullptr : panel.zeros + (k >> group_shift) * kPanel);
}

// R tiles of rows by P panels. Sums are tiles 0 to 3, x is 4 (and 5), weights take the rest in turn. Not inlined, so
// that the loop has all general registers for itself.
template <class Dot, int R, int P, feed F>
__attribute__((noinline)) void multiply_tiles(const pass& t) {
  constexpr bool unpacks = F == feed::s8 || F == feed::u4;
  constexpr int first_w = 4 + R, w_tiles = 4 - R;
  // Locals, because the compiler has to take a tile load or store for a write to anything in memory. Not w_stride: gcc
  // would move every sum of it with a constant out of the loop, and run out of registers.
  const int64_t x_stride = t.x_stride, steps = t.steps, ld = t.ld;
  const int64_t x_tile = kTileRows * x_stride, sums_tile = kTileRows * ld;
  char* const sums = t.sums;
  const bool load = t.load;
  each<R>([&](auto r) {
    each<P>([&](auto p) {
      if (load)
        tile_load<r * 2 + p>(sums + r * sums_tile + p * kTileBytes, ld);
      else
        tile_zero<r * 2 + p>();
    });
  });
  const char* x = t.x;
  const char* w = t.w;
  const char* fetch = t.fetch.from;
  const int64_t fetch_panels = t.fetch.panels, fetch_stride = t.fetch.stride, fetch_step = t.fetch.advance * 16;
  for (int64_t s = 0; s < steps; s++) {
    each<P>([&](auto p) {
      constexpr int w_at = first_w + p % w_tiles;
      tile_load<w_at>(w + p * t.w_stride, kTileBytes);
      each<R>([&](auto r) {
        if constexpr (p == 0) tile_load<4 + r>(x + r * x_tile, x_stride);
        Dot::template dot<r * 2 + p, 4 + r, w_at>();
      });
      if constexpr (F == feed::memory) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm_prefetch(w + p * t.w_stride + kAhead + i * 64, _MM_HINT_T1);
      }
    });
    if constexpr (F == feed::cache) {
      for (int64_t p = 0; p < fetch_panels; p++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm_prefetch(fetch + p * fetch_stride + i * 64, _MM_HINT_T1);
      }
    }
    // The vector units fill the next tiles while the products of these run. A tile load cannot take its bytes from
    // stores that have not reached L1 yet, so it must not follow them at once.
    if constexpr (unpacks) {
      const int64_t k = t.k + (s + 1) * kStepK;
      for (int p = 0; p < P && k < t.k_end; p++)
        unpack_step<F>(t.packed[p], k, t.group_shift, w + p * t.w_stride + kStepBytes);
    }
    x += kTileBytes;
    w += kStepBytes;
    fetch += fetch_step;
  }
  each<R>([&](auto r) { each<P>([&](auto p) { tile_store<r * 2 + p>(sums + r * sums_tile + p * kTileBytes, ld); }); });
}

template <class Dot, feed F>
void multiply_shape(int64_t rows, int64_t panels, const pass& t) {
  if (rows > kTileRows) return panels == 1 ? multiply_tiles<Dot, 2, 1, F>(t) : multiply_tiles<Dot, 2, 2, F>(t);
  if (panels == 4) return multiply_tiles<Dot, 1, 4, F>(t);
  return panels == 1 ? multiply_tiles<Dot, 1, 1, F>(t) : multiply_tiles<Dot, 1, 2, F>(t);
}

// acc = scale * sum + (first ? 0 : acc)
inline void add_scaled(const char* sums, int64_t sums_ld, int64_t rows, int64_t count, const float* scales,
                       int64_t scale_stride, char* acc, int64_t ld, bool first) {
  for (int64_t p = 0; p < count; p++) {
    const __m512 scale = _mm512_loadu_ps(scales + p * scale_stride);
    for (int64_t r = 0; r < rows; r++) {
      char* at = acc + r * ld + p * kTileBytes;
      const __m512 old = first ? _mm512_setzero_ps() : _mm512_load_ps(at);
      _mm512_store_ps(at, _mm512_fmadd_ps(_mm512_load_ps(sums + r * sums_ld + p * kTileBytes), scale, old));
    }
  }
}

template <class X>
pass pass_of(const multiplication<X>& m, int64_t x_bytes, int64_t steps) {
  pass t{};
  t.x = reinterpret_cast<const char*>(m.x);
  t.x_stride = m.ldx * x_bytes;
  t.w_stride = m.w_stride;
  t.steps = steps;
  t.fetch = m.fetch;
  return t;
}

// What both engines are: the tile state of a task.
struct tile_engine {
  int64_t configured_rows = 0;

  static int64_t row_tile(int64_t) { return 2 * kTileRows; }
  static void enter() {}  // the configuration depends on the rows: see configure
  static void leave() { tile_release(); }

  static int64_t width(int64_t rows, int64_t step) { return rows > kTileRows && step > 2 ? 2 : step; }

  void configure(int64_t rows) {
    if (rows == configured_rows) return;
    configured_rows = rows;
    const uint8_t r0 = static_cast<uint8_t>(smaller(rows, kTileRows)), r1 = static_cast<uint8_t>(rows - r0);
    tile_config c{};
    c.palette = 1;
    for (int i = 0; i < 8; i++) {
      c.colsb[i] = kTileBytes;
      const bool weights = i >= (r1 == 0 ? 5 : 6), second = r1 != 0 && (i == 2 || i == 3 || i == 5);
      c.rows[i] = weights ? kTileRows : second ? r1 : r0;
    }
    tile_configure(c);
  }
};

struct dot_bf16 {
  template <int C, int A, int B>
  static void dot() {
    tile_dot_bf16<C, A, B>();
  }
};

struct bf16_engine : tile_engine {
  using x_t = uint16_t;
  static constexpr int32_t kInPlace = KN_BF16;
  static constexpr int64_t kBytesPerK = 32;
  static constexpr bool kWholeTiles = true, kDecodes = false, kInteger = false;

  // The block of weights being unpacked: where it goes, and for each panel how far that is.
  packed_panel packed[4];
  int64_t ready[4];
  const char* block = nullptr;
  int64_t block_length = 0;
  int32_t w_type = KN_BF16, group = 0;
  alignas(64) char sums[2 * kTileRows * 2 * kTileBytes];

  static bool unpacks(int32_t type) { return type != KN_BF16; }

  static void prepare(int32_t, const void* x, int64_t k, uint16_t* out, int64_t padded, float*) {
    if (k > 0) memcpy(out, x, static_cast<size_t>(k) * 2);
    if (padded > k) memset(out + k, 0, static_cast<size_t>(padded - k) * 2);
  }

  // Only takes note: the first pass over the block unpacks it one step ahead of its products.
  void unpack(int64_t i, int32_t type, int32_t group_size, const char* in, char* out, int64_t length,
              const uint8_t* zeros) {
    packed[i] = {in, zeros};
    ready[i] = 0;
    if (i == 0) block = out;
    block_length = length;
    w_type = type;
    group = group_size;
  }

  template <feed F>
  void first_pass(int64_t rows, int64_t count, int64_t p, const pass& t) {
    if (ready[p] == t.k)
      for (int64_t i = 0; i < count; i++) unpack_step<F>(packed[p + i], t.k, t.group_shift, t.w + i * t.w_stride);
    multiply_shape<dot_bf16, F>(rows, count, t);
    ready[p] = smaller(t.k + (t.steps + 1) * kStepK, block_length);
  }

  void multiply(const multiplication<uint16_t>& m) {
    configure(m.rows);
    const int64_t count = width(m.rows, m.panels);
    pass t = pass_of(m, 2, m.length / kStepK);
    t.load = m.scales == nullptr && !m.first;
    t.k = w_type == KN_BF16 ? 0 : (m.w - block) / kBytesPerK;
    t.k_end = block_length;
    t.group_shift = group == 128 ? 7 : group == 64 ? 6 : 5;
    for (int64_t p = 0; p < m.panels; p += count, t.fetch.panels = 0) {
      t.w = m.w + p * m.w_stride;
      t.packed = packed + p;
      t.sums = m.scales == nullptr ? m.acc + p * kTileBytes : sums;
      t.ld = m.scales == nullptr ? m.ld : count * kTileBytes;
      if (w_type != KN_BF16 && ready[p] < t.k + m.length)
        w_type == KN_S8 ? first_pass<feed::s8>(m.rows, count, p, t) : first_pass<feed::u4>(m.rows, count, p, t);
      else if (m.alone)
        multiply_shape<dot_bf16, feed::memory>(m.rows, count, t);
      else
        multiply_shape<dot_bf16, feed::cache>(m.rows, count, t);
      if (m.scales != nullptr)
        add_scaled(sums, t.ld, m.rows, count, m.scales + p * m.group_stride, m.group_stride, m.acc + p * kTileBytes,
                   m.ld, m.first);
    }
  }
};

struct dot_s8 {
  template <int C, int A, int B>
  static void dot() {
    tile_dot_s8<C, A, B>();
  }
};

struct s8_engine : tile_engine {
  using x_t = int8_t;
  static constexpr int32_t kInPlace = KN_S8;
  static constexpr int64_t kBytesPerK = 16;
  static constexpr bool kWholeTiles = true, kDecodes = false, kInteger = true;
  static constexpr int32_t kOffset = 0;

  static bool unpacks(int32_t) { return false; }
  static void unpack(int64_t, int32_t, int32_t, const char*, char*, int64_t, const uint8_t*) {}

  static void prepare(int32_t type, const void* x, int64_t k, int8_t* out, int64_t padded, float* scale) {
    quantize_row(type, x, k, out, padded, scale);
  }

  void multiply(const multiplication<int8_t>& m) {
    configure(m.rows);
    const int64_t count = width(m.rows, m.panels);
    pass t = pass_of(m, 1, m.length * kBytesPerK / kStepBytes);
    t.load = !m.first;
    t.ld = m.ld;
    for (int64_t p = 0; p < m.panels; p += count, t.fetch.panels = 0) {
      t.w = m.w + p * m.w_stride;
      t.sums = m.acc + p * kTileBytes;
      if (m.alone)
        multiply_shape<dot_s8, feed::memory>(m.rows, count, t);
      else
        multiply_shape<dot_s8, feed::cache>(m.rows, count, t);
    }
  }
};

}  // namespace
}  // namespace kn::flat_gemm
