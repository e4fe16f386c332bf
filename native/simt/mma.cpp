// mma.sync, ldmatrix and wgmma: collectives of a whole warp of 32, with the fragments of the PTX ISA. With group = lane
// / 4 and pair = lane % 4, register r of A (m16) holds row group + 8 (r % 2), and of B (n8) and of C column n = group
// or rows group + 8 (r / 2); k runs over the pair, elements of one register side by side.
#include <math.h>

#include "machine.h"

using namespace simt;

void simt::meet_warp(const char* name, void* operand, Complete complete, uintptr_t pc) {
  Thread& thread = self();
  const Block& block = *thread.block;
  if (block.launch->kernel->wave != 32 || block.waves[thread.wave].all != 0xffffffffu)
    fault(KN_SIMT_TRAP, pc, std::string(name) + " outside a whole warp of 32");
  meet(name, ~0ull, operand, complete, pc);
}

namespace {

constexpr uint32_t kInFlight = 0x7fc0dead;  // NaN

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

template <class Register, class Row>
struct MatrixOperand {
  Register* registers;
  Row* row;
  int count;
  bool transposed;
  uintptr_t pc;
};
using LdmatrixOperand = MatrixOperand<uint32_t, const char>;
using StmatrixOperand = MatrixOperand<const uint32_t, char>;

// What is asked of all lanes of a warp at once: the same shape.
template <class Operand>
const Operand& operand_of(Thread* lanes, int lane, const char* name) {
  const Operand &first = *static_cast<const Operand*>(lanes[0].operand),
                &o = *static_cast<const Operand*>(lanes[lane].operand);
  if (o.count != first.count || o.transposed != first.transposed)
    fault_in(lanes[lane], KN_SIMT_DIVERGENT, o.pc,
             std::string(name) + " where lanes of one warp ask for different shapes");
  return o;
}

// Lane 8 i + j names row j of matrix i; every lane gets two neighbours of row lane / 4 of each, or, transposed, of
// column lane / 4.
void complete_ldmatrix(Block&, Thread* lanes, uint64_t) {
  const int rows = operand_of<LdmatrixOperand>(lanes, 0, "ldmatrix").count * 8;
  uint16_t matrix[4][8][8];
  for (int i = 0; i < rows; i++)
    memcpy(matrix[i / 8][i % 8], operand_of<LdmatrixOperand>(lanes, i, "ldmatrix").row, 16);
  for (int lane = 0; lane < 32; lane++) {
    const LdmatrixOperand& o = operand_of<LdmatrixOperand>(lanes, lane, "ldmatrix");
    const int row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < o.count; i++) {
      const uint32_t low = o.transposed ? matrix[i][column][row] : matrix[i][row][column];
      const uint32_t high = o.transposed ? matrix[i][column + 1][row] : matrix[i][row][column + 1];
      o.registers[i] = low | high << 16;
    }
  }
}

void complete_stmatrix(Block&, Thread* lanes, uint64_t) {
  uint16_t matrix[4][8][8] = {};
  for (int lane = 0; lane < 32; lane++) {
    const StmatrixOperand& o = operand_of<StmatrixOperand>(lanes, lane, "stmatrix");
    const int row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < o.count; i++)
      for (int e = 0; e < 2; e++)
        (o.transposed ? matrix[i][column + e][row] : matrix[i][row][column + e]) =
            static_cast<uint16_t>(o.registers[i] >> (16 * e));
  }
  const int rows = operand_of<StmatrixOperand>(lanes, 0, "stmatrix").count * 8;
  for (int i = 0; i < rows; i++)
    memcpy(operand_of<StmatrixOperand>(lanes, i, "stmatrix").row, matrix[i / 8][i % 8], 16);
}

// Row r of a K-major operand of wgmma, 16 elements of k.
void tile_row(uint64_t descriptor, int r, const char* (&pieces)[2]) {
  const uintptr_t offset = (descriptor & 0x3fff) << 4, group = (descriptor >> 32 & 0x3fff) << 4;
  const uintptr_t row = offset + static_cast<uintptr_t>(r / 8) * group + static_cast<uintptr_t>(r % 8 * kTileRow);
  for (int i = 0; i < 2; i++) pieces[i] = self().block->shared + swizzle(row + static_cast<uintptr_t>(i) * 16);
}

// 16 rows from `first` on of a transposed operand at one k: k numbers rows of the tile, in groups of 8.
void tile_column(uint64_t descriptor, int first, int k, const char* (&pieces)[2]) {
  tile_row(descriptor + static_cast<uint64_t>(first / 8), k, pieces);
}

// Of a warp, 16 rows of a and all of b, shared among the lanes.
void check_operands(const Wgmma& op) {
  if (!kChecked) return;
  const int lane = static_cast<int>(self().lane), first = static_cast<int>(self().wave % 4 * 16);
  const char* pieces[2];
  for (int r = lane; r < 16 + op.n; r += 32) {
    if (r < 16 && op.left == Wgmma::kRegisters) continue;
    if (r < 16 && op.left == Wgmma::kTransposed)
      tile_column(op.a, first, r, pieces);
    else
      tile_row(r < 16 ? op.a : op.b, r < 16 ? first + r : r - 16, pieces);
    for (const char* piece : pieces) check_access(piece, 16, Access::kAsyncRead, op.pc);
  }
}

// Element i of 32 bytes.
float element(const char* const (&pieces)[2], int i, Wgmma::Type type) {
  if (type == Wgmma::kS8) return static_cast<int8_t>(pieces[i / 16][i % 16]);
  uint16_t v;
  memcpy(&v, pieces[i / 8] + i % 8 * 2, 2);
  return widen(v, type == Wgmma::kBf16);
}

constexpr int kMostK = 32;

int depth(const Wgmma& op) { return op.type == Wgmma::kS8 ? 32 : 16; }

void read_row(uint64_t descriptor, int r, const Wgmma& op, float (&row)[kMostK]) {
  const char* pieces[2];
  tile_row(descriptor, r, pieces);
  for (int k = 0; k < depth(op); k++) row[k] = element(pieces, k, op.type);
}

// A warp's 16 rows, from `first` on.
void read_a(Thread* lanes, size_t index, int first, float (&a)[16][kMostK]) {
  const Wgmma& op = lanes[0].wgmmas[index];
  const char* pieces[2];
  for (int i = 0; i < 16; i++) {
    if (op.left == Wgmma::kRows) read_row(op.a, first + i, op, a[i]);
    if (op.left != Wgmma::kTransposed) continue;
    tile_column(op.a, first, i, pieces);
    for (int r = 0; r < 16; r++) a[r][i] = element(pieces, r, op.type);
  }
  for (int lane = 0; lane < 32 && op.left == Wgmma::kRegisters; lane++)
    for (int i = 0; i < 8; i++) {
      const uint32_t v = lanes[lane].wgmmas[index].registers[i / 2];
      a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i / 4 * 8 + i % 2] =
          widen(static_cast<uint16_t>(v >> (16 * (i % 2))), op.type == Wgmma::kBf16);
    }
}

uint32_t* sums_of(Thread& thread, const void* d) {
  for (Sums& s : thread.sums)
    if (s.d == d) return s.values;
  return nullptr;
}

void multiply_warpgroup(Thread* lanes, size_t index) {
  const Wgmma& op = lanes[0].wgmmas[index];
  float a[16][kMostK], b[256][kMostK];
  read_a(lanes, index, static_cast<int>(lanes[0].wave % 4) * 16, a);
  for (int r = 0; r < op.n; r++) read_row(op.b, r, op, b[r]);
  for (int lane = 0; lane < 32; lane++) {
    const Wgmma& own = lanes[lane].wgmmas[index];
    if (own.a != op.a || own.b != op.b || own.n != op.n || own.left != op.left || own.type != op.type)
      fault_in(lanes[lane], KN_SIMT_DIVERGENT, own.pc, "wgmma where lanes of one warp have different operands");
    uint32_t* const d = sums_of(lanes[lane], own.d);
    for (int i = 0; i < op.n / 2; i++) {
      const float *row = a[lane / 4 + i / 2 % 2 * 8], *column = b[i / 4 * 8 + lane % 4 * 2 + i % 2];
      float sum;
      memcpy(&sum, &d[i], 4);
      // Sums of s8 by s8 over 32 of k are exact in f32 too.
      float integers = 0;
      for (int k = 0; k < depth(op); k++) (op.type == Wgmma::kS8 ? integers : sum) += row[k] * column[k];
      if (op.type == Wgmma::kS8)
        d[i] += static_cast<uint32_t>(static_cast<int32_t>(integers));
      else
        memcpy(&d[i], &sum, 4);
    }
  }
}

// Sums without a product on its way become the thread's again.
void give_back(Thread& thread, uintptr_t pc) {
  std::erase_if(thread.sums, [&](const Sums& s) {
    for (const Wgmma& op : thread.wgmmas)
      if (op.d == s.d) return false;
    for (int i = 0; i < s.count; i++)
      if (memcmp(static_cast<char*>(s.d) + i * 4, &kInFlight, 4) != 0)
        fault_in(thread, KN_SIMT_ASYNC_UNFINISHED, pc, "a register of wgmma's sums was written before the wait");
    memcpy(s.d, s.values, static_cast<size_t>(s.count) * 4);
    thread.wgmma_fenced = false;
    return true;
  });
}

struct WgmmaWait {
  int groups;
  uintptr_t pc;
};

size_t over(const Thread& thread, int groups) {
  size_t done = 0;
  while (done < thread.wgmmas.size() && thread.wgmmas[done].group < thread.wgmma_group - groups) done++;
  return done;
}

void complete_wgmma(Block& block, Thread* lanes, uint64_t mask) {
  const WgmmaWait& wait = *static_cast<const WgmmaWait*>(lanes[0].operand);
  const size_t done = over(lanes[0], wait.groups);
  for (size_t i = 0; i < done; i++) multiply_warpgroup(lanes, i);
  for (int lane = 0; lane < 32; lane++) {
    std::vector<Wgmma>& ops = lanes[lane].wgmmas;
    ops.erase(ops.begin(), ops.begin() + static_cast<ptrdiff_t>(done));
    give_back(lanes[lane], wait.pc);
  }
  // The warp goes on as one: what a lane's operands were read for is over for all.
  if (kChecked) block.shadow.wave_barrier(lanes->index, mask);
}

}  // namespace

// A product on its way, of a descriptor b and, but for registers, a.
static void issue_wgmma(Wgmma op) {
  Thread& thread = self();
  constexpr uint64_t kFixed = ~(0x3fffull | 0x3fffull << 16 | 0x3fffull << 32);  // all but addresses and distances
  if (op.n < 8 || op.n > 256 || op.n % 8 || (op.left != Wgmma::kRegisters && (op.a & kFixed) != 1ull << 62) ||
      (op.b & kFixed) != 1ull << 62)
    fault(KN_SIMT_TRAP, op.pc,
          "wgmma of a shape or a descriptor other than m64nN by 32 bytes of k in the 128-byte swizzle");
  op.group = thread.wgmma_group;
  check_operands(op);
  if (!sums_of(thread, op.d)) {
    if (!thread.wgmma_fenced)
      fault(KN_SIMT_RACE, op.pc, "wgmma on registers that the thread has had: no wgmma.fence between");
    Sums sums{op.d, op.n / 2, {}};
    memcpy(sums.values, op.d, static_cast<size_t>(op.n) * 2);
    for (int i = 0; i < op.n / 2; i++) memcpy(static_cast<char*>(op.d) + i * 4, &kInFlight, 4);
    thread.sums.push_back(sums);
  }
  thread.wgmmas.push_back(op);
}

void kn_simt_wgmma(float* d, int n, uint64_t a, uint64_t b, bool bf16, bool transposed_a) {
  issue_wgmma({d,
               n,
               a,
               b,
               {},
               transposed_a ? Wgmma::kTransposed : Wgmma::kRows,
               bf16 ? Wgmma::kBf16 : Wgmma::kF16,
               0,
               KN_SIMT_PC});
}

void kn_simt_wgmma_registers(float* d, int n, const uint32_t (&a)[4], uint64_t b, bool bf16) {
  issue_wgmma(
      {d, n, 0, b, {a[0], a[1], a[2], a[3]}, Wgmma::kRegisters, bf16 ? Wgmma::kBf16 : Wgmma::kF16, 0, KN_SIMT_PC});
}

void kn_simt_wgmma_s8(int32_t* d, int n, uint64_t a, uint64_t b) {
  issue_wgmma({d, n, a, b, {}, Wgmma::kRows, Wgmma::kS8, 0, KN_SIMT_PC});
}

void kn_simt_wgmma_fence() { self().wgmma_fenced = true; }
void kn_simt_wgmma_commit() { self().wgmma_group++; }

void kn_simt_wgmma_wait(int groups) {
  WgmmaWait wait{groups, KN_SIMT_PC};
  Thread& thread = self();
  for (size_t i = 0, done = over(thread, groups); i < done; i++) check_operands(thread.wgmmas[i]);
  meet_warp("wgmma.wait_group", &wait, complete_wgmma, wait.pc);
}

void kn_simt_mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  MmaOperand operand{d, a, b, c};
  meet_warp("mma.m16n8k16.bf16", &operand, complete_16<true>, KN_SIMT_PC);
}

void kn_simt_mma_m16n8k16_f16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  MmaOperand operand{d, a, b, c};
  meet_warp("mma.m16n8k16.f16", &operand, complete_16<false>, KN_SIMT_PC);
}

void kn_simt_mma_m16n8k32_s8(int32_t* d, const uint32_t* a, const uint32_t* b, const int32_t* c) {
  MmaOperand operand{d, a, b, c};
  meet_warp("mma.m16n8k32.s8", &operand, complete_s8, KN_SIMT_PC);
}

// The row that this lane names, of the first 8 count lanes.
static void check_matrix_row(const char* name, const void* row, int count, Access access, uintptr_t pc) {
  if (count != 1 && count != 2 && count != 4)
    fault(KN_SIMT_TRAP, pc, std::string(name) + " of a count other than 1, 2 or 4");
  if (self().lane >= static_cast<uint32_t>(count) * 8) return;
  if (reinterpret_cast<uintptr_t>(row) % 16)
    fault(KN_SIMT_MISALIGNED, pc, std::string(name) + " with a row that is not at a multiple of 16 bytes",
          reinterpret_cast<uintptr_t>(row), 16);
  check_access(row, 16, access, pc);
}

void kn_simt_ldmatrix(uint32_t* registers, const void* row, int count, bool transposed) {
  const uintptr_t pc = KN_SIMT_PC;
  check_matrix_row("ldmatrix", row, count, Access::kRead, pc);
  LdmatrixOperand operand{registers, static_cast<const char*>(row), count, transposed, pc};
  meet_warp("ldmatrix", &operand, complete_ldmatrix, pc);
}

void kn_simt_stmatrix(void* row, const uint32_t* registers, int count, bool transposed) {
  const uintptr_t pc = KN_SIMT_PC;
  check_matrix_row("stmatrix", row, count, Access::kWrite, pc);
  StmatrixOperand operand{registers, static_cast<char*>(row), count, transposed, pc};
  meet_warp("stmatrix", &operand, complete_stmatrix, pc);
}
