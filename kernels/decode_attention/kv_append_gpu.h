// The argument of the kernels that write new tokens into the pages of a cache. Addresses are the device's, strides in
// elements.
//
//   kv_append_gpu           grid (tokens, ceil(kv_heads / 4)), block of 4 waves: a head of k and of v each
//   kv_append_gpu_restart   grid ceil(tokens kv_heads / 128), block of 128, before it where there are key norms: a page
//                           whose first token comes has a norm of 0 again
#pragma once
#include <stdint.h>

typedef struct kn_kv_append {
  const int32_t* q_start;  // [batch + 1], a token beyond its end goes nowhere; or null: q_len tokens of each sequence
  const int32_t* kv_lens;  // [batch], the new tokens included
  const int32_t* pages;    // [batch, pages_ld], or null: sequence b is page b
  const void* k;           // [tokens, kv_heads, head_dim]
  const void* v;           // [tokens, kv_heads, v_head_dim]
  void* k_cache;
  void* v_cache;
  float* k_scales;   // or null
  float* v_scales;   // or null, where k_scales are
  float* key_norms;  // [pages, kv_heads], or null
  int64_t pages_ld;
  int64_t k_token, k_head, v_token, v_head;
  int64_t k_cache_page, k_cache_token, k_cache_head;
  int64_t v_cache_page, v_cache_token, v_cache_head;
  int64_t scale_page, scale_token, scale_head;
  int32_t batch, tokens, kv_heads;
  int32_t head_dim, v_head_dim, page_size;
  int32_t in_type, kv_type;  // kn_dtype
  int32_t q_len, reserved;
} kn_kv_append;
