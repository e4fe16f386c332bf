// decode_attention/sm80: tensor cores for the query heads of a kv head, times the tokens of a sequence: 16 rows a
// block.
//
// The waves of a block share nothing until the end: each takes tiles of 16 keys, which it copies for itself by cp.async
// into its own ring of stages, so that no wave waits for another. Keys: 16 rows by 16 keys of scores in two
// accumulators; the softmax is theirs to do; they then are, in place, the left operand of the product with V.
//
// P goes in as two numbers of 16 bits, the second one the rest of the first: the tensor cores have time for it, since K
// and V come at the speed of memory, and a result has the accuracy of the row on vector units. f16 has no range for P
// on a fixed reference: there, and where K and V are narrower, P is in bf16, and V in f16 is two numbers as well,
// exactly.
//
// s8 and e4m3 pass through a second buffer as 16-bit floats, exactly; scales of keys multiply scores, those of values
// P.
#include <mma.cuh>

#include "decode_attention_hidden.cuh"

namespace kn::decode_attention {
namespace {

constexpr int kWaves = 4, kRows = 16, kKeys = 16;  // of a block, of a wave's tile

__device__ __forceinline__ float widen(bf16, uint32_t v) { return widen_bf16(v & 0xffffu); }
__device__ __forceinline__ float widen(f16, uint32_t v) { return widen_f16(static_cast<uint16_t>(v)); }

template <int KV>
__device__ __forceinline__ float decode8(uint32_t byte) {
  if constexpr (KV == KN_E4M3) return widen_e4m3(byte);
  return static_cast<float>(static_cast<int8_t>(byte));
}

// What P and V are multiplied in: bf16 has the range for any scale of values and any reference.
template <class Element, bool Narrow>
struct value_of {
  using type = Element;
};
template <class Element>
struct value_of<Element, true> {
  using type = bf16;
};

// f16 as the nearest bf16, and what is returned: the rest, which bf16 holds exactly.
__device__ __forceinline__ uint32_t split_f16(uint32_t& pair) {
  const float low = widen(f16{}, pair), high = widen(f16{}, pair >> 16);
  pair = pack(bf16{}, low, high);
  return pack(bf16{}, low - widen(bf16{}, pair), high - widen(bf16{}, pair >> 16));
}

// Element: that of the products, q's; KV: how keys and values are stored; Head: of both, at least as long as they are;
// Fixed: f16 values by a fixed reference, which the others' kernels take as well.
template <class Element, int KV, int Head, bool Fixed>
struct attention {
  static constexpr bool kNarrow = KV == KN_S8 || KV == KN_E4M3;
  using Operand = typename value_of<Element, kNarrow>::type;         // V's
  using Value = typename value_of<Element, kNarrow || Fixed>::type;  // P's
  static constexpr int kStored = Head * (kNarrow ? 1 : 2),
                       kBytes = Head * 2;  // of a key, as it is and as it is multiplied
  static constexpr int kStages = Head <= 128 ? 3 : 2;
  static constexpr int kStageBytes = kKeys * (2 * kStored + 8);  // K, V, their scales
  static constexpr int kWaveBytes = kStages * kStageBytes + (kNarrow ? kKeys * 2 * kBytes : 0);
  static constexpr int kUnits = Head / 32, kTiles = Head / 8;
  static constexpr bool kTakesOut = KV != KN_S8;  // which is finite
  using shared = exchange<kWaves, kRows, Head>;
  // What decode_attention_gpu.h tells the launch of dynamic shared memory: the larger of these two.
  static_assert(kWaves * kWaveBytes == 64 * (kStages * (2 * kStored + 8) + (kNarrow ? 4 * Head : 0)));
  static_assert(sizeof(shared) == 256 * Head + 512);

  struct job {
    const problem& a;
    const work& w;
    char* memory;      // of the wave
    uint32_t* spoilt;  // [kTiles / 8], of the thread
    bool aligned;
  };

  // A tile's K, V and scales, from key `tile` on; what lies beyond the end is zero.
  static __device__ __forceinline__ void load_stage(const job& j, int64_t tile, char* stage) {
    const problem& a = j.a;
    constexpr int kSize = kNarrow ? 1 : 2, kChunks = kStored / 16;
    if (tile < j.w.end) {
      const int64_t key = tile + lane_id() % kKeys;
      const place p = place_of(a, j.w.s,
                               static_cast<int32_t>(key < j.w.begin ? j.w.begin
                                                    : key < j.w.end ? key
                                                                    : j.w.end - 1));
      const int64_t k_at = p.page * a.k_page + p.token * a.k_token + j.w.kv_head * a.k_head;
      const int64_t v_at = p.page * a.v_page + p.token * a.v_token + j.w.kv_head * a.v_head;
#pragma unroll 2  // more would hold addresses in registers that the products need
      for (int i = 0; i < kKeys * kChunks / 32; i++) {
        const int chunk = i * 32 + lane_id(), row = chunk / kChunks, byte = chunk % kChunks * 16;
        const bool exists = tile + row < j.w.end;
        const char* k = static_cast<const char*>(a.k) + shuffle(k_at, row) * kSize + byte;
        const char* v = static_cast<const char*>(a.v) + shuffle(v_at, row) * kSize + byte;
        // A narrow tile is read row by row, the other as operands.
        const int to = kNarrow ? row * kStored + byte : swizzled<kBytes>(row, byte);
        copy16(stage + to, k, exists ? int64_t{a.head_dim} * kSize - byte : 0, j.aligned);
        copy16(stage + kKeys * kStored + to, v, exists ? int64_t{a.v_head_dim} * kSize - byte : 0, j.aligned);
      }
      if (a.flags & KN_ATTN_SCALES) {
        const float* scales = lane_id() < kKeys ? a.k_scales : a.v_scales;
        cp_async4(stage + kKeys * 2 * kStored + lane_id() * 4, scales + scale_index(a, p, j.w.kv_head));
      }
    }
    cp_async_commit();
  }

  // A narrow tile as operands: a lane takes 8 elements at a time.
  template <class To>
  static __device__ __forceinline__ void widen_tile(const char* from, char* to) {
#pragma unroll 1
    for (int i = lane_id(); i < kKeys * Head / 8; i += 32) {
      const int row = i / (Head / 8), first = i % (Head / 8) * 8;
      const word_pair w = *reinterpret_cast<const word_pair*>(from + row * kStored + first);
      words out;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const uint32_t pair = (e < 2 ? w.x : w.y) >> (16 * (e % 2));
        out.v[e] = pack(To{}, decode8<KV>(pair & 0xffu), decode8<KV>(pair >> 8 & 0xffu));
      }
      *reinterpret_cast<words*>(to + swizzled<kBytes>(row, first * 2)) = out;
    }
  }

  struct rows {
    row r[2];               // g and g + 8
    uint32_t q[kUnits][8];  // their 8 elements 8t .. 8t + 7 of each 32: the order of K's operands
    float m[2], l[2];
    float o[kTiles][4];
  };

  static __device__ __forceinline__ void load_rows(const problem& a, const work& w, rows& x) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    float squares[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      x.r[i] = row_of(a, w.s, w.kv_head, w.row0 + g + i * 8);
      const uint16_t* q = static_cast<const uint16_t*>(a.q) + (int64_t{w.s.first_token} + x.r[i].token) * a.q_token +
                          x.r[i].head * a.q_head;
#pragma unroll
      for (int u = 0; u < kUnits; u++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int d = u * 32 + t * 8 + e * 2;
          const uint32_t pair = d < a.head_dim ? q[d] | static_cast<uint32_t>(q[d + 1]) << 16 : 0;
          x.q[u][i + e * 2] = pair;
          const float low = widen(Element{}, pair), high = widen(Element{}, pair >> 16);
          squares[i] = __builtin_fmaf(low, low, __builtin_fmaf(high, high, squares[i]));
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      x.m[i] = -kInfinity, x.l[i] = 0.0f;
      if (a.softmax == KN_SOFTMAX_UNIFIED) x.m[i] = a.phi[x.r[i].head];
      if (a.softmax == KN_SOFTMAX_BOUNDED)
        x.m[i] = bounded_reference(a, w.s, w.kv_head, __builtin_sqrtf(sum_lanes(squares[i], 4)));
    }
#pragma unroll
    for (int i = 0; i < kTiles; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) x.o[i][e] = 0.0f;
  }

  // The reference of both rows, renewed where these scores pass it.
  static __device__ __forceinline__ void renew(const problem& a, const float (&s)[2][4], rows& x) {
    float factor[2];
    bool grows = false;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float most =
          __builtin_fmaxf(__builtin_fmaxf(s[0][i * 2], s[0][i * 2 + 1]), __builtin_fmaxf(s[1][i * 2], s[1][i * 2 + 1]));
      most = max_lanes(most, 4);
      factor[i] = 1.0f;
      if (most > x.m[i] + threshold(a)) {
        factor[i] = weight(x.m[i], most);
        x.m[i] = most;
        grows = true;
      }
      x.l[i] *= factor[i];
    }
    if (!any_lane(grows)) return;
#pragma unroll
    for (int i = 0; i < kTiles; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) x.o[i][e] *= factor[e / 2];
  }

  // Values that are not finite, in a tile with keys that a mask may hide: they become 0, and where a row sees one of
  // them, that is kept for the end: bits 4 (i % 8) + 2 (row of two) + e of word i / 8 are of o[i]'s pairs.
  static __device__ __forceinline__ void take_out(const job& j, int64_t tile, char* vs, const rows& x) {
    if (!any_lane(!all_finite(Operand{}, vs, kKeys * kBytes, lane_id(), 32))) return;
#pragma unroll 1
    for (int n = 0; n < kKeys; n++) {
      const int key = static_cast<int>(tile) + n;
      const bool seen[2] = {key < j.w.end && sees(j.a, j.w.s, x.r[0], key),
                            key < j.w.end && sees(j.a, j.w.s, x.r[1], key)};
#pragma unroll 1
      for (int i = 0; i < kTiles; i++) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(vs + swizzled<kBytes>(n, i * 16 + lane_id() % 4 * 4));
        const uint32_t wrong =
            (all_finite(Operand{}, pair & 0xffffu) ? 0u : 1u) | (all_finite(Operand{}, pair & 0xffff0000u) ? 0u : 2u);
        j.spoilt[i / 8] |= ((seen[0] ? wrong : 0u) | (seen[1] ? wrong << 2 : 0u)) << (i % 8 * 4);
      }
    }
    __syncwarp();
#pragma unroll 1
    for (int i = lane_id() * 4; i < kKeys * kBytes; i += 128) {
      uint32_t& pair = *reinterpret_cast<uint32_t*>(vs + i);
      pair = only_finite(Operand{}, pair);
    }
    __syncwarp();
  }

  static __device__ __forceinline__ void multiply(const job& j, int64_t tile, const char* stage, const char* ks,
                                                  char* vs, rows& x) {
    const problem& a = j.a;
    const int g = lane_id() / 4, t = lane_id() % 4;
    float s[2][4] = {};
#pragma unroll
    for (int u = 0; u < kUnits; u++) {
      const uint32_t a0[4] = {x.q[u][0], x.q[u][1], x.q[u][2], x.q[u][3]},
                     a1[4] = {x.q[u][4], x.q[u][5], x.q[u][6], x.q[u][7]};
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const words b = load16(ks + swizzled<kBytes>(n * 8 + g, u * 64 + t * 16));
        mma(Element{}, s[n], a0, b.v[0], b.v[1]);
        mma(Element{}, s[n], a1, b.v[2], b.v[3]);
      }
    }
    const float* scales = reinterpret_cast<const float*>(stage + kKeys * 2 * kStored);
    const bool scaled = a.flags & KN_ATTN_SCALES;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = n * 8 + t * 2 + e % 2;
        const float dot = scaled ? s[n][e] * scales[key] : s[n][e];
        s[n][e] =
            tile + key < j.w.end ? logit(a, j.w.s, x.r[e / 2], dot, static_cast<int32_t>(tile + key)) : -kInfinity;
      }
    if (!fixed_reference(a)) renew(a, s, x);
    uint32_t high[4], low[4];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float p[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
          p[e] = weight(s[n][i * 2 + e], x.m[i]);
          x.l[i] += p[e];
          if (scaled && p[e] != 0.0f) p[e] *= scales[kKeys + n * 8 + t * 2 + e];
        }
        const uint32_t pair = pack(Value{}, p[0], p[1]);
        high[n * 2 + i] = pair;
        low[n * 2 + i] = pack(Value{}, p[0] - widen(Value{}, pair), p[1] - widen(Value{}, pair >> 16));
      }
    if (kTakesOut && masks(a, j.w.s, tile, kKeys)) take_out(j, tile, vs, x);
#pragma unroll
    for (int i = 0; i < kTiles; i += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, vs + swizzled<kBytes>(lane_id() % 16, (i + lane_id() / 16) * 16));
      if constexpr (Fixed) {
        const uint32_t rest[4] = {split_f16(b[0]), split_f16(b[1]), split_f16(b[2]), split_f16(b[3])};
        mma(Value{}, x.o[i], high, rest[0], rest[1]);
        mma(Value{}, x.o[i + 1], high, rest[2], rest[3]);
      }
      mma(Value{}, x.o[i], high, b[0], b[1]);
      mma(Value{}, x.o[i + 1], high, b[2], b[3]);
      mma(Value{}, x.o[i], low, b[0], b[1]);
      mma(Value{}, x.o[i + 1], low, b[2], b[3]);
    }
  }

  static __device__ __forceinline__ void publish(const job& j, rows& x, shared& to) {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float l = sum_lanes(x.l[i], 4);
      if (t == 0) to.m[wave_id()][g + i * 8] = x.m[i], to.l[wave_id()][g + i * 8] = l;
    }
#pragma unroll
    for (int i = 0; i < kTiles; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const bool spoilt = kTakesOut && (j.spoilt[i / 8] >> (i % 8 * 4 + e) & 1) != 0;
        to.o[wave_id()][g + e / 2 * 8][i * 8 + t * 2 + e % 2] = spoilt ? __builtin_nanf("") : x.o[i][e];
      }
    __syncthreads();
  }

  static __device__ __forceinline__ void run(const problem& a) {
    KN_DYNAMIC_SHARED(char, memory);
    const work w = work_of<kRows>(a);
    if (w.empty) return;  // all of the block
    const uint64_t odd =
        reinterpret_cast<uint64_t>(a.k) | reinterpret_cast<uint64_t>(a.v) |
        static_cast<uint64_t>((a.k_page | a.k_token | a.k_head | a.v_page | a.v_token | a.v_head) * (kNarrow ? 1 : 2));
    __shared__ uint32_t spoilt[kWaves * 32][kTiles / 8];  // 1 KB beside the stages of 128
    for (int i = 0; i < kTiles / 8; i++) spoilt[threadIdx.x][i] = 0;
    const job j{a, w, memory + wave_id() * kWaveBytes, spoilt[threadIdx.x], odd % 16 == 0};
    rows x;
    load_rows(a, w, x);
    const int64_t first = w.walk + int64_t{wave_id()} * kKeys, stride = kWaves * kKeys;
    for (int i = 0; i < kStages - 1; i++) load_stage(j, first + i * stride, j.memory + i * kStageBytes);
    int at = 0;
#pragma unroll 1
    for (int64_t tile = first; tile < w.end; tile += stride) {
      cp_async_wait<kStages - 2>();
      __syncwarp();  // this stage is there for all lanes, and all have done with the one that is filled next
      load_stage(j, tile + (kStages - 1) * stride, j.memory + (at + kStages - 1) % kStages * kStageBytes);
      char* stage = j.memory + at * kStageBytes;
      char *ks = stage, *vs = stage + kKeys * kStored;
      if constexpr (kNarrow) {
        char* wide = j.memory + kStages * kStageBytes;
        widen_tile<Element>(ks, wide);
        widen_tile<Operand>(vs, wide + kKeys * kBytes);
        __syncwarp();
        ks = wide, vs = wide + kKeys * kBytes;
      }
      multiply(j, tile, stage, ks, vs, x);
      at = at + 1 == kStages ? 0 : at + 1;
    }
    cp_async_wait<0>();
    __syncthreads();  // the stages are no longer needed: the sums take their place
    shared& to = *reinterpret_cast<shared*>(memory);
    publish(j, x, to);
    to.write(a, w.s, w.kv_head, w.row0, w.split, w.direct);
  }
};

}  // namespace
}  // namespace kn::decode_attention

#define KN_ATTENTION(q, kv, KV, D, Fixed)                                               \
  KN_KERNEL(decode_attention_sm80_##q##_##kv##_d##D, 128, 1, kn_decode_attention_gpu) { \
    kn::decode_attention::attention<kn::q, KV, D, Fixed>::run(args);                    \
  }
#define KN_ATTENTION_HEADS(q, kv, KV, Fixed) \
  KN_ATTENTION(q, kv, KV, 64, Fixed)         \
  KN_ATTENTION(q, kv, KV, 128, Fixed)        \
  KN_ATTENTION(q, kv, KV, 256, Fixed)
KN_ATTENTION_HEADS(bf16, bf16, KN_BF16, false)
KN_ATTENTION_HEADS(bf16, s8, KN_S8, false)
KN_ATTENTION_HEADS(bf16, e4m3, KN_E4M3, false)
KN_ATTENTION_HEADS(f16, f16, KN_F16, false)
KN_ATTENTION_HEADS(f16, f16fixed, KN_F16, true)
KN_ATTENTION_HEADS(f16, s8, KN_S8, false)
KN_ATTENTION_HEADS(f16, e4m3, KN_E4M3, false)
