using System.Collections.Immutable;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// sparse_linear/gpu: a block for every panel of 16 outputs, NVIDIA and AMD (sparse_linear_gpu.h). Quantisation of x before, sums
/// over splits of k after, as flat_gemm has them. Reads the one packed layout, which prepack writes in the host's memory.
/// </summary>
internal sealed unsafe class SparseLinearGpu : GpuRow
{
    private const string File = "sparse_linear_gpu";
    private const int Threads = 256, Groups = 8, ReduceThreads = 256, LongestGrid = 65535, BlocksPerMultiprocessor = 4, MostSplits = 16;
    private static readonly ImmutableArray<int> s_rows = [1, 4, 8, 16];
    private static readonly ImmutableArray<string> s_kinds = ["f32", "bf16", "f16", "s8", "s8_s8"];

    private readonly GpuKernel _quantize, _reduce;
    private readonly GpuKernel?[] _kernels = new GpuKernel?[s_kinds.Length * s_rows.Length];

    [ThreadStatic] private static string? t_prepack;

    public SparseLinearGpu(GpuDriver gpu) : base(gpu, "sparse_linear/gpu", File, "sparse_linear_gpu_reduce")
    {
        _quantize = Kernel("sparse_linear_gpu_quantize");
        _reduce = Kernel("sparse_linear_gpu_reduce");
    }

    public override KnOp Op => KnOp.SparseLinear;

    /// <summary>Its own chains of sums, not those of flat_gemm's rows, whose lanes share out k otherwise.</summary>
    public override string? Bits => "gpu_sparse";

    public override bool BitsOfDefaultLaunch => true;

    /// <summary>Rows of a tile, 0 for the fewest that hold m; splits of k, 0 for what fills the device.</summary>
    public override ImmutableArray<RowParameter> Parameters { get; } = [new("rows", [0, .. s_rows]), new("splits", [0, 1, 2, 4, 8, MostSplits])];

    public override string LastError => t_prepack ?? base.LastError;

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        if (problem == null || launch.Size != sizeof(KnLaunch))
        {
            why = problem == null ? "problem != null" : "launch.Size == sizeof(KnLaunch)";
            return false;
        }
        ref readonly KnSparseLinearProblem p = ref *(KnSparseLinearProblem*)problem;
        if (!SparseLinearRules.Valid(p, out why)) return false;
        bool values = !((ReadOnlySpan<int>)launch.Param)[Parameters.Length..].ContainsAnyExcept(0);
        for (int i = 0; i < Parameters.Length; i++) values &= Parameters[i].Values.Contains(launch.Param[i]);
        why = !values ? "launch parameters among the values of this row"
            : FlatGemmGpu.Integer(p.Layer) && p.Layer.K > FlatGemmGpu.IntegerK ? "p.K <= 131071, whose products one s32 holds"
            : null;
        return why is null;
    }

    public override string? Layout(void* problem) => SparseLinearManaged.LayoutOf(problem);

    public override long PackedBytes(void* problem) => SparseLinearManaged.BytesOf(problem);

    public override KnStatus Prepack(void* problem, void* args)
    {
        bool packs = SparseLinearManaged.Pack(problem, args, out string? argument, out string? rule);
        t_prepack = packs ? null : argument is null ? rule : $"{argument}: requires {rule}";
        return packs ? KnStatus.Ok : KnStatus.Invalid;
    }

    public override long Workspace(void* problem, in KnLaunch launch)
    {
        ref readonly KnSparseLinearProblem p = ref *(KnSparseLinearProblem*)problem;
        return ScratchOf(p, Splits(p, launch)).Bytes;
    }

    protected override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnSparseLinearProblem p = ref *(KnSparseLinearProblem*)problem;
        ref readonly KnSparseLinearArgs a = ref *(KnSparseLinearArgs*)args;
        t_prepack = null;
        int splits = Splits(p, launch), m = a.Call.M;
        FlatGemmGpu.Scratch scratch = ScratchOf(p, splits);
        if (!SparseLinearRules.Check(p, a, scratch.Bytes, true, out string? argument, out string? rule))
            throw new KernelsException(Status.Invalid, argument, $"requires {rule}");
        if (m == 0 || p.Layer.N == 0) return;
        KnSparseLinearGpu k = Argument(p, a, splits, scratch);
        if (FlatGemmGpu.Has(p.Layer, KnGemmFlags.QuantizeX))
        {
            _quantize.Launch(new GpuGrid(m, 1, 1, ReduceThreads), stream, k);
            k.Layer.X = k.Layer.Quantized;
            k.Layer.Ldx = k.Layer.Ldq;
            k.Layer.XType = (int)DType.Int8;
        }
        int rows = Rows(launch, m), n = p.Layer.N;
        KernelOf(p.Layer, rows).Launch(new GpuGrid(Panels(p), splits, Math.Min((m + rows - 1) / rows, LongestGrid), Threads), stream, k);
        if (splits > 1) _reduce.Launch(new GpuGrid((n + ReduceThreads - 1) / ReduceThreads, Math.Min(m, LongestGrid), 1, ReduceThreads), stream, k);
    }

    private static KnSparseLinearGpu Argument(in KnSparseLinearProblem p, in KnSparseLinearArgs a, int splits, in FlatGemmGpu.Scratch scratch)
    {
        var at = new SparsePanels(p);
        var k = new KnSparseLinearGpu
        {
            Layer = FlatGemmGpu.Layer(p.Layer, a.Call, scratch),
            Outputs = (p.Sets & (int)KnSparseSets.Outputs) != 0 ? a.Outputs : null,
            Inputs = (p.Sets & (int)KnSparseSets.Inputs) != 0 ? a.Inputs : null,
            BitsAt = at.BitsAt,
            ValuesAt = at.ValuesAt,
            KPadded = at.KPadded,
            Blocks = at.Blocks,
        };
        k.Layer.W = a.Call.Packed;
        k.Layer.Scales = (float*)((byte*)a.Call.Packed + at.ScalesAt);
        k.Layer.Splits = splits;
        k.Layer.KSplit = KSplit(p, splits);
        return k;
    }

    private GpuKernel KernelOf(in KnFlatGemmProblem p, int rows)
    {
        string kind = FlatGemmGpu.Integer(p) ? "s8_s8" : ((DType)p.WType) switch { DType.Float32 => "f32", DType.BFloat16 => "bf16", DType.Float16 => "f16", _ => "s8" };
        ref GpuKernel? kernel = ref _kernels[s_kinds.IndexOf(kind) * s_rows.Length + s_rows.IndexOf(rows)];
        return kernel ??= Kernel($"sparse_linear_gpu_{kind}_m{rows}");
    }

    private static FlatGemmGpu.Scratch ScratchOf(in KnSparseLinearProblem p, int splits) => new(p.Layer, splits, new SparsePanels(p).Count * SparsePanels.Lanes);

    /// <summary>Blocks along the outputs: a gated pair of panels is of one.</summary>
    private static int Panels(in KnSparseLinearProblem p) => (p.Layer.N + SparsePanels.Lanes - 1) / SparsePanels.Lanes;

    private static int Rows(in KnLaunch launch, int m)
    {
        if (launch.Param[0] != 0) return launch.Param[0];
        foreach (int rows in s_rows)
            if (rows >= m) return rows;
        return s_rows[^1];
    }

    /// <summary>Parts of k: what the launch says, or as many as give every multiprocessor its blocks and every group two blocks of k; none is empty, and m does not matter.</summary>
    private int Splits(in KnSparseLinearProblem p, in KnLaunch launch)
    {
        int wanted = launch.Param[1];
        if (wanted == 0)
        {
            int panels = Math.Max(1, Panels(p)), full = BlocksPerMultiprocessor * Gpu.Limits.Multiprocessors;
            wanted = Math.Clamp(Math.Min((full + panels - 1) / panels, p.Layer.K / (2 * Groups * SparsePanels.Block)), 1, MostSplits);
        }
        int k = KSplit(p, wanted);
        return Math.Max(1, (int)(((long)p.Layer.K + k - 1) / k));
    }

    private static int KSplit(in KnSparseLinearProblem p, int splits) =>
        (int)Math.Max(RoundUp((p.Layer.K + (long)splits - 1) / splits, SparsePanels.Block), SparsePanels.Block);

    /// <summary>
    /// Seconds of one call: packed bytes once for every tile of rows, from L2 after the first time, against instructions, some eight for
    /// every 32 weights and, for every row, a multiply-add and a part of a load; and what launches cost. As in FlatGemmGpu what counts is
    /// the order.
    /// </summary>
    public double Seconds(in KnSparseLinearProblem p, in KnLaunch launch, int m)
    {
        const double Launch = 2.5e-6, Clock = 1.5e9, UnknownRate = 500e9, L2Gain = 3, Expand = 8, Row = 1.25;
        var at = new SparsePanels(p);
        int splits = Splits(p, launch), multiprocessors = Math.Max(1, Gpu.Limits.Multiprocessors), rows = Rows(launch, m);
        double passes = Math.Ceiling((double)m / rows), rate = Gpu.Limits.MemoryRate > 0 ? 0.8 * Gpu.Limits.MemoryRate : UnknownRate;
        double bytes = p.Nnz * (double)at.Element + at.Count * at.KPadded * 2.0, columns = at.Count * SparsePanels.Lanes;
        double filled = Math.Min(1, Panels(p) * (double)splits * passes / (BlocksPerMultiprocessor * multiprocessors));
        double memory = bytes / rate * (1 + (passes - 1) / L2Gain) + (splits > 1 ? 8.0 * splits * m * columns / rate : 0);
        double instructions = passes * columns * at.KPadded / 32 * (Expand + Row * rows);
        double compute = instructions / (4 * multiprocessors * Clock);
        int launches = 1 + (splits > 1 ? 1 : 0) + (FlatGemmGpu.Has(p.Layer, KnGemmFlags.QuantizeX) ? 1 : 0);
        return Math.Max(memory, compute) / Math.Max(filled, 1e-3) + launches * Launch;
    }
}
