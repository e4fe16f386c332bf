// The loop of every arithmetic peak: independent accumulators that never leave their registers.
// O: type, ops (of one step), start, step.
#pragma once
#include "fold.h"
#include "limits.h"

namespace {

// Two units of latency 4 to 6 want 8 to 12 accumulators; Count leaves room for two operands in the register file.
template <typename O, int Count>
uint64_t peak(char*, int64_t, int64_t reps) {
  const O operands;
  typename O::type sum[Count];
  KN_UNROLL
  for (int i = 0; i < Count; i++) sum[i] = operands.start(i);
  for (int64_t r = 0; r < reps; r++) {
    KN_UNROLL
    for (int i = 0; i < Count; i++) sum[i] = operands.step(sum[i]);
  }
  uint64_t all = 0;
  KN_UNROLL
  for (int i = 0; i < Count; i++) all ^= fold(sum[i]);
  return all;
}

template <typename O, int Count>
constexpr kn_peak peak_of(const char* name, uint32_t needs) {
  return {name, needs, Count * O::ops, peak<O, Count>};
}

// Operands the compiler does not know, small enough that no sum overflows or becomes subnormal.
inline float unknown() {
  static const volatile float value = 0x1p-6f;
  return value;
}

}  // namespace
