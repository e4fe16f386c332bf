#include "flat_gemm_panel.h"

#include <cstring>

namespace kn::flat_gemm {
namespace {

int64_t element_bits(int32_t type) { return type == KN_F32 ? 32 : type == KN_S8 ? 8 : type == KN_U4 ? 4 : 16; }

bool floating(int32_t type) { return type == KN_F32 || type == KN_BF16 || type == KN_F16; }

bool dtypes_ok(const kn_flat_gemm_problem& p) {
  const bool quantize = (p.flags & KN_GEMM_QUANTIZE_X) != 0;
  switch (p.w_type) {
    case KN_F32:
      return p.x_type == KN_F32 && p.y_type == KN_F32 && !quantize;
    case KN_BF16:
    case KN_F16:
      return floating(p.x_type) && floating(p.y_type) && !quantize;
    case KN_S8:
      if (p.y_type != KN_BF16 && p.y_type != KN_F32) return false;
      if (quantize) return p.x_type == KN_BF16 || p.x_type == KN_F32;
      return p.x_type == KN_S8 || p.x_type == KN_BF16;
    case KN_U4:
      return p.x_type == KN_BF16 && (p.y_type == KN_BF16 || p.y_type == KN_F32) && !quantize;
    default:
      return false;
  }
}

struct range {
  const char* begin;
  const char* end;
};

// The bytes from the first element of a strided matrix to its last. Empty when it has none.
range span(const void* base, int64_t rows, int64_t columns, int64_t stride, int64_t bits) {
  const char* b = static_cast<const char*>(base);
  if (b == nullptr || rows == 0 || columns == 0) return {b, b};
  return {b, b + ((rows - 1) * stride + columns) * bits / 8};
}

bool apart(range a, range b) { return a.end <= b.begin || b.end <= a.begin || a.begin == a.end || b.begin == b.end; }

uint8_t nibble(const uint8_t* row, int64_t k) { return (k & 1) ? row[k >> 1] >> 4 : row[k >> 1] & 15; }

struct pack_job {
  const kn_flat_gemm_problem* problem;
  const kn_flat_gemm_args* args;
  panels at;
};

template <class T>
void pack_plain(T* out, const void* row, int64_t k, int64_t lane, int64_t step) {
  const T* in = static_cast<const T*>(row);
  for (int64_t i = 0; i < k; i++) out[(i / step * kPanel + lane) * step + i % step] = in[i];
}

void pack_u4(const pack_job& job, int64_t panel, int64_t lane, int64_t row, uint16_t* out) {
  const kn_flat_gemm_problem& p = *job.problem;
  const bool has_zeros = (p.flags & KN_GEMM_ZEROS) != 0;
  char* base = static_cast<char*>(job.args->packed);
  float* scales = reinterpret_cast<float*>(base + job.at.scales_at) + panel * job.at.groups * kPanel;
  uint8_t* zeros = reinterpret_cast<uint8_t*>(base + job.at.zeros_at) + panel * job.at.groups * kPanel;
  const uint8_t* in =
      row < 0 || p.k == 0 ? nullptr : static_cast<const uint8_t*>(job.args->w) + row * (job.args->ldw / 2);
  for (int64_t g = 0; g < job.at.groups; g++) {
    const uint8_t zero = has_zeros && row >= 0 ? job.args->zeros[row * job.at.groups + g] & 15 : 8;
    scales[g * kPanel + lane] = row >= 0 ? job.args->scales[row * job.at.groups + g] : 0.0f;
    zeros[g * kPanel + lane] = zero;
    for (int64_t i = g * p.group; i < (g + 1) * p.group; i++) {
      const uint8_t q = in != nullptr && i < p.k ? nibble(in, i) : zero;
      out[(i / 8 * kPanel + lane) * 2 + i % 2] |= static_cast<uint16_t>(q << (i % 8 / 2 * 4));
    }
  }
}

void pack_panel(void* context, int64_t panel, int32_t) {
  const pack_job& job = *static_cast<const pack_job*>(context);
  const kn_flat_gemm_problem& p = *job.problem;
  char* base = static_cast<char*>(job.args->packed);
  char* out = base + panel * job.at.bytes;
  if (job.at.bytes > 0) std::memset(out, 0, static_cast<size_t>(job.at.bytes));  // k = 0 may come with null memory
  for (int64_t lane = 0; lane < kPanel; lane++) {
    const int64_t row = source_row(p, panel, lane);
    if (p.w_type == KN_U4) {
      pack_u4(job, panel, lane, row, reinterpret_cast<uint16_t*>(out));
      continue;
    }
    const char* in = row < 0 || p.k == 0
                         ? nullptr
                         : static_cast<const char*>(job.args->w) + row * job.args->ldw * element_bits(p.w_type) / 8;
    const int64_t k = row < 0 ? 0 : p.k;
    switch (p.w_type) {
      case KN_F32:
        pack_plain(reinterpret_cast<uint32_t*>(out), in, k, lane, 1);
        break;
      case KN_F16:
        pack_plain(reinterpret_cast<uint16_t*>(out), in, k, lane, 1);
        break;
      case KN_BF16:
        pack_plain(reinterpret_cast<uint16_t*>(out), in, k, lane, 2);
        break;
      default: {
        pack_plain(reinterpret_cast<int8_t*>(out), in, k, lane, 4);
        int32_t sum = 0;
        for (int64_t i = 0; i < k; i++) sum += static_cast<int8_t>(in[i]);
        reinterpret_cast<int32_t*>(base + job.at.sums_at)[panel * kPanel + lane] = sum;
        reinterpret_cast<float*>(base + job.at.scales_at)[panel * kPanel + lane] =
            row < 0 ? 0.0f : job.args->scales[row];
      }
    }
  }
}

}  // namespace

int64_t source_row(const kn_flat_gemm_problem& p, int64_t panel, int64_t lane) {
  const bool gated = (p.flags & KN_GEMM_GATED) != 0;
  const int64_t column = (gated ? panel / 2 : panel) * kPanel + lane;
  if (column >= p.n) return -1;
  return gated && (panel & 1) ? column + p.n : column;
}

panels panels_of(const kn_flat_gemm_problem& p) {
  panels at{};
  at.count = round_up(p.n, kPanel) / kPanel * ((p.flags & KN_GEMM_GATED) ? 2 : 1);
  const int64_t step = p.w_type == KN_BF16 ? 32 : p.w_type == KN_S8 ? 64 : p.w_type == KN_U4 ? p.group : 1;
  at.k_padded = round_up(p.k, step);
  at.bytes = at.k_padded * kPanel * element_bits(p.w_type) / 8;
  at.groups = p.w_type == KN_U4 ? at.k_padded / p.group : p.w_type == KN_S8 ? 1 : 0;
  at.scales_at = round_up(at.count * at.bytes, 64);
  at.zeros_at = at.scales_at + at.count * at.groups * kPanel * 4;
  at.sums_at = round_up(at.zeros_at + (p.w_type == KN_U4 ? at.count * at.groups * kPanel : 0), 64);
  at.total = round_up(at.sums_at + (p.w_type == KN_S8 ? at.count * kPanel * 4 : 0), 64);
  return at;
}

int32_t valid(const kn_flat_gemm_problem* problem, const kn_launch* launch, const char** why) {
  const kn_flat_gemm_problem& p = *problem;
  const bool dtypes = dtypes_ok(p);
  KN_REQUIRE(p.size == sizeof(kn_flat_gemm_problem));
  KN_REQUIRE(launch == nullptr || launch->size == sizeof(kn_launch));
  KN_REQUIRE(launch == nullptr || (launch->threads >= 0 && launch->threads <= 1024));
  KN_REQUIRE(p.m >= 0 && p.n >= 0 && p.k >= 0);
  KN_REQUIRE(p.m <= kLongest && p.n <= kLongest && p.k <= kLongest);
  KN_REQUIRE((p.flags & ~31) == 0);
  KN_REQUIRE(dtypes);
  KN_REQUIRE(p.w_type == KN_U4 ? (p.group == 32 || p.group == 64 || p.group == 128) : p.group == 0);
  KN_REQUIRE(p.w_type == KN_U4 || (p.flags & KN_GEMM_ZEROS) == 0);
  KN_REQUIRE(p.activation >= KN_ACT_NONE && p.activation <= KN_ACT_SILU);
  KN_REQUIRE((p.flags & KN_GEMM_GATED) == 0 || p.activation == KN_ACT_SILU);
  return 1;
}

int32_t check(const kn_flat_gemm_problem* problem, const kn_flat_gemm_args* args, int64_t packed, int64_t workspace) {
  if (args == nullptr) return kn_fail(KN_INVALID, "args: is null");
  const kn_flat_gemm_problem& p = *problem;
  const kn_flat_gemm_args& a = *args;
  KN_CHECK("args", a.size == sizeof(kn_flat_gemm_args));
  KN_CHECK("m", a.m >= 0 && a.m <= p.m);
  if (a.m == 0 || p.n == 0) return KN_OK;
  KN_CHECK("ldx", a.ldx >= p.k && a.ldx <= kLongest);
  KN_CHECK("ldy", a.ldy >= p.n && a.ldy <= kLongest);
  KN_CHECK("y", a.y != nullptr);
  KN_CHECK("x", a.x != nullptr || p.k == 0);
  KN_CHECK("x_scales", a.x_scales != nullptr || p.x_type != KN_S8);
  KN_CHECK("bias", a.bias != nullptr || !(p.flags & KN_GEMM_BIAS));
  KN_CHECK("residual", a.residual != nullptr || !(p.flags & KN_GEMM_RESIDUAL));
  KN_CHECK("ldr", !(p.flags & KN_GEMM_RESIDUAL) || (a.ldr >= p.n && a.ldr <= kLongest));
  KN_CHECK("workspace", workspace == 0 || (a.workspace != nullptr && a.workspace_bytes >= workspace));
  KN_CHECK("workspace", reinterpret_cast<uintptr_t>(a.workspace) % 64 == 0);
  const range y = span(a.y, a.m, p.n, a.ldy, element_bits(p.y_type));
  const range x = span(a.x, a.m, p.k, a.ldx, element_bits(p.x_type));
  KN_CHECK("y", apart(y, x));
  KN_CHECK("y", apart(y, span(a.workspace, 1, workspace, workspace, 8)));
  // Without a residual its stride may be any number.
  if ((p.flags & KN_GEMM_RESIDUAL) && !(a.residual == a.y && a.ldr == a.ldy)) {
    const range residual = span(a.residual, a.m, p.n, a.ldr, element_bits(p.y_type));
    KN_CHECK("y", apart(y, residual));
  }
  const int64_t columns = (p.flags & KN_GEMM_GATED) ? 2 * static_cast<int64_t>(p.n) : p.n;
  if (p.x_type == KN_S8) KN_CHECK("y", apart(y, span(a.x_scales, 1, a.m, a.m, 32)));
  if (p.flags & KN_GEMM_BIAS) KN_CHECK("y", apart(y, span(a.bias, 1, columns, columns, 32)));
  if (packed >= 0) {
    KN_CHECK("packed", packed == 0 || (a.packed != nullptr && a.packed_bytes >= packed));
    KN_CHECK("packed", reinterpret_cast<uintptr_t>(a.packed) % 64 == 0);
    KN_CHECK("y", apart(y, span(a.packed, 1, packed, packed, 8)));
  } else if (p.k > 0) {
    KN_CHECK("w", a.w != nullptr);
    KN_CHECK("ldw", a.ldw >= p.k && a.ldw <= kLongest && (p.w_type != KN_U4 || a.ldw % 2 == 0));
    KN_CHECK("scales", a.scales != nullptr || (p.w_type != KN_S8 && p.w_type != KN_U4));
    KN_CHECK("zeros", a.zeros != nullptr || !(p.flags & KN_GEMM_ZEROS));
    const range w = span(a.w, columns, p.k, a.ldw, element_bits(p.w_type));
    KN_CHECK("y", apart(y, w));
    const int64_t groups = p.w_type == KN_U4 ? (static_cast<int64_t>(p.k) + p.group - 1) / p.group : 1;
    if (p.w_type == KN_S8 || p.w_type == KN_U4) KN_CHECK("y", apart(y, span(a.scales, columns, groups, groups, 32)));
    if (p.flags & KN_GEMM_ZEROS) KN_CHECK("y", apart(y, span(a.zeros, columns, groups, groups, 8)));
  }
  return KN_OK;
}

bool y_apart(const kn_flat_gemm_problem& p, const kn_flat_gemm_args& a, const void* at, int64_t bytes) {
  return apart(span(a.y, a.m, p.n, a.ldy, element_bits(p.y_type)), span(at, 1, bytes, bytes, 8));
}

const char* layout(const void* problem) {
  switch (static_cast<const kn_flat_gemm_problem*>(problem)->w_type) {
    case KN_F32:
      return "panel16/f32";
    case KN_BF16:
      return "panel16/bf16";
    case KN_F16:
      return "panel16/f16";
    case KN_S8:
      return "panel16/s8";
    default:
      return "panel16/u4";
  }
}

int64_t packed_bytes(const void* problem) {
  const kn_flat_gemm_problem* p = static_cast<const kn_flat_gemm_problem*>(problem);
  const char* why;
  return p != nullptr && valid(p, nullptr, &why) ? panels_of(*p).total : 0;
}

int32_t prepack(const void* problem, const void* args) {
  const kn_flat_gemm_problem* p = static_cast<const kn_flat_gemm_problem*>(problem);
  const kn_flat_gemm_args* a = static_cast<const kn_flat_gemm_args*>(args);
  const char* why = nullptr;
  if (p == nullptr) return kn_fail(KN_INVALID, "problem: is null");
  if (!valid(p, nullptr, &why)) return kn_fail(KN_INVALID, why);
  if (a == nullptr) return kn_fail(KN_INVALID, "args: is null");
  pack_job job{p, a, panels_of(*p)};
  KN_CHECK("args", a->size == sizeof(kn_flat_gemm_args));
  KN_CHECK("packed", job.at.total == 0 || (a->packed != nullptr && a->packed_bytes >= job.at.total));
  KN_CHECK("packed", reinterpret_cast<uintptr_t>(a->packed) % 64 == 0);
  if (job.at.total == 0) return KN_OK;  // n is 0, or k is and nothing lies behind the panels
  KN_CHECK("w", a->w != nullptr || p->k == 0);
  KN_CHECK("ldw", a->ldw >= p->k && a->ldw <= kLongest && (p->w_type != KN_U4 || a->ldw % 2 == 0));
  KN_CHECK("scales", a->scales != nullptr || job.at.groups == 0);
  KN_CHECK("zeros", a->zeros != nullptr || !(p->flags & KN_GEMM_ZEROS));
  const int64_t columns = (p->flags & KN_GEMM_GATED) ? 2 * static_cast<int64_t>(p->n) : p->n;
  KN_CHECK("packed", apart(span(a->packed, 1, job.at.total, job.at.total, 8),
                           span(a->w, columns, p->k, a->ldw, element_bits(p->w_type))));
  kn_parallel(0, job.at.count, pack_panel, &job);
  return KN_OK;
}

}  // namespace kn::flat_gemm
