// mma.sync and ldmatrix: collectives of a whole warp of 32, with the fragments of the PTX ISA. With group = lane / 4
// and pair = lane % 4, register r of A (m16) holds row group + 8 (r % 2), and of B (n8) and of C column n = group or
// rows group + 8 (r / 2); k runs over the pair, elements of one register side by side.
#include <math.h>

#include "machine.h"

using namespace simt;

namespace {

struct MmaOperand {
  void* d;
  const uint32_t *a, *b;
  const void* c;
};

float widen(uint16_t v, bool bf16) {
  if (!bf16) {
    _Float16 h;
    memcpy(&h, &v, 2);
    return static_cast<float>(h);
  }
  const uint32_t bits = uint32_t{v} << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

const MmaOperand& operand_of(Thread* lanes, int lane) { return *static_cast<const MmaOperand*>(lanes[lane].operand); }

// Rows of A and columns of B as matrices: `per` elements to a register, K of them in k.
template <class T, int K, class Element>
void gather(Thread* lanes, T (&a)[16][K], T (&b)[8][K], Element element) {
  constexpr int kPer = K == 16 ? 2 : 4, kHalf = K / 2;
  for (int lane = 0; lane < 32; lane++) {
    const MmaOperand& o = operand_of(lanes, lane);
    const int group = lane / 4, k0 = lane % 4 * kPer;
    for (int r = 0; r < 4; r++)
      for (int e = 0; e < kPer; e++) a[group + r % 2 * 8][k0 + r / 2 * kHalf + e] = element(o.a[r], e);
    for (int r = 0; r < 2; r++)
      for (int e = 0; e < kPer; e++) b[group][k0 + r * kHalf + e] = element(o.b[r], e);
  }
}

template <class T, class Sum, int K>
void multiply(Thread* lanes, const T (&a)[16][K], const T (&b)[8][K]) {
  for (int lane = 0; lane < 32; lane++) {
    const MmaOperand& o = operand_of(lanes, lane);
    Sum sums[4];
    memcpy(sums, o.c, sizeof sums);
    for (int r = 0; r < 4; r++) {
      const T *row = a[lane / 4 + r / 2 * 8], *column = b[lane % 4 * 2 + r % 2];
      for (int k = 0; k < K; k++) sums[r] += static_cast<Sum>(row[k]) * static_cast<Sum>(column[k]);
    }
    memcpy(o.d, sums, sizeof sums);
  }
}

template <bool Bf16>
void complete_16(Block&, Thread* lanes, uint64_t) {
  float a[16][16], b[8][16];
  gather(lanes, a, b, [](uint32_t v, int e) { return widen(static_cast<uint16_t>(v >> (16 * e)), Bf16); });
  multiply<float, float>(lanes, a, b);
}

void complete_s8(Block&, Thread* lanes, uint64_t) {
  int8_t a[16][32], b[8][32];
  gather(lanes, a, b, [](uint32_t v, int e) { return static_cast<int8_t>(v >> (8 * e)); });
  multiply<int8_t, int32_t>(lanes, a, b);
}

void warp(const char* name, void* operand, Complete complete, uintptr_t pc) {
  Thread& thread = self();
  const Block& block = *thread.block;
  if (block.launch->kernel->wave != 32 || block.waves[thread.wave].all != 0xffffffffu)
    fault(KN_SIMT_TRAP, pc, std::string(name) + " outside a whole warp of 32");
  meet(name, ~0ull, operand, complete, pc);
}

struct LdmatrixOperand {
  uint32_t* registers;
  const char* row;
  int count;
  bool transposed;
  uintptr_t pc;
};

// Lane 8 i + j names row j of matrix i; every lane gets two neighbours of row lane / 4 of each, or, transposed, of
// column lane / 4.
void complete_ldmatrix(Block&, Thread* lanes, uint64_t) {
  const LdmatrixOperand& first = *static_cast<const LdmatrixOperand*>(lanes[0].operand);
  uint16_t matrix[4][8][8];
  for (int i = 0; i < first.count * 8; i++)
    memcpy(matrix[i / 8][i % 8], static_cast<const LdmatrixOperand*>(lanes[i].operand)->row, 16);
  for (int lane = 0; lane < 32; lane++) {
    const LdmatrixOperand& o = *static_cast<const LdmatrixOperand*>(lanes[lane].operand);
    if (o.count != first.count || o.transposed != first.transposed)
      fault_in(lanes[lane], KN_SIMT_DIVERGENT, o.pc, "ldmatrix where lanes of one warp ask for different shapes");
    const int row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < o.count; i++) {
      const uint32_t low = o.transposed ? matrix[i][column][row] : matrix[i][row][column];
      const uint32_t high = o.transposed ? matrix[i][column + 1][row] : matrix[i][row][column + 1];
      o.registers[i] = low | high << 16;
    }
  }
}

}  // namespace

void kn_simt_mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  MmaOperand operand{d, a, b, c};
  warp("mma.m16n8k16.bf16", &operand, complete_16<true>, KN_SIMT_PC);
}

void kn_simt_mma_m16n8k16_f16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  MmaOperand operand{d, a, b, c};
  warp("mma.m16n8k16.f16", &operand, complete_16<false>, KN_SIMT_PC);
}

void kn_simt_mma_m16n8k32_s8(int32_t* d, const uint32_t* a, const uint32_t* b, const int32_t* c) {
  MmaOperand operand{d, a, b, c};
  warp("mma.m16n8k32.s8", &operand, complete_s8, KN_SIMT_PC);
}

void kn_simt_ldmatrix(uint32_t* registers, const void* row, int count, bool transposed) {
  const uintptr_t pc = KN_SIMT_PC;
  if (count != 1 && count != 2 && count != 4) fault(KN_SIMT_TRAP, pc, "ldmatrix of a count other than 1, 2 or 4");
  if (self().lane < static_cast<uint32_t>(count) * 8) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
      fault(KN_SIMT_MISALIGNED, pc, "ldmatrix with a row that is not at a multiple of 16 bytes",
            reinterpret_cast<uintptr_t>(row), 16);
    check_access(row, 16, Access::kRead, pc);
  }
  LdmatrixOperand operand{registers, static_cast<const char*>(row), count, transposed, pc};
  warp("ldmatrix", &operand, complete_ldmatrix, pc);
}
