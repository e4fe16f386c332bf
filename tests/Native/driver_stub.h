// What the stubs of GPU drivers share: a driver without a GPU, whose calls are kept as lines, "name arguments", and
// fail where a test has planned it. Memory is the host's; kernels do nothing.
#pragma once
#include <kn.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <sstream>
#include <string>

#define STUB extern "C" KN_EXPORT int

namespace {

std::string lines;
std::map<std::string, std::pair<int, int>> planned;  // by name: the code, and how often
long handles = 0x1000;

template <class... A>
int call(const char* name, A... arguments) {
  std::ostringstream line;
  line << name;
  ((line << ' ' << arguments), ...);
  lines += line.str() + '\n';
  const auto plan = planned.find(name);
  if (plan == planned.end() || plan->second.second == 0) return 0;
  plan->second.second--;
  return plan->second.first;
}

int made(int code, void** at) {
  if (code == 0) *at = reinterpret_cast<void*>(++handles);
  return code;
}

int allocated(int code, void** at, size_t bytes) {
  if (code == 0) *at = malloc(bytes);
  return code;
}

long number(const void* handle) { return reinterpret_cast<long>(handle); }

int copy(const char* name, void* to, const void* from, size_t bytes, void* stream) {
  const int code = call(name, bytes, number(stream));
  if (code == 0) memcpy(to, from, bytes);
  return code;
}

template <class T>
int fill(const char* name, void* at, T value, size_t count, void* stream) {
  const int code = call(name, long{value}, count, number(stream));
  for (size_t i = 0; code == 0 && i < count; i++) static_cast<T*>(at)[i] = value;
  return code;
}

}  // namespace

// What tests ask of the stub.
STUB stub_fail(const char* name, int code, int times) { return planned[name] = {code, times}, 0; }
STUB stub_lines(char* to, int room) {
  strncpy(to, lines.c_str(), room - 1);
  lines.clear();
  return 0;
}
