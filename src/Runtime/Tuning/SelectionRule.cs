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
    /// Whether <paramref name="challenger"/> is surely faster by more than the threshold: the whole 95 % interval of the ratios of its samples
    /// to those of <paramref name="holder"/> from the same rounds says so. What a machine does to all candidates alike, from round to round,
    /// widens both their own intervals until they overlap, and leaves the ratios alone.
    /// </summary>
    /// <param name="challenger">Seconds, round by round.</param>
    /// <param name="holder">Seconds of the same rounds; one that was dropped early has fewer.</param>
    public bool Beats(ReadOnlySpan<double> challenger, ReadOnlySpan<double> holder)
    {
        int rounds = Math.Min(challenger.Length, holder.Length);
        if (rounds < Estimate.MinSamples) return false;
        Span<double> ratios = rounds <= 256 ? stackalloc double[rounds] : new double[rounds];
        // A holder that took no time by the clock cannot be beaten.
        for (int i = 0; i < rounds; i++) ratios[i] = holder[i] > 0 ? challenger[i] / holder[i] : 1;
        return Estimate.Of(ratios).Upper < 1 - Threshold;
    }

    /// <summary>
    /// The choice. The incumbent is the first candidate without a failure. It is replaced by the first, in the fixed order, of those that
    /// cannot be told from the fastest that beats it, if that one also won its rematch; one that lost its rematch is out.
    /// </summary>
    public Decision Decide(ImmutableArray<Timing> timings, ImmutableArray<Rematch> rematches)
    {
        var running = new SortedDictionary<int, Timing>();
        for (int i = 0; i < timings.Length; i++)
        {
            if (timings[i].Failure is null)
                running.Add(i, timings[i]);
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
            if (Beats(rematch.CandidateSamples.AsSpan(), rematch.IncumbentSamples.AsSpan()))
                return new Decision(best, null);
            running.Remove(best);
        }
    }

    private int Select(SortedDictionary<int, Timing> running, int incumbent)
    {
        int[] faster = [.. running.Keys.Where(i => Beats(i, incumbent))];
        if (faster.Length == 0)
            return incumbent;
        int fastest = faster.MinBy(i => running[i].Estimate.Median);
        return faster.First(i => !Beats(fastest, i));

        bool Beats(int a, int b) => this.Beats(running[a].Samples.AsSpan(), running[b].Samples.AsSpan());
    }
}
