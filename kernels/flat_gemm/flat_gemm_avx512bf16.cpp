// Rows for machines with vdpbf16ps (Cooper Lake, Sapphire Rapids, Zen 4 and later), x in bf16.
#include "flat_gemm_avx512bf16.h"

#include "flat_gemm_rows.h"

namespace kn::flat_gemm {
namespace {

struct avx512bf16 {
  static constexpr const char* kBits = "avx512bf16";

  static bool takes(const kn_flat_gemm_problem& p, const char** why) {
    KN_REQUIRE(p.x_type == KN_BF16);
    KN_REQUIRE(p.w_type == KN_BF16 || p.w_type == KN_S8 || p.w_type == KN_U4);
    KN_REQUIRE((p.flags & KN_GEMM_QUANTIZE_X) == 0);
    return true;
  }

  template <class F>
  static void with_engine(const kn_flat_gemm_problem&, F f) {
    f.template operator()<bf16_engine>();
  }
};

}  // namespace
}  // namespace kn::flat_gemm

using namespace kn::flat_gemm;
extern "C" const kn_row flat_gemm_avx512bf16_gemv =
    row_of<avx512bf16, gemv, gemv_params, 1>::row("flat_gemm/avx512bf16_gemv", KN_CPU_AVX512 | KN_CPU_AVX512BF16);
extern "C" const kn_row flat_gemm_avx512bf16_flat =
    row_of<avx512bf16, flat, flat_params, 2>::row("flat_gemm/avx512bf16_flat", KN_CPU_AVX512 | KN_CPU_AVX512BF16);
extern "C" const kn_row flat_gemm_avx512bf16_block =
    row_of<avx512bf16, block, block_params, 4>::row("flat_gemm/avx512bf16_block", KN_CPU_AVX512 | KN_CPU_AVX512BF16);
