using System.Collections.Immutable;
using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure.</summary>
internal sealed record FlatGemmTuning
{
    /// <summary>The layer; its MaxM and Row do not matter.</summary>
    public required FlatGemmOptions Layer { get; init; }

    /// <summary>The m to measure.</summary>
    public required ImmutableArray<int> Grid { get; init; }

    public CacheState Cache { get; init; } = CacheState.Cold;

    /// <summary>Wall time for all m together, operands included.</summary>
    public TimeSpan Budget { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Candidates at one m beside the incumbent and the model's default.</summary>
    public int Candidates { get; init; } = 6;

    public SelectionRule Rule { get; init; } = SelectionRule.Default;

    public CancellationToken Cancellation { get; init; }

    /// <summary>Told what is measured next and how many of all m are done.</summary>
    public Action<int, int>? Progress { get; init; }
}

/// <summary>What came of it. <see cref="Stored"/> false: <see cref="Problem"/> says why, and the record is only here.</summary>
internal sealed record FlatGemmTuningResult(TuningRecord? Record, bool Stored, string Problem);

/// <summary>
/// Measures the dataflows of a layer over a grid of m: candidates are ranked by the model, held to the oracle, timed against
/// each other, and what follows is stored with all samples.
/// </summary>
internal sealed unsafe class FlatGemmTuner : IDisposable
{
    private const ulong Seed = 20231102;
    private readonly Device _device;
    private readonly FlatGemmTuning _what;
    private readonly FlatGemmOptions _layer;
    private readonly string? _layout;
    private readonly List<Row> _rows;
    private readonly FlatGemmTrial _trial;
    private readonly CallTimer _timer;
    private readonly SortedDictionary<string, string> _notes = new(StringComparer.Ordinal);

    private FlatGemmTuner(Device device, FlatGemmTuning what)
    {
        (_device, _what) = (device, what);
        _layer = what.Layer with { MaxM = what.Grid.Max(), Row = null, BatchInvariant = false };
        KnFlatGemmProblem problem = _layer.Problem(_layer.MaxM);
        Row decider = FlatGemmSelection.LayoutRow(device, _layer);
        _layout = decider.Layout(&problem);
        _rows = FlatGemmSelection.Sharing(device, _layer, _layout);
        long bytes = _layout is null ? (long)_layer.Columns * _layer.K * _layer.Weights.Bits() / 8 : decider.PackedBytes(&problem);
        int copies = CallTimer.Copies(what.Cache, bytes, CallTimer.MemoryCap);
        _timer = new CallTimer(copies, what.Cache);
        _trial = new FlatGemmTrial(problem, Seed, copies, sampleRows: 6, sampleColumns: 16);
        Note("copies", copies);
        Note("weight_bytes", bytes);
    }

    /// <summary>The key under which <see cref="Tune"/> stores.</summary>
    private TuningKey Key => FlatGemmTuned.Key(_device, _layer, _layout, _what.Cache);

    /// <summary>
    /// Measures and stores. The stored choice is the incumbent where there is one, so that only a sure gain changes it. Cancelled
    /// or out of time, the m that were measured are kept, and so is older evidence for the others.
    /// </summary>
    /// <exception cref="KernelsException">The layer breaks a rule, or there is no memory for its operands.</exception>
    public static FlatGemmTuningResult Tune(Device device, TuningStore store, FlatGemmTuning what)
    {
        KernelsException.Require(!what.Grid.IsDefaultOrEmpty && what.Grid.All(m => m >= 1), "m", "at least one m, each at least 1");
        KernelsException.Require(what.Layer.N > 0 && what.Layer.K > 0, "n, k", "a layer that has weights");
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        FlatGemmOptions largest = what.Layer with { MaxM = what.Grid.Max() };
        largest.Check();
        using var tuner = new FlatGemmTuner(device, what);
        tuner.Note("load_before", Load());
        int[] grid = [.. what.Grid.Distinct().Order()];
        TuningRecord? before = store.Read(tuner.Key).Record;
        ImmutableArray<FlatGemmStored> stored = FlatGemmTuned.Over(device, tuner._layer, tuner._layout, store, tuner._rows, what.Cache);
        var evidence = new List<Evidence>();
        for (int i = 0; i < grid.Length && !what.Cancellation.IsCancellationRequested; i++)
        {
            what.Progress?.Invoke(grid[i], i);
            // What one m leaves over falls to those after it, which take longer.
            TimeSpan left = what.Budget - System.Diagnostics.Stopwatch.GetElapsedTime(start);
            Evidence measured = tuner.Measure(grid[i], stored, left / (grid.Length - i));
            if (measured.Point(what.Rule).Winner is not null) evidence.Add(measured);
        }
        tuner.Note("load_after", Load());
        return tuner.Store(store, before, evidence);
    }

    private FlatGemmTuningResult Store(TuningStore store, TuningRecord? before, List<Evidence> evidence)
    {
        if (evidence.Count == 0) return new FlatGemmTuningResult(before, false, "nothing was measured in the time given");
        // An m whose candidates have no interval yet says less than what is there.
        bool Sound(Evidence e) => e.Result.Timings.Any(t => t.Failure is null && t.Estimate.IsSound);
        List<Evidence> kept = [.. evidence.Where(e => Sound(e) || before?.Evidence.Any(b => b.M == e.M) != true)];
        if (before is not null)
        {
            kept.AddRange(before.Evidence.Where(b => kept.All(e => e.M != b.M)));
            foreach ((string name, string value) in before.Notes) _notes.TryAdd(name, value);
        }
        var record = TuningRecord.From(Key, DateTimeOffset.UtcNow, kept, _what.Rule, _notes.ToImmutableSortedDictionary(StringComparer.Ordinal));
        bool written = store.TryWrite(record, out string reason);
        return new FlatGemmTuningResult(record, written, reason);
    }

    private Evidence Measure(int m, ImmutableArray<FlatGemmStored> stored, TimeSpan budget)
    {
        List<(Row Row, KnLaunch Launch)> candidates = Candidates(m, stored);
        _trial.Narrow(m);
        Failure?[] failures = [.. candidates.Select(c => Fault(c.Row, c.Launch, m))];
        TimedCall[] calls = [.. candidates.Select(c => new TimedCall(c.Row.Name, copy => Run(c.Row, c.Launch, m, copy)))];
        KnFlatGemmProblem problem = _layer.Problem(m);
        foreach ((Row row, KnLaunch launch) in candidates)
            Note(PredictedNote(m, row.Dataflow(launch)), FlatGemmModel.Seconds(row, launch, problem, m, _device));
        TournamentResult result = Tournament.Run(candidates.Count,
            i => failures[i] is { } f ? throw new CandidateFailedException(f.Kind, f.Detail) : _timer.Sample(calls[i]),
            new TournamentOptions { Budget = budget < TimeSpan.Zero ? TimeSpan.Zero : budget, Rule = _what.Rule, Cancellation = _what.Cancellation });
        return new Evidence(m, [.. candidates.Select(c => c.Row.Dataflow(c.Launch))], result);
    }

    /// <summary>Name of the note that holds the seconds which the model predicted.</summary>
    internal static string PredictedNote(int m, Dataflow dataflow) => string.Create(CultureInfo.InvariantCulture, $"predicted m={m} {dataflow}");

    /// <summary>The incumbent, the model's default, then the most promising: the best launch of every row before the second of any.</summary>
    private List<(Row Row, KnLaunch Launch)> Candidates(int m, ImmutableArray<FlatGemmStored> stored)
    {
        KnFlatGemmProblem problem = _layer.Problem(m);
        var all = new List<(Row Row, KnLaunch Launch, double Seconds, int Order, int InRow)>();
        foreach (Row row in _rows)
        {
            var launches = row.Launches(_layer.Threads).Where(l => FlatGemmSelection.Accepts(row, _layer, m, l))
                .Select((l, i) => (Launch: l, Seconds: FlatGemmModel.Seconds(row, l, problem, m, _device), Order: i)).OrderBy(l => l.Seconds).ThenBy(l => l.Order);
            foreach (var (launch, seconds, _) in launches) all.Add((row, launch, seconds, all.Count, all.Count(a => a.Row == row)));
        }
        if (all.Count == 0) throw new KernelsException(Status.Unsupported, "m", $"an m that a row of this machine takes, not {m}");
        double best = all.Min(a => a.Seconds);
        var chosen = new List<(Row, KnLaunch)>();
        foreach (FlatGemmStored s in stored.Where(s => s.From <= m && m <= s.To)) chosen.Add((s.Row, s.Launch));
        var byDefault = all.Where(a => IsDefault(a.Row, a.Launch)).MinBy(a => a.Seconds);
        if (byDefault.Row is not null) chosen.Add((byDefault.Row, byDefault.Launch));
        // A row that the model holds to be far slower is not worth its rounds; the model errs by less than this.
        chosen.AddRange(all.Where(a => a.Seconds <= 6 * best).OrderBy(a => a.InRow / 2).ThenBy(a => a.Seconds).ThenBy(a => a.Order)
            .Take(_what.Candidates).OrderBy(a => a.Order).Select(a => (a.Row, a.Launch)));
        return [.. chosen.DistinctBy(c => c.Item1.Dataflow(c.Item2))];
    }

    private bool IsDefault(Row row, KnLaunch launch) => row.Dataflow(launch) == row.Dataflow(row.DefaultLaunch(_layer.Threads));

    /// <summary>Why a candidate may not be timed, or null.</summary>
    private Failure? Fault(Row row, in KnLaunch launch, int m)
    {
        if (!_trial.Prepare(row, launch, out KnStatus status, out string error))
            return new Failure(status == KnStatus.Unsupported ? FailureKind.Constraint : FailureKind.Error, error);
        _trial.Poison();
        status = _trial.Run(row, launch, m);
        if (status != KnStatus.Ok) return new Failure(FailureKind.Error, $"{(Status)status}: {row.LastError}");
        FlatGemmVerdict verdict = _trial.Check(m);
        return verdict.Ok ? null : new Failure(FailureKind.WrongResult, verdict.ToString());
    }

    private void Run(Row row, in KnLaunch launch, int m, int copy)
    {
        KnStatus status = _trial.Run(row, launch, m, copy);
        if (status != KnStatus.Ok) throw KernelsException.FromSentence((Status)status, row.Name, row.LastError);
    }

    private void Note(string name, double value) => _notes[name] = value.ToString("G6", CultureInfo.InvariantCulture);

    /// <summary>Runnable threads as the system counts them over a minute; -1 where it does not.</summary>
    internal static double Load()
    {
        try
        {
            return double.Parse(File.ReadAllText("/proc/loadavg").Split(' ')[0], CultureInfo.InvariantCulture);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            return -1;
        }
    }

    public void Dispose() => _trial.Dispose();
}
