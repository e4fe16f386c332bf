// Non-zeros and their bitmap to the operands of a panel as flat_gemm lays them out.
#pragma once
#include <avx512.h>

#include <bit>
#include <type_traits>

#include "sparse_linear_panel.h"

namespace kn::sparse_linear {
namespace {

// Zen 5 waits for the old destination of a zero-masked vpexpand too. Cleared first, which renaming does for nothing,
// several are under way at once.
inline __m512i cleared() {
  __m512i zero = _mm512_setzero_si512();
#if defined(__GNUC__)
  __asm__("" : "+v"(zero));  // or the compiler would see zero-masking in it
#endif
  return zero;
}

// An operand: its bits, and the values they stand for in their places. Loads are of 64 bytes and stay apart from the
// expansion, whose form with a memory operand is microcoded on Zen 4.
struct expand_f32 {
  using mask = uint16_t;
  static constexpr int64_t kElement = 4;
  static int count(mask m) { return _mm_popcnt_u32(m); }
  static __m512i expand(const char* values, mask m) {
    return _mm512_mask_expand_epi32(cleared(), m, _mm512_loadu_si512(values));
  }
};

struct expand_f16 {
  using mask = uint16_t;
  static constexpr int64_t kElement = 2;
  static int count(mask m) { return _mm_popcnt_u32(m); }
  static __m256i expand(const char* values, mask m) {
    return _mm256_mask_expand_epi16(_mm512_castsi512_si256(cleared()), m,
                                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  }
};

struct expand_bf16 {
  using mask = uint32_t;
  static constexpr int64_t kElement = 2;
  static int count(mask m) { return _mm_popcnt_u32(m); }
  static __m512i expand(const char* values, mask m) {
    return _mm512_mask_expand_epi16(cleared(), m, _mm512_loadu_si512(values));
  }
};

struct expand_s8 {
  using mask = uint64_t;
  static constexpr int64_t kElement = 1;
  static int count(mask m) { return static_cast<int>(_mm_popcnt_u64(m)); }
  static __m512i expand(const char* values, mask m) {
    return _mm512_mask_expand_epi8(cleared(), m, _mm512_loadu_si512(values));
  }
};

// The values are somewhere in memory: the lines this far ahead are asked for, since the hardware loses streams whose
// steps are uneven.
constexpr int64_t kAheadBytes = 2048;

// `count` operands of a panel to flat_gemm's panel.
template <class Expand>
void expand_to(const char* values, const char* bits, int64_t count, char* out) {
  using mask = typename Expand::mask;
  constexpr int64_t kOut = std::is_same_v<Expand, expand_f16> ? 32 : 64;
  for (int64_t i = 0; i < count; i++, out += kOut) {
    mask m;
    memcpy(&m, bits + i * sizeof m, sizeof m);
    _mm_prefetch(values + kAheadBytes, _MM_HINT_T0);
    const auto operand = Expand::expand(values, m);
    memcpy(out, &operand, sizeof operand);
    values += Expand::count(m) * Expand::kElement;
  }
}

inline void expand_panel(int32_t w_type, const char* values, const char* bits, int64_t count, char* out) {
  switch (w_type) {
    case KN_F32:
      return expand_to<expand_f32>(values, bits, count, out);
    case KN_BF16:
      return expand_to<expand_bf16>(values, bits, count, out);
    case KN_F16:
      return expand_to<expand_f16>(values, bits, count, out);
    default:
      return expand_to<expand_s8>(values, bits, count, out);
  }
}

}  // namespace
}  // namespace kn::sparse_linear
