using System.Collections.Immutable;
using System.Runtime.CompilerServices;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// A linear layer for few rows: <c>y[m,n] = act(x[m,k] · w[n,k]ᵀ + bias[n]) (+ residual[m,n])</c>. Create chooses a row for
/// every m, packs the weights and sizes the workspace once; Run checks shapes and calls, with no allocation and no lock.
/// Any number of threads may run one plan at a time. After FlashDecoding++ (arXiv 2311.01282), sections 4 and 5: the dataflow
/// changes with m, measured per shape and device.
/// </summary>
public sealed unsafe class FlatGemm : IDisposable
{
    private readonly ImmutableArray<Segment<KnFlatGemmProblem>> _segments;
    private readonly FlatGemmWeights _weights;
    private readonly bool _ownsWeights;
    private readonly Buffer<float>? _bias;
    private readonly long _workspaceBytes;
    private Buffer<byte>? _idle;
    private bool _disposed;

    private FlatGemm(FlatGemmOptions options, FlatGemmWeights weights, bool ownsWeights, Buffer<float>? bias, ImmutableArray<Segment<KnFlatGemmProblem>> segments)
    {
        (Options, _weights, _ownsWeights, _bias, _segments) = (options, weights, ownsWeights, bias, segments);
        _workspaceBytes = segments.Max(s => s.Workspace);
        _idle = Buffer<byte>.Allocate(_workspaceBytes);
    }

    /// <summary>The layer.</summary>
    public FlatGemmOptions Options { get; }

    /// <summary>Bytes of packed weights.</summary>
    public long WeightBytes => _weights.Bytes;

    /// <summary>Bytes of scratch one call uses; a plan keeps one such buffer, and one more for each concurrent caller.</summary>
    public long WorkspaceBytes => _workspaceBytes;

    /// <summary>What runs for every m, in order of m.</summary>
    public ImmutableArray<Choice> Choices => [.. _segments.Select(s => new Choice(s.From, s.To, s.Row.Dataflow(s.Launch).WithThreads(Options.Threads), s.Source, s.Reason, s.Workspace))];

    /// <summary>What runs for calls of <paramref name="m"/> rows.</summary>
    public Choice Choice(int m) => Choices.First(c => m <= c.MTo);

    /// <summary>Packs <paramref name="w"/> and plans.</summary>
    /// <param name="options">The layer.</param>
    /// <param name="w">[N or 2 N, K] float, BFloat16, Half or sbyte; u4: bytes [N or 2 N, ceil(K / 2)], low nibble first.</param>
    /// <param name="bias">[N or 2 N] when the options say so.</param>
    /// <param name="scales">s8: [N or 2 N]; u4: [N or 2 N, ceil(K / Group)].</param>
    /// <param name="zeros">u4 with zero points: [N or 2 N, ceil(K / Group)], each 0..15.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">A shape, type or value that breaks a rule, or a forced row that cannot run.</exception>
    public static FlatGemm Create<T>(FlatGemmOptions options, ReadOnlySpan2D<T> w, ReadOnlySpan<float> bias = default,
        ReadOnlySpan<float> scales = default, ReadOnlySpan<byte> zeros = default, Device? device = null) where T : unmanaged =>
        Plan(options, FlatGemmWeights.Pack(options, w, scales, zeros, device), true, bias, device);

    /// <summary>Plans over weights that are packed already; they must outlive the plan's last call.</summary>
    /// <exception cref="KernelsException">Weights of another layer or layout, or a forced row that cannot run.</exception>
    public static FlatGemm Create(FlatGemmOptions options, FlatGemmWeights weights, ReadOnlySpan<float> bias = default, Device? device = null) =>
        Plan(options, weights, false, bias, device);

    private static FlatGemm Plan(FlatGemmOptions options, FlatGemmWeights weights, bool owns, ReadOnlySpan<float> bias, Device? device)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(weights);
        try
        {
            device ??= Device.Cpu;
            options.Check();
            KernelsException.Require(weights.Fits(options), nameof(weights), "weights packed for this dtype, shape and group");
            int columns = options.Bias ? options.Columns : 0;
            KernelsException.Require(bias.Length == columns, nameof(bias), $"{columns} values, not {bias.Length}");
            ImmutableArray<Segment<KnFlatGemmProblem>> segments = FlatGemmSelection.Choose(device, options, weights.Layout, TuningStore.Default);
            segments = [.. segments.Select(s => s.Sized(device))];
            return new FlatGemm(options, weights, owns, columns > 0 ? Buffer<float>.Of(bias) : null, segments);
        }
        catch when (owns)
        {
            weights.Dispose();
            throw;
        }
    }

    /// <summary>Computes y from x, both in host memory. m is the height of <paramref name="x"/>, at most MaxM.</summary>
    /// <param name="x">[m, K] of the input type; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type; overlaps nothing but, exactly, the residual.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="xScales">[m], s8 input only: x = q * scale of its row.</param>
    /// <exception cref="KernelsException">A shape, type or overlap that breaks a rule; y is then untouched.</exception>
    public void Run<TX, TY>(ReadOnlySpan2D<TX> x, Span2D<TY> y, ReadOnlySpan2D<TY> residual = default, ReadOnlySpan<float> xScales = default)
        where TX : unmanaged where TY : unmanaged
    {
        CheckTypes<TX, TY>();
        CheckShapes(x.Height, x.Width, y.Height, y.Width, residual.Height, residual.Width, xScales.Length);
        fixed (TX* px = x)
        fixed (TY* py = y)
        fixed (TY* pr = residual)
        fixed (float* ps = xScales)
            Run(x.Height, px, x.Stride(), ps, pr, residual.Stride(), py, ((ReadOnlySpan2D<TY>)y).Stride());
    }

    /// <summary>Computes y from contiguous x; m follows from the length of <paramref name="x"/>.</summary>
    /// <inheritdoc cref="Run{TX, TY}(ReadOnlySpan2D{TX}, Span2D{TY}, ReadOnlySpan2D{TY}, ReadOnlySpan{float})"/>
    public void Run<TX, TY>(ReadOnlySpan<TX> x, Span<TY> y, ReadOnlySpan<TY> residual = default, ReadOnlySpan<float> xScales = default)
        where TX : unmanaged where TY : unmanaged
    {
        CheckTypes<TX, TY>();
        int m = Options.K > 0 ? x.Length / Options.K : Options.N > 0 ? y.Length / Options.N : 0;
        KernelsException.Require(x.Length == (long)m * Options.K, nameof(x), $"a multiple of K = {Options.K} elements, not {x.Length}");
        KernelsException.Require(y.Length == (long)m * Options.N, nameof(y), $"{m} x {Options.N} elements, not {y.Length}");
        KernelsException.Require(residual.Length == (Options.Residual ? y.Length : 0), nameof(residual), $"{(Options.Residual ? y.Length : 0)} elements, not {residual.Length}");
        CheckShapes(m, Options.K, m, Options.N, Options.Residual ? m : 0, Options.Residual ? Options.N : 0, xScales.Length);
        fixed (TX* px = x)
        fixed (TY* py = y)
        fixed (TY* pr = residual)
        fixed (float* ps = xScales)
            Run(m, px, Options.K, ps, pr, Options.N, py, Options.N);
    }

    /// <summary>Computes y from x on views of any buffer.</summary>
    /// <inheritdoc cref="Run{TX, TY}(ReadOnlySpan2D{TX}, Span2D{TY}, ReadOnlySpan2D{TY}, ReadOnlySpan{float})"/>
    public void Run<TX, TY>(in TensorView<TX> x, in TensorView<TY> y, TensorView<TY>? residual = null, ReadOnlySpan<float> xScales = default)
        where TX : unmanaged where TY : unmanaged
    {
        CheckTypes<TX, TY>();
        KernelsException.Require(x.Rank == 2 && (x.Stride(1) == 1 || x.Shape(1) <= 1), nameof(x), "two dimensions, the last one contiguous");
        KernelsException.Require(y.Rank == 2 && (y.Stride(1) == 1 || y.Shape(1) <= 1), nameof(y), "two dimensions, the last one contiguous");
        CheckShapes(x.Shape(0), x.Shape(1), y.Shape(0), y.Shape(1), residual?.Shape(0) ?? 0, residual?.Shape(1) ?? 0, xScales.Length);
        fixed (float* ps = xScales)
        {
            var held = new Held();
            try
            {
                held.Add(x.Buffer, nameof(x));
                held.Add(y.Buffer, nameof(y));
                held.Add(residual?.Buffer, nameof(residual));
                Run((int)x.Shape(0), x.Pointer, x.Stride(0), ps, residual is { } r ? r.Pointer : null, residual?.Stride(0) ?? 0, y.Pointer, y.Stride(0));
            }
            finally
            {
                held.Dispose();
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void CheckTypes<TX, TY>() where TX : unmanaged where TY : unmanaged
    {
        if (DTypes.Of<TX>() != Options.Input || DTypes.Of<TY>() != Options.Output) WrongTypes(DTypes.Of<TX>(), DTypes.Of<TY>());
    }

    private void WrongTypes(DType x, DType y) => throw new KernelsException(Status.Invalid, x != Options.Input ? "x" : "y",
        $"x of {Options.Input.Name()} and y of {Options.Output.Name()}, not {x.Name()} and {y.Name()}");

    private void CheckShapes(long xm, long xk, long ym, long yn, long rm, long rn, int scales)
    {
        if (xm > Options.MaxM || (xk != Options.K && xm != 0) || ym != xm || (yn != Options.N && ym != 0)
            || (Options.Residual ? rm != ym || (rn != yn && ym != 0) : rm != 0) || scales != (Options.Input == DType.Int8 ? xm : 0))
            WrongShapes(xm, xk, ym, yn, rm, rn, scales);
    }

    private void WrongShapes(long xm, long xk, long ym, long yn, long rm, long rn, int scales)
    {
        KernelsException.Require(xm <= Options.MaxM, "x", $"at most MaxM = {Options.MaxM} rows, not {xm}");
        KernelsException.Require(xk == Options.K || xm == 0, "x", $"K = {Options.K} columns, not {xk}");
        KernelsException.Require(ym == xm && (yn == Options.N || ym == 0), "y", $"shape [{xm}, {Options.N}], not [{ym}, {yn}]");
        KernelsException.Require(scales == (Options.Input == DType.Int8 ? xm : 0), "xScales", $"{(Options.Input == DType.Int8 ? xm : 0)} values, not {scales}");
        throw new KernelsException(Status.Invalid, "residual", Options.Residual ? $"shape [{xm}, {Options.N}], not [{rm}, {rn}]" : "none, since the options have none");
    }

    private void Run(int m, void* x, long ldx, float* xScales, void* residual, long ldr, void* y, long ldy)
    {
        if (m == 0 || Options.N == 0) return;
        int i = 0;
        while (_segments[i].To < m) i++;
        ref readonly Segment<KnFlatGemmProblem> segment = ref _segments.ItemRef(i);
        Buffer<byte> workspace = Interlocked.Exchange(ref _idle, null) ?? Buffer<byte>.Allocate(_workspaceBytes);
        var held = new Held();
        try
        {
            held.Add(_weights.Data, "plan");
            held.Add(_bias, "plan");
            var args = new KnFlatGemmArgs
            {
                Size = (uint)sizeof(KnFlatGemmArgs),
                M = m,
                X = x,
                Ldx = ldx,
                XScales = xScales,
                Residual = residual,
                Ldr = ldr,
                Y = y,
                Ldy = ldy,
                Bias = _bias == null ? null : _bias.Pointer,
                Workspace = workspace.Pointer,
                WorkspaceBytes = workspace.Bytes,
            };
            byte* data = _weights.Data.Pointer;
            if (_weights.Layout is null)
            {
                args.W = data;
                args.Ldw = _weights.Ldw;
                args.Scales = (float*)(data + _weights.ScalesAt);
                args.Zeros = data + _weights.ZerosAt;
            }
            else
            {
                args.Packed = data;
                args.PackedBytes = _weights.Bytes;
            }
            KnFlatGemmProblem problem = segment.Problem;
            KnStatus status = segment.Row.Run(&problem, segment.Launch, &args);
            if (status != KnStatus.Ok) throw KernelsException.FromSentence((Status)status, segment.Row.Name, segment.Row.LastError);
        }
        finally
        {
            held.Dispose();
            Return(workspace);
        }
    }

    /// <summary>One workspace waits for the next caller; those of more concurrent callers are let go.</summary>
    private void Return(Buffer<byte> workspace)
    {
        if (_disposed || Interlocked.CompareExchange(ref _idle, workspace, null) is not null) workspace.Dispose();
    }

    /// <summary>Frees workspace, bias and, if this plan packed them, the weights, once the calls that run have returned.</summary>
    public void Dispose()
    {
        _disposed = true;
        Interlocked.Exchange(ref _idle, null)?.Dispose();
        _bias?.Dispose();
        if (_ownsWeights) _weights.Dispose();
    }
}
