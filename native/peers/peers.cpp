// The ABI of kn_peers: the list of peers, and no exception past this file.
#include <new>
#include <string>

#include "kn_peers.h"
#include "peer.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <sys/mman.h>

#include <cstdlib>
#endif

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

const kn_peer* const kPeers[] = {
#if defined(KN_PEER_ONEDNN)
    &kn_peer_onednn,
#endif
#if defined(KN_PEER_OPENBLAS)
    &kn_peer_openblas,
#endif
#if defined(KN_PEER_GRAPHBLAS)
    &kn_peer_graphblas,
#endif
#if defined(KN_PEER_EIGEN)
    &kn_peer_eigen,
#endif
};
constexpr int32_t kPeerCount = sizeof kPeers / sizeof *kPeers;

thread_local std::string failure;

template <typename F>
int32_t guarded(F body) {
  try {
    body();
    return KN_OK;
  } catch (const kn_unsupported& e) {
    failure = e.what();
    return KN_UNSUPPORTED;
  } catch (const std::bad_alloc&) {
    failure = "out of memory";
    return KN_NO_MEMORY;
  } catch (const std::exception& e) {
    failure = e.what();
    return KN_INTERNAL;
  }
}

int32_t invalid(const char* sentence) {
  failure = sentence;
  return KN_INVALID;
}

}  // namespace

kn_pages::kn_pages(size_t wanted) : bytes((wanted + kHugePage - 1) / kHugePage * kHugePage) {
#if defined(_WIN32)
  data = _aligned_malloc(bytes, kHugePage);
#else
  data = std::aligned_alloc(kHugePage, bytes);
#endif
  if (!data) throw std::bad_alloc();
#if defined(__linux__)
  (void)madvise(data, bytes, MADV_HUGEPAGE);  // a refusal is no error
#endif
}

kn_pages::~kn_pages() {
#if defined(_WIN32)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

int32_t kn_peer_count(void) { return kPeerCount; }

const char* kn_peer_name(int32_t peer) { return peer >= 0 && peer < kPeerCount ? kPeers[peer]->name() : nullptr; }

int32_t kn_peer_create(int32_t peer, const kn_peer_problem* p, const void* weights, const float* scales,
                       void** handle) {
  if (!handle) return invalid("handle: requires a place to write to");
  *handle = nullptr;
  if (peer < 0 || peer >= kPeerCount) return invalid("peer: requires a number below kn_peer_count");
  if (!p || p->size != sizeof *p) return invalid("problem: requires size == sizeof(kn_peer_problem)");
  if (p->m < 1 || p->n < 1 || p->k < 1) return invalid("problem: requires m, n, k >= 1");
  if (p->threads < 1 || p->copies < 1) return invalid("problem: requires threads, copies >= 1");
  if (!weights || (p->type == KN_S8) != (scales != nullptr)) {
    return invalid("weights: requires weights, and scales exactly for s8");
  }
  return guarded([&] {
    if (!kPeers[peer]->create) throw kn_unsupported("has no dense product here");
    auto gemm = kPeers[peer]->create(*p, weights, scales);
    gemm->copies = p->copies;
    *handle = gemm.release();
  });
}

int32_t kn_peer_run(void* handle, int32_t copy, const void* x, void* y) {
  auto* const gemm = static_cast<kn_peer_gemm*>(handle);
  if (!gemm || !x || !y) return invalid("run: requires handle, x and y");
  if (copy < 0 || copy >= gemm->copies) return invalid("copy: requires a number below problem.copies");
  return guarded([&] { gemm->run(copy, x, y); });
}

void kn_peer_destroy(void* handle) { delete static_cast<kn_peer_gemm*>(handle); }

int32_t kn_peer_attention_create(int32_t peer, const kn_peer_attention_problem* p, void** handle) {
  if (!handle) return invalid("handle: requires a place to write to");
  *handle = nullptr;
  if (peer < 0 || peer >= kPeerCount) return invalid("peer: requires a number below kn_peer_count");
  if (!p || p->size != sizeof *p) return invalid("problem: requires size == sizeof(kn_peer_attention_problem)");
  if (p->batch < 1 || p->kv_heads < 1 || p->rows < 1 || p->head_dim < 1 || p->v_head_dim < 1 || p->kv_len < 1)
    return invalid("problem: requires extents >= 1");
  if (p->threads < 1) return invalid("problem: requires threads >= 1");
  return guarded([&] {
    if (!kPeers[peer]->attention) throw kn_unsupported("has no softmax of its own");
    *handle = kPeers[peer]->attention(*p).release();
  });
}

int32_t kn_peer_attention_run(void* handle, const void* q, const void* k, const void* v, void* out) {
  auto* const attention = static_cast<kn_peer_attention*>(handle);
  if (!attention || !q || !k || !v || !out) return invalid("run: requires handle, q, k, v and out");
  return guarded([&] { attention->run(q, k, v, out); });
}

void kn_peer_attention_destroy(void* handle) { delete static_cast<kn_peer_attention*>(handle); }

int32_t kn_peer_spgemm_create(int32_t peer, const kn_peer_spgemm_problem* p, void** handle) {
  if (!handle) return invalid("handle: requires a place to write to");
  *handle = nullptr;
  if (peer < 0 || peer >= kPeerCount) return invalid("peer: requires a number below kn_peer_count");
  if (!p || p->size != sizeof *p) return invalid("problem: requires size == sizeof(kn_peer_spgemm_problem)");
  if (p->m < 0 || p->k < 0 || p->n < 0 || p->threads < 1)
    return invalid("problem: requires m, k, n >= 0, threads >= 1");
  if (!p->a_offsets || !p->b_offsets) return invalid("problem: requires offsets");
  if (p->semiring < 0 || p->semiring > 4) return invalid("problem: requires a semiring of spgemm.h");
  return guarded([&] {
    if (!kPeers[peer]->spgemm) throw kn_unsupported("has no sparse product");
    *handle = kPeers[peer]->spgemm(*p).release();
  });
}

int32_t kn_peer_spgemm_run(void* handle, int64_t* nnz) {
  if (!handle || !nnz) return invalid("run: requires handle and nnz");
  return guarded([&] { *nnz = static_cast<kn_peer_spgemm*>(handle)->run(); });
}

int32_t kn_peer_spgemm_copy(void* handle, int64_t* offsets, int32_t* columns, void* values) {
  if (!handle || !offsets || !columns) return invalid("copy: requires handle, offsets and columns");
  return guarded([&] { static_cast<kn_peer_spgemm*>(handle)->copy(offsets, columns, values); });
}

void kn_peer_spgemm_destroy(void* handle) { delete static_cast<kn_peer_spgemm*>(handle); }

const char* kn_peer_last_error(void) { return failure.c_str(); }
