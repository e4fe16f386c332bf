// The parts of the simulated GPU: a device has workers (OS threads), a worker runs blocks, a block is a set of threads
// (fibers) that give the core to one another when they wait. Nothing polls: a thread that waits is not in the queue.
#pragma once
#include <stdint.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "kn_simt.h"
#include "shadow.h"
#include "simt.h"

namespace simt {

constexpr bool kChecked = KN_SIMT_CHECKED;

struct Block;
struct Worker;
struct Launch;
struct Allocation;

constexpr int kMaxThreads = 1024, kMaxWaves = 32, kBarriers = 16, kMaxShared = 232448;
constexpr size_t kStack = 128 << 10;  // of a thread
constexpr size_t kSharedGuard = 64 << 10, kSharedMapping = 2 * kSharedGuard + (kMaxShared + 4095) / 4096 * 4096;
constexpr int kGrid = kBarriers;  // the barrier number of the grid
constexpr uint32_t kMaxArgs = 4096;
constexpr int kTileRow = 128;  // bytes of a row of a swizzled tile

// What a kernel's tensor map holds.
constexpr uint64_t kTensorMap = 0x70616d20726f736eull;
struct TensorMap {
  uint64_t magic;
  kn_simt_tensor tensor;
};
static_assert(sizeof(TensorMap) <= 128);

struct Fault {
  int kind;
  kn_simt_uint3 block, thread, other_thread;
  uint64_t linear_block;
  uint64_t address;
  int bytes;
  uintptr_t pc, other_pc;
  std::string what;  // "write of 4 bytes ..."; the place is added when it is resolved
};

struct AsyncCopy {
  char* to;
  int bytes, group;
  char data[16];
};

// A tensor copy on its way: what it read when it was issued.
struct TensorCopy {
  char* to;
  std::vector<char> data;
  uintptr_t pc;
};

struct Mbarrier {
  uintptr_t address;
  int arrivals, missing;  // of a phase; of the one at hand
  int64_t bytes;          // expected and not landed
  int parity;             // of the phase at hand
  int waiting;            // threads
  std::vector<TensorCopy> copies;
  std::vector<uint32_t> arriving, opened;  // what its next and its last threads knew
};

// a is in shared memory, its rows along k or transposed, or of this warp in registers; two-byte floats, or s8.
struct Wgmma {
  enum Left : uint8_t { kRows, kTransposed, kRegisters };
  enum Type : uint8_t { kBf16, kF16, kS8 };
  void* d;
  int n;
  uint64_t a, b;
  uint32_t registers[4];
  Left left;
  Type type;
  int group;
  uintptr_t pc;
};

// Sums that are wgmma's and not the thread's: values, float or int, while d holds NaN.
struct Sums {
  void* d;
  int count;
  uint32_t values[128];
};

struct Thread {
  void* stack_pointer;
  char* stack;  // lowest byte
  Block* block;
  uint32_t index, lane, wave;
  kn_simt_uint3 position;
  bool live;
  int barrier;        // number of the barrier that it waits at, or -1
  const char* waits;  // what it waits at, null: it does not wait
  uintptr_t pc;       // where
  void* operand;      // its part of a collective
  int async_group;    // group that the next cp.async joins
  std::vector<AsyncCopy> async;
  bool wgmma_fenced;
  int wgmma_group;  // that the next wgmma joins
  std::vector<Wgmma> wgmmas;
  std::vector<Sums> sums;
  uint32_t spins;  // acquire loads since it last gave way
};

// A collective that some lanes of a wave have reached.
struct Meeting {
  const char* name;
  uint64_t mask, arrived;
};

struct Wave {
  uint64_t all, live;  // lanes that exist, lanes that have not returned
  int open;
  Meeting meetings[64];
};

struct Barrier {
  int arrived, expected, line;
  kn_simt_votes votes;   // of those that have arrived
  kn_simt_votes result;  // of the barrier that completed last
};

// The ready threads, first in first out.
struct Queue {
  uint16_t ring[kMaxThreads];
  uint32_t head = 0, size = 0;
  void push(uint32_t thread) { ring[(head + size++) % kMaxThreads] = static_cast<uint16_t>(thread); }
  uint32_t pop() {
    const uint32_t thread = ring[head];
    head = (head + 1) % kMaxThreads;
    size--;
    return thread;
  }
};

struct Block {
  Worker* worker = nullptr;
  const Launch* launch = nullptr;
  uint64_t prepared_for = 0;  // number of a launch
  kn_simt_uint3 index{};
  uint32_t count = 0, live = 0, at_grid = 0, yields = 0;
  std::chrono::steady_clock::time_point first_yield;
  long long events = 0;
  bool stopped = false;
  std::unique_ptr<Thread[]> threads;
  std::vector<uint16_t> sequence;  // the order in which threads take turns
  Wave waves[kMaxWaves];
  Barrier barriers[kBarriers + 1];
  std::vector<Mbarrier> mbarriers;
  Queue ready;
  char* shared = nullptr;     // dynamic shared memory, with kSharedGuard on both sides
  std::vector<char> statics;  // static shared memory while another block of this OS thread runs
  Shadow shadow;
  std::unique_ptr<Fault> suspect;  // the first read of shared memory that nothing has written yet: see Shadow::check

  bool prepare(Worker& on, const Launch& what, uint64_t linear);  // false: no memory
  void resume();             // runs until every thread waits, has returned, or one has faulted
  void leave(Thread& self);  // gives the core to the next thread
  void wake(Thread& thread);
  void wake_barrier(int id);
  void finish(Thread& self);
  void pass_grid();
  void report_stuck();
  void report_suspect();
  ~Block();
};

// Where this library is, code and constants of its kernels included.
struct Image {
  std::string path;
  uintptr_t begin, end;
};
const Image& image();

struct Launch {
  uint64_t number;  // of all launches of the process
  const kn_simt_registration* kernel;
  kn_simt_uint3 grid, block;
  uint32_t dynamic_shared;
  bool cooperative;
  kn_simt_options options;
  const void* args;
  uint64_t blocks;
  mutable std::atomic<uint64_t> next{0};
  mutable std::atomic<bool> stop{false};
  mutable std::atomic<bool> no_memory{false};
  mutable std::vector<Fault> faults;
};

struct Worker {
  Thread* current = nullptr;
  void* main_stack = nullptr;  // stack pointer of the OS thread while a fiber runs
  Block block;                 // of launches that are not cooperative
  std::vector<char*> stacks;
  size_t stacks_used = 0;
  char* statics = nullptr;  // this OS thread's copy of static shared memory, and of what else is thread-local here
  size_t statics_bytes = 0;
  Allocation* last = nullptr;  // that an access was in
  uint32_t clock = 1;          // first clock value that no block of this worker has used
  // What the signal handler saw: 0 or the signal, the thread that it stopped, where, and what it touched.
  int signal = 0;
  Thread* stopped_in = nullptr;
  uintptr_t signal_pc = 0, signal_address = 0;

  char* stack();  // null: no memory
  void run(const Launch& launch);
  void run_cooperative(const Launch& launch);

 private:
  void enter();
  void swap_statics(Block& block);
};

extern thread_local Worker* worker;
inline Thread& self() { return *worker->current; }

// Stops the current block. `what` says what was done, without the place.
[[noreturn]] void fault(int kind, uintptr_t pc, std::string what, uint64_t address = 0, int bytes = 0,
                        const Thread* other = nullptr, uintptr_t other_pc = 0);
// The same on behalf of another thread of the block.
[[noreturn]] void fault_in(const Thread& thread, int kind, uintptr_t pc, std::string what, uint64_t address = 0,
                           int bytes = 0, const Thread* other = nullptr, uintptr_t other_pc = 0);
// Notes it and leaves stopping the block to the caller.
void record_fault(Block& block, const Thread& thread, int kind, uintptr_t pc, std::string what, uint64_t address = 0,
                  int bytes = 0, const Thread* other = nullptr, uintptr_t other_pc = 0);

// A read of shared memory before any write: a fault of the block, unless a race turns out to be behind it.
void suspect(Thread& thread, uintptr_t pc, std::string what, uint64_t address, int bytes);

// Waits until every lane of mask has come here with the same name; the last one calls complete, which sees the operand
// of every lane in block.threads.
using Complete = void (*)(Block& block, Thread* lanes, uint64_t mask);
void meet(const char* name, uint64_t mask, void* operand, Complete complete, uintptr_t pc);

// Gives way until somebody wakes this thread.
void wait(Thread& self, const char* name, int barrier, uintptr_t pc);

// meet for all lanes of a whole warp of 32.
void meet_warp(const char* name, void* operand, Complete complete, uintptr_t pc);

// Where a byte of a tile lies in the 128-byte swizzle, as offsets in dynamic shared memory, which is aligned.
inline uintptr_t swizzle(uintptr_t offset) { return offset ^ (offset >> 7 & 7) << 4; }

// What a phase still waits for, for a report.
std::string describe_mbarrier(const Block& block, const void* barrier);
extern const char kMbarrierWait[];

#define KN_SIMT_PC reinterpret_cast<uintptr_t>(__builtin_return_address(0))

// Checks an access that an instruction makes (ldmatrix, cp.async, atomics).
inline void check_access(const void* address, size_t bytes, Access access, uintptr_t pc) {
  if (kChecked) check_address(reinterpret_cast<uintptr_t>(address), bytes, access, pc);
}

// memory.cpp
void check_global(uintptr_t address, size_t bytes, Access access, uintptr_t pc);
std::string describe_global(uintptr_t address, int* kind);
int32_t global_alloc(int64_t bytes, void** pointer);
int32_t global_free(void* pointer);
int32_t global_range(const void* address, int64_t bytes);  // a host address, or inside one live allocation
void global_written(const void* address, int64_t bytes);
void global_track();  // from now on it is known which bytes of global memory have been written

// symbols.cpp
struct Place {
  std::string file;
  int line = 0;
};
std::vector<Place> resolve(const std::vector<uintptr_t>& pcs);
void find_statics(char** begin, size_t* bytes);  // of the calling thread

// signals.cpp
void install_signals();
void worker_signal_stack();
void report_signal(Block& block, const Thread& thread);

int32_t fail(int32_t status, const std::string& sentence);

extern "C" void kn_simt_switch(void** save, void* load);
}  // namespace simt
