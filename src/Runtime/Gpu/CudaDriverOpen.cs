using System.Globalization;
using System.Runtime.InteropServices;
using Kernels.Interop;
using Kernels.Interop.Cuda;
using static Kernels.Interop.Cuda.CudaApi;

namespace Kernels;

/// <summary>Finding the driver and its devices: what is absent is a reason, not a failure.</summary>
internal sealed unsafe partial class CudaDriver
{
    /// <summary>Devices that the driver has. 0 with a reason where there is no driver, or none that can be used.</summary>
    public static int Count(out string reason)
    {
        reason = Init(out _)?.Rule ?? "";
        if (reason.Length > 0) return 0;
        int count = 0;
        CUresult result = cuDeviceGetCount(&count);
        reason = result != CUresult.SUCCESS ? Sentence("cuDeviceGetCount", result) : count == 0 ? "the NVIDIA driver has no device" : "";
        return result == CUresult.SUCCESS ? count : 0;
    }

    /// <summary>The device in its primary context, which this process then keeps.</summary>
    public static CudaDriver? TryOpen(int ordinal, out string reason)
    {
        int count = Count(out reason), device = 0;
        if (count == 0) return null;
        if (ordinal < 0 || ordinal >= count)
        {
            reason = string.Create(CultureInfo.InvariantCulture, $"there is no CUDA device {ordinal}, only {count}");
            return null;
        }
        _ = Init(out int version);
        nint context = 0;
        CUresult result = cuDeviceGet(&device, ordinal);
        if (result == CUresult.SUCCESS) result = cuDevicePrimaryCtxRetain(&context, device);
        if (result == CUresult.SUCCESS) return new CudaDriver(device, context, version);
        reason = Sentence("cuDevicePrimaryCtxRetain", result);
        return null;
    }

    /// <summary>The device of a caller's context, which is never destroyed here.</summary>
    public static CudaDriver FromContext(nint context)
    {
        KernelsException.Require(context != 0, nameof(context), "not null");
        if (Init(out int version) is { } failed) throw failed;
        int device = 0;
        CUresult result = cuCtxPushCurrent_v2(context);
        if (result == CUresult.SUCCESS)
        {
            result = cuCtxGetDevice(&device);
            nint popped;
            _ = cuCtxPopCurrent_v2(&popped);
        }
        if (result != CUresult.SUCCESS)
            throw new KernelsException(Status.Device, nameof(context), $"a CUcontext of this process: {Sentence("cuCtxPushCurrent", result)}") { DriverCode = (int)result, DeviceFailure = DeviceFailure.Call };
        return new CudaDriver(device, context, version);
    }

    /// <summary>Null where there is a driver that can be used, with its version; else what fails whoever needs one.</summary>
    private static KernelsException? Init(out int version)
    {
        DriverLibrary.Register();
        version = 0;
        int found = 0;
        CUresult result = CUresult.SUCCESS;
        try
        {
            result = cuInit(0);
            if (result == CUresult.SUCCESS) result = cuDriverGetVersion(&found);
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException or BadImageFormatException)
        {
            return No(DeviceFailure.NoDriver, $"no NVIDIA driver: {string.Join(", ", DriverLibrary.Candidates(DriverLibrary.Cuda))} cannot be loaded"
                + (e is DllNotFoundException ? "" : $" ({e.Message})"));
        }
        version = found;
        return result == CUresult.NO_DEVICE ? No(DeviceFailure.NoDriver, "the NVIDIA driver has no device")
            : result != CUresult.SUCCESS ? No(DeviceFailure.Call, Sentence("cuInit", result))
            : version < LowestVersion ? No(DeviceFailure.OldDriver, $"the NVIDIA driver is too old: it is of CUDA {Version(version)}, and {Version(LowestVersion)} is needed")
            : null;

        KernelsException No(DeviceFailure failure, string rule) => new(Status.Device, "cuda", rule) { DriverCode = (int)result, DeviceFailure = failure };
    }

    private static string Version(int version) => string.Create(CultureInfo.InvariantCulture, $"{version / 1000}.{version % 1000 / 10}");

    private static GpuLimits ReadLimits(int device, int version)
    {
        byte* name = stackalloc byte[256];
        name[0] = 0;
        _ = cuDeviceGetName(name, 255, device);
        nuint memory = 0;
        _ = cuDeviceTotalMem_v2(&memory, device);
        int Of(CUdevice_attribute attribute)
        {
            int value = 0;  // stays 0 where an old driver does not know the attribute
            return cuDeviceGetAttribute(&value, attribute, device) == CUresult.SUCCESS ? value : 0;
        }
        return new GpuLimits
        {
            Name = Marshal.PtrToStringUTF8((nint)name)!,
            Architecture = string.Create(CultureInfo.InvariantCulture, $"sm_{Of(CUdevice_attribute.COMPUTE_CAPABILITY_MAJOR)}{Of(CUdevice_attribute.COMPUTE_CAPABILITY_MINOR)}"),
            Driver = $"CUDA {Version(version)}",
            Multiprocessors = Of(CUdevice_attribute.MULTIPROCESSOR_COUNT),
            WaveSize = Of(CUdevice_attribute.WARP_SIZE),
            ThreadsPerBlock = Of(CUdevice_attribute.MAX_THREADS_PER_BLOCK),
            SharedBytesPerBlock = Math.Max(Of(CUdevice_attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), Of(CUdevice_attribute.MAX_SHARED_MEMORY_PER_BLOCK)),
            SharedBytesPerMultiprocessor = Of(CUdevice_attribute.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR),
            L2Bytes = Of(CUdevice_attribute.L2_CACHE_SIZE),
            MemoryBytes = (long)memory,
            // kHz, two transfers a clock, bits
            MemoryRate = 2e3 * Of(CUdevice_attribute.MEMORY_CLOCK_RATE) * Of(CUdevice_attribute.GLOBAL_MEMORY_BUS_WIDTH) / 8,
            Cooperative = Of(CUdevice_attribute.COOPERATIVE_LAUNCH) != 0,
            Clusters = Of(CUdevice_attribute.CLUSTER_LAUNCH) != 0 && version >= LaunchExVersion,
            TensorMaps = Of(CUdevice_attribute.COMPUTE_CAPABILITY_MAJOR) >= 9 && version >= TensorMapVersion,
            Pools = Of(CUdevice_attribute.MEMORY_POOLS_SUPPORTED) != 0,
        };
    }
}
