// Rows for any AVX-512 machine with VNNI and VBMI2 (Ice Lake, Zen 4 and later).
#include <flat_gemm/flat_gemm_avx512.h>

#include "sparse_linear_drive.h"

namespace kn::sparse_linear {
namespace {

using flat_gemm::as_is;
using flat_gemm::dot_u8s8;
using flat_gemm::multiply_add;

struct f32_engine : flat_gemm::f32_engine {
  static void multiply_sparse(int32_t w_type, const sparse_multiplication<float>& r) {
    switch (w_type) {
      case KN_F32:
        return multiply_expanded<multiply_add, expand_f32, as_is<multiply_add>>(r);
      case KN_F16:
        return multiply_expanded<multiply_add, expand_f16, flat_gemm::f16_to_f32>(r);
      case KN_BF16:
        return multiply_expanded<multiply_add, expand_bf16, flat_gemm::bf16_to_f32>(r);
      default:
        return multiply_expanded<multiply_add, expand_s8, flat_gemm::s8_to_f32>(r);
    }
  }
};

struct s8_engine : flat_gemm::s8_engine {
  static void multiply_sparse(int32_t, const sparse_multiplication<uint8_t>& r) {
    multiply_expanded<dot_u8s8, expand_s8, as_is<dot_u8s8>>(r);
  }
};

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

constexpr uint32_t kNeeds = KN_CPU_AVX512 | KN_CPU_AVX512VBMI2;

}  // namespace
}  // namespace kn::sparse_linear

using namespace kn::sparse_linear;
extern "C" const kn_row sparse_linear_avx512_gemv = row_of<avx512, true>::row("sparse_linear/avx512_gemv", kNeeds);
extern "C" const kn_row sparse_linear_avx512_flat = row_of<avx512, false>::row("sparse_linear/avx512_flat", kNeeds);
