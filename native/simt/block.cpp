// A block and its threads: fibers, the queue of the ready ones, barriers and wave collectives.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>

#include "machine.h"

#if !defined(__x86_64__) || defined(_WIN32)
#error "the fiber switch is written for x86-64 and the System V calling convention"
#endif

// Saves what a call must preserve, exchanges the stacks and restores: 30 ns.
asm(R"(
.text
.p2align 4
.hidden kn_simt_switch
.globl kn_simt_switch
.type kn_simt_switch, @function
kn_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
.hidden kn_simt_resume
.globl kn_simt_resume
kn_simt_resume:
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kn_simt_switch, .-kn_simt_switch
)");

namespace simt {

constexpr std::chrono::seconds kPatience{30};  // with a thread that spins

static void thread_main() {
  Thread& thread = self();
  thread.block->launch->kernel->entry(thread.block->launch->args);
  thread.block->finish(thread);
  __builtin_unreachable();
}

char* Worker::stack() {
  if (stacks_used == stacks.size()) {
    void* const memory =
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    if (mprotect(memory, 4096, PROT_NONE) != 0) {
      munmap(memory, kStack);
      return nullptr;
    }
    stacks.push_back(static_cast<char*>(memory));
  }
  return stacks[stacks_used++];
}

// A fresh fiber: six registers, the address to return to, and a null return address under it.
static void* fresh_stack(char* stack, uint32_t index) {
  // Tops at the same offset of a page would all fall into the same sets of the L1 and L2 caches.
  const size_t stagger = (index % 8) * 448 + (index / 8 % 7) * 4096;
  void** const top = reinterpret_cast<void**>(stack + kStack - stagger - 64);
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(&thread_main);
  return top;
}

static void shuffle_sequence(std::vector<uint16_t>& sequence, uint32_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (size_t i = sequence.size(); i > 1; i--) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    std::swap(sequence[i - 1], sequence[(state >> 33) % i]);
  }
}

static bool allocate(Block& block, Worker& on, const Launch& what) {
  if (!block.threads) block.threads = std::make_unique<Thread[]>(kMaxThreads);
  if (!block.shared) {
    void* const memory = mmap(nullptr, kSharedMapping, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    block.shared = static_cast<char*>(memory) + kSharedGuard;
  }
  // Only the pages that the launch asked for can be touched.
  const size_t wanted = (what.dynamic_shared + 4095) / 4096 * 4096;
  if (mprotect(block.shared, kSharedMapping - 2 * kSharedGuard, PROT_NONE) != 0) return false;
  if (wanted && mprotect(block.shared, wanted, PROT_READ | PROT_WRITE) != 0) return false;
  for (uint32_t i = 0; i < block.count; i++)
    if (!block.threads[i].stack && !(block.threads[i].stack = on.stack())) return false;
  return true;
}

Block::~Block() {
  if (shared) munmap(shared - kSharedGuard, kSharedMapping);
}

bool Block::prepare(Worker& on, const Launch& what, uint64_t linear) {
  const bool first = prepared_for != what.number;
  prepared_for = what.number;
  worker = &on;
  launch = &what;
  index = {static_cast<unsigned>(linear % what.grid.x), static_cast<unsigned>(linear / what.grid.x % what.grid.y),
           static_cast<unsigned>(linear / what.grid.x / what.grid.y)};
  live = count = what.block.x * what.block.y * what.block.z;
  at_grid = yields = 0;
  events = 0;
  stopped = false;
  suspect = nullptr;
  ready.head = ready.size = 0;
  if (first) {
    if (!allocate(*this, on, what)) return false;
    sequence.resize(count);
    for (uint32_t i = 0; i < count; i++) sequence[i] = static_cast<uint16_t>(i);
    if (what.options.order) shuffle_sequence(sequence, what.options.order);
  }
  const uint32_t wave_size = static_cast<uint32_t>(what.kernel->wave);
  for (uint32_t i = 0; i < count; i++) {
    Thread& t = threads[i];
    t.stack_pointer = fresh_stack(t.stack, i);
    t.block = this;
    t.index = i, t.lane = i % wave_size, t.wave = i / wave_size;
    t.position = {i % what.block.x, i / what.block.x % what.block.y, i / what.block.x / what.block.y};
    t.live = true;
    t.barrier = -1;
    t.waits = nullptr;
    t.async_group = 0;
    t.async.clear();
    t.wgmma_fenced = false;
    t.wgmma_group = 0;
    t.wgmmas.clear();
    t.sums.clear();
    t.spins = 0;
  }
  for (uint32_t w = 0; w * wave_size < count; w++) {
    const uint32_t lanes = std::min(wave_size, count - w * wave_size);
    waves[w].all = waves[w].live = lanes == 64 ? ~0ull : (1ull << lanes) - 1;
    waves[w].open = 0;
  }
  for (Barrier& b : barriers) b = {};
  mbarriers.clear();
  for (uint16_t i : sequence) ready.push(i);
  return !kChecked || shadow.begin(count, what.dynamic_shared, on.statics_bytes, on.clock);
}

// Called on the OS thread's own stack.
void Block::resume() {
  Thread& next = threads[ready.pop()];
  worker->current = &next;
  kn_simt_switch(&worker->main_stack, next.stack_pointer);
  worker->current = nullptr;  // a signal leaves it set
  if (kChecked) worker->clock = std::max(worker->clock, shadow.end());
}

void Block::leave(Thread& self) {
  events++;
  if (!ready.size) {
    worker->current = nullptr;
    kn_simt_switch(&self.stack_pointer, worker->main_stack);
    return;
  }
  Thread& next = threads[ready.pop()];
  if (&next == &self) return;
  worker->current = &next;
  kn_simt_switch(&self.stack_pointer, next.stack_pointer);
}

void Block::wake(Thread& thread) {
  thread.waits = nullptr;
  thread.barrier = -1;
  ready.push(thread.index);
}

void Block::wake_barrier(int id) {
  for (uint16_t i : sequence)
    if (threads[i].barrier == id) wake(threads[i]);
}

void Block::finish(Thread& self) {
  self.live = false;
  waves[self.wave].live &= ~(1ull << self.lane);
  if (!self.wgmmas.empty())
    fault(KN_SIMT_ASYNC_UNFINISHED, self.wgmmas[0].pc, "the thread returns before it has waited for this wgmma");
  if (!--live)
    for (const Mbarrier& b : mbarriers)
      if (!b.copies.empty())
        fault(KN_SIMT_ASYNC_UNFINISHED, b.copies[0].pc, "the block ends while this tensor copy is on its way");
  leave(self);
}

void wait(Thread& self, const char* name, int barrier, uintptr_t pc) {
  self.waits = name;
  self.barrier = barrier;
  self.pc = pc;
  self.block->leave(self);
}

// All live threads wait and none can be woken: says what the first of them waits for, and where another one is.
void Block::report_stuck() {
  const Thread* first = nullptr;
  for (uint32_t i = 0; i < count && !first; i++)
    if (threads[i].live) first = &threads[i];
  const Thread* other = nullptr;
  uint32_t together = 0, returned = count - live;
  for (uint32_t i = 0; i < count; i++) {
    const Thread& t = threads[i];
    if (t.live && t.waits == first->waits && t.pc == first->pc)
      together++;
    else if (!other || (other->live && !t.live))
      other = &t;
  }
  std::string what = std::string("waits at ") + first->waits + " with " + std::to_string(together) + " of " +
                     std::to_string(count) + " threads";
  if (first->waits == kMbarrierWait) what += describe_mbarrier(*this, first->operand);
  if (returned) what += ", " + std::to_string(returned) + " have returned";
  if (other && other->live) what += std::string(", another waits at ") + other->waits;
  record_fault(*this, *first, KN_SIMT_DIVERGENT, first->pc, what, 0, 0, other, other && other->live ? other->pc : 0);
}

void meet(const char* name, uint64_t mask, void* operand, Complete complete, uintptr_t pc) {
  Thread& self = simt::self();
  Block& block = *self.block;
  Wave& wave = block.waves[self.wave];
  if (mask == 0xffffffffu) mask = ~0ull;
  mask &= wave.all;
  const uint64_t bit = 1ull << self.lane;
  if (!(mask & bit)) fault(KN_SIMT_DIVERGENT, pc, std::string(name) + " with a mask that lacks the calling lane");
  if (mask & ~wave.live) fault(KN_SIMT_DIVERGENT, pc, std::string(name) + " with lanes that have returned");
  int i = 0;
  while (i < wave.open && wave.meetings[i].mask != mask) i++;
  Meeting& meeting = wave.meetings[i];
  if (i == wave.open) {
    meeting = {name, mask, 0};
    wave.open++;
  } else if (meeting.name != name) {
    const Thread& other =
        block.threads[self.index - self.lane + static_cast<uint32_t>(__builtin_ctzll(meeting.arrived))];
    fault(KN_SIMT_DIVERGENT, pc, std::string(name) + " while lanes of the same mask wait at " + meeting.name, 0, 0,
          &other, other.pc);
  }
  meeting.arrived |= bit;
  self.operand = operand;
  self.pc = pc;
  if (meeting.arrived != mask) return wait(self, name, -1, pc);
  meeting = wave.meetings[--wave.open];
  Thread* const lanes = &block.threads[self.index - self.lane];
  complete(block, lanes, mask);
  for (uint64_t left = mask & ~bit; left; left &= left - 1) block.wake(lanes[__builtin_ctzll(left)]);
}

static void vote(Barrier& barrier, bool predicate) {
  if (!barrier.arrived) barrier.votes = {0, 0, 1};
  barrier.arrived++;
  barrier.votes.count += predicate;
  barrier.votes.any |= predicate;
  barrier.votes.all &= predicate;
}

}  // namespace simt

using namespace simt;

kn_simt_votes kn_simt_barrier(int predicate, int line) {
  Thread& self = simt::self();
  Block& block = *self.block;
  Barrier& barrier = block.barriers[0];
  if (barrier.arrived && barrier.line != line) {
    const Thread* other = &block.threads[0];
    while (other->barrier != 0) other++;
    fault(KN_SIMT_DIVERGENT, KN_SIMT_PC, "__syncthreads while other threads wait at another one", 0, 0, other,
          other->pc);
  }
  barrier.line = line;
  vote(barrier, predicate != 0);
  if (barrier.arrived < static_cast<int>(block.count)) {
    wait(self, "__syncthreads", 0, KN_SIMT_PC);
  } else {
    barrier.result = barrier.votes;
    barrier.arrived = 0;
    if (kChecked) block.shadow.barrier();
    block.wake_barrier(0);
  }
  return barrier.result;
}

static void named(int id, int threads, bool waits, uintptr_t pc) {
  Thread& self = simt::self();
  Block& block = *self.block;
  if (id < 1 || id >= kBarriers || threads < 1 || threads > static_cast<int>(block.count) || threads % 32 != 0)
    fault(KN_SIMT_TRAP, pc, "named barrier with an id outside 1..15 or a number of threads it cannot have");
  Barrier& barrier = block.barriers[id];
  if (barrier.arrived && barrier.expected != threads)
    fault(KN_SIMT_DIVERGENT, pc, "named barrier where other threads came with another number of threads");
  barrier.expected = threads;
  barrier.arrived++;
  const bool checked = kChecked;
  if (checked) block.shadow.release(self.index, block.shadow.arriving[id]);
  const bool last = barrier.arrived == threads;
  if (!last && waits) wait(self, "a named barrier", id, pc);
  if (last) {
    barrier.arrived = 0;
    if (checked) block.shadow.opened[id].swap(block.shadow.arriving[id]), block.shadow.arriving[id].clear();
    block.wake_barrier(id);
  }
  if (checked && waits) block.shadow.acquire(self.index, block.shadow.opened[id]);
}
void kn_simt_named_barrier(int id, int threads) { named(id, threads, true, KN_SIMT_PC); }
void kn_simt_named_arrive(int id, int threads) { named(id, threads, false, KN_SIMT_PC); }

void kn_simt_grid_barrier() {
  Thread& self = simt::self();
  Block& block = *self.block;
  if (!block.launch->cooperative) fault(KN_SIMT_TRAP, KN_SIMT_PC, "grid barrier in a launch that is not cooperative");
  block.at_grid++;
  wait(self, "the grid barrier", kGrid, KN_SIMT_PC);
}

void kn_simt_yield() {
  Thread& self = simt::self();
  Block& block = *self.block;
  const auto now = std::chrono::steady_clock::now();
  if (!block.yields++) block.first_yield = now;
  if (now - block.first_yield > kPatience)
    fault(KN_SIMT_DIVERGENT, KN_SIMT_PC, "spins, and what it waits for does not come");
  const bool alone = !block.ready.size;
  block.ready.push(self.index);
  if (!alone) return block.leave(self);
  // Nothing else of this block can run: the worker may have another one.
  worker->current = nullptr;
  kn_simt_switch(&self.stack_pointer, worker->main_stack);
}

kn_simt_uint3 kn_simt_thread_idx() { return self().position; }
kn_simt_uint3 kn_simt_block_idx() { return self().block->index; }
kn_simt_uint3 kn_simt_block_dim() { return self().block->launch->block; }
kn_simt_uint3 kn_simt_grid_dim() { return self().block->launch->grid; }
int kn_simt_lane() { return static_cast<int>(self().lane); }
void* kn_simt_dynamic_shared() { return self().block->shared; }
unsigned kn_simt_dynamic_shared_bytes() { return self().block->launch->dynamic_shared; }
long long clock64() { return self().block->events; }
void __trap() { fault(KN_SIMT_TRAP, KN_SIMT_PC, "__trap"); }
