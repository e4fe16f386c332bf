// Rows for AMX: a block of weights is expanded to scratch (128 KiB of bf16 by default), where each 1 KB of a panel
// is a tile.
#include <flat_gemm/flat_gemm_amx.h>

#include "sparse_linear_drive.h"

namespace kn::sparse_linear {
namespace {

struct amx {
  static constexpr const char* kBits = "amx";

  static bool takes(const kn_flat_gemm_problem& p, const char** why) {
    const bool integer = p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X);
    KN_REQUIRE(integer || p.x_type == KN_BF16);
    KN_REQUIRE(p.w_type == KN_BF16 || p.w_type == KN_S8);
    KN_REQUIRE(!integer || p.k < 131072);  // 128 * 128 * k fits in 31 bits
    return true;
  }

  template <class F>
  static void with_engine(const kn_flat_gemm_problem& p, F f) {
    if (p.x_type == KN_S8 || (p.flags & KN_GEMM_QUANTIZE_X))
      f.template operator()<flat_gemm::s8_engine>();
    else
      f.template operator()<flat_gemm::bf16_engine>();
  }
};

}  // namespace
}  // namespace kn::sparse_linear

using namespace kn::sparse_linear;
extern "C" const kn_row sparse_linear_amx_flat = row_of<amx, false>::row(
    "sparse_linear/amx_flat", KN_CPU_AVX512 | KN_CPU_AVX512BF16 | KN_CPU_AVX512VBMI2 | KN_CPU_AMX);
