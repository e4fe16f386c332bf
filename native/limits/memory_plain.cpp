// For machines without their own file: plain C++, and whatever vectors the compiler makes of it.
#include "memory.h"

namespace {

struct word {
#if defined(__GNUC__)
  typedef uint64_t type __attribute__((vector_size(16)));
  static void ahead(const char* p) { __builtin_prefetch(p); }
#else
  using type = uint64_t;
  static void ahead(const char*) {}
#endif
  static type load(const char* p) { return *reinterpret_cast<const type*>(p); }
  static void store(char* p, type v) { *reinterpret_cast<type*>(p) = v; }
  static void stream(char* p, type v) { store(p, v); }
  static type mix(type a, type b) { return a ^ b; }
  static void fence() {}
};

}  // namespace

extern constexpr kn_memory kn_memory_plain = sweeps_of<word>();
