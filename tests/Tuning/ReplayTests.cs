using Kernels.Tuning;
using NUnit.Framework;
using static Kernels.Tests.Tuning.Sample;

namespace Kernels.Tests.Tuning;

public class ReplayTests
{
    [Test]
    public void ReplayGivesTheStoredChoice([Range(1, 20)] int seed)
    {
        TuningRecord record = Record(seed: seed);
        TuningRecord stored = TuningRecord.Parse("test", TuningSource.User, record.ToJson()).Record!;
        Replay replay = Replay.Of(stored);
        Assert.That(replay.IsSame, Is.True);
        Assert.That(replay.Intervals, Is.EqualTo(record.Intervals));
        Assert.That(replay.Differences, Is.Empty);
        Assert.That(stored.Evidence.Select(e => e.Result.Winner),
            Is.EqualTo(stored.Evidence.Select(e => SelectionRule.Default.Decide(e.Result.Timings, e.Result.Rematches).Winner)));
    }

    [Test]
    public void AnIncompleteTournamentReplaysToo([Values(5, 15, 30, 50, 80)] int milliseconds)
    {
        TournamentResult result = new Synthetic(5, 0.01, 2e-3, 1e-3).Tune(new TournamentOptions { Budget = TimeSpan.FromMilliseconds(milliseconds) });
        Assert.That(SelectionRule.Default.Decide(result.Timings, result.Rematches).Winner, Is.EqualTo(result.Winner));
    }

    [Test]
    public void AHigherThresholdShowsWhatItWouldChange()
    {
        Replay replay = Replay.Of(Record(), threshold: 0.5);
        Assert.That(replay.IsSame, Is.False);
        Assert.That(replay.Differences.Select(d => (d.M, d.Stored, d.Recomputed)), Does.Contain((4, Flat, Gemv)));
    }

    [Test]
    public void ALowerThresholdNamesTheRematchThatIsMissing()
    {
        var timer = new Synthetic(6, 0.001, 1e-3, 0.99e-3);
        TuningRecord record = TuningRecord.From(Key(), Date, [new Evidence(1, [Gemv, Flat], timer.Tune())], SelectionRule.Default);
        Assert.That(record.Intervals, Is.EqualTo(new[] { new MInterval(1, 1, Gemv, null) }));
        Assert.That(Replay.Of(record, threshold: 0.005).Differences, Is.EqualTo(new[] { new ReplayPoint(1, Gemv, Gemv, Flat) }));
    }

    [Test]
    public void AnAlteredChoiceIsFound()
    {
        TuningRecord record = Record();
        record = record with { Intervals = [record.Intervals[0] with { Dataflow = Block }, .. record.Intervals[1..]] };
        Assert.That(Replay.Of(record).Differences.Select(d => (d.M, d.Stored, d.Recomputed)), Is.EqualTo(new[] { (1, Block, Gemv) }));
    }
}
