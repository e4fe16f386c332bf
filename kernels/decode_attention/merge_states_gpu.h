// The argument of merge_states_gpu: grid tokens * heads, block of 128. Strides are in elements.
#pragma once
#include <stdint.h>

typedef struct kn_merge_states {
  const void* outs;   // [parts, tokens, heads, dim]
  const float* lses;  // [parts, tokens, heads]
  void* out;          // [tokens, heads, dim]: may be a part, exactly
  float* lse;         // [tokens, heads]: the same
  int64_t outs_part, outs_token, outs_head;
  int64_t lses_part, lses_token, lses_head;
  int64_t out_token, out_head, lse_token, lse_head;
  int32_t parts, heads, dim;
  int32_t in_type, out_type;  // kn_dtype: f32, bf16, f16
  int32_t reserved;
} kn_merge_states;
