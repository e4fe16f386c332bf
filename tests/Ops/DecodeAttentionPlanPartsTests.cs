using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Tests;

/// <summary>Parts of a cache that join to the whole, and scratch of the caller's.</summary>
public sealed partial class DecodeAttentionPlanTests
{
    /// <summary>Attention over the first four pages of every sequence and over the rest, joined, is attention over all; a half may be empty.</summary>
    [TestCaseSource(nameof(Rows))]
    public void HalvesOfACacheJoinToTheWhole(string row)
    {
        const int Rows = 4 * QHeads, Cut = 4 * PageSize;
        float[] q = Random(Rows * Dim, 3), outs = new float[2 * Rows * VDim], output = new float[Rows * VDim];
        LogSumExp[] lses = new LogSumExp[2 * Rows], lse = new LogSumExp[Rows];
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Row = row, Mask = AttentionMask.Full });
        plan.Run<float, float, float>(q, cache, s_lens.Select(l => Math.Min(l, Cut)).ToArray(), pages.AsSpan2D()[.., ..4], outs.AsSpan(0, Rows * VDim), lses.AsSpan(0, Rows));
        plan.Run<float, float, float>(q, cache, s_lens.Select(l => Math.Max(l - Cut, 0)).ToArray(), pages.AsSpan2D()[.., 4..], outs.AsSpan(Rows * VDim), lses.AsSpan(Rows));
        Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, output, lse);
        (double[] expected, double[] sums) = Reference(q);
        // The halves' own errors, and those of their lse in the weights of the join.
        Assert.That(output.Select(o => (double)o), Is.EqualTo(expected).Within(2 * Bound()));
        Assert.That(lse.Select(l => (double)l.Nats), Is.EqualTo(sums).Within(2 * Bound()));
    }

    /// <summary>The same under a causal mask or a tree, a window and slopes, wherever the cut lies: the first part is told how many tokens follow.</summary>
    [TestCaseSource(nameof(Rows))]
    public void PartsOfACacheJoinUnderMasksThatNeedPositions(string row)
    {
        const int Tokens = 3, Rows = Tokens * 4 * QHeads, PartSize = Rows * VDim;
        float[] q = Random(Rows * Dim, 3), outs = new float[2 * PartSize], output = new float[PartSize], whole = new float[PartSize];
        LogSumExp[] lses = new LogSumExp[2 * Rows], lse = new LogSumExp[Rows], wholeLse = new LogSumExp[Rows];
        float[] slopes = [0, 0.05f, 0.1f, 0.2f, 0.4f, 1];
        uint[] tree = [.. Enumerable.Repeat<uint[]>([0b001, 0b011, 0b101], 4).SelectMany(t => t)];
        int[,] pages = Table(1);
        using KvCache<float> cache = Filled<float>(pages);
        foreach (AttentionMask mask in (AttentionMask[])[AttentionMask.Causal, AttentionMask.Tree])
            foreach (int window in (int[])[0, 12])
                for (int cut = 1; cut < Columns; cut++)
                {
                    using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Row = row, MaxQLen = Tokens, Alibi = true, Window = window, Mask = mask }, alibi: slopes);
                    uint[] masks = mask == AttentionMask.Tree ? tree : [];
                    int[] first = [.. s_lens.Select(l => Math.Min(l, cut * PageSize))], rest = [.. s_lens.Select((l, b) => l - first[b])];
                    plan.Run<float, float, float>(q, cache, s_lens, pages, whole, wholeLse, default, masks);
                    plan.Run<float, float, float>(q, cache, first, pages.AsSpan2D()[.., ..cut], outs.AsSpan(0, PartSize), lses.AsSpan(0, Rows), default, masks, rest);
                    plan.Run<float, float, float>(q, cache, rest, pages.AsSpan2D()[.., cut..], outs.AsSpan(PartSize), lses.AsSpan(Rows), default, masks);
                    Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, output, lse);
                    // Scores with their biases reach 5.7 + 40; three results that each err, two of them with their weights.
                    Assert.That(output, Is.EqualTo(whole).Within(3 * Bound(3)), $"{mask}, window {window}, cut {cut}");
                    Assert.That(lse.Select(l => l.Nats), Is.EqualTo(wholeLse.Select(l => l.Nats)).Within(3 * Bound(3)), $"{mask}, window {window}, cut {cut}");
                }
    }

    /// <summary>Scratch of the caller's has exactly the announced bytes: one less is refused, and nothing behind them is written.</summary>
    [TestCaseSource(nameof(Rows))]
    public unsafe void ACallersWorkspaceIsExact(string row)
    {
        DecodeAttentionOptions options = s_options with { Row = row, MaxKvLen = 3000, MaxBatch = 2, Threads = 2 };
        using KvCache<float> cache = KvCache<float>.Allocate(2 * 600, PageSize, KvHeads, Dim, VDim);
        var pages = new int[2, 600];
        for (int i = 0; i < 1200; i++) pages[i / 600, i % 600] = i;
        cache.Append<float>(Random(6000 * KvHeads * Dim, 1), Random(6000 * KvHeads * VDim, 2), [3000, 3000], pages);
        float[] q = Random(2 * QHeads * Dim, 3), expected = new float[2 * QHeads * VDim], output = new float[expected.Length];
        foreach (SoftmaxDataflow softmax in (SoftmaxDataflow[])[SoftmaxDataflow.Lazy, SoftmaxDataflow.Unified])
        {
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(options with { Softmax = softmax }, [.. Enumerable.Repeat(300f, QHeads)]);
            plan.Run<float, float, float>(q, cache, [3000, 3000], pages, expected);
            using Buffer<byte> memory = Buffer<byte>.Allocate(plan.WorkspaceBytes + 256);
            memory.Span.Fill(0xa5);
            Buffer<byte> exact = Buffer<byte>.FromPointer((nint)memory.Pointer, plan.WorkspaceBytes), less = Buffer<byte>.FromPointer((nint)memory.Pointer, plan.WorkspaceBytes - 1),
                odd = Buffer<byte>.FromPointer((nint)memory.Pointer + 4, plan.WorkspaceBytes);
            output.AsSpan().Fill(7);
            foreach (Buffer<byte> wrong in (Buffer<byte>[])[less, odd])
                Assert.That(Assert.Throws<KernelsException>(() => plan.Run<float, float, float>(q, cache, [3000, 3000], pages, output, workspace: wrong))!.Argument, Is.EqualTo("workspace"));
            Assert.That(output, Is.All.EqualTo(7f));
            Assert.That(memory.Span.IndexOfAnyExcept((byte)0xa5), Is.Negative);
            plan.Run<float, float, float>(q, cache, [3000, 3000], pages, output, workspace: exact);
            Assert.That(output, Is.EqualTo(expected));
            Assert.That(memory.Span[(int)plan.WorkspaceBytes..].IndexOfAnyExcept((byte)0xa5), Is.Negative, "behind it");
            Assert.That(memory.Span[..(int)plan.WorkspaceBytes].IndexOfAnyExcept((byte)0xa5), Is.Not.Negative, "it was used");
            int[] lens = [3000, 3000];
            Assert.That(Allocations.Of(20, () => plan.Run<float, float, float>(q, cache, lens, pages, output, workspace: exact)), Is.Zero);
            plan.Dispose();
            Assert.That(Assert.Throws<KernelsException>(() => plan.Run<float, float, float>(q, cache, lens, pages, output, workspace: exact))!.Argument, Is.EqualTo("plan"));
        }
    }
}
