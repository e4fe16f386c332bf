// The ABI of kn_limits: checks arguments, picks the loops of this machine, turns seconds into rates.
#include "limits.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <new>

#include "kn_limits.h"

#if defined(KN_X86)
#include "../cpu/cpu.h"
#if defined(_MSC_VER)
#include <intrin.h>
#endif
#endif

namespace {

constexpr int32_t kMostThreads = 1024;
constexpr int64_t kPassBytes = int64_t{16} << 20;  // of one thread: the barrier, below 1 us, must not show
constexpr int64_t kPassRounds = 1 << 17;           // 0.2 ms of vectors, 4 ms of tiles
constexpr double kPeakSeconds = 0.3;

#if defined(KN_X86)
bool avx2() {
#if defined(_MSC_VER)
  int l1[4], l7[4];
  __cpuid(l1, 1);
  __cpuidex(l7, 7, 0);
  constexpr int kFma = 1 << 12, kOsxsave = 1 << 27, kAvx2Bit = 1 << 5;
  return (l1[2] & kFma) && (l1[2] & kOsxsave) && (l7[1] & kAvx2Bit) && (_xgetbv(0) & 6) == 6;
#else
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
}

uint32_t features() {
  static const uint32_t bits = kn_cpu_features() | (avx2() ? kAvx2 : 0);
  return bits;
}

const kn_memory& memory() {
  if (features() & KN_CPU_AVX512) return kn_memory_avx512;
  return features() & kAvx2 ? kn_memory_avx2 : kn_memory_plain;
}
#else
uint32_t features() { return 0; }
const kn_memory& memory() { return kn_memory_plain; }
#endif

// A kind is an index into this list.
const kn_peak* const kPeaks[] = {
    &kn_peak_f32_plain,
#if defined(KN_X86)
    &kn_peak_f32_avx2,    &kn_peak_f32_avx512, &kn_peak_bf16_avx512, &kn_peak_f16_avx512,
    &kn_peak_u8s8_avx512, &kn_peak_bf16_amx,   &kn_peak_s8_amx,
#endif
};

bool known(int32_t kind) { return kind >= 0 && static_cast<size_t>(kind) < std::size(kPeaks); }

bool sane(int32_t threads, double seconds) {
  return threads >= 1 && threads <= kMostThreads && seconds >= 0 && seconds <= 600;
}

// Nothing is thrown across the ABI, and one measurement runs at a time.
template <typename F>
int32_t alone(F measure) {
  static std::mutex busy;
  try {
    const std::lock_guard<std::mutex> lock(busy);
    return measure();
  } catch (const std::bad_alloc&) {
    return KN_NO_MEMORY;
  } catch (...) {
    return KN_INTERNAL;
  }
}

// An odd number of grains: streams and threads a power of two apart would meet in the same cache sets and DRAM banks.
int64_t share_of(int64_t bytes, int64_t grain) { return bytes < grain ? 0 : ((bytes / grain - 1) | 1) * grain; }

// One sweep over bytes_per_thread, again and again; `grain` is what its loop counts in.
int32_t bandwidth(kn_sweep sweep, int64_t grain, int64_t bytes_per_thread, int32_t threads, double seconds,
                  double* gbps) {
  const int64_t share = share_of(bytes_per_thread, grain);
  if (!sane(threads, seconds) || share < grain || share > INT64_MAX / kMostThreads || !gbps) return KN_INVALID;
  return alone([&]() -> int32_t {
    kn_measurement m{{sweep}};
    m.base = kn_arena(share * threads, threads);
    if (!m.base) return KN_NO_MEMORY;
    m.share = share;
    m.reps = std::max<int64_t>(1, kPassBytes / share);
    m.threads = threads;
    m.seconds = seconds;
    *gbps = static_cast<double>(share * threads * m.reps) / kn_measure(m)[0] * 1e-9;
    return KN_OK;
  });
}

// log2 of 1, 2, 4 or 8; -1 for all else.
int stream_index(int32_t streams) {
  for (int i = 0; i < kStreamCounts; i++) {
    if (streams == 1 << i) return i;
  }
  return -1;
}

}  // namespace

int32_t kn_limits_read(int64_t bytes_per_thread, int32_t threads, int32_t streams, double seconds, double* gbps) {
  const int index = stream_index(streams);
  if (index < 0) return KN_INVALID;
  return bandwidth(memory().read[index][0], kGrain * streams, bytes_per_thread, threads, seconds, gbps);
}

int32_t kn_limits_write(int64_t bytes_per_thread, int32_t threads, int32_t nontemporal, double seconds, double* gbps) {
  return bandwidth(memory().write[nontemporal != 0], kGrain, bytes_per_thread, threads, seconds, gbps);
}

int32_t kn_limits_copy(int64_t bytes_per_thread, int32_t threads, int32_t nontemporal, double seconds, double* gbps) {
  return bandwidth(memory().copy[nontemporal != 0], 2 * kGrain, bytes_per_thread, threads, seconds, gbps);
}

int32_t kn_limits_cold(int64_t set_bytes, int64_t chunk, int32_t threads, double seconds, kn_limits_cold_best* best) {
  constexpr int64_t kMostStreams = 1 << (kStreamCounts - 1);
  if (!sane(threads, seconds) || !best) return KN_INVALID;
  const int64_t share = share_of(chunk / threads, kGrain * kMostStreams);
  if (share == 0 || chunk > set_bytes || set_bytes > INT64_MAX / kMostThreads) return KN_INVALID;
  return alone([&]() -> int32_t {
    kn_measurement m;
    for (const auto& streams : memory().read) m.sweeps.insert(m.sweeps.end(), std::begin(streams), std::end(streams));
    m.windows = set_bytes / chunk;
    m.base = kn_arena(m.windows * share * threads, threads);
    if (!m.base) return KN_NO_MEMORY;
    m.share = share;
    m.threads = threads;
    m.seconds = seconds;
    const std::vector<double> medians = kn_measure(m);
    const auto fastest = std::min_element(medians.begin(), medians.end());
    const auto index = static_cast<int32_t>(fastest - medians.begin());
    *best = {static_cast<double>(share * threads) / *fastest * 1e-9, 1 << index / 2, index % 2};
    return KN_OK;
  });
}

int32_t kn_limits_peak(int32_t kind, int32_t threads, double* gops) {
  if (!known(kind) || !sane(threads, kPeakSeconds) || !gops) return KN_INVALID;
  const kn_peak& peak = *kPeaks[kind];
  if ((peak.needs & features()) != peak.needs) return KN_UNSUPPORTED;
  return alone([&]() -> int32_t {
    kn_measurement m{{peak.run}};
    m.reps = kPassRounds;
    m.threads = threads;
    m.seconds = kPeakSeconds;
    *gops = static_cast<double>(peak.ops) * kPassRounds * threads / kn_measure(m)[0] * 1e-9;
    return KN_OK;
  });
}

const char* kn_limits_peak_name(int32_t kind) { return known(kind) ? kPeaks[kind]->name : nullptr; }

void kn_limits_release(void) {
  alone([] {
    kn_arena_release();
    return static_cast<int32_t>(KN_OK);
  });
}
