using System.Security.Cryptography;
using CommunityToolkit.HighPerformance;

namespace Kernels.Tests.SparseLinear;

/// <summary>The public plan, its weights on disk, and pruning.</summary>
[TestFixture]
public sealed class Plans
{
    private static readonly FlatGemmOptions s_layer = new() { N = 40, K = 96, MaxM = 16, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32 };

    private static float[] Fill(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.NextSingle() - 0.5f)];
    }

    private static float[] Pruned(double density, int seed = 1)
    {
        float[] w = Fill(40 * 96, seed);
        Prune.Magnitude(new Span2D<float>(w, 40, 96), density);
        return w;
    }

    private static float[,] Run(Kernels.SparseLinear plan, float[] x, ulong[]? outputs = null, ulong[]? inputs = null)
    {
        var y = new float[x.Length / 96, 40];
        plan.Run<float, float>(new ReadOnlySpan2D<float>(x, x.Length / 96, 96), new Span2D<float>(y), outputs: outputs, inputs: inputs);
        return y;
    }

    [Test]
    public void ComputesTheDenseProductWithSets()
    {
        float[] w = Pruned(0.3), x = Fill(5 * 96, 2);
        using var plan = Kernels.SparseLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        Assert.That(plan.Density, Is.EqualTo(0.3).Within(0.001));
        ulong[] outputs = new ulong[1], inputs = new ulong[2];
        Kernels.SparseLinear.SetOf([0, 17, 39], outputs);
        Kernels.SparseLinear.SetOf([.. Enumerable.Range(64, 20)], inputs);
        float[,] all = Run(plan, x), some = Run(plan, x, outputs, inputs);
        for (int r = 0; r < 5; r++)
            for (int c = 0; c < 40; c++)
            {
                double full = 0, part = 0;
                for (int k = 0; k < 96; k++)
                {
                    full += (double)x[r * 96 + k] * w[c * 96 + k];
                    if (k is >= 64 and < 84) part += (double)x[r * 96 + k] * w[c * 96 + k];
                }
                // k roundings of f32, each of a sum of at most k / 4.
                double bound = 96 / 4.0 * 96 * Math.Pow(2, -24);
                Assert.That(all[r, c], Is.EqualTo(full).Within(bound));
                Assert.That(some[r, c], Is.EqualTo(c is 0 or 17 or 39 ? part : 0).Within(c is 0 or 17 or 39 ? bound : 0));
            }
        float[,] none = Run(plan, x, new ulong[1], null);
        Assert.That(none.Cast<float>(), Is.All.Zero);
    }

    [Test]
    public void PacksAndUnpacksBitForBit([Values(0, 0.01, 0.5, 1)] double density)
    {
        float[] w = Pruned(density);
        if (density > 0.1) (w[3], w[100], w[200]) = (float.NaN, float.NegativeInfinity, -0f);
        using var weights = SparseLinearWeights.Pack(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        var back = new float[40, 96];
        weights.Unpack(new Span2D<float>(back));
        Assert.That(back.Cast<float>().Select(BitConverter.SingleToInt32Bits), Is.EqualTo(w.Select(BitConverter.SingleToInt32Bits)));
        Assert.That(weights.NonZeros, Is.EqualTo(w.Count(v => BitConverter.SingleToInt32Bits(v) != 0)));
    }

    [Test]
    public void RowsAndMasksPackTheSame()
    {
        float[] w = Pruned(0.2), full = Fill(40 * 96, 1);
        var offsets = new long[41];
        var columns = new List<int>();
        var values = new List<float>();
        var mask = new bool[40, 96];
        for (int r = 0; r < 40; r++)
        {
            for (int k = 0; k < 96; k++)
            {
                mask[r, k] = w[r * 96 + k] != 0;
                if (!mask[r, k]) continue;
                columns.Add(k);
                values.Add(w[r * 96 + k]);
            }
            offsets[r + 1] = columns.Count;
        }
        using var dense = SparseLinearWeights.Pack(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        using var rows = SparseLinearWeights.Pack<float>(s_layer, offsets, columns.ToArray(), values.ToArray());
        using var masked = SparseLinearWeights.Pack(s_layer, new ReadOnlySpan2D<float>(full, 40, 96), mask: new ReadOnlySpan2D<bool>(mask));
        Assert.That(rows.Data.Span.SequenceEqual(dense.Data.Span));
        Assert.That(masked.Data.Span.SequenceEqual(dense.Data.Span));
        int[] bad = [.. columns];
        (bad[0], bad[1]) = (bad[1], bad[0]);
        Assert.That(() => SparseLinearWeights.Pack<float>(s_layer, offsets, bad, values.ToArray()), Throws.TypeOf<KernelsException>());
        bad[0] = bad[1];
        Assert.That(() => SparseLinearWeights.Pack<float>(s_layer, offsets, bad, values.ToArray()), Throws.TypeOf<KernelsException>());
        bad[0] = 96;
        Assert.That(() => SparseLinearWeights.Pack<float>(s_layer, offsets, bad, values.ToArray()), Throws.TypeOf<KernelsException>());
    }

    /// <summary>Bytes changed at random, then given a hash that fits them: only the layout itself can tell, and must, or the file is as good.</summary>
    [Test]
    public void NoFileReadsOutOfBounds()
    {
        using var weights = SparseLinearWeights.Pack(s_layer, new ReadOnlySpan2D<float>(Pruned(0.4), 40, 96));
        var file = new MemoryStream();
        weights.Save(file);
        byte[] good = file.ToArray();
        using (var again = SparseLinearWeights.Load(s_layer, new MemoryStream(good))) Assert.That(again.Data.Span.SequenceEqual(weights.Data.Span));
        var at = new SparsePanels(weights.Shape);
        var random = new Random(3);
        float[] x = Fill(3 * 96, 2);
        int refused = 0;
        for (int i = 0; i < 2000; i++)
        {
            byte[] bad = [.. good];
            int part = i % 3 == 0 ? 64 : i % 3 == 1 ? (int)(64 + at.ValuesAt) : bad.Length - 32;
            for (int flips = 1 + random.Next(3); flips > 0; flips--) bad[random.Next(part)] ^= (byte)(1 << random.Next(8));
            SHA256.HashData(bad.AsSpan(0, bad.Length - 32), bad.AsSpan(bad.Length - 32));
            try
            {
                using var loaded = SparseLinearWeights.Load(s_layer, new MemoryStream(bad));
                using var plan = Kernels.SparseLinear.Create(s_layer, loaded);
                Run(plan, x);
            }
            catch (KernelsException e)
            {
                Assert.That(e.Argument, Is.EqualTo("stream"));
                refused++;
            }
        }
        Assert.That(refused, Is.GreaterThan(500));
        for (int i = 0; i < 100; i++)
        {
            byte[] cut = [.. good[..random.Next(good.Length)]], damaged = [.. good];
            damaged[random.Next(good.Length)] ^= 4;
            Assert.That(() => SparseLinearWeights.Load(s_layer, new MemoryStream(cut)), Throws.TypeOf<KernelsException>());
            Assert.That(() => SparseLinearWeights.Load(s_layer, new MemoryStream(damaged)), Throws.TypeOf<KernelsException>());
        }
    }

    [Test]
    public void PruningKeepsTheLargest([Values] PruneScope scope, [Values(0, 0.1, 0.5, 1)] double density)
    {
        float[] w = Fill(40 * 96, 4), kept = [.. w];
        w[5] = kept[5] = w[7] = kept[7] = 0.25f;
        Pruned result = Prune.Magnitude(new Span2D<float>(kept, 40, 96), density, scope);
        int rows = scope == PruneScope.Global ? 1 : 40, width = 40 * 96 / rows;
        for (int r = 0; r < rows; r++)
        {
            float[] before = [.. w.Skip(r * width).Take(width)], after = [.. kept.Skip(r * width).Take(width)];
            Assert.That(after.Count(v => v != 0), Is.EqualTo((int)Math.Ceiling(density * width)));
            float least = after.Where(v => v != 0).Select(MathF.Abs).DefaultIfEmpty(float.PositiveInfinity).Min();
            for (int i = 0; i < width; i++)
            {
                Assert.That(after[i], Is.EqualTo(before[i]).Or.Zero);
                if (after[i] == 0) Assert.That(MathF.Abs(before[i]), Is.LessThanOrEqualTo(least));
            }
        }
        Assert.That(result.Density, Is.EqualTo(kept.Count(v => v != 0) / (40.0 * 96)));
        Assert.That(result.Threshold, Is.EqualTo(kept.Where(v => v != 0).Select(MathF.Abs).DefaultIfEmpty(0).Min()));
    }

    [Test]
    public void RunAllocatesNothing()
    {
        float[] x = Fill(4 * 96, 2), y = new float[4 * 40];
        ulong[] outputs = [0xffff], inputs = [~0UL, 0];
        using var plan = Kernels.SparseLinear.Create(s_layer, new ReadOnlySpan2D<float>(Pruned(0.5), 40, 96));
        void Once() => plan.Run<float, float>(new ReadOnlySpan2D<float>(x, 4, 96), new Span2D<float>(y, 4, 40), outputs: outputs, inputs: inputs);
        for (int i = 0; i < 50; i++) Once();
        Assert.That(Allocations.Of(1000, Once), Is.Zero);
    }

    [Test]
    public void BadCallsAreRefused()
    {
        using var plan = Kernels.SparseLinear.Create(s_layer, new ReadOnlySpan2D<float>(Pruned(0.5), 40, 96));
        float[] x = Fill(96, 2);
        Assert.That(plan.Choice(1), Is.EqualTo(plan.Choices[0]));
        Assert.That(() => plan.Choice(plan.Options.MaxM + 1), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("m"));
        Assert.That(() => Run(plan, x, new ulong[2]), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("outputs"));
        Assert.That(() => Run(plan, x, null, new ulong[1]), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("inputs"));
        Assert.That(() => Kernels.SparseLinear.SetOf([1, 1], new ulong[1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => Kernels.SparseLinear.SetOf([2, 1], new ulong[1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => Kernels.SparseLinear.SetOf([64], new ulong[1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => Kernels.SparseLinear.Create(s_layer with { Weights = DType.UInt4, Group = 32, Input = DType.BFloat16 }, new ReadOnlySpan2D<float>(new float[40 * 96], 40, 96)), Throws.TypeOf<KernelsException>());
        Assert.That(() => Kernels.SparseLinear.Create(s_layer with { Row = "sparse_linear/nonsense" }, new ReadOnlySpan2D<float>(new float[40 * 96], 40, 96)), Throws.TypeOf<KernelsException>());
    }

    [Test]
    public void PruningTakesFloatsAndKnownScopesAlone()
    {
        Assert.That(() => Prune.Magnitude<Float8E4M3>(new Float8E4M3[2, 2], 0.5), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("w"));
        Assert.That(() => Prune.Magnitude<sbyte>(new sbyte[2, 2], 0.5), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("w"));
        Assert.That(() => Prune.Magnitude<float>(new float[2, 2], 0.5, (PruneScope)7), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("scope"));
    }

    [Test]
    public void TheChoiceNamesTheCrossing()
    {
        FlatGemmOptions layer = new() { N = 4096, K = 4096, Weights = DType.BFloat16, TuningDirectory = "" };
        SparseLinearChoice few = Kernels.SparseLinear.Choose(layer, 0.2, 1), full = Kernels.SparseLinear.Choose(layer, 1, 1);
        Assert.That(full.IsSparse, Is.False, full.Reason);
        Assert.That(full.Reason, Does.StartWith("dense, "));
        Assert.That(few.SparseSeconds, Is.LessThan(full.SparseSeconds));
        Assert.That(few.IsSparse, Is.EqualTo(0.2 < few.Crossover), few.Reason);
    }
}
