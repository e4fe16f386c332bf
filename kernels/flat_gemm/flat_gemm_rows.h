// The three dataflows of a target as rows. File names what an ISA file has to say:
//   takes(problem, why)             what its engines can read
//   with_engine(problem, function)  calls function.template operator()<Engine>() for the engine of this problem
//   kBits                           tag of kn_row.bits
#pragma once
#include <launch.h>

#include "flat_gemm_drive.h"

namespace kn::flat_gemm {
namespace {

enum dataflow { gemv, flat, block };

// gemv   all of k in one pass, weights decoded in registers, many panels at a time: as many streams from memory
// flat   every row of x passes over a block of weights while that is in L1 or L2; weights leave memory once
// block  blocks of rows as well, so that x and the accumulators stay in L2 at any m
inline constexpr kn_param gemv_params[] = {{"panels", 4, {4, 8, 2, 1}}};
inline constexpr kn_param flat_params[] = {{"panels", 3, {4, 2, 1}}, {"block_k", 4, {1024, 512, 256, 2048}}};
inline constexpr kn_param block_params[] = {{"panels", 2, {4, 2}},
                                            {"block_k", 3, {512, 256, 1024}},
                                            {"block_m", 3, {192, 96, 384}},
                                            {"block_n", 3, {16, 8, 32}}};

struct blocks {
  int64_t step, k, m, n;
  bool decode;
};

inline blocks blocks_of(dataflow flow, const kn_param* params, const kn_launch* launch) {
  const int64_t step = param(params, launch, 0);
  switch (flow) {
    case gemv:
      return {step, 0, 0, step, true};
    case flat:
      return {step, param(params, launch, 1), 0, step, false};
    default:
      return {step, param(params, launch, 1), param(params, launch, 2), param(params, launch, 3), false};
  }
}

template <class File, dataflow Flow, const kn_param* Params, int Count>
struct row_of {
  static int32_t accepts(const void* problem, const kn_launch* launch, const char** why) {
    const kn_flat_gemm_problem& p = *static_cast<const kn_flat_gemm_problem*>(problem);
    if (!valid(&p, launch, why)) return 0;
    if (!File::takes(p, why)) return 0;
    const bool launch_params_are_listed = params_listed(Params, Count, launch);
    KN_REQUIRE(launch_params_are_listed);
    if (Flow == gemv) KN_REQUIRE(p.m <= 16);
    if (Flow == flat) KN_REQUIRE(p.m <= 512);
    return 1;
  }

  static int64_t workspace(const void* problem, const kn_launch* launch) {
    const kn_flat_gemm_problem& p = *static_cast<const kn_flat_gemm_problem*>(problem);
    int64_t bytes = 0;
    const blocks b = blocks_of(Flow, Params, launch);
    File::with_engine(
        p, [&]<class Engine>() { bytes = workspace_of<Engine>(p, launch->threads, b.step, b.k, b.m, b.n, b.decode); });
    return bytes;
  }

  static int32_t run(const void* problem, const kn_launch* launch, const void* args) {
    const kn_flat_gemm_problem* p = static_cast<const kn_flat_gemm_problem*>(problem);
    const kn_flat_gemm_args* a = static_cast<const kn_flat_gemm_args*>(args);
    const char* why = nullptr;
    if (p == nullptr || launch == nullptr) return kn_fail(KN_INVALID, "problem, launch: is null");
    if (!accepts(p, launch, &why)) return kn_fail(KN_UNSUPPORTED, why);
    kn_launch l = *launch;
    l.threads = kn_workers(l.threads);
    if (const int32_t status = check(p, a, panels_of(*p).total, workspace(p, &l)); status != KN_OK) return status;
    if (a->m == 0 || p->n == 0) return KN_OK;
    const blocks b = blocks_of(Flow, Params, &l);
    File::with_engine(*p, [&]<class Engine>() { drive<Engine>(*p, *a, l.threads, b.step, b.k, b.m, b.n, b.decode); });
    return KN_OK;
  }

  static constexpr kn_row row(const char* name, uint32_t needs) {
    return {.name = name,
            .op = KN_OP_FLAT_GEMM,
            .needs = needs,
            .bits = File::kBits,
            .params = Params,
            .param_count = Count,
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
}  // namespace kn::flat_gemm
