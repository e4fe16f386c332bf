// Types of cuda.h, with its names and numbers. Handles are nint, CUdeviceptr is nint (64-bit processes only).
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Kernels.Interop.Cuda;

/// <summary>CUdevice_attribute, as far as it is asked for.</summary>
internal enum CUdevice_attribute
{
    MAX_THREADS_PER_BLOCK = 1,
    MAX_SHARED_MEMORY_PER_BLOCK = 8,
    WARP_SIZE = 10,
    CLOCK_RATE = 13,
    MULTIPROCESSOR_COUNT = 16,
    MEMORY_CLOCK_RATE = 36,
    GLOBAL_MEMORY_BUS_WIDTH = 37,
    L2_CACHE_SIZE = 38,
    COMPUTE_CAPABILITY_MAJOR = 75,
    COMPUTE_CAPABILITY_MINOR = 76,
    MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81,
    COOPERATIVE_LAUNCH = 95,
    MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
    MEMORY_POOLS_SUPPORTED = 115,
    CLUSTER_LAUNCH = 120,
}

internal enum CUfunction_attribute
{
    MAX_THREADS_PER_BLOCK = 0,
    SHARED_SIZE_BYTES = 1,
    CONST_SIZE_BYTES = 2,
    LOCAL_SIZE_BYTES = 3,
    NUM_REGS = 4,
    PTX_VERSION = 5,
    BINARY_VERSION = 6,
    MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    PREFERRED_SHARED_MEMORY_CARVEOUT = 9,
    NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
}

internal enum CUlaunchAttributeID
{
    COOPERATIVE = 2,
    CLUSTER_DIMENSION = 4,
    CLUSTER_SCHEDULING_POLICY_PREFERENCE = 5,
    PROGRAMMATIC_STREAM_SERIALIZATION = 6,
}

/// <summary>72 bytes: the identity, padding to 8, a union of 64 of which the two forms used here are named.</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal struct CUlaunchAttribute
{
    [FieldOffset(0)] public CUlaunchAttributeID Id;
    [FieldOffset(8)] public int Flag;  // cooperative, programmaticStreamSerializationAllowed
    [FieldOffset(8)] public uint ClusterX;
    [FieldOffset(12)] public uint ClusterY;
    [FieldOffset(16)] public uint ClusterZ;
}

/// <summary>56 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CUlaunchConfig
{
    public uint GridX, GridY, GridZ;
    public uint BlockX, BlockY, BlockZ;
    public uint SharedMemBytes;
    public nint Stream;
    public CUlaunchAttribute* Attrs;
    public uint NumAttrs;
}

/// <summary>128 bytes that only the driver reads, at an address divisible by 64.</summary>
[InlineArray(16)]
internal struct CUtensorMap { private ulong _0; }

internal enum CUtensorMapDataType { UINT8 = 0, UINT16 = 1, UINT32 = 2, INT32 = 3, UINT64 = 4, INT64 = 5, FLOAT16 = 6, FLOAT32 = 7, FLOAT64 = 8, BFLOAT16 = 9 }

internal enum CUtensorMapInterleave { NONE = 0, B16 = 1, B32 = 2 }

internal enum CUtensorMapSwizzle { NONE = 0, B32 = 1, B64 = 2, B128 = 3 }

internal enum CUtensorMapL2promotion { NONE = 0, B64 = 1, B128 = 2, B256 = 3 }

internal enum CUtensorMapFloatOOBfill { NONE = 0, NAN_REQUEST_ZERO_FMA = 1 }

/// <summary>CUmemPoolProps, 88 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Size = 88)]
internal struct CUmemPoolProps
{
    public int AllocType;     // CU_MEM_ALLOCATION_TYPE_PINNED = 1, the only one
    public int HandleTypes;   // 0: not for export
    public int LocationType;  // CU_MEM_LOCATION_TYPE_DEVICE = 1
    public int LocationId;    // ordinal
}

internal enum CUmemPool_attribute { RELEASE_THRESHOLD = 4, RESERVED_MEM_CURRENT = 5, USED_MEM_CURRENT = 7 }

/// <summary>Portable: pinned for every context.</summary>
internal enum CUmemHostAlloc_flags { PORTABLE = 1 }

internal enum CUjit_option { INFO_LOG_BUFFER = 3, INFO_LOG_BUFFER_SIZE_BYTES = 4, ERROR_LOG_BUFFER = 5, ERROR_LOG_BUFFER_SIZE_BYTES = 6 }

internal enum CUstreamCaptureMode { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 }

/// <summary>CUresult: those that are told apart.</summary>
internal enum CUresult
{
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    ECC_UNCORRECTABLE = 214,
    INVALID_PTX = 218,
    JIT_COMPILER_NOT_FOUND = 221,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_TIMEOUT = 702,
    CONTEXT_IS_DESTROYED = 709,
    ASSERT = 710,
    HARDWARE_STACK_ERROR = 714,
    LAUNCH_FAILED = 719,
    COOPERATIVE_LAUNCH_TOO_LARGE = 720,
    NOT_SUPPORTED = 801,
    UNKNOWN = 999,
}
