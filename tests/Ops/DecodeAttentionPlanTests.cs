using Kernels.Interop.Native;
using CommunityToolkit.HighPerformance;

namespace Kernels.Tests;

/// <summary>The public plan of decode attention: what it computes, what it refuses, and what a call costs the garbage collector.</summary>
[TestFixture]
public sealed partial class DecodeAttentionPlanTests
{
    private const int QHeads = 6, KvHeads = 2, Dim = 32, VDim = 16, PageSize = 5, Columns = 8;
    private static readonly int[] s_lens = [33, 7, 0, 40];

    private static readonly DecodeAttentionOptions s_options = new()
    {
        QHeads = QHeads,
        KvHeads = KvHeads,
        HeadDim = Dim,
        VHeadDim = VDim,
        MaxBatch = 4,
        MaxKvLen = 40,
        PageSize = PageSize,
        Query = DType.Float32,
        Kv = DType.Float32,
        Output = DType.Float32,
    };

    private static float[] Random(int count, int seed, float most = 1)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => most * (2 * random.NextSingle() - 1))];
    }

    private static int[,] Table(int seed)
    {
        int[] ids = [.. Enumerable.Range(0, 4 * Columns)];
        new Random(seed).Shuffle(ids);
        var table = new int[4, Columns];
        for (int i = 0; i < ids.Length; i++) table[i / Columns, i % Columns] = ids[i];
        return table;
    }

    /// <summary>k and v of every sequence, by position, and a cache that holds them.</summary>
    private static KvCache<T> Filled<T>(int[,] pages, float most = 1, bool keyNorms = false, KvLayout layout = KvLayout.Nhd) where T : unmanaged
    {
        KvCache<T> cache = KvCache<T>.Allocate(4 * Columns, PageSize, KvHeads, Dim, VDim, layout, keyNorms: keyNorms);
        cache.Append<float>(Random(80 * KvHeads * Dim, 1, most), Random(80 * KvHeads * VDim, 2), s_lens, pages, [0, 33, 40, 40, 80]);
        return cache;
    }

    /// <summary>Causal attention over what the cache holds, in float64: outputs and log-sum-exps of one token per sequence.</summary>
    private static (double[] Out, double[] Lse) Reference(float[] q, float most = 1, float softcap = 0)
    {
        float[] k = Random(80 * KvHeads * Dim, 1, most), v = Random(80 * KvHeads * VDim, 2);
        int[] start = [0, 33, 40, 40];
        var output = new double[4 * QHeads * VDim];
        double[] lse = new double[4 * QHeads];
        for (int b = 0; b < 4; b++)
            for (int h = 0; h < QHeads; h++)
            {
                double[] x = [.. Enumerable.Range(0, s_lens[b]).Select(j => Score(q.AsSpan((b * QHeads + h) * Dim, Dim), k.AsSpan(((start[b] + j) * KvHeads + h / 3) * Dim, Dim), softcap))];
                double top = x.DefaultIfEmpty(0).Max(), sum = x.Sum(s => Math.Exp(s - top));
                lse[b * QHeads + h] = top + Math.Log(sum);
                for (int d = 0; d < VDim && sum > 0; d++)
                    output[(b * QHeads + h) * VDim + d] = x.Select((s, j) => Math.Exp(s - top) * v[((start[b] + j) * KvHeads + h / 3) * VDim + d]).Sum() / sum;
            }
        return (output, lse);
    }

    private static double Score(ReadOnlySpan<float> q, ReadOnlySpan<float> k, float softcap)
    {
        double sum = 0;
        for (int d = 0; d < Dim; d++) sum += (double)q[d] * k[d];
        sum /= Math.Sqrt(Dim);
        return softcap > 0 ? softcap * Math.Tanh(sum / softcap) : sum;
    }

    /// <summary>
    /// An error e of a score is a factor e^±e of its weight. A score of at most `most` sqrt(Dim) from Dim products errs by Dim + 4
    /// roundings of 2^-24 at that size; sums over 40 keys, exp and the quotient add 64 more; |v| is at most 1. Twice, for numerator
    /// and denominator.
    /// </summary>
    private static double Bound(float most = 1) => 2 * ((Dim + 4) * most * Math.Sqrt(Dim) + 64) * Math.Pow(2, -24);

    /// <summary>The rows that take the f32 of these tests.</summary>
    private static unsafe IEnumerable<string> Rows()
    {
        var names = new List<string>();
        foreach (Row row in Device.Cpu.Table.Of(KnOp.DecodeAttention).Where(r => Device.Cpu.Table.Runs(r, out _)))
        {
            KnDecodeAttentionProblem problem = s_options.Problem(s_options.MaxKvLen, phi: false);
            if (row.Accepts(&problem, row.DefaultLaunch(0), out _)) names.Add(row.Name);
        }
        return names;
    }

    [TestCaseSource(nameof(Rows))]
    public void EveryOverloadAndLayoutComputesTheSame(string row)
    {
        float[] q = Random(4 * QHeads * Dim, 3), output = new float[4 * QHeads * VDim];
        var lse = new LogSumExp[4 * QHeads];
        (double[] expected, double[] sums) = Reference(q);
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Row = row });
        plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse);
        Assert.That(output.Select(o => (double)o), Is.EqualTo(expected).Within(Bound()));
        Assert.That(lse.Select(l => (double)l.Nats), Is.EqualTo(sums).Within(Bound() + Math.Pow(2, -22)));
        // Heads before tokens in the cache, other pages, gaps between the rows of q and of the output.
        int[,] others = Table(2);
        using KvCache<float> hnd = Filled<float>(others, layout: KvLayout.Hnd);
        using Buffer<float> wide = Buffer<float>.Allocate(4 * QHeads * 40), to = Buffer<float>.Allocate(4 * QHeads * 24);
        for (int r = 0; r < 4 * QHeads; r++) q.AsSpan(r * Dim, Dim).CopyTo(wide.Span[(r * 40)..]);
        plan.Run(new TensorView<float>(wide, 0, [4, QHeads, Dim], [QHeads * 40, 40, 1]), hnd, s_lens, others, new TensorView<float>(to, 0, [4, QHeads, VDim], [QHeads * 24, 24, 1]));
        for (int r = 0; r < 4 * QHeads; r++) Assert.That(to.Span.Slice(r * 24, VDim).SequenceEqual(output.AsSpan(r * VDim, VDim)), $"row {r}");
        Assert.That(plan.RecomputedRows, Is.Zero);
    }

    [TestCaseSource(nameof(Rows))]
    public void AContiguousCacheIsOnePageASequence(string row)
    {
        float[] q = Random(4 * QHeads * Dim, 3), output = new float[4 * QHeads * VDim];
        using KvCache<float> cache = KvCache<float>.Allocate(4, 40, KvHeads, Dim, VDim);
        cache.Append<float>(Random(80 * KvHeads * Dim, 1), Random(80 * KvHeads * VDim, 2), s_lens, default, [0, 33, 40, 40, 80]);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { PageSize = 0, Row = row });
        plan.Run<float, float, float>(q, cache, s_lens, default, output);
        Assert.That(output.Select(o => (double)o), Is.EqualTo(Reference(q).Out).Within(Bound()));
    }

    [Test]
    public void AllSoftmaxesAgreeAndOnlyRowsOutOfRangeAreDoneAgain([Values(1f, 40f)] float most)
    {
        // At 40, scores reach hundreds of nats: far from phi = 5 on both sides.
        float[] q = Random(4 * QHeads * Dim, 3, most), phi = [.. Enumerable.Repeat(5f, QHeads)];
        (double[] expected, double[] sums) = Reference(q, most);
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages, most, keyNorms: true);
        foreach (SoftmaxDataflow softmax in (SoftmaxDataflow[])[SoftmaxDataflow.Sync, SoftmaxDataflow.Lazy, SoftmaxDataflow.Unified, SoftmaxDataflow.Bounded])
        {
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Softmax = softmax, KeyNorms = true }, phi);
            float[] output = new float[4 * QHeads * VDim];
            var lse = new LogSumExp[4 * QHeads];
            plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse);
            Assert.That(plan.Choice(40).Softmax, Is.EqualTo(softmax));
            Assert.That(() => plan.Choice(plan.Options.MaxKvLen + 1), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("kvLen"));
            Assert.That(output.Select(o => (double)o), Is.EqualTo(expected).Within(Bound(most * most)), softmax.ToString());
            Assert.That(lse.Select(l => (double)l.Nats), Is.EqualTo(sums).Within(Bound(most * most) + 860 * Math.Pow(2, -23)), softmax.ToString());
            int far = sums.Count(s => double.IsFinite(s) && s - 5 > 88.8);
            if (softmax is SoftmaxDataflow.Sync or SoftmaxDataflow.Lazy) Assert.That(plan.RecomputedRows, Is.Zero);
            if (softmax == SoftmaxDataflow.Unified) Assert.That(plan.RecomputedRows, most > 1 ? Is.InRange(far, 3 * QHeads) : Is.Zero, $"{far} sums are surely out of range");
        }
    }

    [Test]
    public void ACalibratedPhiFitsTheCallsThatItCameFrom()
    {
        float[] q = Random(4 * QHeads * Dim, 3, 5), output = new float[4 * QHeads * VDim];
        var lse = new LogSumExp[4 * QHeads];
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages, 5);
        using Kernels.DecodeAttention sync = Kernels.DecodeAttention.Create(s_options with { Softmax = SoftmaxDataflow.Sync });
        sync.Run<float, float, float>(q, cache, s_lens, pages, output, lse);
        var calibration = new SoftmaxCalibration(QHeads, 1);
        calibration.Record(lse, s_lens);
        Assert.That(calibration.Propose().Sum(p => p.Recomputed), Is.Zero);
        using Kernels.DecodeAttention unified = Kernels.DecodeAttention.Create(s_options with { Softmax = SoftmaxDataflow.Unified }, calibration.Phi());
        unified.Run<float, float, float>(q, cache, s_lens, pages, output, lse);
        Assert.That(unified.RecomputedRows, Is.Zero);
    }

    [Test]
    public void NarrowCachesComeNearTheWideOne()
    {
        float[] q = [.. Random(4 * QHeads * Dim, 3).Select(v => (float)(BFloat16)v)];
        BFloat16[] narrow = [.. q.Select(v => (BFloat16)v)];
        int[,] pages = Table(1);
        double[] expected = Reference(q).Out;
        // Keys and values err by 2^-8 (bf16), 2^-4 (e4m3) of themselves, or half a step of 1/127: a score, of sums below 6, by that much.
        void Near<TQ, T>(TQ[] query, double error) where TQ : unmanaged where T : unmanaged
        {
            using KvCache<T> cache = Filled<T>(pages);
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Query = DTypes.Of<TQ>(), Kv = DTypes.Of<T>() });
            float[] output = new float[4 * QHeads * VDim];
            plan.Run<TQ, T, float>(query, cache, s_lens, pages, output);
            Assert.That(output.Select(o => (double)o), Is.EqualTo(expected).Within(2 * Math.Sqrt(Dim) * error + error + Math.Pow(2, -8)), $"{DTypes.Of<TQ>().Name()} over {DTypes.Of<T>().Name()}");
        }
        Near<BFloat16, BFloat16>(narrow, Math.Pow(2, -8));
        Near<BFloat16, sbyte>(narrow, 0.5 / 127);
        Near<BFloat16, Float8E4M3>(narrow, Math.Pow(2, -4));
        Near<float, sbyte>(q, 0.5 / 127);
        Near<float, Float8E4M3>(q, Math.Pow(2, -4));
    }

    [Test]
    public void ABatchInvariantPlanGivesASequenceTheSameBitsInAnyBatchAndVerification()
    {
        DecodeAttentionOptions options = s_options with { MaxKvLen = 3000, PageSize = 16, BatchInvariant = true };
        int[] lens = [3000, 700, 1500];
        using KvCache<float> cache = KvCache<float>.Allocate(3 * 188, 16, KvHeads, Dim, VDim);
        var pages = new int[3, 188];
        for (int i = 0; i < 3 * 188; i++) pages[i / 188, i % 188] = i;
        cache.Append<float>(Random(5200 * KvHeads * Dim, 1), Random(5200 * KvHeads * VDim, 2), lens, pages, [0, 3000, 3700, 5200]);
        float[] q = Random(12 * QHeads * Dim, 3);
        float[] Run(DecodeAttentionOptions o, int first, int batch, int[] start)
        {
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(o);
            int from = first * 4 + (4 - start[1]), tokens = start[^1];
            float[] output = new float[tokens * QHeads * VDim];
            plan.Run<float, float, float>(q.AsSpan(from * QHeads * Dim, tokens * QHeads * Dim), cache, lens.AsSpan(first, batch), pages.AsSpan2D()[first..(first + batch), ..], output, default, start);
            float[] even = new float[output.Length];
            plan.Run<float, float, float>(q.AsSpan(from * QHeads * Dim, tokens * QHeads * Dim), cache, lens.AsSpan(first, batch), pages.AsSpan2D()[first..(first + batch), ..], even);
            Assert.That(even, Is.EqualTo(output), "tokens shared evenly need no qStart");
            return output;
        }
        const int Token = QHeads * VDim;
        float[] all = Run(options with { MaxQLen = 4, MaxBatch = 3 }, 0, 3, [0, 4, 8, 12]);
        for (int b = 0; b < 3; b++)
        {
            Assert.That(Run(options with { MaxQLen = 4, MaxBatch = 1, Threads = 1 }, b, 1, [0, 4]), Is.EqualTo(all[(b * 4 * Token)..((b + 1) * 4 * Token)]), "alone");
            Assert.That(Run(options with { MaxQLen = 1, MaxBatch = 16 }, b, 1, [0, 1]), Is.EqualTo(all[((b * 4 + 3) * Token)..((b + 1) * 4 * Token)]), "the last token without those before it");
            Assert.That(Run(options with { MaxQLen = 4, MaxBatch = 16 }, b, 1, [0, 1]), Is.EqualTo(all[((b * 4 + 3) * Token)..((b + 1) * 4 * Token)]), "the same in a plan for more");
        }
    }

    [Test]
    public void RunAllocatesNothing()
    {
        float[] q = Random(4 * QHeads * Dim, 3), output = new float[4 * QHeads * VDim];
        var lse = new LogSumExp[4 * QHeads];
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options);
        for (int i = 0; i < 50; i++) plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse);
        Assert.That(Allocations.Of(1000, () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse)), Is.Zero);
    }

    [Test]
    public void ManyThreadsMayRunOnePlan()
    {
        float[] q = Random(4 * QHeads * Dim, 3), expected = new float[4 * QHeads * VDim];
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options);
        plan.Run<float, float, float>(q, cache, s_lens, pages, expected);
        Parallel.For(0, 32, _ =>
        {
            var output = new float[expected.Length];
            for (int i = 0; i < 20; i++) plan.Run<float, float, float>(q, cache, s_lens, pages, output);
            Assert.That(output, Is.EqualTo(expected));
        });
    }

    private static readonly (string Argument, string Rule, DecodeAttentionOptions Options)[] s_badOptions =
    [
        ("QHeads", "multiple of KvHeads = 4", s_options with { KvHeads = 4 }),
        ("HeadDim", "multiple of 8", s_options with { HeadDim = 20 }),
        ("VHeadDim", "multiple of 8", s_options with { VHeadDim = 1032 }),
        ("MaxQLen", "16", s_options with { MaxQLen = 17 }),
        ("MaxBatch", "2^20", s_options with { MaxBatch = -1 }),
        ("MaxKvLen", "2^28", s_options with { MaxKvLen = -1 }),
        ("PageSize", "0 <= PageSize", s_options with { PageSize = -16 }),
        ("Window", "0 <= Window", s_options with { Window = -1 }),
        ("SoftCap", "finite", s_options with { SoftCap = float.NaN }),
        ("Scale", "finite", s_options with { Scale = -1 }),
        ("Query", "f32, bf16 or f16", s_options with { Query = DType.Int8 }),
        ("Kv", "f32, s8 or e4m3 under a query of f32", s_options with { Kv = DType.BFloat16 }),
        ("Output", "query's f32", s_options with { Output = DType.BFloat16 }),
        ("KvScales", "s8 or e4m3", s_options with { KvScales = true }),
        ("Mask", "positions", s_options with { Mask = AttentionMask.Full, Window = 8 }),
        ("Mask", "not 7", s_options with { Mask = (AttentionMask)7 }),
        ("Softmax", "without phi", s_options with { Softmax = SoftmaxDataflow.Unified }),
        ("Softmax", "not Bounded without KeyNorms or a SoftCap up to 60", s_options with { Softmax = SoftmaxDataflow.Bounded }),
        ("Softmax", "batch-invariant", s_options with { Softmax = SoftmaxDataflow.Bounded, KeyNorms = true, BatchInvariant = true }),
        ("Row", "decode_attention/nonsense", s_options with { Row = "decode_attention/nonsense" }),
        ("alibi", "6 values", s_options with { Alibi = true }),
        ("sinks", "6 values", s_options with { Sinks = true }),
    ];

    [TestCaseSource(nameof(s_badOptions))]
    public void BadOptionsAreRefusedByName((string Argument, string Rule, DecodeAttentionOptions Options) bad)
    {
        var e = Assert.Throws<KernelsException>(() => Kernels.DecodeAttention.Create(bad.Options))!;
        Assert.That(e.Argument, Is.EqualTo(bad.Argument), e.Message);
        Assert.That(e.Message, Does.Contain(bad.Rule));
    }

    [Test]
    public void BadPerHeadValuesAreRefusedByName()
    {
        float[] six = [0, 1, 2, 3, 4, 5], bad = [0, 1, 2, float.NaN, 4, 5];
        void Refused(string argument, Action call) => Assert.That(Assert.Throws<KernelsException>(call)!.Argument, Is.EqualTo(argument));
        Refused("phi", () => Kernels.DecodeAttention.Create(s_options, [1, 2]));
        Refused("phi", () => Kernels.DecodeAttention.Create(s_options, bad));
        Refused("alibi", () => Kernels.DecodeAttention.Create(s_options with { Alibi = true }, alibi: bad));
        Refused("alibi", () => Kernels.DecodeAttention.Create(s_options with { Alibi = true }, alibi: [0, -1, 2, 3, 4, 5]));
        Refused("alibi", () => Kernels.DecodeAttention.Create(s_options, alibi: six));
        Refused("sinks", () => Kernels.DecodeAttention.Create(s_options with { Sinks = true }, sinks: bad));
        Kernels.DecodeAttention.Create(s_options with { Sinks = true }, sinks: [0, 1, 2, float.NegativeInfinity, 4, 5]).Dispose();
    }

    [TestCaseSource(nameof(Rows))]
    public void ABadCallIsRefusedByNameAndLeavesTheOutputAlone(string row)
    {
        float[] q = Random(4 * QHeads * Dim, 3), output = [.. Enumerable.Repeat(7f, 4 * QHeads * VDim)];
        LogSumExp[] lse = [.. Enumerable.Repeat(new LogSumExp(7), 4 * QHeads)];
        int[,] pages = Table(1), badPages = Table(1), shortPages = new int[4, 2];
        badPages[3, 7] = 4 * Columns;
        KvCache<float> cache = Filled<float>(pages), other = KvCache<float>.Allocate(4, PageSize, 3, Dim, VDim), sized = KvCache<float>.Allocate(4, 4, KvHeads, Dim, VDim);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Row = row }), tree = Kernels.DecodeAttention.Create(s_options with { Row = row, Mask = AttentionMask.Tree });
        void Refused(string argument, Action call)
        {
            var e = Assert.Throws<KernelsException>(call)!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(output, Is.All.EqualTo(7f));
            Assert.That(lse, Is.All.EqualTo(new LogSumExp(7)));
        }
        Refused("q", () => plan.Run<float, float, float>(q.AsSpan(1), cache, s_lens, pages, output, lse));
        Refused("q", () => plan.Run<Half, float, float>(new Half[q.Length], cache, s_lens, pages, output, lse));
        Refused("output", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output.AsSpan(1), lse));
        Refused("lse", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse.AsSpan(1)));
        Refused("cache", () => plan.Run<float, float, float>(q, other, s_lens, pages, output, lse));
        Refused("cache", () => plan.Run<float, float, float>(q, sized, s_lens, pages, output, lse));
        Refused("kvLens", () => plan.Run<float, float, float>(q, cache, [33, 7, 0, 41], pages, output, lse));
        Refused("kvLens", () => plan.Run<float, float, float>(q, cache, [33, 7, -1, 40], pages, output, lse));
        Refused("kvLens", () => plan.Run<float, float, float>(q, cache, s_lens, shortPages, output, lse));
        Refused("kvLens", () => plan.Run<float, float, float>(q, cache, [1, 1, 1, 1, 1], pages, output, lse));
        Refused("kvLens", () => plan.Run<float, float, float>(q.AsSpan(0, 3 * QHeads * Dim), cache, s_lens, pages, output.AsSpan(0, 3 * QHeads * VDim), lse.AsSpan(0, 3 * QHeads)));
        Refused("q", () => plan.Run<float, float, float>(q, cache, [1, 1], pages.AsSpan2D()[..2, ..], output, lse));
        Refused("pages", () => plan.Run<float, float, float>(q, cache, s_lens, pages.AsSpan2D()[..3, ..], output, lse));
        Refused("pages", () => plan.Run<float, float, float>(q, cache, s_lens, badPages, output, lse));
        Assert.That(() => plan.Run<float, float, float>(q, cache, s_lens, badPages, output, lse), Throws.TypeOf<KernelsException>().With.Message.EqualTo("pages: ids below 32, not 32 of sequence 3"));
        Refused("qStart", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse, [0, 1, 2]));
        Refused("qStart", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse, [0, 2, 2, 3, 4]));
        Refused("kvLater", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse, kvLater: [1, 1, 1]));
        Refused("kvLater", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse, kvLater: [0, 0, -1, 0]));
        Refused("kvLater", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse, kvLater: [0, 0, 0, (1 << 28) - 39]));
        Refused("tree", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse, default, [1, 1, 1, 1]));
        Refused("tree", () => tree.Run<float, float, float>(q, cache, s_lens, pages, output, lse, default, [1, 1, 1]));
        Refused("tree", () => tree.Run<float, float, float>(q, cache, s_lens, pages, output, lse, default, [1, 1, 2, 1]));
        Refused("q", () =>
        {
            Buffer<float> gone = Buffer<float>.Of(q);
            var view = new TensorView<float>(gone, 4, QHeads, Dim);
            using Buffer<float> to = Buffer<float>.Allocate(output.Length);
            gone.Dispose();
            plan.Run(view, cache, s_lens, pages, new TensorView<float>(to, 4, QHeads, VDim));
        });
        Refused("output", () =>
        {
            using Buffer<float> from = Buffer<float>.Of(q);
            Buffer<float> gone = Buffer<float>.Allocate(output.Length);
            var view = new TensorView<float>(gone, 4, QHeads, VDim);
            gone.Dispose();
            plan.Run(new TensorView<float>(from, 4, QHeads, Dim), cache, s_lens, pages, view);
        });
        cache.Dispose();
        Refused("cache", () => plan.Run<float, float, float>(q, cache, s_lens, pages, output, lse));
        using KvCache<float> again = Filled<float>(pages);
        plan.Dispose();
        Refused("plan", () => plan.Run<float, float, float>(q, again, s_lens, pages, output, lse));
        plan.Dispose();
    }

    [Test]
    public void ACallWithoutTokensTouchesNothing()
    {
        using KvCache<float> cache = KvCache<float>.Allocate(0, PageSize, KvHeads, Dim, VDim);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options), none = Kernels.DecodeAttention.Create(s_options with { MaxBatch = 0, MaxKvLen = 0 });
        plan.Run<float, float, float>([], cache, [], default, []);
        none.Run<float, float, float>([], cache, [], default, []);
        plan.Run<float, float, float>([], cache, [0, 0], new int[2, 0], [], default, [0, 0, 0]);
    }
}
