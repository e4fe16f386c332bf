// What active outputs and inputs leave of a call: the panels to compute, the runs of k, and x with zeros in its place.
#pragma once
#include <avx512.h>
#include <flat_gemm/flat_gemm_drive.h>

#include "sparse_linear_panel.h"

namespace kn::sparse_linear {
namespace {

struct run {
  int64_t begin, end;  // of k, from a multiple of kBlock on
};

struct active_sets {
  const int32_t* order;  // panels, active ones first; null: as they are
  int64_t active;        // panels to compute; those of a gated pair are active together
  const run* runs;       // null: all of k
  int64_t run_count;
  int64_t k_padded;

  run active_run(int64_t i) const { return runs == nullptr ? run{0, k_padded} : runs[i]; }
  int64_t panel(int64_t position) const { return order == nullptr ? position : order[position]; }
};

inline int64_t element_bytes(int32_t type) { return type == KN_F32 ? 4 : type == KN_S8 ? 1 : 2; }

inline int64_t order_bytes(const kn_sparse_linear_problem& q, const sparse_panels& at) {
  return q.sets & KN_SPARSE_OUTPUTS ? flat_gemm::round_up(at.count * 4, 64) : 0;
}

inline int64_t runs_bytes(const kn_sparse_linear_problem& q, const sparse_panels& at) {
  return q.sets & KN_SPARSE_INPUTS ? flat_gemm::round_up(at.blocks * static_cast<int64_t>(sizeof(run)), 64) : 0;
}

inline int64_t sets_bytes(const kn_sparse_linear_problem& q, const sparse_panels& at, int64_t m) {
  const int64_t x = q.sets & KN_SPARSE_INPUTS ? m * at.blocks * kBlock * element_bytes(q.layer.x_type) : 0;
  return order_bytes(q, at) + runs_bytes(q, at) + x;
}

inline void order_panels(const kn_flat_gemm_problem& q, const uint64_t* outputs, int64_t count, int32_t* order,
                         int64_t* active) {
  const int64_t pair = (q.flags & KN_GEMM_GATED) ? 2 : 1;
  int64_t front = 0, back = count;
  for (int64_t i = 0; i < count; i += pair) {
    const int64_t column = i / pair * flat_gemm::kPanel;
    const bool any = (flat_gemm::active_lanes(outputs, column) & first_lanes(q.n - column)) != 0;
    int64_t& at = any ? front : back;
    if (!any) at -= pair;
    for (int64_t j = 0; j < pair; j++) order[at + j] = static_cast<int32_t>(i + j);
    if (any) at += pair;
  }
  *active = front;
}

// The bits of 64 inputs; those beyond k are clear.
inline uint64_t word_of(const uint64_t* inputs, int64_t k, int64_t block) {
  const int64_t left = k - block * kBlock;
  return left >= kBlock ? inputs[block] : left <= 0 ? 0 : inputs[block] & ((uint64_t{1} << left) - 1);
}

inline int64_t find_runs(const uint64_t* inputs, int64_t k, const sparse_panels& at, run* runs) {
  int64_t count = 0;
  for (int64_t b = 0; b < at.blocks; b++) {
    if (word_of(inputs, k, b) == 0) continue;
    const int64_t begin = b * kBlock, end = flat_gemm::smaller(begin + kBlock, at.k_padded);
    if (count > 0 && runs[count - 1].end == begin)
      runs[count - 1].end = end;
    else
      runs[count++] = {begin, end};
  }
  return count;
}

// One row of x with zeros for inputs that are not active.
template <class T>
void keep_active(const T* x, const uint64_t* inputs, int64_t k, int64_t blocks, T* out) {
  for (int64_t b = 0; b < blocks; b++, out += kBlock) {
    const uint64_t word = word_of(inputs, k, b);
    for (int64_t i = 0; i < kBlock; i++) out[i] = (word >> i & 1) ? x[b * kBlock + i] : T{0};
  }
}

// Also lets `call` read the copy of x.
inline active_sets sets_of(const kn_sparse_linear_problem& q, const kn_sparse_linear_args& a, const sparse_panels& at,
                           char* memory, kn_flat_gemm_args* call) {
  active_sets s{};
  s.active = at.count;
  s.k_padded = at.k_padded;
  s.run_count = at.k_padded == 0 ? 0 : 1;
  if (q.sets & KN_SPARSE_OUTPUTS) {
    int32_t* order = reinterpret_cast<int32_t*>(memory);
    order_panels(q.layer, a.outputs, at.count, order, &s.active);
    s.order = order;
  }
  memory += order_bytes(q, at);
  if ((q.sets & KN_SPARSE_INPUTS) && q.layer.k > 0) {
    run* runs = reinterpret_cast<run*>(memory);
    s.run_count = find_runs(a.inputs, q.layer.k, at, runs);
    s.runs = runs;
    memory += runs_bytes(q, at);
    const int64_t ld = at.blocks * kBlock, bytes = element_bytes(q.layer.x_type);
    for (int64_t row = 0; row < call->m; row++) {
      const char* x = static_cast<const char*>(a.call.x) + row * a.call.ldx * bytes;
      char* to = memory + row * ld * bytes;
      if (bytes == 4)
        keep_active(reinterpret_cast<const uint32_t*>(x), a.inputs, q.layer.k, at.blocks,
                    reinterpret_cast<uint32_t*>(to));
      if (bytes == 2)
        keep_active(reinterpret_cast<const uint16_t*>(x), a.inputs, q.layer.k, at.blocks,
                    reinterpret_cast<uint16_t*>(to));
      if (bytes == 1)
        keep_active(reinterpret_cast<const uint8_t*>(x), a.inputs, q.layer.k, at.blocks,
                    reinterpret_cast<uint8_t*>(to));
    }
    call->x = memory;
    call->ldx = ld;
  }
  return s;
}

}  // namespace
}  // namespace kn::sparse_linear
