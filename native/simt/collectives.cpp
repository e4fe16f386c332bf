// Wave collectives: shuffles, votes, the wave's barrier, and atomics.
#include "machine.h"

using namespace simt;

namespace {

struct ShuffleOperand {
  kn_simt_shuffle_mode mode;
  int lane, width;
  uint64_t value, result;
  uintptr_t pc;
};

// The lane that `lane` reads from, as shfl.sync has it: out of its segment, a lane keeps its own value.
int source_lane(const ShuffleOperand& s, int lane) {
  const int first = lane / s.width * s.width, last = first + s.width - 1;
  int from = lane;
  if (s.mode == KN_SIMT_IDX) return first + (s.lane & (s.width - 1));
  if (s.mode == KN_SIMT_UP) from = lane - s.lane;
  if (s.mode == KN_SIMT_DOWN) from = lane + s.lane;
  if (s.mode == KN_SIMT_XOR) from = lane ^ s.lane;
  if (s.mode == KN_SIMT_UP) return from < first ? lane : from;
  return from > last ? lane : from;
}

void complete_shuffle(Block&, Thread* lanes, uint64_t mask) {
  for (uint64_t left = mask; left; left &= left - 1) {
    const int lane = __builtin_ctzll(left);
    ShuffleOperand& s = *static_cast<ShuffleOperand*>(lanes[lane].operand);
    const int from = source_lane(s, lane);
    const bool there = from >= 0 && from < 64 && mask >> from & 1;
    if (!there)
      fault_in(lanes[lane], KN_SIMT_DIVERGENT, s.pc,
               "shuffle from lane " + std::to_string(from) + ", which takes no part");
    s.result = static_cast<ShuffleOperand*>(lanes[from].operand)->value;
  }
}

struct VoteOperand {
  uint64_t value, result;
};

void complete_ballot(Block&, Thread* lanes, uint64_t mask) {
  uint64_t votes = 0;
  for (uint64_t left = mask; left; left &= left - 1) {
    const int lane = __builtin_ctzll(left);
    votes |= uint64_t{static_cast<VoteOperand*>(lanes[lane].operand)->value != 0} << lane;
  }
  for (uint64_t left = mask; left; left &= left - 1)
    static_cast<VoteOperand*>(lanes[__builtin_ctzll(left)].operand)->result = votes;
}

void complete_match(Block&, Thread* lanes, uint64_t mask) {
  for (uint64_t left = mask; left; left &= left - 1) {
    VoteOperand& mine = *static_cast<VoteOperand*>(lanes[__builtin_ctzll(left)].operand);
    mine.result = 0;
    for (uint64_t others = mask; others; others &= others - 1) {
      const int lane = __builtin_ctzll(others);
      mine.result |= uint64_t{static_cast<VoteOperand*>(lanes[lane].operand)->value == mine.value} << lane;
    }
  }
}

void complete_wave_barrier(Block& block, Thread* lanes, uint64_t mask) {
  if (kChecked) block.shadow.wave_barrier(lanes->index, mask);
}

// Another block may run on another core, so these are atomic for the host as well.
template <class T>
uint64_t load(const void* address) {
  return __atomic_load_n(static_cast<const T*>(address), __ATOMIC_SEQ_CST);
}

template <class T>
bool exchange(void* address, uint64_t* seen, uint64_t wanted) {
  T expected = static_cast<T>(*seen);
  const bool done = __atomic_compare_exchange_n(static_cast<T*>(address), &expected, static_cast<T>(wanted), false,
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  *seen = expected;
  return done;
}

void check_atomic(const void* address, size_t bytes, uintptr_t pc) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    fault(KN_SIMT_MISALIGNED, pc, "atomic at an address that is no multiple of its size",
          reinterpret_cast<uintptr_t>(address), static_cast<int>(bytes));
  check_access(address, bytes, Access::kAtomic, pc);
}

}  // namespace

uint64_t kn_simt_shuffle(kn_simt_shuffle_mode mode, uint64_t mask, uint64_t value, int lane, int width) {
  const int wave = self().block->launch->kernel->wave;
  if (!width) width = wave;
  if (width < 1 || width > wave || (width & (width - 1)))
    fault(KN_SIMT_TRAP, KN_SIMT_PC, "shuffle with a width that is no power of two up to the wave size");
  ShuffleOperand operand{mode, lane, width, value, 0, KN_SIMT_PC};
  meet("a shuffle", mask, &operand, complete_shuffle, KN_SIMT_PC);
  return operand.result;
}

uint64_t kn_simt_ballot(uint64_t mask, int predicate) {
  VoteOperand operand{static_cast<uint64_t>(predicate != 0), 0};
  meet("a ballot", mask, &operand, complete_ballot, KN_SIMT_PC);
  return operand.result;
}

uint64_t kn_simt_match(uint64_t mask, uint64_t value) {
  VoteOperand operand{value, 0};
  meet("a match", mask, &operand, complete_match, KN_SIMT_PC);
  return operand.result;
}

uint64_t kn_simt_active_mask() { return self().block->waves[self().wave].live; }

void kn_simt_wave_barrier(uint64_t mask) { meet("__syncwarp", mask, nullptr, complete_wave_barrier, KN_SIMT_PC); }

uint64_t kn_simt_atomic_load(const void* address, size_t bytes) {
  check_atomic(address, bytes, KN_SIMT_PC);
  return bytes == 4 ? load<uint32_t>(address) : load<uint64_t>(address);
}

bool kn_simt_atomic_exchange(void* address, uint64_t* seen, uint64_t wanted, size_t bytes) {
  return bytes == 4 ? exchange<uint32_t>(address, seen, wanted) : exchange<uint64_t>(address, seen, wanted);
}

uint64_t kn_simt_load_acquire(const void* address, size_t bytes) {
  check_atomic(address, bytes, KN_SIMT_PC);
  Thread& thread = self();
  if (++thread.spins % 16 == 0) kn_simt_yield();
  return bytes == 4 ? load<uint32_t>(address) : load<uint64_t>(address);
}

void kn_simt_store_release(void* address, uint64_t value, size_t bytes) {
  check_access(address, bytes, Access::kWrite, KN_SIMT_PC);
  if (bytes == 4)
    __atomic_store_n(static_cast<uint32_t*>(address), static_cast<uint32_t>(value), __ATOMIC_SEQ_CST);
  else
    __atomic_store_n(static_cast<uint64_t*>(address), value, __ATOMIC_SEQ_CST);
}

void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
