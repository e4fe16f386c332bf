using System.Diagnostics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure.</summary>
internal sealed record DecodeAttentionTuning : TuningEffort
{
    /// <summary>The problem, of which no row is forced; its MaxKvLen does not matter.</summary>
    public required DecodeAttentionOptions Options { get; init; }

    /// <summary>Whether the plans will have a phi, so that Unified is a candidate.</summary>
    public bool Phi { get; init; }

    /// <summary>Heads before tokens in a page while it is timed; a choice is stored for either.</summary>
    public bool HeadMajor { get; init; }
}

/// <summary>
/// Measures the dataflows of a problem over a grid of kv_len: all sequences of that length, keys and values rotated when cold. In
/// the trial's data the fixed phi fits, so a tuned Unified is as fast as a calibrated one.
/// </summary>
internal sealed class DecodeAttentionTuner : Tuner<KnDecodeAttentionProblem>
{
    private const ulong Seed = 20231102;
    private readonly DecodeAttentionSelection _selection;
    private readonly DecodeAttentionTuning _what;
    private DecodeAttentionTrial? _trial;
    private CallTimer? _timer;

    private DecodeAttentionTuner(DecodeAttentionSelection selection, DecodeAttentionTuning what) : base(selection, what) =>
        (_selection, _what) = (selection, what);

    protected override CallTimer Timer => _timer!;

    /// <inheritdoc cref="Tuner{TProblem}.Measure(TuningStore, long)"/>
    /// <exception cref="KernelsException">The options break a rule, or there is no memory for the operands.</exception>
    public static TuningResult Tune(Device device, TuningStore store, DecodeAttentionTuning what)
    {
        KernelsException.Require(!what.Grid.IsDefaultOrEmpty && what.Grid.All(l => l >= 1), "kv_len", "at least one kv_len, each at least 1");
        KernelsException.Require(what.Options.MaxBatch > 0, nameof(what.Options.MaxBatch), "at least one sequence");
        TuningEffort.RequireFree(what.Options.Row, what.Options.BatchInvariant);
        long start = Stopwatch.GetTimestamp();
        DecodeAttentionOptions options = what.Options with { MaxKvLen = what.Grid.Max() };
        options.Check();
        using var tuner = new DecodeAttentionTuner(new DecodeAttentionSelection(device, options, what.Phi), what);
        return tuner.Measure(store, start);
    }

    /// <summary>Operands of one kv_len: a trial is of one length, and the next one takes its memory.</summary>
    protected override void Narrow(int at)
    {
        Dispose();
        KnDecodeAttentionProblem problem = _selection.Problem(at);
        long bytes = problem.Batch * (long)at * problem.KvHeads * (problem.HeadDim + problem.VHeadDim) * ((DType)problem.KvType).Bits() / 8;
        int copies = CallTimer.Copies(_selection.Device, _what.Cache, bytes);
        _timer = CallTimer.On(_selection.Device, copies, _what.Cache, _what.Eager);
        _trial = new DecodeAttentionTrial(problem, new DecodeAttentionData(Seed)
        {
            KvLens = [.. Enumerable.Repeat(at, problem.Batch)],
            QLens = [.. Enumerable.Repeat(problem.QLen, problem.Batch)],
            NoStarts = true,
            HeadMajor = _what.HeadMajor,
            Copies = copies,
            SampleRows = 4,
        });
        Note($"copies m={at}", copies);
        Note($"kv_bytes m={at}", bytes);
    }

    protected override Failure? Fault(Row row, in KnLaunch launch, int at)
    {
        if (!_trial!.Prepare(row, launch, out string error)) return new Failure(FailureKind.Constraint, error);
        _trial.Poison();
        KnStatus status = _trial.Run(row, launch);
        if (status != KnStatus.Ok) return new Failure(FailureKind.Error, $"{(Status)status}: {row.LastError}");
        DecodeAttentionVerdict verdict = _trial.Check();
        return verdict.Ok ? null : new Failure(FailureKind.WrongResult, verdict.ToString());
    }

    protected override void Run(Row row, in KnLaunch launch, int at, int copy)
    {
        KnStatus status = _timer is DeviceTimer timer ? _trial!.TurnThere((GpuRow)row, launch, copy, timer.Stream.Handle) : _trial!.Turn(row, launch, copy);
        if (status != KnStatus.Ok) throw row.Failure(status);
    }

    public override void Dispose()
    {
        _timer?.Dispose();
        _trial?.Dispose();
        (_timer, _trial) = (null, null);
    }
}
