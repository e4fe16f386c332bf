// Packed weights of sparse_linear: the panels of flat_gemm_panel.h with the zeros left out. An operand is what one dot
// product of a panel reads, [16][step] elements with step 1 for f32 and f16, 2 for bf16, 4 for s8; its bitmap has a bit
// per element in that order, and its non-zeros follow one another in the same order.
//
//   offsets  s64 [panel][block of 64 k], and one more: where the values of a block begin, in elements
//   bits     u16, u32 or u64 [panel][operand], so 2 bytes per element of k
//   scales, sums   s8, as in flat_gemm_panel.h
//   values   [nnz], without gaps, and 64 bytes that may be read and are not looked at
//
// Each part is 64-byte aligned. Bits of padding, beyond n and k, are 0. An offset per block lets any task start
// anywhere, and inputs that are not active be left out.
#pragma once
#include <flat_gemm/flat_gemm_panel.h>

#include "sparse_linear.h"

namespace kn::sparse_linear {

constexpr int64_t kBlock = 64;

struct sparse_panels {
  int64_t count, k_padded;  // as flat_gemm has them
  int64_t step;             // elements of k in an operand
  int64_t element;          // bytes
  int64_t blocks;           // of a panel
  int64_t bits_at, scales_at, sums_at, values_at, total;
};

sparse_panels panels_of(const kn_sparse_linear_problem& problem);

// As in flat_gemm_panel.h.
int32_t valid(const kn_sparse_linear_problem* problem, const kn_launch* launch, const char** why);
int32_t check(const kn_sparse_linear_problem* problem, const kn_sparse_linear_args* args, int64_t workspace);
const char* layout(const void* problem);
int64_t packed_bytes(const void* problem);
int32_t prepack(const void* problem, const void* args);

}  // namespace kn::sparse_linear
