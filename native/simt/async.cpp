// cp.async: the source is read when the copy is issued, the target is written when it is waited for.
#include "machine.h"

using namespace simt;

namespace {

void arrive(const AsyncCopy& copy, uintptr_t pc) {
  memcpy(copy.to, copy.data, static_cast<size_t>(copy.bytes));
  check_access(copy.to, static_cast<size_t>(copy.bytes), Access::kAsyncArrive, pc);
}

}  // namespace

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
