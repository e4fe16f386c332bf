using System.Diagnostics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure.</summary>
internal sealed record FlatGemmTuning : TuningEffort
{
    /// <summary>The layer, of which no row is forced.</summary>
    public required FlatGemmOptions Layer { get; init; }
}

/// <summary>Measures the dataflows of a layer over a grid of m, all on one copy of packed weights, rotated when cold.</summary>
internal sealed class FlatGemmTuner : Tuner<KnFlatGemmProblem>
{
    private const ulong Seed = 20231102;
    private readonly FlatGemmTrial _trial;

    private FlatGemmTuner(FlatGemmSelection selection, FlatGemmTuning what, long bytes) : base(selection, what)
    {
        int copies = CallTimer.Copies(selection.Device, what.Cache, bytes);
        Timer = CallTimer.On(selection.Device, copies, what.Cache, what.Eager);
        _trial = new FlatGemmTrial(selection.Problem(selection.Most), Seed, copies, sampleRows: 6, sampleColumns: 16);
        Note("copies", copies);
        Note("weight_bytes", bytes);
    }

    protected override CallTimer Timer { get; }

    /// <inheritdoc cref="Tuner{TProblem}.Measure(TuningStore, long)"/>
    /// <exception cref="KernelsException">The layer breaks a rule, or there is no memory for its operands.</exception>
    public static unsafe TuningResult Tune(Device device, TuningStore store, FlatGemmTuning what)
    {
        KernelsException.Require(!what.Grid.IsDefaultOrEmpty && what.Grid.All(m => m >= 1), "m", "at least one m, each at least 1");
        KernelsException.Require(what.Layer.N > 0 && what.Layer.K > 0, "n, k", "a layer that has weights");
        TuningEffort.RequireFree(what.Layer.Row, what.Layer.BatchInvariant);
        long start = Stopwatch.GetTimestamp();
        // The layout, which the key names, is decided as a plan for MaxM rows decides it.
        FlatGemmOptions layer = what.Layer with { Cache = what.Cache, MaxM = Math.Max(what.Layer.MaxM, what.Grid.Max()) };
        layer.Check();
        Row decider = FlatGemmSelection.LayoutRow(device, layer);
        KnFlatGemmProblem problem = layer.Problem(layer.MaxM);
        string? layout = decider.Layout(&problem);
        long bytes = layout is null ? (long)layer.Columns * layer.K * layer.Weights.Bits() / 8 : decider.PackedBytes(&problem);
        var selection = new FlatGemmSelection(device, layer, layout, FlatGemmSelection.Sharing(device, layer, layout));
        using var tuner = new FlatGemmTuner(selection, what, bytes);
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

    public override void Dispose()
    {
        Timer.Dispose();
        _trial.Dispose();
    }
}
