// The argument of the kernels that multiply and read nothing: each does `rounds` rounds, whose products DevicePeak.cs
// counts, and every thread writes a sum that the number of rounds gives, so that nothing is left out.
#pragma once
#include <stdint.h>

typedef struct kn_peak_gpu {
  float* sums;  // one a thread of the grid
  int32_t rounds, reserved;
} kn_peak_gpu;
