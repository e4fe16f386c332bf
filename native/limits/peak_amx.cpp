// Eight tiles: six sums, and one tile for each operand. A product takes 16 cycles and has a latency of 52, so four
// would do.
#include <immintrin.h>
#include <string.h>

#include "limits.h"

namespace {

constexpr int32_t kSums = 6, kRows = 16, kRowBytes = 64;

struct alignas(64) tile_config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Operands of zeros would let clock-gated multipliers run cooler than real data do.
void configure(int byte) {
  tile_config config;
  for (int t = 0; t < 8; t++) {
    config.row_bytes[t] = kRowBytes;
    config.rows[t] = kRows;
  }
  alignas(64) char operand[kRows * kRowBytes];
  memset(operand, byte, sizeof operand);
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_loadd(6, operand, kRowBytes);
  _tile_loadd(7, operand, kRowBytes);
}

uint64_t finish() {
  alignas(64) uint64_t sum[kRows * kRowBytes / sizeof(uint64_t)];
  _tile_stored(0, sum, kRowBytes);
  _tile_release();
  return sum[0];
}

uint64_t bf16(char*, int64_t, int64_t reps) {
  configure(0x3c);  // 0x3c3c: about 0.0115
  for (int64_t r = 0; r < reps; r++) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  return finish();
}

uint64_t s8(char*, int64_t, int64_t reps) {
  configure(0x3c);
  for (int64_t r = 0; r < reps; r++) {
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(4, 6, 7);
    _tile_dpbssd(5, 6, 7);
  }
  return finish();
}

}  // namespace

// A product of tiles: 16 rows by 16 columns by 32 bf16 or 64 int8.
extern constexpr kn_peak kn_peak_bf16_amx = {"bf16_amx", KN_CPU_AMX, kSums * 2 * 16 * 16 * 32, bf16};
extern constexpr kn_peak kn_peak_s8_amx = {"s8_amx", KN_CPU_AMX, kSums * 2 * 16 * 16 * 64, s8};
