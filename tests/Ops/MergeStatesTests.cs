using System.Runtime.CompilerServices;

namespace Kernels.Tests;

/// <summary>Log-sum-exp with its base, and joining results by it.</summary>
[TestFixture]
public sealed class MergeStatesTests
{
    private static float[] Random(int count, int seed, float low = -1, float high = 1)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => low + (high - low) * random.NextSingle())];
    }

    private static LogSumExp[] Lses(int count, int seed) => [.. Random(count, seed, -3, 3).Select(v => new LogSumExp(v))];

    /// <summary>The merged element and log-sum-exp in float64.</summary>
    private static (double Out, double Lse) Exact(float[] outs, LogSumExp[] lses, int parts, int rows, int dim, int r, int d)
    {
        double sum = 0, total = 0;
        for (int i = 0; i < parts; i++)
        {
            double weight = Math.Exp(lses[i * rows + r].Nats);
            if (weight == 0) continue;
            sum += weight;
            total += weight * outs[(i * rows + r) * dim + d];
        }
        return (sum == 0 ? 0 : total / sum, Math.Log(sum));
    }

    /// <summary>Each product and sum rounds once, the weights too: 2 parts + 1 roundings of at most 2^-24 of the largest |out|, which is 1.</summary>
    private static double Bound(int parts) => (2 * parts + 1) * Math.Pow(2, -24);

    /// <summary>Exactly one of the parts may be written over; what overlaps otherwise is refused before anything is written.</summary>
    [Test]
    public void AResultOverlapsNothingButExactlyAPart()
    {
        const int rows = 3, dim = 8;
        float[] outs = Random(2 * rows * dim, 1), expected = new float[rows * dim], before = [.. outs];
        LogSumExp[] lses = Lses(2 * rows, 1), lse = new LogSumExp[rows], expectedLse = new LogSumExp[rows];
        Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, expected, expectedLse);
        string? Refused(Action call) => Assert.Throws<KernelsException>(() => call())!.Argument;
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, outs.AsSpan(dim, rows * dim), lse)), Is.EqualTo("output"));
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, new float[rows * dim], lses.AsSpan(1, rows))), Is.EqualTo("lse"));
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeInto<float>(outs.AsSpan(0, rows * dim), lses.AsSpan(0, rows), outs.AsSpan(dim, rows * dim), lse)), Is.EqualTo("output"));
        Assert.That(outs, Is.EqualTo(before));
        Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, outs.AsSpan(rows * dim), lses.AsSpan(rows));
        Assert.That(outs[(rows * dim)..], Is.EqualTo(expected));
        Assert.That(lses[rows..], Is.EqualTo(expectedLse));
    }

    /// <summary>Strided rows are compared one by one, not by all that lies between them: parts and results may be interleaved.</summary>
    [Test]
    public void StridedResultsOverlapNothingButExactlyAPart()
    {
        const int tokens = 3, heads = 2, dim = 8, rows = tokens * heads, slot = dim + 2;
        float[] values = Random((rows * 3 + 1) * slot, 1);
        LogSumExp[] sums = Lses(3 * rows, 2);
        using Buffer<float> all = Buffer<float>.Of(values);
        using Buffer<LogSumExp> allLse = Buffer<LogSumExp>.Of(sums);
        // [token, head, part, element]: two parts and a place for the result.
        TensorView<float> Rows(long from, long head = 3 * slot, int d = dim) => new(all, from, [tokens, heads, d], [heads * 3 * slot, head, 1]);
        TensorView<LogSumExp> Sums(long from) => new(allLse, from, [tokens, heads], [heads * 3, 3]);
        TensorView<float> parts = new(all, 0, [2, tokens, heads, dim], [slot, heads * 3 * slot, 3 * slot, 1]);
        TensorView<LogSumExp> partSums = new(allLse, 0, [2, tokens, heads], [1, heads * 3, 3]);
        string? Refused(Action call)
        {
            string? argument = Assert.Throws<KernelsException>(() => call())!.Argument;
            Assert.That(all.Span.SequenceEqual(values) && allLse.Span.SequenceEqual(sums), "nothing was written");
            return argument;
        }
        foreach (long from in (long[])[1, slot - 1, slot + 1, 2 * slot - 3, 3 * slot - 7])
            Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates(parts, partSums, Rows(from), Sums(2))), Is.EqualTo("output"), $"{from}");
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates(parts, partSums, new TensorView<float>(all, 0, [tokens, heads, dim], [heads * dim, dim, 1]), Sums(2))), Is.EqualTo("output"), "other strides");
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates(parts, partSums, Rows(2 * slot, head: 0), Sums(2))), Is.EqualTo("output"), "rows over each other");
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates(parts, partSums, Rows(2 * slot), new TensorView<LogSumExp>(allLse, 3, [tokens, heads], [heads, 1]))), Is.EqualTo("lse"));
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeStates(parts, partSums, Rows(2 * slot), new TensorView<LogSumExp>(allLse, 2, [tokens, heads], [0, 3]))), Is.EqualTo("lse"), "rows over each other");
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeInto(Rows(0), Sums(0), Rows(3), Sums(2))), Is.EqualTo("output"));
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeInto(Rows(0), Sums(0), Rows(0), Sums(2))), Is.EqualTo("output"), "a part joined with itself");
        Assert.That(Refused(() => Kernels.DecodeAttention.MergeInto(Rows(0), Sums(0), Rows(slot), Sums(0))), Is.EqualTo("lse"));
        // Side by side, then over the second part.
        Kernels.DecodeAttention.MergeStates(parts, partSums, Rows(2 * slot), Sums(2));
        Kernels.DecodeAttention.MergeStates(parts, partSums, Rows(slot), Sums(1));
        for (int r = 0; r < rows; r++)
        {
            Assert.That(all.Span.Slice((r * 3 + 1) * slot, dim).SequenceEqual(all.Span.Slice((r * 3 + 2) * slot, dim)));
            Assert.That(all.Span.Slice(r * 3 * slot, dim).SequenceEqual(values.AsSpan(r * 3 * slot, dim)), "the other part");
            Assert.That(allLse.Span[r * 3 + 1], Is.EqualTo(allLse.Span[r * 3 + 2]));
        }
        using Buffer<float> into = Buffer<float>.Of(values);
        using Buffer<LogSumExp> intoLse = Buffer<LogSumExp>.Of(sums);
        Kernels.DecodeAttention.MergeInto(new TensorView<float>(into, slot, [tokens, heads, dim], [heads * 3 * slot, 3 * slot, 1]), new TensorView<LogSumExp>(intoLse, 1, [tokens, heads], [heads * 3, 3]),
            new TensorView<float>(into, 0, [tokens, heads, dim], [heads * 3 * slot, 3 * slot, 1]), new TensorView<LogSumExp>(intoLse, 0, [tokens, heads], [heads * 3, 3]));
        for (int r = 0; r < rows; r++) Assert.That(into.Span.Slice(r * 3 * slot, dim).SequenceEqual(all.Span.Slice((r * 3 + 2) * slot, dim)));
    }

    [Test]
    public void AnyNumberOfPartsOfAnySizeIsTheWeightedMean([Values(1, 2, 3, 40)] int parts, [Values(1, 8, 80, 128, 300, 517)] int dim)
    {
        const int rows = 5;
        float[] outs = Random(parts * rows * dim, parts + dim), output = new float[rows * dim];
        LogSumExp[] lses = Lses(parts * rows, parts), lse = new LogSumExp[rows];
        Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, output, lse);
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < dim; d++)
            {
                (double expected, double sum) = Exact(outs, lses, parts, rows, dim, r, d);
                Assert.That(output[r * dim + d], Is.EqualTo(expected).Within(Bound(parts)));
                Assert.That(lse[r].Nats, Is.EqualTo(sum).Within(Math.Pow(2, -23) * 4));  // |lse| is below 8: half an ulp is 2^-22 / 2
            }
    }

    [Test]
    public void AnEmptyPartWeighsNothingWhateverItHolds()
    {
        float[] outs = [1, 2, float.NaN, float.PositiveInfinity, 5, 6], output = new float[2];
        var lse = new LogSumExp[1];
        Kernels.DecodeAttention.MergeStates<float, float>(outs, [new LogSumExp(0.5f), LogSumExp.Empty, new LogSumExp(0.5f)], output, lse);
        Assert.That(output, Is.EqualTo(new float[] { 3, 4 }));
        Assert.That(lse[0].Nats, Is.EqualTo((float)(0.5 + Math.Log(2))));
        Kernels.DecodeAttention.MergeStates<float, float>(outs, [LogSumExp.Empty, LogSumExp.Empty, LogSumExp.Empty], output, lse);
        Assert.That(output, Is.All.Zero);
        Assert.That(lse[0].IsEmpty);
        Kernels.DecodeAttention.MergeStates<float, float>([], [], output, lse);
        Assert.That(output, Is.All.Zero, "no parts at all");
    }

    [Test]
    public void HugeAndTinySumsNeitherOverflowNorVanish()
    {
        float[] output = new float[1];
        var lse = new LogSumExp[1];
        Kernels.DecodeAttention.MergeStates<float, float>([1, 3], [new LogSumExp(860), new LogSumExp(860)], output, lse);
        Assert.That((output[0], lse[0].Nats), Is.EqualTo((2f, (float)(860 + Math.Log(2)))));
        Kernels.DecodeAttention.MergeStates<float, float>([1, 3], [new LogSumExp(-900), new LogSumExp(-860)], output, lse);
        Assert.That((output[0], lse[0].Nats), Is.EqualTo((3f, -860f)));
    }

    [Test]
    public void MergingIntoOneAndStridedViewsGiveTheSame()
    {
        const int tokens = 3, heads = 2, dim = 24, rows = tokens * heads;
        float[] outs = Random(2 * rows * dim, 1), expected = new float[rows * dim];
        LogSumExp[] lses = Lses(2 * rows, 2), expectedLse = new LogSumExp[rows];
        Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, expected, expectedLse);
        float[] into = outs[..(rows * dim)];
        LogSumExp[] intoLse = lses[..rows];
        Kernels.DecodeAttention.MergeInto<float>(outs.AsSpan(rows * dim), lses.AsSpan(rows), into, intoLse);
        Assert.That(into, Is.EqualTo(expected));
        Assert.That(intoLse, Is.EqualTo(expectedLse));
        // Heads before tokens in memory, rows with gaps.
        using Buffer<float> from = Buffer<float>.Allocate(2 * rows * 32), to = Buffer<float>.Allocate(rows * 40);
        using Buffer<LogSumExp> fromLse = Buffer<LogSumExp>.Of(lses), toLse = Buffer<LogSumExp>.Allocate(rows * 3);
        for (int i = 0; i < 2; i++)
            for (int t = 0; t < tokens; t++)
                for (int h = 0; h < heads; h++)
                    outs.AsSpan(((i * tokens + t) * heads + h) * dim, dim).CopyTo(from.Span[(((i * heads + h) * tokens + t) * 32)..]);
        Kernels.DecodeAttention.MergeStates(new TensorView<float>(from, 0, [2, tokens, heads, dim], [rows * 32, 32, tokens * 32, 1]),
            new TensorView<LogSumExp>(fromLse, 2, tokens, heads), new TensorView<float>(to, 0, [tokens, heads, dim], [heads * 40, 40, 1]), new TensorView<LogSumExp>(toLse, 0, [tokens, heads], [heads * 3, 3]));
        for (int r = 0; r < rows; r++)
        {
            Assert.That(to.Span.Slice(r * 40, dim).SequenceEqual(expected.AsSpan(r * dim, dim)));
            Assert.That(toLse.Span[r * 3], Is.EqualTo(expectedLse[r]));
        }
    }

    [Test]
    public void NarrowPartsAndOutputsAreRoundedOnce()
    {
        BFloat16[] outs = [.. Random(2 * 16, 3).Select(v => (BFloat16)v)], output = new BFloat16[16];
        Half[] halves = [.. outs.Select(v => (Half)(float)v)], halfOutput = new Half[16];
        LogSumExp[] lses = Lses(2, 4), lse = new LogSumExp[1];
        var wide = new float[16];
        Kernels.DecodeAttention.MergeStates<BFloat16, float>(outs, lses, wide, lse);
        Kernels.DecodeAttention.MergeStates<BFloat16, BFloat16>(outs, lses, output, lse);
        Kernels.DecodeAttention.MergeStates<Half, Half>(halves, lses, halfOutput, lse);
        for (int i = 0; i < 16; i++)
        {
            Assert.That(output[i], Is.EqualTo((BFloat16)wide[i]));
            Assert.That((float)halfOutput[i], Is.EqualTo((float)(Half)wide[i]));
        }
    }

    [Test]
    public void WrongLengthsAreRefusedByName()
    {
        void Refused(string argument, Action call) => Assert.That(Assert.Throws<KernelsException>(call)!.Argument, Is.EqualTo(argument));
        Refused("lses", () => Kernels.DecodeAttention.MergeStates<float, float>(new float[8], new LogSumExp[3], new float[4], new LogSumExp[2]));
        Refused("output", () => Kernels.DecodeAttention.MergeStates<float, float>(new float[8], new LogSumExp[4], new float[5], new LogSumExp[2]));
        Refused("outs", () => Kernels.DecodeAttention.MergeStates<float, float>(new float[7], new LogSumExp[4], new float[4], new LogSumExp[2]));
        Refused("outs", () => Kernels.DecodeAttention.MergeStates<sbyte, float>(new sbyte[8], new LogSumExp[4], new float[4], new LogSumExp[2]));
        Refused("part", () => Kernels.DecodeAttention.MergeInto<float>(new float[3], new LogSumExp[2], new float[4], new LogSumExp[2]));
    }

    [Test]
    public void MergingAllocatesNothing()
    {
        float[] outs = Random(3 * 4 * 64, 1), output = new float[4 * 64];
        LogSumExp[] lses = Lses(12, 1), lse = new LogSumExp[4];
        for (int i = 0; i < 50; i++) Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, output, lse);
        Assert.That(Allocations.Of(500, () => Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, output, lse)), Is.Zero);
    }

    [Test]
    public void TheBaseIsInTheType()
    {
        Assert.That(Unsafe.SizeOf<LogSumExp>(), Is.EqualTo(sizeof(float)));
        Assert.That(LogSumExp.FromBase2(1).Nats, Is.EqualTo((float)Math.Log(2)));
        Assert.That(new LogSumExp(1).ToBase2(), Is.EqualTo((float)(1 / Math.Log(2))));
        Assert.That(LogSumExp.FromBase2(float.NegativeInfinity).IsEmpty && float.IsNegativeInfinity(LogSumExp.Empty.ToBase2()));
        Assert.That(LogSumExp.Merge(new(1), new(2)).Nats, Is.EqualTo((float)Math.Log(Math.E + Math.E * Math.E)));
        Assert.That(LogSumExp.Merge(LogSumExp.Empty, new(-7)), Is.EqualTo(new LogSumExp(-7)));
        Assert.That(LogSumExp.Merge(LogSumExp.Empty, LogSumExp.Empty).IsEmpty);
        Assert.That(LogSumExp.Merge(new(1000), new(-1000)).Nats, Is.EqualTo(1000f));
        Assert.That(float.IsNaN(LogSumExp.Merge(new(float.NaN), new(0)).Nats));
    }
}
