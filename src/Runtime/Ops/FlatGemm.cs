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
/// <remarks>
/// On a GPU the weights are copied there, Run takes views of the device's buffers and only enqueues, on the stream it is given
/// or the default one, and overloads for host memory are refused: no copy is hidden. Scratch of a call is memory of the driver's
/// pool in the order of its stream, so that calls on any streams, in any graphs, never share it; a caller who wants none allocated
/// passes <see cref="WorkspaceBytes"/> of his own.
/// </remarks>
public sealed unsafe partial class FlatGemm : IDisposable
{
    private readonly ImmutableArray<Segment<KnFlatGemmProblem>> _segments;
    private readonly FlatGemmWeights _weights;
    private readonly bool _ownsWeights;
    private readonly Buffer<float>? _bias;
    private readonly long _workspaceBytes;

    private FlatGemm(FlatGemmOptions options, Device device, FlatGemmWeights weights, bool ownsWeights, Buffer<float>? bias, ImmutableArray<Segment<KnFlatGemmProblem>> segments)
    {
        (Options, Device, _weights, _ownsWeights, _bias, _segments) = (options, device, weights, ownsWeights, bias, segments);
        _workspaceBytes = segments.Max(s => s.Workspace);
        if (device.Gpu is null) Workspaces = new Workspaces(_workspaceBytes);
    }

    /// <summary>Those of its callers; none on a GPU.</summary>
    internal Workspaces? Workspaces { get; }

    /// <summary>Where it runs.</summary>
    public Device Device { get; }

    /// <summary>The layer.</summary>
    public FlatGemmOptions Options { get; }

    /// <summary>Bytes of packed weights.</summary>
    public long WeightBytes => _weights.Bytes;

    /// <summary>Bytes of scratch one call uses. On the CPU a plan keeps one such buffer, and one more for each concurrent caller.</summary>
    public long WorkspaceBytes => _workspaceBytes;

    /// <summary>What runs for every m, in order of m.</summary>
    public ImmutableArray<Choice> Choices => [.. _segments.Select(s => new Choice(s.From, s.To, s.Row.Dataflow(s.Launch).WithThreads(Options.Threads), s.Source, s.Reason, s.Workspace))];

    /// <summary>What runs for calls of <paramref name="m"/> rows.</summary>
    /// <exception cref="KernelsException">m beyond MaxM.</exception>
    public Choice Choice(int m) => Kernels.Choice.Of(Choices, m, Options.MaxM);

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
            KernelsException.Require(weights.Data.Device.Shares(device), nameof(weights), $"weights on {device}, not on {weights.Data.Device}");
            options.CheckBias(bias.Length);
            ImmutableArray<Segment<KnFlatGemmProblem>> segments = FlatGemmSelection.Choose(device, options, weights.Layout, TuningStore.In(options.TuningDirectory), options.Cache);
            segments = [.. segments.Select(s => s.Sized(device))];
            return new FlatGemm(options, device, weights, owns, bias.Length > 0 ? Buffer<float>.Of(device, bias) : null, segments);
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
        RequireHost();
        Options.CheckTypes<TX, TY>();
        Options.CheckShapes(x.Height, x.Width, y.Height, y.Width, residual.Height, residual.Width, xScales.Length);
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
        RequireHost();
        Options.CheckTypes<TX, TY>();
        int m = Options.K > 0 ? x.Length / Options.K : Options.N > 0 ? y.Length / Options.N : 0;
        KernelsException.Require(x.Length == (long)m * Options.K, nameof(x), $"a multiple of K = {Options.K} elements, not {x.Length}");
        KernelsException.Require(y.Length == (long)m * Options.N, nameof(y), $"{m} x {Options.N} elements, not {y.Length}");
        KernelsException.Require(residual.Length == (Options.Residual ? y.Length : 0), nameof(residual), $"{(Options.Residual ? y.Length : 0)} elements, not {residual.Length}");
        Options.CheckShapes(m, Options.K, m, Options.N, Options.Residual ? m : 0, Options.Residual ? Options.N : 0, xScales.Length);
        fixed (TX* px = x)
        fixed (TY* py = y)
        fixed (TY* pr = residual)
        fixed (float* ps = xScales)
            Run(m, px, Options.K, ps, pr, Options.N, py, Options.N);
    }

    /// <summary>Computes y from x on views of the device's buffers; on a GPU in the order of its default stream.</summary>
    /// <inheritdoc cref="Run{TX, TY}(ReadOnlySpan2D{TX}, Span2D{TY}, ReadOnlySpan2D{TY}, ReadOnlySpan{float})"/>
    public void Run<TX, TY>(in TensorView<TX> x, in TensorView<TY> y, TensorView<TY>? residual = null, ReadOnlySpan<float> xScales = default)
        where TX : unmanaged where TY : unmanaged
    {
        if (xScales.Length > 0) RequireHost();
        fixed (float* ps = xScales) Run(x, y, residual, ps, xScales.Length, 0, null);
    }

    /// <summary>
    /// Enqueues the computation of y from x on a GPU's stream; null is the default one. Nothing is waited for: what fails on the
    /// device shows when the stream is waited for. The buffers must stay until it is done.
    /// </summary>
    /// <param name="x">[m, K] of the input type, on the plan's device; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type, on the plan's device; overlaps nothing but, exactly, the residual.</param>
    /// <param name="stream">A stream of the plan's device.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="xScales">[m], s8 input only, on the plan's device: x = q * scale of its row.</param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, 64-byte aligned, of no other call until this one is done; null: the driver's pool.</param>
    /// <exception cref="KernelsException">A shape, type, device or overlap that breaks a rule, or what the driver refuses.</exception>
    public void Run<TX, TY>(in TensorView<TX> x, in TensorView<TY> y, Stream? stream, TensorView<TY>? residual = null, TensorView<float>? xScales = null,
        Buffer<byte>? workspace = null) where TX : unmanaged where TY : unmanaged
    {
        if (stream is not null) KernelsException.Require(stream.Device.Shares(Device), nameof(stream), $"a stream of {Device}, not of {stream.Device}");
        if (xScales is { } s)
        {
            KernelsException.Require(s.Rank == 1 && (s.Stride(0) == 1 || s.Shape(0) <= 1), nameof(xScales), "one dimension, contiguous");
            RequireHere(s, nameof(xScales));
        }
        if (workspace is not null)
            KernelsException.Require(workspace.Device.Shares(Device) && workspace.Bytes >= _workspaceBytes, nameof(workspace), $"{_workspaceBytes} bytes on {Device}, not {workspace.Bytes} on {workspace.Device}");
        var held = new Held();
        try
        {
            held.Add(stream, nameof(stream));
            held.Add(workspace, nameof(workspace));
            held.Add(xScales?.Buffer, nameof(xScales));
            Run(x, y, residual, xScales is { } scales ? scales.Pointer : null, (int)(xScales?.Shape(0) ?? 0), stream?.Handle ?? 0, workspace);
        }
        finally
        {
            held.Dispose();
        }
    }

    private void Run<TX, TY>(in TensorView<TX> x, in TensorView<TY> y, TensorView<TY>? residual, float* xScales, int scales, nint stream, Buffer<byte>? workspace)
        where TX : unmanaged where TY : unmanaged
    {
        Options.CheckTypes<TX, TY>();
        KernelsException.Require(x.Rank == 2 && (x.Stride(1) == 1 || x.Shape(1) <= 1), nameof(x), "two dimensions, the last one contiguous");
        KernelsException.Require(y.Rank == 2 && (y.Stride(1) == 1 || y.Shape(1) <= 1), nameof(y), "two dimensions, the last one contiguous");
        Options.CheckShapes(x.Shape(0), x.Shape(1), y.Shape(0), y.Shape(1), residual?.Shape(0) ?? 0, residual?.Shape(1) ?? 0, scales);
        RequireHere(x, nameof(x));
        RequireHere(y, nameof(y));
        if (residual is { } given) RequireHere(given, nameof(residual));
        var held = new Held();
        try
        {
            held.Add(x.Buffer, nameof(x));
            held.Add(y.Buffer, nameof(y));
            held.Add(residual?.Buffer, nameof(residual));
            Run((int)x.Shape(0), x.Pointer, x.Stride(0), xScales, residual is { } r ? r.Pointer : null, residual?.Stride(0) ?? 0, y.Pointer, y.Stride(0), stream, workspace);
        }
        finally
        {
            held.Dispose();
        }
    }

    private void RequireHost()
    {
        if (Device.Gpu is not null)
            throw new KernelsException(Status.Invalid, "x", $"views of buffers on {Device}: this overload takes memory of the host, and no copy is hidden; Buffer.CopyFrom and CopyTo copy");
    }

    private void RequireHere<T>(in TensorView<T> view, string name) where T : unmanaged =>
        KernelsException.Require(view.Buffer.Device.Shares(Device), name, $"a buffer on {Device}, not on {view.Buffer.Device}");

    private void Run(int m, void* x, long ldx, float* xScales, void* residual, long ldr, void* y, long ldy, nint stream = 0, Buffer<byte>? workspace = null)
    {
        if (m == 0 || Options.N == 0) return;
        int i = 0;
        while (_segments[i].To < m) i++;
        ref readonly Segment<KnFlatGemmProblem> segment = ref _segments.ItemRef(i);
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
            if (Device.Gpu is { } gpu) RunOn(gpu, segment, ref args, stream, workspace);
            else RunHere(segment, ref args, workspace);
        }
        finally
        {
            held.Dispose();
        }
    }

    private void RunHere(in Segment<KnFlatGemmProblem> segment, ref KnFlatGemmArgs args, Buffer<byte>? given)
    {
        Workspaces.Slot? own = given is null ? Workspaces!.Take() : null;
        try
        {
            Buffer<byte> workspace = given ?? own!.Buffer;
            Call(segment, ref args, workspace.Pointer, workspace.Bytes, 0);
        }
        finally
        {
            if (own is not null) Workspaces!.Return(own);
        }
    }

    private static void RunOn(GpuDriver gpu, in Segment<KnFlatGemmProblem> segment, ref KnFlatGemmArgs args, nint stream, Buffer<byte>? given)
    {
        if (given is not null || segment.Workspace == 0)
        {
            Call(segment, ref args, given == null ? null : given.Pointer, given?.Bytes ?? 0, stream);
            return;
        }
        nint workspace = gpu.Allocate(segment.Workspace, stream);
        try
        {
            Call(segment, ref args, (void*)workspace, segment.Workspace, stream);
        }
        finally
        {
            if (gpu.Fault is null) gpu.Free(workspace, stream);
        }
    }

    private static void Call(in Segment<KnFlatGemmProblem> segment, ref KnFlatGemmArgs args, void* workspace, long bytes, nint stream)
    {
        args.Workspace = workspace;
        args.WorkspaceBytes = bytes;
        KnFlatGemmProblem problem = segment.Problem;
        fixed (KnFlatGemmArgs* at = &args)
        {
            KnStatus status = segment.Row.Run(&problem, segment.Launch, at, stream);
            if (status != KnStatus.Ok) throw segment.Row.Failure(status);
        }
    }

    /// <summary>Frees workspace, bias and, if this plan packed them, the weights, once the calls that run have returned.</summary>
    public void Dispose()
    {
        Workspaces?.Dispose();
        _bias?.Dispose();
        if (_ownsWeights) _weights.Dispose();
    }
}
