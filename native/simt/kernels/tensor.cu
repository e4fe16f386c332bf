// The matrix instructions on registers that come from memory as they are, so that a test sees the layout itself.
#include <gpu.cuh>

struct kn_simt_test {
  const void* in;
  void* out;
  int64_t n;
  int64_t mode;
};

// in: 4 registers of A, 2 of B and 4 of C for each lane; out: 4 of D. mode 0: bf16, 1: f16, 2: s8.
KN_KERNEL(simt_mma, 32, 1, kn_simt_test) {
  const uint32_t* const in = static_cast<const uint32_t*>(args.in) + threadIdx.x * 10;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; i++) a[i] = in[i];
  for (int i = 0; i < 2; i++) b[i] = in[4 + i];
  if (args.mode == 2) {
    int32_t c[4], d[4];
    for (int i = 0; i < 4; i++) c[i] = static_cast<int32_t>(in[6 + i]);
    kn_simt_mma_m16n8k32_s8(d, a, b, c);
    for (int i = 0; i < 4; i++) static_cast<int32_t*>(args.out)[threadIdx.x * 4 + i] = d[i];
  } else {
    float c[4], d[4];
    for (int i = 0; i < 4; i++) c[i] = kn::bits_as<float>(in[6 + i]);
    if (args.mode == 0)
      kn_simt_mma_m16n8k16_bf16(d, a, b, c);
    else
      kn_simt_mma_m16n8k16_f16(d, a, b, c);
    for (int i = 0; i < 4; i++) static_cast<float*>(args.out)[threadIdx.x * 4 + i] = d[i];
  }
}

// in: 32 rows of 8 elements of 16 bits, 4 matrices. out: 4 registers for each lane. n matrices are loaded, lane l
// naming row (l + 3) % 8 of matrix l / 8; mode 1: transposed.
KN_KERNEL(simt_ldmatrix, 32, 1, kn_simt_test) {
  KN_DYNAMIC_SHARED(uint16_t, rows);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; i++) rows[lane * 8 + i] = static_cast<const uint16_t*>(args.in)[lane * 8 + i];
  __syncwarp();
  uint32_t r[4] = {};
  kn_simt_ldmatrix(r, rows + (lane / 8 * 8 + (lane + 3) % 8) * 8, static_cast<int>(args.n), args.mode == 1);
  for (int i = 0; i < 4; i++) static_cast<uint32_t*>(args.out)[lane * 4 + i] = r[i];
}

// in: n pieces of 16 bytes, which move through two stages of shared memory to out, the last `mode` bytes of each as
// zeros: cp.async as a kernel uses it, with barriers where they belong.
KN_KERNEL(simt_pipeline, 32, 1, kn_simt_test) {
  KN_DYNAMIC_SHARED(kn::words, stages);
  const kn::words* const in = static_cast<const kn::words*>(args.in);
  kn::words* const out = static_cast<kn::words*>(args.out);
  const int lane = static_cast<int>(threadIdx.x), steps = static_cast<int>(args.n / 32);
  const int bytes = 16 - static_cast<int>(args.mode);
  for (int s = 0; s < 2; s++) {
    if (s < steps) kn_simt_cp_async(stages + s * 32 + lane, in + s * 32 + lane, 16, bytes);
    kn_simt_cp_async_commit();
  }
  for (int s = 0; s < steps; s++) {
    kn_simt_cp_async_wait(1);
    __syncthreads();
    out[s * 32 + lane] = stages[s % 2 * 32 + 31 - lane];
    __syncthreads();
    if (s + 2 < steps) kn_simt_cp_async(stages + s % 2 * 32 + lane, in + (s + 2) * 32 + lane, 16, bytes);
    kn_simt_cp_async_commit();
  }
}
