// An engine as a row of the table. File names what an ISA file has to say:
//   takes(problem, why)             what its engines can read
//   with_engine(problem, function)  calls function.template operator()<Engine>() for the engine of this problem
#pragma once
#include <launch.h>

#include "decode_attention_drive.h"

namespace kn::decode_attention {
namespace {

// split: keys of a sequence that one task reads, at most; heads: kv heads that it walks together, at most.
inline constexpr kn_param params[] = {
    {"softmax", 4, {KN_SOFTMAX_LAZY, KN_SOFTMAX_SYNC, KN_SOFTMAX_UNIFIED, KN_SOFTMAX_BOUNDED}},
    {"split", 8, {2048, 512, 1024, 4096, 8192, 16384, 65536, 1 << 28}},
    {"heads", 4, {kMostHeads, 1, 2, 4}}};
inline constexpr int kParams = 3;

template <class Engine>
call call_of(const kn_decode_attention_problem& p, const kn_launch& launch) {
  call c{};
  c.problem = &p;
  c.softmax = static_cast<kn_softmax>(param(params, &launch, 0));
  c.split = param(params, &launch, 1);
  c.group = p.q_heads / p.kv_heads;
  c.rows = smaller(kRows, p.q_len * c.group);
  c.q_row = Engine::q_bytes(p.head_dim);
  c.out_row = Engine::out_row(p);
  // What need not be converted is copied only where L1 waits for too few lines to read it where it lies, and there
  // loops over a width that is known are faster still. By lanes a sum has another order than that of few rows.
  if constexpr (Engine::kByLanes)
    if (lanes_for(c.rows) > 0 && !(p.flags & KN_ATTN_INVARIANT) &&
        (Engine::kConverts || (kn_few_l1_misses() != 0 && !has_width<Engine>(p.head_dim))))
      c.lane_rows = round_up(c.rows, 16), c.copies = copies_of<Engine>(p.head_dim);
  if constexpr (requires { typename Engine::key_steps; })
    if (c.lane_rows == 0) c.pads = Engine::kAsStored ? kPads : kPadsFew;
  c.rows = padded(c.pads, c.rows);
  c.heads = smaller(smaller(param(params, &launch, 2), p.kv_heads), larger(8, kManySums / (c.rows * c.out_row * 4)));
  work w;
  c.scratch_bytes = lay_out(c, nullptr, &w);
  return c;
}

struct table_sizes {
  int64_t tables, norms, parts, total;  // bytes, and rows of partial sums
};

inline table_sizes sizes_of(const call& c, int32_t threads) {
  const kn_decode_attention_problem& p = *c.problem;
  table_sizes z{};
  z.tables = round_up((p.batch + int64_t{1}) * 8, 64);
  z.norms = by_norms(p, c.softmax) ? round_up(int64_t{4} * p.batch * p.kv_heads, 64) : 0;
  z.parts = times(most_parts(c, threads), int64_t{p.q_heads} * p.q_len);
  z.total = plus(plus(3 * z.tables + z.norms, times(z.parts, c.out_row * 4)),
                 plus(round_up(times(z.parts, 8), 64), threads * c.scratch_bytes));
  return z;
}

// Lays the tables into the workspace and fills them.
inline void prepare(call& c, int32_t threads) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const table_sizes z = sizes_of(c, threads);
  char* at = static_cast<char*>(a.workspace);
  c.order = reinterpret_cast<int64_t*>(at);
  c.first_item = reinterpret_cast<int64_t*>(at += z.tables);
  c.first_part = reinterpret_cast<int64_t*>(at += z.tables);
  c.norms = reinterpret_cast<float*>(at += z.tables);
  c.part_sums = reinterpret_cast<float*>(at += z.norms);
  c.part_marks = reinterpret_cast<float*>(at += z.parts * c.out_row * 4);
  c.scratch = at + round_up(z.parts * 8, 64);
  share(c, threads);
  put_in_order(c);
  int64_t items = 0, parts = 0;
  for (int64_t i = 0; i < a.batch; i++) {
    const sequence s = sequence_of(p, a, c.order[i]);
    const int64_t n = splits_of(c, s);
    c.first_item[i] = items, c.first_part[s.index] = parts;
    items += n * c.head_blocks;
    parts += n > 1 ? n * p.q_heads * s.tokens : 0;
  }
  c.first_item[a.batch] = items;
}

inline void set_rules(call& c, float unit) {
  const kn_decode_attention_problem& p = *c.problem;
  const float scale = c.args->scale * unit;
  c.scale2 = scale * kLog2e;
  c.cap2 = p.softcap * kLog2e;
  c.cap_in = p.softcap > 0 ? scale / p.softcap : 0;
  c.by_l2 = kn_few_l1_misses() != 0;
  c.plain = p.softcap == 0 && (p.flags & (KN_ATTN_ALIBI | KN_ATTN_SCALES)) == 0;
}

template <class Engine>
void drive(call& c, int32_t threads) {
  set_rules(c, Engine::kUnit);
  prepare(c, threads);
  if (by_norms(*c.problem, c.softmax)) kn_parallel(c.workers, c.args->batch, find_norms, &c);
  kn_parallel(c.workers, c.first_item[c.args->batch], task<Engine>, &c);
  bool all_done = true;
  for (int64_t i = 0; i < c.args->batch; i++) all_done &= c.first_item[i + 1] - c.first_item[i] == c.head_blocks;
  if (!all_done) kn_parallel(c.workers, int64_t{c.args->batch} * c.problem->kv_heads, combine<Engine>, &c);
}

template <class File>
struct row_of {
  static int64_t workspace(const void* problem, const kn_launch* launch) {
    const kn_decode_attention_problem& p = *static_cast<const kn_decode_attention_problem*>(problem);
    int64_t bytes = 0;
    File::with_engine(
        p, [&]<class Engine>() { bytes = sizes_of(call_of<Engine>(p, *launch), kn_workers(launch->threads)).total; });
    return bytes;
  }

  static int32_t accepts(const void* problem, const kn_launch* launch, const char** why) {
    const kn_decode_attention_problem& p = *static_cast<const kn_decode_attention_problem*>(problem);
    if (!valid(&p, launch, why)) return 0;
    if (!File::takes(p, why)) return 0;
    const bool launch_params_are_listed = params_listed(params, kParams, launch);
    KN_REQUIRE(launch_params_are_listed);
    const int64_t softmax = param(params, launch, 0);
    KN_REQUIRE(softmax != KN_SOFTMAX_UNIFIED || (p.flags & KN_ATTN_PHI) != 0);
    KN_REQUIRE(softmax != KN_SOFTMAX_BOUNDED || (p.softcap > 0 && p.softcap <= 60) || (p.flags & KN_ATTN_NORMS) != 0);
    const int64_t workspace_bytes = workspace(problem, launch);
    KN_REQUIRE(workspace_bytes < kMost);
    return 1;
  }

  static int32_t run(const void* problem, const kn_launch* launch, const void* args) {
    const kn_decode_attention_problem* p = static_cast<const kn_decode_attention_problem*>(problem);
    const kn_decode_attention_args* a = static_cast<const kn_decode_attention_args*>(args);
    const char* why = nullptr;
    if (p == nullptr || launch == nullptr) return kn_fail(KN_INVALID, "problem, launch: is null");
    if (!accepts(p, launch, &why)) return kn_fail(KN_UNSUPPORTED, why);
    kn_launch l = *launch;
    l.threads = kn_workers(l.threads);
    if (const int32_t status = check(p, a, workspace(p, &l)); status != KN_OK) return status;
    // Without a token nothing else of the arguments was looked at.
    if (a->batch == 0 || (a->q_start != nullptr ? a->q_start[a->batch] : a->q_len) == 0) return KN_OK;
    File::with_engine(*p, [&]<class Engine>() {
      call c = call_of<Engine>(*p, l);
      c.args = a;
      drive<Engine>(c, l.threads);
    });
    return KN_OK;
  }

  static constexpr kn_row row(const char* name, const char* bits, uint32_t needs) {
    return {.name = name,
            .op = KN_OP_DECODE_ATTENTION,
            .needs = needs,
            .bits = bits,
            .params = params,
            .param_count = kParams,
            .reserved = 0,
            .accepts = accepts,
            .workspace = workspace,
            .layout = nullptr,
            .packed_bytes = nullptr,
            .prepack = nullptr,
            .run = run};
  }
};

}  // namespace
}  // namespace kn::decode_attention
