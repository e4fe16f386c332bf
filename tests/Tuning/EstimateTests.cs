using System.Numerics;
using FsCheck;
using FsCheck.Fluent;
using Kernels.Tuning;
using NUnit.Framework;

namespace Kernels.Tests.Tuning;

public class EstimateTests
{
    [Test]
    public void RanksAreThoseOfTheExactBinomial()
    {
        for (int n = 1; n < 1000; n++)
        {
            // The largest r with 40 * sum(C(n, i), i < r) <= 2^n, in whole numbers.
            BigInteger term = 1, below = 1, all = BigInteger.Pow(2, n);
            int rank = 0;
            while (below * 40 <= all)
            {
                rank++;
                term = term * (n - rank + 1) / rank;
                below += term;
            }
            Assert.That(Estimate.LowerRank(n), Is.EqualTo(Math.Max(rank, 1)), $"n = {n}");
            Assert.That(rank >= 1, Is.EqualTo(n >= Estimate.MinSamples), $"n = {n}");
        }
    }

    [Test]
    public void TheNormalRanksContinueTheExactOnes()
    {
        for (int n = 1000; n < 3000; n++)
            Assert.That(Estimate.LowerRank(n) - Estimate.LowerRank(n - 1), Is.InRange(-1, 1), $"n = {n}");
    }

    [Test]
    public void TheIntervalHoldsTheMedianIn95PercentOfSkewedSamples([Values(6, 20, 45)] int n)
    {
        const int Seed = 4711, Trials = 4000;
        TestContext.Out.WriteLine($"seed {Seed}");
        var random = new Random(Seed);
        int inside = 0;
        for (int t = 0; t < Trials; t++)
        {
            double[] samples = [.. Enumerable.Range(0, n).Select(_ => -Math.Log(1 - random.NextDouble()))];
            var estimate = Estimate.Of(samples);
            if (estimate.Lower <= Math.Log(2) && Math.Log(2) <= estimate.Upper)
                inside++;
        }
        // Three standard deviations of the count below 95 %.
        Assert.That(inside, Is.GreaterThan(0.95 * Trials - 3 * Math.Sqrt(0.95 * 0.05 * Trials)));
    }

    [Test]
    public void EndsEncloseTheMedianAndOrderDoesNotMatter() =>
        Prop.ForAll<NormalFloat[]>(values =>
        {
            double[] samples = [.. values.Select(v => v.Get)];
            var estimate = Estimate.Of(samples);
            Array.Reverse(samples);
            return samples.Length == 0 ? double.IsNaN(estimate.Median)
                : estimate.Lower <= estimate.Median && estimate.Median <= estimate.Upper && estimate == Estimate.Of(samples)
                    && estimate.Median == Estimate.Quantile(samples, 0.5);
        }).Check(Config.QuickThrowOnFailure.WithMaxTest(500).WithReplay(23, 29));

    [Test]
    public void QuantilesAreLinearBetweenSamples()
    {
        double[] samples = [4, 1, 3, 2];
        Assert.That(Estimate.Quantile(samples, 0), Is.EqualTo(1));
        Assert.That(Estimate.Quantile(samples, 0.5), Is.EqualTo(2.5));
        Assert.That(Estimate.Quantile(samples, 0.9), Is.EqualTo(3.7).Within(1e-12));
        Assert.That(Estimate.Quantile(samples, 2), Is.EqualTo(4));
        Assert.That(Estimate.Of(samples), Is.EqualTo(new Estimate(1, 2.5, 4, 4)));
        Assert.That(Estimate.Of(samples).IsSound, Is.False);
    }
}
