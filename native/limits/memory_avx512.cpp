#include <immintrin.h>

#include "memory.h"

namespace {

struct zmm {
  using type = __m512i;
  static type load(const char* p) { return _mm512_load_si512(p); }
  static void store(char* p, type v) { _mm512_store_si512(p, v); }
  static void stream(char* p, type v) { _mm512_stream_si512(reinterpret_cast<type*>(p), v); }
  static type mix(type a, type b) { return _mm512_xor_si512(a, b); }
  static void ahead(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }
  static void fence() { _mm_sfence(); }
};

}  // namespace

extern constexpr kn_memory kn_memory_avx512 = sweeps_of<zmm>();
