// The loops around the engines of flat_gemm when weights are sparse, and the rows made of them. Everything is static
// per file (see avx512.h).
//
// A task is some panels; inside, runs of active k. `gemv` expands weights in registers, once per tile of rows. `flat`
// expands a block of `step` panels to the worker's scratch, where it is a block of flat_gemm, and passes every row over
// it. Sums are the chains of flat_gemm, so the bits are those of its rows of the same target on the dense weights.
#pragma once
#include <flat_gemm/flat_gemm_drive.h>
#include <launch.h>

#include "sparse_linear_registers.h"
#include "sparse_linear_sets.h"

namespace kn::sparse_linear {
namespace {

using flat_gemm::round_up;
using flat_gemm::smaller;

inline int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

constexpr int64_t kMostRows = 256;  // of a block of flat: accumulators of four panels fill a quarter of L2

// The hardware loses streams whose steps are uneven: gemv asks for values so many elements of k before it needs them,
// or so many bytes for all panels of a step if those are fewer.
constexpr int64_t kMostAhead = 256, kMostAheadBytes = 8192, kMostAheadByL2 = 6144;

// By way of L2 every turn asks twice, which pays for four panels where it reads so many bytes of values: of more rows
// than two, more.
constexpr double kByL2Bytes = 48, kByL2BytesOfRows = 72;

// That draws most from memory for one core, whose requests are what is short. Several cores wait for memory, and it is
// faster at one long stream from each: they ask for all of the next step of panels instead, which waits in L2 if it is
// no larger than this. Four panels of more rows wait for products.
constexpr int64_t kMostStreamed = 320 << 10;

// Panels of a task of gemv: as many as leave every worker so many tasks, since a task begins anew for memory.
constexpr int64_t kMostPanels = 32, kTasksPerWorker = 4;

struct sparse_plan {
  flat_gemm::plan flat;
  sparse_panels at;
  active_sets sets;
  int64_t expanded_stride;  // bytes from panel to panel in scratch; 0 for gemv
  int64_t ahead;            // elements of k, a multiple of kBlock
  bool two_lines;           // see sparse_multiplication
  bool one_stream;          // see kMostStreamed
  bool by_l2;               // see kn_few_l1_misses
  int64_t workers;

  const char* packed() const { return static_cast<const char*>(flat.args->packed); }
  const char* values(int64_t panel, int64_t k) const {
    const int64_t* offsets = reinterpret_cast<const int64_t*>(packed());
    return packed() + at.values_at + offsets[panel * at.blocks + k / kBlock] * at.element;
  }
  const char* bits(int64_t panel, int64_t k) const { return packed() + at.bits_at + (panel * at.k_padded + k) * 2; }

  // The panels that the worker of those at `position` will want next: workers take tasks in turns, more or less. The
  // same ones if there are no more.
  int64_t later(int64_t position, int64_t step) const {
    const int64_t task = position / flat.block_n, beside = position + step;
    const int64_t next = beside / flat.block_n == task ? beside : (task + workers) * flat.block_n;
    return next + step <= sets.active ? next : position;
  }
};

inline void fetch(const char* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(from + i, _MM_HINT_T0);
}

template <class Engine>
void gemv_step(const sparse_plan& p, int64_t position, int64_t step, char* acc, int64_t ld) {
  const int64_t m = p.flat.args->m, most = kRows[flat_gemm::panel_slot(step)], tiles = (m + most - 1) / most;
  const int64_t next = p.later(position, step), after = p.later(next, step);
  for (int64_t j = 0; j < step; j++) {
    const char* offsets = p.packed() + p.sets.panel(after + j) * p.at.blocks * 8;
    fetch(offsets, 64);
    fetch(offsets + p.at.blocks * 8 - 8, 8);
  }
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t r0 = m * t / tiles;
    sparse_multiplication<typename Engine::x_t> r{};
    r.rows = m * (t + 1) / tiles - r0, r.panels = step;
    r.ldx = p.flat.ldx;
    r.acc = acc + r0 * ld, r.ld = ld;
    r.first = true;
    r.two_lines = p.two_lines, r.by_l2 = p.by_l2;
    if (p.one_stream) {
      // Tiles of rows before the last will be followed by these panels again.
      const int64_t there = t + 1 == tiles ? next : position;
      r.next = p.values(there, 0), r.next_bits = p.bits(there, 0), r.next_bytes = p.values(there + step, 0) - r.next;
    }
    // A part of a run. Meanwhile it asks for values of the panels at `there` from the k `then` on.
    const auto multiply = [&](int64_t begin, int64_t end, int64_t there, int64_t then) {
      if (begin == end) return;
      for (int64_t j = 0; j < step; j++) {
        const int64_t panel = p.sets.panel(position + j);
        r.values[j] = p.values(panel, begin), r.bits[j] = p.bits(panel, begin);
        r.ahead[j] = p.values(p.sets.panel(there + j), then) - r.values[j];
      }
      r.x = static_cast<const typename Engine::x_t*>(p.flat.x) + r0 * p.flat.ldx + begin;
      r.length = end - begin;
      Engine::multiply_sparse(p.flat.problem->w_type, r);
      r.first = false;
    };
    for (int64_t i = 0; i < p.sets.run_count; i++) {
      const run active = p.sets.active_run(i);
      const bool last = i + 1 == p.sets.run_count;
      const int64_t cut = p.one_stream ? active.begin : larger(active.begin, (active.end - p.ahead) / kBlock * kBlock);
      multiply(active.begin, cut, position, active.begin + p.ahead);
      const int64_t there = last && t + 1 == tiles ? next : position, then = p.sets.active_run(last ? 0 : i + 1).begin;
      for (int64_t j = 0; j < step; j++) fetch(p.bits(p.sets.panel(there + j), then), kBitsAhead);
      multiply(cut, active.end, there, then);
    }
  }
}

// One block of k of `step` panels, expanded at w, for some rows.
template <class Engine>
void multiply_block(Engine& engine, const sparse_plan& p, const char* w, int64_t w_stride, int64_t k0, int64_t length,
                    int64_t step, int64_t row0, int64_t rows, char* acc, int64_t ld, bool first) {
  using x_t = typename Engine::x_t;
  const int64_t most = Engine::row_tile(step), tiles = (rows + most - 1) / most;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t r0 = Engine::kWholeTiles ? t * most : rows * t / tiles;
    const int64_t r1 = Engine::kWholeTiles ? smaller(rows, r0 + most) : rows * (t + 1) / tiles;
    flat_gemm::multiplication<x_t> r{};
    r.rows = r1 - r0, r.panels = step, r.length = length;
    r.x = static_cast<const x_t*>(p.flat.x) + (row0 + r0) * p.flat.ldx + k0, r.ldx = p.flat.ldx;
    r.w = w, r.w_stride = w_stride;
    r.acc = acc + r0 * ld, r.ld = ld;
    r.first = first;
    r.fetch.from = w;
    engine.multiply(r);
  }
}

template <class Engine>
void flat_step(Engine& engine, const sparse_plan& p, int64_t position, int64_t step, int64_t row0, int64_t rows,
               char* acc, int64_t ld, char* scratch) {
  const kn_flat_gemm_problem& q = *p.flat.problem;
  char* unpacked = scratch + p.flat.step * p.expanded_stride;
  const int64_t unpacked_stride = p.flat.block_k * Engine::kBytesPerK;
  bool first = true;
  for (int64_t i = 0; i < p.sets.run_count; i++) {
    const run active = p.sets.active_run(i);
    for (int64_t k0 = active.begin; k0 < active.end; k0 += p.flat.block_k, first = false) {
      const int64_t length = smaller(p.flat.block_k, active.end - k0);
      for (int64_t j = 0; j < step; j++) {
        const int64_t panel = p.sets.panel(position + j);
        char* to = scratch + j * p.expanded_stride;
        expand_panel(q.w_type, p.values(panel, k0), p.bits(panel, k0), length / p.at.step, to);
        if (Engine::unpacks(q.w_type))
          engine.unpack(j, q.w_type, 0, to, unpacked + j * unpacked_stride, length, nullptr);
      }
      const bool unpacks = Engine::unpacks(q.w_type);
      multiply_block(engine, p, unpacks ? unpacked : scratch, unpacks ? unpacked_stride : p.expanded_stride, k0, length,
                     step, row0, rows, acc, ld, first);
    }
  }
}

template <class Engine, bool kGemv>
void task(void* context, int64_t index, int32_t worker) {
  const sparse_plan& p = *static_cast<const sparse_plan*>(context);
  const int64_t pair = (p.flat.problem->flags & KN_GEMM_GATED) ? 2 : 1;
  const int64_t n_task = index / p.flat.m_tasks, row0 = index % p.flat.m_tasks * p.flat.block_m;
  const int64_t rows = smaller(p.flat.args->m - row0, p.flat.block_m);
  const int64_t begin = n_task * p.flat.block_n, end = smaller(p.at.count, begin + p.flat.block_n);
  const int64_t ld = (end - begin) * 64;
  char* acc = p.flat.scratch + worker * p.flat.scratch_bytes;
  if (p.sets.run_count == 0) memset(acc, 0, static_cast<size_t>(rows * ld));
  Engine engine;
  engine.enter();
  const int64_t active = smaller(end, p.sets.active);
  for (int64_t at = begin, step; at < active; at += step) {
    for (step = p.flat.step; step > active - at; step /= 2) {
    }
    if constexpr (kGemv)
      gemv_step<Engine>(p, at, step, acc + (at - begin) * 64, ld);
    else
      flat_step(engine, p, at, step, row0, rows, acc + (at - begin) * 64, ld, acc + p.flat.accumulator_bytes);
  }
  engine.leave();
  // What was not computed is masked out there.
  for (int64_t at = begin; at < end; at += pair)
    flat_gemm::write_out<Engine>(p.flat, acc + (at - begin) * 64, ld, row0, rows, p.sets.panel(at), pair);
}

template <class Engine, bool kGemv>
sparse_plan sizes(const kn_sparse_linear_problem& q, int64_t m, int64_t step, int64_t block_k) {
  sparse_plan p{};
  p.at = panels_of(q);
  p.flat =
      flat_gemm::sizes<Engine>(q.layer, m, step, block_k, kGemv ? 0 : kMostRows, kGemv ? kMostPanels : step, kGemv);
  p.flat.at.scales_at = p.at.scales_at;
  p.flat.at.sums_at = p.at.sums_at;
  const int64_t weights = larger(1, p.at.count * kPanel * p.at.k_padded);
  const double density = static_cast<double>(q.nnz) / static_cast<double>(weights);
  const double per_k = static_cast<double>(kPanel * p.at.element * step) * density;  // bytes of a step
  p.two_lines = density > 0.56;  // a word of bits has more than a line of values
  p.by_l2 = kn_few_l1_misses() != 0 && step == 4 &&
            density * bytes_of_turn(q.layer.w_type) >= (m <= 2 ? kByL2Bytes : kByL2BytesOfRows);
  const int64_t most_ahead = p.by_l2 ? kMostAheadByL2 : kMostAheadBytes;
  p.ahead = kMostAhead * per_k < most_ahead
                ? kMostAhead
                : larger(kBlock, static_cast<int64_t>(most_ahead / per_k) / kBlock * kBlock);
  p.one_stream = (per_k + 2.0 * static_cast<double>(step)) * static_cast<double>(p.at.k_padded) < kMostStreamed;
  p.expanded_stride = kGemv ? 0 : round_up(p.flat.block_k * p.flat.raw, 64);
  p.flat.scratch_bytes += p.flat.step * p.expanded_stride;
  return p;
}

template <class Engine, bool kGemv>
int64_t workspace_of(const kn_sparse_linear_problem& q, int32_t threads, int64_t step, int64_t block_k) {
  const sparse_plan p = sizes<Engine, kGemv>(q, q.layer.m, step, block_k);
  return flat_gemm::x_bytes<Engine>(p.flat, q.layer.m) + sets_bytes(q, p.at, q.layer.m) +
         kn_workers(threads) * p.flat.scratch_bytes;
}

template <class Engine, bool kGemv>
void drive(const kn_sparse_linear_problem& q, const kn_sparse_linear_args& a, int32_t threads, int64_t step,
           int64_t block_k) {
  sparse_plan p = sizes<Engine, kGemv>(q, a.call.m, step, block_k);
  kn_flat_gemm_args call = a.call;
  char* workspace = static_cast<char*>(call.workspace);
  char* sets = workspace + flat_gemm::x_bytes<Engine>(p.flat, call.m);
  p.flat.problem = &q.layer;
  p.flat.args = &call;
  p.workers = threads;
  p.flat.outputs = (q.sets & KN_SPARSE_OUTPUTS) ? a.outputs : nullptr;
  p.flat.scratch = sets + sets_bytes(q, p.at, call.m);
  p.sets = sets_of(q, a, p.at, sets, &call);
  // An engine that shifts x takes the shift off by the sums over all of k, so it has to read all of k.
  if constexpr (Engine::kInteger)
    if (Engine::kOffset != 0 && p.sets.runs != nullptr) p.sets.runs = nullptr, p.sets.run_count = 1;
  flat_gemm::read_x<Engine>(p.flat, workspace, sets, threads);
  if constexpr (kGemv) {
    const int64_t least = round_up(step, (q.layer.flags & KN_GEMM_GATED) ? 2 : 1);
    p.flat.block_n =
        smaller(p.flat.block_n, larger(least, p.sets.active / (threads * kTasksPerWorker) / least * least));
    p.flat.n_tasks = (p.at.count + p.flat.block_n - 1) / p.flat.block_n;
    p.one_stream = p.one_stream && threads > 1 && q.sets == 0 && (step < 4 || call.m <= kFewRows);
    p.by_l2 = kn_few_l1_misses() != 0 && (p.one_stream || p.by_l2);
  }
  const bool small = p.at.count * kPanel * p.at.k_padded * call.m < flat_gemm::kSmall;
  kn_parallel(small ? 1 : threads, p.flat.m_tasks * p.flat.n_tasks, task<Engine, kGemv>, &p);
}

inline constexpr kn_param gemv_params[] = {{"panels", 3, {4, 2, 1}}};
inline constexpr kn_param flat_params[] = {{"panels", 3, {4, 2, 1}}, {"block_k", 4, {1024, 512, 256, 2048}}};

// A row of the engines of File, which has what flat_gemm_rows.h asks of it.
template <class File, bool kGemv>
struct row_of {
  static constexpr const kn_param* kParams = kGemv ? gemv_params : flat_params;
  static constexpr int kCount = kGemv ? 1 : 2;

  static int32_t accepts(const void* problem, const kn_launch* launch, const char** why) {
    const kn_sparse_linear_problem& p = *static_cast<const kn_sparse_linear_problem*>(problem);
    if (!valid(&p, launch, why)) return 0;
    if (!File::takes(p.layer, why)) return 0;
    const bool launch_params_are_listed = params_listed(kParams, kCount, launch);
    KN_REQUIRE(launch_params_are_listed);
    if (kGemv) KN_REQUIRE(p.layer.m <= 32);
    return 1;
  }

  static int64_t block_k(const kn_launch* launch) { return kGemv ? 0 : param(kParams, launch, 1); }

  static int64_t workspace(const void* problem, const kn_launch* launch) {
    const kn_sparse_linear_problem& p = *static_cast<const kn_sparse_linear_problem*>(problem);
    int64_t bytes = 0;
    File::with_engine(p.layer, [&]<class Engine>() {
      bytes = workspace_of<Engine, kGemv>(p, launch->threads, param(kParams, launch, 0), block_k(launch));
    });
    return bytes;
  }

  static int32_t run(const void* problem, const kn_launch* launch, const void* args) {
    const kn_sparse_linear_problem* p = static_cast<const kn_sparse_linear_problem*>(problem);
    const kn_sparse_linear_args* a = static_cast<const kn_sparse_linear_args*>(args);
    const char* why = nullptr;
    if (p == nullptr || launch == nullptr) return kn_fail(KN_INVALID, "problem, launch: is null");
    if (!accepts(p, launch, &why)) return kn_fail(KN_UNSUPPORTED, why);
    kn_launch l = *launch;
    l.threads = kn_workers(l.threads);
    if (const int32_t status = check(p, a, workspace(p, &l)); status != KN_OK) return status;
    if (a->call.m == 0 || p->layer.n == 0) return KN_OK;
    File::with_engine(
        p->layer, [&]<class Engine>() { drive<Engine, kGemv>(*p, *a, l.threads, param(kParams, &l, 0), block_k(&l)); });
    return KN_OK;
  }

  static constexpr kn_row row(const char* name, uint32_t needs) {
    return {.name = name,
            .op = KN_OP_SPARSE_LINEAR,
            .needs = needs,
            .bits = File::kBits,
            .params = kParams,
            .param_count = kCount,
            .reserved = 0,
            .accepts = accepts,
            .workspace = workspace,
            .layout = layout,
            .packed_bytes = packed_bytes,
            .prepack = prepack,
            .run = run};
  }
};

}  // namespace
}  // namespace kn::sparse_linear
