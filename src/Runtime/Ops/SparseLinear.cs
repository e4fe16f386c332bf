using System.Collections.Immutable;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// A linear layer with unstructured sparse weights: the product of <see cref="FlatGemm"/>, of which few weights are stored and
/// none is skipped in the arithmetic, so the bits are those of its rows of the same target on dense weights. Worth it while reading
/// weights is what a layer waits for. After SparAMX (arXiv 2502.12444). Any number of threads may run one plan at a time.
/// </summary>
/// <remarks>
/// On a GPU weights are packed in the host's memory and copied there, Run takes views of the device's buffers, only enqueues, and
/// has its scratch from the driver's pool in the order of the stream, as <see cref="FlatGemm"/> does.
/// </remarks>
public sealed unsafe class SparseLinear : IDisposable
{
    private readonly ImmutableArray<Segment<KnSparseLinearProblem>> _segments;
    private readonly SparseLinearWeights _weights;
    private readonly bool _ownsWeights;
    private readonly Buffer<float>? _bias;
    private readonly long _workspaceBytes;
    private readonly Workspaces? _workspaces;  // of the CPU

    private SparseLinear(FlatGemmOptions options, Device device, SparseLinearWeights weights, bool owns, Buffer<float>? bias, ImmutableArray<Segment<KnSparseLinearProblem>> segments)
    {
        (Options, Device, _weights, _ownsWeights, _bias, _segments) = (options, device, weights, owns, bias, segments);
        _workspaceBytes = segments.Max(s => s.Workspace);
        if (device.Gpu is null) _workspaces = new Workspaces(_workspaceBytes);
    }

    /// <summary>Where it runs.</summary>
    public Device Device { get; }

    /// <summary>The layer.</summary>
    public FlatGemmOptions Options { get; }

    /// <summary>Bytes of packed weights.</summary>
    public long WeightBytes => _weights.Bytes;

    /// <summary>Bytes of scratch one call uses.</summary>
    public long WorkspaceBytes => _workspaceBytes;

    /// <summary>Part of the weights that is stored.</summary>
    public double Density => _weights.Density;

    /// <summary>What runs for every m, in order of m.</summary>
    public ImmutableArray<Choice> Choices => [.. _segments.Select(s => new Choice(s.From, s.To, s.Row.Dataflow(s.Launch).WithThreads(Options.Threads), s.Source, s.Reason, s.Workspace))];

    /// <summary>What runs for calls of <paramref name="m"/> rows.</summary>
    /// <exception cref="KernelsException">m beyond MaxM.</exception>
    public Choice Choice(int m) => Kernels.Choice.Of(Choices, m, Options.MaxM);

    /// <summary>Packs what is not 0 of <paramref name="w"/> and plans; see <see cref="Prune"/>.</summary>
    /// <param name="options">The layer, with Row a row of sparse_linear; no u4 weights.</param>
    /// <param name="w">[N or 2 N, K] float, BFloat16, Half or sbyte.</param>
    /// <param name="bias">[N or 2 N] when the options say so.</param>
    /// <param name="scales">s8: [N or 2 N].</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">A shape, type or value that breaks a rule, or a forced row that cannot run.</exception>
    public static SparseLinear Create<T>(FlatGemmOptions options, ReadOnlySpan2D<T> w, ReadOnlySpan<float> bias = default,
        ReadOnlySpan<float> scales = default, Device? device = null) where T : unmanaged =>
        Plan(options, Packed(options, w, scales, device ?? Device.Cpu), true, bias, device);

    private static SparseLinearWeights Packed<T>(FlatGemmOptions options, ReadOnlySpan2D<T> w, ReadOnlySpan<float> scales, Device device) where T : unmanaged
    {
        SparseLinearWeights here = SparseLinearWeights.Pack(options, w, scales);
        if (device.Gpu is null) return here;
        using (here) return here.CopyTo(device);
    }

    /// <summary>Plans over weights that are packed already; they must outlive the plan's last call.</summary>
    /// <exception cref="KernelsException">Weights of another layer, or a forced row that cannot run.</exception>
    public static SparseLinear Create(FlatGemmOptions options, SparseLinearWeights weights, ReadOnlySpan<float> bias = default, Device? device = null) =>
        Plan(options, weights, false, bias, device);

    private static SparseLinear Plan(FlatGemmOptions options, SparseLinearWeights weights, bool owns, ReadOnlySpan<float> bias, Device? device)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(weights);
        try
        {
            device ??= Device.Cpu;
            Check(options);
            KernelsException.Require(weights.Fits(options), nameof(weights), "weights packed for this dtype and shape");
            KernelsException.Require(weights.Data.Device.Shares(device), nameof(weights), $"weights on {device}, not on {weights.Data.Device}; CopyTo copies");
            int columns = options.Bias ? options.Columns : 0;
            KernelsException.Require(bias.Length == columns, nameof(bias), $"{columns} values, not {bias.Length}");
            // Sized for calls with sets, which need more.
            var segments = SparseLinearSelection.Choose(device, options, weights.NonZeros, KnSparseSets.Outputs | KnSparseSets.Inputs, TuningStore.In(options.TuningDirectory), options.Cache);
            segments = [.. segments.Select(s => s.Sized(device))];
            return new SparseLinear(options, device, weights, owns, columns > 0 ? Buffer<float>.Of(device, bias) : null, segments);
        }
        catch when (owns)
        {
            weights.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Whether a layer of this density is faster sparse or dense at <paramref name="m"/>: as `perf tune sparse_linear` measured it here, else by the
    /// closed-form models of both. <see cref="PrunedLinear"/> is a plan of the form that is chosen.
    /// </summary>
    /// <exception cref="KernelsException">A layer that breaks a rule, or a density outside 0 to 1.</exception>
    public static SparseLinearChoice Choose(FlatGemmOptions options, double density, int m, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        KernelsException.Require(density is >= 0 and <= 1, nameof(density), $"0 <= density <= 1, not {density}");
        KernelsException.Require(m >= 1, nameof(m), $"1 <= m, not {m}");
        return SparseLinearForms.Choose(device ?? Device.Cpu, options, density, m, TuningStore.In(options.TuningDirectory), options.Cache);
    }

    /// <summary>Makes a set of active outputs or inputs out of a list of them.</summary>
    /// <param name="active">Ascending, each at most once.</param>
    /// <param name="set">A bit for each of them is set, all others are cleared: 64 to a word, the lowest first.</param>
    /// <exception cref="KernelsException">A list that is out of order or range.</exception>
    public static void SetOf(ReadOnlySpan<int> active, Span<ulong> set)
    {
        for (int i = 0; i < active.Length; i++)
        {
            KernelsException.Require(active[i] >= 0 && active[i] < set.Length * 64L, nameof(active), $"0 <= index < {set.Length * 64L}, not {active[i]}");
            KernelsException.Require(i == 0 || active[i - 1] < active[i], nameof(active), $"ascending indices, each once; {active[i]} follows {(i == 0 ? 0 : active[i - 1])}");
        }
        set.Clear();
        foreach (int i in active) set[i >> 6] |= 1UL << (i & 63);
    }

    /// <summary>Computes y from x, both in host memory. m is the height of <paramref name="x"/>, at most MaxM.</summary>
    /// <param name="x">[m, K] of the input type; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type; overlaps nothing but, exactly, the residual.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="xScales">[m], s8 input only: x = q * scale of its row.</param>
    /// <param name="outputs">
    /// Empty, or a bit for each of N outputs (see <see cref="SetOf"/>): those that are clear come out as 0 (plus the residual). A panel of 16 outputs
    /// (of 16 gated pairs) without an active one is not read; one with any is read and computed whole.
    /// </param>
    /// <param name="inputs">Empty, or a bit for each of K inputs: those that are clear count as 0. A block of 64 inputs without an active one is not read.</param>
    /// <exception cref="KernelsException">A shape, type or overlap that breaks a rule; y is then untouched.</exception>
    public void Run<TX, TY>(ReadOnlySpan2D<TX> x, Span2D<TY> y, ReadOnlySpan2D<TY> residual = default, ReadOnlySpan<float> xScales = default,
        ReadOnlySpan<ulong> outputs = default, ReadOnlySpan<ulong> inputs = default)
        where TX : unmanaged where TY : unmanaged
    {
        if (Device.Gpu is not null) throw new KernelsException(Status.Invalid, nameof(x), $"views of buffers on {Device}: this overload takes memory of the host, and no copy is hidden");
        Options.CheckTypes<TX, TY>();
        Options.CheckShapes(x.Height, x.Width, y.Height, y.Width, residual.Height, residual.Width, xScales.Length);
        KernelsException.Require(outputs.Length == 0 || outputs.Length == (Options.N + 63) / 64, nameof(outputs), $"0 or {(Options.N + 63) / 64} words, not {outputs.Length}");
        KernelsException.Require(inputs.Length == 0 || inputs.Length == (Options.K + 63) / 64, nameof(inputs), $"0 or {(Options.K + 63) / 64} words, not {inputs.Length}");
        fixed (TX* px = x)
        fixed (TY* py = y)
        fixed (TY* pr = residual)
        fixed (float* ps = xScales)
        fixed (ulong* po = outputs)
        fixed (ulong* pi = inputs)
        {
            var args = new KnSparseLinearArgs { Size = (uint)sizeof(KnSparseLinearArgs), Outputs = po, Inputs = pi };
            args.Call = new KnFlatGemmArgs
            {
                Size = (uint)sizeof(KnFlatGemmArgs),
                M = x.Height,
                X = px,
                Ldx = x.Stride(),
                XScales = ps,
                Residual = pr,
                Ldr = residual.Stride(),
                Y = py,
                Ldy = ((ReadOnlySpan2D<TY>)y).Stride(),
            };
            Run(ref args, (KnSparseSets)((outputs.Length > 0 ? 1 : 0) | (inputs.Length > 0 ? 2 : 0)));
        }
    }

    /// <summary>Computes y from x on views of the device's buffers; on a GPU it only enqueues, on the stream or, null, the default one.</summary>
    /// <param name="x">[m, K] of the input type, on the plan's device; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type; overlaps nothing but, exactly, the residual.</param>
    /// <param name="stream">A stream of the plan's device.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="xScales">[m], s8 input only.</param>
    /// <param name="outputs">[ceil(N / 64)]: a bit for each active output.</param>
    /// <param name="inputs">[ceil(K / 64)]: a bit for each active input.</param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, 64-byte aligned, of no other call until this one is done; null: the plan's, or the driver's pool.</param>
    /// <exception cref="KernelsException">A shape, type, device or overlap that breaks a rule, or what the driver refuses.</exception>
    public void Run<TX, TY>(in TensorView<TX> x, in TensorView<TY> y, Stream? stream = null, TensorView<TY>? residual = null, TensorView<float>? xScales = null,
        TensorView<ulong>? outputs = null, TensorView<ulong>? inputs = null, Buffer<byte>? workspace = null) where TX : unmanaged where TY : unmanaged
    {
        Options.CheckTypes<TX, TY>();
        Options.CheckShapes(x.Shape(0), x.Rank == 2 ? x.Shape(1) : -1, y.Shape(0), y.Rank == 2 ? y.Shape(1) : -1, residual?.Shape(0) ?? 0,
            residual is { } given ? given.Rank == 2 ? given.Shape(1) : -1 : 0, (int)(xScales?.Shape(0) ?? 0));
        if (workspace is not null)
            KernelsException.Require(workspace.Device.Shares(Device) && workspace.Bytes >= _workspaceBytes, nameof(workspace), $"{_workspaceBytes} bytes on {Device}, not {workspace.Bytes} on {workspace.Device}");
        if (stream is not null) KernelsException.Require(stream.Device.Shares(Device), nameof(stream), $"a stream of {Device}, not of {stream.Device}");
        var held = new Held();
        try
        {
            held.Add(stream, nameof(stream));
            held.Add(workspace, nameof(workspace));
            var args = new KnSparseLinearArgs
            {
                Size = (uint)sizeof(KnSparseLinearArgs),
                Outputs = Address(outputs, nameof(outputs), (Options.N + 63) / 64, ref held),
                Inputs = Address(inputs, nameof(inputs), (Options.K + 63) / 64, ref held),
                Call = new KnFlatGemmArgs
                {
                    Size = (uint)sizeof(KnFlatGemmArgs),
                    M = (int)x.Shape(0),
                    X = Address<TX>(x, nameof(x), -1, ref held),
                    Ldx = x.Stride(0),
                    XScales = Address(xScales, nameof(xScales), x.Shape(0), ref held),
                    Residual = Address(residual, nameof(residual), -1, ref held),
                    Ldr = residual?.Stride(0) ?? 0,
                    Y = Address<TY>(y, nameof(y), -1, ref held),
                    Ldy = y.Stride(0),
                },
            };
            Run(ref args, (outputs is null ? 0 : KnSparseSets.Outputs) | (inputs is null ? 0 : KnSparseSets.Inputs), stream?.Handle ?? 0, workspace);
        }
        finally
        {
            held.Dispose();
        }
    }

    /// <summary>Where a view is, which must be on this device and contiguous in its last dimension; a list has a length, a matrix -1.</summary>
    private T* Address<T>(TensorView<T>? view, string name, long length, ref Held held) where T : unmanaged
    {
        if (view is not { } v) return null;
        int last = v.Rank - 1;
        KernelsException.Require(v.Stride(last) == 1 || v.Shape(last) <= 1, name, "its last dimension contiguous");
        KernelsException.Require(length < 0 || (v.Rank == 1 && v.Shape(0) == length), name, $"one dimension of {length}");
        KernelsException.Require(v.Buffer.Device.Shares(Device), name, $"a buffer on {Device}, not on {v.Buffer.Device}");
        held.Add(v.Buffer, name);
        return v.Pointer;
    }

    private void Run(ref KnSparseLinearArgs args, KnSparseSets sets, nint stream = 0, Buffer<byte>? given = null)
    {
        if (args.Call.M == 0 || Options.N == 0) return;
        int i = 0;
        while (_segments[i].To < args.Call.M) i++;
        ref readonly Segment<KnSparseLinearProblem> segment = ref _segments.ItemRef(i);
        var held = new Held();
        try
        {
            held.Add(_weights.Data, "plan");
            held.Add(_bias, "plan");
            args.Call.Bias = _bias == null ? null : _bias.Pointer;
            args.Call.Packed = _weights.Data.Pointer;
            args.Call.PackedBytes = _weights.Bytes;
            if (given is not null) Call(segment, ref args, sets, given.Pointer, given.Bytes, stream);
            else if (Device.Gpu is { } gpu) RunOn(gpu, segment, ref args, sets, stream);
            else RunHere(segment, ref args, sets);
        }
        finally
        {
            held.Dispose();
        }
    }

    private void RunHere(in Segment<KnSparseLinearProblem> segment, ref KnSparseLinearArgs args, KnSparseSets sets)
    {
        Workspaces.Slot own = _workspaces!.Take();
        try
        {
            Call(segment, ref args, sets, own.Buffer.Pointer, own.Buffer.Bytes, 0);
        }
        finally
        {
            _workspaces.Return(own);
        }
    }

    private static void RunOn(GpuDriver gpu, in Segment<KnSparseLinearProblem> segment, ref KnSparseLinearArgs args, KnSparseSets sets, nint stream)
    {
        nint workspace = segment.Workspace == 0 ? 0 : gpu.Allocate(segment.Workspace, stream);
        try
        {
            Call(segment, ref args, sets, (void*)workspace, segment.Workspace, stream);
        }
        finally
        {
            if (workspace != 0 && gpu.Fault is null) gpu.Free(workspace, stream);
        }
    }

    private static void Call(in Segment<KnSparseLinearProblem> segment, ref KnSparseLinearArgs args, KnSparseSets sets, void* workspace, long bytes, nint stream)
    {
        args.Call.Workspace = workspace;
        args.Call.WorkspaceBytes = bytes;
        KnSparseLinearProblem problem = segment.Problem;
        problem.Sets = (int)sets;
        fixed (KnSparseLinearArgs* at = &args)
        {
            KnStatus status = segment.Row.Run(&problem, segment.Launch, at, stream);
            if (status != KnStatus.Ok) throw segment.Row.Failure(status);
        }
    }

    internal static KnSparseLinearProblem Problem(FlatGemmOptions options, int m, long nnz, KnSparseSets sets) =>
        new() { Size = (uint)sizeof(KnSparseLinearProblem), Sets = (int)sets, Layer = options.Problem(m), Nnz = nnz };

    internal static void Check(FlatGemmOptions options)
    {
        options.Check();
        KernelsException.Require(options.Weights != DType.UInt4, nameof(options.Weights), "f32, bf16, f16 or s8 weights, not u4");
    }

    /// <summary>Frees workspace, bias and, if this plan packed them, the weights, once the calls that run have returned.</summary>
    public void Dispose()
    {
        _workspaces?.Dispose();
        _bias?.Dispose();
        if (_ownsWeights) _weights.Dispose();
    }
}
