// Global memory: every allocation is its own mapping with an inaccessible page on either side, and ends, rounded up to
// 256 bytes, at the second one. Freed memory stays inaccessible, so a late access is still recognised.
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <memory>

#include "machine.h"

namespace simt {

constexpr uintptr_t kPage = 4096;
constexpr size_t kQuarantine = 4096;  // freed allocations that are remembered

struct Allocation {
  uintptr_t begin, bytes;          // what the caller asked for
  uintptr_t map_begin, map_bytes;  // with guard pages
  bool freed;
  std::unique_ptr<uint8_t[]> written;  // a flag for each byte, where that is kept
};

// Sorted by address. Not changed while a kernel runs.
static std::vector<Allocation> allocations;
static std::deque<uintptr_t> quarantine;  // map_begin, oldest first
static bool tracking = false;

static Allocation* find(uintptr_t address) {
  auto next = std::upper_bound(allocations.begin(), allocations.end(), address,
                               [](uintptr_t a, const Allocation& b) { return a < b.map_begin; });
  if (next == allocations.begin()) return nullptr;
  Allocation& found = *--next;
  return address - found.map_begin < found.map_bytes ? &found : nullptr;
}

static void track(Allocation& a, uint8_t state) {
  a.written = std::make_unique<uint8_t[]>(std::max<uintptr_t>(a.bytes, 1));
  memset(a.written.get(), state, a.bytes);
}

void global_track() {
  if (tracking) return;
  tracking = true;
  for (Allocation& a : allocations)
    if (!a.freed) track(a, 1);  // not known, so not reported
}

int32_t global_alloc(int64_t bytes, void** pointer) {
  *pointer = nullptr;
  if (bytes < 0 || bytes > int64_t{1} << 40) return fail(KN_INVALID, "bytes: requires 0 <= bytes <= 2^40");
  if (bytes == 0) return KN_OK;
  const uintptr_t rounded = (static_cast<uintptr_t>(bytes) + 255) / 256 * 256;
  const uintptr_t body = (rounded + kPage - 1) / kPage * kPage;
  void* const map = mmap(nullptr, body + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return fail(KN_NO_MEMORY, "the simulated device has no memory left");
  char* const first = static_cast<char*>(map) + kPage;
  if (mprotect(first, body, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, body + 2 * kPage);
    return fail(KN_NO_MEMORY, "the simulated device has no memory left");
  }
  char* const begin = first + body - rounded;
  Allocation a{reinterpret_cast<uintptr_t>(begin),
               static_cast<uintptr_t>(bytes),
               reinterpret_cast<uintptr_t>(map),
               body + 2 * kPage,
               false,
               nullptr};
  if (tracking) track(a, 0);
  const auto at = std::upper_bound(allocations.begin(), allocations.end(), a.map_begin,
                                   [](uintptr_t x, const Allocation& y) { return x < y.map_begin; });
  allocations.insert(at, std::move(a));
  *pointer = begin;
  return KN_OK;
}

int32_t global_free(void* pointer) {
  if (!pointer) return KN_OK;
  Allocation* const a = find(reinterpret_cast<uintptr_t>(pointer));
  if (!a || a->begin != reinterpret_cast<uintptr_t>(pointer))
    return fail(KN_INVALID, "pointer: requires a pointer that alloc returned");
  if (a->freed) return fail(KN_INVALID, "pointer: has been freed before");
  // A new mapping in place of the old one gives its pages back.
  if (mmap(reinterpret_cast<void*>(a->map_begin), a->map_bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    return fail(KN_INTERNAL, "the memory could not be given back");
  a->freed = true;
  a->written = nullptr;
  quarantine.push_back(a->map_begin);
  if (quarantine.size() > kQuarantine) {
    const Allocation* const oldest = find(quarantine.front());
    munmap(reinterpret_cast<void*>(oldest->map_begin), oldest->map_bytes);
    allocations.erase(allocations.begin() + (oldest - allocations.data()));
    quarantine.pop_front();
  }
  return KN_OK;
}

int32_t global_range(const void* address, int64_t bytes) {
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  const Allocation* const found = bytes ? find(a) : nullptr;
  if (!found) return KN_OK;
  if (found->freed) return fail(KN_INVALID, "address: in memory that has been freed");
  const uintptr_t offset = a - found->begin;
  if (offset >= found->bytes || static_cast<uintptr_t>(bytes) > found->bytes - offset)
    return fail(KN_INVALID, "address: " + std::to_string(bytes) + " bytes reach outside their allocation of " +
                                std::to_string(found->bytes) + " bytes");
  return KN_OK;
}

void global_written(const void* address, int64_t bytes) {
  Allocation* const a = tracking ? find(reinterpret_cast<uintptr_t>(address)) : nullptr;
  if (!a || !a->written) return;
  const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - a->begin;
  if (offset < a->bytes) memset(&a->written[offset], 1, std::min<uintptr_t>(a->bytes - offset, bytes));
}

// Where an address is, for a report, and what kind of fault an access to it is.
std::string describe_global(uintptr_t address, int* kind) {
  const Allocation* const a = find(address);
  *kind = a && a->freed ? KN_SIMT_USE_AFTER_FREE : KN_SIMT_GLOBAL_BOUNDS;
  if (!a) return "outside every allocation";
  const std::string size = std::to_string(a->bytes) + " bytes";
  if (a->freed) return "in an allocation of " + size + " that has been freed";
  if (address < a->begin) return std::to_string(a->begin - address) + " bytes before an allocation of " + size;
  return std::to_string(address - a->begin) + " bytes into an allocation of " + size;
}

void check_global(uintptr_t address, size_t bytes, Access access, uintptr_t pc) {
  Allocation*& last = worker->last;
  if (!last || address - last->begin >= last->bytes) last = find(address);
  const bool write = access != Access::kRead;
  const uintptr_t offset = last ? address - last->begin : 0;
  if (!last || last->freed || offset >= last->bytes || bytes > last->bytes - offset) {
    int kind;
    const std::string where = describe_global(address, &kind);
    fault(kind, pc, std::string(write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes " + where, address,
          static_cast<int>(bytes));
  }
  if (!last->written || !self().block->launch->options.check_global) return;
  uint8_t* const flags = &last->written[offset];
  if (access == Access::kWrite) {
    memset(flags, 1, bytes);
  } else if (memchr(flags, 0, bytes)) {
    fault(KN_SIMT_UNINITIALISED, pc,
          "read of " + std::to_string(bytes) + " bytes of global memory that nothing has written", address,
          static_cast<int>(bytes));
  }
}

}  // namespace simt
