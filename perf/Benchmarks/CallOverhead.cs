using BenchmarkDotNet.Attributes;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Benchmarks;

/// <summary>
/// What a call costs beside its work: a product so small that nearly all of its time is the way to the kernel, by every door,
/// against the row's function pointer alone. One thread, so that no worker is woken.
/// </summary>
public unsafe class CallOverhead : IDisposable
{
    private const int M = 1, N = 16, K = 32;
    private readonly FlatGemmOptions _options = new() { N = N, K = K, MaxM = M, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, Threads = 1 };
    private readonly float[] _x = new float[M * K], _y = new float[M * N];
    private readonly float[,] _x2 = new float[M, K], _y2 = new float[M, N], _w2 = new float[N, K];
    private FlatGemm _plan = null!;
    private Buffer<float> _xBuffer = null!, _yBuffer = null!;
    private Buffer<byte> _packed = null!, _workspace = null!;
    private Row _row = null!;
    private KnFlatGemmProblem _problem;
    private KnFlatGemmArgs _args;
    private KnLaunch _launch;

    /// <summary>Packs one small layer for all.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _plan = FlatGemm.Create<float>(_options, new float[N, K]);
        _xBuffer = Buffer<float>.Of(_x);
        _yBuffer = Buffer<float>.Of(_y);
        _row = FlatGemmSelection.LayoutRow(Device.Cpu, _options);
        _problem = _options.Problem(M);
        _launch = _row.DefaultLaunch(1);
        KnFlatGemmProblem problem = _problem;
        bool packs = _row.Layout(&problem) is not null;
        using Buffer<float> w = Buffer<float>.Allocate(N * K);
        _packed = Buffer<byte>.Allocate(packs ? _row.PackedBytes(&problem) : N * K * sizeof(float));
        _workspace = Buffer<byte>.Allocate(_row.Workspace(&problem, _launch));
        _args = new KnFlatGemmArgs
        {
            Size = (uint)sizeof(KnFlatGemmArgs),
            M = M,
            X = _xBuffer.Pointer,
            Ldx = K,
            W = w.Pointer,
            Ldw = K,
            Packed = _packed.Pointer,
            PackedBytes = _packed.Bytes,
            Y = _yBuffer.Pointer,
            Ldy = N,
            Workspace = _workspace.Pointer,
            WorkspaceBytes = _workspace.Bytes,
        };
        KnFlatGemmArgs args = _args;
        if (packs) _row.Prepack(&problem, &args);
        _args.W = packs ? null : _packed.Pointer;  // zeros, as w was
    }

    /// <summary>The row alone: the floor.</summary>
    [Benchmark(Baseline = true)]
    public int FunctionPointer()
    {
        KnFlatGemmProblem problem = _problem;
        KnFlatGemmArgs args = _args;
        return (int)_row.Run(&problem, _launch, &args);
    }

    /// <summary>Contiguous spans.</summary>
    [Benchmark]
    public void Span() => _plan.Run<float, float>(_x, _y);

    /// <summary>Strided spans.</summary>
    [Benchmark]
    public void Span2D() => _plan.Run<float, float>(new ReadOnlySpan2D<float>(_x2), new Span2D<float>(_y2));

    /// <summary>Views of buffers.</summary>
    [Benchmark]
    public void TensorView() => _plan.Run(new TensorView<float>(_xBuffer, 0, [M, K], [K, 1]), new TensorView<float>(_yBuffer, 0, [M, N], [N, 1]));

    /// <summary>Without a plan: w is read where it lies, scratch comes from the system.</summary>
    [Benchmark]
    public void Multiply() => FlatGemm.Multiply(new ReadOnlySpan2D<float>(_x2), new ReadOnlySpan2D<float>(_w2), new Span2D<float>(_y2), threads: 1);

    /// <summary>Frees all of it.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        _plan?.Dispose();
        foreach (IDisposable? buffer in (IDisposable?[])[_xBuffer, _yBuffer, _packed, _workspace]) buffer?.Dispose();
        GC.SuppressFinalize(this);
    }
}
