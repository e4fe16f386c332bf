using CommunityToolkit.HighPerformance;

namespace Kernels.Tests;

/// <summary>Packed weights on disk, and integer weights made of float ones.</summary>
[TestFixture]
public sealed class FlatGemmWeightsTests
{
    private static readonly FlatGemmOptions s_layer = new()
    {
        N = 33,
        K = 200,
        MaxM = 8,
        Weights = DType.UInt4,
        Input = DType.BFloat16,
        Output = DType.Float32,
        Group = 64,
        ZeroPoints = true,
    };

    private static (FlatGemmWeights Packed, float[] W, QuantizationError Error) Int4(int seed)
    {
        var random = new Random(seed);
        float[] w = [.. Enumerable.Range(0, 33 * 200).Select(_ => random.NextSingle() * 2 - 0.7f)];
        byte[,] q = new byte[33, 100], zeros = new byte[33, 4];
        var scales = new float[33, 4];
        QuantizationError error = Quantize.Int4PerGroup(new ReadOnlySpan2D<float>(w, 33, 200), 64, q, scales, zeros);
        return (FlatGemmWeights.Pack<byte>(s_layer, q, scales.AsSpan(), zeros.AsSpan()), w, error);
    }

    private static float[] Run(FlatGemmWeights weights)
    {
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer, weights);
        BFloat16[] x = [.. Enumerable.Range(0, 3 * 200).Select(i => (BFloat16)MathF.Sin(i))];
        var y = new float[3 * 33];
        plan.Run<BFloat16, float>(x, y);
        return y;
    }

    [Test]
    public void SavedAndLoadedWeightsGiveTheSameBits()
    {
        (FlatGemmWeights weights, _, _) = Int4(1);
        using (weights)
        {
            if (weights.Layout is null) Assert.Ignore("this machine has no row with a packed layout");
            var file = new MemoryStream();
            weights.Save(file);
            file.Position = 0;
            using FlatGemmWeights loaded = FlatGemmWeights.Load(s_layer, file);
            Assert.That(Run(loaded), Is.EqualTo(Run(weights)));
        }
    }

    [Test]
    public void ADamagedOrForeignFileIsRefused()
    {
        (FlatGemmWeights weights, _, _) = Int4(2);
        using (weights)
        {
            if (weights.Layout is null) Assert.Ignore("this machine has no row with a packed layout");
            var file = new MemoryStream();
            weights.Save(file);
            byte[] good = file.ToArray();
            var random = new Random(3);
            for (int i = 0; i < 300; i++)
            {
                byte[] bad = [.. good[..(i % 3 == 0 ? random.Next(good.Length) : good.Length)]];
                if (i % 3 != 0) bad[i % 3 == 1 ? random.Next(128) : random.Next(bad.Length)] ^= (byte)(1 << random.Next(8));
                var e = Assert.Throws<KernelsException>(() => FlatGemmWeights.Load(s_layer, new MemoryStream(bad)))!;
                Assert.That(e.Argument, Is.EqualTo("stream"));
            }
            foreach (FlatGemmOptions other in new[] { s_layer with { N = 34 }, s_layer with { K = 201 }, s_layer with { Group = 128 }, s_layer with { ZeroPoints = false } })
                Assert.That(() => FlatGemmWeights.Load(other, new MemoryStream(good)), Throws.TypeOf<KernelsException>());
        }
    }

    [Test]
    public void QuantisationErrorIsAtMostHalfAStep([Values] bool symmetric, [Values(32, 64, 128)] int group, [Values(200, 31, 128)] int k)
    {
        var random = new Random(group + k);
        float[] w = [.. Enumerable.Range(0, 5 * k).Select(_ => (random.NextSingle() - 0.3f) * MathF.Pow(10, random.Next(-3, 3)))];
        int groups = (k + group - 1) / group;
        byte[,] q = new byte[5, (k + 1) / 2], zeros = new byte[5, groups];
        var scales = new float[5, groups];
        QuantizationError error = Quantize.Int4PerGroup(new ReadOnlySpan2D<float>(w, 5, k), group, q, scales, symmetric ? default : new Span2D<byte>(zeros));
        double worst = 0;
        for (int n = 0; n < 5; n++)
            for (int i = 0; i < k; i++)
            {
                int value = i % 2 == 0 ? q[n, i / 2] & 15 : q[n, i / 2] >> 4;
                double scale = scales[n, i / group], back = (value - (symmetric ? 8 : zeros[n, i / group])) * scale;
                double e = Math.Abs(w[n * k + i] - back);
                // The zero point is rounded, so an end of the range may be half a step further out; and f32 division rounds.
                Assert.That(e, Is.LessThanOrEqualTo(scale * ((symmetric ? 0.5 : 1.0) + 16 * Math.Pow(2, -23))));
                worst = Math.Max(worst, e);
            }
        Assert.That(error.MaxError, Is.EqualTo(worst));
    }

    [Test]
    public void Int8PerChannelRoundsToNearest()
    {
        var random = new Random(5);
        float[] w = [.. Enumerable.Range(0, 7 * 100).Select(i => i / 100 == 3 ? 0 : random.NextSingle() - 0.5f)];
        var q = new sbyte[7, 100];
        var scales = new float[7];
        Quantize.Int8PerChannel(new ReadOnlySpan2D<float>(w, 7, 100), q, scales);
        Assert.That(scales[3], Is.Zero);
        for (int i = 0; i < 700; i++)
            Assert.That(Math.Abs(w[i] - (double)q[i / 100, i % 100] * scales[i / 100]), Is.LessThanOrEqualTo(scales[i / 100] * (0.5 + 127 * Math.Pow(2, -23))));
        w[5] = float.NaN;
        Assert.That(() => Quantize.Int8PerChannel(new ReadOnlySpan2D<float>(w, 7, 100), q, scales), Throws.TypeOf<KernelsException>());
    }
}
