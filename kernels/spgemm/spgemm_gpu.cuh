// The accumulator of the GPU rows of spgemm: a hash table with open addressing, in shared or device memory, that a
// group of threads fills, and the order of its columns.
#pragma once
#include <gpu.cuh>

#include "spgemm_gpu.h"

namespace kn::spgemm {

using args = kn_spgemm_gpu;

// No values: the structure alone.
struct structure {};
template <class V>
constexpr bool kValues = true;
template <>
constexpr bool kValues<structure> = false;
template <class V>
constexpr int kBytes = sizeof(V);
template <>
constexpr int kBytes<structure> = 0;

constexpr int kLanes = 8, kBlock = 256;  // widths of groups; the third is kWave

template <int Width>
__device__ __forceinline__ void sync_group() {
  if constexpr (Width == kBlock)
    __syncthreads();
  else if constexpr (Width == kWave)
    sync_wave();
  else
    sync_lanes<Width>();
}

// A key is a column; with a mask its two highest bits say whether the mask has it and whether C has it.
constexpr uint32_t kEmpty = ~0u, kInMask = 1u << 31, kTouched = 1u << 30;

// Columns of C, of 32 bits each, packed or with as much room behind each.
struct column_list {
  uint32_t* at;
  int32_t spread;  // 1: with room
  __device__ __forceinline__ uint32_t& operator[](int64_t i) const { return at[i << spread]; }
};

template <class V>
struct table {
  V* sums;
  uint32_t* keys;
  column_list list;  // columns of C in the order they came
  uint32_t* count;   // of them
  uint32_t slots, shift;
  uint32_t columns;  // the bits of a key that are the column

  __device__ __forceinline__ void size(int64_t entries) {
    slots = 2, shift = 31;
    while (slots < 2 * entries) slots *= 2, shift--;
  }

  __device__ __forceinline__ uint32_t first(uint32_t column) const { return (column * 0x9e3779b1u) >> shift; }

  // The slot of a column, kEmpty where it has none.
  __device__ __forceinline__ uint32_t find(uint32_t column) const {
    for (uint32_t at = first(column);; at = (at + 1) & (slots - 1)) {
      const uint32_t key = load_atomic(keys + at);
      if (key == kEmpty) return kEmpty;
      if ((key & columns) == column) return at;
    }
  }

  // The slot of a column, made where it had none; `before` is its key until then.
  __device__ __forceinline__ uint32_t claim(uint32_t column, uint32_t flags, uint32_t* before) const {
    for (uint32_t at = first(column);; at = (at + 1) & (slots - 1)) {
      uint32_t key = load_atomic(keys + at);
      if (key == kEmpty) key = atomicCAS(keys + at, kEmpty, column | flags);
      *before = key;
      if (key == kEmpty || (key & columns) == column) return at;
    }
  }
};

template <class V>
__device__ __forceinline__ V zero(int32_t semiring) {
  return semiring == KN_MIN_PLUS ? V(kInfinity) : semiring == KN_MAX_PLUS ? V(-kInfinity) : V(0);
}

// Rounded before it is added: this project's device code is compiled without contraction.
template <class V>
__device__ __forceinline__ V multiply(int32_t semiring, V a, V b) {
  switch (semiring) {
    case KN_PLUS_TIMES:
      return a * b;
    case KN_MIN_PLUS:
    case KN_MAX_PLUS:
      return a + b;
    case KN_OR_AND:
      return V((a != 0) & (b != 0));
    default:
      return V(1);
  }
}

template <class V>
__device__ __forceinline__ V add(int32_t semiring, V sum, V product) {
  switch (semiring) {
    case KN_MIN_PLUS:
      return product < sum ? product : sum;
    case KN_MAX_PLUS:
      return product > sum ? product : sum;
    case KN_OR_AND:
      return V((sum != 0) | (product != 0));
    default:
      return sum + product;
  }
}

// Ascending, by a bitonic network in which every exchange puts the larger one behind: so what is beyond the count would
// stay there, and need not be.
template <int Width, class List>
__device__ __forceinline__ void sort(const List& list, uint32_t count, uint32_t thread) {
  uint32_t size = 1;
  while (size < count) size *= 2;
  for (uint32_t run = 2; run <= size; run *= 2) {
    for (uint32_t step = run / 2; step > 0; step /= 2) {
      for (uint32_t i = thread; i < size / 2; i += Width) {
        const uint32_t low = i / step * 2 * step + i % step;
        const uint32_t high = step == run / 2 ? low + 2 * (step - i % step) - 1 : low + step;  // the first one mirrors
        if (high < count && list[low] > list[high]) {
          const auto v = list[low];
          list[low] = list[high];
          list[high] = v;
        }
      }
      sync_group<Width>();
    }
  }
}

__device__ __forceinline__ bool has(const args& a, int32_t flag) { return (a.flags & flag) != 0; }

__device__ __forceinline__ int64_t column(const args& a, const kn_csr& x, int64_t j) {
  return a.index_bytes == 4 ? static_cast<const int32_t*>(x.columns)[j] : static_cast<const int64_t*>(x.columns)[j];
}

// The same where columns are known to fit a table.
__device__ __forceinline__ uint32_t key(const args& a, const kn_csr& x, int64_t j) {
  return static_cast<uint32_t>(column(a, x, j));
}

__device__ __forceinline__ int64_t length(const kn_csr& x, int64_t row) { return x.offsets[row + 1] - x.offsets[row]; }

// Whether entry j of the mask counts: the table of a structure must know as well, so the type is one of the call's.
__device__ __forceinline__ bool counts(const args& a, int64_t j) {
  if (a.mask_bytes == 0) return true;
  return a.mask_bytes == 4 ? static_cast<const float*>(a.mask.values)[j] != 0
                           : static_cast<const double*>(a.mask.values)[j] != 0;
}

// Inclusive sums over the threads of a block.
__device__ __forceinline__ int64_t scan_block(int64_t v, int64_t* memory) {
  const int thread = static_cast<int>(threadIdx.x);
  memory[thread] = v;
  __syncthreads();
  for (int s = 1; s < kBlock; s *= 2) {
    const int64_t below = thread >= s ? memory[thread - s] : 0;
    __syncthreads();
    memory[thread] += below;
    __syncthreads();
  }
  return memory[thread];
}

}  // namespace kn::spgemm
