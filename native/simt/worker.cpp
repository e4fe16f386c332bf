// How workers run a grid, and what becomes of faults.
#include <sched.h>

#include <algorithm>
#include <mutex>

#include "machine.h"

namespace simt {

thread_local Worker* worker = nullptr;
static std::mutex fault_lock;

static Fault make_fault(const Block& block, const Thread& thread, int kind, uintptr_t pc, std::string what,
                        uint64_t address, int bytes, const Thread* other, uintptr_t other_pc) {
  const kn_simt_uint3 i = block.index, grid = block.launch->grid;
  const uint64_t linear = i.x + uint64_t{grid.x} * (i.y + uint64_t{grid.y} * i.z);
  return {kind, i,        thread.position, other ? other->position : kn_simt_uint3{}, linear, address, bytes,
          pc,   other_pc, std::move(what)};
}

static void keep(const Launch& launch, Fault fault) {
  const std::lock_guard<std::mutex> guard(fault_lock);
  launch.stop = true;
  // In the order of blocks, whatever worker was first.
  const auto at = std::upper_bound(launch.faults.begin(), launch.faults.end(), fault.linear_block,
                                   [](uint64_t block, const Fault& f) { return block < f.linear_block; });
  launch.faults.insert(at, std::move(fault));
}

void record_fault(Block& block, const Thread& thread, int kind, uintptr_t pc, std::string what, uint64_t address,
                  int bytes, const Thread* other, uintptr_t other_pc) {
  block.stopped = true;
  // A read before a write that nothing orders is a race, and no other fault.
  if (block.suspect && kind == KN_SIMT_RACE && (pc == block.suspect->pc || other_pc == block.suspect->pc))
    block.suspect = nullptr;
  block.report_suspect();
  keep(*block.launch, make_fault(block, thread, kind, pc, std::move(what), address, bytes, other, other_pc));
}

void suspect(Thread& thread, uintptr_t pc, std::string what, uint64_t address, int bytes) {
  Block& block = *thread.block;
  if (block.suspect) return;
  block.suspect = std::make_unique<Fault>(
      make_fault(block, thread, KN_SIMT_UNINITIALISED, pc, std::move(what), address, bytes, nullptr, 0));
}

void Block::report_suspect() {
  if (!suspect) return;
  keep(*launch, std::move(*suspect));
  suspect = nullptr;
}

void fault_in(const Thread& thread, int kind, uintptr_t pc, std::string what, uint64_t address, int bytes,
              const Thread* other, uintptr_t other_pc) {
  record_fault(*thread.block, thread, kind, pc, std::move(what), address, bytes, other, other_pc);
  void* nowhere;
  worker->current = nullptr;
  kn_simt_switch(&nowhere, worker->main_stack);
  __builtin_unreachable();
}

void fault(int kind, uintptr_t pc, std::string what, uint64_t address, int bytes, const Thread* other,
           uintptr_t other_pc) {
  fault_in(self(), kind, pc, std::move(what), address, bytes, other, other_pc);
}

void Worker::enter() {
  worker = this;
  last = nullptr;
  if (!statics) find_statics(&statics, &statics_bytes);
}

// Runs until every thread waits or the block is stopped; says whether it is over.
static bool run_until_quiet(Block& block) {
  const Thread* thread = nullptr;
  while (block.ready.size && !block.stopped) {
    const uint32_t yields = block.yields;
    block.resume();
    thread = block.worker->stopped_in;
    if (block.worker->signal) report_signal(block, *thread);
    if (block.yields != yields && block.ready.size) break;  // it waits for something from outside
  }
  if (!block.live) block.report_suspect();
  return block.stopped || !block.live;
}

void Worker::run(const Launch& launch) {
  enter();
  for (uint64_t b; !launch.stop && (b = launch.next++) < launch.blocks;) {
    if (!block.prepare(*this, launch, b)) {
      launch.no_memory = true;
      launch.stop = true;
      return;
    }
    while (!run_until_quiet(block)) {
      if (!block.ready.size) {
        block.report_stuck();
        break;
      }
      if (launch.stop) return;
      sched_yield();
    }
  }
}

// Every block of the grid at once, on this thread: each runs until all its threads wait.
void Worker::run_cooperative(const Launch& launch) {
  enter();
  const size_t kept = stacks_used;
  std::vector<std::unique_ptr<Block>> blocks;
  for (uint64_t b = 0; b < launch.blocks; b++) {
    blocks.push_back(std::make_unique<Block>());
    if (!blocks.back()->prepare(*this, launch, b)) launch.no_memory = launch.stop = true;
    if (launch.stop) break;
    blocks.back()->statics.assign(statics, statics + statics_bytes);
  }
  while (!launch.stop) {
    uint64_t over = 0, at_grid = 0, threads = 0;
    bool ran = false;
    for (auto& block : blocks) {
      if (block->live && block->ready.size && !launch.stop) {
        if (statics_bytes) swap_statics(*block);
        run_until_quiet(*block);
        if (statics_bytes) swap_statics(*block);
        ran = true;
      }
      over += !block->live;
      at_grid += block->at_grid;
      threads += block->count;
    }
    if (launch.stop || over == launch.blocks) break;
    if (at_grid == threads) {
      for (auto& block : blocks) block->pass_grid();
    } else if (!ran) {
      for (auto& block : blocks)
        if (block->live) {
          block->report_stuck();
          break;
        }
    }
  }
  stacks_used = kept;
}

// Static shared memory is thread-local storage, of which an OS thread has one copy.
void Worker::swap_statics(Block& block) { std::swap_ranges(block.statics.begin(), block.statics.end(), statics); }

void Block::pass_grid() {
  at_grid = 0;
  if (kChecked) shadow.barrier();
  wake_barrier(kGrid);
}

}  // namespace simt
