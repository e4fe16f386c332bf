// Loops whose index is a constant in every turn, so that arrays of vectors stay in registers. Everything is static, see
// avx512.h.
#pragma once
#include <utility>

namespace kn {
namespace {

template <int N, class F>
inline __attribute__((always_inline)) void each(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

}  // namespace
}  // namespace kn
