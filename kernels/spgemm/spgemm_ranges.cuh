// A giant row of C over many blocks. Each takes a range of its columns at a time, a sum for every one of them in shared
// memory, and bisects the rows of B for it, 256 at once: no table, no barrier for an entry of A, and C comes out
// sorted. Products of a range are staged in the order of A's row, and every column has a thread, which adds its own of
// them: the bits are those of the other widths.
#pragma once
#include "spgemm_gpu.cuh"

namespace kn::spgemm {

constexpr int kRange = KN_SPGEMM_GPU_RANGE, kStaged = 1024;

template <class V>
struct range_row {
  const args& a;
  int64_t i, low, high;
  V* sums;                     // [kRange]
  uint32_t *states, *columns;  // [kRange] kInMask, kTouched; [kStaged]
  V* values;                   // [kStaged]
  int64_t *ends, *begins;      // [kBlock] of B's rows in the range: sums of their lengths, and where they are

  __device__ __forceinline__ range_row(const args& call, char* memory) : a(call), i(0), low(0), high(0) {
    ends = reinterpret_cast<int64_t*>(memory);
    begins = ends + kBlock;
    sums = reinterpret_cast<V*>(begins + kBlock);
    states = reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(sums) + kBytes<V> * kRange);
    columns = states + kRange;
    values = reinterpret_cast<V*>(columns + kStaged);
  }

  // The first entry of x in [from, to) that is not below the column.
  __device__ __forceinline__ int64_t bisect(const kn_csr& x, int64_t from, int64_t to, int64_t limit) const {
    while (from < to) {
      const int64_t middle = from + (to - from) / 2;
      if (column(a, x, middle) < limit)
        from = middle + 1;
      else
        to = middle;
    }
    return from;
  }

  __device__ __forceinline__ void add_to(uint32_t c, V value) const {
    if constexpr (kValues<V>) sums[c] = add(a.semiring, sums[c], value);
    states[c] |= kTouched;
  }

  // What does not come from products; columns of D are distinct.
  __device__ __forceinline__ void begin() const {
    for (int c = static_cast<int>(threadIdx.x); c < kRange; c += kBlock) {
      states[c] = 0;
      if constexpr (kValues<V>) sums[c] = zero<V>(a.semiring);
    }
    __syncthreads();
    if (has(a, KN_SPGEMM_MASK)) {
      for (int64_t j = a.mask.offsets[i] + threadIdx.x; j < a.mask.offsets[i + 1]; j += kBlock) {
        const int64_t c = column(a, a.mask, j);
        if (c >= low && c < high && counts(a, j)) atomicOr(states + (c - low), kInMask);
      }
      __syncthreads();
    }
    if (has(a, KN_SPGEMM_ACCUMULATE)) {
      for (int64_t j = a.d.offsets[i] + threadIdx.x; j < a.d.offsets[i + 1]; j += kBlock) {
        const int64_t c = column(a, a.d, j);
        if (c < low || c >= high) continue;
        V value{};
        if constexpr (kValues<V>) value = static_cast<const V*>(a.d.values)[j];
        add_to(static_cast<uint32_t>(c - low), value);
      }
      __syncthreads();
    }
  }

  // Products [first, first + n) of those that begin with entry e of A.
  __device__ __forceinline__ void stage(int64_t e, int64_t first, int n) const {
    const bool reads = kValues<V> && a.semiring != KN_PLUS_PAIR;
    for (int q = static_cast<int>(threadIdx.x); q < n; q += kBlock) {
      int t = 0;
      for (int step = kBlock / 2; step > 0; step /= 2)
        if (ends[t + step - 1] <= first + q) t += step;
      const int64_t j = begins[t] + first + q - (t > 0 ? ends[t - 1] : 0);
      columns[q] = static_cast<uint32_t>(column(a, a.b, j) - low);
      if constexpr (kValues<V>) {
        const V x = reads ? static_cast<const V*>(a.a.values)[e + t] : V(1);
        values[q] = multiply(a.semiring, x, reads ? static_cast<const V*>(a.b.values)[j] : V(1));
      }
    }
  }

  // A thread adds to the columns that leave it as remainder.
  __device__ __forceinline__ void add_staged(int n) const {
    const bool masked = has(a, KN_SPGEMM_MASK), complement = has(a, KN_SPGEMM_COMPLEMENT);
    for (int q = 0; q < n; q++) {
      const uint32_t c = columns[q];
      if (c % kBlock != threadIdx.x || (masked && ((states[c] & kInMask) != 0) == complement)) continue;
      V value{};
      if constexpr (kValues<V>) value = values[q];
      add_to(c, value);
    }
  }

  __device__ __forceinline__ void sum() const {
    begin();
    for (int64_t e = a.a.offsets[i], end = a.a.offsets[i + 1]; e < end; e += kBlock) {
      int64_t from = 0, count = 0;
      if (e + threadIdx.x < end) {
        const int64_t k = column(a, a.a, e + threadIdx.x), to = a.b.offsets[k + 1];
        from = bisect(a.b, a.b.offsets[k], to, low);
        count = bisect(a.b, from, to, high) - from;
      }
      begins[threadIdx.x] = from;
      scan_block(count, ends);
      for (int64_t first = 0, all = ends[kBlock - 1]; first < all; first += kStaged) {
        const int n = static_cast<int>(all - first < kStaged ? all - first : kStaged);
        stage(e, first, n);
        __syncthreads();
        add_staged(n);
        __syncthreads();
      }
      __syncthreads();
    }
  }

  // Entries of C in the ranges of the row before range r.
  __device__ __forceinline__ int64_t before(const uint32_t* parts, int64_t r) const {
    int64_t count = 0;
    for (int64_t j = threadIdx.x; j < r; j += kBlock) count += parts[j];
    scan_block(count, ends);
    count = ends[kBlock - 1];
    __syncthreads();
    return count;
  }

  __device__ __forceinline__ void write(int64_t r) const {
    const kn_csr c = {nullptr, a.c_columns, nullptr};
    int64_t* row_ends = a.c_offsets + (i - a.row_from);
    if (a.step == KN_SPGEMM_STEP_VALUES) {
      const int64_t from = bisect(c, row_ends[0], row_ends[1], low), to = bisect(c, from, row_ends[1], high);
      for (int64_t j = from + threadIdx.x; j < to; j += kBlock) write_value(j, column(a, c, j) - low);
      return;
    }
    constexpr int kOwn = kRange / kBlock;
    const int own = static_cast<int>(threadIdx.x) * kOwn;
    int64_t count = 0;
    for (int j = own; j < own + kOwn; j++) count += (states[j] & kTouched) != 0;
    // A row's place there is its own: it has that many products or more.
    uint32_t* parts = a.parts + a.products[i] / a.giant * a.ranges;
    int64_t at = a.step == KN_SPGEMM_STEP_FILL ? row_ends[0] + before(parts, r) - count : 0;
    at += scan_block(count, ends);
    if (a.step == KN_SPGEMM_STEP_COUNT) {
      if (threadIdx.x != kBlock - 1) return;
      parts[r] = static_cast<uint32_t>(at);
      atomicAdd(reinterpret_cast<unsigned long long*>(row_ends + 1), static_cast<unsigned long long>(at));
      return;
    }
    for (int j = own; j < own + kOwn; j++) {
      if (!(states[j] & kTouched)) continue;
      if (a.index_bytes == 4)
        static_cast<int32_t*>(a.c_columns)[at] = static_cast<int32_t>(low + j);
      else
        static_cast<int64_t*>(a.c_columns)[at] = low + j;
      write_value(at++, j);
    }
  }

  __device__ __forceinline__ void write_value(int64_t at, int64_t c) const {
    if constexpr (kValues<V>) static_cast<V*>(a.c_values)[at] = sums[c];
  }
};

template <class V>
__device__ __forceinline__ void run_ranges(const args& a, char* memory) {
  range_row<V> row(a, memory);
  for (int64_t task = blockIdx.x; task < a.counters[4] * a.ranges; task += gridDim.x) {
    const int64_t r = task % a.ranges;
    row.i = a.list[2 * a.m - 1 - task / a.ranges];
    row.low = r * kRange;
    row.high = row.low + kRange < a.n ? row.low + kRange : a.n;
    row.sum();
    row.write(r);
    __syncthreads();
  }
}

}  // namespace kn::spgemm
