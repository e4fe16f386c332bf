#include "cpu.h"

#include <kn.h>
#include <require.h>

#if defined(KN_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

struct registers {
  uint32_t eax, ebx, ecx, edx;
};

registers cpuid(uint32_t leaf, uint32_t subleaf) {
  registers r{};
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
       static_cast<uint32_t>(out[3])};
#else
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

uint64_t xcr0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

// Linux gives tile state to a process only on request (XTILEDATA is component 18), and the grant holds for all its
// threads.
bool tile_state_granted() {
#if defined(__linux__)
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
  return true;
#endif
}

bool has(uint32_t word, int bit) { return (word >> bit) & 1; }

// Zen 4 (family 25, as Zen 3): 24 lines of 64 bytes at some 100 ns are 15 GB/s.
bool few_l1_misses() {
  const registers vendor = cpuid(0, 0);
  const bool amd = vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65 && vendor.ecx == 0x444d4163;  // AuthenticAMD
  const uint32_t version = cpuid(1, 0).eax;
  return amd && ((version >> 8) & 0xf) + ((version >> 20) & 0xff) == 25;
}

uint32_t detect() {
  if (cpuid(0, 0).eax < 7 || !has(cpuid(1, 0).ecx, 27)) return 0;  // bit 27: OSXSAVE, so that xgetbv exists
  constexpr uint64_t zmm = 0xe6, tile = 0x60000;
  const uint64_t saved = xcr0();
  const registers l7 = cpuid(7, 0);
  const registers l71 = l7.eax >= 1 ? cpuid(7, 1) : registers{};
  uint32_t features = 0;
  const bool avx512 = (saved & zmm) == zmm && has(l7.ebx, 16) && has(l7.ebx, 17) && has(l7.ebx, 30) &&
                      has(l7.ebx, 31) && has(l7.ecx, 11);
  if (!avx512) return 0;
  features |= KN_CPU_AVX512;
  if (has(l71.eax, 5)) features |= KN_CPU_AVX512BF16;
  if (has(l7.edx, 23)) features |= KN_CPU_AVX512FP16;
  if (has(l7.ecx, 1) && has(l7.ecx, 6)) features |= KN_CPU_AVX512VBMI2;
  const bool amx = has(l7.edx, 22) && has(l7.edx, 24) && has(l7.edx, 25) && (saved & tile) == tile;
  if (amx && (features & KN_CPU_AVX512BF16) && tile_state_granted()) features |= KN_CPU_AMX;
  if (few_l1_misses()) features |= KN_CPU_FEW_L1_MISSES;
  return features;
}

}  // namespace

uint32_t kn_cpu_features() {
  static const uint32_t features = detect();
  return features;
}

extern "C" int32_t kn_few_l1_misses() { return (kn_cpu_features() & KN_CPU_FEW_L1_MISSES) != 0; }

#else

uint32_t kn_cpu_features() { return 0; }
extern "C" int32_t kn_few_l1_misses() { return 0; }

#endif
