// A libcuda.so.1 without a GPU: the driver's entry points by their exported names, with their own declarations of what
// cuda.h says they take.
#include "driver_stub.h"

namespace {

int version = 12040;
void* current = nullptr;

// As cuda.h declares them.
struct launch_attribute {
  int id;
  char pad[4];
  union {
    char pad[64];
    int cooperative;
    struct {
      unsigned x, y, z;
    } cluster;
  } value;
};

struct launch_config {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared;
  void* stream;
  launch_attribute* attributes;
  unsigned count;
};

struct pool_properties {
  int type, handles, location_type, location_id;
  void* security;
  size_t most;
  unsigned short usage;
  unsigned char reserved[54];
};

}  // namespace

#define CU STUB

CU stub_version(int to) { return version = to, 0; }

CU cuInit(unsigned flags) { return call("cuInit", flags); }
CU cuDriverGetVersion(int* to) { return *to = version, 0; }
CU cuGetErrorName(int code, const char** to) {
  return *to = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code < 900 ? "CUDA_ERROR_STUB" : nullptr, *to ? 0 : 1;
}
CU cuGetErrorString(int code, const char** to) { return *to = code < 900 ? "words of the stub" : nullptr, *to ? 0 : 1; }

CU cuDeviceGetCount(int* to) { return *to = 1, call("cuDeviceGetCount"); }
CU cuDeviceGet(int* device, int ordinal) { return *device = ordinal, call("cuDeviceGet", ordinal); }
CU cuDeviceGetName(char* to, int room, int) { return strncpy(to, "Stub GPU", room), 0; }
CU cuDeviceTotalMem_v2(size_t* to, int) { return *to = 1ul << 36, 0; }
CU cuDeviceGetAttribute(int* to, int attribute, int) {
  // By cuda.h: 75, 76 compute capability; 10 warp size; 38 L2; 95, 115, 120 cooperative launch, pools, clusters. Others
  // tell their number.
  *to = attribute == 75   ? 9
        : attribute == 76 ? 0
        : attribute == 10 ? 32
        : attribute == 38 ? 50 << 20
                          : 1000 + attribute;
  return 0;
}

CU cuDevicePrimaryCtxRetain(void** to, int device) { return made(call("cuDevicePrimaryCtxRetain", device), to); }
CU cuCtxGetCurrent(void** to) { return *to = current, 0; }
CU cuCtxPushCurrent_v2(void* context) {
  const int code = call("cuCtxPushCurrent_v2");
  if (code == 0) current = context;
  return code;
}
CU cuCtxPopCurrent_v2(void** to) { return *to = current, current = nullptr, call("cuCtxPopCurrent_v2"); }
CU cuCtxGetDevice(int* to) { return *to = 0, 0; }

CU cuModuleLoadDataEx(void** to, const char* image, unsigned count, int* options, void** values) {
  const int code = call("cuModuleLoadDataEx", std::string(image, strnlen(image, 2)), count, options[0], options[1],
                        number(values[1]));
  if (code != 0) strcpy(static_cast<char*>(values[0]), "the assembler's words");
  return made(code, to);
}
CU cuModuleUnload(void* module) { return call("cuModuleUnload", number(module)); }
CU cuModuleGetFunction(void** to, void*, const char* name) { return made(call("cuModuleGetFunction", name), to); }
CU cuFuncGetAttribute(int* to, int attribute, void*) { return *to = attribute, call("cuFuncGetAttribute", attribute); }
CU cuFuncSetAttribute(void*, int attribute, int value) { return call("cuFuncSetAttribute", attribute, value); }
CU cuLaunchKernel(void*, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                  void* stream, void** parameters, void** extra) {
  return call("cuLaunchKernel", gx, gy, gz, bx, by, bz, shared, number(stream), *static_cast<int*>(parameters[0]),
              number(extra));
}
CU cuLaunchKernelEx(const launch_config* c, void*, void** parameters, void** extra) {
  std::ostringstream attributes;
  for (unsigned i = 0; i < c->count; i++) {
    const launch_attribute& a = c->attributes[i];
    attributes << (i ? " " : "") << a.id << ':' << a.value.cluster.x;
    if (a.id == 4) attributes << ',' << a.value.cluster.y << ',' << a.value.cluster.z;
  }
  return call("cuLaunchKernelEx", c->grid_x, c->grid_y, c->grid_z, c->block_x, c->block_y, c->block_z, c->shared,
              number(c->stream), *static_cast<int*>(parameters[0]), number(extra), attributes.str());
}

CU cuMemAlloc_v2(void** to, size_t bytes) { return allocated(call("cuMemAlloc_v2", bytes), to, bytes); }
CU cuMemFree_v2(void* at) { return free(at), call("cuMemFree_v2"); }
CU cuMemHostAlloc(void** to, size_t bytes, unsigned flags) {
  return allocated(call("cuMemHostAlloc", bytes, flags), to, bytes);
}
CU cuMemFreeHost(void* at) { return free(at), call("cuMemFreeHost"); }
CU cuMemPoolCreate(void** to, const pool_properties* p) {
  return made(call("cuMemPoolCreate", p->type, p->handles, p->location_type, p->location_id), to);
}
CU cuMemPoolSetAttribute(void*, int attribute, unsigned long* value) {
  return call("cuMemPoolSetAttribute", attribute, *value);
}
CU cuMemPoolDestroy(void* pool) { return call("cuMemPoolDestroy", number(pool)); }
CU cuMemAllocFromPoolAsync(void** to, size_t bytes, void*, void* stream) {
  return allocated(call("cuMemAllocFromPoolAsync", bytes, number(stream)), to, bytes);
}
CU cuMemFreeAsync(void* at, void* stream) { return free(at), call("cuMemFreeAsync", number(stream)); }

CU cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  return copy("cuMemcpyHtoDAsync_v2", to, from, bytes, stream);
}
CU cuMemcpyDtoHAsync_v2(void* to, void* from, size_t bytes, void* stream) {
  return copy("cuMemcpyDtoHAsync_v2", to, from, bytes, stream);
}
CU cuMemcpyDtoDAsync_v2(void* to, void* from, size_t bytes, void* stream) {
  return copy("cuMemcpyDtoDAsync_v2", to, from, bytes, stream);
}
CU cuMemsetD8Async(void* at, unsigned char value, size_t count, void* stream) {
  return fill("cuMemsetD8Async", at, value, count, stream);
}
CU cuMemsetD16Async(void* at, unsigned short value, size_t count, void* stream) {
  return fill("cuMemsetD16Async", at, value, count, stream);
}
CU cuMemsetD32Async(void* at, unsigned value, size_t count, void* stream) {
  return fill("cuMemsetD32Async", at, value, count, stream);
}

CU cuStreamCreate(void** to, unsigned flags) { return made(call("cuStreamCreate", flags), to); }
CU cuStreamDestroy_v2(void* stream) { return call("cuStreamDestroy_v2", number(stream)); }
CU cuStreamSynchronize(void* stream) { return call("cuStreamSynchronize", number(stream)); }
CU cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return call("cuStreamWaitEvent", number(stream), number(event), flags);
}
CU cuEventCreate(void** to, unsigned flags) { return made(call("cuEventCreate", flags), to); }
CU cuEventDestroy_v2(void* event) { return call("cuEventDestroy_v2", number(event)); }
CU cuEventRecord(void* event, void* stream) { return call("cuEventRecord", number(event), number(stream)); }
CU cuEventSynchronize(void* event) { return call("cuEventSynchronize", number(event)); }
CU cuEventElapsedTime(float* to, void* start, void* end) {
  return *to = 1.5f, call("cuEventElapsedTime", number(start), number(end));
}

CU cuStreamBeginCapture_v2(void* stream, int mode) { return call("cuStreamBeginCapture_v2", number(stream), mode); }
CU cuStreamEndCapture(void* stream, void** to) { return made(call("cuStreamEndCapture", number(stream)), to); }
CU cuGraphInstantiateWithFlags(void** to, void* graph, unsigned long flags) {
  return made(call("cuGraphInstantiateWithFlags", number(graph), flags), to);
}
CU cuGraphDestroy(void* graph) { return call("cuGraphDestroy", number(graph)); }
CU cuGraphLaunch(void* exec, void* stream) { return call("cuGraphLaunch", number(exec), number(stream)); }
CU cuGraphExecDestroy(void* exec) { return call("cuGraphExecDestroy", number(exec)); }

CU cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* at, const unsigned long* shape,
                          const unsigned long* strides, const unsigned* box, const unsigned* steps, int interleave,
                          int swizzle, int promotion, int fill) {
  memset(map, 0x5c, 128);
  return call("cuTensorMapEncodeTiled", number(map) % 64, type, rank, number(at), shape[0], shape[1], shape[2],
              strides[0], strides[1], box[0], box[1], box[2], steps[0], steps[1], steps[2], interleave, swizzle,
              promotion, fill);
}
