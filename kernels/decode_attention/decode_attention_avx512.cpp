// The row for machines with AVX-512: everything but s8 is multiplied in f32.
#include "decode_attention_f32.h"
#include "decode_attention_rows.h"
#include "decode_attention_s8.h"

namespace kn::decode_attention {
namespace {

struct avx512 {
  static bool takes(const kn_decode_attention_problem&, const char**) { return true; }

  template <class F>
  static void with_engine(const kn_decode_attention_problem& p, F f) {
    switch (p.kv_type) {
      case KN_BF16:
        return f.template operator()<f32_engine<from_bf16>>();
      case KN_F16:
        return f.template operator()<f32_engine<from_f16>>();
      case KN_S8:
        // 15 bits of q and of the weights err by more than twice what plain attention of f32 does.
        return p.q_type != KN_F32 && s8_engine::takes(p) ? f.template operator()<s8_engine>()
                                                         : f.template operator()<f32_engine<from_s8>>();
      case KN_E4M3:
        return f.template operator()<f32_engine<from_e4m3>>();
      default:
        return f.template operator()<f32_engine<from_f32>>();
    }
  }
};

}  // namespace
}  // namespace kn::decode_attention

extern "C" const kn_row decode_attention_avx512 =
    kn::decode_attention::row_of<kn::decode_attention::avx512>::row("decode_attention/avx512", "avx512", KN_CPU_AVX512);
