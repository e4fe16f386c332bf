// sparse_linear/gpu: unstructured sparse weights on vector units, for NVIDIA and AMD. A block of 8 groups of 32 lanes
// computes a panel of 16 outputs (gated: two) for up to 16 rows; its groups take blocks of 64 k in turns. A lane has
// one place in every 32 bits of the bitmap, so it adds up one output (s8: two) at some of the k: the bits below its own
// say where in the values its weight is, neighbours read neighbours, and the values go from memory to registers.
// x is converted and laid out in shared memory once for a block of k.
//
// Bits: an element is a chain over k per lane, then a tree over lanes, then groups and splits in order, whatever m, M
// and the neighbours; with one k_split for every m it is batch-invariant.
#include <flat_gemm/flat_gemm_gpu.cuh>

#include "sparse_linear.h"
#include "sparse_linear_gpu.h"

namespace kn::sparse_linear {
namespace {

using args = kn_sparse_linear_gpu;

constexpr int kPanel = 16, kBlock = 64, kGroup = 32, kGroups = 8;
constexpr int kWords = kPanel * kBlock / 32;  // of a block's bitmap: one for each lane of a group

// Places of 32 bits: [k][output] in operands of one k, else [output][k].
template <int W>
struct places {
  static constexpr int kStep = W == KN_S8 ? 4 : W == KN_BF16 ? 2 : 1;  // k of an operand
  static constexpr int kPhases = kStep == 1 ? 2 : kStep;               // k that 32 bits reach over
  static constexpr int kOwn = W == KN_S8 ? 2 : 1;                      // outputs of a lane, 8 apart
  static constexpr int kSpan = kBlock / kPhases;
  static constexpr int kRow = kPhases * (kSpan + 4);  // of x in shared memory; 4 more keep the phases in other banks

  static __device__ __forceinline__ int output(int lane) { return kStep == 1 ? lane % kPanel : lane / kStep; }
  static __device__ __forceinline__ int phase(int lane) { return kStep == 1 ? lane / kPanel : lane % kStep; }
  static __device__ __forceinline__ int x_at(int k) { return k % kPhases * (kSpan + 4) + k / kPhases; }

  // Sums of the lanes that share an output, in all of them.
  template <class Sum>
  static __device__ __forceinline__ Sum reduce(Sum v) {
    if constexpr (kStep == 1) return v + shuffle_xor(v, kPanel);
    return sum_lanes(v, kStep);
  }
};

template <class Sum>
constexpr bool kInteger = static_cast<Sum>(0.5f) == 0;

// A word of the bitmap, and where its values begin.
struct alignas(8) word {
  uint32_t bits, start;
};

template <class Sum, int W, int M>
struct group_memory {
  alignas(16) Sum x[M][places<W>::kRow];
  alignas(16) word words[kWords];
};

__device__ __forceinline__ bool gated(const args& a) { return flat_gemm::gated(a.layer); }

__device__ __forceinline__ bool reads(const args& a, int64_t k) {
  return k < a.layer.k && (a.inputs == nullptr || (a.inputs[k / 64] >> (k % 64) & 1));
}

__device__ __forceinline__ bool computes(const args& a, int64_t output) {
  return a.outputs == nullptr || (a.outputs[output / 64] >> (output % 64) & 1);
}

// Whether any of a panel's outputs, or of a block's inputs, is active.
__device__ __forceinline__ bool any_output(const args& a, int64_t first) {
  if (a.outputs == nullptr) return true;
  const uint32_t all = static_cast<uint32_t>(a.outputs[first / 64] >> (first % 64)) & 0xffffu;
  return (first + kPanel <= a.layer.n ? all : all & ((1u << (a.layer.n - first)) - 1)) != 0;
}

__device__ __forceinline__ bool any_input(const args& a, int64_t block) {
  if (a.inputs == nullptr) return true;
  const int64_t left = a.layer.k - block * kBlock;
  if (left <= 0) return false;
  return (left >= kBlock ? a.inputs[block] : a.inputs[block] & ((uint64_t{1} << left) - 1)) != 0;
}

template <int Type, class Sum>
__device__ __forceinline__ Sum load(const void* base, int64_t index) {
  if constexpr (Type == KN_S8)
    return static_cast<Sum>(static_cast<const int8_t*>(base)[index]);
  else
    return flat_gemm::load_element(Type, base, index);
}

// This lane's word of a block's bitmap, 2 bytes for each k, of which `left` are there. A panel's bits begin at 4 bytes
// where an operand has as many.
template <int W>
__device__ __forceinline__ uint32_t load_bits(const char* bits, int64_t left, int lane) {
  if (lane * 2 >= left) return 0;
  if constexpr (places<W>::kStep > 1) return reinterpret_cast<const uint32_t*>(bits)[lane];
  const uint16_t* at = reinterpret_cast<const uint16_t*>(bits) + lane * 2;
  return lane * 2 + 1 < left ? at[0] | static_cast<uint32_t>(at[1]) << 16 : at[0];
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__device__ __forceinline__ int multiply_add(int a, int b, int c) { return a * b + c; }

// x of a block to shared memory; 0 where it does not count.
template <int X, int W, int M, class Sum>
__device__ __forceinline__ void stage_x(const args& a, int64_t k0, bool useful, int64_t row0, int lane,
                                        group_memory<Sum, W, M>& to) {
  const int rows = row0 + M < a.layer.m ? M : static_cast<int>(a.layer.m - row0);
  const int64_t row_bytes = a.layer.ldx * flat_gemm::kBits<X> / 8;
#pragma unroll 1
  for (int k = lane; k < kBlock; k += kGroup) {
    const bool read = useful && reads(a, k0 + k);
    const char* x = static_cast<const char*>(a.layer.x) + row0 * row_bytes + (k0 + k) * flat_gemm::kBits<X> / 8;
    Sum* at = &to.x[0][places<W>::x_at(k)];
#pragma unroll 4
    for (int r = 0; r < M; r++, x += row_bytes, at += places<W>::kRow) *at = read && r < rows ? load<X, Sum>(x, 0) : 0;
  }
}

// This lane's word of a block's bitmap.
template <int W, int M, class Sum>
__device__ __forceinline__ void stage_bits(const args& a, int64_t panel, int64_t k0, bool useful, int lane,
                                           group_memory<Sum, W, M>& to) {
  const char* bits = static_cast<const char*>(a.layer.w) + a.bits_at + (panel * a.k_padded + k0) * 2;
  const uint32_t own = useful ? load_bits<W>(bits, a.k_padded - k0, lane) : 0u;
  int sum = count_ones(own);
  for (int s = 1; s < kGroup; s *= 2) {
    const int below = shuffle(sum, lane_id() - (lane >= s ? s : 0));
    if (lane >= s) sum += below;
  }
  to.words[lane] = {own, static_cast<uint32_t>(sum - count_ones(own))};
}

template <int W, int M, class Sum>
__device__ __forceinline__ void stage(const args& a, int64_t panel, int64_t block, bool useful, int64_t row0, int lane,
                                      group_memory<Sum, W, M>& to) {
  const int64_t k0 = block * kBlock;
  stage_bits(a, panel, k0, useful, lane, to);
  if constexpr (kInteger<Sum>)
    stage_x<KN_S8>(a, k0, useful, row0, lane, to);
  else if (a.layer.x_type == KN_F32)
    stage_x<KN_F32>(a, k0, useful, row0, lane, to);
  else if (W != KN_F32 && a.layer.x_type == KN_BF16)
    stage_x<KN_BF16>(a, k0, useful, row0, lane, to);
  else if (W != KN_F32 && W != KN_S8)
    stage_x<KN_F16>(a, k0, useful, row0, lane, to);
}

// Adds a block from shared memory.
template <int W, int M, class Sum>
__device__ __forceinline__ void multiply(const char* values, int lane, const group_memory<Sum, W, M>& from,
                                         Sum (&sums)[M * places<W>::kOwn]) {
  using at = places<W>;
  constexpr int kChunk = 4, kChunkWords = kChunk * at::kOwn;  // x is read four k at a time
  const uint32_t bit = 1u << lane;
  const int x0 = at::phase(lane) * (at::kSpan + 4);
#pragma unroll 2
  for (int chunk = 0; chunk < at::kSpan / kChunk; chunk++) {
    Sum w[kChunkWords];
#pragma unroll
    for (int i = 0; i < kChunkWords; i++) {
      const word v = from.words[chunk * kChunkWords + i];
      w[i] = v.bits & bit ? load<W, Sum>(values, int64_t{v.start} + count_ones(v.bits & (bit - 1))) : 0;
    }
#pragma unroll
    for (int r = 0; r < M; r++) {
      Sum x[kChunk];
      __builtin_memcpy(x, &from.x[r][x0 + chunk * kChunk], sizeof x);
#pragma unroll
      for (int i = 0; i < kChunkWords; i++) {
        Sum& sum = sums[r * at::kOwn + i % at::kOwn];
        sum = multiply_add(w[i], x[i / at::kOwn], sum);
      }
    }
  }
}

// This lane's sums of a panel over this group's blocks of one split.
template <int W, int M, class Sum>
__device__ __forceinline__ void walk(const args& a, int64_t panel, int64_t row0, int group, int lane,
                                     group_memory<Sum, W, M>& memory, Sum (&sums)[M * places<W>::kOwn]) {
  const char* base = static_cast<const char*>(a.layer.w);
  const int64_t* offsets = reinterpret_cast<const int64_t*>(base) + panel * a.blocks;
  const int64_t begin = int64_t{blockIdx.y} * a.layer.k_split / kBlock, until = begin + a.layer.k_split / kBlock;
  const int64_t end = until < a.blocks ? until : a.blocks;
  // Groups of one wave go round together, and past what either of them has nothing to do with.
  for (int64_t first = begin; first < end; first += kGroups) {
    const int64_t block = first + group;
    const bool useful = block < end && any_input(a, block);
    if (!any_lane(useful)) continue;
    stage<W, M>(a, panel, block, useful, row0, lane, memory);
    sync_wave();
    if (useful) multiply<W, M>(base + a.values_at + offsets[block] * (flat_gemm::kBits<W> / 8), lane, memory, sums);
    sync_wave();
  }
}

__device__ __forceinline__ float scale_of(const args& a, int64_t panel, int64_t output) {
  return a.layer.w_type == KN_S8 ? a.layer.scales[panel * kPanel + output % kPanel] : 1.0f;
}

// y from the sum of an output; `up` is the other one of a gated pair.
__device__ __forceinline__ void write(const args& a, int64_t row, int64_t output, float sum, float up) {
  const int pair = gated(a) ? 2 : 1;
  const int64_t panel = output / kPanel * pair;
  if (computes(a, output))
    flat_gemm::write_output(a.layer, row, output, sum, scale_of(a, panel, output), up,
                            scale_of(a, panel + pair - 1, output));
  else
    flat_gemm::write_value(a.layer, row, output, 0.0f);
}

template <int W, class Sum, int M>
__device__ __forceinline__ void run(const args& a) {
  using at = places<W>;
  __shared__ group_memory<Sum, W, M> memory[kGroups];
  static_assert(places<W>::kRow >= kPanel && M * kPanel <= kGroups * kGroup);
  const int group = static_cast<int>(threadIdx.x) / kGroup, lane = static_cast<int>(threadIdx.x) % kGroup;
  const int thread = static_cast<int>(threadIdx.x), pair = gated(a) ? 2 : 1;
  const int64_t output0 = int64_t{blockIdx.x} * kPanel;
  const bool active = any_output(a, output0);
#pragma unroll 1
  for (int64_t row0 = int64_t{blockIdx.z} * M; row0 < a.layer.m; row0 += int64_t{gridDim.z} * M) {
    Sum totals[2] = {};  // of this thread's output of this thread's row
#pragma unroll 1
    for (int side = 0; side < pair; side++) {
      Sum sums[M * at::kOwn] = {};
      if (active) walk<W, M>(a, int64_t{blockIdx.x} * pair + side, row0, group, lane, memory[group], sums);
      Sum* own = &memory[group].x[0][0];  // x is done with
#pragma unroll
      for (int i = 0; i < M * at::kOwn; i++) {
        const Sum sum = at::reduce(sums[i]);
        if (at::phase(lane) == 0) own[i / at::kOwn * kPanel + i % at::kOwn * 8 + at::output(lane)] = sum;
      }
      __syncthreads();
      Sum total = 0;
      if (thread < M * kPanel)
        for (int g = 0; g < kGroups; g++) total += (&memory[g].x[0][0])[thread];
      totals[0] = side == 0 ? total : totals[0];  // not by a variable index, so that both stay in registers
      totals[1] = total;
      __syncthreads();
    }
    const int64_t row = row0 + thread / kPanel, output = output0 + thread % kPanel;
    if (thread >= M * kPanel || row >= a.layer.m) continue;
    if (a.layer.splits > 1) {
      const int64_t panels = (int64_t{a.layer.n} + kPanel - 1) / kPanel * pair;
      Sum* partial = static_cast<Sum*>(a.layer.partial) + (blockIdx.y * int64_t{a.layer.m} + row) * panels * kPanel;
      partial += int64_t{blockIdx.x} * pair * kPanel + thread % kPanel;
      partial[0] = totals[0];
      if (pair == 2) partial[kPanel] = totals[1];
    } else if (output < a.layer.n) {
      write(a, row, output, static_cast<float>(totals[0]), static_cast<float>(totals[1]));
    }
  }
}

}  // namespace
}  // namespace kn::sparse_linear

#define KN_SPARSE_LINEAR(name, W, Sum, M, blocks)                                 \
  KN_KERNEL(sparse_linear_gpu_##name##_m##M, 256, blocks, kn_sparse_linear_gpu) { \
    kn::sparse_linear::run<W, Sum, M>(args);                                      \
  }
#define KN_SPARSE_LINEAR_ROWS(name, W, Sum) \
  KN_SPARSE_LINEAR(name, W, Sum, 1, 4)      \
  KN_SPARSE_LINEAR(name, W, Sum, 4, 2)      \
  KN_SPARSE_LINEAR(name, W, Sum, 8, 2)      \
  KN_SPARSE_LINEAR(name, W, Sum, 16, 2)
KN_SPARSE_LINEAR_ROWS(f32, KN_F32, float)
KN_SPARSE_LINEAR_ROWS(bf16, KN_BF16, float)
KN_SPARSE_LINEAR_ROWS(f16, KN_F16, float)
KN_SPARSE_LINEAR_ROWS(s8, KN_S8, float)
KN_SPARSE_LINEAR_ROWS(s8_s8, KN_S8, int)

KN_KERNEL(sparse_linear_gpu_quantize, 256, 4, kn_sparse_linear_gpu) {
  const kn_flat_gemm_gpu& layer = args.layer;
  kn::flat_gemm::quantize(layer, [&](int64_t row, int64_t k) {
    return kn::sparse_linear::reads(args, k) ? kn::flat_gemm::load_element(layer.x_type, layer.x, row * layer.ldx + k)
                                             : 0.0f;
  });
}

// y from the sums of all splits, added in order.
KN_KERNEL(sparse_linear_gpu_reduce, 256, 4, kn_sparse_linear_gpu) {
  using namespace kn::sparse_linear;
  const kn_flat_gemm_gpu& layer = args.layer;
  const int64_t output = blockIdx.x * int64_t{256} + threadIdx.x, pair = gated(args) ? 2 : 1;
  if (output >= layer.n) return;
  const int64_t columns = (int64_t{layer.n} + kPanel - 1) / kPanel * pair * kPanel;
  for (int64_t row = blockIdx.y; row < layer.m; row += gridDim.y) {
    const int64_t first = row * columns + output / kPanel * pair * kPanel + output % kPanel;
    const float sum = kn::flat_gemm::sum_of_splits(layer, first, columns),
                up = pair == 2 ? kn::flat_gemm::sum_of_splits(layer, first + kPanel, columns) : 0.0f;
    write(args, row, output, sum, up);
  }
}
