// decode_attention/gpu: one pass over the keys on vector units, for NVIDIA and AMD.
//
// L lanes of a wave share a key, 8 dimensions each (C times, for long heads); a wave takes U keys for each of its kWave
// / L groups at a time and R rows (query heads of one kv head, tokens) against all of them, so K and V are read and
// decoded once for R rows. The N = U R scores of a group are spread over its lanes by one scatter: a lane then holds
// one score, does its mask, softcap and exp alone, and hands p back by shuffles. The running sum l stays with that lane
// until the end.
//
// Bits: a row's result depends on its sequence, split_len and R, not on the batch or its place in it.
#include "decode_attention_gpu.cuh"

namespace kn::decode_attention {
namespace {

constexpr int kWaves = 4;

template <int Type>
constexpr int kBytes = Type == KN_F32                      ? 4
                       : Type == KN_BF16 || Type == KN_F16 ? 2
                                                           : 1;

// 8 elements as they are stored.
template <int Type>
struct eight {
  uint32_t v[kBytes<Type> * 2];
};

template <int Type>
__device__ __forceinline__ eight<Type> load8(const void* base, int64_t index, bool aligned) {
  eight<Type> w;
  const char* p = static_cast<const char*>(base) + index * kBytes<Type>;
  if (aligned) {
    if constexpr (kBytes<Type> == 1) {
      const word_pair a = *reinterpret_cast<const word_pair*>(p);
      w.v[0] = a.x, w.v[1] = a.y;
    } else {
#pragma unroll
      for (int i = 0; i < kBytes<Type> / 2; i++) {
        const words a = load16_once(p + i * 16);
#pragma unroll
        for (int j = 0; j < 4; j++) w.v[i * 4 + j] = a.v[j];
      }
    }
  } else if constexpr (kBytes<Type> == 4) {
#pragma unroll
    for (int i = 0; i < 8; i++) w.v[i] = reinterpret_cast<const uint32_t*>(p)[i];
  } else if constexpr (kBytes<Type> == 2) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint16_t* h = reinterpret_cast<const uint16_t*>(p) + i * 2;
      w.v[i] = h[0] | static_cast<uint32_t>(h[1]) << 16;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint8_t* b = reinterpret_cast<const uint8_t*>(p) + i * 4;
      w.v[i] = b[0] | b[1] << 8 | b[2] << 16 | static_cast<uint32_t>(b[3]) << 24;
    }
  }
  return w;
}

template <int Type>
__device__ __forceinline__ void decode(const eight<Type>& w, float (&out)[8]) {
  if constexpr (Type == KN_S8) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const uint32_t u = w.v[i / 4] ^ 0x80808080u;
      out[i] = byte_as_float<0>(u) - 128.0f, out[i + 1] = byte_as_float<1>(u) - 128.0f;
      out[i + 2] = byte_as_float<2>(u) - 128.0f, out[i + 3] = byte_as_float<3>(u) - 128.0f;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if constexpr (Type == KN_F32) out[i] = bits_as<float>(w.v[i]);
      if constexpr (Type == KN_BF16) out[i] = i % 2 ? bits_as<float>(w.v[i / 2] & 0xffff0000u) : widen_bf16(w.v[i / 2]);
      if constexpr (Type == KN_F16) out[i] = widen_f16(static_cast<uint16_t>(w.v[i / 2] >> (16 * (i % 2))));
      if constexpr (Type == KN_E4M3) out[i] = widen_e4m3(w.v[i / 4] >> (8 * (i % 4)) & 0xffu);
    }
  }
}

template <int Type>
__device__ __forceinline__ bool aligned(const void* base, int64_t page, int64_t token, int64_t head) {
  const uint64_t odd = reinterpret_cast<uint64_t>(base) | static_cast<uint64_t>((page | token | head) * kBytes<Type>);
  return odd % (kBytes<Type> == 1 ? 8 : 16) == 0;
}

template <int KV, int L, int C, int R>
struct attention {
  static constexpr int U = C > 1 ? 1 : R == 8 ? (L == 8 ? 1 : 2) : L == 8 && R == 4 ? 2 : 4;
  static constexpr int N = U * R, kCopies = L / N;  // lanes of a group that hold the same score
  static constexpr int kGroups = kWave / L, kTile = U * kGroups, kHead = L * C * 8;
  static_assert(N <= L);

  // A lane's share: sums of its dimensions for every row; reference and denominator of its own row, the latter over the
  // keys of its own scores.
  struct state {
    float o[R][C * 8];
    float m, l;
  };

  struct place_of_lane {
    int group, lane, row, key;  // own score: row `row`, key `key` of the group's U
  };

  static __device__ __forceinline__ place_of_lane own() {
    const int lane = lane_id() % L, index = lane / kCopies;
    return {lane_id() / L, lane, index % R, index / R};
  }

  static __device__ __forceinline__ int dimension(int chunk) { return (chunk * L + lane_id() % L) * 8; }

  static __device__ __forceinline__ void load_q(const problem& a, const sequence& s, int32_t kv_head, int32_t row0,
                                                float (&q)[R][C * 8]) {
#pragma unroll
    for (int r = 0; r < R; r++) {
      const row w = row_of(a, s, kv_head, row0 + r);
      const int64_t at = (int64_t{s.first_token} + w.token) * a.q_token + w.head * a.q_head;
#pragma unroll
      for (int c = 0; c < C; c++)
#pragma unroll
        for (int i = 0; i < 8; i++)
          q[r][c * 8 + i] = dimension(c) < a.head_dim ? load_float(a.q_type, a.q, at + dimension(c) + i) : 0.0f;
    }
  }

  // The reference of this lane's row, where it does not run.
  static __device__ __forceinline__ float reference(const problem& a, const sequence& s, int32_t kv_head,
                                                    const row& own_row, const float (&q)[R][C * 8]) {
    if (a.softmax == KN_SOFTMAX_UNIFIED) return a.phi[own_row.head];
    float norm = 0.0f;
#pragma unroll
    for (int r = 0; r < R; r++) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < C * 8; i++) sum = __builtin_fmaf(q[r][i], q[r][i], sum);
      sum = sum_lanes(sum, L);
      if (r == own().row) norm = __builtin_sqrtf(sum);
    }
    return bounded_reference(a, s, kv_head, norm);
  }

  // Keys [begin, end) of a sequence, this wave's share of them: tiles wave, wave + kWaves, ...
  static __device__ __forceinline__ void walk(const problem& a, const sequence& s, int32_t kv_head, const row& own_row,
                                              const float (&q)[R][C * 8], int32_t begin, int32_t end, bool running,
                                              state& st) {
    const place_of_lane me = own();
    const bool k_aligned = aligned<KV>(a.k, a.k_page, a.k_token, a.k_head);
    const bool v_aligned = aligned<KV>(a.v, a.v_page, a.v_token, a.v_head);
    const float margin = threshold(a);
    for (int64_t tile = begin + wave_id() * kTile; tile < end; tile += kWaves * kTile) {
      eight<KV> k[U][C], v[U][C];
      float k_scale = 1.0f, v_scale = 1.0f;
#pragma unroll
      for (int u = 0; u < U; u++) {
        // Outside of the keys the nearest one again, whose weight is 0: the pages there may be gone.
        const int64_t wanted = tile + u * kGroups + me.group;
        const place p = place_of(a, s,
                                 static_cast<int32_t>(wanted < s.first ? s.first
                                                      : wanted < end   ? wanted
                                                                       : end - 1));
        const int64_t k_at = p.page * a.k_page + p.token * a.k_token + kv_head * a.k_head;
        const int64_t v_at = p.page * a.v_page + p.token * a.v_token + kv_head * a.v_head;
#pragma unroll
        for (int c = 0; c < C; c++) {
          k[u][c] = v[u][c] = {};
          if (dimension(c) < a.head_dim) k[u][c] = load8<KV>(a.k, k_at + dimension(c), k_aligned);
          if (dimension(c) < a.v_head_dim) v[u][c] = load8<KV>(a.v, v_at + dimension(c), v_aligned);
        }
        if (a.flags & KN_ATTN_SCALES && u == me.key) {
          k_scale = a.k_scales[scale_index(a, p, kv_head)];
          v_scale = a.v_scales[scale_index(a, p, kv_head)];
        }
      }
      float score[N] = {};
#pragma unroll
      for (int u = 0; u < U; u++)
#pragma unroll
        for (int c = 0; c < C; c++) {
          float x[8];
          decode<KV>(k[u][c], x);
#pragma unroll
          for (int r = 0; r < R; r++)
#pragma unroll
            for (int i = 0; i < 8; i++) score[u * R + r] = __builtin_fmaf(q[r][c * 8 + i], x[i], score[u * R + r]);
        }
      scatter_sums<N, L>(score);
      const int64_t key = tile + me.key * kGroups + me.group;
      const float x = key < end ? logit(a, s, own_row, score[0] * k_scale, static_cast<int32_t>(key)) : -kInfinity;
      if (running) {
        float most = x;
#pragma unroll
        for (int i = kCopies * R; i < kWave; i *= 2) most = __builtin_fmaxf(most, shuffle_xor(most, i));
        const bool grows = most > st.m + margin;
        if (any_lane(grows)) {
          const float factor = grows ? (st.m == -kInfinity ? 0.0f : weight(st.m, most)) : 1.0f;
          if (grows) st.m = most;
          st.l *= factor;
#pragma unroll
          for (int r = 0; r < R; r++) {
            const float f = shuffle(factor, me.group * L + r * kCopies);
#pragma unroll
            for (int i = 0; i < C * 8; i++) st.o[r][i] *= f;
          }
        }
      }
      const float p = weight(x, st.m);
      st.l += p;
      const float pv = x == -kInfinity ? 0.0f : p * v_scale;
#pragma unroll
      for (int u = 0; u < U; u++) {
        float ps[R];
#pragma unroll
        for (int r = 0; r < R; r++) ps[r] = shuffle(pv, me.group * L + (u * R + r) * kCopies);
#pragma unroll
        for (int c = 0; c < C; c++) {
          float y[8];
          decode<KV>(v[u][c], y);
#pragma unroll
          for (int r = 0; r < R; r++) {
            if (ps[r] == 0.0f) continue;  // what a row does not see may hold NaN
#pragma unroll
            for (int i = 0; i < 8; i++) st.o[r][c * 8 + i] = __builtin_fmaf(ps[r], y[i], st.o[r][c * 8 + i]);
          }
        }
      }
    }
  }

  using shared = exchange<kWaves, R, kHead>;

  // The wave's groups become one, then its sums go where the others find them.
  static __device__ __forceinline__ void publish(state& st, shared& x) {
    const place_of_lane me = own();
#pragma unroll
    for (int i = kCopies * R; i < kWave; i *= 2) st.l += shuffle_xor(st.l, i);
#pragma unroll
    for (int i = L; i < kWave; i *= 2)
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int e = 0; e < C * 8; e++) st.o[r][e] += shuffle_xor(st.o[r][e], i);
    if (me.group == 0) {
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int e = 0; e < C * 8; e++) x.o[wave_id()][r][dimension(e / 8) + e % 8] = st.o[r][e];
      if (me.key == 0 && me.lane % kCopies == 0) x.m[wave_id()][me.row] = st.m, x.l[wave_id()][me.row] = st.l;
    }
    __syncthreads();
  }

  static __device__ __forceinline__ void start(state& st, float reference) {
    st = {};
    st.m = reference;
  }

  static __device__ __forceinline__ void run(const problem& a) {
    __shared__ shared x;
    const work w = work_of<R>(a);
    if (w.empty) return;  // all of the block
    const row own_row = row_of(a, w.s, w.kv_head, w.row0 + own().row);
    float q[R][C * 8];
    load_q(a, w.s, w.kv_head, w.row0, q);
    state st;
    start(st, fixed_reference(a) ? reference(a, w.s, w.kv_head, own_row, q) : -kInfinity);
    walk(a, w.s, w.kv_head, own_row, q, w.walk, w.end, !fixed_reference(a), st);
    publish(st, x);
    x.write(a, w.s, w.kv_head, w.row0, w.split, w.direct);
  }

  // One row over all keys by sync, by a block: what `check` does where the sums have left the range.
  static __device__ __forceinline__ void redo(const problem& a, const sequence& s, int32_t token, int32_t head) {
    static_assert(R == 1);
    __shared__ shared x;
    const int32_t group = a.q_heads / a.kv_heads, kv_head = head / group, index = token * group + head % group;
    const row own_row = row_of(a, s, kv_head, index);
    float q[R][C * 8];
    load_q(a, s, kv_head, index, q);
    state st;
    start(st, -kInfinity);
    walk(a, s, kv_head, own_row, q, s.first - (s.first - s.origin) % kRound, s.length, true, st);
    publish(st, x);
    x.write(a, s, kv_head, index, 0, true);
  }
};

// Dimension d of a row over the splits, in their order.
__device__ __forceinline__ float combine(const problem& a, const sequence& s, int64_t token, int32_t head, int32_t d,
                                         float& m, float& l) {
  const int32_t dims = a.v_head_dim;
  const float* first = partial_of(a, token, head, 0);
  m = -kInfinity, l = 0.0f;
  float o = 0.0f;
  for (int32_t i = 0; i < s.splits; i++) m = __builtin_fmaxf(m, first[i * int64_t{dims + 2} + dims]);
  for (int32_t i = 0; i < s.splits; i++) {
    const float* p = first + i * int64_t{dims + 2};
    const float f = weight(p[dims], m);  // 1 where the reference is fixed
    l = __builtin_fmaf(f, p[dims + 1], l);
    o = __builtin_fmaf(f, p[d], o);
  }
  return o;
}

template <int KV, int L, int C>
__device__ __forceinline__ void check(const problem& a) {
  __shared__ int failed[kWaves];
  const sequence s = sequence_of(a, static_cast<int32_t>(blockIdx.x / a.q_len));
  const int32_t token = static_cast<int32_t>(blockIdx.x % a.q_len), head = static_cast<int32_t>(blockIdx.y);
  if (token >= s.tokens) return;
  // Which keys it sees, and not the sum, says whether nothing is right.
  const bool sees = sees_any(a, s, token);
  bool fails = false;
  const float least = static_cast<float>(s.length) * 0x1p-102f;
  for (int32_t d = static_cast<int32_t>(threadIdx.x); d < a.v_head_dim; d += kWaves * kWave) {
    float m, l;
    const float o = combine(a, s, int64_t{s.first_token} + token, head, d, m, l);
    const float all = a.flags & KN_ATTN_SINKS ? l + weight(a.sinks[head], m) : l;  // infinity is enough
    if (sees && !(finite(o) && finite(l) && all >= least))
      fails = true;
    else
      write_value(a, int64_t{s.first_token} + token, head, d, o, m, l);
  }
  fails = any_lane(fails);
  if (lane_id() == 0) failed[wave_id()] = fails;
  __syncthreads();
  for (int w = 0; w < kWaves; w++) fails |= failed[w] != 0;
  if (!fails) return;
  if (threadIdx.x == 0 && a.recomputed != nullptr) atomicAdd(reinterpret_cast<unsigned long long*>(a.recomputed), 1ull);
  attention<KV, L, C, 1>::redo(a, s, token, head);
}

}  // namespace
}  // namespace kn::decode_attention

KN_KERNEL(decode_attention_gpu_combine, 128, 8, kn_decode_attention_gpu) {
  using namespace kn::decode_attention;
  const sequence s = sequence_of(args, static_cast<int32_t>(blockIdx.x / args.q_len));
  const int32_t token = static_cast<int32_t>(blockIdx.x % args.q_len), head = static_cast<int32_t>(blockIdx.y);
  if (token >= s.tokens) return;
  for (int32_t d = static_cast<int32_t>(threadIdx.x); d < args.v_head_dim; d += 128) {
    float m, l;
    const float o = combine(args, s, int64_t{s.first_token} + token, head, d, m, l);
    write_value(args, int64_t{s.first_token} + token, head, d, o, m, l);
  }
}

#define KN_ATTENTION(kv, KV, D, L, C, R, blocks)                                                       \
  KN_KERNEL(decode_attention_gpu_##kv##_d##D##_r##R, 4 * kn::kWave, blocks, kn_decode_attention_gpu) { \
    kn::decode_attention::attention<KV, L, C, R>::run(args);                                           \
  }
#define KN_ATTENTION_CHECK(kv, KV, D, L, C)                                                        \
  KN_KERNEL(decode_attention_gpu_##kv##_d##D##_check, 4 * kn::kWave, 4, kn_decode_attention_gpu) { \
    kn::decode_attention::check<KV, L, C>(args);                                                   \
  }
#define KN_ATTENTION_ROWS(kv, KV, D, L) \
  KN_ATTENTION(kv, KV, D, L, 1, 1, 4)   \
  KN_ATTENTION(kv, KV, D, L, 1, 4, 3)   \
  KN_ATTENTION(kv, KV, D, L, 1, 8, 2)   \
  KN_ATTENTION_CHECK(kv, KV, D, L, 1)
#define KN_ATTENTION_KV(kv, KV)           \
  KN_ATTENTION_ROWS(kv, KV, 64, 8)        \
  KN_ATTENTION_ROWS(kv, KV, 128, 16)      \
  KN_ATTENTION_ROWS(kv, KV, 256, 32)      \
  KN_ATTENTION(kv, KV, 1024, 32, 4, 2, 2) \
  KN_ATTENTION_CHECK(kv, KV, 1024, 32, 4)
KN_ATTENTION_KV(f32, KN_F32)
KN_ATTENTION_KV(bf16, KN_BF16)
KN_ATTENTION_KV(f16, KN_F16)
KN_ATTENTION_KV(s8, KN_S8)
KN_ATTENTION_KV(e4m3, KN_E4M3)
