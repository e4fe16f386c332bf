#pragma once
#include <stdint.h>

// KN_CPU_* bits of this machine: what cpuid reports, the operating system saves, and this process may use.
uint32_t kn_cpu_features();

extern "C" int32_t kn_pool_threads();
extern "C" int32_t kn_pool_resize(int32_t count, int32_t pin);
