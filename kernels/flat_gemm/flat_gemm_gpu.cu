// flat_gemm/gpu: dot products on vector units, for NVIDIA and AMD. A wave walks k for 4 columns and up to 16 rows, a
// lane 16 bytes of each column at a time, two of them in flight; x comes through L1, which the 4 waves of a block
// share. Weights leave memory once for each 16 rows, so this is the row of a few m: beyond, FMA is the limit.
//
// Bits: an element is a chain over k per lane, then a tree over lanes, then splits in order, whatever m, M and the
// neighbours; with one k_split for every m it is batch-invariant.
#include "flat_gemm_gpu.cuh"

namespace kn::flat_gemm {
namespace {

constexpr int kColumns = 4;  // of a wave: x is converted once for so many
constexpr int kWaves = 4;

template <int Type>
__device__ __forceinline__ const char* element_address(const void* base, int64_t index) {
  return static_cast<const char*>(base) + index * kBits<Type> / 8;
}

// E elements of x as f32.
template <int Type, int E>
__device__ __forceinline__ void load_x(const char* p, float (&out)[E]) {
  constexpr int kPer16 = 128 / kBits<Type>;
#pragma unroll
  for (int i = 0; i < E; i += kPer16) {
    const words w = load16(p + i * kBits<Type> / 8);
#pragma unroll
    for (int j = 0; j < kPer16; j++) {
      if constexpr (Type == KN_F32) out[i + j] = bits_as<float>(w.v[j]);
      if constexpr (Type == KN_BF16)
        out[i + j] = j % 2 ? bits_as<float>(w.v[j / 2] & 0xffff0000u) : widen_bf16(w.v[j / 2]);
      if constexpr (Type == KN_F16) out[i + j] = widen_f16(static_cast<uint16_t>(w.v[j / 2] >> (16 * (j % 2))));
    }
  }
}

// Elements `E chunk` and up of 16 bytes of weights as f32; u4 less the zero point, without the scale.
template <int Type, int E>
__device__ __forceinline__ void decode(const words& w, int chunk, float zero, float (&out)[E]) {
  if constexpr (Type == KN_F32) {
#pragma unroll
    for (int j = 0; j < E; j++) out[j] = bits_as<float>(w.v[j]);
  } else if constexpr (Type == KN_BF16 || Type == KN_F16) {
#pragma unroll
    for (int j = 0; j < E; j++) {
      if constexpr (Type == KN_BF16)
        out[j] = j % 2 ? bits_as<float>(w.v[j / 2] & 0xffff0000u) : widen_bf16(w.v[j / 2]);
      else
        out[j] = widen_f16(static_cast<uint16_t>(w.v[j / 2] >> (16 * (j % 2))));
    }
  } else if constexpr (Type == KN_S8) {
#pragma unroll
    for (int j = 0; j < E; j += 4) {
      const uint32_t u = w.v[chunk * 2 + j / 4] ^ 0x80808080u;  // s8 + 128 is u8
      out[j] = byte_as_float<0>(u) - 128.0f, out[j + 1] = byte_as_float<1>(u) - 128.0f;
      out[j + 2] = byte_as_float<2>(u) - 128.0f, out[j + 3] = byte_as_float<3>(u) - 128.0f;
    }
  } else {
    // A nibble at bit 4t of a float whose last place is worth 2^-4t is that float plus the nibble: no shift, and one
    // subtraction takes both the pattern and the zero point off, exactly. It fits for t <= 4, so the upper half is
    // shifted.
#pragma unroll
    for (int j = 0; j < E; j++) {
      const int t = j % 4;
      const uint32_t half = j < 4 ? w.v[chunk] : w.v[chunk] >> 16;
      const uint32_t pattern = static_cast<uint32_t>(127 + 23 - 4 * t) << 23;
      out[j] = bits_as<float>((half & (15u << (4 * t))) | pattern) - (static_cast<float>(1 << (23 - 4 * t)) + zero);
    }
  }
}

template <int Type>
__device__ __forceinline__ float weight_at(const char* row, int64_t k, float scale, float zero) {
  if constexpr (Type == KN_S8) return static_cast<float>(reinterpret_cast<const int8_t*>(row)[k]);
  if constexpr (Type == KN_U4) {
    const int q = static_cast<uint8_t>(row[k / 2]) >> (4 * (k & 1)) & 15;
    return (static_cast<float>(q) - zero) * scale;
  }
  return load_element(Type, row, k);
}

struct group {
  float scale, zero;
};

// Scale and zero point of row `at` of w at k.
template <int Type>
__device__ __forceinline__ group group_at(const kn_flat_gemm_gpu& a, int64_t at, int64_t k) {
  if constexpr (Type != KN_U4) return {1.0f, 0.0f};
  const int64_t i = at * ((a.k + a.group - 1) / a.group) + k / a.group;
  return {a.scales[i], a.flags & KN_GEMM_ZEROS ? static_cast<float>(a.zeros[i] & 15) : 8.0f};
}

// What 16 bytes of each column add: w of kColumns columns by x of M rows.
template <int W, int X, int M, class Sum>
__device__ __forceinline__ void multiply(const kn_flat_gemm_gpu& a, const words (&w)[kColumns],
                                         const int64_t (&at)[kColumns], const char* x, int rows, int64_t k,
                                         Sum (&sums)[M * kColumns]) {
  if constexpr (X == KN_S8) {
#pragma unroll
    for (int r = 0; r < M; r++) {
      if (r >= rows) continue;
      const words v = load16(element_address<X>(x, k + r * a.ldx));
#pragma unroll
      for (int i = 0; i < kColumns * 4; i++)
        sums[r * kColumns + i / 4] = dot4(w[i / 4].v[i % 4], v.v[i % 4], sums[r * kColumns + i / 4]);
    }
  } else {
    constexpr int kPer16 = 128 / kBits<W>, E = kPer16 < 8 ? kPer16 : 8;
    group g[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; c++) g[c] = group_at<W>(a, at[c], k);
    float part[M * kColumns] = {};  // u4: a lane's 32 elements have one scale, which multiplies their sum
#pragma unroll
    for (int chunk = 0; chunk < kPer16 / E; chunk++) {
      float ws[kColumns][E];
#pragma unroll
      for (int c = 0; c < kColumns; c++) decode<W>(w[c], chunk, g[c].zero, ws[c]);
#pragma unroll
      for (int r = 0; r < M; r++) {
        if (r >= rows) continue;
        float xs[E];
        load_x<X>(element_address<X>(x, k + chunk * E + r * a.ldx), xs);
#pragma unroll
        for (int c = 0; c < kColumns; c++) {
          float& sum = W == KN_U4 ? part[r * kColumns + c] : sums[r * kColumns + c];
#pragma unroll
          for (int j = 0; j < E; j++) sum = __builtin_fmaf(ws[c][j], xs[j], sum);
        }
      }
    }
    if constexpr (W == KN_U4) {
#pragma unroll
      for (int i = 0; i < M * kColumns; i++) sums[i] = __builtin_fmaf(part[i], g[i % kColumns].scale, sums[i]);
    }
  }
}

// Sums of M rows by kColumns columns over k in [begin, end), one lane's share.
template <int W, int X, int M, class Sum>
__device__ __forceinline__ void walk(const kn_flat_gemm_gpu& a, const int64_t (&at)[kColumns], const char* x, int rows,
                                     int64_t begin, int64_t end, Sum (&sums)[M * kColumns]) {
  constexpr int kPer16 = 128 / kBits<W>;
  const char* w[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; c++) w[c] = element_address<W>(a.w, at[c] * a.ldw);
  const uint64_t odd = (reinterpret_cast<uint64_t>(a.x) | reinterpret_cast<uint64_t>(a.w) |
                        static_cast<uint64_t>(a.ldx * kBits<X> / 8) | static_cast<uint64_t>(a.ldw * kBits<W> / 8)) %
                       16;
  const int64_t vectors = odd ? begin : begin + (end - begin) / kPer16 * kPer16;
  words now[kColumns] = {}, next[kColumns] = {};
  int64_t k = begin + lane_id() * kPer16;
  if (k < vectors) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) now[c] = load16_once(element_address<W>(w[c], k));
  }
#pragma unroll 1
  for (; k < vectors; k += kWave * kPer16) {
    if (k + kWave * kPer16 < vectors) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) next[c] = load16_once(element_address<W>(w[c], k + kWave * kPer16));
    }
    multiply<W, X, M>(a, now, at, x, rows, k, sums);
#pragma unroll
    for (int c = 0; c < kColumns; c++) now[c] = next[c];
  }
  // What is left of k, or all of it where rows do not begin at multiples of 16 bytes: element by element.
#pragma unroll 1
  for (int64_t i = vectors + lane_id(); i < end; i += kWave) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
      const group g = group_at<W>(a, at[c], i);
      const Sum v = static_cast<Sum>(weight_at<W>(w[c], i, g.scale, g.zero));
#pragma unroll
      for (int r = 0; r < M; r++) {
        if (r >= rows) continue;
        if constexpr (X == KN_S8)
          sums[r * kColumns + c] += v * reinterpret_cast<const int8_t*>(x)[i + r * a.ldx];
        else
          sums[r * kColumns + c] = __builtin_fmaf(v, load_element(X, x, i + r * a.ldx), sums[r * kColumns + c]);
      }
    }
  }
}

template <int W, int X, int M>
__device__ __forceinline__ void run(const kn_flat_gemm_gpu& a) {
  using sum_t = typename sum_of<X == KN_S8>::type;
  constexpr int kSums = M * kColumns, kOwn = kSums > kWave ? kSums / kWave : 1;
  const int64_t columns = columns_of(a), column0 = (int64_t{blockIdx.x} * kWaves + wave_id()) * kColumns;
  if (column0 >= columns) return;  // the whole wave, and nobody waits for it
  const int64_t begin = int64_t{blockIdx.y} * a.k_split, end = begin + a.k_split < a.k ? begin + a.k_split : a.k;
  int64_t at[kColumns];  // beyond the last column, the last one again: it may be read and is not written
#pragma unroll
  for (int c = 0; c < kColumns; c++) at[c] = w_row(a, column0 + c < columns ? column0 + c : columns - 1);
#pragma unroll 1
  for (int64_t row0 = int64_t{blockIdx.z} * M; row0 < a.m; row0 += int64_t{gridDim.z} * M) {
    const char* x = element_address<X>(a.x, row0 * a.ldx);
    const int rows = row0 + M < a.m ? M : static_cast<int>(a.m - row0);
    sum_t sums[kSums] = {};
    walk<W, X, M>(a, at, x, rows, begin, end, sums);
    scatter_sums(sums);
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
      // The other one of a gated pair is the neighbour: in this lane where it owns several, else in the next owner.
      const sum_t pair = kOwn > 1 ? sums[i + 1 < kOwn ? i + 1 : i] : shuffle_xor(sums[i], kOwn > 1 ? 1 : kWave / kSums);
      if (kOwn == 1 && lane_id() % (kWave / (kSums > kWave ? kWave : kSums)) != 0) continue;
      const int64_t index = int64_t{lane_id()} * kSums / kWave + i;
      const int64_t row = row0 + index / kColumns, column = column0 + index % kColumns;
      if (row >= a.m || column >= columns) continue;
      if (a.splits > 1)
        static_cast<sum_t*>(a.partial)[(blockIdx.y * int64_t{a.m} + row) * columns + column] = sums[i];
      else if (!gated(a))
        write_output(a, row, column, static_cast<float>(sums[i]), 0.0f);
      else if (column % 2 == 0)
        write_output(a, row, column / 2, static_cast<float>(sums[i]), static_cast<float>(pair));
    }
  }
}

}  // namespace
}  // namespace kn::flat_gemm

#define KN_FLAT_GEMM(w, x, W, X, M, blocks)                                            \
  KN_KERNEL(flat_gemm_gpu_##w##_##x##_m##M, 4 * kn::kWave, blocks, kn_flat_gemm_gpu) { \
    kn::flat_gemm::run<W, X, M>(args);                                                 \
  }
#define KN_FLAT_GEMM_ROWS(w, x, W, X) \
  KN_FLAT_GEMM(w, x, W, X, 1, 4)      \
  KN_FLAT_GEMM(w, x, W, X, 4, 3)      \
  KN_FLAT_GEMM(w, x, W, X, 8, 2)      \
  KN_FLAT_GEMM(w, x, W, X, 16, 2)
KN_FLAT_GEMM_ROWS(f32, f32, KN_F32, KN_F32)
KN_FLAT_GEMM_ROWS(bf16, bf16, KN_BF16, KN_BF16)
KN_FLAT_GEMM_ROWS(bf16, f16, KN_BF16, KN_F16)
KN_FLAT_GEMM_ROWS(bf16, f32, KN_BF16, KN_F32)
KN_FLAT_GEMM_ROWS(f16, bf16, KN_F16, KN_BF16)
KN_FLAT_GEMM_ROWS(f16, f16, KN_F16, KN_F16)
KN_FLAT_GEMM_ROWS(f16, f32, KN_F16, KN_F32)
KN_FLAT_GEMM_ROWS(s8, s8, KN_S8, KN_S8)
KN_FLAT_GEMM_ROWS(s8, bf16, KN_S8, KN_BF16)
KN_FLAT_GEMM_ROWS(u4, bf16, KN_U4, KN_BF16)

KN_KERNEL(flat_gemm_gpu_quantize, 256, 4, kn_flat_gemm_gpu) {
  const kn_flat_gemm_gpu& a = args;
  kn::flat_gemm::quantize(
      a, [&](int64_t row, int64_t k) { return kn::flat_gemm::load_element(a.x_type, a.x, row * a.ldx + k); });
}

// y from the sums of all splits, added in order.
KN_KERNEL(flat_gemm_gpu_reduce, 256, 4, kn_flat_gemm_gpu) {
  const kn_flat_gemm_gpu& a = args;
  using namespace kn::flat_gemm;
  const int64_t column = blockIdx.x * int64_t{256} + threadIdx.x, columns = columns_of(a);
  if (column >= a.n) return;
  for (int64_t row = blockIdx.y; row < a.m; row += gridDim.y) {
    const int64_t first = row * columns + (gated(a) ? column * 2 : column);
    const float sum = sum_of_splits(a, first, columns), up = gated(a) ? sum_of_splits(a, first + 1, columns) : 0.0f;
    write_output(a, row, column, sum, up);
  }
}
