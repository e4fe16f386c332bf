using System.Runtime.InteropServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed partial class FlatGemmOperation
{
    public override Workbench Open(Layer layer, IReadOnlyList<int> points, Conditions on, TuningStore store) =>
        new FlatGemmWorkbench((FlatGemmLayer)layer, points, on, store);

    public override Work WorkOf(Layer layer, int at) => WorkOf(Of(layer), at);

    internal static Work WorkOf(FlatGemmOptions o, int m) => new((long)o.Columns * o.K * o.Weights.Bits() / 8, 2.0 * m * o.Columns * o.K, (o.Weights, o.Input) switch
    {
        (DType.Int8, DType.Int8) => ["s8", "u8s8"],
        (DType.Int8, _) when o.QuantizeInput => ["s8", "u8s8"],
        (DType.BFloat16, _) or (_, DType.BFloat16) => ["bf16", "f32"],
        (DType.Float16, DType.Float16) => ["f16", "f32"],
        _ => ["f32"],
    });
}

/// <summary>Operands of one linear layer, with the calls of ours and of peers on them.</summary>
internal sealed unsafe class FlatGemmWorkbench : Workbench
{
    private readonly FlatGemmLayer _layer;
    private readonly FlatGemmOptions _options;
    private readonly Conditions _on;
    private readonly TuningStore _store;
    private readonly FlatGemmTrial _trial;
    private readonly int _copies;
    private int _m;

    public FlatGemmWorkbench(FlatGemmLayer layer, IReadOnlyList<int> ms, Conditions on, TuningStore store)
    {
        (_layer, _on, _store) = (layer, on, store);
        _m = ms.Max();
        _options = layer.Options with { MaxM = _m };
        _copies = CallTimer.Copies(on.Device, on.Cache, WorkAt(_m).Bytes);
        Timer = CallTimer.On(on.Device, _copies, on.Cache, on.Eager);
        _trial = new FlatGemmTrial(_options.Problem(_m), 7, _copies, sampleRows: 4, sampleColumns: 8);
    }

    public override Layer Layer => _layer;

    public override Work WorkAt(int at) => FlatGemmOperation.WorkOf(_options, at);

    public override CallTimer Timer { get; }

    public override IReadOnlyList<TimedCall> Calls(int m, int threads, bool every)
    {
        Narrow(m);
        var calls = new List<TimedCall>();
        FlatGemmOptions options = _options with { Threads = threads };
        KnFlatGemmProblem problem = options.Problem(_options.MaxM);
        string? layout = FlatGemmSelection.LayoutRow(_on.Device, options).Layout(&problem);
        var chosen = FlatGemmSelection.Choose(_on.Device, options, layout, _store, _on.Cache).First(s => m <= s.To);
        calls.Add(Call(chosen.Row, chosen.Launch, m));
        if (!every) return calls;
        foreach (Row row in _on.Device.Table.Of(KnOp.FlatGemm).Where(r => r != chosen.Row && _on.Device.Table.Runs(r, out _)))
        {
            KnLaunch launch = row.DefaultLaunch(threads);
            if (FlatGemmSelection.Accepts(row, options, m, launch)) calls.Add(Call(row, launch, m));
        }
        return calls;
    }

    private void Narrow(int m)
    {
        if (_m != m) _trial.Narrow(m);
        _m = m;
    }

    /// <summary>A call that has been run once and found right: a wrong result has no speed.</summary>
    private TimedCall Call(Row row, KnLaunch launch, int m)
    {
        if (!_trial.Prepare(row, launch, out KnStatus status, out string error))
            throw new KernelsException((Status)status, row.Name, error);
        var call = new TimedCall(row.Dataflow(launch).ToString(), copy =>
        {
            KnStatus done = Timer is DeviceTimer timer ? _trial.RunThere((GpuRow)row, launch, m, copy, timer.Stream.Handle) : _trial.Run(row, launch, m, copy);
            if (done != KnStatus.Ok) throw row.Failure(done);
        });
        _trial.Poison();
        if (_trial.Run(row, launch, m) is var ran and not KnStatus.Ok) throw row.Failure(ran);
        FlatGemmVerdict verdict = _trial.Check(m);
        return verdict.Ok ? call : throw new KernelsException(Status.Internal, call.Name, $"{_layer.Case}, m {m}: {verdict}");
    }

    public override IReadOnlyList<PeerCall> Peers(int m, int threads, PeerSet peers, List<string> reasons)
    {
        Narrow(m);
        var calls = new List<PeerCall>();
        FlatGemmOptions o = _options;
        if (_on.Device.Gpu is { } gpu)
        {
            if (OnGpu(gpu, m, reasons) is { } call) calls.Add(call);
            if (Torch(peers, m, 0, reasons) is { } torch) calls.Add(torch);
            return calls;
        }
        if (o.Gated || o.Bias || o.Residual || o.Activation != Activation.None) reasons.Add("peers compute the plain product: its epilogue is ours alone");
        if (!Matches(o))
        {
            reasons.Add($"no peer takes {_layer.Dtypes}");
            return calls;
        }
        int count = threads == 0 ? Device.Cpu.Threads : threads;
        foreach (Peer peer in peers.Native)
            if (Native(peer, m, count, reasons) is { } call) calls.Add(call);
        if (o.Weights == DType.Float32) calls.AddRange(Managed(m, count));
        if (Torch(peers, m, count, reasons) is { } there) calls.Add(there);
        return calls;
    }

    // What kn_peers can say: f32, bf16 with y of f32 or bf16, s8 times s8 with y of f32. Weights of s8 alone are another product.
    private static bool Matches(FlatGemmOptions o) => (o.Weights, o.QuantizeInput ? DType.Int8 : o.Input, o.Output) switch
    {
        (DType.Float32, DType.Float32, DType.Float32) => true,
        (DType.BFloat16, DType.BFloat16, DType.BFloat16 or DType.Float32) => true,
        (DType.Int8, DType.Int8, _) => true,
        _ => false,
    };

    /// <summary>torch.matmul, which has one type for all.</summary>
    private PeerCall? Torch(PeerSet peers, int m, int threads, List<string> reasons)
    {
        FlatGemmOptions o = _options;
        if (o.Weights != o.Input || o.Weights != o.Output || Cublas.TypeOf(o.Weights) is null) return null;
        var shape = new Dictionary<string, object> { ["m"] = m, ["n"] = o.Columns, ["k"] = o.K };
        PeerCall? call = peers.Torch.TryCreate(_on.Device, shape, "flat_gemm", o.Weights, _copies, threads, !_on.Eager, out string reason);
        if (call is null) reasons.Add(reason);
        else if (o.Gated || o.Bias || o.Residual || o.Activation != Activation.None) reasons.Add("PyTorch computes the plain product: its epilogue is ours alone");
        return call;
    }

    /// <summary>cuBLAS on the same rotating copies, on the timer's stream; held to the oracle like any peer.</summary>
    private PeerCall? OnGpu(GpuDriver gpu, int m, List<string> reasons)
    {
        (DType w, DType x, DType y) = (_options.Weights, _options.Input, _options.Output);
        if (w != x || (y != w && y != DType.Float32) || Cublas.TypeOf(w) is not { } operands || Cublas.TypeOf(y) is not { } result)
        {
            reasons.Add($"no peer takes {_layer.Dtypes}");
            return null;
        }
        if (Cublas.TryOpen(_on.Device, ((DeviceTimer)Timer).Stream.Handle, out string reason) is not { } cublas)
        {
            reasons.Add(reason);
            return null;
        }
        if (_options.Gated || _options.Bias || _options.Residual || _options.Activation != Activation.None) reasons.Add("cuBLAS computes the plain product: its epilogue is ours alone");
        Buffer<byte> to = Buffer<byte>.Allocate(_on.Device, (long)m * _options.Columns * y.Bits() / 8);
        nint plain = (nint)to.Pointer;
        void Gemm(int copy, void* at, long ldy)
        {
            KnFlatGemmArgs a = _trial.OperandsThere(gpu, copy);
            cublas.Gemm(operands, result, m, _options.Columns, _options.K, a.X, (int)a.Ldx, a.W, (int)a.Ldw, at, (int)ldy);
        }
        if (!_options.Gated)
        {
            _trial.OperandsThere(gpu, 0);
            _trial.PoisonThere();
            Gemm(0, _trial.OperandsThere(gpu, 0).Y, _trial.Args.Ldy);
            gpu.Synchronize(((DeviceTimer)Timer).Stream.Handle);
            _trial.Fetch();
            if (_trial.Check(m) is { Ok: false } verdict && !_options.Bias && !_options.Residual && _options.Activation == Activation.None) reasons.Add($"{cublas.Name}, m {m}: {verdict}");
        }
        return new PeerCall(cublas.Name, new TimedCall(cublas.Name, copy => Gemm(copy, (void*)plain, _options.Columns)), new HeldThere(cublas, to));
    }

    private sealed class HeldThere(Cublas cublas, Buffer<byte> y) : IDisposable
    {
        public void Dispose()
        {
            cublas.Dispose();
            y.Dispose();
        }
    }

    private PeerCall? Native(Peer peer, int m, int threads, List<string> reasons)
    {
        bool integer = _options.Weights == DType.Int8;
        var problem = new PeerProblem
        {
            Type = (int)_options.Weights,
            YType = (int)(integer ? DType.Float32 : _options.Output),
            M = m,
            N = _options.Columns,
            K = _options.K,
            Threads = threads,
            Copies = _copies,
        };
        FlatGemmTrial trial = _trial;
        // s8 peers multiply s8 by s8; where ours takes bf16, theirs gets x quantised already, at no cost to them.
        Buffer<byte>? x = integer && _options.Input != DType.Int8 ? Buffer<byte>.Allocate((long)m * _options.K) : null;
        Buffer<byte>? y = integer ? Buffer<byte>.Allocate((long)m * _options.Columns * 4) : null;
        if (x is not null) new Random(3).NextBytes(x.Span);
        long count = (long)_options.Columns * _options.K;
        if (!Create(peer, problem, count, out PeerGemm? gemm, out string reason))
        {
            x?.Dispose();
            y?.Dispose();
            reasons.Add(reason);
            return null;
        }
        nint xs = x is not null ? (nint)x.Pointer : (nint)trial.Args.X, ys = y is not null ? (nint)y.Pointer : (nint)trial.Args.Y;
        var call = new TimedCall(peer.Name, copy => gemm!.Run(copy, (void*)xs, (void*)ys));
        if (!integer && Wrong(call, m) is { } wrong) reasons.Add($"{peer.Name}, m {m}: {wrong}");
        return new PeerCall(peer.Name, call, new Held(gemm!, x, y));
    }

    private bool Create(Peer peer, PeerProblem problem, long count, out PeerGemm? gemm, out string reason)
    {
        gemm = null;
        reason = $"{peer.Name}: more than 2^31 weights";
        if (count > int.MaxValue) return false;
        void* w = _trial.Args.W;
        return _options.Weights switch
        {
            DType.Float32 => peer.TryCreate(problem, new ReadOnlySpan<float>(w, (int)count), default, out gemm, out reason),
            DType.BFloat16 => peer.TryCreate(problem, new ReadOnlySpan<BFloat16>(w, (int)count), default, out gemm, out reason),
            _ => peer.TryCreate(problem, new ReadOnlySpan<sbyte>(w, (int)count), new ReadOnlySpan<float>(_trial.Args.Scales, _options.Columns), out gemm, out reason),
        };
    }

    /// <summary>A peer is held to the same oracle, where ours has no epilogue; what it gets wrong is said, not hidden.</summary>
    private string? Wrong(TimedCall call, int m)
    {
        _trial.Poison();
        call.Run(0);
        FlatGemmVerdict verdict = _trial.Check(m);
        bool plain = !_options.Gated && !_options.Bias && !_options.Residual && _options.Activation == Activation.None;
        return verdict.Ok || !plain ? null : verdict.ToString();
    }

    private PeerCall[] Managed(int m, int threads)
    {
        // One copy, so warm where it fits: kinder to them than our own policy, and their arrays cannot be larger.
        int n = _options.Columns, k = _options.K;
        if ((long)n * k > 1 << 29) return [];
        float[] x = new ReadOnlySpan<float>(_trial.Args.X, m * k).ToArray(), w = new ReadOnlySpan<float>(_trial.Args.W, n * k).ToArray(), y = new float[m * n];
        Action mathNet = ManagedPeers.MathNetGemm(x, w, y, m, n, k, threads);
        return
        [
            new PeerCall("System.Numerics.Tensors", new TimedCall("System.Numerics.Tensors", _ => ManagedPeers.TensorPrimitivesGemm(x, w, y, m, n, k, threads)), null),
            new PeerCall("MathNet", new TimedCall("MathNet", _ => mathNet()), null),
        ];
    }

    public override void Dispose()
    {
        Timer.Dispose();
        _trial.Dispose();
    }

    private sealed class Held(PeerGemm gemm, params Buffer<byte>?[] buffers) : IDisposable
    {
        public void Dispose()
        {
            gemm.Dispose();
            foreach (Buffer<byte>? buffer in buffers) buffer?.Dispose();
        }
    }
}
