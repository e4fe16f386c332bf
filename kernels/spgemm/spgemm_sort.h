// Ascending sort of unsigned keys by Batcher's bitonic network: 16 keys of 32 bits or 8 of 64 in a register. Every
// comparison puts the smaller key at the lower place, so that a number of registers which is no power of two needs no
// padding: whatever would meet a register behind the end is the larger one already.
#pragma once
#include <avx512.h>

namespace kn::spgemm {
namespace {

struct keys32 {
  using key = uint32_t;
  static constexpr int count = 16;
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epu32(a, b); }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }
  static __m512i high(uint16_t lanes, __m512i low, __m512i high) { return _mm512_mask_mov_epi32(low, lanes, high); }
  static __m512i reverse(__m512i v) { return swap16(v); }
  // The partner of every lane, d lanes away, or in the mirrored order of 2d lanes.
  static __m512i swap1(__m512i v) { return _mm512_shuffle_epi32(v, _MM_PERM_CDAB); }
  static __m512i swap2(__m512i v) { return _mm512_shuffle_epi32(v, _MM_PERM_BADC); }
  static __m512i swap4(__m512i v) { return _mm512_shuffle_i32x4(v, v, 0xb1); }
  static __m512i swap8(__m512i v) { return _mm512_shuffle_i32x4(v, v, 0x4e); }
  static __m512i mirror4(__m512i v) { return _mm512_shuffle_epi32(v, _MM_PERM_ABCD); }
  static __m512i mirror8(__m512i v) { return swap4(mirror4(v)); }
  static __m512i swap16(__m512i v) { return _mm512_shuffle_i32x4(mirror4(v), mirror4(v), 0x1b); }

  [[gnu::always_inline]] static __m512i sorted(__m512i v) {
    v = step(v, swap1(v), 0xaaaa);
    v = step(v, mirror4(v), 0xcccc);
    v = step(v, swap1(v), 0xaaaa);
    v = step(v, mirror8(v), 0xf0f0);
    v = step(v, swap2(v), 0xcccc);
    v = step(v, swap1(v), 0xaaaa);
    v = step(v, reverse(v), 0xff00);
    v = step(v, swap4(v), 0xf0f0);
    v = step(v, swap2(v), 0xcccc);
    return step(v, swap1(v), 0xaaaa);
  }
  [[gnu::always_inline]] static __m512i merged(__m512i v) {
    v = step(v, swap8(v), 0xff00);
    v = step(v, swap4(v), 0xf0f0);
    v = step(v, swap2(v), 0xcccc);
    return step(v, swap1(v), 0xaaaa);
  }
  static __m512i step(__m512i v, __m512i partner, uint16_t upper) {
    return high(upper, min(v, partner), max(v, partner));
  }
};

struct keys64 {
  using key = uint64_t;
  static constexpr int count = 8;
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epu64(a, b); }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu64(a, b); }
  static __m512i swap1(__m512i v) { return _mm512_permutex_epi64(v, 0xb1); }
  static __m512i swap2(__m512i v) { return _mm512_permutex_epi64(v, 0x4e); }
  static __m512i swap4(__m512i v) { return _mm512_shuffle_i64x2(v, v, 0x4e); }
  static __m512i mirror4(__m512i v) { return _mm512_permutex_epi64(v, 0x1b); }
  static __m512i reverse(__m512i v) { return swap4(mirror4(v)); }

  [[gnu::always_inline]] static __m512i sorted(__m512i v) {
    v = step(v, swap1(v), 0xaa);
    v = step(v, mirror4(v), 0xcc);
    v = step(v, swap1(v), 0xaa);
    v = step(v, reverse(v), 0xf0);
    v = step(v, swap2(v), 0xcc);
    return step(v, swap1(v), 0xaa);
  }
  [[gnu::always_inline]] static __m512i merged(__m512i v) {
    v = step(v, swap4(v), 0xf0);
    v = step(v, swap2(v), 0xcc);
    return step(v, swap1(v), 0xaa);
  }
  static __m512i step(__m512i v, __m512i partner, uint8_t upper) {
    return _mm512_mask_mov_epi64(min(v, partner), upper, max(v, partner));
  }
};

// keys holds registers of K::count keys, 64-byte aligned.
template <class K>
inline void sort_keys(typename K::key* keys, int64_t registers) {
  __m512i* v = reinterpret_cast<__m512i*>(keys);
  for (int64_t i = 0; i < registers; i++) v[i] = K::sorted(v[i]);
  for (int64_t half = 1; half < registers; half *= 2) {
    for (int64_t block = 0; block + half < registers; block += 2 * half)
      for (int64_t i = 0; i < half; i++) {
        const int64_t low = block + i, high = block + 2 * half - 1 - i;
        if (high >= registers) continue;
        const __m512i a = v[low], b = K::reverse(v[high]);
        v[low] = K::min(a, b);
        v[high] = K::reverse(K::max(a, b));
      }
    for (int64_t apart = half / 2; apart >= 1; apart /= 2)
      for (int64_t block = 0; block + apart < registers; block += 2 * apart) {
        const int64_t end = block + apart < registers - apart ? block + apart : registers - apart;
        for (int64_t i = block; i < end; i++) {
          const __m512i a = v[i], b = v[i + apart];
          v[i] = K::min(a, b);
          v[i + apart] = K::max(a, b);
        }
      }
    for (int64_t i = 0; i < registers; i++) v[i] = K::merged(v[i]);
  }
}

// The same for N times up to four registers, none of which goes to memory in between. Maxima stay in the mirrored
// order: what is merged next need only be bitonic.
template <class K, int N, int R>
[[gnu::always_inline]] inline void sort_registers(__m512i (&v)[N][R]) {
  static_assert(R >= 1 && R <= 4);
  const auto merge = [&v](int end) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < end; i++)
#pragma GCC unroll 2
      for (int n = 0; n < N; n++) v[n][i] = K::merged(v[n][i]);
  };
  const auto order = [&v](int low, int high, bool mirrored) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) {
      const __m512i a = v[n][low], b = mirrored ? K::reverse(v[n][high]) : v[n][high];
      v[n][low] = K::min(a, b), v[n][high] = K::max(a, b);
    }
  };
#pragma GCC unroll 4
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) v[n][i] = K::sorted(v[n][i]);
  if constexpr (R > 1) {
    order(0, 1, true);
    if constexpr (R > 3) order(2, 3, true);
    merge(R / 2 * 2);
  }
  if constexpr (R > 2) {
    if constexpr (R > 3) order(0, 3, true);
    order(1, 2, true), order(0, 1, false);
    if constexpr (R > 3) order(2, 3, false);
    merge(R);
  }
}

}  // namespace
}  // namespace kn::spgemm
