using System.Collections.Immutable;
using System.Diagnostics;
using System.Globalization;
using Kernels.Interop.Native;

namespace Kernels.Tuning;

/// <summary>How much to measure, and where along the axis.</summary>
internal abstract record TuningEffort
{
    /// <summary>The points to measure: m of a GEMM, kv_len of attention.</summary>
    public required ImmutableArray<int> Grid { get; init; }

    public CacheState Cache { get; init; } = CacheState.Cold;

    /// <summary>On a GPU: launches as they come instead of graphs of them. A policy of its own, with choices of its own.</summary>
    public bool Eager { get; init; }

    /// <summary>Whether choices by the times of the simulated device, which are the host's, are stored all the same.</summary>
    public bool KeepSimulated { get; init; }

    /// <summary>Wall time for all points together, operands included.</summary>
    public TimeSpan Budget { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Candidates at one point beside the incumbent and the model's default.</summary>
    public int Candidates { get; init; } = 6;

    public SelectionRule Rule { get; init; } = SelectionRule.Default;

    public CancellationToken Cancellation { get; init; }

    /// <summary>Is left what runs, for a process that watches this one, and knows what failed before.</summary>
    public TrialWatch? Watch { get; init; }

    /// <summary>Told what is measured next and how many of all points are done.</summary>
    public Action<int, int>? Progress { get; init; }

    /// <summary>Options whose plans take nothing from the store are not tuned.</summary>
    internal static void RequireFree(string? row, bool batchInvariant)
    {
        KernelsException.Require(row is null, "Row", $"null: all rows are measured, and a plan whose row is forced takes nothing that was tuned, not {row}");
        KernelsException.Require(!batchInvariant, "BatchInvariant", "false: a batch-invariant plan takes nothing that was tuned, since that changes with m");
    }
}

/// <summary>What came of it. <see cref="Stored"/> false: <see cref="Problem"/> says why, and the record is only here.</summary>
internal sealed record TuningResult(TuningRecord? Record, bool Stored, string Problem);

/// <summary>What the tuner keeps beside its samples.</summary>
internal static class TuningNotes
{
    /// <summary>Name of the note that holds the seconds which the model predicted.</summary>
    public static string Predicted(int at, Dataflow dataflow) => string.Create(CultureInfo.InvariantCulture, $"predicted m={at} {dataflow}");

    /// <summary>Runnable threads as the system counts them over a minute; -1 where it does not.</summary>
    public static double Load()
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
}

/// <summary>
/// Measures the dataflows of a problem over a grid of its axis: candidates are ranked by the model, held to the oracle, timed
/// against each other, and what follows is stored with all samples. An operation adds its operands.
/// </summary>
internal abstract class Tuner<TProblem>(Selection<TProblem> selection, TuningEffort effort) : IDisposable where TProblem : unmanaged
{
    private readonly SortedDictionary<string, string> _notes = new(StringComparer.Ordinal);

    protected abstract CallTimer Timer { get; }

    /// <summary>Makes the operands those of a call at this point.</summary>
    protected abstract void Narrow(int at);

    /// <summary>Why a candidate may not be timed, or null: it is prepared, run once and held to the oracle.</summary>
    protected abstract Failure? Fault(Row row, in KnLaunch launch, int at);

    /// <summary>One call with the given copy of what is kept cold.</summary>
    protected abstract void Run(Row row, in KnLaunch launch, int at, int copy);

    public abstract void Dispose();

    /// <summary>
    /// Measures and stores. The stored choice is the incumbent where there is one, so that only a sure gain changes it. Cancelled
    /// or out of time, the points that were measured are kept, and so is older evidence for the others.
    /// </summary>
    /// <param name="store">Where to.</param>
    /// <param name="start">When the budget began: operands are part of it.</param>
    public TuningResult Measure(TuningStore store, long start)
    {
        Note("load_before", TuningNotes.Load());
        int[] grid = [.. effort.Grid.Distinct().Order()];
        TuningRecord? before = store.Read(selection.Key(effort.Cache, effort.Eager)).Record;
        ImmutableArray<StoredChoice> stored = StoredChoices.Over(selection, store, effort.Cache, effort.Eager);
        var evidence = new List<Evidence>();
        for (int i = 0; i < grid.Length && !effort.Cancellation.IsCancellationRequested; i++)
        {
            effort.Progress?.Invoke(grid[i], i);
            // What one point leaves over falls to those after it, which take longer.
            TimeSpan left = effort.Budget - Stopwatch.GetElapsedTime(start);
            Evidence measured = Measure(grid[i], stored, left / (grid.Length - i));
            if (measured.Point(effort.Rule).Winner is not null) evidence.Add(measured);
        }
        Note("load_after", TuningNotes.Load());
        return Store(store, before, evidence);
    }

    private TuningResult Store(TuningStore store, TuningRecord? before, List<Evidence> evidence)
    {
        if (evidence.Count == 0) return new TuningResult(before, false, "nothing was measured in the time given");
        // A point whose candidates have no interval yet says less than what is there.
        bool Sound(Evidence e) => e.Result.Timings.Any(t => t.Failure is null && t.Estimate.IsSound);
        List<Evidence> kept = [.. evidence.Where(e => Sound(e) || before?.Evidence.Any(b => b.M == e.M) != true)];
        if (before is not null)
        {
            kept.AddRange(before.Evidence.Where(b => kept.All(e => e.M != b.M)));
            foreach ((string name, string value) in before.Notes) _notes.TryAdd(name, value);
        }
        var record = TuningRecord.From(selection.Key(effort.Cache, effort.Eager), DateTimeOffset.UtcNow, kept, effort.Rule, _notes.ToImmutableSortedDictionary(StringComparer.Ordinal));
        if (selection.Device.Kind == DeviceKind.Simulated && !effort.KeepSimulated)
            return new TuningResult(record, false, "simulated: these are times of the host, which say nothing about a GPU");
        bool written = store.TryWrite(record, out string reason);
        return new TuningResult(record, written, reason);
    }

    private Evidence Measure(int at, ImmutableArray<StoredChoice> stored, TimeSpan budget)
    {
        List<(Row Row, KnLaunch Launch)> candidates = Candidates(at, stored);
        Narrow(at);
        Dataflow[] dataflows = [.. candidates.Select(c => c.Row.Dataflow(c.Launch))];
        Failure?[] failures = [.. candidates.Select((c, i) => effort.Watch?.Failures.GetValueOrDefault(dataflows[i]) ?? Watched(dataflows[i], () => Fault(c.Row, c.Launch, at)))];
        TimedCall[] calls = [.. candidates.Select(c => new TimedCall(c.Row.Name, copy => Run(c.Row, c.Launch, at, copy)))];
        foreach ((int i, (Row row, KnLaunch launch)) in candidates.Index())
            Note(TuningNotes.Predicted(at, dataflows[i]), selection.Seconds(row, launch, at));
        TournamentResult result = Tournament.Run(candidates.Count,
            i => failures[i] is { } f ? throw new CandidateFailedException(f.Kind, f.Detail) : Watched(dataflows[i], () => Timer.Sample(calls[i])),
            new TournamentOptions { Budget = budget < TimeSpan.Zero ? TimeSpan.Zero : budget, Rule = effort.Rule, Cancellation = effort.Cancellation });
        return new Evidence(at, [.. dataflows], result);
    }

    private T Watched<T>(Dataflow dataflow, Func<T> run)
    {
        effort.Watch?.Begin(dataflow);
        try
        {
            return run();
        }
        finally
        {
            effort.Watch?.End();
        }
    }

    /// <summary>The incumbent, the model's default, then the most promising: the best launch of every row before the second of any.</summary>
    private List<(Row Row, KnLaunch Launch)> Candidates(int at, ImmutableArray<StoredChoice> stored)
    {
        var all = new List<(Row Row, KnLaunch Launch, double Seconds, int Order, int InRow)>();
        foreach (Row row in selection.Rows)
        {
            var launches = row.Launches(selection.Threads).Where(l => selection.Accepts(row, at, l))
                .Select((l, i) => (Launch: l, Seconds: selection.Seconds(row, l, at), Order: i)).OrderBy(l => l.Seconds).ThenBy(l => l.Order);
            int inRow = 0;
            foreach (var (launch, seconds, _) in launches) all.Add((row, launch, seconds, all.Count, inRow++));
        }
        if (all.Count == 0) throw new KernelsException(Status.Unsupported, selection.Axis, $"a value that a row of this machine takes, not {at}");
        double best = all.Min(a => a.Seconds);
        var chosen = new List<(Row, KnLaunch)>();
        foreach (StoredChoice s in stored.Where(s => s.From <= at && at <= s.To)) chosen.Add((s.Row, s.Launch));
        var byDefault = all.Where(a => IsDefault(a.Row, a.Launch)).OrderBy(a => a.Seconds).FirstOrDefault();
        if (byDefault.Row is not null) chosen.Add((byDefault.Row, byDefault.Launch));
        // A row that the model holds to be far slower is not worth its rounds; the model errs by less than this.
        chosen.AddRange(all.Where(a => a.Seconds <= 6 * best).OrderBy(a => a.InRow / 2).ThenBy(a => a.Seconds).ThenBy(a => a.Order)
            .Take(effort.Candidates).OrderBy(a => a.Order).Select(a => (a.Row, a.Launch)));
        return [.. chosen.DistinctBy(c => c.Item1.Dataflow(c.Item2))];
    }

    private bool IsDefault(Row row, KnLaunch launch) => row.Dataflow(launch) == row.Dataflow(row.DefaultLaunch(selection.Threads));

    protected void Note(string name, double value) => _notes[name] = value.ToString("G6", CultureInfo.InvariantCulture);
}
