using System.Diagnostics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure.</summary>
internal sealed record SparseLinearTuning : TuningEffort
{
    /// <summary>The layer, of which no row is forced.</summary>
    public required FlatGemmOptions Layer { get; init; }

    public required double Density { get; init; }

    /// <summary>Only the choice between sparse and dense, between dataflows that were chosen before.</summary>
    public bool FormsOnly { get; init; }
}

/// <summary>
/// Measures the dataflows of a sparse layer over a grid of m, then the one that is chosen against the chosen dense one, on the same
/// operands in turns: sparse or dense is a record of its own.
/// </summary>
internal sealed class SparseLinearTuner : Tuner<KnSparseLinearProblem>
{
    // Of the budget; two candidates need less than all rows do.
    private const double RowsShare = 0.65;

    private readonly SparseLinearTrial _trial;

    private SparseLinearTuner(Selection<KnSparseLinearProblem> selection, SparseLinearTuning what, SparseLinearTrial trial, CallTimer timer) : base(selection, what) =>
        (_trial, Timer) = (trial, timer);

    protected override CallTimer Timer { get; }

    /// <exception cref="KernelsException">The layer breaks a rule, or there is no memory for its operands.</exception>
    public static TuningResult Tune(Device device, TuningStore store, SparseLinearTuning what)
    {
        long start = Stopwatch.GetTimestamp();
        KernelsException.Require(!what.Grid.IsDefaultOrEmpty && what.Grid.All(m => m >= 1), "m", "at least one m, each at least 1");
        TuningEffort.RequireFree(what.Layer.Row, what.Layer.BatchInvariant);
        FlatGemmOptions layer = what.Layer with { Cache = what.Cache, MaxM = Math.Max(what.Layer.MaxM, what.Grid.Max()) };
        SparseLinear.Check(layer);
        long nnz = (long)(what.Density * layer.Columns * layer.K);
        int copies = CallTimer.Copies(device, what.Cache, new SparsePanels(SparseLinear.Problem(layer, 1, nnz, 0)).Total);
        using var trial = new SparseLinearTrial(layer.Problem(layer.MaxM), 20231102, what.Density, copies: copies, sampleRows: 6, sampleColumns: 16);
        nnz = trial.Sparse.Nnz;
        if (!what.FormsOnly)
        {
            var rows = new SparseLinearSelection(device, layer, nnz, 0, SparseLinearSelection.Runnable(device, layer, nnz));
            using var of = new SparseLinearTuner(rows, what with { Budget = what.Budget * RowsShare }, trial, CallTimer.On(device, copies, what.Cache, what.Eager));
            TuningResult result = of.Measure(store, start);
            if (!result.Stored || what.Cancellation.IsCancellationRequested) return result;
        }
        var forms = new SparseLinearForms(device, layer, nnz, store, what.Cache, contenders: true);
        using var tuner = new SparseLinearTuner(forms, what, trial, CallTimer.On(device, copies, what.Cache, what.Eager));
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
        KnStatus status = Timer is DeviceTimer timer ? _trial.RunThere((GpuRow)row, launch, at, copy, timer.Stream.Handle) : _trial.Run(row, launch, at, copy);
        if (status != KnStatus.Ok) throw row.Failure(status);
    }

    public override void Dispose() => Timer.Dispose();
}
