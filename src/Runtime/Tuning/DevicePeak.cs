using System.Runtime.InteropServices;

namespace Kernels.Tuning;

/// <summary>kn_peak_gpu of native/limits/peak_gpu.h.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnPeakGpu
{
    public float* Sums;
    public int Rounds, Reserved;
}

/// <summary>
/// A kernel that multiplies and reads nothing: what a GPU can do at most with products of one kind. Each round of a block is
/// <paramref name="Operations"/> multiplications and additions.
/// </summary>
internal sealed record DevicePeak(string File, string Kind, int Threads, int SharedBytes, double Operations)
{
    private const int BlocksOfMultiprocessor = 4;
    private const double LeastSeconds = 1e-3;
    private const int Samples = 5, MostRounds = 1 << 24;

    /// <summary>By f32 of all GPUs, mma of 16 x 8 in 8 warps, wgmma of 64 x 128 with two tiles of shared memory; the fastest first of each kind.</summary>
    public static IReadOnlyList<DevicePeak> All { get; } =
    [
        Wgmma("bf16", 16), Wgmma("f16", 16), Wgmma("s8", 32),
        Mma("bf16", 16), Mma("f16", 16), Mma("s8", 32),
        new("peak_gpu", "f32", 256, 0, 2.0 * 256 * 16),
    ];

    /// <summary>The kernel in its file, and the instruction in a table of limits.</summary>
    public string Name => $"{File}_{Kind}";

    private static DevicePeak Mma(string kind, int k) => new("peak_sm80", kind, 256, 0, 2.0 * 8 * 8 * 16 * 8 * k);

    private static DevicePeak Wgmma(string kind, int k) => new("peak_sm90", kind, 128, (64 + 128) * 128 + 1024, 2.0 * 16 * 64 * 128 * k);

    /// <summary>The best of a kind that the device has; null where it has none.</summary>
    public static DevicePeak? Of(GpuDriver gpu, string kind) => All.FirstOrDefault(p => p.Kind == kind && gpu.HasImage(p.File, p.Name, out _));

    /// <summary>Operations a second: of as many rounds as take a millisecond, in as many blocks as fill the device.</summary>
    public double Rate(Device device)
    {
        GpuDriver gpu = device.Gpu!;
        var kernel = new GpuKernel(gpu, File, Name);
        int blocks = gpu.Limits.Multiprocessors * BlocksOfMultiprocessor;
        using Buffer<float> sums = Buffer<float>.Allocate(device, (long)blocks * Threads);
        using var timer = new DeviceTimer(device, 1, CacheState.Warm, eager: true);
        for (int rounds = 1; ; rounds *= 2)
        {
            var call = new TimedCall(Name, _ => Launch(kernel, sums, blocks, rounds, timer.Stream));
            double seconds = timer.Sample(call);
            if (seconds < LeastSeconds && rounds < MostRounds) continue;
            return (double)blocks * rounds * Operations / Enumerable.Range(0, Samples).Min(_ => timer.Sample(call));
        }
    }

    /// <summary>Enqueues <paramref name="rounds"/> rounds; every thread's sum goes to <paramref name="sums"/>.</summary>
    public unsafe void Launch(GpuKernel kernel, Buffer<float> sums, int blocks, int rounds, Stream? stream = null) =>
        kernel.Launch(new GpuGrid(blocks, 1, 1, Threads, SharedBytes: SharedBytes), stream?.Handle ?? 0, new KnPeakGpu { Sums = sums.Pointer, Rounds = rounds });
}
