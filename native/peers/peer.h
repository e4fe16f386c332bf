// Inside kn_peers: what each library's file provides.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "kn_peers.h"

struct kn_peer_gemm {
  virtual ~kn_peer_gemm() = default;
  virtual void run(int32_t copy, const void* x, void* y) = 0;
  int32_t copies = 0;
};

struct kn_peer_attention {
  virtual ~kn_peer_attention() = default;
  virtual void run(const void* q, const void* k, const void* v, void* out) = 0;
};

struct kn_peer_spgemm {
  virtual ~kn_peer_spgemm() = default;
  virtual int64_t run() = 0;
  virtual void copy(int64_t* offsets, int32_t* columns, void* values) = 0;
};

struct kn_peer {
  const char* (*name)();
  std::unique_ptr<kn_peer_gemm> (*create)(const kn_peer_problem& problem, const void* weights, const float* scales);
  std::unique_ptr<kn_peer_attention> (*attention)(const kn_peer_attention_problem& problem) = nullptr;
  std::unique_ptr<kn_peer_spgemm> (*spgemm)(const kn_peer_spgemm_problem& problem) = nullptr;
};
extern const kn_peer kn_peer_onednn, kn_peer_openblas, kn_peer_graphblas, kn_peer_eigen;

struct kn_unsupported : std::runtime_error {
  using runtime_error::runtime_error;
};

// Memory on huge pages where the system gives them, as the library's own weights are: a peer must not lose by its
// pages.
struct kn_pages {
  kn_pages() = default;
  explicit kn_pages(size_t bytes);
  kn_pages(kn_pages&& from) noexcept : data(from.data), bytes(from.bytes) { from.data = nullptr; }
  kn_pages(const kn_pages&) = delete;
  kn_pages& operator=(const kn_pages&) = delete;
  ~kn_pages();

  void* data = nullptr;
  size_t bytes = 0;
};
