// cp.async, and mbarriers with tensor copies: the source is read when a copy is issued, the target is written when it
// is waited for.
#include <algorithm>

#include "machine.h"

using namespace simt;

namespace {

void arrive(const AsyncCopy& copy, uintptr_t pc) {
  memcpy(copy.to, copy.data, static_cast<size_t>(copy.bytes));
  check_access(copy.to, static_cast<size_t>(copy.bytes), Access::kAsyncArrive, pc);
}

Mbarrier& mbarrier_at(const void* address, uintptr_t pc) {
  for (Mbarrier& b : self().block->mbarriers)
    if (b.address == reinterpret_cast<uintptr_t>(address)) {
      check_access(address, 8, Access::kAtomic, pc);
      return b;
    }
  fault(KN_SIMT_UNINITIALISED, pc, "an mbarrier that was not initialised", reinterpret_cast<uintptr_t>(address), 8);
}

void land(Block& block, Mbarrier& b) {
  for (const TensorCopy& copy : b.copies) {
    const uintptr_t first = static_cast<uintptr_t>(copy.to - block.shared);
    for (uintptr_t i = 0; i < copy.data.size(); i += 16) memcpy(block.shared + swizzle(first + i), &copy.data[i], 16);
    if (kChecked) block.shadow.land(first, copy.data.size());
    b.bytes -= static_cast<int64_t>(copy.data.size());
  }
  if (kChecked && !b.copies.empty()) block.shadow.landed(b.arriving);
  b.copies.clear();
}

// Copies land where somebody waits; the phase ends when nothing is missing.
void settle(Block& block, Mbarrier& b, uintptr_t pc) {
  if (b.waiting) land(block, b);
  if (b.missing || !b.copies.empty() || b.bytes > 0) return;
  if (b.bytes < 0)
    fault(KN_SIMT_TRAP, pc,
          "an mbarrier with " + std::to_string(-b.bytes) + " bytes of copies more than were expected");
  b.parity ^= 1;
  b.missing = b.arrivals;
  b.opened.resize(b.arriving.size());  // a late waiter may come after the next phase too
  for (size_t i = 0; i < b.arriving.size(); i++) b.opened[i] = std::max(b.opened[i], b.arriving[i]);
  b.arriving.clear();
  b.waiting = 0;
  for (uint16_t i : block.sequence) {
    Thread& t = block.threads[i];
    if (t.waits == kMbarrierWait && reinterpret_cast<uintptr_t>(t.operand) == b.address) block.wake(t);
  }
}

// A box of a tensor, with zeros for what is outside.
std::vector<char> read_box(const kn_simt_tensor& t, const int (&at)[3], uintptr_t pc) {
  std::vector<char> data(static_cast<size_t>(kTileRow * t.box[1] * t.box[2]));
  const int64_t low = std::max(at[0], 0), high = std::min<int64_t>(int64_t{at[0]} + t.box[0], t.shape[0]);
  for (int z = 0; z < t.box[2]; z++)
    for (int y = 0; y < t.box[1]; y++) {
      const int64_t row = int64_t{at[1]} + y, plane = int64_t{at[2]} + z;
      if (low >= high || row < 0 || row >= t.shape[1] || plane < 0 || plane >= t.shape[2]) continue;
      const char* const from = static_cast<const char*>(t.address) + plane * t.strides[1] + row * t.strides[0];
      const size_t bytes = static_cast<size_t>((high - low) * t.element_bytes);
      check_access(from + low * t.element_bytes, bytes, Access::kRead, pc);
      memcpy(&data[static_cast<size_t>((z * t.box[1] + y) * kTileRow + (low - at[0]) * t.element_bytes)],
             from + low * t.element_bytes, bytes);
    }
  return data;
}

}  // namespace

const char simt::kMbarrierWait[] = "an mbarrier";

std::string simt::describe_mbarrier(const Block& block, const void* barrier) {
  for (const Mbarrier& b : block.mbarriers)
    if (b.address == reinterpret_cast<uintptr_t>(barrier))
      return " whose phase lacks " + std::to_string(b.missing) + " of " + std::to_string(b.arrivals) +
             " arrivals and " + std::to_string(b.bytes) + " bytes of copies";
  return {};
}

void kn_simt_mbarrier_init(void* barrier, int arrivals) {
  const uintptr_t pc = KN_SIMT_PC, address = reinterpret_cast<uintptr_t>(barrier);
  if (address % 8) fault(KN_SIMT_MISALIGNED, pc, "an mbarrier at no multiple of 8 bytes", address, 8);
  if (arrivals < 1 || arrivals >= 1 << 20)
    fault(KN_SIMT_TRAP, pc, "an mbarrier for a number of arrivals it cannot have");
  check_access(barrier, 8, Access::kWrite, pc);
  std::erase_if(self().block->mbarriers, [=](const Mbarrier& b) { return b.address == address; });
  self().block->mbarriers.push_back({address, arrivals, arrivals, 0, 0, 0, {}, {}, {}});
}

void kn_simt_mbarrier_arrive(void* barrier, int expected_bytes) {
  const uintptr_t pc = KN_SIMT_PC;
  Mbarrier& b = mbarrier_at(barrier, pc);
  if (!b.missing) fault(KN_SIMT_TRAP, pc, "more arrivals at an mbarrier than it was initialised for");
  if (kChecked) self().block->shadow.release(self().index, b.arriving);
  b.bytes += expected_bytes;
  b.missing--;
  settle(*self().block, b, pc);
}

void kn_simt_mbarrier_wait(void* barrier, int parity) {
  const uintptr_t pc = KN_SIMT_PC;
  Thread& thread = self();
  const size_t i = static_cast<size_t>(&mbarrier_at(barrier, pc) - thread.block->mbarriers.data());
  const auto at_hand = [&]() -> Mbarrier& { return thread.block->mbarriers[i]; };
  if (at_hand().parity == parity) {
    at_hand().waiting++;
    settle(*thread.block, at_hand(), pc);
    thread.operand = barrier;
    if (at_hand().parity == parity) wait(thread, kMbarrierWait, -1, pc);
  }
  if (kChecked) thread.block->shadow.acquire(thread.index, at_hand().opened);
}

void kn_simt_copy_tensor(void* shared, const void* map, int c0, int c1, int c2, void* barrier) {
  const uintptr_t pc = KN_SIMT_PC, to = reinterpret_cast<uintptr_t>(shared);
  TensorMap m;
  memcpy(&m, map, sizeof m);
  if (reinterpret_cast<uintptr_t>(map) % 64 || m.magic != kTensorMap)
    fault(KN_SIMT_TRAP, pc, "a tensor copy without a tensor map at a multiple of 64 bytes");
  if (to % 1024) fault(KN_SIMT_MISALIGNED, pc, "a tensor copy to no multiple of 1024 bytes", to);
  std::vector<char> data = read_box(m.tensor, {c0, c1, c2}, pc);
  check_access(shared, data.size(), Access::kAsyncIssue, pc);
  Mbarrier& b = mbarrier_at(barrier, pc);
  b.copies.push_back({static_cast<char*>(shared), std::move(data), pc});
  settle(*self().block, b, pc);
}

void kn_simt_fence_proxy_async() {
  if (kChecked) self().block->shadow.fence_proxy(self().index);
}

void kn_simt_cp_async(void* shared, const void* global, int bytes, int source_bytes) {
  const uintptr_t pc = KN_SIMT_PC, to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
  const uintptr_t size = static_cast<uintptr_t>(bytes);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || source_bytes < 0 || source_bytes > bytes)
    fault(KN_SIMT_TRAP, pc, "cp.async of a size other than 4, 8 or 16 bytes, or of more source than that");
  if (to % size || (source_bytes && from % size))
    fault(KN_SIMT_MISALIGNED, pc, "cp.async with an address that is no multiple of its size", to % size ? to : from,
          bytes);
  if (source_bytes) check_access(global, static_cast<size_t>(source_bytes), Access::kRead, pc);
  check_access(shared, size, Access::kAsyncIssue, pc);
  Thread& thread = self();
  AsyncCopy copy{static_cast<char*>(shared), bytes, thread.async_group, {}};
  memcpy(copy.data, global, static_cast<size_t>(source_bytes));
  thread.async.push_back(copy);
}

void kn_simt_cp_async_commit() { self().async_group++; }

void kn_simt_cp_async_wait(int groups) {
  Thread& thread = self();
  const int end = groups < 0 ? thread.async_group + 1 : thread.async_group - groups;
  size_t done = 0;
  while (done < thread.async.size() && thread.async[done].group < end) arrive(thread.async[done++], KN_SIMT_PC);
  thread.async.erase(thread.async.begin(), thread.async.begin() + static_cast<ptrdiff_t>(done));
}
