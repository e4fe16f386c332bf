// Packed weights of flat_gemm: panels of 16 output columns, each contiguous along k. One layout serves the AVX-512 and
// the AMX rows, so a plan may change rows with m and keep one copy of the weights.
//
//   f32    [k][16]            one zmm per k
//   f16    [k][16]            one ymm per k
//   bf16   [k/2][16][2]       one zmm per pair of k: a row of a VNNI tile, and an operand of vdpbf16ps
//   s8     [k/4][16][4]       one zmm per four k: a row of a VNNI tile, and an operand of vpdpbusd
//   u4     [k/8][16][2] u16   one zmm per eight k: nibble t of word [n][i] is k = 8 b + 2 t + i, so a shift by 4 t and
//   a
//                             mask leave the pair order of bf16
//
// k is padded with zeros (u4: with the zero point) to k_padded, n with zero columns to whole panels. Gated weights
// alternate a panel of the gate with the panel of up for the same columns. Behind the panels, each 64-byte aligned:
//   scales  s8: f32 [panel][16]    u4: f32 [panel][groups][16]
//   zeros   u4: u8 [panel][groups][16]
//   sums    s8: s32 [panel][16], the sum of a column over k (vpdpbusd wants x + 128: 128 * sum is taken off again)
#pragma once
#include <require.h>

#include "flat_gemm.h"

namespace kn::flat_gemm {

constexpr int kPanel = 16;

struct panels {
  int64_t count;     // 16-column panels, both of a gated pair counted
  int64_t k_padded;  // f32, f16: k; bf16: to 32; s8: to 64; u4: to the group
  int64_t bytes;     // of one panel
  int64_t groups;    // scales of a column: u4 ceil(k/group), s8 1, otherwise 0
  int64_t scales_at, zeros_at, sums_at, total;
};

// No dimension and no stride is longer, so that a size in bits, of gated f32 weights too, fits in 63 bits: 2^(29 + 28 +
// 5).
constexpr int64_t kLongest = int64_t{1} << 28;

namespace {
// Static, as everything that files of different instruction sets share.
inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
}  // namespace

panels panels_of(const kn_flat_gemm_problem& problem);

// Column `lane` of panel `panel` is this row of w; -1 beyond n.
int64_t source_row(const kn_flat_gemm_problem& problem, int64_t panel, int64_t lane);

// The rules of the operation itself, the same for every row. 1, or 0 with the broken rule.
int32_t valid(const kn_flat_gemm_problem* problem, const kn_launch* launch, const char** why);

// The rules of one call of a row that reads packed weights of so many bytes, or w itself (packed < 0). KN_OK or
// KN_INVALID.
int32_t check(const kn_flat_gemm_problem* problem, const kn_flat_gemm_args* args, int64_t packed, int64_t workspace);

// Whether y shares no byte with what lies here.
bool y_apart(const kn_flat_gemm_problem& problem, const kn_flat_gemm_args& args, const void* at, int64_t bytes);

// Members of kn_row, shared by every row that reads panels.
const char* layout(const void* problem);
int64_t packed_bytes(const void* problem);
int32_t prepack(const void* problem, const void* args);

}  // namespace kn::flat_gemm
