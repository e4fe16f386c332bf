using System.Diagnostics.CodeAnalysis;

namespace Kernels;

/// <summary>Whose a device is.</summary>
public enum DeviceKind
{
    /// <summary>This process's processor.</summary>
    Cpu,
    /// <summary>An NVIDIA GPU, through the CUDA driver.</summary>
    Cuda,
    /// <summary>An AMD GPU, through HIP.</summary>
    Hip,
    /// <summary>The simulated GPU of the native library kn_simt: the same kernels on the processor, checked, for tests.</summary>
    Simulated,
}

public sealed partial class Device : IDisposable
{
    private readonly bool _own;  // not shared by all of the process
    private static readonly Lock s_gate = new();
    private static readonly Dictionary<(DeviceKind, int), Device> s_gpus = [];

    internal Device(GpuDriver gpu, bool own)
    {
        _own = own;
        Gpu = gpu;
        Table = KernelTable.Of(gpu);
        Model = gpu.Limits.Name;
        Cores = gpu.Limits.Multiprocessors;
        CacheBytes = [gpu.Limits.SharedBytesPerMultiprocessor, gpu.Limits.L2Bytes, 0];
    }

    internal GpuDriver? Gpu { get; }

    /// <summary>Whose this device is.</summary>
    public DeviceKind Kind => Gpu?.Kind ?? DeviceKind.Cpu;

    /// <summary>The driver's number of a GPU; 0 for the CPU.</summary>
    public int Ordinal => Gpu?.Ordinal ?? 0;

    /// <summary>CUcontext of a CUDA device, for ManagedCuda, ILGPU and others; 0 for all other kinds.</summary>
    public nint Context => Gpu?.Context ?? 0;

    /// <summary>Bytes of a GPU's memory; 0 for the CPU.</summary>
    public long MemoryBytes => Gpu?.Limits.MemoryBytes ?? 0;

    /// <summary>The failure after which a GPU runs nothing more in this process, with the driver's words; null for a sound device.</summary>
    public string? Fault => Gpu?.Fault;

    /// <summary>
    /// The NVIDIA GPU <paramref name="ordinal"/>, in its primary context, which other CUDA code of the process shares. False,
    /// and why, where there is none: no driver, one too old, no such device. Loads the driver, and nothing else does.
    /// </summary>
    public static bool TryGetCuda(int ordinal, [NotNullWhen(true)] out Device? device, [NotNullWhen(false)] out string? reason) =>
        TryGet(DeviceKind.Cuda, ordinal, out device, out reason);

    /// <summary>The AMD GPU <paramref name="ordinal"/>; otherwise as <see cref="TryGetCuda"/>.</summary>
    public static bool TryGetHip(int ordinal, [NotNullWhen(true)] out Device? device, [NotNullWhen(false)] out string? reason) =>
        TryGet(DeviceKind.Hip, ordinal, out device, out reason);

    /// <summary>
    /// A new simulated GPU, for tests where no GPU is: launches, grids and results are those of a device, times are not. Each
    /// fault of a kernel (bounds, races, missing barriers, uninitialised reads) fails its launch. False, and why, where kn_simt
    /// is not beside the assembly or in KERNELS_NATIVE.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <param name="reason">What is missing.</param>
    /// <param name="waveSize">32, as NVIDIA's and AMD's graphics parts have it, or 64, as AMD's compute parts.</param>
    /// <param name="check">Whether every access is checked; without, kernels run several times faster.</param>
    public static bool TryGetSimulated([NotNullWhen(true)] out Device? device, [NotNullWhen(false)] out string? reason, int waveSize = 32, bool check = true)
    {
        device = SimtDriver.TryOpen(waveSize, check, out string why) is { } simt ? new Device(simt, own: true) : null;
        reason = device is null ? why : null;
        return device is not null;
    }

    /// <summary>All GPUs of this machine, NVIDIA's first. Empty where no driver is; the Try functions say why.</summary>
    public static IReadOnlyList<Device> Gpus
    {
        get
        {
            var found = new List<Device>();
            for (int i = 0, count = CudaDriver.Count(out _); i < count; i++)
                if (TryGetCuda(i, out Device? device, out _)) found.Add(device);
            for (int i = 0, count = HipDriver.Count(out _); i < count; i++)
                if (TryGetHip(i, out Device? device, out _)) found.Add(device);
            return found;
        }
    }

    /// <summary>
    /// The device of a CUcontext that the caller made, with ManagedCuda, ILGPU or the driver; it is never destroyed here and
    /// must outlive everything made on this device. Keep the device: each call loads the kernels again. Dispose it before the context ends.
    /// </summary>
    /// <exception cref="KernelsException">No driver, or no context of this process.</exception>
    public static Device FromCudaContext(nint context) => new(CudaDriver.FromContext(context), own: true);

    /// <summary>
    /// Unloads the kernels and ends the memory pool of a device of a caller's context, which launches nothing more; what was made on it
    /// may be disposed later. The CPU and the devices that <see cref="Gpus"/> names are the process's: for them nothing happens.
    /// </summary>
    public void Dispose()
    {
        if (_own) Gpu!.Close();
    }

    /// <summary>A new stream of a GPU.</summary>
    /// <exception cref="KernelsException">The CPU, which has none, or a device that is lost.</exception>
    public Stream CreateStream() => new(this, RequireGpu().CreateStream(), owner: true);

    internal GpuDriver RequireGpu() => Gpu ?? throw new KernelsException(Status.Invalid, "device", "a GPU, not the CPU");

    /// <summary>Whether memory of the other device is this one's.</summary>
    internal bool Shares(Device other) => ReferenceEquals(this, other)
        || (Gpu is { } a && other.Gpu is { } b ? a.Kind == b.Kind && a.Ordinal == b.Ordinal && a.Context == b.Context : Gpu is null && other.Gpu is null);

    private static bool TryGet(DeviceKind kind, int ordinal, [NotNullWhen(true)] out Device? device, [NotNullWhen(false)] out string? reason)
    {
        reason = null;
        lock (s_gate)
        {
            if (s_gpus.TryGetValue((kind, ordinal), out device)) return true;
            GpuDriver? gpu = kind == DeviceKind.Cuda ? CudaDriver.TryOpen(ordinal, out string why) : HipDriver.TryOpen(ordinal, out why);
            if (gpu is null) reason = why;
            else s_gpus.Add((kind, ordinal), device = new Device(gpu, own: false));
            return device is not null;
        }
    }
}
