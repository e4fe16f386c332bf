// The argument of the GPU kernels of spgemm, one struct for all of them. Addresses are the device's.
//
//   spgemm_gpu_offsets, _columns       any grid, block of 256: marks operands that are not sound in counters[0]
//   spgemm_gpu_count                   grid (ceil(m / 256)), block of 256: products[i + 1] of each row, and most
//   spgemm_gpu_total                   any grid, block of 256: marks products that do not ascend to at most 2^60
//   spgemm_gpu_scan_tiles, _sums, _add grid (tiles), (1), (tiles), block of 256: scan[1 .. scan_count] to prefix sums
//                                      upon scan[0]; tiles = ceil(scan_count / 2048)
//   spgemm_gpu_bin                     grid (ceil(rows / 256)), block of 256: rows to `list` by their accumulator
//   spgemm_gpu_done                    grid (1), block of 1: rows_done
//   spgemm_gpu_<v>_<width>             any grid: rows of one accumulator; <v> structure f32 f64
//     <width>  threads of a row               table                       dynamic shared memory
//     lanes    8 of a block of 128            128 slots in shared memory  16 tables
//     wave     a wave of a block of 128       1024                        a table for each wave
//     block    a block of 256                 4096                        a table
//     device   a block of 256                 table_slots in `tables`     16; at most table_count blocks
//     ranges   a block of 256 for 2048        a sum for every column      4096 + 2048 (4 + v) + 1024 (4 + v), where a
//              columns of it                                              value has v bytes
// A table in shared memory is slots (4 + bytes of a value) + 2 slots + 16 bytes, in `tables` slots (4 + bytes).
#pragma once
#include "spgemm.h"

typedef enum kn_spgemm_step {
  KN_SPGEMM_STEP_COUNT = 0,   // c_offsets[i + 1] is the number of entries of row i
  KN_SPGEMM_STEP_FILL = 1,    // columns, sorted, and values
  KN_SPGEMM_STEP_VALUES = 2,  // values at the columns that are there
} kn_spgemm_step;

enum {
  KN_SPGEMM_GPU_TILE = 2048,           // elements that a block scans
  KN_SPGEMM_GPU_RANGE = 2048,          // columns of a giant row that a block takes
  KN_SPGEMM_GPU_MOST = 1 << 28,        // products, and mask entries, of a row
  KN_SPGEMM_GPU_MASKED_N = 1 << 30,    // n is below it where there is a mask: two bits of a key say more
  KN_SPGEMM_GPU_FAULT_PRODUCTS = 256,  // in counters[0], beside bit o for offsets of operand o and 16 << o for columns
};

typedef struct kn_spgemm_gpu {
  kn_csr a, b, mask, d;  // operands 0 1 2 3; offsets null: not there
  int64_t* products;     // [m + 1]
  int64_t* most;         // [1], 0 before count
  int64_t* c_offsets;    // [row_to - row_from + 1]
  void* c_columns;
  void* c_values;
  int64_t* rows_done;
  int64_t* scan;
  int64_t* tile_sums;  // [tiles]
  uint32_t* counters;  // [5]: faults; rows in the list of wave, block, device, ranges. 0 before offsets, or bin
  int32_t* list;  // [2 m]: rows of wave from the front, block from place m back, device from m on, ranges from 2 m back
  uint32_t* parts;  // [products / giant + 1][ranges]: entries of the ranges of a giant row
  char* tables;     // [table_count] for `device`
  int64_t scan_count;
  int64_t c_capacity;
  int64_t table_slots, table_count;
  int64_t ranges;  // of a giant row, ceil(n / 2048); 0: no row is
  int64_t giant;   // products that make it one, where shared memory does not hold it; then B is sorted
  int64_t row_from, row_to;
  int64_t m, k, n, a_nnz, b_nnz;
  int32_t semiring;     // kn_semiring
  int32_t flags;        // KN_SPGEMM_*
  int32_t step;         // kn_spgemm_step
  int32_t mask_bytes;   // of a value, with KN_SPGEMM_VALUED; 0: every entry of the mask counts
  int32_t index_bytes;  // of a column: 4, or 8 with m and n below 2^31
  int32_t reserved;
} kn_spgemm_gpu;
