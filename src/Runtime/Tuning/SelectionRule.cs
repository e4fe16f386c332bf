using System.Collections.Immutable;

namespace Kernels.Tuning;

/// <summary>What a set of timings decides.</summary>
/// <param name="Winner">Index of the chosen candidate; -1 where none ran.</param>
/// <param name="Unconfirmed">A candidate that would replace <paramref name="Winner"/> if it won a rematch that has not taken place.</param>
internal readonly record struct Decision(int Winner, int? Unconfirmed);

/// <summary>
/// When a candidate may replace the incumbent. Pure: the same samples always give the same choice, so that a stored log can be replayed.
/// </summary>
/// <param name="Threshold">The least relative gain that is worth a change.</param>
internal sealed record SelectionRule(double Threshold)
{
    /// <summary>The rule in force: 2 %.</summary>
    public static SelectionRule Default { get; } = new(0.02);

    /// <summary>
    /// Whether <paramref name="challenger"/> is surely faster: by more than the threshold and the larger half-width, and with disjoint intervals.
    /// </summary>
    public bool Beats(Estimate challenger, Estimate holder) =>
        challenger.IsSound && holder.IsSound
        && holder.Median - challenger.Median > Math.Max(Threshold * holder.Median, Math.Max(challenger.HalfWidth, holder.HalfWidth))
        && challenger.Upper < holder.Lower;

    /// <summary>
    /// The choice. The incumbent is the first candidate without a failure. It is replaced by the first, in the fixed order, of those that
    /// cannot be told from the fastest that beats it, if that one also won its rematch; one that lost its rematch is out.
    /// </summary>
    public Decision Decide(ImmutableArray<Timing> timings, ImmutableArray<Rematch> rematches)
    {
        var running = new SortedDictionary<int, Estimate>();
        for (int i = 0; i < timings.Length; i++)
        {
            if (timings[i].Failure is null)
                running.Add(i, timings[i].Estimate);
        }
        if (running.Count == 0)
            return new Decision(-1, null);
        int incumbent = running.Keys.First();
        while (true)
        {
            int best = Select(running, incumbent);
            if (best == incumbent)
                return new Decision(incumbent, null);
            Rematch? rematch = rematches.LastOrDefault(r => r.Candidate == best && r.Incumbent == incumbent);
            if (rematch is null)
                return new Decision(incumbent, best);
            if (Beats(Estimate.Of(rematch.CandidateSamples.AsSpan()), Estimate.Of(rematch.IncumbentSamples.AsSpan())))
                return new Decision(best, null);
            running.Remove(best);
        }
    }

    private int Select(SortedDictionary<int, Estimate> running, int incumbent)
    {
        int[] faster = [.. running.Keys.Where(i => Beats(running[i], running[incumbent]))];
        if (faster.Length == 0)
            return incumbent;
        int fastest = faster.MinBy(i => running[i].Median);
        return faster.First(i => !Beats(running[fastest], running[i]));
    }
}
