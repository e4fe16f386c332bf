// The C ABI of the simulated GPU: one export hands over a table. The library exists twice, kn_simt (fast) and
// kn_simt_checked (every access of a kernel is checked), from the same sources. Calls may come from any thread and are
// taken one after the other. Nothing throws or ends the process: a kernel that does wrong is stopped and reported.
#pragma once
#include <kn.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KN_SIMT_ABI = 2 };

typedef struct kn_simt_options {
  uint32_t size;
  int32_t wave_size;         // 32 or 64; a kernel for one architecture exists for that one's only
  int32_t sm_count;          // what the device says it has; bounds a cooperative grid
  int32_t shared_per_block;  // bytes, static and dynamic, up to 232448
  int32_t workers;           // OS threads that run blocks; 0: one per core. 1: blocks run in order
  int32_t check_global;      // kn_simt_checked: 1 reports reads of global memory that nothing has written
  uint32_t order;            // seed of the order in which the threads of a block take turns; 0: ascending
} kn_simt_options;

typedef enum kn_simt_kind {
  KN_SIMT_SHARED_BOUNDS = 1,     // outside the block's shared memory, or outside a declared array
  KN_SIMT_GLOBAL_BOUNDS = 2,     // outside every allocation
  KN_SIMT_USE_AFTER_FREE = 3,    //
  KN_SIMT_MISALIGNED = 4,        // an address that is no multiple of the type's alignment
  KN_SIMT_UNINITIALISED = 5,     // shared memory, or global memory with check_global, read before any write
  KN_SIMT_RACE = 6,              // two threads of a block, shared memory, one writes, no barrier between
  KN_SIMT_DIVERGENT = 7,         // a barrier or collective that some threads never reach
  KN_SIMT_ASYNC_UNFINISHED = 8,  // the target of cp.async or of a bulk copy touched before the wait
  KN_SIMT_TRAP = 9,              // __trap, a division by zero, a stack that overflows, a broken instruction operand
} kn_simt_kind;

typedef struct kn_simt_fault {
  uint32_t size;
  int32_t kind;  // kn_simt_kind
  uint32_t block[3], thread[3];
  uint32_t other_thread[3];  // race: the thread of the earlier access
  int32_t bytes;             // of the access; 0 where there is none
  int32_t line, other_line;  // 0: unknown
  uint64_t address;
  const char* kernel;  // strings live until the next launch
  const char* file;    // null: unknown
  const char* other_file;
  const char* text;  // the whole sentence
} kn_simt_fault;

typedef struct kn_simt_kernel {
  uint32_t size;
  int32_t args_bytes;
  const char* name;
  const char* file;  // the source it comes from
} kn_simt_kernel;

// A tensor of three dimensions, the first contiguous, of which kernels copy boxes into shared memory in the 128-byte
// swizzle, with zeros for what is outside of it.
typedef struct kn_simt_tensor {
  uint32_t size;
  int32_t element_bytes;  // 1, 2, 4 or 8
  const void* address;    // a multiple of 16, as the strides are
  int64_t shape[3];       // 1 to 2^32
  int64_t strides[2];     // bytes, of the second and the third dimension
  int32_t box[3];         // 1 to 256; the first one 128 bytes
  int32_t unused;
} kn_simt_tensor;

typedef struct kn_simt_launch {
  uint32_t size;
  uint32_t grid[3], block[3];
  uint32_t dynamic_shared;  // bytes
  uint32_t cooperative;     // 1: all blocks run at once and may wait for one another
  uint32_t args_bytes;      // must be what the kernel takes
  const char* kernel;       // entry name
  const void* args;         // its one argument, copied before the call returns
} kn_simt_launch;

typedef struct kn_simt_library {
  uint32_t size;
  uint32_t abi;
  int32_t checked;  // 1: kn_simt_checked
  int32_t kernel_count;
  const char* (*last_error)(void);                            // sentence for the last failure on this thread
  int32_t (*kernel)(int32_t index, kn_simt_kernel* kernel);   // the kernels of both wave sizes
  int32_t (*find)(const char* name, kn_simt_kernel* kernel);  // for the wave size of the options; KN_UNSUPPORTED: none
  void (*get_options)(kn_simt_options* options);
  int32_t (*set_options)(const kn_simt_options* options);
  int32_t (*alloc)(int64_t bytes, void** pointer);             // 256-byte aligned; the content is arbitrary
  int32_t (*free)(void* pointer);                              // null is fine
  int32_t (*copy)(void* to, const void* from, int64_t bytes);  // host or device on either side
  int32_t (*fill)(void* to, int32_t byte, int64_t bytes);
  int32_t (*launch)(
      const kn_simt_launch* launch);  // returns when the grid is done; KN_DEVICE: it was stopped by faults
  int32_t (*fault_count)(void);       // of the last launch
  int32_t (*fault)(int32_t index, kn_simt_fault* fault);
  int32_t (*encode_tensor)(const kn_simt_tensor* tensor, void* map);  // 128 bytes for a kernel's argument
} kn_simt_library;

// The only export. Fills *library (whose size the caller has set) or says why not.
KN_EXPORT int32_t kn_simt_get(uint32_t abi, kn_simt_library* library);

#ifdef __cplusplus
}
#endif
