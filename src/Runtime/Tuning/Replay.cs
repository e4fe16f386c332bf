using System.Collections.Immutable;

namespace Kernels.Tuning;

/// <summary>The choice at one measured m, as stored and as it follows from the samples.</summary>
/// <param name="M">The measured m.</param>
/// <param name="Stored">The stored choice; null where the record does not cover m.</param>
/// <param name="Recomputed">The choice from the samples.</param>
/// <param name="Unconfirmed">A candidate that would be chosen if it won a rematch that was not played; null where there is none.</param>
internal sealed record ReplayPoint(int M, Dataflow? Stored, Dataflow? Recomputed, Dataflow? Unconfirmed)
{
    public bool Differs => Stored != Recomputed;
}

/// <summary>A record's choices computed again from its samples, without a device.</summary>
internal sealed record Replay(ImmutableArray<MInterval> Intervals, ImmutableArray<ReplayPoint> Points, bool IsSame)
{
    /// <summary>The measured points at which the choice changes, or would change after a rematch.</summary>
    public IEnumerable<ReplayPoint> Differences => Points.Where(p => p.Differs || p.Unconfirmed is not null);

    /// <summary>Replays <paramref name="record"/> under its own threshold or another.</summary>
    public static Replay Of(TuningRecord record, double? threshold = null)
    {
        var rule = new SelectionRule(threshold ?? record.Threshold);
        ImmutableArray<MInterval> intervals = MIntervals.Over(record.Evidence.Select(e => e.Point(rule)), rule);
        return new Replay(intervals, [.. record.Evidence.Select(At)], intervals.SequenceEqual(record.Intervals));

        ReplayPoint At(Evidence evidence)
        {
            int? unconfirmed = rule.Decide(evidence.Result.Timings, evidence.Result.Rematches).Unconfirmed;
            return new ReplayPoint(
                evidence.M,
                MIntervals.Find(record.Intervals, evidence.M)?.Dataflow,
                MIntervals.Find(intervals, evidence.M)?.Dataflow,
                unconfirmed is int i ? evidence.Candidates[i] : null);
        }
    }
}
