// Eigen's sparse product, which is serial.
#include <Eigen/SparseCore>
#include <algorithm>
#include <string>

#include "peer.h"

namespace {

template <class V>
class product final : public kn_peer_spgemm {
 public:
  using matrix = Eigen::SparseMatrix<V, Eigen::RowMajor, int32_t>;

  explicit product(const kn_peer_spgemm_problem& p)
      : a_(make(p.m, p.k, p.a_offsets, p.a_columns, static_cast<const V*>(p.a_values))),
        b_(make(p.k, p.n, p.b_offsets, p.b_columns, static_cast<const V*>(p.b_values))) {}

  int64_t run() override {
    c_ = a_ * b_;
    return c_.nonZeros();
  }

  void copy(int64_t* offsets, int32_t* columns, void* values) override {
    for (Eigen::Index i = 0; i <= c_.rows(); i++) offsets[i] = c_.outerIndexPtr()[i];
    std::copy_n(c_.innerIndexPtr(), c_.nonZeros(), columns);
    std::copy_n(c_.valuePtr(), c_.nonZeros(), static_cast<V*>(values));
  }

 private:
  static matrix make(int64_t m, int64_t n, const int64_t* offsets, const int32_t* columns, const V* values) {
    matrix x(m, n);
    x.resizeNonZeros(offsets[m]);
    for (int64_t i = 0; i <= m; i++) x.outerIndexPtr()[i] = static_cast<int32_t>(offsets[i]);
    std::copy_n(columns, offsets[m], x.innerIndexPtr());
    std::copy_n(values, offsets[m], x.valuePtr());
    return x;
  }

  matrix a_, b_, c_;
};

std::unique_ptr<kn_peer_spgemm> spgemm(const kn_peer_spgemm_problem& p) {
  if (p.semiring != 0 || p.mask_offsets || p.d_offsets || p.type == KN_NONE)
    throw kn_unsupported("the plain product alone, without a mask, an addend or another semiring");
  if (p.a_offsets[p.m] > INT32_MAX || p.b_offsets[p.k] > INT32_MAX) throw kn_unsupported("more than 2^31 entries");
  if (p.type == KN_F64) return std::make_unique<product<double>>(p);
  if (p.type == KN_F32) return std::make_unique<product<float>>(p);
  throw kn_unsupported("f32 and f64 only");
}

const char* name() {
  static const std::string text = "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." +
                                  std::to_string(EIGEN_MAJOR_VERSION) + "." + std::to_string(EIGEN_MINOR_VERSION);
  return text.c_str();
}

}  // namespace

extern const kn_peer kn_peer_eigen = {name, nullptr, nullptr, spgemm};
