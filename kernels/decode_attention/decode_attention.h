// out[i,h,:] = sum_j p[j] v[j,:] / sum_j p[j],  p[j] = exp(x[j]),  lse[i,h] = ln sum_j exp(x[j])
// x[j] = softcap(scale q[i,h,:] . k[j,:]) + alibi[h] (j - position(i)),  softcap(s) = softcap tanh(s / softcap) or s
// over the keys j that token i sees. A token that sees none gives out 0 and lse -inf. A sink is one more key with the
// logit sinks[h], no bias and the value 0.
//
// A sequence has kv_lens[b] tokens in the cache, of which the last ones are its new tokens t = 0..T-1, already
// appended. Token t has the position kv_len - T + t and sees the keys at positions up to its own (causal). With TREE it
// sees every key before the new tokens and the new tokens of its mask, which holds its own bit and no later one; its
// position is kv_len - T + (number of its bits) - 1, the depth in the tree, and so is that of the new tokens as keys.
// With FULL it sees every key, and no position plays a part. With a window w it sees no key whose position is
// position(i) - w or less.
//
// Where a call has but the first keys of a sequence, kv_later[b] of its tokens, the new ones last, follow elsewhere:
// positions of the new tokens are kv_later[b] higher. Where it has but the last keys, positions count from the first of
// them: only differences matter. So parts of a cache, each attended by a call of its own, join by their lse.
#pragma once
#include <kn.h>

enum {
  KN_ATTN_TREE = 1 << 0,       // args.tree
  KN_ATTN_FULL = 1 << 1,       // no causal mask: a shared prefix, cross attention; not with TREE, ALIBI or a window
  KN_ATTN_ALIBI = 1 << 2,      // args.alibi
  KN_ATTN_SINKS = 1 << 3,      // args.sinks
  KN_ATTN_SCALES = 1 << 4,     // args.k_scales and v_scales: required for s8, allowed for e4m3
  KN_ATTN_PHI = 1 << 5,        // args.phi: `unified` may be chosen
  KN_ATTN_NORMS = 1 << 6,      // args.key_norms: `bounded` may be chosen
  KN_ATTN_INVARIANT = 1 << 7,  // splits as the launch says: bits depend on the sequence alone
};

// What is subtracted from x before exp: any finite reference gives the same result, as long as nothing overflows and
// not everything underflows. Values of the launch parameter "softmax".
//   sync      the running maximum, with a rescale whenever it grows
//   lazy      a maximum that is renewed only when x passes it by more than a threshold; exact as well
//   unified   args.phi[h] for all splits, which then add up plainly. Rows whose sums have left the range are done again
//             by sync: without the sink the numerator or the denominator is not finite, or with it the denominator is
//             below kv_len 2^-102. So a sink may be of any size
//   bounded   the same with a phi that cannot overflow: 0 where softcap <= 60, else from |q| key_norm scale
typedef enum kn_softmax {
  KN_SOFTMAX_SYNC = 1,
  KN_SOFTMAX_LAZY = 2,
  KN_SOFTMAX_UNIFIED = 3,
  KN_SOFTMAX_BOUNDED = 4,
} kn_softmax;

// What the choice depends on; batch, q_len and kv_len are the most that a call will bring.
//   q f32, bf16, f16   kv as q, s8, e4m3   out as q, or f32
typedef struct kn_decode_attention_problem {
  uint32_t size;
  int32_t q_type, kv_type, out_type;  // kn_dtype
  int32_t batch;                      // sequences, 0 to 2^20
  int32_t q_len;                      // new tokens of a sequence, 1 to 16
  int32_t q_heads, kv_heads;     // q_heads is a multiple of kv_heads; head h reads kv head h / (q_heads / kv_heads)
  int32_t head_dim, v_head_dim;  // multiples of 8 up to 1024
  int32_t kv_len;                // tokens of a sequence in the cache, 0 to 2^28
  int32_t page_size;             // tokens of a page; 0: sequence b is page b, of any length up to kv_len
  int32_t window;                // keys that a token sees, its own included; 0: all
  float softcap;                 // 0: none
  int32_t flags;                 // KN_ATTN_*
} kn_decode_attention_problem;

// What changes per call. Strides are in elements, 0 to 2^40, and the last dimension is contiguous. A key is at
// k + page k_page + (token of the page) k_token + (kv head) k_head; so NHD and HND are a matter of strides.
typedef struct kn_decode_attention_args {
  uint32_t size;
  int32_t batch;            // sequences of this call
  const int32_t* q_start;   // [batch + 1] ascending from 0: sequence b has tokens q_start[b] .. q_start[b + 1] - 1,
                            // at most problem.q_len of them; null: q_len each
  const int32_t* kv_lens;   // [batch]
  const int32_t* kv_later;  // [batch]: tokens that follow those elsewhere, at most 2^28 with them; null: none
  const int32_t* pages;     // [batch, pages_ld], paged only: ids of the pages of a sequence in order
  int64_t pages_ld;
  int64_t page_count;  // pages that k and v hold; ids are less. Not paged: sequences that they hold
  const void* q;       // [tokens, q_heads, head_dim]
  int64_t q_token, q_head;
  const void* k;  // [page_count, page_size, kv_heads, head_dim] by strides
  int64_t k_page, k_token, k_head;
  const void* v;  // [page_count, page_size, kv_heads, v_head_dim] by strides
  int64_t v_page, v_token, v_head;
  const float* k_scales;  // [page_count, page_size, kv_heads] by strides: k = stored * scale
  const float* v_scales;  // same strides
  int64_t scale_page, scale_token, scale_head;
  const float* key_norms;  // [page_count, kv_heads]: at least the largest 2-norm of the page's keys, scales included
  const float* phi;        // [q_heads], nats
  const float* alibi;      // [q_heads] slopes, >= 0
  const float* sinks;      // [q_heads] logits
  const uint32_t* tree;    // [tokens]: bit u: sees new token u of its sequence
  float scale;             // > 0
  int32_t q_len;           // tokens of each sequence without a q_start, 0 to problem.q_len
  void* out;               // [tokens, q_heads, v_head_dim]; overlaps nothing else
  int64_t out_token, out_head;
  float* lse;  // [tokens, q_heads], natural logarithm; may be null
  int64_t lse_token;
  int64_t* recomputed;  // grows by the rows (token, head) that were done again by sync; may be null
  void* workspace;      // 64-byte aligned
  int64_t workspace_bytes;
} kn_decode_attention_args;
