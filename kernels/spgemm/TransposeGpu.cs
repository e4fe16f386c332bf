using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// transpose/gpu: a matrix in compressed rows, transposed, by transpose_gpu.h. Of the problem it reads m, n, a_nnz and index_bytes; args are
/// a <see cref="KnTransposeGpu"/> whose workspace is in Keys: a word for each entry, and what the prefix sums need.
/// </summary>
internal sealed unsafe class TransposeGpu : GpuRow
{
    private const string File = "transpose_gpu";
    private const int Threads = 256, SmallThreads = 128, LongestGrid = 65535;
    private readonly GpuKernel _count, _place, _wave, _block;
    private readonly GpuScan _scan;

    public TransposeGpu(GpuDriver gpu) : base(gpu, "transpose/gpu", File, "transpose_gpu_place")
    {
        (_count, _place, _wave, _block) = (Kernel("transpose_gpu_count"), Kernel("transpose_gpu_place"), Kernel("transpose_gpu_wave"), Kernel("transpose_gpu_block"));
        _scan = new GpuScan(gpu);
    }

    public override KnOp Op => KnOp.Transpose;

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        ref readonly KnSpgemmProblem p = ref *(KnSpgemmProblem*)problem;
        why = Math.Max(p.M, p.N) > 1L << 32 ? "p.M <= 2^32 && p.N <= 2^32" : null;
        return why is null;
    }

    public override long Workspace(void* problem, in KnLaunch launch)
    {
        ref readonly KnSpgemmProblem p = ref *(KnSpgemmProblem*)problem;
        return p.ANnz * sizeof(ulong) + GpuScan.Bytes(p.N);
    }

    protected override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnTransposeGpu k = ref *(KnTransposeGpu*)args;
        Gpu.Fill((nint)k.To.Offsets, 0, (k.N + 1) * sizeof(long), stream);
        if (k.Nnz == 0) return;
        _count.Launch(Grid(k.Nnz, Threads), stream, k);
        _scan.Run(k.To.Offsets, k.N, (long*)(k.Keys + k.Nnz), stream);
        _place.Launch(Grid((k.Nnz + 7) / 8, Threads), stream, k);
        _wave.Launch(Grid(k.N * Gpu.Limits.WaveSize, SmallThreads), stream, k);
        _block.Launch(Grid(k.N * Threads, Threads), stream, k);
    }

    /// <summary>Blocks for so many threads, as many as a device keeps busy.</summary>
    private GpuGrid Grid(long wanted, int threads) =>
        new((int)Math.Min(Math.Min((wanted + threads - 1) / threads, 32L * Math.Max(1, Gpu.Limits.Multiprocessors)), LongestGrid), 1, 1, threads);
}
