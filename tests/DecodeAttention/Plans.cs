using System.Collections.Immutable;
using System.Runtime.InteropServices;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>The public plan at the widths of models: the bits of a sequence, the rows that a calibration expects, and calls that are refused and write nothing.</summary>
[TestFixture]
public sealed class Plans
{
    private const int QHeads = 8, KvHeads = 2, Dim = 128, PageSize = 16, Batch = 10, KvLen = 40;

    private static readonly DecodeAttentionOptions s_options = new()
    {
        QHeads = QHeads,
        KvHeads = KvHeads,
        HeadDim = Dim,
        MaxBatch = Batch,
        MaxKvLen = KvLen,
        PageSize = PageSize,
        Scale = 1,
        Query = DType.Float32,
        Kv = DType.Float32,
        Output = DType.Float32,
    };

    private static readonly int[] s_lens = [.. Enumerable.Repeat(KvLen, Batch)];

    /// <summary>Three pages, which all sequences share.</summary>
    private static readonly int[,] s_pages = Table(Batch, _ => 0);

    private static int[,] Table(int batch, Func<int, int> first, int columns = 3)
    {
        var pages = new int[batch, columns];
        for (int i = 0; i < pages.Length; i++) pages[i / columns, i % columns] = first(i / columns) + i % columns;
        return pages;
    }

    private static float[] Random(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => 2 * random.NextSingle() - 1)];
    }

    private static KvCache<T> Filled<T>(float[] k, bool scales = false, bool keyNorms = false) where T : unmanaged
    {
        KvCache<T> cache = KvCache<T>.Allocate(3, PageSize, KvHeads, Dim, scales: scales, keyNorms: keyNorms);
        cache.Append<float>(k, Random(k.Length, 2), [KvLen], Table(1, _ => 0));
        return cache;
    }

    /// <summary>The rows that take the f32 of these tests.</summary>
    private static IEnumerable<string> Rows()
    {
        KnDecodeAttentionProblem problem = s_options.Problem(KvLen, phi: true);
        return Device.Cpu.Table.Of(KnOp.DecodeAttention).Where(r => Device.Cpu.Table.Runs(r, out _) && Dataflows.Takes(r, problem)).Select(r => r.Name);
    }

    /// <summary>Of each head most rows have scores of 10, and as many as are said of 400 or -300: no phi fits all.</summary>
    [TestCaseSource(nameof(Rows))]
    public void RowsThatAreDoneAgainAreThoseThatTheCalibrationExpects(string row)
    {
        int[] far = [0, 1, 4, 3, 0, 2, 0, 1];
        float[] q = new float[Batch * QHeads * Dim], k = Random(KvLen * KvHeads * Dim, 1), exact = new float[q.Length], output = new float[q.Length];
        for (int i = 0; i < Batch * QHeads; i++) q[i * Dim] = i / QHeads >= far[i % QHeads] ? 10 : i % 2 == 0 ? 400 : -300;
        for (int i = 0; i < KvLen * KvHeads; i++) k[i * Dim] = 1 + i / 1000f;
        var lse = new LogSumExp[Batch * QHeads];
        using KvCache<float> cache = Filled<float>(k);
        using Kernels.DecodeAttention sync = Kernels.DecodeAttention.Create(s_options with { Row = row, Softmax = SoftmaxDataflow.Sync });
        sync.Run<float, float, float>(q, cache, s_lens, s_pages, exact, lse);
        var calibration = new SoftmaxCalibration(QHeads, 1);
        calibration.Record(lse, s_lens);
        ImmutableArray<PhiProposal> expected = calibration.Propose();
        Assert.That(expected.Select(p => p.Recomputed), Is.EqualTo(far));
        using Kernels.DecodeAttention unified = Kernels.DecodeAttention.Create(s_options with { Row = row, Softmax = SoftmaxDataflow.Unified }, calibration.Phi());
        for (int calls = 1; calls <= 2; calls++)
        {
            unified.Run<float, float, float>(q, cache, s_lens, s_pages, output);
            Assert.That(unified.RecomputedRows, Is.EqualTo(calls * expected.Sum(p => p.Recomputed)));
            Assert.That(unified.RecomputedRows / (double)(calls * lse.Length), Is.EqualTo(expected.Average(p => p.Rate)).Within(1e-12));
        }
        // Scores of up to 432 err by 2^-15 each.
        Assert.That(output, Is.EqualTo(exact).Within(1e-3));
    }

    [Test]
    public void ABatchInvariantPlanGivesWideHeadsTheSameBitsAloneAndInABatch([Values(128, 256)] int dim, [Values(4, 8)] int kvHeads, [Values] bool narrow)
    {
        if (narrow) SameBits(dim, kvHeads, v => (BFloat16)v);
        else SameBits(dim, kvHeads, v => v);
    }

    private static void SameBits<T>(int dim, int kvHeads, Func<float, T> to) where T : unmanaged
    {
        const int Columns = 69;
        int token = 4 * kvHeads * dim;
        int[] lens = [1100, 70, 600], start = [0, 1100, 1170, 1770];
        var options = new DecodeAttentionOptions
        {
            QHeads = 4 * kvHeads,
            KvHeads = kvHeads,
            HeadDim = dim,
            MaxBatch = 3,
            MaxQLen = 4,
            MaxKvLen = 1100,
            PageSize = PageSize,
            Query = DTypes.Of<T>(),
            Kv = DTypes.Of<T>(),
            Output = DType.Float32,
            BatchInvariant = true,
        };
        int[,] pages = Table(3, b => b * Columns, Columns);
        using KvCache<T> cache = KvCache<T>.Allocate(3 * Columns, PageSize, kvHeads, dim);
        cache.Append<float>(Random(start[^1] * kvHeads * dim, 1), Random(start[^1] * kvHeads * dim, 2), lens, pages, start);
        T[] q = [.. Random(12 * token, 3).Select(to)];
        // The last tokens, as many of each, of some sequences.
        float[] Run(DecodeAttentionOptions o, int first, int batch, int each)
        {
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(o);
            float[] output = new float[batch * each * token];
            plan.Run<T, T, float>(q.AsSpan((first * 4 + 4 - each) * token, output.Length), cache, lens.AsSpan(first, batch), pages.AsSpan2D()[first..(first + batch), ..], output);
            return output;
        }
        float[] all = Run(options, 0, 3, 4);
        for (int b = 0; b < 3; b++)
        {
            Assert.That(Run(options with { MaxBatch = 1, Threads = 1 }, b, 1, 4).AsSpan().SequenceEqual(all.AsSpan(b * 4 * token, 4 * token)), $"sequence {b} alone");
            Assert.That(Run(options with { MaxBatch = 1, MaxQLen = 1 }, b, 1, 1).AsSpan().SequenceEqual(all.AsSpan((b * 4 + 3) * token, token)), $"the last token of sequence {b} without those before it");
            Assert.That(Run(options with { MaxBatch = 16 }, b, 1, 1).AsSpan().SequenceEqual(all.AsSpan((b * 4 + 3) * token, token)), $"the same of sequence {b} in a plan for more");
        }
    }

    /// <summary>Key norms that nobody asked for are no fault.</summary>
    [TestCase(true, false, false, false, "scales, as the options say")]
    [TestCase(false, false, true, false, "no scales, as the options say")]
    [TestCase(false, true, false, false, "key norms, as the options say")]
    [TestCase(true, true, true, false, "key norms, as the options say")]
    [TestCase(true, true, false, true, "scales, as the options say")]
    [TestCase(false, false, false, true, null)]
    [TestCase(true, true, true, true, null)]
    public void ACacheHasTheScalesAndKeyNormsThatTheOptionsSay(bool scales, bool norms, bool itsScales, bool itsNorms, string? rule)
    {
        float[] q = Random(Batch * QHeads * Dim, 3), output = [.. Enumerable.Repeat(7f, q.Length)];
        LogSumExp[] lse = [.. Enumerable.Repeat(new LogSumExp(7), Batch * QHeads)];
        using KvCache<Float8E4M3> cache = Filled<Float8E4M3>(Random(KvLen * KvHeads * Dim, 1), itsScales, itsNorms);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Kv = DType.Float8E4M3, KvScales = scales, KeyNorms = norms });
        if (rule is null)
        {
            plan.Run<float, Float8E4M3, float>(q, cache, s_lens, s_pages, output, lse);
            Assert.That(output, Has.None.EqualTo(7f));
            Assert.That(lse, Has.None.EqualTo(new LogSumExp(7)));
            return;
        }
        var e = Assert.Throws<KernelsException>(() => plan.Run<float, Float8E4M3, float>(q, cache, s_lens, s_pages, output, lse))!;
        Assert.That((e.Status, e.Argument, e.Rule), Is.EqualTo((Status.Invalid, "cache", rule)));
        Assert.That(output, Is.All.EqualTo(7f));
        Assert.That(lse, Is.All.EqualTo(new LogSumExp(7)));
    }

    [TestCaseSource(nameof(Rows))]
    public void WhatIsWrittenOverAnythingElseIsRefusedAndNothingIsWritten(string row)
    {
        float[] q = Random(Batch * QHeads * Dim, 3), output = [.. Enumerable.Repeat(7f, q.Length)], query = [.. q];
        LogSumExp[] lse = [.. Enumerable.Repeat(new LogSumExp(7), Batch * QHeads)];
        using KvCache<float> cache = Filled<float>(Random(KvLen * KvHeads * Dim, 1));
        float[] keys = cache.K.Buffer.Span.ToArray(), values = cache.V.Buffer.Span.ToArray();
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Row = row });
        using Buffer<byte> workspace = Buffer<byte>.Allocate(plan.WorkspaceBytes + 4 * q.Length);
        void Refused(Action call)
        {
            var e = Assert.Throws<KernelsException>(call)!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, "out, lse, recomputed, workspace")), e.Message);
            Assert.That(q.AsSpan().SequenceEqual(query), "q");
            Assert.That(cache.K.Buffer.Span.SequenceEqual(keys) && cache.V.Buffer.Span.SequenceEqual(values), "cache");
            Assert.That(workspace.Span.IndexOfAnyExcept((byte)0), Is.Negative, "workspace");
            Assert.That(output, Is.All.EqualTo(7f));
            Assert.That(lse, Is.All.EqualTo(new LogSumExp(7)));
            Assert.That(plan.RecomputedRows, Is.Zero);
        }
        Refused(() => plan.Run<float, float, float>(q, cache, s_lens, s_pages, q, lse));
        Refused(() => plan.Run<float, float, float>(q, cache, s_lens, s_pages, cache.K.Buffer.Span[..q.Length], lse));
        Refused(() => plan.Run<float, float, float>(q, cache, s_lens, s_pages, cache.V.Buffer.Span[..q.Length], lse));
        Refused(() => plan.Run<float, float, float>(q, cache, s_lens, s_pages, MemoryMarshal.Cast<byte, float>(workspace.Span)[..q.Length], lse, workspace: workspace));
        Refused(() => plan.Run<float, float, float>(q, cache, s_lens, s_pages, output, MemoryMarshal.Cast<float, LogSumExp>(output.AsSpan(0, lse.Length))));
        Refused(() => plan.Run<float, float, float>(q, cache, s_lens, s_pages, output, MemoryMarshal.Cast<float, LogSumExp>(q.AsSpan(0, lse.Length))));
        plan.Run<float, float, float>(q, cache, s_lens, s_pages, output, lse, workspace: workspace);
        Assert.That(output, Has.None.EqualTo(7f));
    }
}
