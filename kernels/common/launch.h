// What a row reads from its launch. Everything is static: files compiled for different targets include this.
#pragma once
#include <kn.h>

namespace kn {
namespace {

inline int64_t param(const kn_param* params, const kn_launch* launch, int i) {
  return launch->param[i] == 0 ? params[i].values[0] : launch->param[i];
}

// Whether every parameter is its default or one of the values that the row lists.
inline bool params_listed(const kn_param* params, int count, const kn_launch* launch) {
  for (int i = 0; i < KN_MAX_PARAMS; i++) {
    bool found = launch->param[i] == 0;
    for (int j = 0; i < count && j < params[i].count; j++) found |= launch->param[i] == params[i].values[j];
    if (!found) return false;
  }
  return true;
}

}  // namespace
}  // namespace kn
