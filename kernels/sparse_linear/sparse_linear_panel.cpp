#include "sparse_linear_panel.h"

#include <cstring>

namespace kn::sparse_linear {
namespace {

using flat_gemm::kPanel;
using flat_gemm::round_up;

struct pack_job {
  const kn_sparse_linear_problem* problem;
  const kn_flat_gemm_args* args;
  sparse_panels at;
  char* packed;
  int64_t* offsets;
};

// f(k of the operand, position in it, value) for every weight of a panel, in the order of the layout.
template <class T, class F>
void each_weight(const pack_job& job, int64_t panel, F f) {
  const kn_flat_gemm_problem& q = job.problem->layer;
  const T* rows[kPanel];
  for (int64_t lane = 0; lane < kPanel; lane++) {
    const int64_t row = flat_gemm::source_row(q, panel, lane);
    rows[lane] = row < 0 || q.k == 0 ? nullptr : static_cast<const T*>(job.args->w) + row * job.args->ldw;
  }
  for (int64_t k0 = 0; k0 < q.k; k0 += job.at.step)
    for (int64_t lane = 0; lane < kPanel; lane++)
      for (int64_t i = 0; rows[lane] != nullptr && i < job.at.step && k0 + i < q.k; i++)
        f(k0, lane * job.at.step + i, rows[lane][k0 + i]);
}

// Bitmap, and in the place of each offset the count of the block.
template <class T>
void count_panel(void* context, int64_t panel, int32_t) {
  const pack_job& job = *static_cast<const pack_job*>(context);
  char* bits = job.packed + job.at.bits_at + panel * job.at.k_padded * 2;
  int64_t* counts = job.offsets + panel * job.at.blocks;
  std::memset(bits, 0, static_cast<size_t>(job.at.k_padded) * 2);
  std::memset(counts, 0, static_cast<size_t>(job.at.blocks) * 8);
  each_weight<T>(job, panel, [&](int64_t k, int64_t position, T value) {
    if (value == 0) return;
    bits[k * 2 + position / 8] = static_cast<char>(bits[k * 2 + position / 8] | 1 << position % 8);
    counts[k / kBlock]++;
  });
}

// By the bitmap: were w changed since it was counted, what it says would not fit.
template <class T>
void write_panel(void* context, int64_t panel, int32_t) {
  const pack_job& job = *static_cast<const pack_job*>(context);
  const kn_flat_gemm_problem& q = job.problem->layer;
  T* to = reinterpret_cast<T*>(job.packed + job.at.values_at) + job.offsets[panel * job.at.blocks];
  const char* bits = job.packed + job.at.bits_at + panel * job.at.k_padded * 2;
  int32_t sums[kPanel] = {};
  each_weight<T>(job, panel, [&](int64_t k, int64_t position, T value) {
    if (!(bits[k * 2 + position / 8] >> position % 8 & 1)) return;
    *to++ = value;
    if (sizeof(T) == 1) sums[position / job.at.step] += static_cast<int8_t>(value);
  });
  if (q.w_type != KN_S8) return;
  float* scales = reinterpret_cast<float*>(job.packed + job.at.scales_at) + panel * kPanel;
  for (int64_t lane = 0; lane < kPanel; lane++) {
    const int64_t row = flat_gemm::source_row(q, panel, lane);
    scales[lane] = row < 0 ? 0.0f : job.args->scales[row];
  }
  std::memcpy(job.packed + job.at.sums_at + panel * kPanel * 4, sums, sizeof sums);
}

template <class T>
int32_t pack(pack_job& job) {
  const int64_t blocks = job.at.count * job.at.blocks;
  kn_parallel(0, job.at.count, count_panel<T>, &job);
  int64_t sum = 0;
  for (int64_t i = 0; i < blocks; i++) {
    const int64_t count = job.offsets[i];
    job.offsets[i] = sum;
    sum += count;
  }
  job.offsets[blocks] = sum;
  if (sum != job.problem->nnz) return kn_fail(KN_INVALID, "w: requires as many elements that are not 0 as problem.nnz");
  kn_parallel(0, job.at.count, write_panel<T>, &job);
  std::memset(job.packed + job.at.values_at + sum * job.at.element, 0,
              static_cast<size_t>(job.at.total - job.at.values_at - sum * job.at.element));
  return KN_OK;
}

}  // namespace

sparse_panels panels_of(const kn_sparse_linear_problem& p) {
  const flat_gemm::panels dense = flat_gemm::panels_of(p.layer);
  const bool s8 = p.layer.w_type == KN_S8;
  sparse_panels at{};
  at.count = dense.count;
  at.k_padded = dense.k_padded;
  at.step = p.layer.w_type == KN_BF16 ? 2 : s8 ? 4 : 1;
  at.element = p.layer.w_type == KN_F32 ? 4 : s8 ? 1 : 2;
  at.blocks = round_up(at.k_padded, kBlock) / kBlock;
  at.bits_at = round_up((at.count * at.blocks + 1) * 8, 64);
  at.scales_at = round_up(at.bits_at + at.count * at.k_padded * 2, 64);
  at.sums_at = at.scales_at + (s8 ? at.count * kPanel * 4 : 0);
  at.values_at = at.sums_at + (s8 ? at.count * kPanel * 4 : 0);
  at.total = round_up(at.values_at + p.nnz * at.element + 64, 64);
  return at;
}

int32_t valid(const kn_sparse_linear_problem* problem, const kn_launch* launch, const char** why) {
  const kn_sparse_linear_problem& p = *problem;
  KN_REQUIRE(p.size == sizeof(kn_sparse_linear_problem));
  if (!flat_gemm::valid(&p.layer, launch, why)) return 0;
  const int64_t columns = (p.layer.flags & KN_GEMM_GATED) ? 2 * static_cast<int64_t>(p.layer.n) : p.layer.n;
  KN_REQUIRE(p.layer.w_type != KN_U4);
  KN_REQUIRE((p.sets & ~3) == 0);
  KN_REQUIRE(p.nnz >= 0 && p.nnz <= columns * p.layer.k);
  return 1;
}

int32_t check(const kn_sparse_linear_problem* problem, const kn_sparse_linear_args* args, int64_t workspace) {
  if (args == nullptr) return kn_fail(KN_INVALID, "args: is null");
  const kn_sparse_linear_problem& p = *problem;
  const kn_sparse_linear_args& a = *args;
  KN_CHECK("args", a.size == sizeof(kn_sparse_linear_args));
  const sparse_panels at = panels_of(p);
  if (const int32_t status = flat_gemm::check(&p.layer, &a.call, at.total, workspace); status != KN_OK) return status;
  if (a.call.m == 0 || p.layer.n == 0) return KN_OK;
  KN_CHECK("outputs", a.outputs != nullptr || !(p.sets & KN_SPARSE_OUTPUTS));
  KN_CHECK("inputs", a.inputs != nullptr || !(p.sets & KN_SPARSE_INPUTS) || p.layer.k == 0);
  const int64_t n_words = (static_cast<int64_t>(p.layer.n) + 63) / 64,
                k_words = (static_cast<int64_t>(p.layer.k) + 63) / 64;
  if (p.sets & KN_SPARSE_OUTPUTS) KN_CHECK("y", flat_gemm::y_apart(p.layer, a.call, a.outputs, n_words * 8));
  if (p.sets & KN_SPARSE_INPUTS) KN_CHECK("y", flat_gemm::y_apart(p.layer, a.call, a.inputs, k_words * 8));
  // The two ends of the offsets tell weights of another layer, or memory that was never packed.
  const int64_t* offsets = static_cast<const int64_t*>(a.call.packed);
  KN_CHECK("packed", offsets[0] == 0 && offsets[at.count * at.blocks] == p.nnz);
  return KN_OK;
}

const char* layout(const void* problem) {
  switch (static_cast<const kn_sparse_linear_problem*>(problem)->layer.w_type) {
    case KN_F32:
      return "sparse16/f32";
    case KN_BF16:
      return "sparse16/bf16";
    case KN_F16:
      return "sparse16/f16";
    default:
      return "sparse16/s8";
  }
}

int64_t packed_bytes(const void* problem) {
  const kn_sparse_linear_problem* p = static_cast<const kn_sparse_linear_problem*>(problem);
  const char* why;
  return p != nullptr && valid(p, nullptr, &why) ? panels_of(*p).total : 0;
}

int32_t prepack(const void* problem, const void* args) {
  const kn_sparse_linear_problem* p = static_cast<const kn_sparse_linear_problem*>(problem);
  const kn_sparse_linear_args* a = static_cast<const kn_sparse_linear_args*>(args);
  const char* why = nullptr;
  if (p == nullptr) return kn_fail(KN_INVALID, "problem: is null");
  if (!valid(p, nullptr, &why)) return kn_fail(KN_INVALID, why);
  if (a == nullptr) return kn_fail(KN_INVALID, "args: is null");
  KN_CHECK("args", a->size == sizeof(kn_sparse_linear_args));
  const kn_flat_gemm_args& c = a->call;
  KN_CHECK("args", c.size == sizeof(kn_flat_gemm_args));
  pack_job job{p, &c, panels_of(*p), static_cast<char*>(c.packed), static_cast<int64_t*>(c.packed)};
  KN_CHECK("packed", c.packed != nullptr && c.packed_bytes >= job.at.total);
  KN_CHECK("packed", reinterpret_cast<uintptr_t>(c.packed) % 64 == 0);
  KN_CHECK("w", c.w != nullptr || p->layer.k == 0 || p->layer.n == 0);
  KN_CHECK("ldw", c.ldw >= p->layer.k && c.ldw <= flat_gemm::kLongest);
  KN_CHECK("scales", c.scales != nullptr || p->layer.w_type != KN_S8 || p->layer.n == 0);
  return job.at.element == 4 ? pack<uint32_t>(job) : job.at.element == 2 ? pack<uint16_t>(job) : pack<uint8_t>(job);
}

}  // namespace kn::sparse_linear
