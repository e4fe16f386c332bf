using System.Collections.Immutable;

namespace Kernels.Tuning;

/// <summary>How much to measure.</summary>
internal sealed record TournamentOptions
{
    /// <summary>Samples per survivor, one in each round.</summary>
    public int Samples { get; init; } = 20;

    /// <summary>Rounds before which nothing is dropped.</summary>
    public int MinRounds { get; init; } = 3;

    /// <summary>Wall time of the whole tournament. It is passed by at most one run.</summary>
    public TimeSpan Budget { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>A candidate whose warm-up is never below this many times the fastest run so far does not enter the rounds.</summary>
    public double CutOff { get; init; } = 4;

    /// <summary>A candidate whose first run takes more than this many times the fastest run so far, and 50 ms, is not run again.</summary>
    public double TimeOut { get; init; } = 10;

    /// <summary>The rule of the choice.</summary>
    public SelectionRule Rule { get; init; } = SelectionRule.Default;

    /// <summary>The clock of the budget.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Ends the tournament before the next run.</summary>
    public CancellationToken Cancellation { get; init; }
}

/// <summary>
/// Times candidates against each other: warm-up, interleaved rounds in rotated order, early drop of what is surely slower, and a rematch of
/// the winner with the incumbent. Drift and changes of the clock fall on all candidates alike.
/// </summary>
internal sealed class Tournament
{
    private const int WarmUpBatch = 3, WarmUpBatches = 4;

    // Shares of the budget after which a phase ends; the rest is kept for the rematch, without which nothing is replaced.
    private const double WarmUpShare = 0.25, RoundShare = 0.67;

    // A shared machine stands still for milliseconds; below this, two runs more are cheaper than to lose a candidate by that.
    private const double LeastTimeOut = 0.05;

    private enum Step { Timed, Failed, Stopped }

    private readonly Func<int, double> run;
    private readonly TournamentOptions options;
    private readonly List<double>[] samples;
    private readonly Failure?[] failures;
    private readonly TimeSpan[] cost;
    private readonly List<Rematch> rematches = [];
    private readonly long start;
    private double fastest = double.PositiveInfinity;
    private int rounds;
    private TournamentEnd end = TournamentEnd.Complete;

    private Tournament(int count, Func<int, double> run, TournamentOptions options)
    {
        this.run = run;
        this.options = options;
        samples = [.. Enumerable.Range(0, count).Select(_ => new List<double>())];
        failures = new Failure?[count];
        cost = new TimeSpan[count];
        start = options.Clock.GetTimestamp();
    }

    /// <summary>Times <paramref name="count"/> candidates in fixed order, of which 0 is the incumbent.</summary>
    /// <param name="count">Number of candidates.</param>
    /// <param name="run">
    /// Runs a candidate once, as deployed (its own warming or cooling of caches untimed), and returns seconds. An exception takes the
    /// candidate out: <see cref="CandidateFailedException"/> by its kind, <see cref="TimeoutException"/> as a time-out, others as an error.
    /// </param>
    /// <param name="options">How much to measure.</param>
    /// <returns>Everything measured and the winner. Never throws for a candidate, the budget or a cancellation.</returns>
    public static TournamentResult Run(int count, Func<int, double> run, TournamentOptions options)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        var tournament = new Tournament(count, run, options);
        for (int i = 0; i < count; i++)
            tournament.WarmUp(i);
        tournament.PlayRounds();
        while (tournament.end != TournamentEnd.Cancelled && tournament.Decide().Unconfirmed is int challenger)
        {
            if (!tournament.PlayRematch(challenger))
                break;
        }
        return new TournamentResult(tournament.Timings(), [.. tournament.rematches], tournament.rounds, tournament.end, tournament.Decide().Winner);
    }

    private ImmutableArray<Timing> Timings() => [.. samples.Select((s, i) => new Timing([.. s], failures[i]))];

    private Decision Decide() => options.Rule.Decide(Timings(), [.. rematches]);

    // Until the medians of two consecutive batches agree. Its runs are no evidence, except for a candidate that is cut off by them.
    private void WarmUp(int candidate)
    {
        var batch = new double[WarmUpBatch];
        double previous = double.NaN;
        for (int n = 0; n < WarmUpBatches; n++)
        {
            for (int i = 0; i < batch.Length; i++)
            {
                if (Time(candidate, WarmUpShare, out batch[i]) != Step.Timed)
                    return;
                if (n == 0 && i == 0 && batch[0] > Math.Max(options.TimeOut * fastest, LeastTimeOut))
                {
                    samples[candidate].Add(batch[0]);
                    failures[candidate] = new Failure(FailureKind.Timeout, $"its first run took more than {options.TimeOut:G3} times the fastest so far");
                    return;
                }
            }
            double least = batch.Min(), median = Estimate.Of(batch).Median;
            fastest = Math.Min(fastest, least);
            if (least > options.CutOff * fastest)
            {
                samples[candidate].AddRange(batch);
                failures[candidate] = new Failure(FailureKind.Slower, $"more than {options.CutOff:G3} times the fastest run in the warm-up");
                return;
            }
            if (Math.Abs(median - previous) <= options.Rule.Threshold * previous)
                return;
            previous = median;
        }
    }

    private void PlayRounds()
    {
        int wanted = Math.Max(options.Samples, options.MinRounds);
        int mayDrop = Math.Max(options.MinRounds, Estimate.MinSamples);
        while (rounds < wanted && failures.Contains(null))
        {
            foreach (int i in Order())
            {
                Step step = Time(i, RoundShare, out double seconds);
                if (step == Step.Stopped)
                {
                    end = Stopped();
                    return;
                }
                if (step == Step.Timed)
                    samples[i].Add(seconds);
            }
            rounds++;
            if (rounds >= mayDrop)
                DropSlow();
        }
    }

    // Rotated by one each round, and every second round backwards, so that no candidate always follows the same other.
    private int[] Order()
    {
        int[] order = [.. Enumerable.Range(0, failures.Length).Where(i => failures[i] is null)];
        int shift = rounds % order.Length;
        order = [.. order[shift..], .. order[..shift]];
        if (rounds % 2 == 1)
            Array.Reverse(order);
        return order;
    }

    // The margin of the threshold keeps candidates that the rule cannot tell apart in the field, where the fixed order decides.
    private void DropSlow()
    {
        int[] field = [.. Enumerable.Range(0, failures.Length).Where(i => failures[i] is null)];
        if (field.Length < 2)
            return;
        Dictionary<int, Estimate> estimates = field.ToDictionary(i => i, i => Estimate.Of([.. samples[i]]));
        double limit = estimates.Values.Min(e => e.Upper) * (1 + options.Rule.Threshold);
        foreach (int i in field.Skip(1).Where(i => estimates[i].Lower > limit))
            failures[i] = new Failure(FailureKind.Slower, $"surely slower than another after {samples[i].Count} samples");
    }

    // False when it could not be played to its end. What was measured is kept, and counts if it is enough for an interval.
    private bool PlayRematch(int candidate)
    {
        int incumbent = Array.IndexOf(failures, null);
        List<double> mine = [], theirs = [];
        bool whole = true;
        for (int i = 0; whole && i < options.Samples; i++)
        {
            bool first = i % 2 == 0;
            whole = Play(first ? incumbent : candidate, first ? theirs : mine) && Play(first ? candidate : incumbent, first ? mine : theirs);
        }
        rematches.Add(new Rematch(incumbent, candidate, [.. theirs], [.. mine]));
        return end == TournamentEnd.Complete || whole;

        bool Play(int i, List<double> to)
        {
            Step step = Time(i, 1, out double seconds);
            if (step == Step.Timed)
                to.Add(seconds);
            else if (step == Step.Stopped)
                end = Stopped();
            return step == Step.Timed;
        }
    }

    private TournamentEnd Stopped() => options.Cancellation.IsCancellationRequested ? TournamentEnd.Cancelled : TournamentEnd.Budget;

    // A run starts only if its last cost still fits into the share of the budget.
    private Step Time(int candidate, double share, out double seconds)
    {
        seconds = 0;
        long before = options.Clock.GetTimestamp();
        if (options.Cancellation.IsCancellationRequested
            || options.Clock.GetElapsedTime(start, before) + cost[candidate] > options.Budget * share)
            return Step.Stopped;
        try
        {
            seconds = run(candidate);
            if (!double.IsFinite(seconds) || seconds < 0)
                failures[candidate] = new Failure(FailureKind.Error, $"{seconds} is no time");
        }
        catch (OperationCanceledException) when (options.Cancellation.IsCancellationRequested)
        {
            return Step.Stopped;
        }
        catch (Exception e)
        {
            failures[candidate] = new Failure(KindOf(e), e.Message);
        }
        cost[candidate] = options.Clock.GetElapsedTime(before);
        return failures[candidate] is null ? Step.Timed : Step.Failed;
    }

    private static FailureKind KindOf(Exception e) => e switch
    {
        CandidateFailedException failed => failed.Kind,
        TimeoutException or OperationCanceledException => FailureKind.Timeout,
        _ => FailureKind.Error,
    };
}
