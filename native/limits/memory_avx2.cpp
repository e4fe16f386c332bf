#include <immintrin.h>

#include "memory.h"

namespace {

struct ymm {
  using type = __m256i;
  static type load(const char* p) { return _mm256_load_si256(reinterpret_cast<const type*>(p)); }
  static void store(char* p, type v) { _mm256_store_si256(reinterpret_cast<type*>(p), v); }
  static void stream(char* p, type v) { _mm256_stream_si256(reinterpret_cast<type*>(p), v); }
  static type mix(type a, type b) { return _mm256_xor_si256(a, b); }
  static void ahead(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }
  static void fence() { _mm_sfence(); }
};

}  // namespace

extern constexpr kn_memory kn_memory_avx2 = sweeps_of<ymm>();
