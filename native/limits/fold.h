// What the loops of memory.h and peak.h share. In an anonymous namespace, because the files that include it are
// compiled with different flags and must share no inline function.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define KN_UNROLL _Pragma("GCC unroll 16")
#define KN_NOINLINE __attribute__((noinline))
#else
#define KN_UNROLL
#define KN_NOINLINE
#endif

namespace {

// One number that depends on every lane, so that no lane's work can be left out. Never inlined: gcc 12 would carry
// parts of it into the loop before it.
template <typename T>
KN_NOINLINE uint64_t fold(T v) {
  uint64_t words[sizeof(T) / sizeof(uint64_t)], all = 0;
  memcpy(words, &v, sizeof v);
  for (uint64_t w : words) all ^= w;
  return all;
}

// The compiler must not find out that reading the same bytes twice tells nothing new.
inline void forget() {
#if defined(_MSC_VER)
  _ReadWriteBarrier();
#else
  __asm__ volatile("" ::: "memory");
#endif
}

}  // namespace
