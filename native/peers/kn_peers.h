// kn_peers: other libraries' flat GEMM, attention and sparse products behind one small ABI, for perf compare. Never
// linked by the runtime. One handle is one problem with its weights packed once into the layout that the peer itself
// prefers. Handles are made and run from one thread, because an OpenMP runtime keeps a team for every thread that calls
// it.
#pragma once
#include <kn.h>

#ifdef __cplusplus
extern "C" {
#endif

// y[m,n] = x[m,k] . w[n,k]^T, dense and row-major; s8: times scales[n].
typedef struct kn_peer_problem {
  uint32_t size;
  int32_t type;    // of x and w: KN_F32, KN_BF16 or KN_S8
  int32_t y_type;  // KN_F32; KN_BF16 with bf16 x
  int32_t m, n, k;
  int32_t threads;
  int32_t copies;  // of the packed weights, for cold measurements that rotate through them
} kn_peer_problem;

// Peers are numbered from 0: "oneDNN 2.6.3", "OpenBLAS 0.3.21". Null past the last.
KN_EXPORT int32_t kn_peer_count(void);
KN_EXPORT const char* kn_peer_name(int32_t peer);

// Packs weights[n,k] (and scales[n] for s8, else null), which are not needed afterwards. KN_UNSUPPORTED: this peer, in
// this version and on this CPU, does not do the problem.
KN_EXPORT int32_t kn_peer_create(int32_t peer, const kn_peer_problem* problem, const void* weights, const float* scales,
                                 void** handle);
KN_EXPORT int32_t kn_peer_run(void* handle, int32_t copy, const void* x, void* y);
KN_EXPORT void kn_peer_destroy(void* handle);

// out = softmax(scale q . k^T) . v for every sequence and kv head, without any mask. R = q_heads / kv_heads * q_len
// rows of q share a kv head. Types of q, k, v and out are one; k and v lie as the library has them, by strides in
// elements.
typedef struct kn_peer_attention_problem {
  uint32_t size;
  int32_t type;  // KN_F32 or KN_BF16
  int32_t batch, kv_heads, rows, head_dim, v_head_dim, kv_len;
  int32_t threads;
  float scale;
  int64_t k_batch, k_head, k_token;
  int64_t v_batch, v_head, v_token;
} kn_peer_attention_problem;

KN_EXPORT int32_t kn_peer_attention_create(int32_t peer, const kn_peer_attention_problem* problem, void** handle);
// q [batch, kv_heads, R, head_dim] and out [batch, kv_heads, R, v_head_dim], contiguous.
KN_EXPORT int32_t kn_peer_attention_run(void* handle, const void* q, const void* k, const void* v, void* out);
KN_EXPORT void kn_peer_attention_destroy(void* handle);

// C = D (+) A . B in CSR over a semiring of spgemm.h, restricted by a structural mask. Operands are copied into the
// peer's own form by create.
typedef struct kn_peer_spgemm_problem {
  uint32_t size;
  int32_t type;  // KN_F32, KN_F64, or KN_NONE for the structure alone
  int32_t threads;
  int32_t semiring;    // numbered as kn_semiring
  int32_t complement;  // 1: the mask's entries are left out
  int32_t unsorted;    // 1: rows of C need not be sorted when run returns
  int64_t m, k, n;
  const int64_t* a_offsets;
  const int32_t* a_columns;
  const void* a_values;
  const int64_t* b_offsets;
  const int32_t* b_columns;
  const void* b_values;
  const int64_t* mask_offsets;  // [m,n], null: no mask
  const int32_t* mask_columns;
  const int64_t* d_offsets;  // [m,n], null: no D
  const int32_t* d_columns;
  const void* d_values;
} kn_peer_spgemm_problem;

KN_EXPORT int32_t kn_peer_spgemm_create(int32_t peer, const kn_peer_spgemm_problem* problem, void** handle);
// Makes C, which lives until the next run, in memory as the peer takes it; *nnz is the number of its entries.
KN_EXPORT int32_t kn_peer_spgemm_run(void* handle, int64_t* nnz);
// Copies the last C out, sorted: offsets [m + 1], columns and values [nnz], which are null for the structure alone.
KN_EXPORT int32_t kn_peer_spgemm_copy(void* handle, int64_t* offsets, int32_t* columns, void* values);
KN_EXPORT void kn_peer_spgemm_destroy(void* handle);

// The sentence for the last failure on this thread, valid until its next call.
KN_EXPORT const char* kn_peer_last_error(void);

#ifdef __cplusplus
}
#endif
