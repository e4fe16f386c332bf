// Non-zeros and their bitmap to the operands of a panel as flat_gemm lays them out.
#pragma once
#include <avx512.h>
#include <unroll.h>

#include <bit>
#include <type_traits>

#include "sparse_linear_panel.h"

namespace kn::sparse_linear {
namespace {

template <class Word>
Word word_at(const char* bits) {
  Word w;
  memcpy(&w, bits, sizeof w);
  return w;
}

// Unsigned, for then it needs no extension to 64 bits.
template <class Word>
uint32_t count(Word bits) {
  return static_cast<uint32_t>(std::popcount(bits));
}

// A word: the bits of kOperands operands that follow one another. expand<I> brings the values of the I-th in their
// places; `values` are those of the word, `m` its bits as a mask. Loads are of 64 bytes.
template <class Word, int64_t Element>
struct one_operand {
  using word = Word;
  static constexpr int kOperands = 1;
  static constexpr int64_t kElement = Element;
  static word mask(const char* bits) { return word_at<word>(bits); }
};

struct expand_f32 : one_operand<uint16_t, 4> {
  template <int>
  static __m512i expand(__m512i zeros, const char* values, word, word m) {
    return _mm512_mask_expand_epi32(zeros, m, _mm512_loadu_si512(values));
  }
};

struct expand_f16 : one_operand<uint16_t, 2> {
  template <int>
  static __m256i expand(__m512i zeros, const char* values, word, word m) {
    return _mm256_mask_expand_epi16(_mm512_castsi512_si256(zeros), m,
                                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  }
};

// Moving bits to a mask takes one of the two ports that vpexpandw takes both of, a shift of masks takes neither: two
// operands share a move, and it is one from memory, since those from a register delay products.
struct expand_bf16 {
  using word = uint64_t;
  static constexpr int kOperands = 2;
  static constexpr int64_t kElement = 2;
  static __mmask64 mask(const char* bits) {
#if defined(__GNUC__)
    __mmask64 m;
    __asm__("kmovq %1, %0" : "=k"(m) : "m"(*reinterpret_cast<const char(*)[8]>(bits)));
    return m;
#else
    return word_at<word>(bits);
#endif
  }
  template <int I>
  static __m512i expand(__m512i zeros, const char* values, word bits, __mmask64 m) {
    if (I == 1) {
      m = _kshiftri_mask64(m, 32);
      values += count(static_cast<uint32_t>(bits)) * kElement;
    }
    return _mm512_mask_expand_epi16(zeros, static_cast<__mmask32>(m), _mm512_loadu_si512(values));
  }
};

struct expand_s8 : one_operand<uint64_t, 1> {
  template <int>
  static __m512i expand(__m512i zeros, const char* values, word, word m) {
    return _mm512_mask_expand_epi8(zeros, m, _mm512_loadu_si512(values));
  }
};

// Where the values of the next word are.
template <class Expand>
const char* after(const char* values, typename Expand::word bits) {
  return values + count(bits) * Expand::kElement;
}

// How far ahead expand_to asks for values: the hardware loses streams whose steps are uneven.
constexpr int64_t kAheadBytes = 2048;

// `count` operands of a panel to flat_gemm's panel.
template <class Expand>
void expand_to(const char* values, const char* bits, int64_t count, char* out) {
  constexpr int64_t kOut = std::is_same_v<Expand, expand_f16> ? 32 : 64;
  using word = typename Expand::word;
  for (int64_t i = 0; i < count; i += Expand::kOperands, bits += sizeof(word)) {
    const word w = word_at<word>(bits);
    const auto m = Expand::mask(bits);
    for (int j = 0; j < Expand::kOperands; j++) _mm_prefetch(values + kAheadBytes + j * 64, _MM_HINT_T0);
    each<Expand::kOperands>([&](auto o) __attribute__((always_inline)) {
      const auto operand = Expand::template expand<o>(cleared(), values, w, m);
      memcpy(out, &operand, sizeof operand);
      out += kOut;
    });
    values = after<Expand>(values, w);
  }
}

// Bytes that the values of a word take, if all are there.
template <class Expand>
constexpr double bytes_of = 8 * sizeof(typename Expand::word) * Expand::kElement;

inline double bytes_of_turn(int32_t w_type) {
  return w_type == KN_F32    ? bytes_of<expand_f32>
         : w_type == KN_BF16 ? bytes_of<expand_bf16>
         : w_type == KN_F16  ? bytes_of<expand_f16>
                             : bytes_of<expand_s8>;
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
