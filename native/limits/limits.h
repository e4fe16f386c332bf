// Inside kn_limits: what a pass runs, the memory it runs on, the threads that run it.
#pragma once
#include <kn.h>
#include <stdint.h>

#include <functional>
#include <vector>

// One thread's share of a pass: `reps` times over [base, base + bytes), or `reps` rounds of arithmetic. The value
// returned depends on all the work, so that none of it can be left out.
typedef uint64_t (*kn_sweep)(char* base, int64_t bytes, int64_t reps);

constexpr int kStreamCounts = 4;      // 1, 2, 4, 8
constexpr int64_t kGrain = 512;       // bytes per stream are a multiple of this
constexpr uint32_t kAvx2 = 1u << 31;  // beside the KN_CPU_* bits: AVX2 and FMA

struct kn_memory {
  kn_sweep read[kStreamCounts][2];  // [log2 streams][prefetch]
  kn_sweep write[2], copy[2];       // [nontemporal]
};
extern const kn_memory kn_memory_plain, kn_memory_avx2, kn_memory_avx512;

struct kn_peak {
  const char* name;
  uint32_t needs;
  int32_t ops;  // per round; a multiply-add is two
  kn_sweep run;
};
extern const kn_peak kn_peak_f32_plain, kn_peak_f32_avx2, kn_peak_f32_avx512, kn_peak_u8s8_avx512, kn_peak_bf16_avx512,
    kn_peak_f16_avx512, kn_peak_bf16_amx, kn_peak_s8_amx;

// Memory of at least this size, touched, and kept until released; null when the system has not that much.
char* kn_arena(int64_t bytes, int32_t threads);
void kn_arena_release();

// Runs body(thread) on that many fresh threads and waits for them. Throws, with no body run, if they cannot all be had.
void kn_team(int32_t threads, const std::function<void(int32_t)>& body);

// In pass p, thread t works on `share` bytes from base + (p mod windows) * threads * share + t * share.
struct kn_measurement {
  std::vector<kn_sweep> sweeps;  // taken in turn, pass by pass
  char* base = nullptr;
  int64_t share = 0, windows = 1, reps = 1;
  int32_t threads = 1;
  double seconds = 0;
};

// The median seconds of a pass, sweep by sweep.
std::vector<double> kn_measure(const kn_measurement& m);
