// What is known of every byte of a block's shared memory: who wrote and read it last, and when. "When" is a vector
// clock: a thread's own count goes up whenever it passes something that orders memory, and it knows of every other
// thread the count up to which that thread's accesses come before its own. Two accesses race if neither knows of the
// other, at least one writes, and not both are atomic.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace simt {

struct Thread;

enum class Access { kRead, kWrite, kAtomic, kAsyncIssue, kAsyncArrive, kAsyncRead };  // kAsyncRead: by wgmma

struct Stamp {
  uint32_t clock;
  uint16_t thread;
  bool atomic, pending;  // pending: target of an asynchronous copy that nobody has waited for
};

struct Cell {
  Stamp write, reads[2];           // two readers that do not know of one another; more are not kept
  uint32_t write_pc, read_pcs[2];  // offsets in this library
};

// Zeros that cost memory only where they are touched.
struct Cells {
  Cell* at = nullptr;
  size_t size = 0;
  bool grow(size_t wanted);  // false: no memory
  Cells() = default;
  Cells(const Cells&) = delete;
  ~Cells();
};

struct Shadow {
  Cells dynamic, statics;
  uint32_t start = 1;            // stamps below it are of earlier blocks
  std::vector<uint32_t> clock;   // [thread]; the last one is the copy engine, which writes what tensor copies bring
  std::vector<uint32_t> fenced;  // [thread]: count up to which its writes can be read by wgmma
  std::vector<uint32_t> common;  // [thread]: what all threads know since the last barrier of the whole block
  std::vector<uint32_t> known;   // [thread][thread]: what else a thread knows, where since[thread] == interval
  std::vector<uint32_t> since;   // [thread]
  uint32_t interval = 0;
  std::vector<uint32_t> arriving[16], opened[16];  // by named barrier: what its next and its last threads knew

  bool begin(uint32_t threads, size_t dynamic_bytes, size_t static_bytes, uint32_t first_clock);  // false: no memory
  uint32_t end() const;  // first unused clock value
  void barrier();        // of the whole block
  void wave_barrier(uint32_t first_thread, uint64_t mask);
  // A point where some threads leave what they know and others take it up.
  void release(uint32_t thread, std::vector<uint32_t>& point);
  void acquire(uint32_t thread, const std::vector<uint32_t>& point);
  void fence_proxy(uint32_t thread) { fenced[thread] = clock[thread]++; }
  // What a tensor copy brings to an offset of dynamic shared memory; then its barrier knows.
  void land(size_t offset, size_t bytes);
  void landed(std::vector<uint32_t>& point) { release(engine(), point); }

  // Faults, or notes the access in cells[0 .. bytes).
  void check(Thread& self, Cell* cells, uintptr_t address, size_t bytes, Access access, uintptr_t pc);

 private:
  uint32_t engine() const { return static_cast<uint32_t>(clock.size()) - 1; }
  bool ordered(const Stamp& earlier, uint32_t thread) const { return knows(thread, earlier.thread, earlier.clock); }
  bool knows(uint32_t thread, uint32_t of, uint32_t count) const;
  uint32_t* own(uint32_t thread);
};

// Checks an access to any memory by the running thread.
void check_address(uintptr_t address, size_t bytes, Access access, uintptr_t pc);

}  // namespace simt
