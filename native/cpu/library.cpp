// kn_get: the table, the machine, and the shape of every shared struct.
#include <decode_attention/decode_attention.h>
#include <flat_gemm/flat_gemm.h>
#include <kn.h>
#include <require.h>
#include <sparse_linear/sparse_linear.h>
#include <spgemm/spgemm.h>

#include <cstring>

#include "cpu.h"

#define KN_ROW(symbol) extern "C" const kn_row symbol;
#include <rows.inc>
#undef KN_ROW

namespace {

const kn_row* const rows[] = {
#define KN_ROW(symbol) &symbol,
#include <rows.inc>
#undef KN_ROW
    nullptr};  // keeps the array legal where a target has no native rows

#define KN_AT(type, field) static_cast<int32_t>(offsetof(type, field))

const kn_struct structs[] = {
    {"kn_param", sizeof(kn_param), {KN_AT(kn_param, name), KN_AT(kn_param, count), KN_AT(kn_param, values), -1}},
    {"kn_launch", sizeof(kn_launch), {KN_AT(kn_launch, size), KN_AT(kn_launch, threads), KN_AT(kn_launch, param), -1}},
    {"kn_row",
     sizeof(kn_row),
     {KN_AT(kn_row, name), KN_AT(kn_row, op), KN_AT(kn_row, needs), KN_AT(kn_row, bits), KN_AT(kn_row, params),
      KN_AT(kn_row, param_count), KN_AT(kn_row, reserved), KN_AT(kn_row, accepts), KN_AT(kn_row, workspace),
      KN_AT(kn_row, layout), KN_AT(kn_row, packed_bytes), KN_AT(kn_row, prepack), KN_AT(kn_row, run), -1}},
    {"kn_library",
     sizeof(kn_library),
     {KN_AT(kn_library, size), KN_AT(kn_library, abi), KN_AT(kn_library, build), KN_AT(kn_library, features),
      KN_AT(kn_library, emulated), KN_AT(kn_library, rows), KN_AT(kn_library, row_count),
      KN_AT(kn_library, struct_count), KN_AT(kn_library, structs), KN_AT(kn_library, last_error),
      KN_AT(kn_library, get_threads), KN_AT(kn_library, set_threads), -1}},
    {"kn_flat_gemm_problem",
     sizeof(kn_flat_gemm_problem),
     {KN_AT(kn_flat_gemm_problem, size), KN_AT(kn_flat_gemm_problem, x_type), KN_AT(kn_flat_gemm_problem, w_type),
      KN_AT(kn_flat_gemm_problem, y_type), KN_AT(kn_flat_gemm_problem, m), KN_AT(kn_flat_gemm_problem, n),
      KN_AT(kn_flat_gemm_problem, k), KN_AT(kn_flat_gemm_problem, group), KN_AT(kn_flat_gemm_problem, activation),
      KN_AT(kn_flat_gemm_problem, flags), -1}},
    {"kn_flat_gemm_args",
     sizeof(kn_flat_gemm_args),
     {KN_AT(kn_flat_gemm_args, size), KN_AT(kn_flat_gemm_args, m), KN_AT(kn_flat_gemm_args, x),
      KN_AT(kn_flat_gemm_args, ldx), KN_AT(kn_flat_gemm_args, x_scales), KN_AT(kn_flat_gemm_args, w),
      KN_AT(kn_flat_gemm_args, ldw), KN_AT(kn_flat_gemm_args, scales), KN_AT(kn_flat_gemm_args, zeros),
      KN_AT(kn_flat_gemm_args, packed), KN_AT(kn_flat_gemm_args, packed_bytes), KN_AT(kn_flat_gemm_args, bias),
      KN_AT(kn_flat_gemm_args, residual), KN_AT(kn_flat_gemm_args, ldr), KN_AT(kn_flat_gemm_args, y),
      KN_AT(kn_flat_gemm_args, ldy), KN_AT(kn_flat_gemm_args, workspace), KN_AT(kn_flat_gemm_args, workspace_bytes),
      -1}},
    {"kn_decode_attention_problem",
     sizeof(kn_decode_attention_problem),
     {KN_AT(kn_decode_attention_problem, size), KN_AT(kn_decode_attention_problem, q_type),
      KN_AT(kn_decode_attention_problem, kv_type), KN_AT(kn_decode_attention_problem, out_type),
      KN_AT(kn_decode_attention_problem, batch), KN_AT(kn_decode_attention_problem, q_len),
      KN_AT(kn_decode_attention_problem, q_heads), KN_AT(kn_decode_attention_problem, kv_heads),
      KN_AT(kn_decode_attention_problem, head_dim), KN_AT(kn_decode_attention_problem, v_head_dim),
      KN_AT(kn_decode_attention_problem, kv_len), KN_AT(kn_decode_attention_problem, page_size),
      KN_AT(kn_decode_attention_problem, window), KN_AT(kn_decode_attention_problem, softcap),
      KN_AT(kn_decode_attention_problem, flags), -1}},
    {"kn_decode_attention_args",
     sizeof(kn_decode_attention_args),
     {KN_AT(kn_decode_attention_args, size),
      KN_AT(kn_decode_attention_args, batch),
      KN_AT(kn_decode_attention_args, q_start),
      KN_AT(kn_decode_attention_args, kv_lens),
      KN_AT(kn_decode_attention_args, kv_later),
      KN_AT(kn_decode_attention_args, pages),
      KN_AT(kn_decode_attention_args, pages_ld),
      KN_AT(kn_decode_attention_args, page_count),
      KN_AT(kn_decode_attention_args, q),
      KN_AT(kn_decode_attention_args, q_token),
      KN_AT(kn_decode_attention_args, q_head),
      KN_AT(kn_decode_attention_args, k),
      KN_AT(kn_decode_attention_args, k_page),
      KN_AT(kn_decode_attention_args, k_token),
      KN_AT(kn_decode_attention_args, k_head),
      KN_AT(kn_decode_attention_args, v),
      KN_AT(kn_decode_attention_args, v_page),
      KN_AT(kn_decode_attention_args, v_token),
      KN_AT(kn_decode_attention_args, v_head),
      KN_AT(kn_decode_attention_args, k_scales),
      KN_AT(kn_decode_attention_args, v_scales),
      KN_AT(kn_decode_attention_args, scale_page),
      KN_AT(kn_decode_attention_args, scale_token),
      KN_AT(kn_decode_attention_args, scale_head),
      KN_AT(kn_decode_attention_args, key_norms),
      KN_AT(kn_decode_attention_args, phi),
      KN_AT(kn_decode_attention_args, alibi),
      KN_AT(kn_decode_attention_args, sinks),
      KN_AT(kn_decode_attention_args, tree),
      KN_AT(kn_decode_attention_args, scale),
      KN_AT(kn_decode_attention_args, q_len),
      KN_AT(kn_decode_attention_args, out),
      KN_AT(kn_decode_attention_args, out_token),
      KN_AT(kn_decode_attention_args, out_head),
      KN_AT(kn_decode_attention_args, lse),
      KN_AT(kn_decode_attention_args, lse_token),
      KN_AT(kn_decode_attention_args, recomputed),
      KN_AT(kn_decode_attention_args, workspace),
      KN_AT(kn_decode_attention_args, workspace_bytes),
      -1}},
    {"kn_spgemm_problem",
     sizeof(kn_spgemm_problem),
     {KN_AT(kn_spgemm_problem, size), KN_AT(kn_spgemm_problem, type), KN_AT(kn_spgemm_problem, index_bytes),
      KN_AT(kn_spgemm_problem, semiring), KN_AT(kn_spgemm_problem, flags), KN_AT(kn_spgemm_problem, reserved),
      KN_AT(kn_spgemm_problem, m), KN_AT(kn_spgemm_problem, k), KN_AT(kn_spgemm_problem, n),
      KN_AT(kn_spgemm_problem, a_nnz), KN_AT(kn_spgemm_problem, b_nnz), KN_AT(kn_spgemm_problem, products),
      KN_AT(kn_spgemm_problem, most), -1}},
    {"kn_csr", sizeof(kn_csr), {KN_AT(kn_csr, offsets), KN_AT(kn_csr, columns), KN_AT(kn_csr, values), -1}},
    {"kn_spgemm_term",
     sizeof(kn_spgemm_term),
     {KN_AT(kn_spgemm_term, b), KN_AT(kn_spgemm_term, a), KN_AT(kn_spgemm_term, lanes), -1}},
    {"kn_spgemm_schedule",
     sizeof(kn_spgemm_schedule),
     {KN_AT(kn_spgemm_schedule, offsets), KN_AT(kn_spgemm_schedule, terms), KN_AT(kn_spgemm_schedule, counts), -1}},
    {"kn_spgemm_args",
     sizeof(kn_spgemm_args),
     {KN_AT(kn_spgemm_args, size), KN_AT(kn_spgemm_args, phase), KN_AT(kn_spgemm_args, row_from),
      KN_AT(kn_spgemm_args, row_to), KN_AT(kn_spgemm_args, a), KN_AT(kn_spgemm_args, b), KN_AT(kn_spgemm_args, mask),
      KN_AT(kn_spgemm_args, d), KN_AT(kn_spgemm_args, products), KN_AT(kn_spgemm_args, most),
      KN_AT(kn_spgemm_args, c_offsets), KN_AT(kn_spgemm_args, c_columns), KN_AT(kn_spgemm_args, c_values),
      KN_AT(kn_spgemm_args, c_capacity), KN_AT(kn_spgemm_args, schedule), KN_AT(kn_spgemm_args, rows_done),
      KN_AT(kn_spgemm_args, workspace), KN_AT(kn_spgemm_args, workspace_bytes), -1}},
    {"kn_sparse_linear_problem",
     sizeof(kn_sparse_linear_problem),
     {KN_AT(kn_sparse_linear_problem, size), KN_AT(kn_sparse_linear_problem, sets),
      KN_AT(kn_sparse_linear_problem, layer), KN_AT(kn_sparse_linear_problem, nnz), -1}},
    {"kn_sparse_linear_args",
     sizeof(kn_sparse_linear_args),
     {KN_AT(kn_sparse_linear_args, size), KN_AT(kn_sparse_linear_args, reserved), KN_AT(kn_sparse_linear_args, call),
      KN_AT(kn_sparse_linear_args, outputs), KN_AT(kn_sparse_linear_args, inputs), -1}},
};

thread_local const char* failure = "";

const char* last_error() { return failure; }

}  // namespace

extern "C" int32_t kn_fail(int32_t status, const char* sentence) {
  failure = sentence;
  return status;
}

extern "C" KN_EXPORT int32_t kn_get(uint32_t abi, kn_library* library) {
  if (library == nullptr) return kn_fail(KN_INVALID, "library: is null");
  if (abi != KN_ABI || library->size != sizeof(kn_library)) {
    // Both numbers for the caller's sentence, and nothing past what even an older struct has.
    library->abi = KN_ABI;
    return kn_fail(KN_ABI_MISMATCH, "abi: the library and its caller were built from different versions of kn.h");
  }
  *library = kn_library{
      .size = sizeof(kn_library),
      .abi = KN_ABI,
      .build = KN_BUILD,
      .features = kn_cpu_features() | KN_EMULATED,
      .emulated = KN_EMULATED & ~kn_cpu_features(),
      .rows = rows,
      .row_count = static_cast<int32_t>(sizeof rows / sizeof *rows) - 1,
      .struct_count = static_cast<int32_t>(sizeof structs / sizeof *structs),
      .structs = structs,
      .last_error = last_error,
      .get_threads = kn_pool_threads,
      .set_threads = kn_pool_resize,
  };
  return KN_OK;
}
