// SuiteSparse:GraphBLAS: GrB_mxm over plus-times, C sorted and materialised.
extern "C" {
#include <GraphBLAS.h>
}

#include <string>
#include <vector>

#include "peer.h"

namespace {

void require(GrB_Info info, const char* what) {
  if (info == GrB_OUT_OF_MEMORY) throw std::bad_alloc();
  if (info != GrB_SUCCESS) throw std::runtime_error(std::string("GraphBLAS: ") + what + " failed");
}

void start() {
  static const GrB_Info info = GrB_init(GrB_NONBLOCKING);
  require(info, "GrB_init");
}

class product final : public kn_peer_spgemm {
 public:
  explicit product(const kn_peer_spgemm_problem& p) : f64_(p.type == KN_F64), threads_(p.threads), m_(p.m), n_(p.n) {
    start();
    a_ = matrix(p.m, p.k, p.a_offsets, p.a_columns, p.a_values);
    b_ = matrix(p.k, p.n, p.b_offsets, p.b_columns, p.b_values);
  }

  ~product() override {
    for (GrB_Matrix* x : {&a_, &b_, &c_})
      if (*x) GrB_Matrix_free(x);
  }

  int64_t run() override {
    if (c_) GrB_Matrix_free(&c_);
    GxB_Global_Option_set(static_cast<GxB_Option_Field>(GxB_NTHREADS), threads_);
    require(GrB_Matrix_new(&c_, type(), static_cast<GrB_Index>(m_), static_cast<GrB_Index>(n_)), "GrB_Matrix_new");
    const GrB_Semiring ring = f64_ ? GrB_PLUS_TIMES_SEMIRING_FP64 : GrB_PLUS_TIMES_SEMIRING_FP32;
    require(GrB_mxm(c_, nullptr, nullptr, ring, a_, b_, nullptr), "GrB_mxm");
    require(GrB_Matrix_wait(c_, GrB_MATERIALIZE), "GrB_Matrix_wait");
    GrB_Index count = 0;
    require(GrB_Matrix_nvals(&count, c_), "GrB_Matrix_nvals");
    return static_cast<int64_t>(count);
  }

  void copy(int64_t* offsets, int32_t* columns, void* values) override {
    GrB_Index count = 0;
    require(GrB_Matrix_nvals(&count, c_), "GrB_Matrix_nvals");
    std::vector<GrB_Index> rows(count), cols(count);
    require(f64_ ? GrB_Matrix_extractTuples_FP64(rows.data(), cols.data(), static_cast<double*>(values), &count, c_)
                 : GrB_Matrix_extractTuples_FP32(rows.data(), cols.data(), static_cast<float*>(values), &count, c_),
            "GrB_Matrix_extractTuples");
    for (int64_t i = 0; i <= m_; i++) offsets[i] = 0;
    for (GrB_Index j = 0; j < count; j++) {
      columns[j] = static_cast<int32_t>(cols[j]);
      offsets[rows[j] + 1]++;
    }
    for (int64_t i = 0; i < m_; i++) offsets[i + 1] += offsets[i];
  }

 private:
  GrB_Type type() const { return f64_ ? GrB_FP64 : GrB_FP32; }

  GrB_Matrix matrix(int64_t m, int64_t n, const int64_t* offsets, const int32_t* columns, const void* values) const {
    const size_t count = static_cast<size_t>(offsets[m]);
    std::vector<GrB_Index> rows(count), cols(columns, columns + count);
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = offsets[i]; j < offsets[i + 1]; j++) rows[static_cast<size_t>(j)] = static_cast<GrB_Index>(i);
    GrB_Matrix x = nullptr;
    require(GrB_Matrix_new(&x, type(), static_cast<GrB_Index>(m), static_cast<GrB_Index>(n)), "GrB_Matrix_new");
    require(f64_ ? GrB_Matrix_build_FP64(x, rows.data(), cols.data(), static_cast<const double*>(values), count,
                                         GrB_PLUS_FP64)
                 : GrB_Matrix_build_FP32(x, rows.data(), cols.data(), static_cast<const float*>(values), count,
                                         GrB_PLUS_FP32),
            "GrB_Matrix_build");
    require(GrB_Matrix_wait(x, GrB_MATERIALIZE), "GrB_Matrix_wait");
    return x;
  }

  bool f64_;
  int threads_;
  int64_t m_, n_;
  GrB_Matrix a_ = nullptr, b_ = nullptr, c_ = nullptr;
};

std::unique_ptr<kn_peer_spgemm> spgemm(const kn_peer_spgemm_problem& p) {
  if (p.type != KN_F32 && p.type != KN_F64) throw kn_unsupported("GraphBLAS: f32 and f64 only");
  return std::make_unique<product>(p);
}

const char* name() {
  static const std::string text = [] {
    start();
    int v[3] = {0, 0, 0};
    GxB_Global_Option_get(GxB_LIBRARY_VERSION, v);
    return "GraphBLAS " + std::to_string(v[0]) + "." + std::to_string(v[1]) + "." + std::to_string(v[2]);
  }();
  return text.c_str();
}

}  // namespace

extern const kn_peer kn_peer_graphblas = {name, nullptr, nullptr, spgemm};
