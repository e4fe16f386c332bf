// kn_limits: what this machine can do at best, for perf to hold measurements against. Never linked by the runtime.
// Every figure is the median of many passes that all threads start together, by threads started once per call and
// pinned to nothing, as the library's own pool is by default. One measurement at a time; a second caller waits.
#pragma once
#include <kn.h>

#ifdef __cplusplus
extern "C" {
#endif

// What won a cold read.
typedef struct kn_limits_cold_best {
  double gbps;
  int32_t streams;
  int32_t prefetch;  // 1: with software prefetch
} kn_limits_cold_best;

// Read bandwidth of `threads` threads, each over its own bytes_per_thread as `streams` (1, 2, 4, 8) concurrent streams.
// Whether that is L1, L2, L3 or DRAM is the caller's choice of bytes; for DRAM take at least 1 GiB in total.
KN_EXPORT int32_t kn_limits_read(int64_t bytes_per_thread, int32_t threads, int32_t streams, double seconds,
                                 double* gbps);

// Read bandwidth of a cold weight matrix: every pass reads the next `chunk` bytes of a set of set_bytes, each thread
// its own share, as a cold GEMM does that rotates through copies of its weights. The best median of 1, 2, 4 and 8
// streams with and without software prefetch, whose passes are interleaved.
KN_EXPORT int32_t kn_limits_cold(int64_t set_bytes, int64_t chunk, int32_t threads, double seconds,
                                 kn_limits_cold_best* best);

// Write bandwidth; with `nontemporal`, by stores that pass the caches.
KN_EXPORT int32_t kn_limits_write(int64_t bytes_per_thread, int32_t threads, int32_t nontemporal, double seconds,
                                  double* gbps);

// Copy bandwidth from one half of bytes_per_thread to the other, counting bytes read plus bytes written.
KN_EXPORT int32_t kn_limits_copy(int64_t bytes_per_thread, int32_t threads, int32_t nontemporal, double seconds,
                                 double* gbps);

// Arithmetic peak in 10^9 multiplies and adds per second. KN_UNSUPPORTED: this CPU or this build lacks the kind.
KN_EXPORT int32_t kn_limits_peak(int32_t kind, int32_t threads, double* gops);

// The kinds of this build are numbered from 0 and named alike everywhere: f32_avx512, bf16_amx... Null past the last.
KN_EXPORT const char* kn_limits_peak_name(int32_t kind);

// Buffers are kept from call to call, because first touch may cost seconds a GiB. This gives them back.
KN_EXPORT void kn_limits_release(void);

#ifdef __cplusplus
}
#endif
