using System.Collections.Immutable;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// What the GPU rows of decode_attention share: one argument struct (decode_attention_gpu.h), splits of the keys, and the second
/// launch that adds them up, or for a fixed reference also tests the sums and does failing rows again by sync. Everything that
/// args point to lies on the device: lengths, page tables and masks too, so that a captured graph follows them.
/// </summary>
internal abstract unsafe class DecodeAttentionGpu : GpuRow
{
    private const string PortableFile = "decode_attention_gpu";
    private const int KeysOfSplit = 64, CombineThreads = 128, LongestGrid = 65535;
    private static readonly ImmutableArray<int> s_heads = [64, 128, 256, 1024];

    private readonly GpuKernel _combine;
    private readonly Dictionary<(int, int), GpuKernel> _checks = [];

    protected DecodeAttentionGpu(GpuDriver gpu, string name, string file, string kernel) : base(gpu, name, file, kernel) =>
        _combine = new GpuKernel(gpu, PortableFile, "decode_attention_gpu_combine");

    /// <summary>The GPU rows of the operation, best first.</summary>
    public static ImmutableArray<Row> Rows(GpuDriver gpu) => [new DecodeAttentionSm90(gpu), new DecodeAttentionSm80(gpu), new DecodeAttentionVector(gpu)];

    /// <summary>Why this row does not take the problem by this softmax; null if it does.</summary>
    protected abstract string? Refuses(in KnDecodeAttentionProblem p, KnSoftmax softmax);

    /// <summary>The kernel for the problem with what a block takes: rows (tokens times heads of a group), threads, shared memory.</summary>
    protected abstract (GpuKernel Kernel, int Rows, int Threads, int SharedBytes) Choose(in KnDecodeAttentionProblem p, KnSoftmax softmax);

    /// <summary>Multiply-adds a clock of a multiprocessor that a launch can count on, with blocks of so many rows, those that are not filled among them.</summary>
    protected abstract double RatePerClock(int rows);

    public override KnOp Op => KnOp.DecodeAttention;

    public override string? Bits => Target;

    public override ImmutableArray<RowParameter> Parameters { get; } =
    [
        new(DecodeAttentionSelection.Softmax, [(int)KnSoftmax.Lazy, (int)KnSoftmax.Sync, (int)KnSoftmax.Unified, (int)KnSoftmax.Bounded]),
        new(DecodeAttentionSelection.Split, [512, 64, 128, 256, 1024, 2048, 4096, 1 << 28]),
    ];

    public sealed override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        if (problem == null || launch.Size != sizeof(KnLaunch))
        {
            why = problem == null ? "problem != null" : "launch.Size == sizeof(KnLaunch)";
            return false;
        }
        ref readonly KnDecodeAttentionProblem p = ref *(KnDecodeAttentionProblem*)problem;
        KnSoftmax softmax = SoftmaxOf(launch);
        if (!DecodeAttentionRules.Valid(p, out why) || !DecodeAttentionRules.Offers(p, softmax, out why)) return false;
        why = ((ReadOnlySpan<int>)launch.Param)[2..].ContainsAnyExcept(0) ? "this row has two launch parameters"
            : SplitOf(launch) < KeysOfSplit || SplitOf(launch) % KeysOfSplit != 0 ? "split is a multiple of 64"
            : (long)p.Batch * SplitsOf(p, launch) > int.MaxValue ? "p.Batch * splits < 2^31"
            : Blocks(p, 1) > LongestGrid || p.QHeads > LongestGrid ? "p.QHeads * p.QLen <= 65535"
            : Refuses(p, softmax);
        return why is null;
    }

    private static long Blocks(in KnDecodeAttentionProblem p, int rows) => p.KvHeads * (((long)p.QHeads / p.KvHeads * p.QLen + rows - 1) / rows);

    public sealed override long Workspace(void* problem, in KnLaunch launch)
    {
        ref readonly KnDecodeAttentionProblem p = ref *(KnDecodeAttentionProblem*)problem;
        int splits = SplitsOf(p, launch);
        return splits == 1 && !Fixed(launch) ? 0 : 4L * p.Batch * p.QLen * p.QHeads * splits * (p.VHeadDim + 2);
    }

    private static KnSoftmax SoftmaxOf(in KnLaunch launch) => launch.Param[0] == 0 ? KnSoftmax.Lazy : (KnSoftmax)launch.Param[0];

    private static int SplitOf(in KnLaunch launch) => launch.Param[1] == 0 ? 512 : launch.Param[1];

    private static bool Fixed(in KnLaunch launch) => Fixed(SoftmaxOf(launch));

    protected static bool Fixed(KnSoftmax softmax) => softmax is KnSoftmax.Unified or KnSoftmax.Bounded;

    /// <summary>Splits of the longest sequence: of the keys that its window leaves, which may begin at a split's last.</summary>
    private static int SplitsOf(in KnDecodeAttentionProblem p, in KnLaunch launch)
    {
        long seen = p.Window > 0 ? Math.Min(p.KvLen, (long)p.Window + p.QLen + SplitOf(launch) - 2) : p.KvLen;
        return (int)Math.Max(1, (seen + SplitOf(launch) - 1) / SplitOf(launch));
    }

    protected sealed override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnDecodeAttentionProblem p = ref *(KnDecodeAttentionProblem*)problem;
        ref readonly KnDecodeAttentionArgs a = ref *(KnDecodeAttentionArgs*)args;
        if (!DecodeAttentionRules.CheckOnDevice(p, a, Workspace(problem, launch), out string? argument, out string? rule))
            throw new KernelsException(Status.Invalid, argument, $"requires {rule}");
        KnDecodeAttentionGpu k = Argument(p, a);
        if (a.Batch * k.QLen == 0) return;
        k.Softmax = (int)SoftmaxOf(launch);
        k.Splits = SplitsOf(p, launch);
        k.SplitLen = SplitOf(launch);
        (GpuKernel kernel, int rows, int threads, int shared) = Choose(p, SoftmaxOf(launch));
        Attend(kernel, new GpuGrid(a.Batch * k.Splits, (int)Blocks(p, rows), 1, threads, SharedBytes: shared), stream, p, a, k);
        if (Fixed(launch)) CheckOf(p).Launch(new GpuGrid(a.Batch * k.QLen, p.QHeads, 1, 4 * Gpu.Limits.WaveSize), stream, k);
        else if (k.Splits > 1) _combine.Launch(new GpuGrid(a.Batch * k.QLen, p.QHeads, 1, CombineThreads), stream, k);
    }

    /// <summary>Launches what goes over the keys.</summary>
    protected virtual void Attend(GpuKernel kernel, in GpuGrid grid, nint stream, in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, in KnDecodeAttentionGpu k) =>
        kernel.Launch(grid, stream, k);

    private static KnDecodeAttentionGpu Argument(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a) => new()
    {
        QStart = a.QStart,
        KvLens = a.KvLens,
        KvLater = a.KvLater,
        Pages = a.Pages,
        Q = a.Q,
        K = a.K,
        V = a.V,
        KScales = a.KScales,
        VScales = a.VScales,
        KeyNorms = a.KeyNorms,
        Phi = a.Phi,
        Alibi = a.Alibi,
        Sinks = a.Sinks,
        Tree = a.Tree,
        Out = a.Out,
        Lse = a.Lse,
        Recomputed = (ulong*)a.Recomputed,
        Partial = (float*)a.Workspace,
        PagesLd = a.PagesLd,
        QToken = a.QToken,
        QHead = a.QHead,
        KPage = a.KPage,
        KToken = a.KToken,
        KHead = a.KHead,
        VPage = a.VPage,
        VToken = a.VToken,
        VHead = a.VHead,
        ScalePage = a.ScalePage,
        ScaleToken = a.ScaleToken,
        ScaleHead = a.ScaleHead,
        OutToken = a.OutToken,
        OutHead = a.OutHead,
        LseToken = a.LseToken,
        Batch = a.Batch,
        QLen = a.QStart == null ? a.QLen : p.QLen,
        QHeads = p.QHeads,
        KvHeads = p.KvHeads,
        HeadDim = p.HeadDim,
        VHeadDim = p.VHeadDim,
        PageSize = p.PageSize,
        Window = p.Window,
        QType = p.QType,
        KvType = p.KvType,
        OutType = p.OutType,
        Flags = p.Flags,
        Scale = a.Scale,
        Softcap = p.Softcap,
    };

    /// <summary>The least head that there are kernels for and that holds this one.</summary>
    protected static int HeadOf(in KnDecodeAttentionProblem p)
    {
        int i = 0;
        while (s_heads[i] < Math.Max(p.HeadDim, p.VHeadDim)) i++;
        return s_heads[i];
    }

    protected static string NameOf(int type) => (DType)type switch
    {
        DType.Float32 => "f32",
        DType.BFloat16 => "bf16",
        DType.Float16 => "f16",
        DType.Int8 => "s8",
        _ => "e4m3",
    };

    private GpuKernel CheckOf(in KnDecodeAttentionProblem p)
    {
        (int, int) key = (p.KvType, HeadOf(p));
        lock (_checks)
        {
            if (!_checks.TryGetValue(key, out GpuKernel? kernel))
                _checks.Add(key, kernel = new GpuKernel(Gpu, PortableFile, $"decode_attention_gpu_{NameOf(p.KvType)}_d{key.Item2}_check"));
            return kernel;
        }
    }

    /// <summary>Seconds of one call: the cache once, or once per block of rows from L2, against multiply-adds; blocks that fill the device; launches.</summary>
    public double Seconds(in KnDecodeAttentionProblem p, in KnLaunch launch)
    {
        const double Launch = 2.5e-6, Clock = 1.5e9, UnknownRate = 500e9, L2Gain = 3;
        int multiprocessors = Math.Max(1, Gpu.Limits.Multiprocessors), splits = SplitsOf(p, launch), rows = Choose(p, SoftmaxOf(launch)).Rows;
        double seen = p.Window > 0 ? Math.Min(p.KvLen, p.Window + p.QLen - 1.0) : p.KvLen, packed = (double)p.QHeads / p.KvHeads * p.QLen, passes = Math.Ceiling(packed / rows);
        double heads = (double)p.Batch * p.KvHeads, bytes = heads * seen * (p.HeadDim + p.VHeadDim) * ((DType)p.KvType).Bits() / 8;
        double rate = Gpu.Limits.MemoryRate > 0 ? 0.85 * Gpu.Limits.MemoryRate : UnknownRate;
        double memory = bytes / rate * (1 + (passes - 1) / L2Gain);
        double compute = heads * passes * rows * seen * (p.HeadDim + p.VHeadDim) / (multiprocessors * Clock * RatePerClock(rows));
        double waves = heads * passes * splits / (2 * multiprocessors), uneven = Math.Max(Math.Ceiling(waves), 1) / Math.Max(waves, 1e-6);
        double combine = splits > 1 || Fixed(launch) ? Launch + (double)p.Batch * p.QLen * p.QHeads * splits * (p.VHeadDim + 2) * 8 / rate : 0;
        // A running maximum costs what hides under the loads of the cache, but for many rows.
        double softmax = Fixed(launch) ? 1 : SoftmaxOf(launch) == KnSoftmax.Lazy ? 1.05 : 1.1;
        return Math.Max(memory, compute * softmax) * Math.Min(uneven, 64) + combine + Launch;
    }
}

/// <summary>decode_attention/gpu: vector units, NVIDIA and AMD, every problem.</summary>
internal sealed class DecodeAttentionVector(GpuDriver gpu) : DecodeAttentionGpu(gpu, "decode_attention/gpu", "decode_attention_gpu", "decode_attention_gpu_combine")
{
    private readonly Dictionary<(int, int, int), GpuKernel> _kernels = [];

    protected override string? Refuses(in KnDecodeAttentionProblem p, KnSoftmax softmax) => null;

    protected override double RatePerClock(int rows) => 48;

    /// <summary>Rows of a block: the most that the packed ones fill. They never follow from the batch, so that the bits do not.</summary>
    protected override (GpuKernel Kernel, int Rows, int Threads, int SharedBytes) Choose(in KnDecodeAttentionProblem p, KnSoftmax softmax)
    {
        int head = HeadOf(p), group = p.QHeads / p.KvHeads;
        int rows = head == 1024 ? 2 : group == 1 ? 1 : group <= 4 ? 4 : 8;
        lock (_kernels)
        {
            if (!_kernels.TryGetValue((p.KvType, head, rows), out GpuKernel? kernel))
                _kernels.Add((p.KvType, head, rows), kernel = Kernel($"decode_attention_gpu_{NameOf(p.KvType)}_d{head}_r{rows}"));
            return (kernel, rows, 4 * Gpu.Limits.WaveSize, 0);
        }
    }
}

/// <summary>decode_attention/sm80: tensor cores for 16 rows of a kv head at a time. NVIDIA from sm_80 on.</summary>
internal sealed class DecodeAttentionSm80(GpuDriver gpu) : DecodeAttentionGpu(gpu, "decode_attention/sm80", "decode_attention_sm80", "decode_attention_sm80_bf16_bf16_d64")
{
    private readonly Dictionary<(int, string, int), GpuKernel> _kernels = [];

    protected override string? Refuses(in KnDecodeAttentionProblem p, KnSoftmax softmax) =>
        p.QType is not ((int)DType.BFloat16 or (int)DType.Float16) ? "q of bf16 or f16"
        : Math.Max(p.HeadDim, p.VHeadDim) > 256 ? "p.HeadDim <= 256 && p.VHeadDim <= 256"
        : null;

    protected override double RatePerClock(int rows) => 512;

    protected override (GpuKernel Kernel, int Rows, int Threads, int SharedBytes) Choose(in KnDecodeAttentionProblem p, KnSoftmax softmax)
    {
        int head = HeadOf(p), size = ((DType)p.KvType).Bits() / 8, stages = head <= 128 ? 3 : 2;
        int shared = Math.Max(64 * (stages * (2 * head * size + 8) + (size == 1 ? 4 * head : 0)), 256 * head + 512);
        // P in f16 has no range for a fixed reference.
        string kv = NameOf(p.KvType) + (p.KvType == (int)DType.Float16 && Fixed(softmax) ? "fixed" : "");
        lock (_kernels)
        {
            if (!_kernels.TryGetValue((p.QType, kv, head), out GpuKernel? kernel))
                _kernels.Add((p.QType, kv, head), kernel = Kernel($"decode_attention_sm80_{NameOf(p.QType)}_{kv}_d{head}"));
            return (kernel, 16, 128, shared);
        }
    }
}
