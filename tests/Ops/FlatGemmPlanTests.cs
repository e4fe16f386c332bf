using CommunityToolkit.HighPerformance;

namespace Kernels.Tests;

/// <summary>The public plan: what it computes, what it refuses, and what a call costs the garbage collector.</summary>
[TestFixture]
public sealed class FlatGemmPlanTests
{
    private static readonly FlatGemmOptions s_layer = new() { N = 40, K = 96, MaxM = 64, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32 };

    private static T[] Fill<T>(int count, int seed, Func<float, T> to)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => to(random.NextSingle() - 0.5f))];
    }

    private static float[] Reference(float[] x, float[] w, int m, int n, int k)
    {
        var y = new float[m * n];
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
            {
                double sum = 0;
                for (int l = 0; l < k; l++) sum += (double)x[i * k + l] * w[j * k + l];
                y[i * n + j] = (float)sum;
            }
        return y;
    }

    /// <summary>k roundings of the accumulator, each of at most 2^-24 of a sum of at most k/4 (|x|, |w| are at most 1/2).</summary>
    private static float Bound(int k) => k / 4f * k * MathF.Pow(2, -24);

    [Test]
    public void EveryOverloadComputesTheSame()
    {
        float[] w = Fill(40 * 96, 1, v => v), x = Fill(5 * 96, 2, v => v);
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        var flat = new float[5 * 40];
        plan.Run<float, float>(x, flat);
        var wide = new float[5, 50];
        plan.Run<float, float>(new ReadOnlySpan2D<float>(x, 5, 96), new Span2D<float>(wide)[.., ..40]);
        using Buffer<float> bx = Buffer<float>.Of(x), by = Buffer<float>.Allocate(5 * 64);
        plan.Run(new TensorView<float>(bx, 5, 96), new TensorView<float>(by, 0, [5, 40], [64, 1]));
        float[] expected = Reference(x, w, 5, 40, 96);
        Assert.That(flat, Is.EqualTo(expected).Within(Bound(96)));
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 40; j++)
            {
                Assert.That(wide[i, j], Is.EqualTo(flat[i * 40 + j]));
                Assert.That(by.Span[i * 64 + j], Is.EqualTo(flat[i * 40 + j]));
            }
    }

    [Test]
    public void ChoicesCoverEveryMWithoutGaps([Values(0, 1, 7, 64, 500, 4096)] int maxM, [Values] bool invariant)
    {
        float[] w = Fill(40 * 96, 1, v => v);
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer with { MaxM = maxM, BatchInvariant = invariant }, new ReadOnlySpan2D<float>(w, 40, 96));
        int next = 0;
        foreach (Choice choice in plan.Choices)
        {
            Assert.That(choice.MFrom, Is.EqualTo(next));
            Assert.That(choice.MTo, Is.GreaterThanOrEqualTo(choice.MFrom));
            next = choice.MTo + 1;
        }
        Assert.That(next, Is.EqualTo(maxM + 1));
    }

    [Test]
    public void ABatchInvariantPlanGivesARowTheSameBitsInAnyBatch([Values] bool bf16)
    {
        FlatGemmOptions layer = s_layer with { N = 77, K = 160, BatchInvariant = true, Weights = bf16 ? DType.BFloat16 : DType.Float32, Input = bf16 ? DType.BFloat16 : DType.Float32 };
        float[] w = Fill(77 * 160, 3, v => v), x = Fill(64 * 160, 4, v => v);
        BFloat16[] wb = [.. w.Select(v => (BFloat16)v)], xb = [.. x.Select(v => (BFloat16)v)];
        using Kernels.FlatGemm plan = bf16
            ? Kernels.FlatGemm.Create(layer, new ReadOnlySpan2D<BFloat16>(wb, 77, 160))
            : Kernels.FlatGemm.Create(layer, new ReadOnlySpan2D<float>(w, 77, 160));
        float[] Run(int from, int m)
        {
            var y = new float[m * 77];
            if (bf16) plan.Run<BFloat16, float>(xb.AsSpan(from * 160, m * 160), y);
            else plan.Run<float, float>(x.AsSpan(from * 160, m * 160), y);
            return y;
        }
        float[] all = Run(0, 64);
        for (int m = 1; m <= 64; m++)
        {
            float[] part = Run(64 - m, m);
            Assert.That(part.AsSpan().SequenceEqual(all.AsSpan((64 - m) * 77)), Is.True, $"m = {m}");
        }
    }

    [Test]
    public void RunAllocatesNothing()
    {
        float[] w = Fill(40 * 96, 1, v => v), x = Fill(4 * 96, 2, v => v), y = new float[4 * 40];
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        for (int i = 0; i < 50; i++) plan.Run<float, float>(x, y);
        Assert.That(Allocations.Of(1000, () => plan.Run<float, float>(x, y)), Is.Zero);
    }

    [Test]
    public void ManyThreadsMayRunOnePlan()
    {
        float[] w = Fill(40 * 96, 1, v => v), x = Fill(64 * 96, 2, v => v);
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        var expected = new float[64 * 40];
        plan.Run<float, float>(x, expected);
        Parallel.For(0, 64, m =>
        {
            var y = new float[(m + 1) * 40];
            for (int i = 0; i < 20; i++) plan.Run<float, float>(x.AsSpan(0, (m + 1) * 96), y);
            Assert.That(y, Is.EqualTo(expected[..y.Length]).Within(Bound(96)));
        });
    }

    [Test]
    public void APlanOutlivesAChangeOfThePool()
    {
        float[] w = Fill(40 * 96, 1, v => v), x = Fill(64 * 96, 2, v => v);
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer, new ReadOnlySpan2D<float>(w, 40, 96));
        float[] before = new float[64 * 40], after = new float[64 * 40];
        plan.Run<float, float>(x, before);
        try
        {
            foreach (int threads in new[] { Device.Cpu.Cores + 5, 1, 3 })
            {
                Device.Cpu.SetThreads(threads);
                plan.Run<float, float>(x, after);
                Assert.That(after, Is.EqualTo(before));
            }
            Assert.That(() => Device.Cpu.SetThreads(-1), Throws.TypeOf<KernelsException>());
        }
        finally
        {
            Device.Cpu.SetThreads(0);
        }
    }

    private static readonly (string Argument, string Rule, FlatGemmOptions Layer)[] s_badLayers =
    [
        ("K", "0 <= K", s_layer with { K = -1 }),
        ("Weights", "combination", s_layer with { Input = DType.BFloat16 }),
        ("Weights", "combination", s_layer with { Weights = (DType)17 }),
        ("Group", "32, 64 or 128", s_layer with { Weights = DType.UInt4, Input = DType.BFloat16, Group = 48 }),
        ("Activation", "not 9", s_layer with { Activation = (Activation)9 }),
        ("Threads", "Threads <= 1024", s_layer with { Threads = 1025 }),
        ("Row", "flat_gemm/nonsense", s_layer with { Row = "flat_gemm/nonsense" }),
        ("w", "[41, 96]", s_layer with { N = 41 }),
        ("bias", "40 values", s_layer with { Bias = true }),
    ];

    [TestCaseSource(nameof(s_badLayers))]
    public void ABadLayerIsRefusedByName((string Argument, string Rule, FlatGemmOptions Layer) bad)
    {
        float[] w = Fill(40 * 96, 1, v => v);
        var e = Assert.Throws<KernelsException>(() => Kernels.FlatGemm.Create(bad.Layer, new ReadOnlySpan2D<float>(w, 40, 96)))!;
        Assert.That(e.Argument, Is.EqualTo(bad.Argument));
        Assert.That(e.Message, Does.Contain(bad.Rule));
    }

    [Test]
    public void ABadCallIsRefusedAndLeavesYAlone()
    {
        float[] w = Fill(40 * 96, 1, v => v), x = Fill(4 * 96, 2, v => v), y = [.. Enumerable.Repeat(7f, 4 * 40)];
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer with { MaxM = 4 }, new ReadOnlySpan2D<float>(w, 40, 96));
        void Refused(string argument, Action call)
        {
            var e = Assert.Throws<KernelsException>(call)!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(y, Is.All.EqualTo(7f));
        }
        Refused("x", () => plan.Run<float, float>(x.AsSpan(1), y));
        Refused("y", () => plan.Run<float, float>(x, y.AsSpan(1)));
        Refused("x", () => plan.Run<float, float>(new float[5 * 96], new float[5 * 40]));
        Refused("y", () => plan.Run<float, BFloat16>(x, new BFloat16[4 * 40]));
        Refused("residual", () => plan.Run<float, float>(x, y, y));
        Refused("xScales", () => plan.Run<float, float>(x, y, default, [1f]));
        Refused("y", () =>
        {
            using Buffer<float> both = Buffer<float>.Of(x);
            plan.Run(new TensorView<float>(both, 4, 96), new TensorView<float>(both, 4, 40));
        });
        Refused("x", () =>
        {
            Buffer<float> gone = Buffer<float>.Of(x);
            using Buffer<float> to = Buffer<float>.Allocate(160);
            var view = new TensorView<float>(gone, 4, 96);
            gone.Dispose();
            plan.Run(view, new TensorView<float>(to, 4, 40));
        });
        foreach (string gone in (string[])["workspace", "xScales"])
            Refused(gone, () =>
            {
                using Buffer<float> from = Buffer<float>.Of(x), to = Buffer<float>.Allocate(160);
                Buffer<byte>? workspace = gone == "workspace" ? Buffer<byte>.Allocate(plan.WorkspaceBytes) : null;
                Buffer<float>? scales = gone == "xScales" ? Buffer<float>.Allocate(4) : null;
                TensorView<float>? view = scales is null ? null : new TensorView<float>(scales, 4);
                workspace?.Dispose();
                scales?.Dispose();
                plan.Run(new TensorView<float>(from, 4, 96), new TensorView<float>(to, 4, 40), null, null, view, workspace);
            });
        Refused("m", () => plan.Choice(5));
        Refused("m", () => plan.Choice(-1));
        plan.Dispose();
        Refused("plan", () => plan.Run<float, float>(x, y));
        plan.Dispose();
    }

    [Test]
    public void AViewMustLieInItsBuffer()
    {
        using Buffer<float> b = Buffer<float>.Allocate(100);
        Assert.That(() => new TensorView<float>(b, 0, [10, 10], [11, 1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => new TensorView<float>(b, 1, [10, 10], [10, 1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => new TensorView<float>(b, 0, [long.MaxValue, 2], [long.MaxValue, 1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => new TensorView<float>(b, 0, [-1], [1]), Throws.TypeOf<KernelsException>());
        Assert.That(() => Buffer<float>.Allocate(-1), Throws.TypeOf<KernelsException>());
        Assert.That(new TensorView<float>(b, 99, [0, 5], [50, 1]).Shape(0), Is.Zero);
        foreach ((long start, long count) in new[] { (0L, 11L), (11, 0), (-1, 2), (0, -1), (1L << 62, 1L << 62), (long.MaxValue, long.MaxValue) })
            Assert.That(() => new TensorView<float>(b, 0, [10, 10], [0, 1]).Rows(start, count), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("start"));
        Assert.That(() => new TensorView<float>(b, 1, 1, 1, 1, 1, 1), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("shape"));
    }

    [Test]
    public void AViewAllocatesNothing()
    {
        using Buffer<float> b = Buffer<float>.Allocate(120);
        long sum = 0;
        void Make() => sum += new TensorView<float>(b, 2, 3, 4, 5).Rows(1, 1).Stride(0);
        for (int i = 0; i < 50; i++) Make();
        Assert.That(Allocations.Of(1000, Make), Is.Zero);
        Assert.That(sum % 60, Is.Zero);
    }
}
