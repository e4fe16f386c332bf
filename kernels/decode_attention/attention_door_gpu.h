// The argument of attention_door_gpu, which checks on the device what a call over a cache says there: grid 1, block of
// 256. A call that breaks a rule becomes one of no tokens, by its `checked`, and so writes nothing.
#pragma once
#include <stdint.h>

enum {  // what is wrong, in the upper 8 bits of *fault; the lower 24 are the sequence
  KN_DOOR_Q_START = 1,
  KN_DOOR_KV_LENS = 2,
  KN_DOOR_PAGES = 3,
  KN_DOOR_TREE = 4,
  KN_DOOR_KV_LATER = 5,
};

typedef struct kn_attention_door {
  const int32_t* q_start;   // [batch + 1], or null: q_len tokens of each sequence
  const int32_t* kv_lens;   // [batch]
  const int32_t* kv_later;  // [batch], or null: none
  const int32_t* pages;     // [batch, pages_ld], or null: not paged
  const uint32_t* tree;     // [tokens], or null
  int32_t* checked;         // [batch + 1]: what the call takes for its q_start; all 0 where it is refused
  uint32_t* fault;          // the first refusal since it was 0
  int64_t pages_ld, page_count, tokens;
  int32_t batch, q_len, kv_len;  // the most of each; kv_len is no more than a row of pages covers
  int32_t page_size, window;
  int32_t append;  // not 0: kv_lens holds the new tokens, and only the pages that they go to are looked at
} kn_attention_door;
