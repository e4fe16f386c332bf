// flat_gemm/sm90: wgmma on tiles that one warp streams through shared memory by tensor copies (TMA). Persistent: blocks
// take tiles of M rows of x by 128 columns by one split of k until none is left, and the copies of the next tile run
// while the sums of the last one are written.
//
// wgmma has 64 rows on one side and a multiple of 8 on the other. For M <= 64 the 64 rows are of w, so m is padded to 8
// only; above, they are of x. Two warpgroups share the stages; a stage is 16 KB of w and the x for it, M / 8 KB or a
// multiple, and some 200 KB of them are in flight, several times a multiprocessor's share of (bandwidth x latency).
//
// A tile's row is 128 bytes of w: 64, 128 or 256 elements of k, and x has as many, in rows of 128 bytes as well. Both
// s8: wgmma multiplies them as they are. Weights narrower than x are the side of 64 whatever M, since wgmma takes that
// side from registers too, where they are decoded; sums of u4 weights get the scales of each 32 elements of k.
//
// Gated, rows of gate and up alternate by 8 in a tile: then the two of a pair lie in one thread, on either side.
//
// Bits: an element is one chain over k of its split, then splits in order.
#include <sm90.cuh>

#include "flat_gemm_decode.cuh"

namespace kn::flat_gemm {
namespace {

constexpr int kColumns = 128, kConsumers = 8;  // warps
// The producer's warpgroup, of which one warp works, gives registers to the two that hold sums: 64512 in all.
constexpr int kThreads = 384, kProducerRegisters = 72, kConsumerRegisters = 216;
constexpr int kStagesBytes = 204 << 10;  // at most
constexpr int kSumColumns = 32, kSumPitch = kSumColumns + 8;
static_assert(sizeof(kn_flat_gemm_sm90) == 448 && sizeof(tensor_map) == sizeof(kn_flat_gemm_sm90::x_map));

template <int X>
struct element_of {
  using type = bf16;
};
template <>
struct element_of<KN_F16> {
  using type = f16;
};
template <>
struct element_of<KN_S8> {
  using type = s8;
};

template <int W, int X, int M>
struct tile {
  using Element = typename element_of<X>::type;
  using sum_t = typename sum_of<X == KN_S8>::type;
  static constexpr bool kNarrow = W != X, kSwapped = M <= 64 || kNarrow;
  static constexpr int kDepth = kTileBytes * 8 / kBits<W>, kXDepth = kTileBytes * 8 / kBits<X>;  // of k, in a row
  static constexpr int kBlocks = kSwapped ? 1 : M / 128;  // of 64 rows, of a warpgroup
  static constexpr int kN = kSwapped ? M : kColumns, kSums = kN / 2;
  static constexpr int kXPartBytes = M * kTileBytes, kXBytes = kDepth / kXDepth * kXPartBytes;
  static constexpr int kWBytes = kColumns * kTileBytes, kStageBytes = kXBytes + kWBytes;
  static constexpr int kStages = kStagesBytes / kStageBytes;

  using position = ring_position<kStages>;

  struct job {
    const kn_flat_gemm_sm90* map;  // the parameter where it is
    const kn_flat_gemm_gpu& a;
    char* stages;
    sum_t* sums;
    mbarrier *full, *empty;
    int64_t tiles, row_tiles, column_tiles;
    int64_t row0, column0, begin, end, split;  // of the tile at hand
  };

  // Neighbours share columns, so that w comes from memory once.
  static __device__ __forceinline__ void take(job& j, int64_t i) {
    j.row0 = i % j.row_tiles * M;
    j.column0 = i / j.row_tiles % j.column_tiles * kColumns;
    j.split = i / j.row_tiles / j.column_tiles;
    j.begin = j.split * j.a.k_split;
    j.end = j.begin + j.a.k_split < j.a.k ? j.begin + j.a.k_split : j.a.k;
  }

  // The column of row r of a tile of w.
  static __device__ __forceinline__ int64_t column_at(const job& j, int r) {
    return j.column0 + (gated(j.a) ? r / 16 * 16 + r % 8 * 2 + r / 8 % 2 : r);
  }

  // A row of a tile as copy_tensor would write it, by a lane for each 16 bytes; `left` bytes of it exist.
  static __device__ __forceinline__ void copy_row(char* to, int row, const void* base, int64_t from, int64_t left) {
    const int piece = lane_id() % 8;
    copy16(to + row * kTileBytes + (piece ^ row % 8) * 16, static_cast<const char*>(base) + from + piece * 16,
           left - piece * 16, false);
  }

  static __device__ __forceinline__ void copy_rows(const job& j, int64_t k, char* x, char* w) {
    const kn_flat_gemm_gpu& a = j.a;
    const int64_t left = j.end - k;
    if (!j.map->x_mapped)
#pragma unroll 1
      for (int part = 0; part < kDepth / kXDepth; part++)
        for (int r = lane_id() / 8; r < M; r += 4)
          copy_row(x + part * kXPartBytes, r, a.x, ((j.row0 + r) * a.ldx + k) * kBits<X> / 8 + part * kTileBytes,
                   j.row0 + r < a.m ? left * kBits<X> / 8 - part * kTileBytes : 0);
    if (!j.map->w_mapped)
      for (int r = lane_id() / 8; r < kColumns; r += 4) {
        const int64_t column = column_at(j, r);
        copy_row(w, r, a.w, (w_row(a, column) * a.ldw + k) * kBits<W> / 8,
                 column < columns_of(a) ? (left * kBits<W> + 7) / 8 : 0);
      }
    fence_proxy_async();
    __syncwarp();
  }

  static __device__ __forceinline__ void copy_tiles(const job& j, int64_t k, char* x, char* w, mbarrier& full) {
    const bool x_mapped = j.map->x_mapped, w_mapped = j.map->w_mapped;
    const tensor_map* const x_map = reinterpret_cast<const tensor_map*>(j.map->x_map);
    const tensor_map* const w_map = reinterpret_cast<const tensor_map*>(j.map->w_map);
    const int at = static_cast<int>(k) / (W == KN_U4 ? 2 : 1), row = static_cast<int>(j.row0);
    const int column = static_cast<int>(gated(j.a) ? j.column0 / 2 : j.column0);
    full.arrive_expect((x_mapped ? kXBytes : 0) + (w_mapped ? kWBytes : 0));
    if (x_mapped)
      for (int part = 0; part < kDepth / kXDepth; part++)
        copy_tensor(x + part * kXPartBytes, x_map, static_cast<int>(k) + part * kXDepth, row, 0, full);
    if (w_mapped && !gated(j.a)) copy_tensor(w, w_map, at, column, 0, full);
    if (w_mapped && gated(j.a))
      for (int r = 0; r < kColumns; r += 16) copy_tensor(w + r * kTileBytes, w_map, at, column + r / 2, 0, full);
  }

  static __device__ __forceinline__ void load_stage(const job& j, int64_t k, int stage) {
    char* const x = j.stages + stage * kStageBytes;
    char* const w = x + kXBytes;
    if (!j.map->x_mapped || !j.map->w_mapped) copy_rows(j, k, x, w);
    if (lane_id() == 0) copy_tiles(j, k, x, w, j.full[stage]);
    __syncwarp();  // or the others wait for the next stage before this one is asked for
  }

  static __device__ __forceinline__ void produce(job& j) {
    position p;
    for (int64_t i = blockIdx.x; i < j.tiles; i += gridDim.x) {
      take(j, i);
      for (int64_t k = j.begin; k < j.end; k += kDepth, p.next()) {
        j.empty[p.stage].wait(p.parity ^ 1);
        load_stage(j, k, p.stage);
      }
    }
  }

  // Sums of a block go out by 32 columns of d, through shared memory: then one loop writes whatever register they were
  // in, and neighbouring lanes neighbouring columns of y.
  static __device__ __forceinline__ void write(const job& j, const sum_t (&d)[kBlocks][kSums]) {
    constexpr int kWide = kN < kSumColumns ? kN : kSumColumns, kParts = kN / kWide;
    const int warp = wave_id(), g = lane_id() / 4, t = lane_id() % 4;
    sum_t* const sums = j.sums + warp * 16 * kSumPitch;
#pragma unroll 1
    for (int part = 0; part < kBlocks * kParts; part++) {
#pragma unroll
      for (int p = 0; p < kBlocks * kParts; p++)
        if (p == part)
#pragma unroll
          for (int i = 0; i < kWide / 2; i++)
            sums[(g + i / 2 % 2 * 8) * kSumPitch + i / 4 * 8 + t * 2 + i % 2] =
                d[p / kParts][p % kParts * kWide / 2 + i];
      __syncwarp();
      const int first = (warp / 4 * kBlocks + part / kParts) * 64 + warp % 4 * 16;
      for (int i = lane_id(); i < 16 * kWide; i += 32) {
        const int long_side = kSwapped ? i % 16 : i / kWide, short_side = kSwapped ? i / 16 : i % kWide;
        const sum_t* const sum = sums + long_side * kSumPitch + short_side;
        const int wide = part % kParts * kWide + short_side;
        if constexpr (kSwapped)
          write_sum(j, j.row0 + wide, first + long_side, sum[0], sum + 8 * kSumPitch);
        else
          write_sum(j, j.row0 + first + long_side, wide, sum[0], sum + 8);
      }
      __syncwarp();
    }
  }

  // The sum at row r of a tile of w; that of its pair is behind `up`.
  static __device__ __forceinline__ void write_sum(const job& j, int64_t row, int r, sum_t sum, const sum_t* up) {
    const kn_flat_gemm_gpu& a = j.a;
    const int64_t column = column_at(j, r), columns = columns_of(a);
    if (row >= a.m || column >= columns) return;
    if (a.splits > 1)
      static_cast<sum_t*>(a.partial)[(j.split * a.m + row) * columns + column] = sum;
    else if (!gated(a))
      write_output(a, row, column, static_cast<float>(sum), 0.0f);
    else if (column % 2 == 0)
      write_output(a, row, column / 2, static_cast<float>(sum), static_cast<float>(*up));
  }

  static __device__ __forceinline__ void multiply_stage(const char* stage, sum_t (&d)[kBlocks][kSums]) {
    const uint64_t x = tile_descriptor(stage), w = tile_descriptor(stage + kXBytes);
    const uint64_t rows = static_cast<uint64_t>(wave_id() / 4 * kBlocks * 64 * kDescriptorRows);
    const uint64_t a = (kSwapped ? w : x) + rows, b = kSwapped ? x : w;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileBytes / 32; k++)
#pragma unroll
      for (int i = 0; i < kBlocks; i++)
        wgmma(Element{}, d[i], a + static_cast<uint64_t>(k * kDescriptorK + i * 64 * kDescriptorRows),
              b + static_cast<uint64_t>(k * kDescriptorK));
    wgmma_commit();
  }

  // The left operand of step `step` of 16 of k: rows g and g + 8 of this warp's 16.
  static __device__ __forceinline__ void decode(const char* w, int step, const group (&q)[2], uint32_t (&a)[4]) {
    const int t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = wave_id() * 16 + lane_id() / 4 + i * 8;
      if constexpr (W == KN_S8) {  // 16 bytes are 16 of k, of which a thread wants 2t, 2t + 1, 2t + 8 and 2t + 9
        const words v = load16(w + row * kTileBytes + ((step ^ row % 8) << 4));
        const uint32_t low = (t & 2 ? v.v[1] : v.v[0]) >> t % 2 * 16, high = (t & 2 ? v.v[3] : v.v[2]) >> t % 2 * 16;
        decode_s8((low & 0xffffu) | high << 16, a[i], a[2 + i]);
      } else {
        const char* const from = w + row * kTileBytes + ((step / 2 ^ row % 8) << 4) + step % 2 * 8;
        const word_pair v = *reinterpret_cast<const word_pair*>(from);
        a[i] = decode_u4_pair(v.x >> t * 8, q[i].zero);
        a[2 + i] = decode_u4_pair(v.y >> t * 8, q[i].zero);
      }
    }
  }

  static __device__ __forceinline__ uint64_t x_descriptor(const char* stage, int step) {
    return tile_descriptor(stage) + tiles_apart(step / 4 * kXPartBytes) +
           static_cast<uint64_t>(step % 4 * kDescriptorK);
  }

  // s8: the second half is decoded while the first is multiplied.
  static __device__ __forceinline__ void multiply_s8(const char* stage, float (&d)[kSums]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint32_t a[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) decode(stage + kXBytes, half * 4 + i, {}, a[i]);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4; i++) wgmma(Element{}, d, a[i], x_descriptor(stage, half * 4 + i));
      wgmma_commit();
    }
    wgmma_wait<0>();
  }

  static constexpr int kUnit = 32, kUnits = kDepth / kUnit, kTogether = M <= 16 ? 4 : M == 32 ? 2 : 1;

  static __device__ __forceinline__ void load_groups(const job& j, int64_t k, group (&q)[kUnits][2]) {
#pragma unroll
    for (int u = 0; u < kUnits; u++)
#pragma unroll
      for (int i = 0; i < 2; i++)
        if (k + u * kUnit < j.end)
          q[u][i] = load_group(j.a, column_at(j, wave_id() * 16 + lane_id() / 4 + i * 8), k + u * kUnit);
  }

  // u4: a unit lies in one group, and its sum has one scale for each row. As many units run together as registers
  // allow.
  static __device__ __forceinline__ void multiply_u4(const char* stage, int64_t left, const group (&q)[kUnits][2],
                                                     float (&d)[kSums]) {
#pragma unroll
    for (int first = 0; first < kUnits; first += kTogether) {
      if (first * kUnit >= left) break;  // a split ends at a multiple of 128, not of 256
      float part[kTogether][kSums] = {};
      uint32_t a[kTogether * 2][4];
#pragma unroll
      for (int i = 0; i < kTogether * 2; i++) decode(stage + kXBytes, first * 2 + i, q[first + i / 2], a[i]);
#pragma unroll
      for (int u = 0; u < kTogether; u++) settle(part[u]);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kTogether * 2; i++) wgmma(Element{}, part[i / 2], a[i], x_descriptor(stage, first * 2 + i));
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int u = 0; u < kTogether; u++)
#pragma unroll
        for (int i = 0; i < kSums; i++) d[i] = __builtin_fmaf(part[u][i], q[first + u][i / 2 % 2].scale, d[i]);
    }
  }

  static __device__ __forceinline__ void release(const job& j, int stage) {
    if (stage >= 0 && lane_id() == 0) j.empty[stage].arrive();
  }

  static __device__ __forceinline__ void multiply_narrow(const job& j, position& p, float (&d)[kSums]) {
    for (int64_t k = j.begin; k < j.end; k += kDepth, p.next()) {
      const char* const stage = j.stages + p.stage * kStageBytes;
      if constexpr (W == KN_U4) {
        group q[kUnits][2] = {};
        load_groups(j, k, q);  // while the stage arrives
        j.full[p.stage].wait(p.parity);
        multiply_u4(stage, j.end - k, q, d);
      } else {
        j.full[p.stage].wait(p.parity);
        multiply_s8(stage, d);
      }
      release(j, p.stage);
    }
  }

  static __device__ __forceinline__ void consume(job& j) {
    position p;
    for (int64_t i = blockIdx.x; i < j.tiles; i += gridDim.x) {
      take(j, i);
      sum_t d[kBlocks][kSums] = {};
      if constexpr (kNarrow) {
        multiply_narrow(j, p, d[0]);
      } else {
        int last = -1;
        for (int64_t k = j.begin; k < j.end; k += kDepth, p.next()) {
          j.full[p.stage].wait(p.parity);
          multiply_stage(j.stages + p.stage * kStageBytes, d);
          wgmma_wait<1>();  // the products of this stage run on, those of the last one are over
          release(j, last);
          last = p.stage;
        }
        wgmma_wait<0>();
        release(j, last);
      }
      write(j, d);
    }
  }

  static __device__ __forceinline__ void run(const kn_flat_gemm_sm90& args, const kn_flat_gemm_sm90* where) {
    KN_DYNAMIC_SHARED(char, memory);
    __shared__ mbarrier full[kStages], empty[kStages];
#if defined(KN_SIMT)
    char* const stages = memory;
#else
    char* const stages = memory + (-shared_address(memory) & 1023u);
#endif
    const kn_flat_gemm_gpu& a = args.call;
    job j{where,
          a,
          stages,
          reinterpret_cast<sum_t*>(stages + kStages * kStageBytes),
          full,
          empty,
          0,
          (a.m + M - 1) / M,
          (columns_of(a) + kColumns - 1) / kColumns,
          0,
          0,
          0,
          0,
          0};
    j.tiles = j.row_tiles * j.column_tiles * a.splits;
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; s++) {
        full[s].init(1);
        empty[s].init(kConsumers);
      }
      fence_mbarrier_init();
    }
    __syncthreads();
    if (wave_id() >= kConsumers) {
      decrease_registers<kProducerRegisters>();
      if (wave_id() == kConsumers) produce(j);
    } else {
      increase_registers<kConsumerRegisters>();
      consume(j);
    }
  }
};

}  // namespace
}  // namespace kn::flat_gemm

#define KN_FLAT_GEMM(w, x, W, X, M)                                                               \
  KN_KERNEL(flat_gemm_sm90_##w##_##x##_m##M, kn::flat_gemm::kThreads, 1, kn_flat_gemm_sm90) {     \
    kn::flat_gemm::tile<W, X, M>::run(args, KN_PARAMETER(flat_gemm_sm90_##w##_##x##_m##M, args)); \
  }
#define KN_FLAT_GEMM_ROWS(w, x, W, X) \
  KN_FLAT_GEMM(w, x, W, X, 8)         \
  KN_FLAT_GEMM(w, x, W, X, 16)        \
  KN_FLAT_GEMM(w, x, W, X, 32)        \
  KN_FLAT_GEMM(w, x, W, X, 64)
#define KN_FLAT_GEMM_LARGE(w, x, W, X) \
  KN_FLAT_GEMM_ROWS(w, x, W, X)        \
  KN_FLAT_GEMM(w, x, W, X, 128)        \
  KN_FLAT_GEMM(w, x, W, X, 256)
KN_FLAT_GEMM_LARGE(bf16, bf16, KN_BF16, KN_BF16)
KN_FLAT_GEMM_LARGE(f16, f16, KN_F16, KN_F16)
KN_FLAT_GEMM_LARGE(s8, s8, KN_S8, KN_S8)
KN_FLAT_GEMM_ROWS(s8, bf16, KN_S8, KN_BF16)
KN_FLAT_GEMM_ROWS(u4, bf16, KN_U4, KN_BF16)
