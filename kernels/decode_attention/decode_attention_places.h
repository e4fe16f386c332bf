// Where the keys and values of a chunk lie, and what belongs to them. Everything is static, see avx512.h.
#pragma once
#include <avx512.h>

#include "decode_attention_call.h"
#include "decode_attention_walk.h"

namespace kn::decode_attention {
namespace {

// What stands in for a key that is not seen: its score is finite and its value adds nothing, whatever memory holds.
alignas(64) inline constexpr char kNothing[kWidest * 4] = {};

// Where kv head 0 lies, by slots, in the order in which it is read: the keys of a chunk, its values, and those of the
// next one, to be fetched. Where there is none, anything that may be fetched.
struct located {
  const char* at[4 * kChunk];
  int64_t scale[2 * kChunk];
};

// Fills the second half.
inline void locate(const call& c, const sequence& s, int64_t chunk, int64_t end, located* out) {
  const kn_decode_attention_problem& p = *c.problem;
  const kn_decode_attention_args& a = *c.args;
  const int64_t k_bytes = bytes_of(p.kv_type), first = larger(chunk, s.begin), last = smaller(chunk + kChunk, end);
  const int64_t length = p.page_size > 0 ? p.page_size : kMost;
  // Strides of scales that there are not may be any number.
  const bool scaled = (p.flags & KN_ATTN_SCALES) != 0;
  const int64_t scale_page = scaled ? a.scale_page : 0, scale_token = scaled ? a.scale_token : 0;
  const char **const next_k = out->at + 2 * kChunk, **const next_v = next_k + kChunk;
  if (last - first < kChunk)
    for (int64_t i = 0; i < kChunk; i++)
      next_k[i] = static_cast<const char*>(a.k), next_v[i] = static_cast<const char*>(a.v);
  int64_t number = first / length, in_page = first % length;
  for (int64_t j = first; j < last; number++, in_page = 0) {
    const int64_t page = p.page_size > 0 ? a.pages[s.index * a.pages_ld + number] : s.index;
    const char* k = static_cast<const char*>(a.k) + (page * a.k_page + in_page * a.k_token) * k_bytes;
    const char* v = static_cast<const char*>(a.v) + (page * a.v_page + in_page * a.v_token) * k_bytes;
    int64_t scale = page * scale_page + in_page * scale_token;
    for (const int64_t stop = smaller(last, j + length - in_page); j < stop; j++) {
      const int64_t slot = slot_of(j - chunk);
      next_k[slot] = k, next_v[slot] = v, out->scale[kChunk + slot] = scale;
      if (scaled) __builtin_prefetch(a.k_scales + scale), __builtin_prefetch(a.v_scales + scale);
      k += a.k_token * k_bytes, v += a.v_token * k_bytes, scale += scale_token;
    }
  }
}

inline void advance(located* at) {
  memcpy(at->at, at->at + 2 * kChunk, sizeof at->at / 2);
  memcpy(at->scale, at->scale + kChunk, sizeof at->scale / 2);
}

inline int64_t k_offset(const call& c, int64_t head) { return head * c.args->k_head * bytes_of(c.problem->kv_type); }
inline int64_t v_offset(const call& c, int64_t head) { return head * c.args->v_head * bytes_of(c.problem->kv_type); }

inline void look(const call& c, const located& at, int64_t head, uint64_t seen, view* out) {
  out->at = at.at;
  if (seen == ~uint64_t{0}) return;
  memcpy(out->own, at.at, sizeof out->own);
  const char *const no_k = moved(kNothing, -k_offset(c, head)), *const no_v = moved(kNothing, -v_offset(c, head));
  for (int64_t i = 0; i < kChunk; i++)
    if (!(seen >> i & 1)) out->own[i] = no_k, out->own[kChunk + i] = no_v;
  out->at = out->own;
}

// Scales of a few heads or more that lie side by side are turned, those of 16 slots and 16 heads at once.
constexpr int64_t kFewHeads = 4;

inline void scales(const call& c, const located& at, int64_t head0, int64_t heads, uint64_t seen, view* out) {
  const int64_t stride = c.args->scale_head;
  const float *const k = c.args->k_scales + head0 * stride, *const v = c.args->v_scales + head0 * stride;
  const auto there = [&](int64_t slot) KN_INLINE { return (seen >> slot & 1) != 0; };
  if (stride != 1 || heads < kFewHeads) {
    for (int64_t h = 0; h < heads; h++)
      for (int64_t i = 0; i < kChunk; i++) {
        out[h].keys.k_scale[i] = there(i) ? k[h * stride + at.scale[i]] : 0;
        out[h].keys.v_scale[i] = there(i) ? v[h * stride + at.scale[i]] : 0;
      }
    return;
  }
  const auto turn = [&](const float* from, int64_t h, int64_t slot, auto to) KN_INLINE {
    __m512 x[16];
    each<16>([&](auto i) KN_INLINE {
      const bool seen_there = there(slot + i);
      const __mmask16 mask = seen_there ? first_lanes(heads - h) : __mmask16{0};
      x[i] = _mm512_maskz_loadu_ps(mask, from + h + (seen_there ? at.scale[slot + i] : 0));
    });
    transpose(x);
    each<16>([&](auto i) KN_INLINE {
      if (h + i < heads) _mm512_store_ps(to(out[h + i].keys) + slot, x[i]);
    });
  };
  for (int64_t h = 0; h < heads; h += 16)
    for (int64_t slot = 0; slot < kChunk; slot += 16) {
      turn(k, h, slot, [](marks& m) { return m.k_scale; });
      turn(v, h, slot, [](marks& m) { return m.v_scale; });
    }
}

inline void positions(const call& c, const sequence& s, int64_t chunk, int32_t* out) {
  const bool tree = (c.problem->flags & KN_ATTN_TREE) != 0;
  for (int64_t i = 0; i < kChunk; i++) {
    const int64_t j = chunk + token_of(i), t = j - s.first_new;
    out[i] = static_cast<int32_t>(tree && t >= 0 && t < s.tokens ? position_of(*c.problem, *c.args, s, t) : j);
  }
}

}  // namespace
}  // namespace kn::decode_attention
