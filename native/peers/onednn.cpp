// oneDNN's matmul, versions 2 and 3.
#include "onednn.h"

#include <cstring>
#include <vector>

namespace {

using dnnl::memory;

constexpr int kPerColumn = 1 << 1;  // of the n in [k, n] and in [m, n]

// Every layout that is this file's to choose is `any`; x and y come and go row-major, as they do for everyone.
dnnl::matmul::primitive_desc describe(const kn_peer_problem& p, [[maybe_unused]] const float* scales) {
  const memory::desc x({p.m, p.k}, type_of(p.type), memory::format_tag::ab);
  const memory::desc w({p.k, p.n}, type_of(p.type), memory::format_tag::any);
  const memory::desc y({p.m, p.n}, type_of(p.y_type), memory::format_tag::ab);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  if (p.type == KN_S8) attr.set_scales_mask(DNNL_ARG_WEIGHTS, kPerColumn);
  return {cpu(), x, w, y, attr};
#else
  if (p.type == KN_S8) attr.set_output_scales(kPerColumn, {scales, scales + p.n});
  return {dnnl::matmul::desc(x, w, y), attr, cpu()};
#endif
}

class matmul final : public kn_peer_gemm {
 public:
  matmul(const kn_peer_problem& p, const void* weights, const float* scales)
      : threads_(p.threads), stream_(cpu()), desc_(describe(p, scales)), matmul_(desc_) {
    x_ = memory(desc_.src_desc(), cpu(), nullptr);
    y_ = memory(desc_.dst_desc(), cpu(), nullptr);
    scratchpad_ = memory(desc_.scratchpad_desc(), cpu());
    pack(p, weights);
    args_ = {{DNNL_ARG_SRC, x_.get()},
             {DNNL_ARG_DST, y_.get()},
             {DNNL_ARG_SCRATCHPAD, scratchpad_.get()},
             {DNNL_ARG_WEIGHTS, nullptr}};
#if DNNL_VERSION_MAJOR >= 3
    if (scales) {
      scales_ = memory({{p.n}, memory::data_type::f32, memory::format_tag::a}, cpu());
      std::memcpy(scales_.get_data_handle(), scales, sizeof(float) * static_cast<size_t>(p.n));
      args_.push_back({DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, scales_.get()});
    }
#endif
  }

  // By the C API, whose arguments are made once: the C++ one builds a map and a list in every call.
  void run(int32_t copy, const void* x, void* y) override {
    omp_set_num_threads(threads_);
    x_.set_data_handle(const_cast<void*>(x));
    y_.set_data_handle(y);
    args_[3].memory = weights_[static_cast<size_t>(copy)].get();
    const dnnl_status_t status =
        dnnl_primitive_execute(matmul_.get(), stream_.get(), static_cast<int>(args_.size()), args_.data());
    dnnl::error::wrap_c_api(status, "oneDNN: matmul failed");
    stream_.wait();
  }

 private:
  // The reorder is done once; the other copies have the same bytes.
  void pack(const kn_peer_problem& p, const void* weights) {
    const memory::desc plain({p.k, p.n}, type_of(p.type), memory::format_tag::ba);
    memory from(plain, cpu(), const_cast<void*>(weights));
    const memory::desc packed = desc_.weights_desc();
    for (int32_t c = 0; c < p.copies; c++) {
      pages_.emplace_back(packed.get_size());
      weights_.emplace_back(packed, cpu(), pages_.back().data);
      if (c == 0) {
        dnnl::reorder(from, weights_[0]).execute(stream_, from, weights_[0]);
        stream_.wait();
      } else {
        std::memcpy(pages_.back().data, pages_[0].data, packed.get_size());
      }
    }
  }

  int32_t threads_;
  dnnl::stream stream_;
  dnnl::matmul::primitive_desc desc_;
  dnnl::matmul matmul_;
  memory x_, y_, scratchpad_, scales_;
  std::vector<kn_pages> pages_;
  std::vector<memory> weights_;
  std::vector<dnnl_exec_arg_t> args_;
};

std::unique_ptr<kn_peer_gemm> create(const kn_peer_problem& p, const void* weights, const float* scales) {
  return kn_onednn_make<kn_peer_gemm>(p.threads, [&] { return std::make_unique<matmul>(p, weights, scales); });
}

const char* name() {
  static const std::string text = [] {
    const dnnl_version_t* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  }();
  return text.c_str();
}

}  // namespace

extern const kn_peer kn_peer_onednn = {name, create, kn_onednn_attention};
