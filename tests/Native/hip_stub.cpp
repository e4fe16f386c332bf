// A libamdhip64 without a GPU: two devices, with the declarations of hip_runtime_api.h. KN_ROCM is the major version
// that it is of: before 6 the struct of properties is shorter and has another entry point.
#include "driver_stub.h"

namespace {

int version = KN_ROCM * 10000000 + 241133, current = 0;
std::string architecture = "gfx942:sramecc+:xnack-";

struct pool_properties {
  int type, handles, location_type, location_id;
  void* security;
  size_t most;
  unsigned char reserved[56];
};

// Where hipDeviceProp_t has gcnArchName, and its size.
constexpr size_t kArchName = KN_ROCM >= 6 ? 1160 : 396, kProperties = KN_ROCM >= 6 ? 1472 : 792;

}  // namespace

STUB stub_version(int to) { return version = to, 0; }
STUB stub_architecture(const char* to) { return architecture = to, 0; }

STUB hipInit(unsigned flags) { return call("hipInit", flags); }
STUB hipRuntimeGetVersion(int* to) { return *to = version, call("hipRuntimeGetVersion"); }
extern "C" KN_EXPORT const char* hipGetErrorName(int code) {
  return code == 700 ? "hipErrorIllegalAddress" : "hipErrorStub";
}
extern "C" KN_EXPORT const char* hipGetErrorString(int) { return "words of the stub"; }

STUB hipGetDeviceCount(int* to) { return *to = 2, call("hipGetDeviceCount"); }
STUB hipGetDevice(int* to) { return *to = current, 0; }
STUB hipSetDevice(int device) { return current = device, call("hipSetDevice", device); }
STUB hipDeviceGetName(char* to, int room, int device) {
  return strncpy(to, device == 0 ? "Stub gfx GPU" : "", room), 0;
}
STUB hipDeviceTotalMem(size_t* to, int) { return *to = 1ul << 37, 0; }
STUB hipDeviceGetAttribute(int* to, int attribute, int) {
  return *to = attribute == 87 ? 64 : 1000 + attribute, attribute == 19 ? 1 : 0;  // 87 is the wave's size, 19 the L2's
}
#if KN_ROCM >= 6
STUB hipGetDevicePropertiesR0600(char* to, int device) {
#else
STUB hipGetDeviceProperties(char* to, int device) {
#endif
  memset(to, 0, kProperties);
  strcpy(to, "Stub gfx GPU");  // a name that looks like an architecture
  strcpy(to + kArchName, architecture.c_str());
  return call("hipGetDeviceProperties", device);
}

STUB hipModuleLoadData(void** to, const char* image) {
  return made(call("hipModuleLoadData", std::string(image + 1, 3)), to);
}
STUB hipModuleUnload(void* module) { return call("hipModuleUnload", number(module)); }
STUB hipModuleGetFunction(void** to, void*, const char* name) { return made(call("hipModuleGetFunction", name), to); }
STUB hipFuncGetAttribute(int* to, int attribute, void*) {
  return *to = attribute, call("hipFuncGetAttribute", attribute);
}
STUB hipModuleLaunchKernel(void*, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                           unsigned shared, void* stream, void** parameters, void** extra) {
  return call("hipModuleLaunchKernel", gx, gy, gz, bx, by, bz, shared, number(stream),
              *static_cast<int*>(parameters[0]), number(extra));
}
STUB hipModuleLaunchCooperativeKernel(void*, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                      unsigned bz, unsigned shared, void* stream, void** parameters) {
  return call("hipModuleLaunchCooperativeKernel", gx, gy, gz, bx, by, bz, shared, number(stream),
              *static_cast<int*>(parameters[0]));
}

STUB hipMalloc(void** to, size_t bytes) { return allocated(call("hipMalloc", bytes), to, bytes); }
STUB hipFree(void* at) { return free(at), call("hipFree"); }
STUB hipHostMalloc(void** to, size_t bytes, unsigned flags) {
  return allocated(call("hipHostMalloc", bytes, flags), to, bytes);
}
STUB hipHostFree(void* at) { return free(at), call("hipHostFree"); }
STUB hipMemPoolCreate(void** to, const pool_properties* p) {
  return made(call("hipMemPoolCreate", p->type, p->handles, p->location_type, p->location_id), to);
}
STUB hipMemPoolSetAttribute(void*, int attribute, unsigned long* value) {
  return call("hipMemPoolSetAttribute", attribute, *value);
}
STUB hipMemPoolDestroy(void* pool) { return call("hipMemPoolDestroy", number(pool)); }
STUB hipMallocFromPoolAsync(void** to, size_t bytes, void*, void* stream) {
  return allocated(call("hipMallocFromPoolAsync", bytes, number(stream)), to, bytes);
}
STUB hipFreeAsync(void* at, void* stream) { return free(at), call("hipFreeAsync", number(stream)); }

STUB hipMemcpyHtoDAsync(void* to, const void* from, size_t bytes, void* stream) {
  return copy("hipMemcpyHtoDAsync", to, from, bytes, stream);
}
STUB hipMemcpyDtoHAsync(void* to, void* from, size_t bytes, void* stream) {
  return copy("hipMemcpyDtoHAsync", to, from, bytes, stream);
}
STUB hipMemcpyDtoDAsync(void* to, void* from, size_t bytes, void* stream) {
  return copy("hipMemcpyDtoDAsync", to, from, bytes, stream);
}
STUB hipMemsetD8Async(void* at, unsigned char value, size_t count, void* stream) {
  return fill("hipMemsetD8Async", at, value, count, stream);
}
STUB hipMemsetD16Async(void* at, unsigned short value, size_t count, void* stream) {
  return fill("hipMemsetD16Async", at, value, count, stream);
}
STUB hipMemsetD32Async(void* at, int value, size_t count, void* stream) {
  return fill("hipMemsetD32Async", at, value, count, stream);
}

STUB hipStreamCreateWithFlags(void** to, unsigned flags) { return made(call("hipStreamCreateWithFlags", flags), to); }
STUB hipStreamDestroy(void* stream) { return call("hipStreamDestroy", number(stream)); }
STUB hipStreamSynchronize(void* stream) { return call("hipStreamSynchronize", number(stream)); }
STUB hipStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return call("hipStreamWaitEvent", number(stream), number(event), flags);
}
STUB hipEventCreateWithFlags(void** to, unsigned flags) { return made(call("hipEventCreateWithFlags", flags), to); }
STUB hipEventDestroy(void* event) { return call("hipEventDestroy", number(event)); }
STUB hipEventRecord(void* event, void* stream) { return call("hipEventRecord", number(event), number(stream)); }
STUB hipEventSynchronize(void* event) { return call("hipEventSynchronize", number(event)); }
STUB hipEventElapsedTime(float* to, void* start, void* end) {
  return *to = 1.5f, call("hipEventElapsedTime", number(start), number(end));
}

STUB hipStreamBeginCapture(void* stream, int mode) { return call("hipStreamBeginCapture", number(stream), mode); }
STUB hipStreamEndCapture(void* stream, void** to) { return made(call("hipStreamEndCapture", number(stream)), to); }
STUB hipGraphInstantiate(void** to, void* graph, void**, char*, size_t room) {
  return made(call("hipGraphInstantiate", number(graph), room), to);
}
STUB hipGraphDestroy(void* graph) { return call("hipGraphDestroy", number(graph)); }
STUB hipGraphLaunch(void* exec, void* stream) { return call("hipGraphLaunch", number(exec), number(stream)); }
STUB hipGraphExecDestroy(void* exec) { return call("hipGraphExecDestroy", number(exec)); }
