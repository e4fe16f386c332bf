#include "decode_attention_check.h"

#include <cmath>

#include "decode_attention_tokens.h"

namespace kn::decode_attention {

int64_t bytes_of(int32_t type) { return type == KN_F32 ? 4 : type == KN_S8 || type == KN_E4M3 ? 1 : 2; }

int64_t times(int64_t a, int64_t b) { return a != 0 && b > kMost / a ? kMost : a * b; }
int64_t plus(int64_t a, int64_t b) { return a > kMost - b ? kMost : a + b; }

namespace {

constexpr int64_t kLongest = int64_t{1} << 28, kMostQHeads = int64_t{1} << 16;
constexpr int64_t kStride = int64_t{1} << 40;

bool dtypes_ok(const kn_decode_attention_problem& p) {
  if (p.q_type != KN_F32 && p.q_type != KN_BF16 && p.q_type != KN_F16) return false;
  if (p.out_type != p.q_type && p.out_type != KN_F32) return false;
  return p.kv_type == p.q_type || p.kv_type == KN_S8 || p.kv_type == KN_E4M3;
}

bool stride_ok(int64_t stride) { return stride >= 0 && stride <= kStride; }

struct range {
  const void* begin;
  int64_t bytes;  // kMost: more than there is memory
};

struct dimension {
  int64_t count, stride;
};

// From the first element to the last.
range span(const void* base, dimension a, dimension b, dimension c, int64_t width, int64_t bytes) {
  if (a.count == 0 || b.count == 0 || c.count == 0) return {base, 0};
  int64_t elements = width;
  const dimension all[] = {a, b, c};
  for (const dimension d : all) elements = plus(elements, times(d.count - 1, d.stride));
  return {base, times(elements, bytes)};
}

bool apart(range a, range b) {
  const uintptr_t x = reinterpret_cast<uintptr_t>(a.begin), y = reinterpret_cast<uintptr_t>(b.begin);
  if (a.bytes == 0 || b.bytes == 0) return true;
  return x <= y ? y - x >= static_cast<uintptr_t>(a.bytes) : x - y >= static_cast<uintptr_t>(b.bytes);
}

// No element of a tensor lies where another one does.
bool disjoint(dimension a, dimension b, int64_t width) {
  if (a.count <= 1 && b.count <= 1) return true;
  if (a.count <= 1) return b.stride >= width;
  if (b.count <= 1) return a.stride >= width;
  const dimension inner = a.stride < b.stride ? a : b, outer = a.stride < b.stride ? b : a;
  return inner.stride >= width && outer.stride >= times(inner.count - 1, inner.stride) + width;
}

bool ascending(const kn_decode_attention_problem& p, const kn_decode_attention_args& a) {
  if (a.q_start == nullptr || a.q_start[0] != 0) return a.q_start == nullptr;
  for (int64_t b = 0; b < a.batch; b++) {
    const int64_t tokens = static_cast<int64_t>(a.q_start[b + 1]) - a.q_start[b];
    if (tokens < 0 || tokens > p.q_len) return false;
  }
  return true;
}

bool lengths_ok(const kn_decode_attention_problem& p, const kn_decode_attention_args& a) {
  for (int64_t b = 0; b < a.batch; b++)
    if (a.kv_lens[b] < 0 || a.kv_lens[b] > p.kv_len) return false;
  return true;
}

bool later_ok(const kn_decode_attention_args& a) {
  for (int64_t b = 0; a.kv_later != nullptr && b < a.batch; b++)
    if (a.kv_later[b] < 0 || a.kv_later[b] > kLongest - a.kv_lens[b]) return false;
  return true;
}

// What the sequences of a call need together.
struct extent {
  int64_t tokens, longest;  // new tokens; the longest kv_len of a sequence that has any
};

extent extent_of(const kn_decode_attention_problem& p, const kn_decode_attention_args& a) {
  extent e{};
  for (int64_t b = 0; b < a.batch; b++) {
    const sequence s = sequence_of(p, a, b);
    e.tokens += s.tokens;
    if (s.tokens > 0) e.longest = larger(e.longest, s.kv_len);
  }
  return e;
}

// The pages in use: those before the window may be gone already.
bool pages_ok(const kn_decode_attention_problem& p, const kn_decode_attention_args& a) {
  for (int64_t b = 0; b < a.batch; b++) {
    const sequence s = sequence_of(p, a, b);
    if (s.tokens == 0 || s.begin == s.kv_len) continue;
    for (int64_t i = s.begin / p.page_size; i * p.page_size < s.kv_len; i++) {
      const int32_t id = a.pages[b * a.pages_ld + i];
      if (id < 0 || id >= a.page_count) return false;
    }
  }
  return true;
}

bool tree_ok(const kn_decode_attention_problem& p, const kn_decode_attention_args& a) {
  for (int64_t b = 0; b < a.batch; b++) {
    const sequence s = sequence_of(p, a, b);
    for (int64_t t = 0; t < s.tokens; t++)
      if (a.tree[s.token0 + t] >> t != 1) return false;
  }
  return true;
}

bool all_finite(const float* values, int64_t count, float least) {
  for (int64_t i = 0; i < count; i++)
    if (!std::isfinite(values[i]) || values[i] < least) return false;
  return true;
}

bool below_infinity(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!(values[i] < INFINITY)) return false;
  return true;
}

int32_t check_cache(const kn_decode_attention_problem& p, const kn_decode_attention_args& a, extent e) {
  KN_CHECK("page_count", a.page_count >= 0 && (p.page_size > 0 || a.page_count >= a.batch));
  if (p.page_size > 0) {
    const int64_t pages_needed = (e.longest + p.page_size - 1) / p.page_size;
    KN_CHECK("pages_ld", a.pages_ld >= pages_needed && a.pages_ld <= kStride);
    KN_CHECK("pages", a.pages != nullptr);
    const bool pages_are_less_than_page_count = pages_ok(p, a);
    KN_CHECK("pages", pages_are_less_than_page_count);
  }
  KN_CHECK("k", a.k != nullptr);
  KN_CHECK("v", a.v != nullptr);
  KN_CHECK("k_page, k_token, k_head", stride_ok(a.k_page) && stride_ok(a.k_token) && stride_ok(a.k_head));
  KN_CHECK("v_page, v_token, v_head", stride_ok(a.v_page) && stride_ok(a.v_token) && stride_ok(a.v_head));
  if (p.flags & KN_ATTN_SCALES) {
    KN_CHECK("k_scales", a.k_scales != nullptr);
    KN_CHECK("v_scales", a.v_scales != nullptr);
    KN_CHECK("scale_page, scale_token, scale_head",
             stride_ok(a.scale_page) && stride_ok(a.scale_token) && stride_ok(a.scale_head));
  }
  KN_CHECK("key_norms", a.key_norms != nullptr || !(p.flags & KN_ATTN_NORMS));
  return KN_OK;
}

int32_t check_heads(const kn_decode_attention_problem& p, const kn_decode_attention_args& a) {
  KN_CHECK("scale", std::isfinite(a.scale) && a.scale > 0);
  if (p.flags & KN_ATTN_PHI) {
    KN_CHECK("phi", a.phi != nullptr);
    const bool phi_is_finite = all_finite(a.phi, p.q_heads, -INFINITY);
    KN_CHECK("phi", phi_is_finite);
  }
  if (p.flags & KN_ATTN_ALIBI) {
    KN_CHECK("alibi", a.alibi != nullptr);
    const bool slopes_are_finite_and_not_negative = all_finite(a.alibi, p.q_heads, 0);
    KN_CHECK("alibi", slopes_are_finite_and_not_negative);
  }
  if (p.flags & KN_ATTN_SINKS) {
    KN_CHECK("sinks", a.sinks != nullptr);
    const bool sinks_are_below_infinity = below_infinity(a.sinks, p.q_heads);
    KN_CHECK("sinks", sinks_are_below_infinity);
  }
  return KN_OK;
}

// What is written is apart from everything else.
int32_t check_overlap(const kn_decode_attention_problem& p, const kn_decode_attention_args& a, extent e,
                      int64_t workspace) {
  const bool cache = e.longest > 0, scaled = cache && (p.flags & KN_ATTN_SCALES), paged = p.page_size > 0;
  const dimension one{1, 0}, tokens{e.tokens, a.q_token};
  const int64_t pages = smaller(a.page_count, int64_t{1} << 31), in_page = paged ? p.page_size : e.longest;
  const auto per_head = [&](const void* values, int32_t flag) {
    return range{values, (p.flags & flag) ? p.q_heads * int64_t{4} : 0};
  };
  const auto cached = [&](bool used, const void* base, int64_t page, int64_t token, int64_t head, int64_t width,
                          int64_t bytes) {
    return span(base, {used ? pages : 0, page}, {in_page, token}, {p.kv_heads, head}, width, bytes);
  };
  const int64_t kv_bytes = bytes_of(p.kv_type);
  const range read[] = {
      span(a.q, tokens, {p.q_heads, a.q_head}, one, p.head_dim, bytes_of(p.q_type)),
      cached(cache, a.k, a.k_page, a.k_token, a.k_head, p.head_dim, kv_bytes),
      cached(cache, a.v, a.v_page, a.v_token, a.v_head, p.v_head_dim, kv_bytes),
      cached(scaled, a.k_scales, a.scale_page, a.scale_token, a.scale_head, 1, 4),
      cached(scaled, a.v_scales, a.scale_page, a.scale_token, a.scale_head, 1, 4),
      {a.kv_lens, a.batch * int64_t{4}},
      {a.kv_later, a.kv_later != nullptr ? a.batch * int64_t{4} : 0},
      {a.q_start, a.q_start != nullptr ? (a.batch + int64_t{1}) * 4 : 0},
      span(a.pages, {cache && paged ? a.batch : 0, a.pages_ld}, one, one, a.pages_ld, 4),
      {a.key_norms, cache && (p.flags & KN_ATTN_NORMS) ? times(pages, p.kv_heads * int64_t{4}) : 0},
      per_head(a.phi, KN_ATTN_PHI),
      per_head(a.alibi, KN_ATTN_ALIBI),
      per_head(a.sinks, KN_ATTN_SINKS),
      {a.tree, (p.flags & KN_ATTN_TREE) ? e.tokens * 4 : 0},
  };
  const range written[] = {
      span(a.out, {e.tokens, a.out_token}, {p.q_heads, a.out_head}, one, p.v_head_dim, bytes_of(p.out_type)),
      a.lse == nullptr ? range{} : span(a.lse, {e.tokens, a.lse_token}, one, one, p.q_heads, 4),
      {a.recomputed, a.recomputed != nullptr ? 8 : 0},
      {a.workspace, workspace},
  };
  bool strides_fit_in_memory = true, outputs_overlap_nothing = true;
  for (const range& r : read) strides_fit_in_memory &= r.bytes < kMost;
  for (const range& w : written) {
    strides_fit_in_memory &= w.bytes < kMost;
    for (const range& r : read) outputs_overlap_nothing &= apart(w, r);
    for (const range& other : written) outputs_overlap_nothing &= &w == &other || apart(w, other);
  }
  KN_CHECK("page_count and strides", strides_fit_in_memory);
  KN_CHECK("out, lse, recomputed, workspace", outputs_overlap_nothing);
  return KN_OK;
}

}  // namespace

int32_t valid(const kn_decode_attention_problem* problem, const kn_launch* launch, const char** why) {
  const kn_decode_attention_problem& p = *problem;
  const bool dtypes = dtypes_ok(p);
  KN_REQUIRE(p.size == sizeof(kn_decode_attention_problem));
  KN_REQUIRE(launch == nullptr || launch->size == sizeof(kn_launch));
  KN_REQUIRE(launch == nullptr || (launch->threads >= 0 && launch->threads <= 1024));
  KN_REQUIRE(dtypes);
  KN_REQUIRE(p.batch >= 0 && p.batch <= 1 << 20);
  KN_REQUIRE(p.q_len >= 1 && p.q_len <= 16);
  KN_REQUIRE(p.kv_heads >= 1 && p.q_heads >= 1 && p.q_heads <= kMostQHeads);
  KN_REQUIRE(p.q_heads % p.kv_heads == 0);
  KN_REQUIRE(p.head_dim >= 8 && p.head_dim <= kWidest && p.head_dim % 8 == 0);
  KN_REQUIRE(p.v_head_dim >= 8 && p.v_head_dim <= kWidest && p.v_head_dim % 8 == 0);
  KN_REQUIRE(p.kv_len >= 0 && p.kv_len <= kLongest);
  KN_REQUIRE(p.page_size >= 0 && p.page_size <= kLongest);
  KN_REQUIRE(p.window >= 0 && p.window <= kLongest);
  KN_REQUIRE(std::isfinite(p.softcap) && p.softcap >= 0);
  KN_REQUIRE((p.flags & ~255) == 0);
  KN_REQUIRE((p.flags & KN_ATTN_FULL) == 0 || ((p.flags & (KN_ATTN_TREE | KN_ATTN_ALIBI)) == 0 && p.window == 0));
  KN_REQUIRE(p.kv_type != KN_S8 || (p.flags & KN_ATTN_SCALES) != 0);
  KN_REQUIRE((p.flags & KN_ATTN_SCALES) == 0 || p.kv_type == KN_S8 || p.kv_type == KN_E4M3);
  return 1;
}

int32_t check(const kn_decode_attention_problem* problem, const kn_decode_attention_args* args, int64_t workspace) {
  if (args == nullptr) return kn_fail(KN_INVALID, "args: is null");
  const kn_decode_attention_problem& p = *problem;
  const kn_decode_attention_args& a = *args;
  KN_CHECK("args", a.size == sizeof(kn_decode_attention_args));
  KN_CHECK("batch", a.batch >= 0 && a.batch <= p.batch);
  if (a.batch == 0) return KN_OK;
  KN_CHECK("kv_lens", a.kv_lens != nullptr);
  const bool ascending_from_0_by_at_most_q_len = ascending(p, a), kv_lens_are_at_most_kv_len = lengths_ok(p, a);
  KN_CHECK("q_start", ascending_from_0_by_at_most_q_len);
  KN_CHECK("q_len", a.q_start != nullptr || (a.q_len >= 0 && a.q_len <= p.q_len));
  KN_CHECK("kv_lens", kv_lens_are_at_most_kv_len);
  const bool kv_lens_with_kv_later_are_at_most_2_28 = later_ok(a);
  KN_CHECK("kv_later", kv_lens_with_kv_later_are_at_most_2_28);
  const extent e = extent_of(p, a);
  if (e.tokens == 0) return KN_OK;
  KN_CHECK("q", a.q != nullptr);
  KN_CHECK("q_token, q_head", stride_ok(a.q_token) && stride_ok(a.q_head));
  KN_CHECK("out", a.out != nullptr);
  KN_CHECK("out_token, out_head", stride_ok(a.out_token) && stride_ok(a.out_head));
  const bool rows_are_disjoint = disjoint({e.tokens, a.out_token}, {p.q_heads, a.out_head}, p.v_head_dim);
  KN_CHECK("out_token, out_head", rows_are_disjoint);
  KN_CHECK("lse_token", a.lse == nullptr || (stride_ok(a.lse_token) && (e.tokens == 1 || a.lse_token >= p.q_heads)));
  if (const int32_t status = check_heads(p, a); status != KN_OK) return status;
  if (p.flags & KN_ATTN_TREE) {
    KN_CHECK("tree", a.tree != nullptr);
    const bool masks_hold_their_own_bit_and_none_later = tree_ok(p, a);
    KN_CHECK("tree", masks_hold_their_own_bit_and_none_later);
  }
  if (e.longest > 0)
    if (const int32_t status = check_cache(p, a, e); status != KN_OK) return status;
  KN_CHECK("workspace", workspace == 0 || (a.workspace != nullptr && a.workspace_bytes >= workspace));
  KN_CHECK("workspace", reinterpret_cast<uintptr_t>(a.workspace) % 64 == 0);
  return check_overlap(p, a, e, workspace);
}

}  // namespace kn::decode_attention
