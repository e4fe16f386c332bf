// The part of the CUDA driver API that this library calls, by the names that the driver exports: a header maps cuMemAlloc to
// cuMemAlloc_v2, an import must say so itself. Every function returns a CUresult and wants its context current, but for those
// that take a device. cuLaunchKernelEx needs a driver of 11.8, cuTensorMapEncodeTiled of 12.0, all others 11.4.
using System.Runtime.InteropServices;

namespace Kernels.Interop.Cuda;

internal static unsafe partial class CudaApi
{
    internal const int LaunchExVersion = 11080, TensorMapVersion = 12000, LowestVersion = 11040;

    // Initialisation, version, errors.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuInit(uint flags);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDriverGetVersion(int* version);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuGetErrorName(CUresult error, byte** name);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuGetErrorString(CUresult error, byte** text);

    // Devices.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDeviceGetCount(int* count);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDeviceGet(int* device, int ordinal);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDeviceGetName(byte* name, int length, int device);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, int device);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDeviceTotalMem_v2(nuint* bytes, int device);

    // Contexts.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuDevicePrimaryCtxRetain(nint* context, int device);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuCtxPushCurrent_v2(nint context);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuCtxPopCurrent_v2(nint* context);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuCtxGetCurrent(nint* context);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuCtxGetDevice(int* device);

    // Modules and functions.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuModuleLoadDataEx(nint* module, void* image, uint count, CUjit_option* options, void** values);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuModuleUnload(nint module);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuModuleGetFunction(nint* function, nint module, byte* name);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, nint function);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuFuncSetAttribute(nint function, CUfunction_attribute attribute, int value);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuLaunchKernel(nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ,
        uint sharedBytes, nint stream, void** parameters, void** extra);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuLaunchKernelEx(CUlaunchConfig* config, nint function, void** parameters, void** extra);

    // Memory.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemAlloc_v2(nint* address, nuint bytes);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemFree_v2(nint address);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemAllocFromPoolAsync(nint* address, nuint bytes, nint pool, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemFreeAsync(nint address, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemPoolCreate(nint* pool, CUmemPoolProps* properties);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemPoolDestroy(nint pool);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemPoolSetAttribute(nint pool, CUmemPool_attribute attribute, void* value);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemcpyHtoDAsync_v2(nint to, void* from, nuint bytes, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemcpyDtoHAsync_v2(void* to, nint from, nuint bytes, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemcpyDtoDAsync_v2(nint to, nint from, nuint bytes, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemHostAlloc(void** address, nuint bytes, CUmemHostAlloc_flags flags);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemFreeHost(void* address);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemsetD8Async(nint address, byte value, nuint count, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemsetD16Async(nint address, ushort value, nuint count, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuMemsetD32Async(nint address, uint value, nuint count, nint stream);

    // Streams and events.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuStreamCreate(nint* stream, uint flags);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuStreamDestroy_v2(nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuStreamSynchronize(nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuStreamWaitEvent(nint stream, nint ev, uint flags);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuEventCreate(nint* ev, uint flags);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuEventDestroy_v2(nint ev);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuEventRecord(nint ev, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuEventSynchronize(nint ev);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuEventElapsedTime(float* milliseconds, nint start, nint end);

    // Capture and graphs.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuStreamBeginCapture_v2(nint stream, CUstreamCaptureMode mode);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuStreamEndCapture(nint stream, nint* graph);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuGraphInstantiateWithFlags(nint* exec, nint graph, ulong flags);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuGraphLaunch(nint exec, nint stream);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuGraphDestroy(nint graph);

    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuGraphExecDestroy(nint exec);

    // Tensor maps.
    [LibraryImport(DriverLibrary.Cuda)]
    internal static partial CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, uint rank, nint address, ulong* shape, ulong* stridesInBytes,
        uint* box, uint* elementStrides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
        CUtensorMapFloatOOBfill fill);
}
