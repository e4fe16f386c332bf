// OpenBLAS has no packed form: w is read as it is, as the transposed right operand.
#include <cblas.h>

#include <cstring>
#include <string>
#include <vector>

#include "peer.h"

namespace {

class sgemm final : public kn_peer_gemm {
 public:
  sgemm(const kn_peer_problem& p, const void* weights) : m_(p.m), n_(p.n), k_(p.k), threads_(p.threads) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(p.n) * static_cast<size_t>(p.k);
    for (int32_t c = 0; c < p.copies; c++) {
      pages_.emplace_back(bytes);
      std::memcpy(pages_.back().data, weights, bytes);
    }
  }

  void run(int32_t copy, const void* x, void* y) override {
    const auto* const w = static_cast<const float*>(pages_[static_cast<size_t>(copy)].data);
    const auto* const in = static_cast<const float*>(x);
    auto* const out = static_cast<float*>(y);
    if (openblas_get_num_threads() != threads_) openblas_set_num_threads(threads_);
    if (m_ == 1) {  // what a user of BLAS would call
      cblas_sgemv(CblasRowMajor, CblasNoTrans, n_, k_, 1.0f, w, k_, in, 1, 0.0f, out, 1);
    } else {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m_, n_, k_, 1.0f, in, k_, w, k_, 0.0f, out, n_);
    }
  }

 private:
  int32_t m_, n_, k_, threads_;
  std::vector<kn_pages> pages_;
};

std::unique_ptr<kn_peer_gemm> create(const kn_peer_problem& p, const void* weights, const float*) {
  if (p.type != KN_F32 || p.y_type != KN_F32) throw kn_unsupported("OpenBLAS: f32 only");
  return std::make_unique<sgemm>(p, weights);
}

// openblas_get_config answers "OpenBLAS 0.3.21 DYNAMIC_ARCH ...".
const char* name() {
  static const std::string text = [] {
    const std::string config = openblas_get_config();
    return config.substr(0, config.find(' ', config.find(' ') + 1));
  }();
  return text.c_str();
}

}  // namespace

extern const kn_peer kn_peer_openblas = {name, create};
