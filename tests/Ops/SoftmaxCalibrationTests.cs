namespace Kernels.Tests;

/// <summary>Where phi is put, and what is promised of it.</summary>
[TestFixture]
public sealed class SoftmaxCalibrationTests
{
    /// <summary>The end test of decode_attention.h on float sums: numerator and denominator finite, denominator at least L 2^-102.</summary>
    private static bool Passes(float[] scores, float phi, float v)
    {
        float l = 0, o = 0;
        foreach (float x in scores)
        {
            float p = MathF.Exp(x - phi);
            l += p;
            o += p * v;
        }
        return float.IsFinite(l) && float.IsFinite(o) && l >= scores.Length * MathF.Pow(2, -102);
    }

    private static float[] Scores(int count, float center, float spread, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => center + spread * (random.NextSingle() - 0.5f))];
    }

    [Test]
    public void ARowThatIsCountedAsFittingPassesTheEndTest([Values(-500f, -60f, 0f, 94f, 860f)] float center, [Values(1, 100, 20000)] int count)
    {
        var calibration = new SoftmaxCalibration(1, largestValue: 1024);
        float[][] rows = [.. Enumerable.Range(0, 20).Select(i => Scores(count, center + i, 30, i))];
        foreach (float[] row in rows) calibration.Record(0, row);
        PhiProposal proposal = calibration.Propose(0);
        Assert.That((proposal.Rows, proposal.Recomputed), Is.EqualTo((20, 0)));
        Assert.That(proposal.UpperRate, Is.InRange(0.1, 0.2), "20 rows do not prove much");
        foreach (float[] row in rows) Assert.That(Passes(row, proposal.Phi, 1024), $"phi {proposal.Phi}");
    }

    [Test]
    public void WhereNoPhiFitsAllTheMostRowsDecide()
    {
        var calibration = new SoftmaxCalibration(2);
        for (int i = 0; i < 90; i++) calibration.Record(1, Scores(1000, 10, 5, i));
        for (int i = 0; i < 10; i++) calibration.Record(1, Scores(1000, 400, 5, i));
        PhiProposal proposal = calibration.Propose(1);
        Assert.That((proposal.Rows, proposal.Recomputed, proposal.Rate), Is.EqualTo((100, 10, 0.1)));
        Assert.That(proposal.UpperRate, Is.InRange(0.15, 0.2));
        Assert.That(Passes(Scores(1000, 10, 5, 200), proposal.Phi, 1024), Is.True);
        Assert.That(Passes(Scores(1000, 400, 5, 200), proposal.Phi, 1024), Is.False);
        Assert.That(calibration.Propose(0), Is.EqualTo(new PhiProposal(0, 0, 0, 1)), "nothing recorded");
        Assert.That(calibration.Phi(), Is.EqualTo(new[] { 0, proposal.Phi }));
    }

    [Test]
    public void ACallIsRecordedByItsLogSumExps()
    {
        var calibration = new SoftmaxCalibration(2);
        LogSumExp[] lse = [new(3), new(300), new(4), LogSumExp.Empty, new(5), new(float.NaN)];
        calibration.Record(lse, [10, 20], [0, 2, 3]);
        Assert.That((calibration.Propose(0).Rows, calibration.Propose(1).Rows), Is.EqualTo((3, 1)));
        Assert.That(calibration.Propose(1).Phi, Is.EqualTo(300).Within(75));
        Assert.That(() => calibration.Record(lse, [10, 20]), Throws.TypeOf<KernelsException>(), "3 tokens over 2 sequences");
        foreach (int[] start in (int[][])[[0, 5, 3], [-1, 2, 3], [1, 2, 3], [0, 2], [0, 2, 4]])
            Assert.That(() => calibration.Record(lse, [10, 20], start), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("qStart"));
        Assert.That(calibration.Propose(0).Rows, Is.EqualTo(3), "a refused call is not recorded");
        Assert.That(() => calibration.Record(2, new LogSumExp(0), 1), Throws.TypeOf<KernelsException>());
        Assert.That(() => new SoftmaxCalibration(0), Throws.TypeOf<KernelsException>());
    }

    [Test]
    public void MaskedKeysAndExtremeScoresDoNotDisturb()
    {
        var calibration = new SoftmaxCalibration(1);
        calibration.Record(0, [float.NegativeInfinity, float.NegativeInfinity]);
        calibration.Record(0, [5, float.NegativeInfinity]);
        calibration.Record(0, [1e30f]);
        Assert.That(calibration.Propose(0), Has.Property("Rows").EqualTo(2).And.Property("Recomputed").EqualTo(1));
    }
}
