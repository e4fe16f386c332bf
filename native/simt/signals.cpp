// What the processor itself refuses in a kernel: a guard page, a division of integers by zero, a trap instruction. The
// handler leaves for the worker's own stack as if the thread had given up the core. Signals of anybody else go to the
// handler that was there before, that of the .NET runtime in a .NET process.
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "machine.h"

extern "C" void kn_simt_resume();

namespace simt {

static struct sigaction before[65];
static const int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static void pass_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& old = before[signal];
  if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(signal, info, context);
  if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(signal);
  sigaction(signal, &old, nullptr);  // the instruction runs again and meets the default
}

static void handle(int signal, siginfo_t* info, void* context) {
  if (!worker || !worker->current) return pass_on(signal, info, context);
  greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  worker->signal = signal;
  worker->stopped_in = worker->current;
  worker->signal_pc = static_cast<uintptr_t>(registers[REG_RIP]);
  worker->signal_address = reinterpret_cast<uintptr_t>(info->si_addr);
  registers[REG_RSI] = reinterpret_cast<greg_t>(worker->main_stack);
  registers[REG_RIP] = reinterpret_cast<greg_t>(&kn_simt_resume);
}

void install_signals() {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int signal : kSignals) sigaction(signal, &action, &before[signal]);
}

// Workers take no other signals, which would run on a fiber's small stack, and these on a stack of their own.
void worker_signal_stack() {
  sigset_t others;
  sigfillset(&others);
  for (int signal : kSignals) sigdelset(&others, signal);
  pthread_sigmask(SIG_BLOCK, &others, nullptr);
  constexpr size_t kSize = 64 << 10;
  stack_t stack{};
  stack.ss_sp = new char[kSize];
  stack.ss_size = kSize;
  sigaltstack(&stack, nullptr);
}

// After resume() has come back because of a signal.
void report_signal(Block& block, const Thread& thread) {
  const int signal = worker->signal;
  const uintptr_t address = worker->signal_address, in_stack = address - reinterpret_cast<uintptr_t>(thread.stack);
  const uintptr_t in_shared = address - reinterpret_cast<uintptr_t>(block.shared) + kSharedGuard;
  int kind = KN_SIMT_TRAP;
  std::string what = signal == SIGFPE ? "division of integers by zero" : "illegal instruction";
  if ((signal == SIGSEGV || signal == SIGBUS) && in_stack < 4096) {
    what = "stack overflow: more local memory than the simulated device has";
  } else if ((signal == SIGSEGV || signal == SIGBUS) && in_shared < kSharedMapping) {
    kind = KN_SIMT_SHARED_BOUNDS;
    what = "access outside dynamic shared memory";
  } else if (signal == SIGSEGV || signal == SIGBUS) {
    what = "access " + describe_global(address, &kind);
  }
  record_fault(block, thread, kind, worker->signal_pc + 1, what, address);
  worker->signal = 0;
}

}  // namespace simt
