// transpose/gpu: a matrix in compressed rows, transposed, for NVIDIA and AMD. Entries find their row of the result by
// atomics, in any order, and every row is then sorted by where its entries were: the result is the same every time.
#include "spgemm_gpu.cuh"
#include "transpose_gpu.h"

namespace kn::spgemm {
namespace {

using transpose = kn_transpose_gpu;

constexpr int kThreads = 256, kSmallThreads = 128;
constexpr int kOwn = 8;                                      // entries in a row of a thread: a sector, and one search
constexpr int64_t kWaveEntries = 512, kBlockEntries = 2048;  // in shared memory

__device__ __forceinline__ int64_t column(const transpose& a, int64_t j) {
  return a.index_bytes == 4 ? static_cast<const int32_t*>(a.from.columns)[j]
                            : static_cast<const int64_t*>(a.from.columns)[j];
}

// The row of entry j, which is not before `row`.
__device__ __forceinline__ int64_t row_of(const transpose& a, int64_t j, int64_t row) {
  int64_t last = a.m - 1;
  while (row < last) {
    const int64_t middle = (row + last + 1) / 2;
    if (a.from.offsets[middle] <= j)
      row = middle;
    else
      last = middle - 1;
  }
  return row;
}

__device__ __forceinline__ void copy_value(const transpose& a, int64_t to, int64_t from) {
  const int64_t bytes = a.value_bytes;
  if (bytes % 4 == 0) {
    const auto* source = static_cast<const uint32_t*>(a.from.values) + from * (bytes / 4);
    auto* target = static_cast<uint32_t*>(a.to_values) + to * (bytes / 4);
    for (int64_t i = 0; i < bytes / 4; i++) target[i] = source[i];
  } else {
    const auto* source = static_cast<const uint8_t*>(a.from.values) + from * bytes;
    auto* target = static_cast<uint8_t*>(a.to_values) + to * bytes;
    for (int64_t i = 0; i < bytes; i++) target[i] = source[i];
  }
}

// Row c of the result by a group of threads that all come here. `near` has room for its keys, or is null.
template <int Width>
__device__ __forceinline__ void write_row(const transpose& a, int64_t c, uint64_t* near, uint32_t thread) {
  const int64_t begin = a.to_offsets[c], count = a.to_offsets[c + 1] - begin;
  uint64_t* keys = near != nullptr ? near : a.keys + begin;
  for (int64_t i = thread; i < count && near != nullptr; i += Width) near[i] = a.keys[begin + i];
  sync_group<Width>();
  sort<Width>(keys, static_cast<uint32_t>(count), thread);
  for (int64_t i = thread; i < count; i += Width) {
    const int64_t row = static_cast<int64_t>(keys[i] >> 32), place = static_cast<uint32_t>(keys[i]);
    if (a.index_bytes == 4)
      static_cast<int32_t*>(a.to_columns)[begin + i] = static_cast<int32_t>(row);
    else
      static_cast<int64_t*>(a.to_columns)[begin + i] = row;
    if (a.value_bytes > 0) copy_value(a, begin + i, a.from.offsets[row] + place);
  }
  sync_group<Width>();  // before the next row's keys
}

}  // namespace
}  // namespace kn::spgemm

KN_KERNEL(transpose_gpu_count, 256, 4, kn_transpose_gpu) {
  using namespace kn::spgemm;
  for (int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x; j < args.nnz; j += int64_t{gridDim.x} * kThreads) {
    const int64_t c = column(args, j);
    if (c + 2 <= args.n) atomicAdd(reinterpret_cast<unsigned long long*>(args.to_offsets + c + 2), 1ull);
  }
}

KN_KERNEL(transpose_gpu_place, 256, 4, kn_transpose_gpu) {
  using namespace kn::spgemm;
  const int64_t runs = (args.nnz + kOwn - 1) / kOwn, stride = int64_t{gridDim.x} * kThreads;
  for (int64_t run = int64_t{blockIdx.x} * kThreads + threadIdx.x; run < runs; run += stride) {
    // From the last to the first: the simulated device, whose threads come in order, must not spare the sort its work.
    const int64_t from = (runs - 1 - run) * kOwn, end = from + kOwn < args.nnz ? from + kOwn : args.nnz;
    int64_t row = row_of(args, from, 0);
    for (int64_t j = from; j < end; j++) {
      if (j >= args.from.offsets[row + 1]) row++;
      if (j >= args.from.offsets[row + 1]) row = row_of(args, j, row);
      auto* at = reinterpret_cast<unsigned long long*>(args.to_offsets + column(args, j) + 1);
      args.keys[atomicAdd(at, 1ull)] =
          static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(j - args.from.offsets[row]);
    }
  }
}

KN_KERNEL(transpose_gpu_wave, 128, 4, kn_transpose_gpu) {
  using namespace kn::spgemm;
  constexpr int kWaves = kSmallThreads / kn::kWave;
  __shared__ uint64_t keys[kWaves * kWaveEntries];
  const int64_t stride = int64_t{gridDim.x} * kWaves;
  for (int64_t c = int64_t{blockIdx.x} * kWaves + kn::wave_id(); c < args.n; c += stride)
    if (args.to_offsets[c + 1] - args.to_offsets[c] <= kWaveEntries)
      write_row<kn::kWave>(args, c, keys + kn::wave_id() * kWaveEntries, static_cast<uint32_t>(kn::lane_id()));
}

KN_KERNEL(transpose_gpu_block, 256, 2, kn_transpose_gpu) {
  using namespace kn::spgemm;
  __shared__ uint64_t keys[kBlockEntries];
  for (int64_t c = blockIdx.x; c < args.n; c += gridDim.x) {
    const int64_t count = args.to_offsets[c + 1] - args.to_offsets[c];
    if (count > kWaveEntries) write_row<kBlock>(args, c, count <= kBlockEntries ? keys : nullptr, threadIdx.x);
  }
}
