// flat_gemm/sm80: tensor cores with the operands swapped: 16 rows of w are the m of mma.m16n8k16, so m is padded to 8
// only.
//
// A block has 8 waves, WN along 16 WN columns times WK = 8 / WN along k. Weights and x stream through `Stages` buffers
// of kDepth elements of k by cp.async: Stages - 1 of them are in flight, 24 to 48 KB a block, more than a
// multiprocessor's share of (bandwidth x latency). Weights stay quantised until they are in registers.
//
// The order of k inside a unit of 32 is free as long as w and x agree: a lane takes elements 8t .. 8t + 7 of its rows,
// one wide load each, where the fragments ask for 2t, 2t + 1, 2t + 8, ... So the fragments need no ldmatrix, and bytes
// and nibbles come out of a word next to each other.
//
// Bits: an element is a chain over the units of its wave, then the WK waves in order, then splits in order, whatever m.
#include "flat_gemm_decode.cuh"

namespace kn::flat_gemm {
namespace {

constexpr int kWaves = 8, kThreads = kWaves * 32;
constexpr int kDepth = 128;  // elements of k of a stage: a full line of L2 for two-byte weights
constexpr int kUnit = 32;    // of k, two steps of m16n8k16 or one of m16n8k32

template <int X>
struct element_of {
  using type = bf16;
};
template <>
struct element_of<KN_F16> {
  using type = f16;
};

// What a lane holds of one row of w: 8 elements as operands.
struct bf16x8 {
  uint32_t v[4];
};

__device__ __forceinline__ bf16x8 decode_u4(uint32_t w, int zero) {
  const uint32_t even = w & 0x0f0f0f0fu, odd = w >> 4 & 0x0f0f0f0fu;
  bf16x8 out;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t pair = (even >> (8 * i) & 0xffu) | (odd >> (8 * i) & 0xffu) << 16;
    out.v[i] = subtract_zero(pair | 0x43004300u, zero);
  }
  return out;
}

template <int W>
__device__ __forceinline__ bf16x8 load_weights(const char* tile, int row, int unit, int t, int zero) {
  constexpr int kBytes = kDepth * kBits<W> / 8;
  bf16x8 out;
  if constexpr (W == KN_S8) {
    const word_pair w = *reinterpret_cast<const word_pair*>(tile + swizzled<kBytes>(row, unit * 32 + t * 8));
    decode_s8(w.x, out.v[0], out.v[1]);
    decode_s8(w.y, out.v[2], out.v[3]);
  } else if constexpr (W == KN_U4) {
    out = decode_u4(*reinterpret_cast<const uint32_t*>(tile + swizzled<kBytes>(row, unit * 16 + t * 4)), zero);
  } else {
    const words w = load16(tile + swizzled<kBytes>(row, unit * 64 + t * 16));
    out = {{w.v[0], w.v[1], w.v[2], w.v[3]}};
  }
  return out;
}

template <int W, int X, int M, int WN>
struct tile {
  static constexpr int kColumns = 16 * WN, kAlongK = kWaves / WN, kTiles = M / 8;
  static constexpr int kStages = M <= 16 ? 4 : 3;
  static constexpr int kWBytes = kDepth * kBits<W> / 8, kXBytes = kDepth * kBits<X> / 8;
  static constexpr int kStageBytes = kColumns * kWBytes + M * kXBytes;
  static constexpr int kUnits = kDepth / kUnit / kAlongK;  // of a wave in a stage
  static constexpr bool kInteger = X == KN_S8;
  using sum_t = typename sum_of<kInteger>::type;
  static_assert(kAlongK * M * kColumns * 4 <= kStages * kStageBytes, "the sums are exchanged where the stages were");

  struct job {
    const kn_flat_gemm_gpu& a;
    char* stages;
    int64_t column0, row0, begin, end;
    bool aligned;
  };

  static __device__ __forceinline__ void load_stage(const job& j, int64_t k, char* stage) {
    const kn_flat_gemm_gpu& a = j.a;
    const int64_t left = j.end - k, columns = columns_of(a);
    if (left > 0) {
      for (int i = static_cast<int>(threadIdx.x); i < kColumns * kWBytes / 16; i += kThreads) {
        const int row = i / (kWBytes / 16), byte = i % (kWBytes / 16) * 16;
        const int64_t column = j.column0 + row < columns ? j.column0 + row : columns - 1;
        const char* from = static_cast<const char*>(a.w) + (w_row(a, column) * a.ldw + k) * kBits<W> / 8 + byte;
        copy16(stage + swizzled<kWBytes>(row, byte), from, (left * kBits<W> + 7) / 8 - byte, j.aligned);
      }
      for (int i = static_cast<int>(threadIdx.x); i < M * kXBytes / 16; i += kThreads) {
        const int row = i / (kXBytes / 16), byte = i % (kXBytes / 16) * 16;
        const bool exists = j.row0 + row < a.m;
        const char* from =
            static_cast<const char*>(a.x) + ((exists ? j.row0 + row : 0) * a.ldx + k) * kBits<X> / 8 + byte;
        copy16(stage + kColumns * kWBytes + swizzled<kXBytes>(row, byte), from, exists ? left * kBits<X> / 8 - byte : 0,
               j.aligned);
      }
    }
    cp_async_commit();
  }

  struct groups {
    float scale[2];
    int zero[2];
  };

  // Of rows g and g + 8 of this wave's 16 at k.
  static __device__ __forceinline__ groups load_groups(const job& j, int64_t k) {
    groups g = {};
    if constexpr (W == KN_U4) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const group q = load_group(j.a, j.column0 + wave_id() % WN * 16 + lane_id() / 4 + i * 8, k);
        g.scale[i] = q.scale, g.zero[i] = q.zero;
      }
    }
    return g;
  }

  static __device__ __forceinline__ void multiply_unit(const char* stage, int unit, const groups& q,
                                                       sum_t (&sums)[kTiles][4]) {
    const int g = lane_id() / 4, t = lane_id() % 4, row = wave_id() % WN * 16 + g;
    const char* xs = stage + kColumns * kWBytes;
    if constexpr (kInteger) {
      const word_pair low = *reinterpret_cast<const word_pair*>(stage + swizzled<kWBytes>(row, unit * 32 + t * 8));
      const word_pair high = *reinterpret_cast<const word_pair*>(stage + swizzled<kWBytes>(row + 8, unit * 32 + t * 8));
      const uint32_t a[4] = {low.x, high.x, low.y, high.y};
#pragma unroll
      for (int i = 0; i < kTiles; i++) {
        const word_pair b = *reinterpret_cast<const word_pair*>(xs + swizzled<kXBytes>(i * 8 + g, unit * 32 + t * 8));
        mma_s8(sums[i], a, b.x, b.y);
      }
    } else {
      const bf16x8 low = load_weights<W>(stage, row, unit, t, q.zero[0]);
      const bf16x8 high = load_weights<W>(stage, row + 8, unit, t, q.zero[1]);
      const uint32_t a0[4] = {low.v[0], high.v[0], low.v[1], high.v[1]},
                     a1[4] = {low.v[2], high.v[2], low.v[3], high.v[3]};
      using element = typename element_of<X>::type;
#pragma unroll
      for (int i = 0; i < kTiles; i++) {
        const words b = load16(xs + swizzled<kXBytes>(i * 8 + g, unit * 64 + t * 16));
        if constexpr (W == KN_U4) {  // a unit lies in one group: its sum has one scale for each row
          float part[4] = {};
          mma(element{}, part, a0, b.v[0], b.v[1]);
          mma(element{}, part, a1, b.v[2], b.v[3]);
#pragma unroll
          for (int e = 0; e < 4; e++) sums[i][e] = __builtin_fmaf(part[e], q.scale[e / 2], sums[i][e]);
        } else {
          mma(element{}, sums[i], a0, b.v[0], b.v[1]);
          mma(element{}, sums[i], a1, b.v[2], b.v[3]);
        }
      }
    }
  }

  // Sums of all waves along k meet in shared memory; then neighbouring threads write neighbouring columns.
  static __device__ __forceinline__ void write(const job& j, const sum_t (&sums)[kTiles][4]) {
    const kn_flat_gemm_gpu& a = j.a;
    sum_t* all = reinterpret_cast<sum_t*>(j.stages);  // [kAlongK][M][kColumns]
    const int g = lane_id() / 4, t = lane_id() % 4;
    sum_t* own = all + wave_id() / WN * M * kColumns + wave_id() % WN * 16;
#pragma unroll
    for (int i = 0; i < kTiles; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) own[(i * 8 + t * 2 + e % 2) * kColumns + g + e / 2 * 8] = sums[i][e];
    __syncthreads();
    const int64_t columns = columns_of(a);
    for (int i = static_cast<int>(threadIdx.x); i < M * kColumns; i += kThreads) {
      const int64_t row = j.row0 + i / kColumns, column = j.column0 + i % kColumns;
      if (row >= a.m || column >= columns) continue;
      sum_t sum = all[i], up = 0;
      for (int s = 1; s < kAlongK; s++) sum += all[s * M * kColumns + i];
      if (a.splits > 1) {
        static_cast<sum_t*>(a.partial)[(blockIdx.y * int64_t{a.m} + row) * columns + column] = sum;
        continue;
      }
      if (gated(a)) {
        if (column % 2 != 0) continue;
        for (int s = 0; s < kAlongK; s++) up += all[s * M * kColumns + i + 1];
      }
      write_output(a, row, gated(a) ? column / 2 : column, static_cast<float>(sum), static_cast<float>(up));
    }
    __syncthreads();  // before the next tile of rows fills the stages
  }

  static __device__ __forceinline__ void run(const kn_flat_gemm_gpu& a) {
    KN_DYNAMIC_SHARED(char, stages);
    job j{a, stages, int64_t{blockIdx.x} * kColumns, 0, int64_t{blockIdx.y} * a.k_split, 0, false};
    j.end = j.begin + a.k_split < a.k ? j.begin + a.k_split : a.k;
    j.aligned = ((reinterpret_cast<uint64_t>(a.x) | reinterpret_cast<uint64_t>(a.w) |
                  static_cast<uint64_t>(a.ldx * kBits<X> / 8) | static_cast<uint64_t>(a.ldw * kBits<W> / 8)) %
                 16) == 0;
    const int steps = static_cast<int>((j.end - j.begin + kDepth - 1) / kDepth);
    const int first = wave_id() / WN * kUnits;
    for (j.row0 = int64_t{blockIdx.z} * M; j.row0 < a.m; j.row0 += int64_t{gridDim.z} * M) {
      sum_t sums[kTiles][4] = {};
      for (int s = 0; s < kStages - 1; s++) load_stage(j, j.begin + s * kDepth, stages + s * kStageBytes);
#pragma unroll 1
      for (int step = 0; step < steps; step++) {
        const int64_t k = j.begin + int64_t{step} * kDepth + first * kUnit;
        groups q[kUnits] = {};
#pragma unroll
        for (int u = 0; u < kUnits; u++)
          if (k + u * kUnit < j.end) q[u] = load_groups(j, k + u * kUnit);  // while the stage arrives
        cp_async_wait<kStages - 2>();
        __syncthreads();  // the stage is there for all, and all have done with the one that is filled next
        load_stage(j, j.begin + int64_t{step + kStages - 1} * kDepth,
                   stages + (step + kStages - 1) % kStages * kStageBytes);
#pragma unroll
        for (int u = 0; u < kUnits; u++)
          if (k + u * kUnit < j.end) multiply_unit(stages + step % kStages * kStageBytes, first + u, q[u], sums);
      }
      cp_async_wait<0>();
      __syncthreads();
      write(j, sums);
    }
  }
};

}  // namespace
}  // namespace kn::flat_gemm

#define KN_FLAT_GEMM(w, x, W, X, M, WN, columns)                                                          \
  KN_KERNEL(flat_gemm_sm80_##w##_##x##_m##M##_n##columns, kn::flat_gemm::kThreads, 2, kn_flat_gemm_gpu) { \
    kn::flat_gemm::tile<W, X, M, WN>::run(args);                                                          \
  }
#define KN_FLAT_GEMM_ROWS(w, x, W, X) \
  KN_FLAT_GEMM(w, x, W, X, 8, 2, 32)  \
  KN_FLAT_GEMM(w, x, W, X, 16, 2, 32) \
  KN_FLAT_GEMM(w, x, W, X, 8, 4, 64)  \
  KN_FLAT_GEMM(w, x, W, X, 16, 4, 64) \
  KN_FLAT_GEMM(w, x, W, X, 32, 4, 64) \
  KN_FLAT_GEMM(w, x, W, X, 64, 4, 64)
KN_FLAT_GEMM_ROWS(bf16, bf16, KN_BF16, KN_BF16)
KN_FLAT_GEMM_ROWS(f16, f16, KN_F16, KN_F16)
KN_FLAT_GEMM_ROWS(s8, bf16, KN_S8, KN_BF16)
KN_FLAT_GEMM_ROWS(u4, bf16, KN_U4, KN_BF16)
KN_FLAT_GEMM_ROWS(s8, s8, KN_S8, KN_S8)
