// The rules of decode attention, the same for every row.
#pragma once
#include <require.h>

#include "decode_attention.h"

namespace kn::decode_attention {

int64_t bytes_of(int32_t type);

constexpr int64_t kMost = int64_t{1} << 62;

// Of numbers that are not negative; what would pass kMost is kMost.
int64_t times(int64_t a, int64_t b);
int64_t plus(int64_t a, int64_t b);

// The rules of the operation itself. 1, or 0 with the broken rule.
int32_t valid(const kn_decode_attention_problem* problem, const kn_launch* launch, const char** why);

// The rules of one call that needs `workspace` bytes. KN_OK, or KN_INVALID before anything is written.
int32_t check(const kn_decode_attention_problem* problem, const kn_decode_attention_args* args, int64_t workspace);

}  // namespace kn::decode_attention
