// flat_gemm/sm90: wgmma on tiles that one warp streams through shared memory by tensor copies (TMA). Persistent: blocks
// take tiles of M rows of x by 128 columns by one split of k until none is left, and the copies of the next tile run
// while the sums of the last one are written.
//
// wgmma has 64 rows on one side and a multiple of 8 on the other. For M <= 64 the 64 rows are of w, so m is padded to 8
// only; above, they are of x. Two warpgroups share the stages; a stage is 64 elements of k, 16 KB of w and M / 8 KB of
// x, and some 200 KB of them are in flight, several times a multiprocessor's share of (bandwidth x latency).
//
// Gated, rows of gate and up alternate by 8 in a tile: then the two of a pair lie in one thread, on either side.
//
// Bits: an element is one chain over k of its split, then splits in order.
#include <sm90.cuh>

#include "flat_gemm_gpu.cuh"

namespace kn::flat_gemm {
namespace {

constexpr int kColumns = 128, kConsumers = 8;  // warps
// The producer's warpgroup, of which one warp works, gives registers to the two that hold sums: 64512 in all.
constexpr int kThreads = 384, kProducerRegisters = 72, kConsumerRegisters = 216;
constexpr int kStagesBytes = 204 << 10;  // at most
constexpr int kSumColumns = 32, kSumPitch = kSumColumns + 8;
static_assert(sizeof(kn_flat_gemm_sm90) == 448 && sizeof(tensor_map) == sizeof(kn_flat_gemm_sm90::x_map));

template <class Element, int M>
struct tile {
  static constexpr bool kSwapped = M <= 64;
  static constexpr int kBlocks = kSwapped ? 1 : M / 128;  // of 64 rows, of a warpgroup
  static constexpr int kN = kSwapped ? M : kColumns, kSums = kN / 2;
  static constexpr int kXBytes = M * kTileBytes, kWBytes = kColumns * kTileBytes, kStageBytes = kXBytes + kWBytes;
  static constexpr int kStages = kStagesBytes / kStageBytes;

  using position = ring_position<kStages>;

  struct job {
    const kn_flat_gemm_sm90* map;  // the parameter where it is
    const kn_flat_gemm_gpu& a;
    char* stages;
    float* sums;
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

  // A row of a tile as copy_tensor would write it, by a lane for each 16 bytes.
  static __device__ __forceinline__ void copy_row(char* to, int row, const char* from, bool exists, int64_t left) {
    const int piece = lane_id() % 8;
    copy16(to + row * kTileBytes + (piece ^ row % 8) * 16, from + piece * 16, exists ? left * 2 - piece * 16 : 0,
           false);
  }

  static __device__ __forceinline__ void copy_rows(const job& j, int64_t k, char* x, char* w) {
    const kn_flat_gemm_gpu& a = j.a;
    if (!j.map->x_mapped)
      for (int r = lane_id() / 8; r < M; r += 4)
        copy_row(x, r, static_cast<const char*>(a.x) + ((j.row0 + r) * a.ldx + k) * 2, j.row0 + r < a.m, j.end - k);
    if (!j.map->w_mapped)
      for (int r = lane_id() / 8; r < kColumns; r += 4) {
        const int64_t column = column_at(j, r);
        copy_row(w, r, static_cast<const char*>(a.w) + (w_row(a, column) * a.ldw + k) * 2, column < columns_of(a),
                 j.end - k);
      }
    fence_proxy_async();
    __syncwarp();
  }

  static __device__ __forceinline__ void copy_tiles(const job& j, int64_t k, char* x, char* w, mbarrier& full) {
    const bool x_mapped = j.map->x_mapped, w_mapped = j.map->w_mapped;
    const tensor_map* const x_map = reinterpret_cast<const tensor_map*>(j.map->x_map);
    const tensor_map* const w_map = reinterpret_cast<const tensor_map*>(j.map->w_map);
    const int at = static_cast<int>(k), row = static_cast<int>(j.row0);
    const int column = static_cast<int>(gated(j.a) ? j.column0 / 2 : j.column0);
    full.arrive_expect((x_mapped ? kXBytes : 0) + (w_mapped ? kWBytes : 0));
    if (x_mapped) copy_tensor(x, x_map, at, row, 0, full);
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
      for (int64_t k = j.begin; k < j.end; k += kTileK, p.next()) {
        j.empty[p.stage].wait(p.parity ^ 1);
        load_stage(j, k, p.stage);
      }
    }
  }

  // Sums of a block go out by 32 columns of d, through shared memory: then one loop writes whatever register they were
  // in, and neighbouring lanes neighbouring columns of y.
  static __device__ __forceinline__ void write(const job& j, const float (&d)[kBlocks][kSums]) {
    constexpr int kWide = kN < kSumColumns ? kN : kSumColumns, kParts = kN / kWide;
    const int warp = wave_id(), g = lane_id() / 4, t = lane_id() % 4;
    float* const sums = j.sums + warp * 16 * kSumPitch;
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
        const float* const sum = sums + long_side * kSumPitch + short_side;
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
  static __device__ __forceinline__ void write_sum(const job& j, int64_t row, int r, float sum, const float* up) {
    const kn_flat_gemm_gpu& a = j.a;
    const int64_t column = column_at(j, r), columns = columns_of(a);
    if (row >= a.m || column >= columns) return;
    if (a.splits > 1)
      static_cast<float*>(a.partial)[(j.split * a.m + row) * columns + column] = sum;
    else if (!gated(a))
      write_output(a, row, column, sum, 0.0f);
    else if (column % 2 == 0)
      write_output(a, row, column / 2, sum, *up);
  }

  static __device__ __forceinline__ void multiply_stage(const char* stage, float (&d)[kBlocks][kSums]) {
    const uint64_t x = tile_descriptor(stage), w = tile_descriptor(stage + kXBytes);
    const uint64_t rows = static_cast<uint64_t>(wave_id() / 4 * kBlocks * 64 * kDescriptorRows);
    const uint64_t a = (kSwapped ? w : x) + rows, b = kSwapped ? x : w;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileK / 16; k++)
#pragma unroll
      for (int i = 0; i < kBlocks; i++)
        wgmma(Element{}, d[i], a + static_cast<uint64_t>(k * kDescriptorK + i * 64 * kDescriptorRows),
              b + static_cast<uint64_t>(k * kDescriptorK));
    wgmma_commit();
  }

  static __device__ __forceinline__ void consume(job& j) {
    position p;
    for (int64_t i = blockIdx.x; i < j.tiles; i += gridDim.x) {
      take(j, i);
      float d[kBlocks][kSums] = {};
      int last = -1;
      for (int64_t k = j.begin; k < j.end; k += kTileK, p.next()) {
        j.full[p.stage].wait(p.parity);
        multiply_stage(j.stages + p.stage * kStageBytes, d);
        wgmma_wait<1>();  // the products of this stage run on, those of the last one are over
        if (last >= 0 && lane_id() == 0) j.empty[last].arrive();
        last = p.stage;
      }
      wgmma_wait<0>();
      if (last >= 0 && lane_id() == 0) j.empty[last].arrive();
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
          reinterpret_cast<float*>(stages + kStages * kStageBytes),
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

#define KN_FLAT_GEMM(type, M)                                                                               \
  KN_KERNEL(flat_gemm_sm90_##type##_##type##_m##M, kn::flat_gemm::kThreads, 1, kn_flat_gemm_sm90) {         \
    kn::flat_gemm::tile<kn::type, M>::run(args, KN_PARAMETER(flat_gemm_sm90_##type##_##type##_m##M, args)); \
  }
#define KN_FLAT_GEMM_ROWS(type) \
  KN_FLAT_GEMM(type, 8)         \
  KN_FLAT_GEMM(type, 16)        \
  KN_FLAT_GEMM(type, 32)        \
  KN_FLAT_GEMM(type, 64)        \
  KN_FLAT_GEMM(type, 128)       \
  KN_FLAT_GEMM(type, 256)
KN_FLAT_GEMM_ROWS(bf16)
KN_FLAT_GEMM_ROWS(f16)
