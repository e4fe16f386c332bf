// Rows for AMX (Sapphire Rapids and later).
#include "flat_gemm_amx.h"

#include "flat_gemm_rows.h"

namespace kn::flat_gemm {
namespace {

struct amx {
  static constexpr const char* kBits = "amx";

  static bool takes(const kn_flat_gemm_problem& p, const char** why) {
    const bool integer = p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X);
    KN_REQUIRE(integer || p.x_type == KN_BF16);
    KN_REQUIRE(p.w_type == KN_BF16 || p.w_type == KN_S8 || p.w_type == KN_U4);
    KN_REQUIRE(!integer || p.k < 131072);  // 128 * 128 * k fits in 31 bits
    return true;
  }

  template <class F>
  static void with_engine(const kn_flat_gemm_problem& p, F f) {
    if (p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X))
      f.template operator()<s8_engine>();
    else
      f.template operator()<bf16_engine>();
  }
};

// The longer the run of k the rarer the sums go through memory; weights and x of a block share L2, and block_m is in
// tiles.
constexpr kn_param amx_flat_params[] = {{"panels", 2, {4, 2}}, {"block_k", 3, {1024, 2048, 512}}};
constexpr kn_param amx_block_params[] = {{"panels", 2, {2, 4}},
                                         {"block_k", 3, {1024, 2048, 512}},
                                         {"block_m", 3, {256, 512, 128}},
                                         {"block_n", 3, {16, 8, 32}}};
constexpr uint32_t kNeeds = KN_CPU_AVX512 | KN_CPU_AVX512BF16 | KN_CPU_AMX;

}  // namespace
}  // namespace kn::flat_gemm

using namespace kn::flat_gemm;
extern "C" const kn_row flat_gemm_amx_flat = row_of<amx, flat, amx_flat_params, 2>::row("flat_gemm/amx_flat", kNeeds);
extern "C" const kn_row flat_gemm_amx_block =
    row_of<amx, block, amx_block_params, 4>::row("flat_gemm/amx_block", kNeeds);
