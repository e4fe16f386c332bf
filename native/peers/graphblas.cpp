// SuiteSparse:GraphBLAS: GrB_mxm over the semirings of spgemm, with a structural mask and an accumulator; C
// materialised.
extern "C" {
#include <GraphBLAS.h>
}

#include <spgemm/spgemm.h>

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

struct operators {
  GrB_Type type;
  GrB_Semiring ring;
  GrB_BinaryOp add;
};

// The sum and product of a problem; an entry of D alone keeps its value, as zero (+) d is d but over or-and.
operators operators_of(int32_t type, int32_t semiring) {
  if (type == KN_NONE) return {GrB_BOOL, GxB_ANY_PAIR_BOOL, GrB_LOR};
  const bool f64 = type == KN_F64;
  const GrB_Type t = f64 ? GrB_FP64 : GrB_FP32;
  switch (semiring) {
    case KN_PLUS_TIMES:
      return {t, f64 ? GrB_PLUS_TIMES_SEMIRING_FP64 : GrB_PLUS_TIMES_SEMIRING_FP32,
              f64 ? GrB_PLUS_FP64 : GrB_PLUS_FP32};
    case KN_MIN_PLUS:
      return {t, f64 ? GrB_MIN_PLUS_SEMIRING_FP64 : GrB_MIN_PLUS_SEMIRING_FP32, f64 ? GrB_MIN_FP64 : GrB_MIN_FP32};
    case KN_MAX_PLUS:
      return {t, f64 ? GrB_MAX_PLUS_SEMIRING_FP64 : GrB_MAX_PLUS_SEMIRING_FP32, f64 ? GrB_MAX_FP64 : GrB_MAX_FP32};
    case KN_OR_AND:
      // Of numbers there is no or that sums; over 0 and 1 the maximum is one.
      return {t, f64 ? GxB_MAX_LAND_FP64 : GxB_MAX_LAND_FP32, f64 ? GrB_MAX_FP64 : GrB_MAX_FP32};
    default:
      return {t, f64 ? GxB_PLUS_PAIR_FP64 : GxB_PLUS_PAIR_FP32, f64 ? GrB_PLUS_FP64 : GrB_PLUS_FP32};
  }
}

class product final : public kn_peer_spgemm {
 public:
  explicit product(const kn_peer_spgemm_problem& p)
      : type_(p.type), threads_(p.threads), sorted_(p.unsorted == 0), m_(p.m), n_(p.n) {
    start();
    op_ = operators_of(p.type, p.semiring);
    a_ = matrix(type_, p.m, p.k, p.a_offsets, p.a_columns, p.a_values);
    b_ = matrix(type_, p.k, p.n, p.b_offsets, p.b_columns, p.b_values);
    if (p.mask_offsets) {
      mask_ = matrix(KN_NONE, p.m, p.n, p.mask_offsets, p.mask_columns, nullptr);
      how_ = p.complement ? GrB_DESC_SC : GrB_DESC_S;
    }
    if (p.d_offsets) d_ = matrix(type_, p.m, p.n, p.d_offsets, p.d_columns, p.d_values);
  }

  ~product() override {
    for (GrB_Matrix* x : {&a_, &b_, &c_, &d_, &mask_})
      if (*x) GrB_Matrix_free(x);
  }

  int64_t run() override {
    if (c_) GrB_Matrix_free(&c_);
    GxB_Global_Option_set(static_cast<GxB_Option_Field>(GxB_NTHREADS), threads_);
    if (d_)
      require(GrB_Matrix_dup(&c_, d_), "GrB_Matrix_dup");
    else
      require(GrB_Matrix_new(&c_, op_.type, static_cast<GrB_Index>(m_), static_cast<GrB_Index>(n_)), "GrB_Matrix_new");
    require(GrB_mxm(c_, mask_, d_ ? op_.add : nullptr, op_.ring, a_, b_, how_), "GrB_mxm");
    // What is left to wait for is the sorting of its rows.
    if (sorted_) require(GrB_Matrix_wait(c_, GrB_MATERIALIZE), "GrB_Matrix_wait");
    return entries();
  }

  void copy(int64_t* offsets, int32_t* columns, void* values) override {
    GrB_Index count = static_cast<GrB_Index>(entries());
    std::vector<GrB_Index> rows(count), cols(count);
    GrB_Info info;
    if (type_ == KN_NONE)
      info = GrB_Matrix_extractTuples_BOOL(rows.data(), cols.data(), nullptr, &count, c_);
    else if (type_ == KN_F64)
      info = GrB_Matrix_extractTuples_FP64(rows.data(), cols.data(), static_cast<double*>(values), &count, c_);
    else
      info = GrB_Matrix_extractTuples_FP32(rows.data(), cols.data(), static_cast<float*>(values), &count, c_);
    require(info, "GrB_Matrix_extractTuples");
    for (int64_t i = 0; i <= m_; i++) offsets[i] = 0;
    for (GrB_Index j = 0; j < count; j++) {
      columns[j] = static_cast<int32_t>(cols[j]);
      offsets[rows[j] + 1]++;
    }
    for (int64_t i = 0; i < m_; i++) offsets[i + 1] += offsets[i];
  }

 private:
  int64_t entries() const {
    GrB_Index count = 0;
    require(GrB_Matrix_nvals(&count, c_), "GrB_Matrix_nvals");
    return static_cast<int64_t>(count);
  }

  // A structure is a matrix of true.
  static GrB_Matrix matrix(int32_t type, int64_t m, int64_t n, const int64_t* offsets, const int32_t* columns,
                           const void* values) {
    const size_t count = static_cast<size_t>(offsets[m]);
    std::vector<GrB_Index> rows(count), cols(columns, columns + count);
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = offsets[i]; j < offsets[i + 1]; j++) rows[static_cast<size_t>(j)] = static_cast<GrB_Index>(i);
    GrB_Matrix x = nullptr;
    require(GrB_Matrix_new(&x,
                           type == KN_NONE  ? GrB_BOOL
                           : type == KN_F64 ? GrB_FP64
                                            : GrB_FP32,
                           static_cast<GrB_Index>(m), static_cast<GrB_Index>(n)),
            "GrB_Matrix_new");
    GrB_Info info;
    if (type == KN_NONE) {
      const std::vector<uint8_t> all(count, 1);
      info =
          GrB_Matrix_build_BOOL(x, rows.data(), cols.data(), reinterpret_cast<const bool*>(all.data()), count, GrB_LOR);
    } else if (type == KN_F64) {
      info =
          GrB_Matrix_build_FP64(x, rows.data(), cols.data(), static_cast<const double*>(values), count, GrB_PLUS_FP64);
    } else {
      info =
          GrB_Matrix_build_FP32(x, rows.data(), cols.data(), static_cast<const float*>(values), count, GrB_PLUS_FP32);
    }
    require(info, "GrB_Matrix_build");
    require(GrB_Matrix_wait(x, GrB_MATERIALIZE), "GrB_Matrix_wait");
    return x;
  }

  int32_t type_;
  int threads_;
  bool sorted_;
  int64_t m_, n_;
  operators op_{};
  GrB_Descriptor how_ = nullptr;
  GrB_Matrix a_ = nullptr, b_ = nullptr, c_ = nullptr, d_ = nullptr, mask_ = nullptr;
};

std::unique_ptr<kn_peer_spgemm> spgemm(const kn_peer_spgemm_problem& p) {
  if (p.type != KN_F32 && p.type != KN_F64 && p.type != KN_NONE) throw kn_unsupported("f32 and f64 only");
  if (p.d_offsets && p.semiring == KN_OR_AND && p.type != KN_NONE)
    throw kn_unsupported("an entry of the addend alone keeps its value, which or-and makes 1");
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
