using System.Diagnostics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure.</summary>
internal sealed record SparseLinearTuning : TuningEffort
{
    /// <summary>The layer; its MaxM and Row do not matter.</summary>
    public required FlatGemmOptions Layer { get; init; }

    public required double Density { get; init; }
}

/// <summary>Measures the dataflows of a sparse layer over a grid of m.</summary>
internal sealed class SparseLinearTuner : Tuner<KnSparseLinearProblem>
{
    private readonly SparseLinearTrial _trial;

    private SparseLinearTuner(SparseLinearSelection selection, SparseLinearTuning what, SparseLinearTrial trial, CallTimer timer) : base(selection, what) =>
        (_trial, Timer) = (trial, timer);

    protected override CallTimer Timer { get; }

    /// <exception cref="KernelsException">The layer breaks a rule, or there is no memory for its operands.</exception>
    public static TuningResult Tune(Device device, TuningStore store, SparseLinearTuning what)
    {
        long start = Stopwatch.GetTimestamp();
        KernelsException.Require(!what.Grid.IsDefaultOrEmpty && what.Grid.All(m => m >= 1), "m", "at least one m, each at least 1");
        FlatGemmOptions layer = what.Layer with { MaxM = what.Grid.Max(), Row = null, BatchInvariant = false };
        SparseLinear.Check(layer);
        long nnz = (long)(what.Density * layer.Columns * layer.K);
        int copies = CallTimer.Copies(what.Cache, new SparsePanels(SparseLinear.Problem(layer, 1, nnz, 0)).Total, CallTimer.MemoryCap);
        using var trial = new SparseLinearTrial(layer.Problem(layer.MaxM), 20231102, what.Density, copies: copies, sampleRows: 6, sampleColumns: 16);
        nnz = trial.Sparse.Nnz;
        var selection = new SparseLinearSelection(device, layer, nnz, 0, SparseLinearSelection.Runnable(device, layer, nnz));
        using var tuner = new SparseLinearTuner(selection, what, trial, new CallTimer(copies, what.Cache));
        return tuner.Measure(store, start);
    }

    protected override void Narrow(int at) => _trial.Narrow(at);

    protected override Failure? Fault(Row row, in KnLaunch launch, int at)
    {
        if (!_trial.Prepare(row, launch, out KnStatus status, out string error))
            return new Failure(status == KnStatus.Unsupported ? FailureKind.Constraint : FailureKind.Error, error);
        _trial.Poison();
        status = _trial.Run(row, launch, at);
        if (status != KnStatus.Ok) return new Failure(FailureKind.Error, $"{(Status)status}: {row.LastError}");
        FlatGemmVerdict verdict = _trial.Check(at);
        return verdict.Ok ? null : new Failure(FailureKind.WrongResult, verdict.ToString());
    }

    protected override void Run(Row row, in KnLaunch launch, int at, int copy)
    {
        KnStatus status = _trial.Run(row, launch, at, copy);
        if (status != KnStatus.Ok) throw KernelsException.FromSentence((Status)status, row.Name, row.LastError);
    }

    public override void Dispose() { }
}
