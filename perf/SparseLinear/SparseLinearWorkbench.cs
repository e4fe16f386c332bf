using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>Operands of one sparse layer. The peer is our own dense flat_gemm on the same weights, zeros stored, as it would be chosen.</summary>
internal sealed unsafe class SparseLinearWorkbench : Workbench
{
    private readonly SparseLinearLayer _layer;
    private readonly FlatGemmOptions _options;
    private readonly Func<Layer, int, Work> _work;
    private readonly Conditions _on;
    private readonly TuningStore _store;
    private readonly SparseLinearTrial _trial;
    private readonly KnSparseSets _sets;
    private int _m;

    public SparseLinearWorkbench(SparseLinearLayer layer, Func<Layer, int, Work> work, IReadOnlyList<int> ms, Conditions on, TuningStore store)
    {
        (_layer, _work, _on, _store) = (layer, work, on, store);
        _m = ms.Max();
        _options = layer.Options with { MaxM = _m };
        // The sparse copies are the smaller ones: as many as make them cold.
        int copies = CallTimer.Copies(on.Device, on.Cache, WorkAt(_m).Bytes);
        Timer = CallTimer.On(on.Device, copies, on.Cache, on.Eager);
        _sets = layer.Active is null ? KnSparseSets.None : KnSparseSets.Outputs | KnSparseSets.Inputs;
        _trial = new SparseLinearTrial(_options.Problem(_m), 7, layer.Density, sets: _sets, active: layer.Active, copies: copies, sampleRows: 4, sampleColumns: 8);
    }

    public override Layer Layer => _layer;

    public override Work WorkAt(int at) => _work(_layer, at);

    public override CallTimer Timer { get; }

    public override IReadOnlyList<TimedCall> Calls(int m, int threads, bool every)
    {
        Narrow(m);
        FlatGemmOptions options = _options with { Threads = threads };
        long nnz = _trial.Sparse.Nnz;
        var chosen = SparseLinearSelection.Choose(_on.Device, options, nnz, _sets, _store, _on.Cache).First(s => m <= s.To);
        var calls = new List<TimedCall> { Call(chosen.Row, chosen.Launch, m) };
        if (!every) return calls;
        KnSparseLinearProblem problem = SparseLinear.Problem(options, m, nnz, _sets);
        foreach (Row row in _on.Device.Table.Of(KnOp.SparseLinear).Where(r => _on.Device.Table.Runs(r, out _)))
            foreach (KnLaunch launch in row.Launches(threads))
                if (row.Dataflow(launch) != chosen.Row.Dataflow(chosen.Launch) && row.Accepts(&problem, launch, out _)) calls.Add(Call(row, launch, m));
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
        if (!_trial.Prepare(row, launch, out KnStatus status, out string error)) throw new KernelsException((Status)status, row.Name, error);
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
        if (_sets != KnSparseSets.None)
        {
            reasons.Add("no peer takes active sets");
            return [];
        }
        Narrow(m);
        FlatGemmOptions options = _options with { Threads = threads, Row = null };
        KnFlatGemmProblem problem = options.Problem(_options.MaxM);
        string? layout = FlatGemmSelection.LayoutRow(_on.Device, options).Layout(&problem);
        var dense = FlatGemmSelection.Choose(_on.Device, options, layout, _store, _on.Cache).First(s => m <= s.To);
        TimedCall call = Call(dense.Row, dense.Launch, m);
        reasons.Add("the peer is our dense flat_gemm; oneDNN and others are compared with it by perf compare flat_gemm");
        return [new PeerCall("flat_gemm", new TimedCall("flat_gemm", call.Run), null)];
    }

    public override void Dispose()
    {
        Timer.Dispose();
        _trial.Dispose();
    }
}
