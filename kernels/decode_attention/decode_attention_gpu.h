// The argument of the GPU kernels of decode_attention, one struct for all of them. Addresses are the device's; strides
// are in elements, as in kn_decode_attention_args.
//
// The rows of a block are query heads of one kv head, of one or several tokens: row i of G T is token i / G, head i % G
// of the group, with G = q_heads / kv_heads. Keys are cut into splits of `split_len`, at its multiples, counted from
// the one that holds the first key that the sequence's window leaves; sequences with fewer splits leave the rest idle.
//
//   decode_attention_gpu_<kv>_d<D>_r<R>     grid (batch splits, kv_heads ceil(G q_len / R)), block of 4 waves
//     <kv>: f32 bf16 f16 s8 e4m3; q_type any float; D = 64 128 256 with R = 1 4 8, or D = 1024 with R = 2; D is the
//     least that holds head_dim and v_head_dim
//   decode_attention_sm80_<q>_<kv>_d<D>     grid (batch splits, kv_heads ceil(G q_len / 16)), block of 128
//     <q>: bf16 f16; <kv>: q's, s8, e4m3, and f16fixed for unified and bounded over f16; D = 64 128 256
//     dynamic shared memory: the larger of 64 (stages (2 D size + 8) + (size = 1 ? 4 D : 0)) and 256 D + 512 bytes,
//     with size = bytes of a stored element and stages = D <= 128 ? 3 : 2
//   decode_attention_sm90_<q>_d<D>_r<R>     grid (batch splits, kv_heads ceil(G q_len / R)), block of 160, argument
//     kn_decode_attention_sm90; <q>: bf16 f16, of k and v too, f16 for sync and lazy only; D = 64 128 256; R = 8 16 32;
//     dynamic shared memory fixed + slots 128 D bytes, fixed = 1024 + 2 R D + 256 R, slots the most that
//     (D <= 128 ? 112640 : 229376) - fixed hold; page_size 0, a multiple of 64, or 8 16 32
//   decode_attention_gpu_combine            grid (batch q_len, q_heads), block of 128: after splits > 1, sync or lazy
//   decode_attention_gpu_<kv>_d<D>_check    grid (batch q_len, q_heads), block of 4 waves: always after unified or
//     bounded; it combines, tests the sums, and does failing rows again by sync
//
// `partial` holds, per row (token, head) and split, v_head_dim sums, the reference and the denominator, f32. No entry
// is read that was not written. Neither it nor anything else is cleared between calls.
#pragma once
#include <stdint.h>

typedef struct kn_decode_attention_gpu {
  const int32_t* q_start;
  const int32_t* kv_lens;
  const int32_t* kv_later;  // or null
  const int32_t* pages;
  const void* q;
  const void* k;
  const void* v;
  const float* k_scales;
  const float* v_scales;
  const float* key_norms;
  const float* phi;
  const float* alibi;
  const float* sinks;
  const uint32_t* tree;
  void* out;
  float* lse;            // or null
  uint64_t* recomputed;  // or null
  float* partial;        // [tokens, q_heads, splits, v_head_dim + 2]
  int64_t pages_ld;
  int64_t q_token, q_head;
  int64_t k_page, k_token, k_head;
  int64_t v_page, v_token, v_head;
  int64_t scale_page, scale_token, scale_head;
  int64_t out_token, out_head, lse_token;
  int32_t batch, q_len, q_heads, kv_heads;
  int32_t head_dim, v_head_dim;
  int32_t page_size, window;
  int32_t q_type, kv_type, out_type;  // kn_dtype
  int32_t flags;                      // KN_ATTN_*
  int32_t softmax;                    // kn_softmax
  int32_t splits, split_len;          // split_len: a multiple of 64
  float scale, softcap;
  int32_t reserved;
} kn_decode_attention_gpu;

// K or V of decode_attention_sm90. A tensor map (cuTensorMapEncodeTiled: 2-byte elements, 128-byte swizzle, zeros
// outside) has the dimensions head_dim, page_size (kv_len where there are no pages), and pages with heads: z =
// page page_step + head head_step, whose stride divides those of both. Strides must ascend, so tokens come second or
// third. Boxes have 64 elements of kn_decode_attention_sm90::box tokens. An operand that has no map (an address or a
// stride that is no multiple of 16 bytes) is read by ordinary loads.
enum { KN_CACHE_TOKENS_SECOND = 1, KN_CACHE_TOKENS_THIRD = 2 };
typedef struct kn_decode_attention_cache {
  alignas(64) uint64_t map[16];
  const void* base;  // as in the call, and so are the strides
  int64_t page, token, head;
  int32_t mapped;  // 0, or KN_CACHE_TOKENS_*
  int32_t page_step, head_step;
  int32_t dims;
} kn_decode_attention_cache;

typedef struct kn_decode_attention_sm90 {
  kn_decode_attention_cache k, v;
  kn_decode_attention_gpu call;
  int32_t box;  // tokens of a copy: page_size, or 64 where it is more or there are no pages
  int32_t unused[11];
} kn_decode_attention_sm90;
