// For machines without their own file: the compiler's vectors of a plain loop.
#include <array>

#include "peak.h"

namespace {

struct f32 {
  using type = std::array<float, 4>;
  static constexpr int32_t ops = 8;
  const float a = unknown(), b = a;
  type start(int i) const {
    type v;
    v.fill(static_cast<float>(i));
    return v;
  }
  type step(type sum) const {
    for (float& s : sum) {
#if defined(__FP_FAST_FMAF)
      s = __builtin_fmaf(a, b, s);
#else
      s = (s + a) * b;  // two operations that cannot be hoisted
#endif
    }
    return sum;
  }
};

}  // namespace

extern constexpr kn_peak kn_peak_f32_plain = peak_of<f32, 12>("f32_plain", 0);
