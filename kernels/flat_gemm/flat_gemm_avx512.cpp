// Rows for any AVX-512 machine with VNNI.
#include "flat_gemm_avx512.h"

#include "flat_gemm_rows.h"

namespace kn::flat_gemm {
namespace {

struct avx512 {
  static constexpr const char* kBits = "avx512";

  static bool takes(const kn_flat_gemm_problem& p, const char** why) {
    const bool integer = p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X);
    KN_REQUIRE(!integer || p.k <= 65536);  // 255 * 128 * k fits in 32 bits
    return true;
  }

  template <class F>
  static void with_engine(const kn_flat_gemm_problem& p, F f) {
    if (p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X))
      f.template operator()<s8_engine>();
    else
      f.template operator()<f32_engine>();
  }
};

}  // namespace
}  // namespace kn::flat_gemm

using namespace kn::flat_gemm;
extern "C" const kn_row flat_gemm_avx512_gemv =
    row_of<avx512, gemv, gemv_params, 1>::row("flat_gemm/avx512_gemv", KN_CPU_AVX512);
extern "C" const kn_row flat_gemm_avx512_flat =
    row_of<avx512, flat, flat_params, 2>::row("flat_gemm/avx512_flat", KN_CPU_AVX512);
extern "C" const kn_row flat_gemm_avx512_block =
    row_of<avx512, block, block_params, 4>::row("flat_gemm/avx512_block", KN_CPU_AVX512);
