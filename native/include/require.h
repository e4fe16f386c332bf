// Refusals that name themselves, and the services a row gets from kn_cpu.
#pragma once
#include <kn.h>

// In accepts: the first false condition is its own reason.
#define KN_REQUIRE(condition) \
  do {                        \
    if (!(condition)) {       \
      *why = #condition;      \
      return 0;               \
    }                         \
  } while (0)

// In run and prepack: a broken argument, with the argument's name first.
#define KN_CHECK(argument, condition)                                                \
  do {                                                                               \
    if (!(condition)) return kn_fail(KN_INVALID, argument ": requires " #condition); \
  } while (0)

#ifdef __cplusplus
extern "C" {
#endif

// Keeps a literal sentence for last_error and returns the status.
int32_t kn_fail(int32_t status, const char* sentence);

// Calls body(context, task, worker) for every task in [0, tasks), in any order, on up to `threads` threads (0: all) and
// returns when all are done. worker < kn_workers(threads) and no two concurrent calls share one. Runs on the caller
// alone when tasks == 1 or when the pool is busy with another caller's work: a call never waits for work that is not
// its own.
typedef void (*kn_body)(void* context, int64_t task, int32_t worker);
void kn_parallel(int32_t threads, int64_t tasks, kn_body body, void* context);
// For threads > 0 no resize of the pool changes this bound: run asks once what 0 means and keeps the answer for its
// scratch.
int32_t kn_workers(int32_t threads);

// 1 where L1 of a core waits for too few lines to draw what its L2 can from memory, so that what is far ahead is better
// fetched to L2.
int32_t kn_few_l1_misses(void);

#ifdef __cplusplus
}
#endif
