// The one thread pool. Workers spin briefly after a job, because the next layer's call follows within microseconds,
// then park.
#include <kn.h>
#include <require.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.h"

#if defined(KN_X86)
#include <immintrin.h>
#endif

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kSpins = 4000;  // 50 to 150 us: the gap between two layers of a decode step is well inside it

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const int n = static_cast<int>(std::thread::hardware_concurrency());
  return n > 0 ? n : 1;
}

#if defined(__linux__) || defined(_WIN32)
constexpr bool kPins = true;
#else
constexpr bool kPins = false;
#endif

void pin_to_core([[maybe_unused]] int index) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || index-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
#elif defined(_WIN32)
  if (index < 64) SetThreadAffinityMask(GetCurrentThread(), DWORD_PTR{1} << index);
#endif
}

inline void relax() {
#if defined(KN_X86)
  _mm_pause();
#endif
}

// `word` carries the job number in its upper half and the free places in the job in its lower half. A worker joins by
// taking a place; the caller, out of tasks itself, takes all places left at once and waits only for those who joined.
// So a worker that sleeps through a short job delays nobody and never touches it.
struct pool {
  std::mutex busy;  // held by the caller whose job runs
  std::atomic<uint64_t> word{0};
  std::atomic<int32_t> finished{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::atomic<int32_t> size{1};  // workers and the caller; read by any thread, so never a number on the way to another

  alignas(64) std::atomic<int64_t> next{0};
  int64_t tasks = 0;
  kn_body body = nullptr;
  void* context = nullptr;

  static int32_t places(uint64_t w) { return static_cast<int32_t>(w & 0xffffffff); }

  void drain(int32_t worker) {
    for (int64_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(context, t, worker);
  }

  void work(int32_t id, bool pin) {
    if (pin) pin_to_core(id);
    uint64_t seen = 0;
    for (int spin = 0;;) {
      uint64_t now = word.load(std::memory_order_acquire);
      if (now == seen) {
        if (++spin < kSpins) {
          relax();
        } else {
          word.wait(seen, std::memory_order_acquire);
        }
        continue;
      }
      spin = 0;
      if (stop.load(std::memory_order_relaxed)) return;
      while (places(now) != 0 && !word.compare_exchange_weak(now, now - 1, std::memory_order_acquire)) {
      }
      seen = now;
      if (places(now) == 0) continue;
      drain(places(now));  // the place is the worker's number: no two who joined share one
      finished.fetch_add(1, std::memory_order_release);
    }
  }

  void post(int32_t wanted) {
    const uint64_t job = (word.load(std::memory_order_relaxed) >> 32) + 1;
    word.store((job << 32) | static_cast<uint64_t>(wanted), std::memory_order_release);
    word.notify_all();
  }

  void join(int32_t wanted) {
    const int32_t absent = places(word.fetch_and(~uint64_t{0xffffffff}, std::memory_order_relaxed));
    while (finished.load(std::memory_order_acquire) != wanted - absent) relax();
  }

  // With `busy` held. False when the system gives fewer threads than asked; the pool then has those it got.
  bool resize(int32_t count, bool pin) {
    stop.store(true, std::memory_order_relaxed);
    post(0);
    for (std::thread& t : threads) t.join();
    threads.clear();
    stop.store(false, std::memory_order_relaxed);
    int32_t started = 1;
    try {
      threads.reserve(static_cast<size_t>(count));
      for (; started < count; started++) threads.emplace_back([this, id = started, pin] { work(id, pin); });
    } catch (...) {
    }
    size.store(started, std::memory_order_relaxed);
    return started >= count;
  }
};

// Never destroyed: its threads may still be parked in it when the process leaves.
pool& the_pool() {
  static pool* const p = [] {
    pool* fresh = new pool;
    fresh->resize(usable_cores(), false);
    return fresh;
  }();
  return *p;
}

}  // namespace

extern "C" int32_t kn_pool_threads() { return the_pool().size.load(std::memory_order_relaxed); }

extern "C" int32_t kn_pool_resize(int32_t count, int32_t pin) {
  if (count < 0 || count > kMaxThreads) return kn_fail(KN_INVALID, "count: requires 0 <= count <= 1024");
  if (pin != 0 && !kPins) return kn_fail(KN_UNSUPPORTED, "pin: requires Linux or Windows");
  pool& p = the_pool();
  const std::lock_guard<std::mutex> hold(p.busy);
  if (!p.resize(count == 0 ? usable_cores() : count, pin != 0))
    return kn_fail(KN_NO_MEMORY, "count: the system started fewer threads than asked");
  return KN_OK;
}

extern "C" int32_t kn_workers(int32_t threads) { return threads > 0 ? threads : kn_pool_threads(); }

extern "C" void kn_parallel(int32_t threads, int64_t tasks, kn_body body, void* context) {
  pool& p = the_pool();
  int64_t workers = kn_workers(threads);
  if (workers > tasks) workers = tasks;
  if (workers <= 1 || !p.busy.try_lock()) {
    for (int64_t t = 0; t < tasks; t++) body(context, t, 0);
    return;
  }
  const int32_t size = p.size.load(std::memory_order_relaxed);
  const int32_t helpers = static_cast<int32_t>(workers < size ? workers : size) - 1;
  p.tasks = tasks;
  p.body = body;
  p.context = context;
  p.next.store(0, std::memory_order_relaxed);
  p.finished.store(0, std::memory_order_relaxed);
  p.post(helpers);
  p.drain(0);
  p.join(helpers);
  p.busy.unlock();
}
