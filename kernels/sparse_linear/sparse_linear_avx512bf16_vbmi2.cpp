// Rows for machines with vdpbf16ps and vpexpandw (Sapphire Rapids, Zen 4 and later), x in bf16.
#include <flat_gemm/flat_gemm_avx512bf16.h>

#include "sparse_linear_drive.h"

namespace kn::sparse_linear {
namespace {

using flat_gemm::as_is;
using flat_gemm::dot_bf16;

struct engine : flat_gemm::bf16_engine {
  static void multiply_sparse(int32_t w_type, const sparse_multiplication<uint16_t>& r) {
    if (w_type == KN_S8) return multiply_expanded<dot_bf16, expand_s8, flat_gemm::s8_to_bf16>(r);
    return multiply_expanded<dot_bf16, expand_bf16, as_is<dot_bf16>>(r);
  }
};

struct avx512bf16 {
  static constexpr const char* kBits = "avx512bf16";

  static bool takes(const kn_flat_gemm_problem& p, const char** why) {
    KN_REQUIRE(p.x_type == KN_BF16);
    KN_REQUIRE(p.w_type == KN_BF16 || p.w_type == KN_S8);
    KN_REQUIRE((p.flags & KN_GEMM_QUANTIZE_X) == 0);
    return true;
  }

  template <class F>
  static void with_engine(const kn_flat_gemm_problem&, F f) {
    f.template operator()<engine>();
  }
};

constexpr uint32_t kNeeds = KN_CPU_AVX512 | KN_CPU_AVX512BF16 | KN_CPU_AVX512VBMI2;

}  // namespace
}  // namespace kn::sparse_linear

using namespace kn::sparse_linear;
extern "C" const kn_row sparse_linear_avx512bf16_gemv =
    row_of<avx512bf16, true>::row("sparse_linear/avx512bf16_gemv", kNeeds);
extern "C" const kn_row sparse_linear_avx512bf16_flat =
    row_of<avx512bf16, false>::row("sparse_linear/avx512bf16_flat", kNeeds);
