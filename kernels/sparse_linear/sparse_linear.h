// flat_gemm with unstructured sparse weights: y = act(x . w^T + bias) (+ residual), gated alike, where few elements of
// w are stored. The others are zeros that multiply: NaN or infinity in a row of x spoils that row, as in the dense
// product. After SparAMX (arXiv 2502.12444): a bit per weight and the non-zeros in the order of the tiles, so that
// fewer bytes leave memory; nothing is skipped in the arithmetic.
//
// A call may bring sets of active outputs and inputs (neurons that ReLU^2 or a router left alive). An output that is
// not active is 0, and the residual is still added. An input that is not active counts as 0, whatever x holds there.
// Weights of those are not read where whole panels of 16 outputs, or 64 inputs from a multiple of 64 on, are not
// active; a row that shifts an integer x (avx512) still reads those of all inputs.
#pragma once
#include <flat_gemm/flat_gemm.h>

enum {
  KN_SPARSE_OUTPUTS = 1 << 0,  // args.outputs
  KN_SPARSE_INPUTS = 1 << 1,   // args.inputs
};

// What the choice depends on. layer.w_type is f32, bf16, f16 or s8, with the x and y of flat_gemm's table; no u4.
typedef struct kn_sparse_linear_problem {
  uint32_t size;
  int32_t sets;  // KN_SPARSE_*
  kn_flat_gemm_problem layer;
  int64_t nnz;  // weights that are stored: those whose bits are not all 0, so -0 is one of them
} kn_sparse_linear_problem;

// What changes per call. call.packed is read as prepack wrote it: its content is trusted, as a pointer is, so who reads
// it from a file must hold it to the layout first (sparse_linear_panel.h). call.w is dense and read by prepack alone.
typedef struct kn_sparse_linear_args {
  uint32_t size;
  int32_t reserved;
  kn_flat_gemm_args call;
  const uint64_t* outputs;  // [ceil(n/64)], with OUTPUTS: bit j of word i is output 64 i + j; bits beyond n are ignored
  const uint64_t* inputs;   // [ceil(k/64)], with INPUTS, likewise
} kn_sparse_linear_args;
