// Tensor copies and wgmma, so that a test sees the layout itself.
#include "sm90.cuh"

// The box at (n, n / 1000, n / 1000000) modulo 1000, each less 500, goes to out as it lies in shared memory. Two copies
// of it, since barriers are used again.
KN_KERNEL(simt_copy_tensor, 64, 1, kn_simt_tensor_test) {
  KN_DYNAMIC_SHARED(char, s);
  __shared__ kn::mbarrier full;
  if (threadIdx.x == 0) full.init(1);
  __syncthreads();
  const int bytes = static_cast<int>(kn_simt_dynamic_shared_bytes());
  const int x = static_cast<int>(args.n % 1000) - 500, y = static_cast<int>(args.n / 1000 % 1000) - 500;
  const int z = static_cast<int>(args.n / 1000000) - 500;
  for (int i = 0; i < 2; i++) {
    if (threadIdx.x == 0) {
      full.arrive_expect(bytes);
      kn::copy_tensor(s, &args.map, x, y, z, full);
    }
    full.wait(i);
    for (int b = static_cast<int>(threadIdx.x); b < bytes; b += 64) static_cast<char*>(args.out)[b] = s[b];
    __syncthreads();
  }
}

// How the rows of a come to wgmma.
enum left { kRows, kTransposed, kRegisters };

// Registers of 16 elements of k from `step` 16 on: of 16 rows of this warp, as for m16n8k16.
static void load_left(const char* tile, int step, uint32_t (&a)[4]) {
  for (int i = 0; i < 4; i++) {
    const int lane = static_cast<int>(threadIdx.x % 32),
              row = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4 + i % 2 * 8;
    const int piece = step * 2 + i / 2;
    a[i] = *reinterpret_cast<const uint32_t*>(tile + row * kn::kTileBytes + ((piece ^ row % 8) << 4) + lane % 4 * 4);
  }
}

template <class Element, left Left, int R>
static void multiply_tile(const char* tile, float (&d)[R]) {
  if constexpr (Left != kRegisters) {
    kn::wgmma_fence();
    kn::multiply_tile<Element, Left == kTransposed>(tile, d);
  } else {
    uint32_t a[4][4];
    for (int k = 0; k < 4; k++) load_left(tile, k, a[k]);
    kn::wgmma_fence();
    for (int k = 0; k < 4; k++)
      kn::wgmma(Element{}, d, a[k],
                kn::tile_descriptor(tile + kn::kABytes) + static_cast<uint64_t>(k * kn::kDescriptorK));
    kn::wgmma_commit();
  }
}

// The tile's product, R sums of each of 128 threads to out. mode 1: before they are there.
template <class Element, int R, left Left = kRows>
static void multiply(const kn_simt_tensor_test& args) {
  KN_DYNAMIC_SHARED(char, s);
  __shared__ kn::mbarrier full;
  if (threadIdx.x == 0) {
    full.init(1);
    full.arrive_expect(kn::kABytes + 2 * R * kn::kTileBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  __syncthreads();
  full.wait(0);
  float d[R];
  for (int i = 0; i < R; i++) d[i] = static_cast<float>(i);
  multiply_tile<Element, Left>(s, d);
  if (!args.mode) kn::wgmma_wait<0>();
  for (int i = 0; i < R; i++) static_cast<float*>(args.out)[static_cast<int>(threadIdx.x) * R + i] = d[i];
  if (args.mode) kn::wgmma_wait<0>();
}

#define WGMMA(type, N) \
  KN_KERNEL(simt_wgmma_##type##_n##N, 128, 1, kn_simt_tensor_test) { multiply<kn::type, N / 2>(args); }
WGMMA(bf16, 8)
WGMMA(bf16, 16)
WGMMA(bf16, 128)
WGMMA(f16, 8)
WGMMA(f16, 64)
#define WGMMA_TRANSPOSED(type, N)                                               \
  KN_KERNEL(simt_wgmma_transposed_##type##_n##N, 128, 1, kn_simt_tensor_test) { \
    multiply<kn::type, N / 2, kTransposed>(args);                               \
  }
WGMMA_TRANSPOSED(bf16, 8)
WGMMA_TRANSPOSED(bf16, 32)
WGMMA_TRANSPOSED(f16, 16)

// Registers 4 lane .. of `in` to four matrices, whose rows go to out in the order of the lanes that name them.
KN_KERNEL(simt_stmatrix, 32, 1, kn_simt_tensor_test) {
  KN_DYNAMIC_SHARED(char, s);
  uint32_t r[4];
  for (int i = 0; i < 4; i++) r[i] = static_cast<const uint32_t*>(args.in)[threadIdx.x * 4 + i];
  kn::stmatrix_x4_trans(s + threadIdx.x * 16, r);
  __syncwarp();
  for (int i = 0; i < 16; i++) static_cast<char*>(args.out)[threadIdx.x * 16 + i] = s[threadIdx.x * 16 + i];
}

#define WGMMA_REGISTERS(N)                                                 \
  KN_KERNEL(simt_wgmma_registers_bf16_n##N, 128, 1, kn_simt_tensor_test) { \
    multiply<kn::bf16, N / 2, kRegisters>(args);                           \
  }
WGMMA_REGISTERS(8)
WGMMA_REGISTERS(64)

// Of s8: 64 rows of a and then N of b, 128 elements each.
template <int R>
static void multiply_s8(const kn_simt_tensor_test& args) {
  KN_DYNAMIC_SHARED(char, s);
  __shared__ kn::mbarrier full;
  if (threadIdx.x == 0) {
    full.init(1);
    full.arrive_expect(kn::kABytes + 2 * R * kn::kTileBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  __syncthreads();
  full.wait(0);
  int d[R];
  for (int i = 0; i < R; i++) d[i] = i;
  kn::wgmma_fence();
  for (int k = 0; k < 4; k++) {
    const uint64_t at = static_cast<uint64_t>(k * kn::kDescriptorK);
    kn::wgmma(kn::s8{}, d, kn::tile_descriptor(s) + at, kn::tile_descriptor(s + kn::kABytes) + at);
  }
  kn::wgmma_commit();
  kn::wgmma_wait<0>();
  for (int i = 0; i < R; i++) static_cast<int*>(args.out)[static_cast<int>(threadIdx.x) * R + i] = d[i];
}
KN_KERNEL(simt_wgmma_s8_n8, 128, 1, kn_simt_tensor_test) { multiply_s8<4>(args); }
KN_KERNEL(simt_wgmma_s8_n128, 128, 1, kn_simt_tensor_test) { multiply_s8<64>(args); }
