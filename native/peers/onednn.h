// What the files of the oneDNN peer share.
#pragma once
#include <omp.h>

#include <memory>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

#include "peer.h"

#if DNNL_CPU_RUNTIME != DNNL_RUNTIME_OMP
#error "threads are set through OpenMP: this oneDNN has another runtime"
#endif

namespace {

[[maybe_unused]] dnnl::memory::data_type type_of(int32_t type) {
  switch (type) {
    case KN_F32:
      return dnnl::memory::data_type::f32;
    case KN_BF16:
      return dnnl::memory::data_type::bf16;
    case KN_S8:
      return dnnl::memory::data_type::s8;
    default:
      throw kn_unsupported("oneDNN: data type");
  }
}

[[maybe_unused]] const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Primitives are made for a number of threads, on which their blocking depends; what oneDNN lacks is no error.
template <class Peer, class Make>
std::unique_ptr<Peer> kn_onednn_make(int32_t threads, Make make) {
  omp_set_num_threads(threads);
  try {
    return make();
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_unimplemented) throw kn_unsupported(std::string("oneDNN: ") + e.what());
    if (e.status == dnnl_out_of_memory) throw std::bad_alloc();
    throw;
  }
}

}  // namespace

std::unique_ptr<kn_peer_attention> kn_onednn_attention(const kn_peer_attention_problem& problem);
