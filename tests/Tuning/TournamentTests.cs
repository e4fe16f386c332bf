using System.Collections.Immutable;
using Kernels.Tuning;
using NUnit.Framework;

namespace Kernels.Tests.Tuning;

public class TournamentTests
{
    // Long enough for every synthetic tournament: about 1 ms a run.
    private static readonly TournamentOptions Ample = new() { Budget = TimeSpan.FromSeconds(2) };

    private static int Count(int trials, Func<int, bool> trial, int seed)
    {
        TestContext.Out.WriteLine($"seeds {seed}..{seed + trials - 1}");
        return Enumerable.Range(seed, trials).Count(trial);
    }

    [Test]
    public void EqualCandidatesNeverFlip([Values(0.001, 0.01, 0.03)] double noise)
    {
        int flips = Count(1000, seed => new Synthetic(seed, noise, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3).Tune(Ample).Winner != 0, 10_000);
        Assert.That(flips, Is.Zero);
    }

    [Test]
    public void AWinOf5PercentIsFoundWithinTheBudget()
    {
        int found = Count(300, seed =>
        {
            var timer = new Synthetic(seed, 0.01, 1e-3, 1.0e-3, 0.95e-3, 1.02e-3, 1.5e-3);
            return timer.Tune(Ample) is { Winner: 2, End: TournamentEnd.Complete } && timer.Clock.Now <= Ample.Budget;
        }, 20_000);
        TestContext.Out.WriteLine($"{found} of 300");
        Assert.That(found, Is.GreaterThan(285));
    }

    [Test]
    public void AWinOf1PercentIsNotTaken()
    {
        int taken = Count(300, seed => new Synthetic(seed, 0.01, 1e-3, 0.99e-3).Tune(Ample).Winner != 0, 30_000);
        Assert.That(taken, Is.Zero);
    }

    [Test]
    public void DriftDoesNotChooseTheWrongOne([Values(-0.1, 0.1)] double drift)
    {
        // 10 % from the first to the last of the some hundred runs.
        double Drift(Random _, int runs) => 1 + drift * Math.Min(runs, 200) / 200;
        int wrong = Count(300, seed => new Synthetic(seed, 0.01, 1e-3, 1e-3, 1.03e-3) { Factor = Drift }.Tune(Ample).Winner != 0, 40_000);
        int found = Count(300, seed => new Synthetic(seed, 0.01, 1e-3, 1e-3, 0.9e-3) { Factor = Drift }.Tune(Ample).Winner == 2, 41_000);
        Assert.That(wrong, Is.Zero);
        Assert.That(found, Is.GreaterThan(285));
    }

    [Test]
    public void ACandidateThatIsFarSlowerRunsOnce()
    {
        var timer = new Synthetic(45_000, 0.01, 1e-3, 0.5, 0.9e-3);
        TournamentResult result = timer.Tune(Ample);
        Assert.That(result.Winner, Is.EqualTo(2));
        Assert.That(result.Timings[1].Failure?.Kind, Is.EqualTo(FailureKind.Timeout));
        Assert.That(result.Timings[1].Samples, Has.Length.EqualTo(1));
    }

    [Test]
    public void OutliersChangeNothing()
    {
        double Outlier(Random random, int _) => random.NextDouble() < 0.1 ? 3 + 10 * random.NextDouble() : 1;
        int wrong = Count(300, seed => new Synthetic(seed, 0.01, 1e-3, 1e-3, 1e-3) { Factor = Outlier }.Tune(Ample).Winner != 0, 50_000);
        int found = Count(300, seed => new Synthetic(seed, 0.01, 1e-3, 0.9e-3) { Factor = Outlier }.Tune(Ample).Winner == 1, 51_000);
        Assert.That(wrong, Is.Zero);
        Assert.That(found, Is.GreaterThan(285));
    }

    [Test]
    public void ABimodalClockChoosesNothing()
    {
        // Two speeds 15 % apart: in one case drawn for each run, in the other held for some forty runs.
        double Each(Random random, int _) => random.Next(2) == 0 ? 1 : 1.15;
        int each = Count(500, seed => new Synthetic(seed, 0.01, 1e-3, 1e-3, 1e-3) { Factor = Each }.Tune(Ample).Winner != 0, 60_000);
        int held = Count(500, seed =>
        {
            bool slow = false;
            double Held(Random random, int _) => (slow ^= random.NextDouble() < 0.025) ? 1.15 : 1;
            return new Synthetic(seed, 0.01, 1e-3, 1e-3, 1e-3) { Factor = Held }.Tune(Ample).Winner != 0;
        }, 61_000);
        Assert.That(each, Is.Zero);
        Assert.That(held, Is.Zero);
    }

    [Test]
    public void TwoTunesAgree()
    {
        // Levels 7 % apart, with exact ties; the second tune starts from the default, the third from the choice of the first.
        int differ = Count(300, seed =>
        {
            var random = new Random(seed);
            double[] levels = [.. Enumerable.Range(0, 6).Select(_ => 1e-3 * Math.Pow(1.07, random.Next(4)))];
            int first = new Synthetic(2 * seed, 0.01, levels).Tune(Ample).Winner;
            int second = new Synthetic(2 * seed + 1, 0.01, levels).Tune(Ample).Winner;
            double[] again = [levels[first], .. levels.Where((_, i) => i != first)];
            int third = new Synthetic(3 * seed, 0.01, again).Tune(Ample).Winner;
            return first != second || third != 0 || levels[first] > levels.Min();
        }, 70_000);
        Assert.That(differ, Is.Zero);
    }

    [Test]
    public void TiesGoToTheFirstInOrder()
    {
        int first = Count(200, seed => new Synthetic(seed, 0.01, 1.2e-3, 1.2e-3, 1e-3, 0.995e-3, 1e-3).Tune(Ample).Winner == 2, 75_000);
        Assert.That(first, Is.GreaterThanOrEqualTo(199));
    }

    [Test]
    public void ASlowIncumbentIsReplacedAndKeepsItsSamples()
    {
        TournamentResult result = new Synthetic(1, 0.01, 10e-3, 1e-3).Tune(Ample);
        Assert.That(result.Winner, Is.EqualTo(1));
        Assert.That(result.Timings[0].Failure, Is.Null);
        Assert.That(result.Timings[0].Samples, Has.Length.EqualTo(20));
    }

    [Test]
    public void SurvivorsHave20SamplesAndSlowOnesAreDroppedEarly()
    {
        TournamentResult result = new Synthetic(2, 0.01, 1e-3, 1.005e-3, 1.5e-3, 10e-3).Tune(Ample);
        Assert.That(result.Rounds, Is.EqualTo(20));
        Assert.That(result.Timings[0].Samples, Has.Length.EqualTo(20));
        Assert.That(result.Timings[1].Samples, Has.Length.EqualTo(20));
        Assert.That(result.Timings[2].Samples, Has.Length.EqualTo(Estimate.MinSamples));
        Assert.That(result.Timings[2].Failure?.Kind, Is.EqualTo(FailureKind.Slower));
        Assert.That(result.Timings[3].Failure?.Kind, Is.EqualTo(FailureKind.Slower), "cut off in the warm-up");
        Assert.That(result.Timings[3].Samples, Has.Length.EqualTo(3));
    }

    [Test]
    public void RunsAreInterleavedInRotatedOrder()
    {
        List<int> order = [];
        Tournament.Run(3, i => { order.Add(i); return 1; }, new TournamentOptions { Clock = new FakeClock(), Samples = 6 });
        int[][] rounds = [.. order.Skip(3 * 6).Chunk(3)];
        Assert.That(rounds, Has.Length.EqualTo(6));
        Assert.That(rounds, Has.All.EquivalentTo(new[] { 0, 1, 2 }));
        Assert.That(rounds.Select(r => r[0]).Distinct().Count(), Is.EqualTo(3));
    }

    [Test]
    public void TheBudgetIsHonoured([Values(0, 3, 10, 25, 60, 100, 150, 1000)] int milliseconds)
    {
        const double Longest = 2e-3;
        var timer = new Synthetic(3, 0.01, 2e-3, 1e-3, 1.9e-3);
        TournamentResult result = timer.Tune(new TournamentOptions { Budget = TimeSpan.FromMilliseconds(milliseconds) });
        // A run whose cost is known does not start when it would not fit: only the very first one can pass the budget.
        Assert.That(timer.Clock.Now.TotalSeconds, Is.LessThanOrEqualTo(milliseconds / 1e3 + (milliseconds == 0 ? 1.2 : 0.1) * Longest));
        Assert.That(result.End, Is.EqualTo(milliseconds < 1000 ? TournamentEnd.Budget : TournamentEnd.Complete));
        if (milliseconds < 60)
            Assert.That(result.Winner, Is.Zero, "too few samples for an interval");
        if (milliseconds >= 150)
            Assert.That(result.Winner, Is.EqualTo(1));
    }

    [Test]
    public void CancelKeepsWhatWasMeasured([Values(0, 1, 8, 20, 40, 70)] int after)
    {
        using var cancel = new CancellationTokenSource();
        var timer = new Synthetic(4, 0.01, 2e-3, 1e-3);
        double Run(int i)
        {
            if (timer.Runs == after)
            {
                cancel.Cancel();
                if (after % 2 == 0)
                    cancel.Token.ThrowIfCancellationRequested();
            }
            return timer.Run(i);
        }
        TournamentResult result = Tournament.Run(2, Run, Ample with { Clock = timer.Clock, Cancellation = cancel.Token });
        int kept = result.Timings.Sum(t => t.Samples.Length) + result.Rematches.Sum(r => r.CandidateSamples.Length + r.IncumbentSamples.Length);
        Assert.That(result.End, Is.EqualTo(TournamentEnd.Cancelled));
        Assert.That(timer.Runs, Is.InRange(after, after + 1));
        Assert.That(kept, Is.InRange(timer.Runs - 2 * 12, timer.Runs));
        if (after < 12)
            Assert.That(result.Winner, Is.Zero);
    }

    [Test]
    public void FailuresAreTypedAndTheRestGoesOn()
    {
        int runs = 0;
        double Run(int i) => i switch
        {
            1 => throw new CandidateFailedException(FailureKind.WrongResult, "off by one"),
            2 => throw new TimeoutException(),
            3 => throw new InvalidOperationException("no"),
            4 => double.NaN,
            5 => runs++ > 12 ? throw new CandidateFailedException(FailureKind.Constraint, "late") : 1e-3,
            _ => 1e-3,
        };
        TournamentResult result = Tournament.Run(6, Run, Ample with { Clock = new FakeClock() });
        Assert.That(result.Winner, Is.Zero);
        Assert.That(result.End, Is.EqualTo(TournamentEnd.Complete));
        Assert.That(result.Timings.Select(t => t.Failure?.Kind), Is.EqualTo(new FailureKind?[]
            { null, FailureKind.WrongResult, FailureKind.Timeout, FailureKind.Error, FailureKind.Error, FailureKind.Constraint }));
        Assert.That(result.Timings[5].Samples, Is.Not.Empty);
    }

    [Test]
    public void WhereTheIncumbentFailsTheNextOneIsTheIncumbent()
    {
        double Run(int i) => i == 0 ? throw new InvalidOperationException("no") : 1e-3;
        Assert.That(Tournament.Run(3, Run, Ample with { Clock = new FakeClock() }).Winner, Is.EqualTo(1));
        Assert.That(Tournament.Run(1, Run, Ample with { Clock = new FakeClock() }).Winner, Is.EqualTo(-1));
    }

    [Test]
    public void AWinThatDoesNotRepeatIsNotTakenAndTheNextOneHasItsTurn()
    {
        var rule = new SelectionRule(0.02);
        var field = ImmutableArray.Create(Flat(1e-3), Flat(0.5e-3), Flat(0.8e-3));
        Rematch lost = new(0, 1, Flat(1e-3).Samples, Flat(1e-3).Samples), won = new(0, 2, Flat(1e-3).Samples, Flat(0.8e-3).Samples);
        Assert.That(rule.Decide(field, []), Is.EqualTo(new Decision(0, 1)));
        Assert.That(rule.Decide(field, [lost]), Is.EqualTo(new Decision(0, 2)));
        Assert.That(rule.Decide(field, [lost, won]), Is.EqualTo(new Decision(2, null)));

        // Two batches of warm-up and the rounds are fast, the rematch is not.
        int calls = 0;
        TournamentResult result = Tournament.Run(2, i => i == 1 && ++calls <= 6 + 20 ? 0.5e-3 : 1e-3, Ample with { Clock = new FakeClock() });
        Assert.That(result.Winner, Is.Zero);
        Assert.That(result.Rematches, Has.Length.EqualTo(1));

        static Timing Flat(double seconds) => new([.. Enumerable.Repeat(seconds, 20)], null);
    }
}
