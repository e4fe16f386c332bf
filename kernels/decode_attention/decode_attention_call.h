// One call and the scratch of its workers, laid out in the workspace. Everything is static, see avx512.h.
#pragma once
#include "decode_attention_check.h"
#include "decode_attention_tokens.h"

namespace kn::decode_attention {
namespace {

constexpr int64_t kRows = 32;       // rows (new token, query head of a kv head) that are attended together
constexpr int64_t kMostHeads = 64;  // kv heads that a task walks together
constexpr float kLog2e = 1.44269504f;

// Steps multiply 4, 2 and 1 rows, 8 of some engines. Three at the end mostly take longer than four: one is done twice.
enum padding { kNoPadding, kPadsFew, kPads };
constexpr int64_t padded(padding p, int64_t rows) {
  const bool pays = p == kPads ? rows % 4 == 3 : p == kPadsFew && (rows == 3 || rows % 16 == 15);
  return pays ? rows + 1 : rows;
}

struct call {
  const kn_decode_attention_problem* problem;
  const kn_decode_attention_args* args;
  kn_softmax softmax;
  int64_t split, heads;    // keys of a split, at most; kv heads that a task walks together
  int64_t group, rows;     // query heads of a kv head; rows that scratch is for
  int64_t q_row, out_row;  // bytes of a row of q as the engine reads it; floats of a row of sums
  int64_t lane_rows;       // rows of q that scratch has as lanes, see decode_attention_lanes.h; 0: none
  int64_t copies;          // bytes
  padding pads;
  int64_t head_blocks;
  double most_cost;    // of the keys of a split for one kv head
  int32_t workers;     // 1 where all is done before another thread is awake
  float scale2;        // from a dot product to the exponent of 2
  float cap2, cap_in;  // softcap: exponent = cap2 tanh(cap_in s)
  bool plain;          // the exponent is scale2 s
  bool by_l2;          // memory is fetched to L2 first, see decode_attention_walk.h

  // In the workspace.
  int64_t* order;       // [batch]: sequences, those with costly tasks first
  int64_t* first_item;  // [batch + 1]: tasks before those of a sequence, in that order
  int64_t* first_part;  // [batch + 1]: rows of partial sums before those of a sequence
  float* norms;         // [batch, kv_heads]: the largest key norm of a sequence
  float* part_sums;     // [parts, out_row]
  float* part_marks;    // [parts, 2]: the denominator and the reference
  char* scratch;
  int64_t scratch_bytes;
};

// What the keys of a chunk have beside their values.
struct marks {
  alignas(64) float k_scale[kChunk], v_scale[kChunk];
  alignas(64) int32_t position[kChunk];
};

// The chunk as one kv head and one set of seen keys have it.
struct view {
  const char* const* at;  // of kv head 0, as `located` has them
  marks keys;
  const char* own[4 * kChunk];  // where not every key is seen
};

// What a worker attends with: `heads` times `rows` rows.
struct work {
  char* q;           // [heads, rows, q_row]
  float* sums;       // [heads, rows, out_row]: numerators
  float* total;      // [heads, rows, 16]: denominators, a part in each lane
  float* rounded;    // [heads, rows, 16]: the same of weights as the engine rounds them
  float* reference;  // [heads, rows]: what is subtracted from the exponent of 2
  float* scores;     // [heads, rows, kChunk]
  view* keys;        // [heads]
  char* lanes;       // [heads, lane_rows / 16, q_row / 4, 16 rows]: dwords of q
  char* copies;      // what is multiplied by them
};

inline bool by_norms(const kn_decode_attention_problem& p, kn_softmax softmax) {
  return softmax == KN_SOFTMAX_BOUNDED && !(p.softcap > 0 && p.softcap <= 60);
}

inline int64_t lay_out(const call& c, char* at, work* w) {
  const int64_t n = c.heads * c.rows;
  const auto take = [&at](int64_t bytes) {
    char* const mine = at;
    at += round_up(bytes, 64);
    return mine;
  };
  char* const begin = at;
  w->q = take(n * c.q_row);
  w->sums = reinterpret_cast<float*>(take(n * c.out_row * 4));
  w->total = reinterpret_cast<float*>(take(n * 64));
  w->rounded = reinterpret_cast<float*>(take(n * 64));
  w->reference = reinterpret_cast<float*>(take(n * 4));
  w->scores = reinterpret_cast<float*>(take(n * kChunk * 4));
  w->keys = reinterpret_cast<view*>(take(c.heads * static_cast<int64_t>(sizeof(view))));
  w->lanes = take(c.heads * c.lane_rows * c.q_row);
  w->copies = take(c.copies);
  return at - begin;
}

}  // namespace
}  // namespace kn::decode_attention
