using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>What a GPU's memory can do: the limit that calls on it are held to.</summary>
internal static unsafe class DeviceLimits
{
    private const int Samples = 10;

    /// <summary>Bytes of one copy: several times L2.</summary>
    public static long CopyBytes(Device device) => Math.Max(1, Math.Min(1L << 28, device.MemoryBytes / 8));

    /// <summary>Bytes a second that a copy within the memory reads and writes together, by events around replays.</summary>
    public static double CopyRate(Device device)
    {
        long bytes = CopyBytes(device);
        using Buffer<byte> from = Buffer<byte>.Allocate(device, bytes), to = Buffer<byte>.Allocate(device, bytes);
        using var timer = new DeviceTimer(device, 1, CacheState.Warm, eager: false);
        nint source = (nint)from.Pointer, target = (nint)to.Pointer;
        var call = new TimedCall("copy", _ => device.Gpu!.Copy(GpuCopy.OnDevice, target, source, bytes, timer.Stream.Handle));
        return 2.0 * bytes / Enumerable.Range(0, Samples).Min(_ => timer.Sample(call));
    }
}
