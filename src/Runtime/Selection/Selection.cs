using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Where a choice comes from.</summary>
public enum ChoiceSource
{
    /// <summary>The caller named the row.</summary>
    Forced,
    /// <summary>A measurement on this machine and build, or one that ships for it.</summary>
    Tuned,
    /// <summary>The cost model.</summary>
    Modelled,
}

/// <summary>A stretch of the axis with one dataflow, ready to run.</summary>
internal readonly unsafe record struct Segment<TProblem>(int From, int To, Row Row, TProblem Problem, KnLaunch Launch, long Workspace,
    ChoiceSource Source, string Reason) where TProblem : unmanaged
{
    /// <summary>Fixes what "all threads" means, so that a later resize of the pool cannot outgrow the workspace.</summary>
    public Segment<TProblem> Sized(Device device)
    {
        KnLaunch launch = Launch;
        TProblem problem = Problem;
        if (launch.Threads == 0) launch.Threads = device.Threads;
        return this with { Launch = launch, Workspace = Row.Workspace(&problem, launch) };
    }
}

/// <summary>
/// What a plan is chosen from: its problem at every point of one axis (m of a GEMM, kv_len of attention), the rows in question,
/// the model, and the keys under which choices are stored.
/// </summary>
internal abstract unsafe class Selection<TProblem>(Device device, int most, int threads) where TProblem : unmanaged
{
    public Device Device { get; } = device;

    /// <summary>The end of the axis.</summary>
    public int Most { get; } = most;

    /// <summary>Upper bound on threads; 0 is the whole pool.</summary>
    public int Threads { get; } = threads;

    /// <summary>The rows among which to choose, best first.</summary>
    public abstract IReadOnlyList<Row> Rows { get; }

    /// <summary>Points of the axis at which the model is asked; between two that agree nothing else is expected.</summary>
    public abstract ImmutableArray<int> Grid { get; }

    public abstract TProblem Problem(int at);

    /// <summary>Seconds of a call by the model.</summary>
    public abstract double Seconds(Row row, in KnLaunch launch, int at);

    /// <summary>The key under which this problem is stored.</summary>
    public abstract TuningKey Key(CacheState cache);

    /// <summary>The keys whose choices hold here, its own first; none where choices must not come from the store.</summary>
    public abstract IEnumerable<TuningKey> Keys(CacheState cache);

    /// <summary>The key of a policy; on a CPU there is one way to call.</summary>
    public TuningKey Key(CacheState cache, bool eager) => Key(cache) with { Policy = TuningPolicy.Of(Device, cache, eager) };

    /// <summary>
    /// The same keys by policies: on a GPU what was tuned for the other way to call holds where nothing was for this one, since a plan
    /// does not know whether it will be captured.
    /// </summary>
    public IEnumerable<TuningKey> Keys(CacheState cache, bool eager)
    {
        foreach (bool other in Device.Gpu is null ? (bool[])[false] : [false, true])
            foreach (TuningKey key in Keys(cache)) yield return key with { Policy = TuningPolicy.Of(Device, cache, eager != other) };
    }

    /// <summary>What to throw where no row takes the problem.</summary>
    protected abstract KernelsException NoRow(int at);

    /// <summary>The launches of a row among which to choose.</summary>
    protected virtual IEnumerable<KnLaunch> Launches(Row row) => row.Launches(Threads);

    public virtual bool Accepts(Row row, int at, in KnLaunch launch)
    {
        TProblem problem = Problem(at);
        return row.Accepts(&problem, launch, out _);
    }

    /// <summary>The choice for every point of the axis, in order and without gaps.</summary>
    public ImmutableArray<Segment<TProblem>> Choose(TuningStore? store, CacheState cache = CacheState.Cold)
    {
        ImmutableArray<StoredChoice> stored = StoredChoices.Over(this, store, cache);
        var segments = ImmutableArray.CreateBuilder<Segment<TProblem>>();
        for (int from = 0; from <= Most;)
        {
            Segment<TProblem> next = Tuned(stored, from) ?? Modelled(from, Until(stored, from));
            if (segments.Count > 0 && SameDataflow(segments[^1], next))
            {
                Segment<TProblem> before = segments[^1];
                next = Make(before.Row, before.Launch, before.From, next.To, before.Source, before.Reason);
                segments.RemoveAt(segments.Count - 1);
            }
            segments.Add(next);
            from = next.To + 1;
        }
        return segments.ToImmutable();
    }

    public Segment<TProblem> Make(Row row, in KnLaunch launch, int from, int to, ChoiceSource source, string reason)
    {
        TProblem problem = Problem(to);
        return new Segment<TProblem>(from, to, row, problem, launch, row.Workspace(&problem, launch), source, reason);
    }

    private static bool SameDataflow(in Segment<TProblem> a, in Segment<TProblem> b) =>
        a.Source == b.Source && a.Row.Dataflow(a.Launch) == b.Row.Dataflow(b.Launch);

    private Segment<TProblem>? Tuned(ImmutableArray<StoredChoice> stored, int from)
    {
        foreach (StoredChoice s in stored)
            if (s.From <= from && from <= s.To) return Make(s.Row, s.Launch, from, s.To, ChoiceSource.Tuned, s.Reason);
        return null;
    }

    /// <summary>The last point before the next stored choice.</summary>
    private int Until(ImmutableArray<StoredChoice> stored, int from) =>
        stored.Where(s => s.From > from).Select(s => s.From - 1).DefaultIfEmpty(Most).Min();

    /// <summary>The model's choice for the grid cell that holds <paramref name="at"/>.</summary>
    private Segment<TProblem> Modelled(int at, int until)
    {
        int cell = 0;
        while (cell < Grid.Length - 1 && Grid[cell] < at) cell++;
        int to = Math.Min(until, Math.Max(at, cell == Grid.Length - 1 ? Most : Grid[cell]));
        (Row row, KnLaunch launch, double seconds) = Best(to);
        return Make(row, launch, at, to, ChoiceSource.Modelled, FormattableString.Invariant($"{seconds * 1e6:0.0} us by the model at {Axis} = {to}"));
    }

    /// <summary>The axis in the vocabulary: m, kv_len.</summary>
    public abstract string Axis { get; }

    /// <summary>The best launch of all rows by the model.</summary>
    public (Row Row, KnLaunch Launch, double Seconds) Best(int at)
    {
        (Row? best, KnLaunch launch, double least) = (null, default, double.PositiveInfinity);
        // Defaults come first in both enumerations, and only what is better replaces them.
        foreach (Row row in Rows)
            foreach (KnLaunch candidate in Launches(row))
            {
                if (!Accepts(row, at, candidate)) continue;
                double seconds = Seconds(row, candidate, at);
                if (seconds < 0.99 * least) (best, launch, least) = (row, candidate, seconds);
            }
        return best is null ? throw NoRow(at) : (best, launch, least);
    }

    /// <summary>Why a row that accepts is not a candidate all the same; null if it is.</summary>
    protected virtual string? Unlike(Row row, int at) => null;

    /// <summary>What every row of the operation says at one point, beside the choices that were made over the axis.</summary>
    public ImmutableArray<RowExplanation> Explain(KnOp op, int at, ImmutableArray<Segment<TProblem>> segments, TuningStore store, CacheState cache)
    {
        Segment<TProblem> chosen = segments.First(s => at <= s.To);
        return [.. Device.Table.Of(op).Select(row => Explain(row, at, chosen, store, cache))];
    }

    private RowExplanation Explain(Row row, int at, in Segment<TProblem> chosen, TuningStore store, CacheState cache)
    {
        RowExplanation Refused(string? why) => new(row.Name, false, why, null, null, null, null, false);
        if (!Device.Table.Runs(row, out string? lacks)) return Refused(lacks);
        bool isChosen = chosen.Row == row;
        KnLaunch launch = isChosen ? chosen.Launch : row.DefaultLaunch(Threads);
        TProblem problem = Problem(at);
        if (!row.Accepts(&problem, launch, out string? why)) return Refused($"{why} does not hold");
        (double Seconds, int At)? tuned = Measured(d => d.Row == row.Name, at, store, cache);
        return new(row.Name, true, isChosen ? null : Unlike(row, at), row.Dataflow(launch), Seconds(row, launch, at), tuned?.Seconds, tuned?.At, isChosen);
    }

    /// <summary>
    /// The best median of some dataflows in the record that decides at a point, with the measured point that stands for it: the first
    /// one that is not below. Of another device it would be that one's time. Null where nothing was timed.
    /// </summary>
    public (double Seconds, int At)? Measured(Func<Dataflow, bool> wanted, int at, TuningStore store, CacheState cache)
    {
        foreach (TuningEntry entry in Keys(cache, eager: false).SelectMany(store.Layers))
        {
            if (entry.Record is not { Evidence.IsEmpty: false } record || entry.Source == TuningSource.Architecture || MIntervals.Find(record.Intervals, Math.Max(at, 1)) is null) continue;
            Evidence? e = record.Evidence.Where(e => e.M >= at).MinBy(e => e.M);
            double[] medians = [.. e?.Candidates.Zip(e.Result.Timings).Where(c => wanted(c.First) && !c.Second.Samples.IsEmpty).Select(c => c.Second.Estimate.Median) ?? []];
            return medians.Length == 0 ? null : (medians.Min(), e!.M);
        }
        return null;
    }
}
