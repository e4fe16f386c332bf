// The argument of the GPU kernels that transpose a matrix of at most 2^32 rows and columns. Addresses are the device's.
//
//   transpose_gpu_count  any grid, block of 256: to_offsets[c + 2] counts the entries of column c; all are 0 before
//                        prefix sums (spgemm_gpu_scan_*) then say in to_offsets[c + 1] where column c begins
//   transpose_gpu_place  any grid, block of 256: keys, those of a column together; to_offsets[c + 1] is where it ends
//   transpose_gpu_wave   any grid, block of 128: orders and writes rows of the result, those of at most 512 entries
//   transpose_gpu_block  any grid, block of 256: the longer ones
#pragma once
#include "spgemm.h"

typedef struct kn_transpose_gpu {
  kn_csr from;          // [m, n]; values may be of any type
  int64_t* to_offsets;  // [n + 1]
  void* to_columns;     // [nnz]
  void* to_values;      // [nnz]
  uint64_t* keys;       // [nnz] row * 2^32 + place within it; sums of the tiles of the prefix sums are behind them
  int64_t m, n, nnz;
  int32_t index_bytes;  // of a column: 4 or 8
  int32_t value_bytes;  // any number; 0: a pattern
} kn_transpose_gpu;
