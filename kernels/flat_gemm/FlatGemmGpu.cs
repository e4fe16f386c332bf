using System.Collections.Immutable;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// What the GPU rows of flat_gemm share: one argument struct (flat_gemm_gpu.h), quantisation of x before, sums over splits of k
/// after. A row adds its kinds of operands and its tiles. They read weights as they are.
/// </summary>
internal abstract unsafe class FlatGemmGpu : GpuRow
{
    private const string PortableFile = "flat_gemm_gpu";
    internal const int IntegerK = 131071;  // KN_FLAT_GEMM_GPU_INTEGER_K
    private const int KStep = 128;         // KN_FLAT_GEMM_GPU_K_STEP
    private const int ReduceThreads = 256, LongestGrid = 65535, LeastSplit = 512, MostSplits = 16;
    private const string Wrong = "launch parameters among the values of this row";

    private readonly GpuKernel _quantize, _reduce;
    private readonly GpuKernel?[] _kernels;

    protected FlatGemmGpu(GpuDriver gpu, string name, string file, string kernel) : base(gpu, name, file, kernel)
    {
        _quantize = new GpuKernel(gpu, PortableFile, "flat_gemm_gpu_quantize");
        _reduce = new GpuKernel(gpu, PortableFile, "flat_gemm_gpu_reduce");
        _kernels = new GpuKernel?[Kinds.Length * Tiles.Length];
    }

    /// <summary>A tile of a block: rows of x by columns.</summary>
    protected readonly record struct Tile(int Rows, int Columns);

    /// <summary>Types of w and x that there are kernels for; x as they see it, quantised if it is.</summary>
    protected abstract ImmutableArray<(DType W, DType X)> Kinds { get; }

    /// <summary>Tiles that there are kernels for, of ascending rows within the same columns.</summary>
    protected abstract ImmutableArray<Tile> Tiles { get; }

    /// <summary>Blocks that a multiprocessor holds at once: what fills the device.</summary>
    protected abstract int BlocksPerMultiprocessor { get; }

    protected abstract int ThreadsPerBlock { get; }

    /// <summary>Multiply-adds a clock of a multiprocessor that a launch can count on.</summary>
    protected abstract double RatePerClock(bool integer);

    /// <summary>Of what k is to be a multiple.</summary>
    protected virtual int KGranule(in KnFlatGemmProblem p) => 1;

    /// <summary>Splits, 1 to <paramref name="most"/>: as many as the device holds at once, where there are <paramref name="tiles"/> without; one more begins when the others are over.</summary>
    protected virtual int SplitsToFill(int tiles, int most) => Math.Clamp(BlocksPerMultiprocessor * Gpu.Limits.Multiprocessors / tiles, 1, most);

    protected abstract string KernelName(string w, string x, Tile tile);

    protected abstract int SharedBytes(DType w, DType x, Tile tile);

    /// <summary>The GPU rows of the operation, best first.</summary>
    public static ImmutableArray<Row> Rows(GpuDriver gpu) => [new FlatGemmSm90(gpu), new FlatGemmSm80(gpu), new FlatGemmVector(gpu)];

    public override KnOp Op => KnOp.FlatGemm;

    /// <summary>An element's sums are ordered by the width of the tile and the splits, which the default launch takes whatever m.</summary>
    public override string? Bits => Target;

    public override bool BitsOfDefaultLaunch => true;

    /// <summary>Rows of a tile, 0 for the fewest that hold m; columns, 0 for what fills the device; splits of k, likewise.</summary>
    public sealed override ImmutableArray<RowParameter> Parameters => _parameters.IsDefault
        ? _parameters = [new("rows", [0, .. Tiles.Select(t => t.Rows).Distinct()]), new("columns", [0, .. Tiles.Select(t => t.Columns).Distinct()]), new("splits", [0, 1, 2, 4, 8, MostSplits])]
        : _parameters;

    private ImmutableArray<RowParameter> _parameters;

    public sealed override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        if (problem == null || launch.Size != sizeof(KnLaunch))
        {
            why = problem == null ? "problem != null" : "launch.Size == sizeof(KnLaunch)";
            return false;
        }
        ref readonly KnFlatGemmProblem p = ref *(KnFlatGemmProblem*)problem;
        if (!FlatGemmRules.Valid(p, out why)) return false;
        bool values = !((ReadOnlySpan<int>)launch.Param)[Parameters.Length..].ContainsAnyExcept(0);
        for (int i = 0; i < Parameters.Length; i++) values &= Parameters[i].Values.Contains(launch.Param[i]);
        why = !values || !Fits(launch) ? Wrong
            : KindOf(p) < 0 ? "types of w and x that it has kernels for"
            : p.K % KGranule(p) != 0 ? $"p.K % {KGranule(p)} == 0, so that rows of weights begin at multiples of 16 bytes"
            : Integer(p) && p.K > IntegerK ? "p.K <= 131071, whose products one s32 holds"
            : null;
        return why is null;
    }

    public sealed override long Workspace(void* problem, in KnLaunch launch)
    {
        ref readonly KnFlatGemmProblem p = ref *(KnFlatGemmProblem*)problem;
        return new Scratch(p, Splits(p, launch), Columns(p)).Bytes;
    }

    protected sealed override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnFlatGemmProblem p = ref *(KnFlatGemmProblem*)problem;
        ref readonly KnFlatGemmArgs a = ref *(KnFlatGemmArgs*)args;
        int splits = Splits(p, launch);
        var scratch = new Scratch(p, splits, Columns(p));
        if (!FlatGemmRules.Check(p, a, -1, scratch.Bytes, out string? argument, out string? rule))
            throw new KernelsException(Status.Invalid, argument, $"requires {rule}");
        if (a.M == 0 || p.N == 0) return;
        KnFlatGemmGpu k = Argument(p, a, splits, scratch);
        if (Has(p, KnGemmFlags.QuantizeX))
        {
            _quantize.Launch(new GpuGrid(a.M, 1, 1, ReduceThreads), stream, k);
            k.X = k.Quantized;
            k.Ldx = k.Ldq;
            k.XType = (int)DType.Int8;
        }
        Tile tile = TileOf(p, launch, a.M);
        Multiply(KernelOf(KindOf(p), tile), k, tile, Columns(p), stream);
        if (splits > 1) _reduce.Launch(new GpuGrid((p.N + ReduceThreads - 1) / ReduceThreads, Math.Min(a.M, LongestGrid), 1, ReduceThreads), stream, k);
    }

    /// <summary>Launches the kernel over all tiles: a block for each tile and split.</summary>
    protected virtual void Multiply(GpuKernel kernel, in KnFlatGemmGpu k, Tile tile, int columns, nint stream)
    {
        var grid = new GpuGrid((columns + tile.Columns - 1) / tile.Columns, k.Splits, Math.Min((k.M + tile.Rows - 1) / tile.Rows, LongestGrid), ThreadsPerBlock,
            SharedBytes: SharedBytes((DType)k.WType, (DType)k.XType, tile));
        kernel.Launch(grid, stream, k);
    }

    private static KnFlatGemmGpu Argument(in KnFlatGemmProblem p, in KnFlatGemmArgs a, int splits, in Scratch scratch)
    {
        KnFlatGemmGpu k = Layer(p, a, scratch);
        k.W = a.W;
        k.Ldw = a.Ldw;
        k.Scales = a.Scales;
        k.Splits = splits;
        k.KSplit = KSplit(p, splits);
        return k;
    }

    /// <summary>All but the weights and the splits, which a sparse layer has otherwise.</summary>
    internal static KnFlatGemmGpu Layer(in KnFlatGemmProblem p, in KnFlatGemmArgs a, in Scratch scratch)
    {
        bool quantize = Has(p, KnGemmFlags.QuantizeX);
        byte* workspace = (byte*)a.Workspace;
        return new KnFlatGemmGpu
        {
            X = a.X,
            Zeros = a.Zeros,
            Bias = a.Bias,
            Residual = a.Residual,
            Y = a.Y,
            Partial = workspace,
            XScales = quantize ? (float*)(workspace + scratch.XScalesAt) : a.XScales,
            Quantized = (sbyte*)(workspace + scratch.QuantizedAt),
            Ldx = a.Ldx,
            Ldr = a.Ldr,
            Ldy = a.Ldy,
            Ldq = scratch.Ldq,
            M = a.M,
            N = p.N,
            K = p.K,
            Group = p.Group,
            XType = p.XType,
            WType = p.WType,
            YType = p.YType,
            Activation = p.Activation,
            Flags = p.Flags,
            Integer = Integer(p) ? 1 : 0,
        };
    }

    private GpuKernel KernelOf(int kind, Tile tile)
    {
        ref GpuKernel? kernel = ref _kernels[kind * Tiles.Length + Tiles.IndexOf(tile)];
        return kernel ??= Kernel(KernelName(NameOf(Kinds[kind].W), NameOf(Kinds[kind].X), tile));

        static string NameOf(DType type) => type switch { DType.Float32 => "f32", DType.BFloat16 => "bf16", DType.Float16 => "f16", DType.Int8 => "s8", _ => "u4" };
    }

    private int KindOf(in KnFlatGemmProblem p) => Kinds.IndexOf(((DType)p.WType, Integer(p) ? DType.Int8 : (DType)p.XType));

    internal static bool Has(in KnFlatGemmProblem p, KnGemmFlags flag) => ((KnGemmFlags)p.Flags & flag) != 0;

    internal static bool Integer(in KnFlatGemmProblem p) => p.XType == (int)DType.Int8 || Has(p, KnGemmFlags.QuantizeX);

    private static int Columns(in KnFlatGemmProblem p) => Has(p, KnGemmFlags.Gated) ? 2 * p.N : p.N;

    /// <summary>Whether some tile is what the launch asks for.</summary>
    private bool Fits(in KnLaunch launch)
    {
        foreach (Tile t in Tiles)
            if ((launch.Param[0] == 0 || t.Rows == launch.Param[0]) && (launch.Param[1] == 0 || t.Columns == launch.Param[1])) return true;
        return false;
    }

    /// <summary>The columns never follow from m, so that the bits do not; the rows do.</summary>
    private Tile TileOf(in KnFlatGemmProblem p, in KnLaunch launch, int m)
    {
        int columns = launch.Param[1] != 0 ? launch.Param[1] : WidthOf(p, launch.Param[0]);
        Tile best = default;
        foreach (Tile t in Tiles)
        {
            if (t.Columns != columns || (launch.Param[0] != 0 && t.Rows != launch.Param[0])) continue;
            if (best.Rows < m) best = t;  // ascending: the first that holds m, else the largest
        }
        return best;
    }

    /// <summary>The widest tile that still gives every multiprocessor a block, else the narrowest.</summary>
    private int WidthOf(in KnFlatGemmProblem p, int rows)
    {
        int best = 0;
        foreach (Tile t in Tiles)
        {
            if (rows != 0 && t.Rows != rows) continue;
            bool fills = (Columns(p) + t.Columns - 1) / t.Columns >= Gpu.Limits.Multiprocessors;
            if (best == 0 || (fills ? t.Columns > best : t.Columns < best)) best = t.Columns;
        }
        return best;
    }

    /// <summary>Parts of k: what the launch says, or as many as give every multiprocessor its blocks; never one without elements.</summary>
    private int Splits(in KnFlatGemmProblem p, in KnLaunch launch)
    {
        int wanted = launch.Param[2];
        if (wanted == 0)
        {
            int width = TileOf(p, launch, 1).Columns, tiles = Math.Max(1, (Columns(p) + width - 1) / width);
            wanted = SplitsToFill(tiles, Math.Clamp(p.K / LeastSplit, 1, MostSplits));
        }
        int k = KSplit(p, wanted);
        return Math.Max(1, (int)(((long)p.K + k - 1) / k));
    }

    private static int KSplit(in KnFlatGemmProblem p, int splits) => (int)Math.Max(RoundUp((p.K + (long)splits - 1) / splits, KStep), KStep);

    /// <summary>Where things are in the workspace: sums of splits, quantised x, its scales.</summary>
    internal readonly struct Scratch
    {
        public readonly long QuantizedAt, XScalesAt, Bytes, Ldq;

        public Scratch(in KnFlatGemmProblem p, int splits, long columns)
        {
            bool quantize = Has(p, KnGemmFlags.QuantizeX);
            Ldq = quantize ? RoundUp(p.K, 16) : 0;
            QuantizedAt = splits > 1 ? RoundUp(4L * splits * p.M * columns, 256) : 0;
            XScalesAt = QuantizedAt + RoundUp(p.M * Ldq, 256);
            Bytes = XScalesAt + (quantize ? RoundUp(4L * p.M, 256) : 0);
        }
    }

    /// <summary>
    /// Seconds of one call: weights once for every tile of rows, from L2 after the first time, against multiply-adds, whichever is
    /// longer, and what launches cost. Rates are of a data centre's GPU of the last years; what counts is their order.
    /// </summary>
    public double Seconds(in KnFlatGemmProblem p, in KnLaunch launch, int m)
    {
        const double Launch = 2.5e-6, Clock = 1.5e9, UnknownRate = 500e9, L2Gain = 3;
        int splits = Splits(p, launch), columns = Columns(p), multiprocessors = Math.Max(1, Gpu.Limits.Multiprocessors);
        Tile tile = TileOf(p, launch, m);
        double passes = Math.Ceiling((double)m / tile.Rows), weights = (double)columns * p.K * ((DType)p.WType).Bits() / 8;
        double rate = Gpu.Limits.MemoryRate > 0 ? 0.8 * Gpu.Limits.MemoryRate : UnknownRate;
        double filled = Math.Min(1, Math.Ceiling(columns / (double)tile.Columns) * splits * passes / (BlocksPerMultiprocessor * multiprocessors));
        double memory = weights / rate * (1 + (passes - 1) / L2Gain) + (splits > 1 ? 8.0 * splits * m * columns / rate : 0);
        double compute = passes * tile.Rows * columns * p.K / (multiprocessors * Clock * RatePerClock(Integer(p)));
        int launches = 1 + (splits > 1 ? 1 : 0) + (Has(p, KnGemmFlags.QuantizeX) ? 1 : 0);
        return Math.Max(memory, compute) / Math.Max(filled, 1e-3) + launches * Launch;
    }
}

/// <summary>flat_gemm/gpu: dot products on vector units, NVIDIA and AMD, a tile for each wave of a block.</summary>
internal sealed class FlatGemmVector(GpuDriver gpu) : FlatGemmGpu(gpu, "flat_gemm/gpu", "flat_gemm_gpu", "flat_gemm_gpu_reduce")
{
    protected override ImmutableArray<(DType W, DType X)> Kinds => s_kinds;

    private static readonly ImmutableArray<(DType W, DType X)> s_kinds =
    [
        (DType.Float32, DType.Float32), (DType.BFloat16, DType.BFloat16), (DType.BFloat16, DType.Float16), (DType.BFloat16, DType.Float32),
        (DType.Float16, DType.BFloat16), (DType.Float16, DType.Float16), (DType.Float16, DType.Float32),
        (DType.Int8, DType.Int8), (DType.Int8, DType.BFloat16), (DType.UInt4, DType.BFloat16),
    ];

    protected override ImmutableArray<Tile> Tiles => s_tiles;

    private static readonly ImmutableArray<Tile> s_tiles = [new(1, 16), new(4, 16), new(8, 16), new(16, 16)];

    protected override int BlocksPerMultiprocessor => 4;

    protected override int ThreadsPerBlock => 4 * Gpu.Limits.WaveSize;

    protected override double RatePerClock(bool integer) => integer ? 256 : 64;

    protected override string KernelName(string w, string x, Tile tile) => $"flat_gemm_gpu_{w}_{x}_m{tile.Rows}";

    protected override int SharedBytes(DType w, DType x, Tile tile) => 0;
}

/// <summary>flat_gemm/sm80: mma.sync with swapped operands, cp.async in three or four stages. NVIDIA from sm_80 on.</summary>
internal sealed class FlatGemmSm80(GpuDriver gpu) : FlatGemmGpu(gpu, "flat_gemm/sm80", "flat_gemm_sm80", "flat_gemm_sm80_bf16_bf16_m8_n32")
{
    private const int Depth = 128;  // elements of k of a stage

    protected override ImmutableArray<(DType W, DType X)> Kinds => s_kinds;

    private static readonly ImmutableArray<(DType W, DType X)> s_kinds =
    [
        (DType.BFloat16, DType.BFloat16), (DType.Float16, DType.Float16), (DType.Int8, DType.BFloat16), (DType.UInt4, DType.BFloat16), (DType.Int8, DType.Int8),
    ];

    protected override ImmutableArray<Tile> Tiles => s_tiles;

    private static readonly ImmutableArray<Tile> s_tiles = [new(8, 32), new(16, 32), new(8, 64), new(16, 64), new(32, 64), new(64, 64)];

    protected override int BlocksPerMultiprocessor => 2;

    protected override int ThreadsPerBlock => 256;

    protected override double RatePerClock(bool integer) => integer ? 1024 : 512;

    protected override string KernelName(string w, string x, Tile tile) => $"flat_gemm_sm80_{w}_{x}_m{tile.Rows}_n{tile.Columns}";

    protected override int SharedBytes(DType w, DType x, Tile tile) =>
        (tile.Rows <= 16 ? 4 : 3) * Depth * (tile.Columns * w.Bits() + tile.Rows * x.Bits()) / 8;
}
