// C[m,n] = D (+) A[m,k] . B[k,n] in CSR over a semiring; a mask, structural or valued, may restrict the product.
// Every entry of C is zero (+) d (+) its products in the order of A's row, each product rounded before it is added: the
// bits of C depend on nothing else. The structure of C does not depend on values: explicit zeros stay.
#pragma once
#include <kn.h>

typedef enum kn_semiring {
  KN_PLUS_TIMES = 0,  // zero 0
  KN_MIN_PLUS = 1,    // zero +inf; a product that is NaN is never the smaller one
  KN_MAX_PLUS = 2,    // zero -inf
  KN_OR_AND = 3,      // zero 0; what is not 0 is true, and true is 1
  KN_PLUS_PAIR = 4,   // every product is 1; values of A and B are not read
} kn_semiring;

enum {
  KN_SPGEMM_MASK = 1 << 0,        // products outside the mask's entries are left out; entries of D are not
  KN_SPGEMM_COMPLEMENT = 1 << 1,  // with MASK: products at the mask's entries are left out
  KN_SPGEMM_ACCUMULATE = 1 << 2,  // D is there
  KN_SPGEMM_UNSORTED = 1 << 3,    // rows of C in any order of columns; the same order for every number of threads
  KN_SPGEMM_B_SORTED = 1 << 4,    // rows of B ascend, so that columns are found by bisection
  KN_SPGEMM_VALUED = 1 << 5,  // with MASK and values: an entry of the mask counts if its value is not 0 (NaN is not)
};

typedef enum kn_spgemm_phase {
  KN_SPGEMM_ANALYSE = 0,   // checks offsets and columns of all operands; products and most
  KN_SPGEMM_SYMBOLIC = 1,  // c_offsets
  KN_SPGEMM_PRODUCT = 2,   // c_offsets, c_columns, c_values in one pass, as far as c_capacity goes
  KN_SPGEMM_NUMERIC = 3,   // c_values of a C whose offsets and columns an earlier phase wrote
  // Of all rows of that C, for any number of NUMERIC; on a CPU, n <= 2^22 and b_nnz < 2^32:
  KN_SPGEMM_SCHEDULE_SIZES = 4,  // schedule.offsets and counts
  KN_SPGEMM_SCHEDULE = 5,        // schedule.terms
} kn_spgemm_phase;

// What the choice depends on.
typedef struct kn_spgemm_problem {
  uint32_t size;
  int32_t type;         // of all values: KN_F32, KN_F64, or KN_NONE for the structure alone
  int32_t index_bytes;  // of a column: 4 or 8
  int32_t semiring;     // kn_semiring
  int32_t flags;        // KN_SPGEMM_*
  int32_t reserved;     // 0
  int64_t m, k, n;      // 0 to 2^31 - 1 with columns of 4 bytes, else 2^40
  int64_t a_nnz, b_nnz;
  int64_t products;  // products[m]; 0 for ANALYSE
  int64_t most;      // the most products of a row; 0 for ANALYSE
} kn_spgemm_problem;

// Offsets ascend from 0; columns of a row are distinct.
typedef struct kn_csr {
  const int64_t* offsets;  // [rows + 1]
  const void* columns;     // [nnz] int32 or int64
  const void* values;      // [nnz] type
} kn_csr;

// Products of one entry of A with consecutive entries of B that fall into a block of C: a register of consecutive
// entries of a row, 8 of f64 and 16 of f32. An addend of the row, which come before its terms, has its place in b.
typedef struct kn_spgemm_term {
  uint32_t b;      // the first entry of B
  uint16_t a;      // the entry, from the first of A's row on
  uint16_t lanes;  // of the block that they go to, in order
} kn_spgemm_term;

// How values come about from values; of one structure of A, B, mask, D and C.
typedef struct kn_spgemm_schedule {
  int64_t* offsets;       // [m + 1] of terms; null: none
  kn_spgemm_term* terms;  // [offsets[m]] by row, block, entry of A
  uint16_t* counts;  // [c_offsets[m] / lanes + m + 1] terms of a block; those of row i from c_offsets[i] / lanes + i on
} kn_spgemm_schedule;

// What changes per call. Phases after ANALYSE trust what it has checked.
typedef struct kn_spgemm_args {
  uint32_t size;
  int32_t phase;                // kn_spgemm_phase
  int64_t row_from, row_to;     // rows of this call, 0 <= row_from <= row_to <= m; ANALYSE takes all
  kn_csr a, b;                  // [m,k], [k,n]
  kn_csr mask;                  // [m,n] with MASK; values are read with VALUED alone
  kn_csr d;                     // [m,n] with ACCUMULATE
  int64_t* products;            // [m + 1] products (entries of D count) of the rows above; written by ANALYSE
  int64_t* most;                // [1] written by ANALYSE
  int64_t* c_offsets;           // [row_to - row_from + 1]; the first one is given: where row_from begins
  void* c_columns;              // [c_capacity]
  void* c_values;               // [c_capacity]
  int64_t c_capacity;           // entries
  kn_spgemm_schedule schedule;  // read by NUMERIC, which gives the same bits without
  int64_t* rows_done;           // [1] PRODUCT: the first row that found no room, row_to when all did
  void* workspace;              // 64-byte aligned
  int64_t workspace_bytes;
} kn_spgemm_args;
