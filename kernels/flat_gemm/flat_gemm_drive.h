// The loops around a microkernel, shared by the AVX-512 and AMX files. Everything is static per file (see avx512.h).
//
// One task is block_m rows by block_n panels. Inside: k in blocks, so that the block of weights, unpacked if it must
// be, stays in L1 or L2 while the tiles of rows pass over it; `step` panels at a time. Accumulators wait in the
// worker's scratch between blocks of k. An element is one chain of sums over k in order, whatever the blocks: rows of
// one engine give the same bits.
//
// An Engine, one object per task, has
//   x_t, kInPlace: its element of x, and the dtype of x that it reads where it is
//   kBytesPerK: bytes of a panel per element of k as multiply reads it
//   kInteger: s32 accumulators, of x + kOffset
//   row_tile(step): the most rows of one multiply; kWholeTiles: rows fill tiles and leave a rest, rather than split
//   evenly enter(), leave(): around a task prepare(...): one row of x as the engine reads it, padded with zeros to
//   k_padded unpacks(w_type), unpack(i, ...): whether and how a block of the i-th panel of a step becomes what multiply
//   reads multiply(run): acc (+)= x . w over a run of k, rows and panels within the limits above kDecodes: it also has
//   decode_rows(step) and multiply_packed(w_type, run), which decode weights in registers
#pragma once
#include <avx512.h>

#include "flat_gemm_panel.h"

namespace kn::flat_gemm {
namespace {

constexpr int64_t kSmall = int64_t{1} << 18;  // multiply-adds: 5 us at 100 GFLOP/s

struct plan {
  const kn_flat_gemm_problem* problem;
  const kn_flat_gemm_args* args;
  panels at;
  int64_t step, block_k, block_m, block_n;  // panels, elements of k, rows, panels
  int64_t m_tasks, n_tasks, workers;
  int64_t raw;              // bytes of a packed panel per element of k
  bool decode;              // weights are decoded in registers, not unpacked to scratch
  bool in_place;            // x is read where it is
  int64_t ldx;              // elements of x_t
  const void* x;            // what the engine reads
  float* x_scales;          // per row of quantised x
  const uint64_t* outputs;  // null, or a bit per column: those whose bit is clear are 0
  char* scratch;            // per worker: accumulators, then unpacked weights
  int64_t scratch_bytes, accumulator_bytes;

  // From a group of a panel on; null where all zero points are 8.
  const uint8_t* zeros(int64_t group) const {
    return problem->flags & KN_GEMM_ZEROS ? static_cast<const uint8_t*>(args->packed) + at.zeros_at + group * kPanel
                                          : nullptr;
  }
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// One row of x as f32, whatever its type.
inline void widen_row(int32_t type, const void* x, int64_t k, float* out, int64_t padded) {
  for (int64_t i = 0; i < padded; i += 16) _mm512_storeu_ps(out + i, load(type, x, i, first_lanes(k > i ? k - i : 0)));
}

inline __m512 activate(int32_t activation, __m512 z) {
  switch (activation) {
    case KN_ACT_RELU:
      return _mm512_max_ps(_mm512_setzero_ps(), z);  // NaN in z passes: max returns its second operand
    case KN_ACT_GELU_TANH:
      return gelu_tanh(z);
    case KN_ACT_GELU_ERF:
      return gelu_erf(z);
    case KN_ACT_SILU:
      return _mm512_mul_ps(z, sigmoid(z));
    default:
      return z;
  }
}

// 16 accumulators of one row and panel as f32: scaled, with the bias.
template <class Engine>
__m512 finish(const plan& p, const void* acc, int64_t row, int64_t panel, int64_t column, __mmask16 mask) {
  const kn_flat_gemm_problem& q = *p.problem;
  const char* packed = static_cast<const char*>(p.args->packed);
  __m512 z;
  if constexpr (Engine::kInteger) {
    __m512i s = _mm512_load_si512(acc);
    if (Engine::kOffset != 0)
      s = _mm512_sub_epi32(s, _mm512_mullo_epi32(_mm512_load_si512(packed + p.at.sums_at + panel * 64),
                                                 _mm512_set1_epi32(Engine::kOffset)));
    const float* x_scales = p.x_scales != nullptr ? p.x_scales : p.args->x_scales;
    z = _mm512_mul_ps(_mm512_cvtepi32_ps(s), _mm512_set1_ps(x_scales[row]));
  } else {
    z = _mm512_load_ps(acc);
  }
  if (q.w_type == KN_S8) z = _mm512_mul_ps(z, _mm512_load_ps(packed + p.at.scales_at + panel * 64));
  if (q.flags & KN_GEMM_BIAS) z = _mm512_add_ps(z, _mm512_maskz_loadu_ps(mask, p.args->bias + column));
  return z;
}

inline __mmask16 active_lanes(const uint64_t* set, int64_t column) {
  return static_cast<__mmask16>(set[column / 64] >> (column % 64));
}

// Accumulators of `rows` rows by `count` panels to y.
template <class Engine>
void write_out(const plan& p, const char* acc, int64_t ld, int64_t row0, int64_t rows, int64_t panel0, int64_t count) {
  const kn_flat_gemm_problem& q = *p.problem;
  const kn_flat_gemm_args& a = *p.args;
  const int64_t pair = (q.flags & KN_GEMM_GATED) ? 2 : 1;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t row = row0 + r;
    for (int64_t i = 0; i < count; i += pair) {
      const int64_t column = (panel0 + i) / pair * kPanel;
      const __mmask16 mask = first_lanes(q.n - column);
      const char* at = acc + r * ld + i * 64;
      __m512 z = activate(q.activation, finish<Engine>(p, at, row, panel0 + i, column, mask));
      if (pair == 2) z = _mm512_mul_ps(z, finish<Engine>(p, at + 64, row, panel0 + i + 1, q.n + column, mask));
      if (p.outputs != nullptr) z = _mm512_maskz_mov_ps(active_lanes(p.outputs, column), z);
      if (q.flags & KN_GEMM_RESIDUAL) z = _mm512_add_ps(z, load(q.y_type, a.residual, row * a.ldr + column, mask));
      store(q.y_type, a.y, row * a.ldy + column, mask, z);
    }
  }
}

// A pass over weights that come straight from memory asks for lines so far ahead, of all its panels together, over
// their end into those that its worker wants next. Where a line takes hardly longer to multiply than to arrive, the
// hardware is better at it but for the beginnings of panels. Seen on Zen 5 with cold weights.
constexpr int64_t kAheadBytes = 8192;
inline bool asks_ahead(bool decodes, int64_t rows) { return decodes || rows >= (kn_few_l1_misses() != 0 ? 7 : 2); }

// What a multiply asks for meanwhile, to L2 or to L1: of each of so many panels, `advance` bytes per 64 bytes of
// weights that it reads.
struct ahead {
  const char* from;
  int64_t stride, panels, advance;
  bool to_l1;
};

// One call of an engine: `rows` rows of x times `panels` panels of w over `length` elements of k.
template <class X>
struct multiplication {
  int64_t rows, panels, length;
  const X* x;
  int64_t ldx;  // elements
  const char* w;
  int64_t w_stride;  // bytes from panel to panel
  char* acc;
  int64_t ld;            // bytes
  bool first;            // acc holds nothing yet
  const float* scales;   // null, or 16 per panel: acc += scale * (the sum of this run)
  const uint8_t* zeros;  // null, or 16 per panel
  int64_t group_stride;  // elements of scales and zeros from panel to panel
  bool alone;            // the only pass over these weights, which come straight from memory
  ahead fetch;
};

// One block of k for `rows` rows and `step` panels whose weights start at w (panel stride w_stride bytes).
template <class Engine>
void multiply_block(Engine& engine, const plan& p, const char* w, int64_t w_stride, int64_t k0, int64_t length,
                    int64_t panel, int64_t step, int64_t row0, int64_t rows, char* acc, int64_t ld, const char* next) {
  using x_t = typename Engine::x_t;
  const bool grouped = p.problem->w_type == KN_U4;
  const int64_t group = grouped ? p.problem->group : length,
                first_group = panel * p.at.groups + (grouped ? k0 / group : 0);
  const char* packed = static_cast<const char*>(p.args->packed);
  const float* scales = reinterpret_cast<const float*>(packed + p.at.scales_at) + first_group * kPanel;
  const uint8_t* zeros = p.zeros(first_group);
  int64_t most = Engine::row_tile(step), bytes_per_k = Engine::kBytesPerK;
  bool decodes = false;
  if constexpr (Engine::kDecodes) {
    decodes = p.decode && Engine::unpacks(p.problem->w_type);
    if (p.decode) most = Engine::decode_rows(p.problem->w_type, step), bytes_per_k = p.raw;
  }
  const int64_t tiles = (rows + most - 1) / most;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t r0 = Engine::kWholeTiles ? t * most : rows * t / tiles;
    const int64_t r1 = Engine::kWholeTiles ? smaller(rows, r0 + most) : rows * (t + 1) / tiles;
    // The tiles of rows share the panels of the next block among them; a single one reads memory itself.
    const bool alone = tiles == 1 && bytes_per_k == p.raw;
    const int64_t f0 = step * t / tiles, f1 = step * (t + 1) / tiles;
    multiplication<x_t> r{};
    r.rows = r1 - r0, r.panels = step;
    r.x = static_cast<const x_t*>(p.x) + (row0 + r0) * p.ldx + k0, r.ldx = p.ldx;
    r.w = w, r.w_stride = w_stride;
    r.acc = acc + r0 * ld, r.ld = ld;
    r.group_stride = p.at.groups * kPanel;
    r.alone = alone;
    r.fetch = {next + f0 * p.at.bytes, p.at.bytes, alone ? 0 : f1 - f0, 64 * p.raw / bytes_per_k,
               alone && kn_few_l1_misses() == 0};
    // Tiles fetch by themselves where they are alone.
    const bool asks = alone && !Engine::kWholeTiles, all = asks_ahead(decodes, r.rows);
    const int64_t end = length * p.raw, far = kAheadBytes / step, rest = smaller(length, far / p.raw);
    for (int64_t g = 0; g < length;
         g += r.length, r.x += r.length, r.w += r.length * bytes_per_k, r.fetch.from += r.length * p.raw) {
      r.length = grouped ? smaller(group, length - g) : asks && g == 0 && rest < length ? length - rest : length - g;
      if (asks) {
        const int64_t at = g * p.raw + far;
        r.fetch.from = at < end ? w + at : next + at - end;
        r.fetch.panels = all || at >= end ? step : 0;
      }
      r.first = k0 + g == 0;
      r.scales = grouped ? scales + g / group * kPanel : nullptr;
      r.zeros = zeros != nullptr ? zeros + g / group * kPanel : nullptr;
      if constexpr (Engine::kDecodes) {
        if (p.decode) {
          engine.multiply_packed(p.problem->w_type, r);
          continue;
        }
      }
      engine.multiply(r);
    }
  }
}

template <class Engine>
void task(void* context, int64_t index, int32_t worker) {
  const plan& p = *static_cast<const plan*>(context);
  const int64_t n_task = index / p.m_tasks, m_task = index % p.m_tasks;
  const int64_t row0 = m_task * p.block_m, rows = smaller(p.args->m - row0, p.block_m);
  const int64_t panel0 = n_task * p.block_n, panel1 = smaller(p.at.count, panel0 + p.block_n);
  const int64_t ld = (panel1 - panel0) * 64;
  char* acc = p.scratch + worker * p.scratch_bytes;
  char* unpacked = acc + p.accumulator_bytes;
  const char* packed = static_cast<const char*>(p.args->packed);
  const int64_t unpacked_stride = p.block_k * Engine::kBytesPerK;
  Engine engine;
  engine.enter();
  for (int64_t k0 = 0; k0 < p.at.k_padded; k0 += p.block_k) {
    const int64_t length = smaller(p.block_k, p.at.k_padded - k0);
    for (int64_t panel = panel0, step; panel < panel1; panel += step) {
      for (step = p.step; step > panel1 - panel; step /= 2) {
      }
      const char* w = packed + panel * p.at.bytes + k0 * p.raw;
      // The next block this worker will want: the next panels at this k, or the first ones at the next k.
      const bool wrap = panel + step >= panel1;
      const char* next = packed + (wrap ? panel0 : panel + step) * p.at.bytes + (wrap ? k0 + length : k0) * p.raw;
      if (wrap && k0 + length >= p.at.k_padded)
        next = packed + smaller(panel0 + p.workers * p.block_n, p.at.count - step) * p.at.bytes;
      int64_t stride = p.at.bytes;
      if (Engine::unpacks(p.problem->w_type) && !p.decode) {
        for (int64_t i = 0; i < step; i++)
          engine.unpack(i, p.problem->w_type, p.problem->group, w + i * p.at.bytes, unpacked + i * unpacked_stride,
                        length, p.zeros((panel + i) * p.at.groups + (p.problem->group ? k0 / p.problem->group : 0)));
        w = unpacked;
        stride = unpacked_stride;
      }
      multiply_block(engine, p, w, stride, k0, length, panel, step, row0, rows, acc + (panel - panel0) * 64, ld, next);
    }
  }
  engine.leave();
  if (p.at.k_padded == 0) memset(acc, 0, static_cast<size_t>(rows * ld));
  write_out<Engine>(p, acc, ld, row0, rows, panel0, panel1 - panel0);
}

template <class Engine>
void prepare_row(void* context, int64_t row, int32_t) {
  const plan& p = *static_cast<const plan*>(context);
  if (p.problem->k == 0 && p.x_scales == nullptr) return;  // nothing to read, and x may be null
  const int64_t bits = p.problem->x_type == KN_F32 ? 4 : p.problem->x_type == KN_S8 ? 1 : 2;
  Engine::prepare(
      p.problem->x_type, static_cast<const char*>(p.args->x) + (p.problem->k == 0 ? 0 : row * p.args->ldx * bits),
      p.problem->k, const_cast<typename Engine::x_t*>(static_cast<const typename Engine::x_t*>(p.x)) + row * p.ldx,
      p.ldx, p.x_scales == nullptr ? nullptr : p.x_scales + row);
}

// Sizes of a call, with the launch's parameters in the order step, block_k, block_m, block_n (0 where a row has none).
template <class Engine>
plan sizes(const kn_flat_gemm_problem& q, int64_t m, int64_t step, int64_t block_k, int64_t block_m, int64_t block_n,
           bool decode) {
  plan p{};
  p.problem = &q;
  p.at = panels_of(q);
  const int64_t pair = (q.flags & KN_GEMM_GATED) ? 2 : 1;
  p.raw = p.at.k_padded == 0 ? 0 : p.at.bytes / p.at.k_padded;
  p.decode = decode;
  p.step = step;
  p.block_k = block_k == 0 ? p.at.k_padded : smaller(block_k, p.at.k_padded);
  p.block_m = block_m == 0 || block_m > m ? m : block_m;
  p.block_n = round_up(block_n == 0 ? step : block_n, pair);
  if (p.block_n > p.at.count) p.block_n = p.at.count;
  p.m_tasks = p.block_m == 0 ? 0 : (m + p.block_m - 1) / p.block_m;
  p.n_tasks = p.block_n == 0 ? 0 : (p.at.count + p.block_n - 1) / p.block_n;
  p.in_place = q.x_type == Engine::kInPlace && q.k == p.at.k_padded && !(q.flags & KN_GEMM_QUANTIZE_X);
  p.ldx = round_up(p.at.k_padded, 64 / static_cast<int64_t>(sizeof(typename Engine::x_t)));
  p.accumulator_bytes = p.block_m * p.block_n * 64;
  p.scratch_bytes =
      p.accumulator_bytes + (Engine::unpacks(q.w_type) && !decode ? p.step * p.block_k * Engine::kBytesPerK : 0);
  return p;
}

template <class Engine>
int64_t x_bytes(const plan& p, int64_t m) {
  const int64_t copy = p.in_place ? 0 : m * p.ldx * static_cast<int64_t>(sizeof(typename Engine::x_t));
  const int64_t scales = p.problem->flags & KN_GEMM_QUANTIZE_X ? round_up(m * 4, 64) : 0;
  return round_up(copy, 64) + scales;
}

template <class Engine>
int64_t workspace_of(const kn_flat_gemm_problem& q, int32_t threads, int64_t step, int64_t block_k, int64_t block_m,
                     int64_t block_n, bool decode) {
  const plan p = sizes<Engine>(q, q.m, step, block_k, block_m, block_n, decode);
  return x_bytes<Engine>(p, q.m) + kn_workers(threads) * p.scratch_bytes;
}

// Lets the plan read x where it lies, or converted to the begin of the workspace, with the scales before `end`.
template <class Engine>
void read_x(plan& p, char* workspace, char* end, int32_t threads) {
  const kn_flat_gemm_problem& q = *p.problem;
  const kn_flat_gemm_args& a = *p.args;
  if (p.in_place) {
    p.x = a.x;
    p.ldx = a.ldx;
    return;
  }
  p.x = workspace;
  if (q.flags & KN_GEMM_QUANTIZE_X)
    p.x_scales = reinterpret_cast<float*>(end - round_up(static_cast<int64_t>(a.m) * 4, 64));
  // Converting a few rows costs less than waking a thread.
  const int64_t elements = static_cast<int64_t>(a.m) * q.k;
  kn_parallel(elements < 65536 ? 1 : threads, a.m, prepare_row<Engine>, &p);
}

template <class Engine>
void drive(const kn_flat_gemm_problem& q, const kn_flat_gemm_args& a, int32_t threads, int64_t step, int64_t block_k,
           int64_t block_m, int64_t block_n, bool decode) {
  plan p = sizes<Engine>(q, a.m, step, block_k, block_m, block_n, decode);
  p.args = &a;
  p.workers = threads;
  char* workspace = static_cast<char*>(a.workspace);
  p.scratch = workspace + x_bytes<Engine>(p, a.m);
  read_x<Engine>(p, workspace, p.scratch, threads);
  // A few microseconds of work are done before another thread is awake.
  const bool small = p.at.count * kPanel * p.at.k_padded * a.m < kSmall;
  kn_parallel(small ? 1 : threads, p.m_tasks * p.n_tasks, task<Engine>, &p);
}

}  // namespace
}  // namespace kn::flat_gemm
