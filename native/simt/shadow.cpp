// The checks behind every access of a kernel: what memory it is, and what the shadow of shared memory says about it.
#include "shadow.h"

#include <sys/mman.h>

#include <algorithm>

#include "machine.h"

namespace simt {

bool Cells::grow(size_t wanted) {
  if (size >= wanted) return true;
  if (at) munmap(at, size * sizeof(Cell));
  size = 0;
  void* const map =
      mmap(nullptr, wanted * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  at = map == MAP_FAILED ? nullptr : static_cast<Cell*>(map);
  if (at) size = wanted;
  return at != nullptr;
}

Cells::~Cells() {
  if (at) munmap(at, size * sizeof(Cell));
}

bool Shadow::begin(uint32_t threads, size_t dynamic_bytes, size_t static_bytes, uint32_t first_clock) {
  if (!dynamic.grow(dynamic_bytes) || !statics.grow(static_bytes)) return false;
  start = first_clock;
  clock.assign(threads + 1, first_clock);
  common.assign(threads + 1, first_clock - 1);
  since.assign(threads + 1, interval);
  fenced.assign(threads + 1, first_clock - 1);
  interval++;
  for (auto& point : arriving) point.clear();
  for (auto& point : opened) point.clear();
  return true;
}

uint32_t Shadow::end() const { return *std::max_element(clock.begin(), clock.end()) + 1; }

bool Shadow::knows(uint32_t thread, uint32_t of, uint32_t count) const {
  return thread == of || common[of] >= count ||
         (since[thread] == interval && known[size_t{thread} * clock.size() + of] >= count);
}

uint32_t* Shadow::own(uint32_t thread) {
  const size_t n = clock.size();
  if (known.size() < n * n) known.resize(n * n);
  uint32_t* const row = &known[thread * n];
  if (since[thread] != interval) {
    std::copy(common.begin(), common.end(), row);
    since[thread] = interval;
  }
  return row;
}

void Shadow::barrier() {
  common = clock;
  for (uint32_t& c : clock) c++;
  interval++;
}

void Shadow::release(uint32_t thread, std::vector<uint32_t>& point) {
  const uint32_t* const row = own(thread);
  point.resize(clock.size());
  for (size_t i = 0; i < point.size(); i++) point[i] = std::max(point[i], row[i]);
  point[thread] = clock[thread]++;
}

void Shadow::acquire(uint32_t thread, const std::vector<uint32_t>& point) {
  uint32_t* const row = own(thread);
  for (size_t i = 0; i < point.size(); i++) row[i] = std::max(row[i], point[i]);
}

void Shadow::wave_barrier(uint32_t first_thread, uint64_t mask) {
  std::vector<uint32_t> point;
  for (uint64_t left = mask; left; left &= left - 1)
    release(first_thread + static_cast<uint32_t>(__builtin_ctzll(left)), point);
  for (uint64_t left = mask; left; left &= left - 1)
    acquire(first_thread + static_cast<uint32_t>(__builtin_ctzll(left)), point);
}

void Shadow::land(size_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; i++)
    dynamic.at[offset + i].write = {clock[engine()], static_cast<uint16_t>(engine()), false, false};
}

static const char* verb(Access access) {
  return access == Access::kRead || access == Access::kAsyncRead ? "read"
         : access == Access::kAtomic                             ? "atomic"
                                                                 : "write";
}

static std::string phrase(Access access, size_t bytes) {
  return std::string(verb(access)) + " of " + std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

static std::string shared_place(const Block& block, uintptr_t address) {
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(block.shared);
  return offset < kMaxShared ? " at offset " + std::to_string(offset) + " of dynamic shared memory"
                             : std::string(" of static shared memory");
}

// The thread of an access; null: it was the copy engine's.
static const Thread* by(const Block& block, const Stamp& stamp) {
  return stamp.thread < block.count ? &block.threads[stamp.thread] : nullptr;
}

[[noreturn]] static void race(Thread& self, uintptr_t address, size_t bytes, Access access, uintptr_t pc,
                              const Stamp& earlier, bool wrote, uint32_t earlier_pc) {
  fault(KN_SIMT_RACE, pc,
        phrase(access, bytes) + shared_place(*self.block, address) + " races with an earlier " +
            (wrote ? "write" : "read") + ": no barrier between",
        address, static_cast<int>(bytes), by(*self.block, earlier), image().begin + earlier_pc);
}

static void note_read(Cell& cell, int slot, const Stamp& now, uint32_t pc) {
  cell.reads[slot] = now;
  cell.read_pcs[slot] = pc;
}

void Shadow::check(Thread& self, Cell* cells, uintptr_t address, size_t bytes, Access access, uintptr_t pc) {
  const uint32_t thread = self.index, pc_offset = static_cast<uint32_t>(pc - image().begin);
  const Stamp now{clock[thread], static_cast<uint16_t>(thread), access == Access::kAtomic,
                  access == Access::kAsyncIssue};
  for (size_t i = 0; i < bytes; i++) {
    Cell& cell = cells[i];
    const bool written = cell.write.clock >= start;
    if (access == Access::kAsyncArrive) {
      cell.write = now;
      continue;
    }
    if (written && cell.write.pending)
      fault(KN_SIMT_ASYNC_UNFINISHED, pc,
            phrase(access, bytes) + shared_place(*self.block, address) +
                ", the target of an asynchronous copy that has not been waited for",
            address, static_cast<int>(bytes), by(*self.block, cell.write), image().begin + cell.write_pc);
    const bool reads = access == Access::kRead || access == Access::kAtomic || access == Access::kAsyncRead;
    // Whether a write is missing or a barrier before this read shows only when the write comes.
    if (reads && !written && !self.block->suspect)
      suspect(self, pc,
              phrase(access, bytes) + shared_place(*self.block, address) + ", which this block has not written",
              address, static_cast<int>(bytes));
    if (written && !(now.atomic && cell.write.atomic) && !ordered(cell.write, thread))
      race(self, address, bytes, access, pc, cell.write, true, cell.write_pc);
    if (written && access == Access::kAsyncRead && cell.write.thread != engine() &&
        fenced[cell.write.thread] < cell.write.clock)
      fault(KN_SIMT_RACE, pc,
            phrase(access, bytes) + shared_place(*self.block, address) +
                " by wgmma of what a store wrote: no fence.proxy.async between",
            address, static_cast<int>(bytes), by(*self.block, cell.write), image().begin + cell.write_pc);
    if (access == Access::kRead || access == Access::kAsyncRead) {
      // A read that this one comes after need not be kept: whatever races with it races with this one.
      int slot = cell.reads[0].thread == thread ? 0 : cell.reads[1].thread == thread ? 1 : -1;
      for (int s = 0; s < 2 && slot < 0; s++)
        if (cell.reads[s].clock < start || ordered(cell.reads[s], thread)) slot = s;
      note_read(cell, slot < 0 ? 1 : slot, now, pc_offset);
      continue;
    }
    for (int s = 0; s < 2; s++)
      if (cell.reads[s].clock >= start && !ordered(cell.reads[s], thread))
        race(self, address, bytes, access, pc, cell.reads[s], false, cell.read_pcs[s]);
    cell.write = now;
    cell.write_pc = pc_offset;
  }
}

// Shared memory, dynamic or static; false: the address is neither.
static bool check_shared(Thread& self, uintptr_t address, size_t bytes, Access access, uintptr_t pc) {
  Block& block = *self.block;
  const uintptr_t base = reinterpret_cast<uintptr_t>(block.shared), limit = block.launch->dynamic_shared;
  const uintptr_t offset = address - base;
  if (offset < limit && bytes <= limit - offset) {
    block.shadow.check(self, block.shadow.dynamic.at + offset, address, bytes, access, pc);
    return true;
  }
  if (offset + kSharedGuard < kSharedMapping) {
    const bool before = offset >= kSharedMapping;
    fault(KN_SIMT_SHARED_BOUNDS, pc,
          phrase(access, bytes) + " " + std::to_string(before ? base - address : offset + bytes - limit) +
              (before ? " bytes before" : " bytes beyond the end of") + " the " + std::to_string(limit) +
              " bytes of dynamic shared memory",
          address, static_cast<int>(bytes));
  }
  const uintptr_t in_statics = address - reinterpret_cast<uintptr_t>(worker->statics);
  if (in_statics < worker->statics_bytes && bytes <= worker->statics_bytes - in_statics) {
    block.shadow.check(self, block.shadow.statics.at + in_statics, address, bytes, access, pc);
    return true;
  }
  return false;
}

void check_address(uintptr_t address, size_t bytes, Access access, uintptr_t pc) {
  Thread& self = simt::self();
  const uintptr_t in_stack = address - reinterpret_cast<uintptr_t>(self.stack);
  if (in_stack < kStack && bytes <= kStack - in_stack) return;
  if (check_shared(self, address, bytes, access, pc)) return;
  if (address >= image().begin && address + bytes <= image().end) return;  // constants
  const uintptr_t in_args = address - reinterpret_cast<uintptr_t>(self.block->launch->args);
  if (in_args < self.block->launch->kernel->args_bytes) return;
  check_global(address, bytes, access, pc);
}

}  // namespace simt

using namespace simt;

// What the compilers emit for -fsanitize=thread, under the names of their own run-time library, which is not linked.
#define HOOK extern "C" __attribute__((visibility("default")))
#define PC reinterpret_cast<uintptr_t>(__builtin_return_address(0))

static inline void hook(void* address, size_t bytes, Access access, bool aligned, uintptr_t pc) {
  if (!worker || !worker->current || !bytes) return;  // without a thread: static constructors
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  if (aligned && a % bytes)
    fault(KN_SIMT_MISALIGNED, pc, phrase(access, bytes) + " at an address that is no multiple of it", a,
          static_cast<int>(bytes));
  check_address(a, bytes, access, pc);
}

#define HOOKS(bytes)                                                                                     \
  HOOK void __tsan_read##bytes(void* a) { hook(a, bytes, Access::kRead, true, PC); }                     \
  HOOK void __tsan_write##bytes(void* a) { hook(a, bytes, Access::kWrite, true, PC); }                   \
  HOOK void __tsan_unaligned_read##bytes(void* a) { hook(a, bytes, Access::kRead, false, PC); }          \
  HOOK void __tsan_unaligned_write##bytes(void* a) { hook(a, bytes, Access::kWrite, false, PC); }        \
  HOOK void __tsan_volatile_read##bytes(void* a) { hook(a, bytes, Access::kRead, true, PC); }            \
  HOOK void __tsan_volatile_write##bytes(void* a) { hook(a, bytes, Access::kWrite, true, PC); }          \
  HOOK void __tsan_unaligned_volatile_read##bytes(void* a) { hook(a, bytes, Access::kRead, false, PC); } \
  HOOK void __tsan_unaligned_volatile_write##bytes(void* a) { hook(a, bytes, Access::kWrite, false, PC); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK void __tsan_read_range(void* a, size_t bytes) { hook(a, bytes, Access::kRead, false, PC); }
HOOK void __tsan_write_range(void* a, size_t bytes) { hook(a, bytes, Access::kWrite, false, PC); }
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  hook(const_cast<void*>(from), bytes, Access::kRead, false, PC);
  hook(to, bytes, Access::kWrite, false, PC);
  return memcpy(to, from, bytes);
}
HOOK void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  hook(const_cast<void*>(from), bytes, Access::kRead, false, PC);
  hook(to, bytes, Access::kWrite, false, PC);
  return memmove(to, from, bytes);
}
HOOK void* __tsan_memset(void* to, int byte, size_t bytes) {
  hook(to, bytes, Access::kWrite, false, PC);
  return memset(to, byte, bytes);
}

// -fsanitize=alignment and -fsanitize=bounds: the pointer's type and a declared array's size, before the optimiser
// splits or moves an access.
HOOK void __ubsan_handle_type_mismatch_v1(void*, uintptr_t address) {
  if (!worker || !worker->current) return;
  fault(KN_SIMT_MISALIGNED, PC, "access at an address that is no multiple of the type's alignment", address);
}
HOOK void __ubsan_handle_out_of_bounds(void*, uintptr_t index) {
  if (!worker || !worker->current) return;
  fault(KN_SIMT_SHARED_BOUNDS, PC, "index " + std::to_string(static_cast<int64_t>(index)) + " is outside its array");
}
