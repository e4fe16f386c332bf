// The row for one-off products: reads w[n,k] as it is, no packing. Dots run along k in 16 lanes and are added across
// lanes at the end, so it costs more operations per weight than the packed rows, and nothing before the first call.
#include "flat_gemm_drive.h"

namespace kn::flat_gemm {
namespace {

constexpr int kTile = 4;  // rows of x by rows of w: 16 accumulators, 8 loads for 16 multiply-adds

struct direct_engine {
  using x_t = float;
  static constexpr bool kInteger = false;

  static void prepare(int32_t type, const void* x, int64_t k, float* out, int64_t padded, float*) {
    widen_row(type, x, k, out, padded);
  }
};

// out[r][c] of R rows of x (f32, padded) and C rows of w over all of k.
template <int R, int C>
void dots(const plan& p, const float* x, const char* w, int64_t w_bytes, float* out, int64_t ld) {
  const int32_t type = p.problem->w_type;
  const int64_t k = p.problem->k;
  __m512 c[R][C];
  for (auto& row : c)
    for (auto& v : row) v = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i += 16) {
    const __mmask16 mask = first_lanes(k - i);
    __m512 b[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) b[j] = load(type, w + j * w_bytes, i, mask);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const __m512 a = _mm512_loadu_ps(x + r * p.ldx + i);
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) c[r][j] = _mm512_fmadd_ps(a, b[j], c[r][j]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < C; j++) out[r * ld + j] = _mm512_reduce_add_ps(c[r][j]);
}

template <int R>
void dots_of_rows(const plan& p, const float* x, const char* w, int64_t w_bytes, int64_t columns, float* out,
                  int64_t ld) {
  int64_t j = 0;
  for (; j + kTile <= columns; j += kTile) dots<R, kTile>(p, x, w + j * w_bytes, w_bytes, out + j, ld);
  for (; j < columns; j++) dots<R, 1>(p, x, w + j * w_bytes, w_bytes, out + j, ld);
}

// One task is 16 columns (of gate and of up when gated) for every row of x.
void direct_task(void* context, int64_t index, int32_t worker) {
  const plan& p = *static_cast<const plan*>(context);
  const kn_flat_gemm_problem& q = *p.problem;
  const int64_t pair = (q.flags & KN_GEMM_GATED) ? 2 : 1;
  // With k = 0, w may be null and its stride anything.
  const int64_t w_bytes = q.k == 0 ? 0 : p.args->ldw * (q.w_type == KN_F32 ? 4 : 2);
  const int64_t columns = smaller(kPanel, q.n - index * kPanel), ld = pair * kPanel;
  float* acc = reinterpret_cast<float*>(p.scratch + worker * p.scratch_bytes);
  for (int64_t half = 0; half < pair; half++) {
    const char* w = static_cast<const char*>(p.args->w) + (half * q.n + index * kPanel) * w_bytes;
    float* out = acc + half * kPanel;
    int64_t r = 0;
    for (; r + kTile <= p.args->m; r += kTile)
      dots_of_rows<kTile>(p, static_cast<const float*>(p.x) + r * p.ldx, w, w_bytes, columns, out + r * ld, ld);
    for (; r < p.args->m; r++)
      dots_of_rows<1>(p, static_cast<const float*>(p.x) + r * p.ldx, w, w_bytes, columns, out + r * ld, ld);
  }
  write_out<direct_engine>(p, reinterpret_cast<const char*>(acc), ld * 4, 0, p.args->m, index * pair, pair);
}

plan direct_plan(const kn_flat_gemm_problem& q, int64_t m) {
  plan p{};
  p.problem = &q;
  p.ldx = round_up(q.k, 16);
  p.scratch_bytes = round_up(m * kPanel * 4 * ((q.flags & KN_GEMM_GATED) ? 2 : 1), 64);
  return p;
}

int32_t accepts(const void* problem, const kn_launch* launch, const char** why) {
  const kn_flat_gemm_problem& p = *static_cast<const kn_flat_gemm_problem*>(problem);
  if (!valid(&p, launch, why)) return 0;
  KN_REQUIRE(p.w_type == KN_F32 || p.w_type == KN_BF16 || p.w_type == KN_F16);
  return 1;
}

int64_t workspace(const void* problem, const kn_launch* launch) {
  const kn_flat_gemm_problem& q = *static_cast<const kn_flat_gemm_problem*>(problem);
  const plan p = direct_plan(q, q.m);
  return q.m * p.ldx * 4 + kn_workers(launch->threads) * p.scratch_bytes;
}

int32_t run(const void* problem, const kn_launch* launch, const void* args) {
  const kn_flat_gemm_problem* q = static_cast<const kn_flat_gemm_problem*>(problem);
  const kn_flat_gemm_args* a = static_cast<const kn_flat_gemm_args*>(args);
  const char* why = nullptr;
  if (q == nullptr || launch == nullptr) return kn_fail(KN_INVALID, "problem, launch: is null");
  if (!accepts(q, launch, &why)) return kn_fail(KN_UNSUPPORTED, why);
  kn_launch l = *launch;
  l.threads = kn_workers(l.threads);
  if (const int32_t status = check(q, a, -1, workspace(q, &l)); status != KN_OK) return status;
  if (a->m == 0 || q->n == 0) return KN_OK;
  plan p = direct_plan(*q, a->m);
  p.args = a;
  p.x = a->workspace;
  p.scratch = static_cast<char*>(a->workspace) + a->m * p.ldx * 4;
  kn_parallel(static_cast<int64_t>(a->m) * q->k < 65536 ? 1 : l.threads, a->m, prepare_row<direct_engine>, &p);
  const int64_t panels = round_up(q->n, kPanel) / kPanel, pair = (q->flags & KN_GEMM_GATED) ? 2 : 1;
  const bool small = panels * pair * kPanel * p.ldx * a->m < kSmall;
  kn_parallel(small ? 1 : l.threads, panels, direct_task, &p);
  return KN_OK;
}

}  // namespace
}  // namespace kn::flat_gemm

using namespace kn::flat_gemm;
extern "C" const kn_row flat_gemm_avx512_direct = {.name = "flat_gemm/avx512_direct",
                                                   .op = KN_OP_FLAT_GEMM,
                                                   .needs = KN_CPU_AVX512,
                                                   .bits = "avx512_direct",
                                                   .params = nullptr,
                                                   .param_count = 0,
                                                   .reserved = 0,
                                                   .accepts = accepts,
                                                   .workspace = workspace,
                                                   .layout = nullptr,
                                                   .packed_bytes = nullptr,
                                                   .prepack = nullptr,
                                                   .run = run};
