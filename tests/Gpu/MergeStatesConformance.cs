namespace Kernels.Tests.Gpu;

/// <summary>merge_states/gpu against the weighted mean in float64.</summary>
[TestFixture]
public sealed class MergeStatesConformance
{
    private const int Tokens = 3, Heads = 2, Rows = Tokens * Heads;

    private static IEnumerable<TestCaseData> Cases()
    {
        foreach (string device in Simulated.Names)
            foreach (int parts in (int[])[0, 1, 2, 7])
                foreach (int dim in (int[])[1, 72, 200])
                    yield return new TestCaseData(device, parts, dim).SetArgDisplayNames(device, $"{parts} parts", $"dim {dim}");
    }

    private static float[] Random(int count, int seed, float most = 1)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => most * (2 * random.NextSingle() - 1))];
    }

    private static TElement[] Back<TElement>(Buffer<TElement> buffer) where TElement : unmanaged
    {
        var back = new TElement[buffer.Length];
        buffer.CopyTo(back);
        return back;
    }

    /// <summary>
    /// A weight has an exp of 2 ulp, a difference rounded at no more than 0.37 of an ulp of the weight, a sum of parts, a quotient: at most parts + 6
    /// roundings; the products and sums of |out| &lt;= 1 parts + 1 more.
    /// </summary>
    private static double Bound(int parts) => (2 * parts + 7) * Math.Pow(2, -24);

    [TestCaseSource(nameof(Cases))]
    public void IsTheWeightedMean(string name, int parts, int dim)
    {
        Device device = Simulated.Open(name);
        float[] outs = Random(parts * Rows * dim, 1), lses = Random(parts * Rows, 2, 40);
        // Row 1 lost a part, whose output is NaN; row 2 saw nothing at all.
        for (int i = 0; i < parts; i++)
            foreach (int row in i == 1 ? (int[])[1, 2] : [2])
            {
                lses[i * Rows + row] = float.NegativeInfinity;
                outs[(i * Rows + row) * dim] = float.NaN;
            }
        using Buffer<float> from = Buffer<float>.Of(device, outs), to = Buffer<float>.Allocate(device, Rows * (dim + 3));
        using Buffer<LogSumExp> fromLse = Buffer<LogSumExp>.Of(device, [.. lses.Select(l => new LogSumExp(l))]), toLse = Buffer<LogSumExp>.Allocate(device, Rows);
        using Kernels.Stream stream = device.CreateStream();
        to.CopyFrom([.. Enumerable.Repeat(7f, Rows * (dim + 3))]);
        Kernels.DecodeAttention.MergeStates(new TensorView<float>(from, parts, Tokens, Heads, dim), new TensorView<LogSumExp>(fromLse, parts, Tokens, Heads),
            new TensorView<float>(to, 0, [Tokens, Heads, dim], [Heads * (dim + 3), dim + 3, 1]), new TensorView<LogSumExp>(toLse, Tokens, Heads), stream);
        stream.Synchronize();
        float[] got = Back(to);
        LogSumExp[] sums = Back(toLse);
        for (int r = 0; r < Rows; r++)
        {
            double[] weights = [.. Enumerable.Range(0, parts).Select(i => Math.Exp(lses[i * Rows + r]))];
            double sum = weights.Sum();
            Assert.That(sums[r].Nats, sum == 0 ? Is.EqualTo(float.NegativeInfinity) : Is.EqualTo(Math.Log(sum)).Within(Math.Pow(2, -18) + Bound(parts)));  // |lse| is below 64: an ulp is 2^-18
            for (int d = 0; d < dim; d++)
                Assert.That(got[r * (dim + 3) + d], Is.EqualTo(sum == 0 ? 0 : Enumerable.Range(0, parts).Where(i => weights[i] > 0).Sum(i => weights[i] / sum * outs[(i * Rows + r) * dim + d])).Within(Bound(parts)));
            Assert.That(got.AsSpan(r * (dim + 3) + dim, 3).ToArray(), Is.All.EqualTo(7f), "between rows");
        }
    }

    [TestCase("simt32")]
    [TestCase("simt64")]
    public void IntoAPartAndNarrowTypes(string name)
    {
        const int Dim = 24;
        Device device = Simulated.Open(name);
        BFloat16[] outs = [.. Random(2 * Rows * Dim, 3).Select(v => (BFloat16)v)];
        LogSumExp[] lses = [.. Random(2 * Rows, 4, 3).Select(v => new LogSumExp(v))];
        using Buffer<BFloat16> both = Buffer<BFloat16>.Of(device, outs), into = Buffer<BFloat16>.Of(device, outs.AsSpan(0, Rows * Dim)), other = Buffer<BFloat16>.Of(device, outs.AsSpan(Rows * Dim));
        using Buffer<LogSumExp> bothLse = Buffer<LogSumExp>.Of(device, lses), intoLse = Buffer<LogSumExp>.Of(device, lses.AsSpan(0, Rows)), otherLse = Buffer<LogSumExp>.Of(device, lses.AsSpan(Rows));
        using Buffer<float> wide = Buffer<float>.Allocate(device, Rows * Dim);
        using Buffer<LogSumExp> wideLse = Buffer<LogSumExp>.Allocate(device, Rows);
        Kernels.DecodeAttention.MergeStates(new TensorView<BFloat16>(both, 2, Tokens, Heads, Dim), new TensorView<LogSumExp>(bothLse, 2, Tokens, Heads), new TensorView<float>(wide, Tokens, Heads, Dim), new TensorView<LogSumExp>(wideLse, Tokens, Heads));
        Kernels.DecodeAttention.MergeInto(new TensorView<BFloat16>(other, Tokens, Heads, Dim), new TensorView<LogSumExp>(otherLse, Tokens, Heads), new TensorView<BFloat16>(into, Tokens, Heads, Dim), new TensorView<LogSumExp>(intoLse, Tokens, Heads));
        Assert.That(Back(into), Is.EqualTo(Back(wide).Select(v => (BFloat16)v)), "rounded once");
        Assert.That(Back(intoLse), Is.EqualTo(Back(wideLse)));
        // In place over the first part of the two.
        Kernels.DecodeAttention.MergeStates(new TensorView<BFloat16>(both, 2, Tokens, Heads, Dim), new TensorView<LogSumExp>(bothLse, 2, Tokens, Heads),
            new TensorView<BFloat16>(both, 0, [Tokens, Heads, Dim], [Heads * Dim, Dim, 1]), new TensorView<LogSumExp>(bothLse, 0, [Tokens, Heads], [Heads, 1]));
        Assert.That(Back(both)[..(Rows * Dim)], Is.EqualTo(Back(into)));
        Assert.That(Back(bothLse)[..Rows], Is.EqualTo(Back(intoLse)));
        // The CPU's view overload is the same operation.
        using Buffer<BFloat16> here = Buffer<BFloat16>.Of(outs.AsSpan(0, Rows * Dim)), part = Buffer<BFloat16>.Of(outs.AsSpan(Rows * Dim));
        using Buffer<LogSumExp> hereLse = Buffer<LogSumExp>.Of(lses.AsSpan(0, Rows)), partLse = Buffer<LogSumExp>.Of(lses.AsSpan(Rows));
        Kernels.DecodeAttention.MergeInto(new TensorView<BFloat16>(part, Tokens, Heads, Dim), new TensorView<LogSumExp>(partLse, Tokens, Heads), new TensorView<BFloat16>(here, Tokens, Heads, Dim), new TensorView<LogSumExp>(hereLse, Tokens, Heads));
        Assert.That(here.Span.ToArray().Select(v => (float)v), Is.EqualTo(Back(into).Select(v => (float)v)).Within(Math.Pow(2, -8)));
    }

    /// <summary>Addresses of a device are known on the host: what overlaps is refused before anything is enqueued.</summary>
    [Test]
    public void OverlapsAreRefusedByName()
    {
        const int Dim = 8;
        Device device = Simulated.Open("simt32");
        float[] values = Random(3 * Rows * Dim, 1);
        using Buffer<float> all = Buffer<float>.Of(device, values);
        using Buffer<LogSumExp> sums = Buffer<LogSumExp>.Of(device, [.. Random(3 * Rows, 2).Select(v => new LogSumExp(v))]);
        TensorView<float> parts = new(all, 0, [2, Tokens, Heads, Dim], [Rows * Dim, Heads * Dim, Dim, 1]);
        TensorView<LogSumExp> lses = new(sums, 0, [2, Tokens, Heads], [Rows, Heads, 1]);
        TensorView<float> At(long from) => new(all, from, [Tokens, Heads, Dim], [Heads * Dim, Dim, 1]);
        TensorView<LogSumExp> SumAt(long from) => new(sums, from, [Tokens, Heads], [Heads, 1]);
        void Refused(string argument, Action call)
        {
            Assert.That(Assert.Throws<KernelsException>(call)!.Argument, Is.EqualTo(argument));
            Assert.That(Back(all), Is.EqualTo(values));
        }
        Refused("output", () => Kernels.DecodeAttention.MergeStates(parts, lses, At(Dim), SumAt(2 * Rows)));
        Refused("lse", () => Kernels.DecodeAttention.MergeStates(parts, lses, At(2 * Rows * Dim), SumAt(1)));
        Refused("output", () => Kernels.DecodeAttention.MergeInto(At(0), SumAt(0), At(Dim), SumAt(Rows)));
        Refused("lse", () => Kernels.DecodeAttention.MergeInto(At(0), SumAt(0), At(Rows * Dim), SumAt(0)));
        Kernels.DecodeAttention.MergeStates(parts, lses, At(2 * Rows * Dim), SumAt(2 * Rows));
        Kernels.DecodeAttention.MergeInto(At(Rows * Dim), SumAt(Rows), At(0), SumAt(0));
        Assert.That(Back(all)[..(Rows * Dim)], Is.EqualTo(Back(all)[(2 * Rows * Dim)..]));
    }

    [Test]
    public void OtherDevicesAndShapesAreRefusedByName()
    {
        Device device = Simulated.Open("simt32");
        using Buffer<float> there = Buffer<float>.Allocate(device, 96), here = Buffer<float>.Allocate(96);
        using Buffer<LogSumExp> lse = Buffer<LogSumExp>.Allocate(device, 12), hereLse = Buffer<LogSumExp>.Allocate(12);
        TensorView<float> parts = new(there, 2, Tokens, Heads, 8), hereParts = new(here, 2, Tokens, Heads, 8), output = new(there, Tokens, Heads, 8);
        TensorView<LogSumExp> lses = new(lse, 2, Tokens, Heads), sum = new(lse, Tokens, Heads), hereSum = new(hereLse, Tokens, Heads);
        void Refused(string argument, Action call) => Assert.That(Assert.Throws<KernelsException>(call)!.Argument, Is.EqualTo(argument));
        Refused("outs", () => Kernels.DecodeAttention.MergeStates(hereParts, lses, output, sum));
        Refused("lse", () => Kernels.DecodeAttention.MergeStates(parts, lses, output, hereSum));
        Refused("part", () => Kernels.DecodeAttention.MergeInto(new TensorView<float>(here, Tokens, Heads, 8), sum, output, sum));
        Refused("part", () => Kernels.DecodeAttention.MergeInto(new TensorView<float>(there, 0, [Tokens, Heads, 8], [32, 16, 1]), sum, output, sum));
        Refused("partLse", () => Kernels.DecodeAttention.MergeInto(output, hereSum, output, sum));
        using Kernels.Stream other = Simulated.Open("simt64").CreateStream();
        Refused("stream", () => Kernels.DecodeAttention.MergeStates(new TensorView<float>(here, 2, Tokens, Heads, 8), new TensorView<LogSumExp>(hereLse, 2, Tokens, Heads), new TensorView<float>(here, Tokens, Heads, 8), hereSum, other));
    }
}
