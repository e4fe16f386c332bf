// The threads of a measurement, its memory, and its clock.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "limits.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sys/mman.h>
#endif
#if defined(KN_X86)
#include <immintrin.h>
#endif

namespace {

// All threads leave wait() within a few cache misses of each other. A thread that was descheduled holds up the rest:
// hence the yield, which costs nothing while everyone is on time.
struct barrier {
  explicit barrier(int32_t threads) : threads(threads) {}

  void wait() {
    const uint32_t now = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      arrived.store(0, std::memory_order_relaxed);
      phase.store(now + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase.load(std::memory_order_acquire) == now; spins++) {
#if defined(KN_X86)
      _mm_pause();
#endif
      if (spins > 10000) std::this_thread::yield();
    }
  }

  const int32_t threads;
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
};

using steady = std::chrono::steady_clock;

double seconds_since(steady::time_point start) { return std::chrono::duration<double>(steady::now() - start).count(); }

double median(std::vector<double>& v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

constexpr int64_t kHugePage = int64_t{2} << 20;

struct arena {
  char* map = nullptr;
  char* base = nullptr;
  int64_t bytes = 0, mapped = 0;
};
arena kept;

char* map_pages(int64_t bytes) {
#if defined(_WIN32)
  return static_cast<char*>(
      VirtualAlloc(nullptr, static_cast<size_t>(bytes), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
#else
  void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
#if defined(__linux__)
  // A refusal leaves small pages, whose limit is then a little lower; it is no error.
  if (p != MAP_FAILED) (void)madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
#endif
}

// When every core has a thread, each is kept on its own: the scheduler may else leave two together while some other
// process holds a core, and halve the limit. Fewer threads than cores are left to the scheduler, which knows sibling
// cores apart.
void stay([[maybe_unused]] int32_t id, [[maybe_unused]] int32_t threads) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) != threads) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || id-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
#endif
}

}  // namespace

void kn_team(int32_t threads, const std::function<void(int32_t)>& body) {
  std::atomic<int32_t> gate{0};  // 1: all threads are there; -1: they are not, go home
  std::vector<std::thread> team;
  const auto open = [&](int32_t word) {
    gate.store(word, std::memory_order_release);
    gate.notify_all();
    for (std::thread& t : team) t.join();
  };
  try {
    for (int32_t id = 0; id < threads; id++) {
      team.emplace_back([&, id] {
        stay(id, threads);
        gate.wait(0, std::memory_order_acquire);
        if (gate.load(std::memory_order_acquire) == 1) body(id);
      });
    }
  } catch (...) {
    open(-1);
    throw;
  }
  open(1);
}

void kn_arena_release() {
#if defined(_WIN32)
  if (kept.map) VirtualFree(kept.map, 0, MEM_RELEASE);
#else
  if (kept.map) munmap(kept.map, static_cast<size_t>(kept.mapped));
#endif
  kept = {};
}

char* kn_arena(int64_t bytes, int32_t threads) {
  if (kept.bytes >= bytes) return kept.base;
  kn_arena_release();
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  arena fresh;
  fresh.bytes = bytes;
  fresh.mapped = bytes + kHugePage;
  fresh.map = map_pages(fresh.mapped);
  if (!fresh.map) return nullptr;
  fresh.base = fresh.map + (kHugePage - reinterpret_cast<uintptr_t>(fresh.map) % kHugePage) % kHugePage;
  kept = fresh;
  // Not zero: a page of zeros may be one shared page. Touched by the whole team, which also spreads it over memory
  // nodes.
  const int64_t pages = bytes / kHugePage;
  kn_team(threads, [&](int32_t t) {
    const int64_t begin = pages * t / threads, end = pages * (t + 1) / threads;
    std::memset(fresh.base + begin * kHugePage, 1, static_cast<size_t>((end - begin) * kHugePage));
  });
  return kept.base;
}

std::vector<double> kn_measure(const kn_measurement& m) {
  constexpr size_t kFewest = 5;  // passes of each sweep, however long one takes
  std::vector<std::vector<double>> times(m.sweeps.size());
  for (auto& t : times) t.reserve(1 << 16);
  barrier line(m.threads);
  std::atomic<uint64_t> sink{0};
  bool done = false;  // written by thread 0 between two barriers, read after the second
  const steady::time_point start = steady::now();
  kn_team(m.threads, [&](int32_t id) {
    uint64_t sum = 0;
    for (size_t pass = 0;; pass++) {
      const size_t which = pass % m.sweeps.size();
      char* const base = m.base + (static_cast<int64_t>(pass) % m.windows * m.threads + id) * m.share;
      line.wait();
      if (done) break;
      const steady::time_point begin = steady::now();
      sum ^= m.sweeps[which](base, m.share, m.reps);
      line.wait();
      if (id != 0) continue;
      // The first pass of each sweep only warms up.
      if (pass >= m.sweeps.size() && times[which].size() < times[which].capacity())
        times[which].push_back(seconds_since(begin));
      done = seconds_since(start) >= m.seconds && times.back().size() >= kFewest;
    }
    sink.fetch_xor(sum, std::memory_order_relaxed);
  });
  std::vector<double> medians;
  for (auto& t : times) medians.push_back(median(t));
  return medians;
}
