// AMX tile helpers. Tile numbers are template parameters, as the instructions carry them in their encoding. Everything
// is static, see avx512.h. With KN_AMX_EMULATE the same helpers work on a register file in memory by the pseudo-code of
// the Intel SDM, so that the rows can be tested on any AVX-512 machine.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace kn {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;

// What ldtilecfg reads. Palette 1 has 8 tiles of at most 16 rows of 64 bytes; palette 0 is no tiles at all.
struct alignas(64) tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t colsb[16];  // bytes of a row; tiles 8 to 15 do not exist and stay 0
  uint8_t rows[16];
};
static_assert(sizeof(tile_config) == 64);

#if defined(KN_AMX_EMULATE)

// What would be #GP or #UD on the machine sets `fault`, and until tile_release every store then delivers kTilePoison:
// NaN as f32, far from any plausible sum as s32.
constexpr uint32_t kTilePoison = 0xffbadbad;

struct tile_file {
  tile_config config;
  bool fault;
  alignas(64) char data[8][kTileRows][kTileBytes];
};
thread_local tile_file tiles;

inline bool tile_require(bool condition) {
  tiles.fault |= !condition;
  return condition;
}

inline bool tile_configured(int t) { return tile_require(tiles.config.palette == 1 && tiles.config.rows[t] != 0); }

inline void tile_configure(const tile_config& c) {
  bool good = c.palette <= 1 && c.start_row == 0;
  for (const uint8_t byte : c.reserved) good &= byte == 0;
  for (int t = 0; t < 16; t++)
    good &= t < 8 ? c.rows[t] <= kTileRows && c.colsb[t] <= kTileBytes && (c.rows[t] == 0) == (c.colsb[t] == 0)
                  : c.rows[t] == 0 && c.colsb[t] == 0;
  tiles.config = tile_require(good) ? c : tile_config{};
  memset(tiles.data, 0, sizeof tiles.data);
}

inline void tile_release() { memset(&tiles, 0, sizeof tiles); }

template <int T>
void tile_zero() {
  if (tile_configured(T)) memset(tiles.data[T], 0, sizeof tiles.data[T]);
}

template <int T>
void tile_load(const void* base, int64_t stride) {
  if (!tile_configured(T)) return;
  memset(tiles.data[T], 0, sizeof tiles.data[T]);
  for (int r = 0; r < tiles.config.rows[T]; r++)
    memcpy(tiles.data[T][r], static_cast<const char*>(base) + r * stride, tiles.config.colsb[T]);
}

template <int T>
void tile_store(void* base, int64_t stride) {
  if (!tile_configured(T)) memcpy(base, &kTilePoison, 4);
  for (int r = 0; r < tiles.config.rows[T]; r++) {
    char* row = static_cast<char*>(base) + r * stride;
    memcpy(row, tiles.data[T][r], tiles.config.colsb[T]);
    for (int i = 0; tiles.fault && i + 4 <= tiles.config.colsb[T]; i += 4) memcpy(row + i, &kTilePoison, 4);
  }
}

inline bool tile_shapes_agree(int c, int a, int b) {
  const tile_config& s = tiles.config;
  return tile_configured(c) && tile_configured(a) && tile_configured(b) &&
         tile_require(c != a && a != b && b != c && s.colsb[c] % 4 == 0 && s.colsb[a] % 4 == 0 &&
                      s.colsb[b] == s.colsb[c] && s.rows[a] == s.rows[c] && s.rows[b] == s.colsb[a] / 4);
}

// step(sum, a, b) for every dword of a row of A and the row of B that belongs to it; `finish` closes a row of C. A real
// call, because the compiler may move arithmetic past _mm_setcsr but not a call.
template <class Sum>
__attribute__((noinline)) void tile_multiply(int c, int a, int b) {
  const __mmask16 mask = static_cast<__mmask16>((1u << tiles.config.colsb[c] / 4) - 1);
  for (int m = 0; m < tiles.config.rows[c]; m++) {
    Sum sum(_mm512_load_si512(tiles.data[c][m]));
    for (int k = 0; k < tiles.config.colsb[a] / 4; k++) {
      int32_t dword;
      memcpy(&dword, tiles.data[a][m] + k * 4, 4);
      sum.step(_mm512_set1_epi32(dword), _mm512_load_si512(tiles.data[b][k]));
    }
    _mm512_store_si512(tiles.data[c][m], _mm512_maskz_mov_epi32(mask, sum.finish()));
  }
}

// Even and odd k are two chains of fused multiply-adds from zero; their sum is added to C.
struct tile_sum_bf16 {
  __m512i c;
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  explicit tile_sum_bf16(__m512i old) : c(old) {}
  void step(__m512i a, __m512i b) {
    const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
    even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)),
                           even);
    odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(b, high)), odd);
  }
  __m512i finish() const {
    return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(c), _mm512_add_ps(even, odd)));
  }
};

struct tile_sum_s8 {
  __m512i c;
  explicit tile_sum_s8(__m512i old) : c(old) {}
  static __m512i byte(__m512i v, int i) {
    return _mm512_srai_epi32(_mm512_sll_epi32(v, _mm_cvtsi32_si128(24 - 8 * i)), 24);
  }
  void step(__m512i a, __m512i b) {
    for (int i = 0; i < 4; i++) c = _mm512_add_epi32(c, _mm512_mullo_epi32(byte(a, i), byte(b, i)));
  }
  __m512i finish() const { return c; }
};

template <int C, int A, int B>
void tile_dot_bf16() {
  if (!tile_shapes_agree(C, A, B)) return;
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(0x9fc0);  // exceptions masked, round to nearest even, denormals are zero on both sides
  tile_multiply<tile_sum_bf16>(C, A, B);
  _mm_setcsr(saved);
}

template <int C, int A, int B>
void tile_dot_s8() {
  if (tile_shapes_agree(C, A, B)) tile_multiply<tile_sum_s8>(C, A, B);
}

#elif defined(__GNUC__) && !defined(__clang__)

// gcc's intrinsics paste the tile number into text, so it cannot be a template parameter, and they do not tell the
// compiler that memory is read: what was just unpacked could be stored after it is loaded.
inline void tile_configure(const tile_config& c) { __asm__ volatile("ldtilecfg\t%0" ::"m"(c)); }
inline void tile_release() { __asm__ volatile("tilerelease"); }

template <int T>
void tile_zero() {
  __asm__ volatile("tilezero\t%%tmm%c0" ::"i"(T));
}

template <int T>
void tile_load(const void* base, int64_t stride) {
  __asm__ volatile("tileloadd\t(%1,%2,1), %%tmm%c0" ::"i"(T), "r"(base), "r"(stride) : "memory");
}

template <int T>
void tile_store(void* base, int64_t stride) {
  __asm__ volatile("tilestored\t%%tmm%c0, (%1,%2,1)" ::"i"(T), "r"(base), "r"(stride) : "memory");
}

template <int C, int A, int B>
void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps\t%%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

template <int C, int A, int B>
void tile_dot_s8() {
  __asm__ volatile("tdpbssd\t%%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else

inline void tile_configure(const tile_config& c) { _tile_loadconfig(&c); }
inline void tile_release() { _tile_release(); }

template <int T>
void tile_zero() {
  _tile_zero(T);
}

template <int T>
void tile_load(const void* base, int64_t stride) {
  _tile_loadd(T, base, static_cast<size_t>(stride));
}

template <int T>
void tile_store(void* base, int64_t stride) {
  _tile_stored(T, base, static_cast<size_t>(stride));
}

template <int C, int A, int B>
void tile_dot_bf16() {
  _tile_dpbf16ps(C, A, B);
}

template <int C, int A, int B>
void tile_dot_s8() {
  _tile_dpbssd(C, A, B);
}

#endif

}  // namespace
}  // namespace kn
