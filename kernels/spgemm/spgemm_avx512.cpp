// spgemm/avx512: the row-wise product with the accumulators of spgemm_row.h, for every type of column and value and
// every semiring of the contract.
#include <type_traits>

#include "spgemm_analyse.h"
#include "spgemm_drive.h"

namespace kn::spgemm {
namespace {

int32_t accepts(const void* problem, const kn_launch* launch, const char** why) {
  const kn_spgemm_problem& p = *static_cast<const kn_spgemm_problem*>(problem);
  if (!valid(p, launch, why)) return 0;
  KN_REQUIRE(p.n <= kMaskedSpan || !(p.flags & KN_SPGEMM_MASK));
  KN_REQUIRE(p.n <= kDense || (p.flags & KN_SPGEMM_B_SORTED));
  return 1;
}

int64_t workspace(const void* problem, const kn_launch* launch) {
  const kn_spgemm_problem& p = *static_cast<const kn_spgemm_problem*>(problem);
  if (p.products == 0) return 0;
  const sizes z = sizes_of(p, limits_of(p, launch));
  return z.shared + kn_workers(launch->threads) * z.worker;
}

template <class I, class S>
void drive(const kn_spgemm_problem& p, const kn_spgemm_args& a, const kn_launch* launch) {
  const limits l = limits_of(p, launch);
  driver<I, S>(p, a, l, sizes_of(p, l), launch->threads).run();
}

template <class I, class V>
void with_semiring(const kn_spgemm_problem& p, const kn_spgemm_args& a, const kn_launch* launch) {
  switch (p.semiring) {
    case KN_PLUS_TIMES:
      return drive<I, plus_times<V>>(p, a, launch);
    case KN_MIN_PLUS:
      return drive<I, min_plus<V>>(p, a, launch);
    case KN_MAX_PLUS:
      return drive<I, max_plus<V>>(p, a, launch);
    case KN_OR_AND:
      return drive<I, or_and<V>>(p, a, launch);
    default:
      return drive<I, plus_pair<V>>(p, a, launch);
  }
}

template <class I>
void with_type(const kn_spgemm_problem& p, const kn_spgemm_args& a, const kn_launch* launch) {
  if (p.type == KN_NONE) return drive<I, no_values>(p, a, launch);
  if (p.type == KN_F32) return with_semiring<I, float>(p, a, launch);
  return with_semiring<I, double>(p, a, launch);
}

int32_t run(const void* problem, const kn_launch* launch, const void* args) {
  const kn_spgemm_problem* p = static_cast<const kn_spgemm_problem*>(problem);
  const kn_spgemm_args* a = static_cast<const kn_spgemm_args*>(args);
  const char* why = nullptr;
  if (p == nullptr || launch == nullptr) return kn_fail(KN_INVALID, "problem, launch: is null");
  if (!accepts(p, launch, &why)) return kn_fail(KN_UNSUPPORTED, why);
  kn_launch l = *launch;
  l.threads = kn_workers(l.threads);
  if (const int32_t status = check(*p, a, workspace(p, &l)); status != KN_OK) return status;
  if (a->phase == KN_SPGEMM_ANALYSE) return analyse(*p, *a, l.threads);
  if (a->phase == KN_SPGEMM_NUMERIC && p->type == KN_NONE) return KN_OK;
  if (p->products == 0) {
    if (a->phase == KN_SPGEMM_SCHEDULE_SIZES) memset(a->schedule.offsets, 0, static_cast<size_t>(p->m + 1) * 8);
    if (a->phase >= KN_SPGEMM_NUMERIC) return KN_OK;
    for (int64_t i = 0; i < a->row_to - a->row_from; i++) a->c_offsets[i + 1] = a->c_offsets[0];
    if (a->phase == KN_SPGEMM_PRODUCT) *a->rows_done = a->row_to;
    return KN_OK;
  }
  if (p->index_bytes == 4)
    with_type<int32_t>(*p, *a, &l);
  else
    with_type<int64_t>(*p, *a, &l);
  return KN_OK;
}

}  // namespace
}  // namespace kn::spgemm

using namespace kn::spgemm;
extern "C" const kn_row spgemm_avx512 = {.name = "spgemm/avx512",
                                         .op = KN_OP_SPGEMM,
                                         .needs = KN_CPU_AVX512,
                                         .bits = "ordered",
                                         .params = row_params,
                                         .param_count = kParams,
                                         .reserved = 0,
                                         .accepts = accepts,
                                         .workspace = workspace,
                                         .layout = nullptr,
                                         .packed_bytes = nullptr,
                                         .prepack = nullptr,
                                         .run = run};
