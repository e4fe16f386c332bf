// The part of HIP's module API that this library calls, the same as of CUDA's driver API. Every function but those that return
// text returns a hipError_t; the numbers are CUDA's where both have the error. Works with ROCm 5.2 and newer.
using System.Runtime.InteropServices;

namespace Kernels.Interop.Hip;

internal enum HipDeviceAttribute
{
    ClockRate = 5,
    CooperativeLaunch = 10,
    L2CacheSize = 19,
    MaxThreadsPerBlock = 56,
    MemoryBusWidth = 59,
    MemoryClockRate = 60,
    MultiprocessorCount = 63,
    MaxSharedMemoryPerBlock = 74,
    SharedMemPerMultiprocessor = 76,
    WarpSize = 87,
    MemoryPoolsSupported = 88,
}

internal enum HipFunctionAttribute { MaxThreadsPerBlock = 0, SharedSizeBytes = 1, ConstSizeBytes = 2, LocalSizeBytes = 3, NumRegs = 4 }

internal enum HipMemPoolAttribute { ReleaseThreshold = 4 }

/// <summary>Portable: pinned for every device.</summary>
internal enum HipHostMallocFlags { Portable = 1 }

internal enum HipStreamCaptureMode { Global = 0, ThreadLocal = 1, Relaxed = 2 }

/// <summary>hipMemPoolProps, 88 bytes, field by field as CUmemPoolProps.</summary>
[StructLayout(LayoutKind.Sequential, Size = 88)]
internal struct HipMemPoolProps
{
    public int AllocType, HandleTypes, LocationType, LocationId;
}

internal static unsafe partial class HipApi
{
    // Initialisation, version, errors.
    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipInit(uint flags);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipRuntimeGetVersion(int* version);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial byte* hipGetErrorName(int error);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial byte* hipGetErrorString(int error);

    // Devices. HIP has no contexts worth the name: a device is current to a thread.
    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGetDeviceCount(int* count);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipDeviceGetName(byte* name, int length, int device);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipDeviceGetAttribute(int* value, HipDeviceAttribute attribute, int device);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipDeviceTotalMem(nuint* bytes, int device);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGetDevicePropertiesR0600(void* properties, int device);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGetDeviceProperties(void* properties, int device);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGetDevice(int* device);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipSetDevice(int device);

    // Modules and functions.
    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipModuleLoadData(nint* module, void* image);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipModuleUnload(nint module);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipModuleGetFunction(nint* function, nint module, byte* name);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipFuncGetAttribute(int* value, HipFunctionAttribute attribute, nint function);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipModuleLaunchKernel(nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ,
        uint sharedBytes, nint stream, void** parameters, void** extra);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipModuleLaunchCooperativeKernel(nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ,
        uint sharedBytes, nint stream, void** parameters);

    // Memory.
    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMalloc(nint* address, nuint bytes);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipFree(nint address);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMallocFromPoolAsync(nint* address, nuint bytes, nint pool, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipFreeAsync(nint address, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemPoolCreate(nint* pool, HipMemPoolProps* properties);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemPoolDestroy(nint pool);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemPoolSetAttribute(nint pool, HipMemPoolAttribute attribute, void* value);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemcpyHtoDAsync(nint to, void* from, nuint bytes, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemcpyDtoHAsync(void* to, nint from, nuint bytes, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemcpyDtoDAsync(nint to, nint from, nuint bytes, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipHostMalloc(void** address, nuint bytes, HipHostMallocFlags flags);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipHostFree(void* address);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemsetD8Async(nint address, byte value, nuint count, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemsetD16Async(nint address, ushort value, nuint count, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipMemsetD32Async(nint address, int value, nuint count, nint stream);

    // Streams and events.
    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipStreamCreateWithFlags(nint* stream, uint flags);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipStreamDestroy(nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipStreamSynchronize(nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipStreamWaitEvent(nint stream, nint ev, uint flags);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipEventCreateWithFlags(nint* ev, uint flags);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipEventDestroy(nint ev);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipEventRecord(nint ev, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipEventSynchronize(nint ev);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipEventElapsedTime(float* milliseconds, nint start, nint end);

    // Capture and graphs.
    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipStreamBeginCapture(nint stream, HipStreamCaptureMode mode);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipStreamEndCapture(nint stream, nint* graph);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGraphInstantiate(nint* exec, nint graph, nint* errorNode, byte* log, nuint logBytes);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGraphLaunch(nint exec, nint stream);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGraphDestroy(nint graph);

    [LibraryImport(DriverLibrary.Hip)]
    internal static partial int hipGraphExecDestroy(nint exec);
}
