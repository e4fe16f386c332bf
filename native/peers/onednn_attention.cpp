// Attention as a user composes it from oneDNN's primitives, versions 2 and 3: batched matmul, softmax, batched matmul,
// with the scores of all keys in between. The scores stay in f32 and the probabilities take the type of v.
#include "onednn.h"

namespace {

using dnnl::memory;

class attention final : public kn_peer_attention {
 public:
  explicit attention(const kn_peer_attention_problem& p) : threads_(p.threads), stream_(cpu()) {
    const memory::data_type type = type_of(p.type), f32 = memory::data_type::f32;
    using strides = memory::dims;
    const memory::dims scores{p.batch, p.kv_heads, p.rows, p.kv_len};
    const memory::desc q({p.batch, p.kv_heads, p.rows, p.head_dim}, type, memory::format_tag::abcd);
    const memory::desc k({p.batch, p.kv_heads, p.head_dim, p.kv_len}, type, strides{p.k_batch, p.k_head, 1, p.k_token});
    const memory::desc v({p.batch, p.kv_heads, p.kv_len, p.v_head_dim}, type,
                         strides{p.v_batch, p.v_head, p.v_token, 1});
    const memory::desc s(scores, f32, memory::format_tag::abcd), e(scores, type, memory::format_tag::abcd);
    const memory::desc out({p.batch, p.kv_heads, p.rows, p.v_head_dim}, type, memory::format_tag::abcd);
    dnnl::post_ops scale;
    dnnl::primitive_attr scaled;
#if DNNL_VERSION_MAJOR >= 3
    scale.append_eltwise(dnnl::algorithm::eltwise_linear, p.scale, 0);
    scaled.set_post_ops(scale);
    qk_ = dnnl::matmul({cpu(), q, k, s, scaled});
    softmax_ = dnnl::softmax_forward(
        {cpu(), dnnl::prop_kind::forward_inference, dnnl::algorithm::softmax_accurate, s, e, kKeys});
    pv_ = dnnl::matmul({cpu(), e, v, out});
#else
    scale.append_eltwise(1, dnnl::algorithm::eltwise_linear, p.scale, 0);
    scaled.set_post_ops(scale);
    qk_ = dnnl::matmul({dnnl::matmul::desc(q, k, s), scaled, cpu()});
    softmax_ = dnnl::softmax_v2_forward({dnnl::softmax_v2_forward::desc(dnnl::prop_kind::forward_inference,
                                                                        dnnl::algorithm::softmax_accurate, s, e, kKeys),
                                         cpu()});
    pv_ = dnnl::matmul({dnnl::matmul::desc(e, v, out), cpu()});
#endif
    q_ = memory(q, cpu(), nullptr);
    k_ = memory(k, cpu(), nullptr);
    v_ = memory(v, cpu(), nullptr);
    out_ = memory(out, cpu(), nullptr);
    scores_ = memory(s, cpu());
    weights_ = p.type == KN_F32 ? scores_ : memory(e, cpu());
  }

  void run(const void* q, const void* k, const void* v, void* out) override {
    omp_set_num_threads(threads_);
    q_.set_data_handle(const_cast<void*>(q));
    k_.set_data_handle(const_cast<void*>(k));
    v_.set_data_handle(const_cast<void*>(v));
    out_.set_data_handle(out);
    qk_.execute(stream_, {{DNNL_ARG_SRC, q_}, {DNNL_ARG_WEIGHTS, k_}, {DNNL_ARG_DST, scores_}});
    softmax_.execute(stream_, {{DNNL_ARG_SRC, scores_}, {DNNL_ARG_DST, weights_}});
    pv_.execute(stream_, {{DNNL_ARG_SRC, weights_}, {DNNL_ARG_WEIGHTS, v_}, {DNNL_ARG_DST, out_}});
    stream_.wait();
  }

 private:
  static constexpr int kKeys = 3;  // the axis of the softmax

  int32_t threads_;
  dnnl::stream stream_;
  dnnl::primitive qk_, softmax_, pv_;
  memory q_, k_, v_, out_, scores_, weights_;
};

}  // namespace

std::unique_ptr<kn_peer_attention> kn_onednn_attention(const kn_peer_attention_problem& p) {
  return kn_onednn_make<kn_peer_attention>(p.threads, [&] { return std::make_unique<attention>(p); });
}
