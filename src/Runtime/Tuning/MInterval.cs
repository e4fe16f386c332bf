using System.Collections.Immutable;

namespace Kernels.Tuning;

/// <summary>The dataflow for every m of [From, To]; of attention m stands for kv_len.</summary>
/// <param name="From">The smallest m. Where another interval ends just before it, the first m at which this dataflow is surely better.</param>
/// <param name="To">The largest m.</param>
/// <param name="Dataflow">The choice.</param>
/// <param name="SureBefore">
/// The last measured m before <paramref name="From"/> at which the dataflow of the interval before is surely better than this one. Between the
/// two the measurement cannot tell, and the dataflow of the smaller m stays. Null where there is none.
/// </param>
public sealed record MInterval(int From, int To, Dataflow Dataflow, int? SureBefore)
{
    /// <summary>Whether <paramref name="m"/> is in it.</summary>
    public bool Covers(int m) => From <= m && m <= To;
}

/// <summary>What is known at one measured m: the samples of all that ran, round by round, and the winner of its tournament, null where nothing ran.</summary>
internal sealed record MPoint(int M, ImmutableDictionary<Dataflow, ImmutableArray<double>> Samples, Dataflow? Winner)
{
    /// <summary>The estimates of all that ran.</summary>
    public ImmutableDictionary<Dataflow, Estimate> Estimates => Samples.ToImmutableDictionary(s => s.Key, s => Estimate.Of(s.Value.AsSpan()));

    /// <summary>Whether <paramref name="a"/>, which ran, beats <paramref name="b"/>, which ran too.</summary>
    public bool Beats(Dataflow a, Dataflow b, SelectionRule rule) => rule.Beats(Samples[a].AsSpan(), Samples[b].AsSpan());

    /// <summary>Whether <paramref name="a"/> is surely better here than <paramref name="b"/>: it beats it, or runs where the other does not.</summary>
    public bool Prefers(Dataflow a, Dataflow b, SelectionRule rule) =>
        Samples.ContainsKey(a) && (!Samples.ContainsKey(b) || Beats(a, b, rule));

    /// <summary>
    /// The choice here when <paramref name="current"/> holds the smaller m. The winner has won its rematch against this m's incumbent; it must
    /// also beat what holds. One that was cut off before it had an interval holds nothing.
    /// </summary>
    public Dataflow? Choose(Dataflow? current, SelectionRule rule) =>
        Winner is null || current is null || !Samples.TryGetValue(current, out var held) || held.Length < Estimate.MinSamples || Beats(Winner, current, rule)
            ? Winner
            : current;
}

/// <summary>From measured points to intervals over m. Several crossings are allowed; a difference inside the noise makes none.</summary>
internal static class MIntervals
{
    /// <summary>The intervals over <paramref name="points"/>; nothing outside the measured range is covered.</summary>
    public static ImmutableArray<MInterval> Over(IEnumerable<MPoint> points, SelectionRule rule)
    {
        MPoint[] grid = [.. points.OrderBy(p => p.M)];
        var intervals = ImmutableArray.CreateBuilder<MInterval>();
        MInterval? open = null;
        for (int i = 0; i < grid.Length; i++)
        {
            MPoint point = grid[i];
            Dataflow? choice = point.Choose(open?.Dataflow, rule);
            if (open is not null && choice == open.Dataflow)
            {
                open = open with { To = point.M };
                continue;
            }
            MInterval? before = open;
            open = choice is null ? null : new MInterval(point.M, point.M, choice, null);
            if (before is not null)
            {
                if (open is not null)
                    (before, open) = Meet(before, open, point);
                intervals.Add(before);
            }
            if (before is not null && open is not null)
                open = open with { SureBefore = LastSure(grid.AsSpan(0, i), before, open.Dataflow, rule) };
        }
        if (open is not null)
            intervals.Add(open);
        return intervals.ToImmutable();
    }

    /// <summary>The interval that covers <paramref name="m"/>; null where it was not measured and the model decides.</summary>
    public static MInterval? Find(ImmutableArray<MInterval> intervals, int m) => intervals.FirstOrDefault(i => i.Covers(m));

    // A dataflow that stops running may stop anywhere after its last m, so the next begins there; one that is beaten stays until it is.
    private static (MInterval, MInterval) Meet(MInterval before, MInterval next, MPoint point) =>
        point.Samples.ContainsKey(before.Dataflow)
            ? (before with { To = point.M - 1 }, next)
            : (before, next with { From = before.To + 1 });

    private static int? LastSure(ReadOnlySpan<MPoint> earlier, MInterval before, Dataflow next, SelectionRule rule)
    {
        for (int i = earlier.Length - 1; i >= 0 && earlier[i].M >= before.From; i--)
        {
            if (earlier[i].Prefers(before.Dataflow, next, rule))
                return earlier[i].M;
        }
        return null;
    }
}
