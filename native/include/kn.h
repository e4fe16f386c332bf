// The whole C ABI of kn_cpu: one export hands over a table of rows.
// A row is one kernel. Operations are two plain structs, a problem (what the choice of a row depends on) and args (what
// changes from call to call), declared in kernels/<op>/<op>.h. Nothing here allocates, prints, throws or aborts.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define KN_EXPORT __declspec(dllexport)
#else
#define KN_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { KN_ABI = 3 };

typedef enum kn_status {
  KN_OK = 0,
  KN_INVALID = 1,      // an argument breaks a rule; last_error names both
  KN_UNSUPPORTED = 2,  // this row does not take this problem, or this machine lacks what the row needs
  KN_NO_MEMORY = 3,
  KN_DEVICE = 4,
  KN_ABI_MISMATCH = 5,
  KN_INTERNAL = 6,
} kn_status;

typedef enum kn_dtype {
  KN_F32 = 0,
  KN_BF16 = 1,
  KN_F16 = 2,
  KN_S8 = 3,    // two's complement
  KN_U4 = 4,    // two per byte along the fastest dimension, low nibble first; value = (q - zero) * scale
  KN_E4M3 = 5,  // OCP FP8 E4M3: bias 7, largest 448, no infinities, NaN is 0x7f and 0xff
  KN_F64 = 6,
  KN_NONE = 7,  // no values: a sparse structure alone
} kn_dtype;

typedef enum kn_op {
  KN_OP_FLAT_GEMM = 1,
  KN_OP_DECODE_ATTENTION = 2,
  KN_OP_SPGEMM = 3,
  KN_OP_SPARSE_LINEAR = 4,
} kn_op;

// What a row needs and what a machine has, as bits.
enum {
  KN_CPU_AVX512 = 1 << 0,      // F BW DQ VL VNNI, with the operating system saving zmm and mask state
  KN_CPU_AVX512BF16 = 1 << 1,  // vdpbf16ps
  KN_CPU_AVX512FP16 = 1 << 2,
  KN_CPU_AMX = 1 << 3,          // TILE BF16 INT8, with tile state granted to this process
  KN_CPU_AVX512VBMI2 = 1 << 4,  // VBMI and VBMI2: byte permutes, vpexpandw and vpexpandb
  // No row needs it: L1 of a core waits for too few lines to draw what its L2 can from memory.
  KN_CPU_FEW_L1_MISSES = 1 << 5,
};

enum { KN_MAX_PARAMS = 6, KN_MAX_VALUES = 8 };

// One launch parameter of a row and the values worth trying; the first one is the default.
typedef struct kn_param {
  const char* name;
  int32_t count;
  int32_t values[KN_MAX_VALUES];
} kn_param;

// A dataflow is a row plus a launch. param[i] belongs to row.params[i]; 0 takes its default.
typedef struct kn_launch {
  uint32_t size;
  int32_t threads;  // upper bound on threads of the pool, the caller's included; 0 = all of them
  int32_t param[KN_MAX_PARAMS];
} kn_launch;

typedef struct kn_row {
  const char* name;  // "<op>/<target>[_<variant>]", also file, symbol, test, log line and benchmark
  uint32_t op;
  uint32_t needs;  // KN_CPU_* bits
  // Rows with the same tag give the same bits for the same row of work, whatever else is in the batch. Null: no
  // promise.
  const char* bits;
  const kn_param* params;
  int32_t param_count;
  int32_t reserved;
  // 1 if run takes this problem with this launch, else 0 and *why is the first condition that is false.
  int32_t (*accepts)(const void* problem, const kn_launch* launch, const char** why);
  // Bytes of scratch that run wants, 64-byte aligned.
  int64_t (*workspace)(const void* problem, const kn_launch* launch);
  // Layout of packed weights. Rows that answer the same name share them. Null: this row reads weights as they are.
  const char* (*layout)(const void* problem);
  int64_t (*packed_bytes)(const void* problem);
  int32_t (*prepack)(const void* problem, const void* args);
  int32_t (*run)(const void* problem, const kn_launch* launch, const void* args);
} kn_row;

// Size and offsets of a shared struct, so that the other side can compare: {name, sizeof, field offsets in order, -1}.
typedef struct kn_struct {
  const char* name;
  int32_t size;
  int32_t offsets[48];
} kn_struct;

typedef struct kn_library {
  uint32_t size;
  uint32_t abi;
  const char* build;          // identity of this build: kernels that may time differently never share it
  uint32_t features;          // KN_CPU_* bits of this machine
  uint32_t emulated;          // bits among them that are emulated in software (test builds only)
  const kn_row* const* rows;  // best first within an operation
  int32_t row_count;
  int32_t struct_count;
  const kn_struct* structs;
  const char* (*last_error)(void);  // sentence for the last failure on this thread, valid until its next call
  int32_t (*get_threads)(void);
  // 0 = one per core this process may use. pin: a core of those for each worker while there are any; none for callers.
  int32_t (*set_threads)(int32_t count, int32_t pin);
} kn_library;

// The only export. Fills *library (whose size the caller has set) or says why not.
KN_EXPORT int32_t kn_get(uint32_t abi, kn_library* library);

#ifdef __cplusplus
}
#endif
