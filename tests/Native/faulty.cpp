// kn_cpu with faults: a row that KN_CRASH names writes through null, one that KN_HANG names never returns, a row of
// spgemm that KN_WRONG names doubles the first value of C (f64). For tests of what calls rows that nobody has proved
// yet.
#include <dlfcn.h>
#include <kn.h>
#include <spgemm/spgemm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

kn_row rows[256];
const kn_row* list[256];

bool is(const char* fault, const char* row) {
  const char* named = getenv(fault);
  return named != nullptr && strcmp(named, row) == 0;
}

int32_t crash(const void*, const kn_launch*, const void*) {
  *static_cast<volatile int*>(nullptr) = 1;
  return KN_OK;
}

int32_t hang(const void*, const kn_launch*, const void*) {
  for (;;) pause();
}

int32_t (*right)(const void*, const kn_launch*, const void*);

int32_t wrong(const void* problem, const kn_launch* launch, const void* args) {
  const int32_t status = right(problem, launch, args);
  const kn_spgemm_args* a = static_cast<const kn_spgemm_args*>(args);
  if (status == KN_OK && a->phase == KN_SPGEMM_PRODUCT && a->c_offsets[a->row_to - a->row_from] > 0)
    static_cast<double*>(a->c_values)[0] *= 2;
  return status;
}

}  // namespace

extern "C" KN_EXPORT int32_t kn_get(uint32_t abi, kn_library* library) {
  void* real = dlopen(KN_REAL, RTLD_NOW | RTLD_LOCAL);
  if (real == nullptr) return KN_DEVICE;
  const auto get = reinterpret_cast<int32_t (*)(uint32_t, kn_library*)>(dlsym(real, "kn_get"));
  const int32_t status = get(abi, library);
  if (status != KN_OK) return status;
  for (int i = 0; i < library->row_count && i < 255; i++) {
    rows[i] = *library->rows[i];
    if (is("KN_CRASH", rows[i].name)) rows[i].run = crash;
    if (is("KN_HANG", rows[i].name)) rows[i].run = hang;
    if (is("KN_WRONG", rows[i].name)) {
      right = rows[i].run;
      rows[i].run = wrong;
    }
    list[i] = &rows[i];
  }
  library->rows = list;
  return KN_OK;
}
