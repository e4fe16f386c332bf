using System.Collections.Immutable;
using FsCheck;
using FsCheck.Fluent;
using Kernels.Tuning;
using NUnit.Framework;
using static Kernels.Tests.Tuning.Sample;

namespace Kernels.Tests.Tuning;

public class MIntervalTests
{
    private static readonly SelectionRule Rule = SelectionRule.Default;

    // Twenty samples with this median and half-width of its interval. Every dataflow has them in another order: noise of its own.
    private static ImmutableArray<double> Samples(Dataflow dataflow, double median, double half)
    {
        int turn = dataflow == Gemv ? 0 : dataflow == Flat ? 7 : 13;
        return [.. Enumerable.Range(0, 20).Select(i => median + half * (((i + turn) % 20) - 9.5) / 4.5)];
    }

    // Median and half-width per dataflow; null where it does not run. The winner is the fastest that beats the first that runs.
    private static MPoint Point(int m, (double Median, double Half)? gemv, (double, double)? flat, (double, double)? block = null)
    {
        var samples = ImmutableDictionary.CreateBuilder<Dataflow, ImmutableArray<double>>();
        Dataflow? winner = null;
        foreach ((Dataflow dataflow, (double Median, double Half)? e) in new[] { (Gemv, gemv), (Flat, flat), (Block, block) })
        {
            if (e is not (double median, double half))
                continue;
            samples[dataflow] = Samples(dataflow, median, half);
            if (winner is null || Rule.Beats(samples[dataflow].AsSpan(), samples[winner].AsSpan()))
                winner = dataflow;
        }
        return new MPoint(m, samples.ToImmutable(), winner);
    }

    [Test]
    public void TwoCrossingsGiveThreeIntervalsWithTheirUncertainty()
    {
        ImmutableArray<MInterval> intervals = MIntervals.Over(
        [
            Point(1, (1, 0.01), (1.5, 0.01), (4, 0.1)),
            Point(2, (1.3, 0.01), (1.5, 0.01), (4, 0.1)),
            Point(4, (1.51, 0.03), (1.5, 0.03), (4, 0.1)),
            Point(8, (3, 0.01), (1.5, 0.01), (4, 0.1)),
            Point(32, (9, 0.1), (4, 0.1), (4, 0.1)),
            Point(64, (18, 0.1), (8, 0.1), (5, 0.1)),
        ], Rule);
        Assert.That(intervals, Is.EqualTo(new[]
        {
            new MInterval(1, 7, Gemv, null), new MInterval(8, 63, Flat, 2), new MInterval(64, 64, Block, 8),
        }));
        Assert.That(MIntervals.Find(intervals, 7)?.Dataflow, Is.EqualTo(Gemv));
        Assert.That(MIntervals.Find(intervals, 63)?.Dataflow, Is.EqualTo(Flat));
        Assert.That(MIntervals.Find(intervals, 0), Is.Null);
        Assert.That(MIntervals.Find(intervals, 65), Is.Null);
    }

    [Test]
    public void CrossingsBackAndForthAreKept()
    {
        ImmutableArray<MInterval> intervals = MIntervals.Over(
            [Point(1, (1, 0.01), (2, 0.01)), Point(8, (2, 0.01), (1, 0.01)), Point(9, (1, 0.01), (2, 0.01)), Point(16, (2, 0.01), (1, 0.01))], Rule);
        Assert.That(intervals.Select(i => (i.From, i.To, i.Dataflow)), Is.EqualTo(new[] { (1, 7, Gemv), (8, 8, Flat), (9, 15, Gemv), (16, 16, Flat) }));
        Assert.That(intervals.Select(i => i.SureBefore), Is.EqualTo(new int?[] { null, 1, 8, 9 }));
    }

    [Test]
    public void ABlipInsideTheNoiseMakesNoInterval()
    {
        ImmutableArray<MInterval> intervals = MIntervals.Over(
        [
            Point(1, (1, 0.05), (1.2, 0.05)), Point(2, (1.08, 0.05), (1, 0.05)), Point(4, (1, 0.05), (1.2, 0.05)),
            Point(8, (1.015, 0.001), (1, 0.001)), Point(16, (1, 0.05), (1.01, 0.05)),
        ], Rule);
        Assert.That(intervals, Is.EqualTo(new[] { new MInterval(1, 16, Gemv, null) }));
    }

    [Test]
    public void WhatAMachineDoesToAllAlikeHidesNoGain()
    {
        // Times that nearly double from round to round: the two intervals overlap widely, and every round has the same winner.
        ImmutableArray<double> swing = [.. Enumerable.Range(0, 20).Select(i => 1 + 0.8 * (i * 7 % 20) / 19)];
        MPoint At(int m, double gemv, double flat, Dataflow winner) => new(m, ImmutableDictionary<Dataflow, ImmutableArray<double>>.Empty
            .Add(Gemv, [.. swing.Select(s => gemv * s)]).Add(Flat, [.. swing.Select(s => flat * s)]), winner);
        MPoint late = At(256, 1.2, 1, Flat);
        Assert.That(late.Estimates[Gemv].Lower, Is.LessThan(late.Estimates[Flat].Upper), "they do overlap");
        ImmutableArray<MInterval> intervals = MIntervals.Over([At(1, 1, 1.3, Gemv), late], Rule);
        Assert.That(intervals, Is.EqualTo(new[] { new MInterval(1, 255, Gemv, null), new MInterval(256, 256, Flat, 1) }));
    }

    [Test]
    public void WhatHoldsStaysWhereTheDefaultIsNotSurelyBetter()
    {
        // At 16 the default is again as good as what took over at 8: no way back without a sure win.
        ImmutableArray<MInterval> intervals = MIntervals.Over(
            [Point(1, (1, 0.01), (2, 0.01)), Point(8, (2, 0.01), (1, 0.01)), Point(16, (2, 0.1), (2, 0.1)), Point(32, (4, 0.1), (4.05, 0.1))], Rule);
        Assert.That(intervals, Is.EqualTo(new[] { new MInterval(1, 7, Gemv, null), new MInterval(8, 32, Flat, 1) }));
    }

    [Test]
    public void WhereARowStopsRunningTheNextBeginsAfterItsLastM()
    {
        ImmutableArray<MInterval> intervals = MIntervals.Over(
            [Point(1, (1, 0.01), (2, 0.01)), Point(4, (1, 0.01), (2, 0.01)), Point(8, null, (2, 0.01)), Point(16, null, null), Point(32, null, (2, 0.01))], Rule);
        Assert.That(intervals, Is.EqualTo(new[] { new MInterval(1, 4, Gemv, null), new MInterval(5, 8, Flat, 4), new MInterval(32, 32, Flat, null) }));
        Assert.That(MIntervals.Find(intervals, 16), Is.Null, "nothing ran there");
    }

    [Test]
    public void OneThatWasCutOffHoldsNothing()
    {
        MPoint cut = Point(8, (9, 0.1), (2, 0.01));
        cut = cut with { Samples = cut.Samples.SetItem(Gemv, [8.9, 9, 9.1]) };
        ImmutableArray<MInterval> intervals = MIntervals.Over([Point(1, (1, 0.01), (2, 0.01)), cut], Rule);
        Assert.That(intervals, Is.EqualTo(new[] { new MInterval(1, 7, Gemv, null), new MInterval(8, 8, Flat, 1) }));
    }

    [Test]
    public void AnyGridGivesAscendingDisjointIntervalsThatCoverEveryPoint() =>
        Prop.ForAll<PositiveInt[], int>((grid, seed) =>
        {
            var random = new Random(seed);
            (double, double)? Any() => random.Next(6) == 0 ? null : (1 + random.NextDouble(), 0.2 * random.NextDouble());
            MPoint[] points = [.. grid.Select(m => m.Get).Distinct().Select(m => Point(m, Any(), Any(), Any()))];
            ImmutableArray<MInterval> intervals = MIntervals.Over(points, Rule);
            bool ascending = intervals.Zip(intervals.Skip(1)).All(p => p.First.To < p.Second.From) && intervals.All(i => i.From <= i.To);
            bool covers = points.All(p => (MIntervals.Find(intervals, p.M) is MInterval i)
                ? p.Samples.ContainsKey(i.Dataflow) && (p.Winner == i.Dataflow || !p.Beats(p.Winner!, i.Dataflow, Rule))
                : p.Winner is null);
            bool sure = intervals.All(i => i.SureBefore is null || i.SureBefore < i.From);
            return ascending && covers && sure;
        }).Check(Config.QuickThrowOnFailure.WithMaxTest(1000).WithReplay(31, 37));
}
