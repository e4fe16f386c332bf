// What every native row of spgemm shares: the rules of the operation and of a call, and the limits that a launch sets.
#pragma once
#include <kn.h>
#include <launch.h>
#include <require.h>

#include "spgemm.h"

namespace kn::spgemm {
namespace {

constexpr int64_t kLongest32 = INT32_MAX, kLongest64 = int64_t{1} << 40, kMostProducts = int64_t{1} << 60;
constexpr int64_t kDense = int64_t{1} << 22;       // columns of the dense accumulator at most
constexpr int64_t kHash = 1 << 16;                 // slots of the table: with sums of f64, L2
constexpr int64_t kMaskedSpan = int64_t{1} << 28;  // columns of C under a mask: 64 ranges of the dense accumulator
constexpr int kSlotBits = 22;

// window    products of a task; a much longer row is split by columns over several
// sort      products of a row that are sorted
// density   dense when the span of columns is at most this many times the products
// cached    columns of a dense accumulator that stays in the caches
// blocks    B is taken in blocks when its entries are used at least this often; the last value: never
// table     slots of the hash table for a product: fewer stay nearer and suit products that meet, more collide less
inline constexpr kn_param row_params[] = {{"window", 4, {32768, 8192, 131072, 2048}},
                                          {"sort", 4, {1024, 256, 512, 2048}},
                                          {"density", 3, {16, 4, 64}},
                                          {"cached", 3, {262144, 65536, 1048576}},
                                          {"table", 3, {2, 1, 4}},
                                          {"blocks", 3, {8, 2, 1 << 30}}};
inline constexpr int kParams = sizeof row_params / sizeof *row_params;

struct limits {
  int64_t window, sort, density, cached, table, blocks, dense, hash;
  int64_t hashed() const { return hash / table; }  // products that the table takes
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }

inline limits limits_of(const kn_spgemm_problem& p, const kn_launch* launch) {
  auto value = [launch](int i) { return param(row_params, launch, i); };
  limits l = {value(0), value(1), value(2), value(3), value(4), value(5), 0, 64};
  l.dense = round_up(smaller(larger(p.n, 1), kDense), 512);
  while (l.hash < kHash && l.hash < l.table * smaller(p.most, p.n)) l.hash *= 2;
  return l;
}

inline int valid(const kn_spgemm_problem& p, const kn_launch* launch, const char** why) {
  KN_REQUIRE(launch->size == sizeof(kn_launch));
  KN_REQUIRE(launch->threads >= 0 && launch->threads <= 1024);
  KN_REQUIRE(p.size == sizeof(kn_spgemm_problem));
  KN_REQUIRE(p.type == KN_F32 || p.type == KN_F64 || p.type == KN_NONE);
  KN_REQUIRE(p.index_bytes == 4 || p.index_bytes == 8);
  KN_REQUIRE(p.semiring >= KN_PLUS_TIMES && p.semiring <= KN_PLUS_PAIR);
  KN_REQUIRE(p.flags >= 0 && p.flags < 64);
  KN_REQUIRE((p.flags & KN_SPGEMM_MASK) || !(p.flags & KN_SPGEMM_COMPLEMENT));
  KN_REQUIRE(!(p.flags & KN_SPGEMM_VALUED) || ((p.flags & KN_SPGEMM_MASK) && p.type != KN_NONE));
  KN_REQUIRE(p.reserved == 0);
  const int64_t longest = p.index_bytes == 4 ? kLongest32 : kLongest64;
  KN_REQUIRE(p.m >= 0 && p.m <= longest);
  KN_REQUIRE(p.k >= 0 && p.k <= longest);
  KN_REQUIRE(p.n >= 0 && p.n <= longest);
  KN_REQUIRE(p.a_nnz >= 0 && p.a_nnz <= kLongest64);
  KN_REQUIRE(p.b_nnz >= 0 && p.b_nnz <= kLongest64);
  KN_REQUIRE(p.products >= 0 && p.products <= kMostProducts);
  KN_REQUIRE(p.most >= 0 && p.most <= kMostProducts);
  const bool launch_params_are_listed = params_listed(row_params, kParams, launch);
  KN_REQUIRE(launch_params_are_listed);
  return 1;
}

inline bool reads_values(const kn_spgemm_problem& p) { return p.type != KN_NONE && p.semiring != KN_PLUS_PAIR; }

#define KN_OPERAND(name, x, rows, values_are_read)                       \
  KN_CHECK(name, x.offsets != nullptr);                                  \
  KN_CHECK(name, x.offsets[0] == 0);                                     \
  KN_CHECK(name, x.offsets[rows] >= 0 && x.offsets[rows] <= kLongest64); \
  KN_CHECK(name, x.offsets[rows] == 0 || x.columns != nullptr);          \
  KN_CHECK(name, x.offsets[rows] == 0 || !(values_are_read) || x.values != nullptr)

inline int32_t check(const kn_spgemm_problem& p, const kn_spgemm_args* args, int64_t workspace_needed) {
  if (args == nullptr) return kn_fail(KN_INVALID, "args: is null");
  const kn_spgemm_args& a = *args;
  KN_CHECK("args", a.size == sizeof(kn_spgemm_args));
  KN_CHECK("phase", a.phase >= KN_SPGEMM_ANALYSE && a.phase <= KN_SPGEMM_SCHEDULE);
  KN_CHECK("rows", a.row_from >= 0 && a.row_from <= a.row_to && a.row_to <= p.m);
  const bool analyse = a.phase == KN_SPGEMM_ANALYSE;
  KN_CHECK("rows", !analyse || (a.row_from == 0 && a.row_to == p.m));
  KN_OPERAND("a", a.a, p.m, reads_values(p) && !analyse);
  KN_CHECK("a", a.a.offsets[p.m] == p.a_nnz);
  KN_OPERAND("b", a.b, p.k, reads_values(p) && !analyse);
  KN_CHECK("b", a.b.offsets[p.k] == p.b_nnz);
  if (p.flags & KN_SPGEMM_MASK) {
    KN_OPERAND("mask", a.mask, p.m, (p.flags & KN_SPGEMM_VALUED) && !analyse);
  }
  if (p.flags & KN_SPGEMM_ACCUMULATE) {
    KN_OPERAND("d", a.d, p.m, p.type != KN_NONE && !analyse);
  }
  KN_CHECK("products", a.products != nullptr);
  if (analyse) {
    KN_CHECK("products", a.most != nullptr);
  } else {
    KN_CHECK("products", a.products[0] == 0 && a.products[p.m] == p.products);
    KN_CHECK("c", a.c_offsets != nullptr);
    KN_CHECK("c", a.c_offsets[0] >= 0);
  }
  if (a.phase >= KN_SPGEMM_PRODUCT) {
    KN_CHECK("c", a.c_capacity >= a.c_offsets[0]);
    KN_CHECK("c", a.c_capacity == 0 || a.c_columns != nullptr);
    const bool writes_values = a.phase <= KN_SPGEMM_NUMERIC && p.type != KN_NONE;
    KN_CHECK("c", a.c_capacity == 0 || !writes_values || a.c_values != nullptr);
  }
  if (a.phase == KN_SPGEMM_PRODUCT) KN_CHECK("c", a.rows_done != nullptr);
  const int64_t rows = a.row_to - a.row_from;
  if (a.phase >= KN_SPGEMM_NUMERIC)
    KN_CHECK("c", a.c_offsets[rows] >= a.c_offsets[0] && a.c_offsets[rows] <= a.c_capacity);
  if (a.phase > KN_SPGEMM_NUMERIC || (a.phase == KN_SPGEMM_NUMERIC && a.schedule.offsets != nullptr)) {
    KN_CHECK("schedule", p.type != KN_NONE && p.n <= kDense && p.b_nnz <= UINT32_MAX);
    KN_CHECK("schedule", a.row_from == 0 && a.row_to == p.m && a.c_offsets[0] == 0);
    KN_CHECK("schedule", a.schedule.offsets != nullptr && a.schedule.counts != nullptr);
    const bool has_terms = a.phase != KN_SPGEMM_SCHEDULE_SIZES && a.schedule.offsets[p.m] > 0;
    KN_CHECK("schedule", !has_terms || a.schedule.terms != nullptr);
  }
  KN_CHECK("workspace", workspace_needed == 0 || a.workspace != nullptr);
  KN_CHECK("workspace", reinterpret_cast<uintptr_t>(a.workspace) % 64 == 0);
  KN_CHECK("workspace", a.workspace_bytes >= workspace_needed);
  return KN_OK;
}

}  // namespace
}  // namespace kn::spgemm
