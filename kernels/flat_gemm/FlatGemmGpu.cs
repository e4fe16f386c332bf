using System.Collections.Immutable;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// flat_gemm/gpu: dot products on vector units, NVIDIA and AMD. Launch parameters: rows of x that a wave holds at once, 0 for the
/// fewest that hold m; splits of k, 0 for as many as fill the device. Reads weights as they are.
/// </summary>
internal sealed unsafe class FlatGemmGpu(GpuDriver gpu) : GpuRow(gpu, "flat_gemm/gpu", "flat_gemm_gpu")
{
    private const int IntegerK = 131071, KStep = 128;  // KN_FLAT_GEMM_GPU_INTEGER_K, KN_FLAT_GEMM_GPU_K_STEP
    private const int ColumnsPerBlock = 16, WavesPerBlock = 4, ReduceThreads = 256, LongestGrid = 65535;
    private const int BlocksPerMultiprocessor = 4, LeastSplit = 512;

    private static readonly int[] s_rows = [1, 4, 8, 16];

    private static readonly (DType W, DType X)[] s_kinds =
    [
        (DType.Float32, DType.Float32), (DType.BFloat16, DType.BFloat16), (DType.BFloat16, DType.Float16), (DType.BFloat16, DType.Float32),
        (DType.Float16, DType.BFloat16), (DType.Float16, DType.Float16), (DType.Float16, DType.Float32),
        (DType.Int8, DType.Int8), (DType.Int8, DType.BFloat16), (DType.UInt4, DType.BFloat16),
    ];

    private readonly GpuKernel?[] _kernels = new GpuKernel?[s_kinds.Length * s_rows.Length];
    private readonly GpuKernel _quantize = new(gpu, "flat_gemm_gpu", "flat_gemm_gpu_quantize");
    private readonly GpuKernel _reduce = new(gpu, "flat_gemm_gpu", "flat_gemm_gpu_reduce");

    /// <summary>The GPU rows of the operation, best first.</summary>
    public static ImmutableArray<Row> Rows(GpuDriver gpu) => [new FlatGemmGpu(gpu)];

    public override KnOp Op => KnOp.FlatGemm;

    /// <summary>A lane's chain over k, a tree over lanes, splits in order: nothing of it depends on m as long as the splits do not.</summary>
    public override string? Bits => "gpu";

    public override bool BitsOfDefaultLaunch => true;

    public override ImmutableArray<RowParameter> Parameters { get; } = [new("rows", [0, 1, 4, 8, 16]), new("splits", [0, 1, 2, 4, 8, 16])];

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        if (problem == null)
        {
            why = "problem != null";
            return false;
        }
        ref readonly KnFlatGemmProblem p = ref *(KnFlatGemmProblem*)problem;
        why = launch.Size != sizeof(KnLaunch) ? "launch.Size == sizeof(KnLaunch)"
            : !Parameters[0].Values.Contains(launch.Param[0]) ? "rows is 0, 1, 4, 8 or 16"
            : !Parameters[1].Values.Contains(launch.Param[1]) ? "splits is 0, 1, 2, 4, 8 or 16"
            : launch.Param[2] != 0 || launch.Param[3] != 0 ? "this row has two launch parameters"
            : null;
        if (why is not null || !FlatGemmRules.Valid(p, out why)) return false;
        if (Integer(p) && p.K > IntegerK) why = "p.K <= 131071, whose products one s32 holds";
        return why is null;
    }

    public override long Workspace(void* problem, in KnLaunch launch) => new Scratch(*(KnFlatGemmProblem*)problem, Splits(*(KnFlatGemmProblem*)problem, launch)).Bytes;

    protected override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnFlatGemmProblem p = ref *(KnFlatGemmProblem*)problem;
        ref readonly KnFlatGemmArgs a = ref *(KnFlatGemmArgs*)args;
        int splits = Splits(p, launch);
        var scratch = new Scratch(p, splits);
        if (!FlatGemmRules.Check(p, a, -1, scratch.Bytes, out string? argument, out string? rule))
            throw new KernelsException(Status.Invalid, argument, $"requires {rule}");
        if (a.M == 0 || p.N == 0) return;
        bool quantize = ((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) != 0;
        KnFlatGemmGpu k = Argument(p, a, splits, scratch);
        int columns = Columns(p), rows = RowsOfWave(launch, a.M);
        if (quantize)
        {
            _quantize.Launch(new GpuGrid(a.M, 1, 1, ReduceThreads), stream, k);
            k.X = k.Quantized;
            k.Ldx = k.Ldq;
            k.XType = (int)DType.Int8;
        }
        KernelOf((DType)p.WType, (DType)k.XType, rows).Launch(new GpuGrid(
            (columns + ColumnsPerBlock - 1) / ColumnsPerBlock, splits, Math.Min((a.M + rows - 1) / rows, LongestGrid), WavesPerBlock * Gpu.Limits.WaveSize), stream, k);
        if (splits > 1) _reduce.Launch(new GpuGrid((p.N + ReduceThreads - 1) / ReduceThreads, Math.Min(a.M, LongestGrid), 1, ReduceThreads), stream, k);
    }

    private static KnFlatGemmGpu Argument(in KnFlatGemmProblem p, in KnFlatGemmArgs a, int splits, in Scratch scratch)
    {
        bool quantize = ((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) != 0;
        byte* workspace = (byte*)a.Workspace;
        return new KnFlatGemmGpu
        {
            X = a.X,
            W = a.W,
            Scales = a.Scales,
            Zeros = a.Zeros,
            Bias = a.Bias,
            Residual = a.Residual,
            Y = a.Y,
            Partial = workspace,
            XScales = quantize ? (float*)(workspace + scratch.XScalesAt) : a.XScales,
            Quantized = (sbyte*)(workspace + scratch.QuantizedAt),
            Ldx = a.Ldx,
            Ldw = a.Ldw,
            Ldr = a.Ldr,
            Ldy = a.Ldy,
            Ldq = scratch.Ldq,
            M = a.M,
            N = p.N,
            K = p.K,
            KSplit = KSplit(p, splits),
            Splits = splits,
            Group = p.Group,
            XType = p.XType,
            WType = p.WType,
            YType = p.YType,
            Activation = p.Activation,
            Flags = p.Flags,
            Integer = Integer(p) ? 1 : 0,
        };
    }

    private GpuKernel KernelOf(DType w, DType x, int rows)
    {
        int at = Array.IndexOf(s_kinds, (w, x)) * s_rows.Length + Array.IndexOf(s_rows, rows);
        return _kernels[at] ??= Kernel($"flat_gemm_gpu_{Name(w)}_{Name(x)}_m{rows}");

        static string Name(DType type) => type switch { DType.Float32 => "f32", DType.BFloat16 => "bf16", DType.Float16 => "f16", DType.Int8 => "s8", _ => "u4" };
    }

    private static bool Integer(in KnFlatGemmProblem p) => p.XType == (int)DType.Int8 || ((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) != 0;

    private static int Columns(in KnFlatGemmProblem p) => ((KnGemmFlags)p.Flags & KnGemmFlags.Gated) != 0 ? 2 * p.N : p.N;

    private static int RowsOfWave(in KnLaunch launch, int m)
    {
        if (launch.Param[0] != 0) return launch.Param[0];
        foreach (int rows in s_rows)
            if (m <= rows) return rows;
        return s_rows[^1];
    }

    /// <summary>Parts of k: what the launch says, or as many as give every multiprocessor its blocks; never one without elements.</summary>
    private int Splits(in KnFlatGemmProblem p, in KnLaunch launch)
    {
        int wanted = launch.Param[1];
        if (wanted == 0)
        {
            int blocks = Math.Max(1, (Columns(p) + ColumnsPerBlock - 1) / ColumnsPerBlock), full = BlocksPerMultiprocessor * Gpu.Limits.Multiprocessors;
            wanted = Math.Clamp(Math.Min((full + blocks - 1) / blocks, p.K / LeastSplit), 1, 16);
        }
        int k = KSplit(p, wanted);
        return Math.Max(1, (p.K + k - 1) / k);
    }

    private static int KSplit(in KnFlatGemmProblem p, int splits) => (int)Math.Max(RoundUp((p.K + (long)splits - 1) / splits, KStep), KStep);

    /// <summary>Where things are in the workspace: sums of splits, quantised x, its scales.</summary>
    private readonly struct Scratch
    {
        public readonly long QuantizedAt, XScalesAt, Bytes, Ldq;

        public Scratch(in KnFlatGemmProblem p, int splits)
        {
            bool quantize = ((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) != 0;
            Ldq = quantize ? RoundUp(p.K, 16) : 0;
            QuantizedAt = splits > 1 ? RoundUp(4L * splits * p.M * Columns(p), 256) : 0;
            XScalesAt = QuantizedAt + RoundUp(p.M * Ldq, 256);
            Bytes = XScalesAt + (quantize ? RoundUp(4L * p.M, 256) : 0);
        }
    }

    /// <summary>
    /// Seconds of one call: weights once for every 16 rows, from L2 after the first time, against multiply-adds, whichever is
    /// longer, and what launches cost.
    /// </summary>
    public double Seconds(in KnFlatGemmProblem p, in KnLaunch launch, int m)
    {
        const double Launch = 2.5e-6, Clock = 1.5e9, LanesPerMultiprocessor = 128, UnknownRate = 500e9, L2Gain = 3;
        int splits = Splits(p, launch), rows = RowsOfWave(launch, m), columns = Columns(p);
        double passes = Math.Ceiling((double)m / rows), weights = (double)columns * p.K * ((DType)p.WType).Bits() / 8;
        double rate = Gpu.Limits.MemoryRate > 0 ? 0.8 * Gpu.Limits.MemoryRate : UnknownRate;
        double blocks = Math.Ceiling(columns / (double)ColumnsPerBlock) * splits * passes;
        double filled = Math.Min(1, blocks / (BlocksPerMultiprocessor * Math.Max(1, Gpu.Limits.Multiprocessors)));
        double memory = weights / rate * (1 + (passes - 1) / L2Gain) + (splits > 1 ? 8.0 * splits * m * columns / rate : 0);
        double compute = passes * rows * (double)columns * p.K / (Gpu.Limits.Multiprocessors * LanesPerMultiprocessor * Clock * (Integer(p) ? 2 : 0.5));
        int launches = 1 + (splits > 1 ? 1 : 0) + (((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) != 0 ? 1 : 0);
        return Math.Max(memory, compute) / filled + launches * Launch;
    }
}
