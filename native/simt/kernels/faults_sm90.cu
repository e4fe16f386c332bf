// Kernels with one planted fault each, at a line that ends in the comment "planted". With mode 0 they are correct.
// Blocks of 160: a warpgroup, and a warp that copies the tensor's one box, 64 rows of a and 8 of b; 2 KB of shared
// memory follow it.
#include "sm90.cuh"

namespace {

constexpr int kBytes = kn::kABytes + 8 * kn::kTileBytes;

void init(kn::mbarrier& full, kn::mbarrier& empty, int arrivals = 4) {
  if (threadIdx.x == 0) {
    full.init(1);
    empty.init(arrivals);
    kn::fence_mbarrier_init();
  }
  __syncthreads();
}

bool copies() { return threadIdx.x == 128; }
bool multiplies() { return threadIdx.x < 128; }

}  // namespace

#define KERNEL(name) KN_KERNEL(simt_fault_##name, 160, 1, kn_simt_tensor_test)
#define BARRIERS __shared__ kn::mbarrier full, empty
#define TILE \
  BARRIERS;  \
  KN_DYNAMIC_SHARED(char, s)

KERNEL(copy_unwaited) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  __syncthreads();
  if (!args.mode) full.wait(0);
  static_cast<char*>(args.out)[threadIdx.x] = s[threadIdx.x];  // planted
  if (args.mode) full.wait(0);
}

// Another thread waits, and nothing orders it before this one.
KERNEL(copy_race) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);  // planted
  }
  if (threadIdx.x < 32 || !args.mode) full.wait(0);
  for (int i = 0; i < 20 && args.mode; i++) __syncwarp();
  if (threadIdx.x >= 32) static_cast<char*>(args.out)[threadIdx.x] = s[threadIdx.x];  // planted
}

KERNEL(copy_unfinished) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);  // planted
  }
  if (!args.mode) full.wait(0);
}

// mode 1: more bytes than come, 2: fewer.
KERNEL(copy_expected) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes + (args.mode == 1 ? 16 : args.mode == 2 ? -16 : 0));
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);  // planted
  }
  full.wait(0);  // planted
}

KERNEL(copy_bounds) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, args.mode ? 72 : 0, 0, full);  // planted
  }
  full.wait(0);
}

KERNEL(mbarrier_uninitialised) {
  BARRIERS;
  if (!args.mode) init(full, empty);
  if (copies()) full.arrive();  // planted
  if (!args.mode) full.wait(0);
}

KERNEL(mbarrier_arrivals) {
  BARRIERS;
  init(full, empty, 2);
  if (threadIdx.x < (args.mode ? 1 : 2)) empty.arrive();
  if (args.mode) __syncthreads();
  empty.wait(0);  // planted
}

KERNEL(mbarrier_overrun) {
  BARRIERS;
  init(full, empty, 2);
  if (threadIdx.x == 0 && args.mode) full.arrive_expect(16);
  if (threadIdx.x == 0) full.arrive();  // planted
}

// The stage is given back before wgmma has read it.
KERNEL(wgmma_released) {
  TILE;
  init(full, empty);
  if (threadIdx.x >= 128) {
    for (int i = 0; i < 2 && copies(); i++) {
      empty.wait(i ^ 1);
      full.arrive_expect(kBytes);
      kn::copy_tensor(s, &args.map, 0, 0, 0, full);  // planted
    }
  } else {
    float d[4] = {};
    for (int i = 0; i < 2; i++) {
      full.wait(i);
      kn::wgmma_fence();
      kn::multiply_tile<kn::bf16>(s, d);
      if (!args.mode) kn::wgmma_wait<0>();
      if (threadIdx.x % 32 == 0) empty.arrive();
      if (args.mode) kn::wgmma_wait<0>();  // planted
    }
    static_cast<float*>(args.out)[threadIdx.x] = d[0];
  }
}

KERNEL(wgmma_proxy) {
  TILE;
  init(full, empty);
  for (int i = static_cast<int>(threadIdx.x); i < kBytes / 4; i += 160) reinterpret_cast<int*>(s)[i] = 0;
  if (!args.mode) kn::fence_proxy_async();
  __syncthreads();
  if (multiplies()) {
    float d[4] = {};
    kn::wgmma_fence();
    kn::wgmma(kn::bf16{}, d, kn::tile_descriptor(s), kn::tile_descriptor(s + kn::kABytes));  // planted
    kn::wgmma_commit();
    kn::wgmma_wait<0>();
    static_cast<float*>(args.out)[threadIdx.x] = d[0];
  }
}

// mode 1: no wgmma.fence. 2: a sum is written while it is wgmma's. 3: the group is not committed. 4: nobody waits.
KERNEL(wgmma_registers) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  if (multiplies()) {
    full.wait(0);
    float d[4] = {};
    if (args.mode != 1) kn::wgmma_fence();
    kn::wgmma(kn::bf16{}, d, kn::tile_descriptor(s), kn::tile_descriptor(s + kn::kABytes));  // planted
    if (args.mode != 3) kn::wgmma_commit();
    if (args.mode == 2) d[1] = 7.0f;
    if (args.mode != 4) kn::wgmma_wait<0>();  // planted
    static_cast<float*>(args.out)[threadIdx.x] = d[1];
  }
}

KERNEL(wgmma_bounds) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  if (multiplies()) {
    full.wait(0);
    float d[4] = {};
    const char* const b = s + kn::kABytes + (args.mode ? 1024 : 0);
    kn::wgmma_fence();
    kn::wgmma(kn::bf16{}, d, kn::tile_descriptor(s), kn::tile_descriptor(b));  // planted
    kn::wgmma_commit();
    kn::wgmma_wait<0>();
    static_cast<float*>(args.out)[threadIdx.x] = d[0];
  }
}

// The weights of attention: a tile's own product becomes an operand. mode 1: no fence.proxy.async, 2: no barrier
// before other warps read it, 3: a row at no multiple of 16 bytes.
KERNEL(stmatrix) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  if (multiplies()) {
    full.wait(0);
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    const uint32_t zeros[4] = {};
    char* const to = s + kBytes + (lane % 16 / 8) * 1024 + lane % 8 * 128 + ((warp * 2 + lane / 16) ^ lane % 8) * 16;
    kn::stmatrix_x4_trans(to + (args.mode == 3 ? 8 : 0), zeros);  // planted
    if (args.mode != 1) kn::fence_proxy_async();
    if (args.mode != 2) kn::sync_first<128>();
    float d[8] = {};
    kn::wgmma_fence();
    kn::wgmma<true>(kn::bf16{}, d, kn::tile_descriptor(s), kn::tile_descriptor(s + kBytes));  // planted
    kn::wgmma_commit();
    kn::wgmma_wait<0>();
    static_cast<float*>(args.out)[threadIdx.x] = d[0];
  }
}

// 16 rows of k, of which the last 8 lie beyond the end.
KERNEL(wgmma_transposed_bounds) {
  TILE;
  init(full, empty);
  if (copies()) {
    full.arrive_expect(kBytes);
    kn::copy_tensor(s, &args.map, 0, 0, 0, full);
  }
  if (multiplies()) {
    full.wait(0);
    float d[4] = {};
    const char* const a = s + (args.mode ? kn::kABytes : 0);
    kn::wgmma_fence();
    kn::wgmma<true>(kn::bf16{}, d, kn::tile_descriptor(a), kn::tile_descriptor(s + kn::kABytes));  // planted
    kn::wgmma_commit();
    kn::wgmma_wait<0>();
    static_cast<float*>(args.out)[threadIdx.x] = d[0];
  }
}
