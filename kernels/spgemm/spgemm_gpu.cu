// spgemm/gpu: row-wise products (Gustavson 1978) in hash tables, for NVIDIA and AMD; tables hold columns of 32 bits,
// matrices those or 64. A group of threads computes a row: 8 lanes, a wave or a block with the table in shared memory,
// or a block with it in device memory, by an upper bound of its entries and its products (windows of SMASH, arXiv
// 2105.14156, with one row each). A giant row is spread over all blocks (spgemm_ranges.cuh).
//
// Ordered: entries of A's row follow one another, a barrier apart, and threads share the entries of one row of B, whose
// columns are distinct. So slots are claimed by atomics and sums are not added by them: an entry of C is zero (+) d (+)
// its products in the order of A's row, whatever the schedule, the same bits as every other row of the operation.
#include "spgemm_ranges.cuh"

namespace kn::spgemm {
namespace {

constexpr int kLanesThreads = 128;
// Entries, with those of the mask, that a table is at most half full of; products that its width should have.
constexpr int64_t kLanesEntries = 64, kWaveEntries = 512, kBlockEntries = 2048;
constexpr int64_t kLanesProducts = 1024, kWaveProducts = 16384;
constexpr int64_t kMostProducts = int64_t{1} << 60;

__device__ __forceinline__ int64_t thread_of_grid() { return int64_t{blockIdx.x} * kBlock + threadIdx.x; }
__device__ __forceinline__ int64_t threads_of_grid() { return int64_t{gridDim.x} * kBlock; }

// What a table has to hold for a row: its entries, or as long as they are not counted its products.
__device__ __forceinline__ int64_t entries_of(const args& a, int64_t i) {
  const int64_t* ends = a.step == KN_SPGEMM_STEP_COUNT ? a.products + i : a.c_offsets + (i - a.row_from);
  int64_t entries = ends[1] - ends[0];
  if (entries > 0 && has(a, KN_SPGEMM_MASK)) entries += length(a.mask, i);
  return entries < a.n ? entries : a.n;
}

enum { kInLanes, kInWave, kInBlock, kInDevice, kInRanges };

__device__ __forceinline__ int width_of(const args& a, int64_t i, int64_t entries) {
  const int64_t products = a.products[i + 1] - a.products[i];
  if (entries <= kLanesEntries && (products <= kLanesProducts || entries == 0)) return kInLanes;
  if (entries <= kWaveEntries && products <= kWaveProducts) return kInWave;
  if (entries <= kBlockEntries) return kInBlock;
  return a.ranges > 0 && products >= a.giant ? kInRanges : kInDevice;
}

__device__ __forceinline__ int64_t row_end(const args& a) {
  return a.step == KN_SPGEMM_STEP_FILL ? *a.rows_done : a.row_to;
}

// zero (+) value to a column, or its sum (+) value.
template <class V>
__device__ __forceinline__ void accumulate(const args& a, const table<V>& t, uint32_t at, uint32_t before,
                                           uint32_t column, V value) {
  const bool masked = has(a, KN_SPGEMM_MASK), first = before == kEmpty || (masked && !(before & kTouched));
  if constexpr (kValues<V>) t.sums[at] = add(a.semiring, first ? zero<V>(a.semiring) : t.sums[at], value);
  if (!first) return;
  if (before != kEmpty) atomicOr(t.keys + at, kTouched);
  const uint32_t place = atomicAdd(t.count, 1u);
  if (a.step == KN_SPGEMM_STEP_FILL) t.list[place] = column;
}

template <class V>
__device__ __forceinline__ void product(const args& a, const table<V>& t, uint32_t column, V value) {
  const bool masked = has(a, KN_SPGEMM_MASK);
  uint32_t at, before;
  if (masked && !has(a, KN_SPGEMM_COMPLEMENT)) {
    at = t.find(column);
    if (at == kEmpty) return;
    before = load_atomic(t.keys + at);
    if (!(before & kInMask)) return;
  } else {
    at = t.claim(column, masked ? kTouched : 0u, &before);
    if (masked && before != kEmpty && (before & kInMask)) return;
  }
  accumulate(a, t, at, before, column, value);
}

// Row i into the table, by a group of threads that all come here.
template <class V, int Width>
__device__ __forceinline__ void sum_row(const args& a, int64_t i, table<V>& t, uint32_t thread) {
  const bool masked = has(a, KN_SPGEMM_MASK), reads = kValues<V> && a.semiring != KN_PLUS_PAIR;
  for (uint32_t s = thread; s < t.slots; s += Width) t.keys[s] = kEmpty;
  if (thread == 0) *t.count = 0;
  sync_group<Width>();
  if (masked) {
    for (int64_t j = a.mask.offsets[i] + thread; j < a.mask.offsets[i + 1]; j += Width) {
      if (!counts(a, j)) continue;
      uint32_t before;
      t.claim(key(a, a.mask, j), kInMask, &before);
    }
    sync_group<Width>();
  }
  if (has(a, KN_SPGEMM_ACCUMULATE)) {
    for (int64_t j = a.d.offsets[i] + thread; j < a.d.offsets[i + 1]; j += Width) {
      uint32_t before;
      const uint32_t c = key(a, a.d, j), at = t.claim(c, masked ? kTouched : 0u, &before);
      if constexpr (kValues<V>)
        accumulate(a, t, at, before, c, static_cast<const V*>(a.d.values)[j]);
      else
        accumulate(a, t, at, before, c, V{});
    }
    sync_group<Width>();
  }
  for (int64_t e = a.a.offsets[i], end = a.a.offsets[i + 1]; e < end; e++) {
    const int64_t k = column(a, a.a, e), to = a.b.offsets[k + 1];
    for (int64_t j = a.b.offsets[k] + thread; j < to; j += Width) {
      V value{};
      if constexpr (kValues<V>) {
        const V x = reads ? static_cast<const V*>(a.a.values)[e] : V(1);
        value = multiply(a.semiring, x, reads ? static_cast<const V*>(a.b.values)[j] : V(1));
      }
      product(a, t, key(a, a.b, j), value);
    }
    sync_group<Width>();
  }
}

template <class V, int Width>
__device__ __forceinline__ void write_row(const args& a, int64_t i, const table<V>& t, uint32_t thread) {
  int64_t* ends = a.c_offsets + (i - a.row_from);
  if (a.step == KN_SPGEMM_STEP_COUNT) {
    if (thread == 0) ends[1] = *t.count;
    return;
  }
  const int64_t begin = ends[0], count = ends[1] - begin;
  if (a.step == KN_SPGEMM_STEP_FILL) sort<Width>(t.list, static_cast<uint32_t>(count), thread);
  for (int64_t j = thread; j < count; j += Width) {
    const uint32_t c =
        a.step == KN_SPGEMM_STEP_FILL ? t.list[j] : key(a, kn_csr{nullptr, a.c_columns, nullptr}, begin + j);
    if (a.step == KN_SPGEMM_STEP_FILL && a.index_bytes == 4)
      static_cast<int32_t*>(a.c_columns)[begin + j] = static_cast<int32_t>(c);
    if (a.step == KN_SPGEMM_STEP_FILL && a.index_bytes == 8) static_cast<int64_t*>(a.c_columns)[begin + j] = c;
    if constexpr (kValues<V>) {
      const uint32_t at = t.find(c);
      const bool there = at != kEmpty && (!has(a, KN_SPGEMM_MASK) || (load_atomic(t.keys + at) & kTouched));
      static_cast<V*>(a.c_values)[begin + j] = there ? t.sums[at] : zero<V>(a.semiring);
    }
  }
}

template <class V, int Width>
__device__ __forceinline__ void row(const args& a, int64_t i, table<V>& t, uint32_t thread) {
  const int64_t entries = entries_of(a, i);
  if (entries == 0) {
    if (a.step == KN_SPGEMM_STEP_COUNT && thread == 0) a.c_offsets[i - a.row_from + 1] = 0;
    return;
  }
  t.size(entries);
  sum_row<V, Width>(a, i, t, thread);
  write_row<V, Width>(a, i, t, thread);
  sync_group<Width>();  // before the next row clears the table
}

// The table of a group in shared memory.
template <class V>
__device__ __forceinline__ table<V> shared_table(const args& a, char* memory, int64_t entries, int group) {
  const int64_t slots = 2 * entries;
  char* at = memory + group * (slots * (4 + kBytes<V>)+entries * 4 + 16);
  table<V> t{};
  t.sums = reinterpret_cast<V*>(at);
  t.keys = reinterpret_cast<uint32_t*>(at + slots * kBytes<V>);
  t.list = {t.keys + slots, 0};
  t.count = t.keys + slots + entries;
  t.columns = has(a, KN_SPGEMM_MASK) ? kTouched - 1 : kInMask - 1;
  return t;
}

template <class V>
__device__ __forceinline__ void run_lanes(const args& a, char* memory) {
  const int group = static_cast<int>(threadIdx.x) / kLanes, groups = kLanesThreads / kLanes;
  table<V> t = shared_table<V>(a, memory, kLanesEntries, group);
  const int64_t end = row_end(a), stride = int64_t{gridDim.x} * groups;
  for (int64_t i = a.row_from + int64_t{blockIdx.x} * groups + group; i < end; i += stride)
    if (width_of(a, i, entries_of(a, i)) == kInLanes) row<V, kLanes>(a, i, t, threadIdx.x % kLanes);
}

template <class V>
__device__ __forceinline__ void run_wave(const args& a, char* memory) {
  const int groups = kLanesThreads / kWave;
  table<V> t = shared_table<V>(a, memory, kWaveEntries, wave_id());
  for (int64_t r = int64_t{blockIdx.x} * groups + wave_id(); r < a.counters[1]; r += int64_t{gridDim.x} * groups)
    row<V, kWave>(a, a.list[r], t, static_cast<uint32_t>(lane_id()));
}

template <class V>
__device__ __forceinline__ void run_block(const args& a, char* memory) {
  table<V> t = shared_table<V>(a, memory, kBlockEntries, 0);
  for (int64_t r = blockIdx.x; r < a.counters[2]; r += gridDim.x)
    row<V, kBlock>(a, a.list[a.m - 1 - r], t, threadIdx.x);
}

// The list of a row is its place in C, sorted there: with columns of 64 bits in their low halves.
template <class V>
__device__ __forceinline__ void run_device(const args& a, char* memory) {
  table<V> t = shared_table<V>(a, memory, 0, 0);
  t.sums = reinterpret_cast<V*>(a.tables + blockIdx.x * a.table_slots * (4 + kBytes<V>));
  t.keys =
      reinterpret_cast<uint32_t*>(a.tables + blockIdx.x * a.table_slots * (4 + kBytes<V>)+a.table_slots * kBytes<V>);
  for (int64_t r = blockIdx.x; r < a.counters[3]; r += gridDim.x) {
    const int64_t i = a.list[a.m + r];
    if (a.step == KN_SPGEMM_STEP_FILL)
      t.list = {
          reinterpret_cast<uint32_t*>(static_cast<char*>(a.c_columns) + a.c_offsets[i - a.row_from] * a.index_bytes),
          a.index_bytes / 8};
    row<V, kBlock>(a, i, t, threadIdx.x);
  }
}

// Offsets from 0, ascending, to a known end where there is one.
__device__ __forceinline__ void check_offsets(const args& a, const kn_csr& x, int64_t rows, int64_t nnz, int operand) {
  if (x.offsets == nullptr) return;
  bool sound = x.offsets[0] == 0 && (nnz < 0 || x.offsets[rows] == nnz);
  for (int64_t i = thread_of_grid(); i < rows; i += threads_of_grid()) sound &= x.offsets[i] <= x.offsets[i + 1];
  if (!sound) atomicOr(a.counters, 1u << operand);
}

__device__ __forceinline__ void check_columns(const args& a, const kn_csr& x, int64_t rows, int64_t columns,
                                              int operand) {
  if (x.offsets == nullptr || (load_atomic(a.counters) >> operand & 1)) return;
  bool sound = true;
  for (int64_t j = thread_of_grid(), nnz = x.offsets[rows]; j < nnz; j += threads_of_grid())
    sound &= static_cast<uint64_t>(column(a, x, j)) < static_cast<uint64_t>(columns);
  if (!sound) atomicOr(a.counters, 16u << operand);
}

}  // namespace
}  // namespace kn::spgemm

KN_KERNEL(spgemm_gpu_offsets, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  check_offsets(args, args.a, args.m, args.a_nnz, 0);
  check_offsets(args, args.b, args.k, args.b_nnz, 1);
  check_offsets(args, args.mask, args.m, -1, 2);
  check_offsets(args, args.d, args.m, -1, 3);
}

KN_KERNEL(spgemm_gpu_columns, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  check_columns(args, args.a, args.m, args.k, 0);
  check_columns(args, args.b, args.k, args.n, 1);
  check_columns(args, args.mask, args.m, args.n, 2);
  check_columns(args, args.d, args.m, args.n, 3);
}

KN_KERNEL(spgemm_gpu_count, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  const int64_t i = thread_of_grid();
  if (i == 0) args.products[0] = 0;
  if (i >= args.m) return;
  int64_t products = 0;
  if (args.counters[0] == 0) {  // else columns may be anything
    if (args.d.offsets != nullptr) products = length(args.d, i);
    for (int64_t e = args.a.offsets[i]; e < args.a.offsets[i + 1] && products <= kMostProducts; e++)
      products += length(args.b, column(args, args.a, e));
    const int64_t masked = args.mask.offsets != nullptr ? length(args.mask, i) : 0;
    atomicMax(reinterpret_cast<unsigned long long*>(args.most),
              static_cast<unsigned long long>(products > masked ? products : masked));
  }
  args.products[i + 1] = products;
}

// A sum beyond 2^63 is below the one before it.
KN_KERNEL(spgemm_gpu_total, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  bool sound = args.products[args.m] <= kMostProducts;
  for (int64_t i = thread_of_grid(); i < args.m; i += threads_of_grid())
    sound &= args.products[i] <= args.products[i + 1];
  if (!sound) atomicOr(args.counters, static_cast<unsigned>(KN_SPGEMM_GPU_FAULT_PRODUCTS));
}

KN_KERNEL(spgemm_gpu_scan_tiles, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  constexpr int kOwn = KN_SPGEMM_GPU_TILE / kBlock;
  __shared__ int64_t memory[kBlock];
  const int64_t begin = int64_t{blockIdx.x} * KN_SPGEMM_GPU_TILE + threadIdx.x * int64_t{kOwn};
  int64_t sums[kOwn], sum = 0;
  for (int i = 0; i < kOwn; i++) sums[i] = sum += begin + i < args.scan_count ? args.scan[1 + begin + i] : 0;
  const int64_t all = scan_block(sum, memory);
  for (int i = 0; i < kOwn; i++)
    if (begin + i < args.scan_count) args.scan[1 + begin + i] = all - sum + sums[i];
  if (threadIdx.x == kBlock - 1) args.tile_sums[blockIdx.x] = all;
}

// The sum before each tile.
KN_KERNEL(spgemm_gpu_scan_sums, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  __shared__ int64_t memory[kBlock];
  const int64_t tiles = (args.scan_count + KN_SPGEMM_GPU_TILE - 1) / KN_SPGEMM_GPU_TILE;
  int64_t before = args.scan[0];
  for (int64_t tile = 0; tile < tiles; tile += kBlock) {
    const int64_t own = tile + threadIdx.x, sum = own < tiles ? args.tile_sums[own] : 0;
    const int64_t all = scan_block(sum, memory);
    if (own < tiles) args.tile_sums[own] = before + all - sum;
    before += memory[kBlock - 1];
    __syncthreads();
  }
}

KN_KERNEL(spgemm_gpu_scan_add, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  const int64_t begin = int64_t{blockIdx.x} * KN_SPGEMM_GPU_TILE;
  for (int64_t i = begin + threadIdx.x; i < begin + KN_SPGEMM_GPU_TILE && i < args.scan_count; i += kBlock)
    args.scan[1 + i] += args.tile_sums[blockIdx.x];
}

KN_KERNEL(spgemm_gpu_bin, 256, 4, kn_spgemm_gpu) {
  using namespace kn::spgemm;
  const int64_t i = args.row_from + thread_of_grid();
  if (i >= row_end(args)) return;
  const int width = width_of(args, i, entries_of(args, i));
  if (width == kInLanes) return;  // found without a list
  const int64_t place = atomicAdd(args.counters + width, 1u);
  const int64_t front = width == kInWave || width == kInBlock ? 0 : args.m;
  const int64_t at = width == kInWave || width == kInDevice ? front + place : front + args.m - 1 - place;
  if (width == kInRanges && args.step == KN_SPGEMM_STEP_COUNT) args.c_offsets[i + 1 - args.row_from] = 0;
  args.list[at] = static_cast<int32_t>(i);
}

// The first row whose end is beyond the capacity.
KN_KERNEL(spgemm_gpu_done, 1, 1, kn_spgemm_gpu) {
  int64_t low = 0, high = args.row_to - args.row_from;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (args.c_offsets[middle] <= args.c_capacity)
      low = middle;
    else
      high = middle - 1;
  }
  *args.rows_done = args.row_from + low;
}

#define KN_SPGEMM(name, V, width, threads)                            \
  KN_KERNEL(spgemm_gpu_##name##_##width, threads, 1, kn_spgemm_gpu) { \
    KN_DYNAMIC_SHARED(char, memory);                                  \
    kn::spgemm::run_##width<V>(args, memory);                         \
  }
#define KN_SPGEMM_WIDTHS(name, V) \
  KN_SPGEMM(name, V, lanes, 128)  \
  KN_SPGEMM(name, V, wave, 128)   \
  KN_SPGEMM(name, V, block, 256)  \
  KN_SPGEMM(name, V, device, 256) \
  KN_SPGEMM(name, V, ranges, 256)
KN_SPGEMM_WIDTHS(structure, kn::spgemm::structure)
KN_SPGEMM_WIDTHS(f32, float)
KN_SPGEMM_WIDTHS(f64, double)
