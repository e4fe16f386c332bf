using CommunityToolkit.HighPerformance;

namespace Kernels.Tests.Gpu;

/// <summary>Parts of a cache on a device that join to the whole.</summary>
public sealed partial class DecodeAttentionPlans
{
    [TestCaseSource(nameof(Devices))]
    public void HalvesMergeToTheWhole(string name)
    {
        HalvesMerge(name, s_options with { Mask = AttentionMask.Full }, default);
        HalvesMerge(name, s_options with { Alibi = true, Window = 20 }, [0, 0.05f, 0.1f, 0.2f, 0.4f, 1]);
    }

    private static void HalvesMerge(string name, DecodeAttentionOptions options, ReadOnlySpan<float> slopes)
    {
        Device device = Simulated.Open(name);
        using Call call = new(device);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(options, alibi: slopes, device: device);
        call.Run(plan);
        (float[] whole, float[] sums) = (call.Result, call.Sums);
        // The first three pages of each sequence, and the rest of its pages.
        using Buffer<float> parts = Buffer<float>.Allocate(device, 2 * Batch * QHeads * Dim);
        using Buffer<LogSumExp> lses = Buffer<LogSumExp>.Allocate(device, 2 * Batch * QHeads);
        using Buffer<int> left = Buffer<int>.Of(device, [.. s_lens.Select(l => Math.Min(l, 15))]), right = Buffer<int>.Of(device, [.. s_lens.Select(l => Math.Max(l - 15, 0))]);
        long[] outStrides = [QHeads * Dim, Dim, 1];
        for (int i = 0; i < 2; i++)
            plan.Run(new TensorView<float>(call.Q, Batch, QHeads, Dim), call.Cache, new TensorView<int>(i == 0 ? left : right, Batch),
                new TensorView<int>(call.Pages, i * 3, [Batch, Columns - i * 3], [Columns, 1]), new TensorView<float>(parts, i * Batch * QHeads * Dim, [Batch, QHeads, Dim], outStrides), null,
                new TensorView<LogSumExp>(lses, i * Batch * QHeads, [Batch, QHeads], [QHeads, 1]), kvLater: i == 0 ? new TensorView<int>(right, Batch) : null);
        plan.ThrowIfRefused();
        Kernels.DecodeAttention.MergeStates(new TensorView<float>(parts, 2, Batch, QHeads, Dim), new TensorView<LogSumExp>(lses, 2, Batch, QHeads), new TensorView<float>(call.Out, Batch, QHeads, Dim), new TensorView<LogSumExp>(call.Lse, Batch, QHeads));
        Assert.That(call.Result, Is.EqualTo(whole).Within(2 * Bound()));
        Assert.That(call.Sums, Is.EqualTo(sums).Within(2 * Bound() + Math.Pow(2, -21)));
    }

    /// <summary>The first part of a cache by the CPU and the rest on the device, joined on the host.</summary>
    [TestCaseSource(nameof(Devices))]
    public void PartsOnTheHostAndOnADeviceJoin(string name)
    {
        const int Rows = Batch * QHeads, Size = Rows * Dim;
        Device device = Simulated.Open(name);
        DecodeAttentionOptions options = s_options with { Alibi = true, Window = 20 };
        float[] slopes = [0, 0.05f, 0.1f, 0.2f, 0.4f, 1], outs = new float[2 * Size], output = new float[Size];
        LogSumExp[] lses = new LogSumExp[2 * Rows], lse = new LogSumExp[Rows];
        int[] first = [.. s_lens.Select(l => Math.Min(l, 15))], rest = [.. s_lens.Select((l, b) => l - first[b])];
        using Call call = new(device);
        using Kernels.DecodeAttention there = Kernels.DecodeAttention.Create(options, alibi: slopes, device: device), here = Kernels.DecodeAttention.Create(options, alibi: slopes);
        call.Run(there);
        (float[] whole, float[] sums) = (call.Result, call.Sums);
        using KvCache<float> cache = KvCache<float>.Allocate(Batch * Columns, PageSize, KvHeads, Dim);
        var pages = new int[Batch, Columns];
        System.Buffer.BlockCopy(Table(1), 0, pages, 0, 4 * Batch * Columns);
        cache.Append<float>(Random(80 * KvHeads * Dim, 1), Random(80 * KvHeads * Dim, 2), s_lens, pages, [0, 33, 40, 80]);
        here.Run<float, float, float>(Random(Size, 3), cache, first, pages.AsSpan2D()[.., ..3], outs.AsSpan(0, Size), lses.AsSpan(0, Rows), kvLater: rest);
        call.Lens.CopyFrom(rest);
        there.Run(new TensorView<float>(call.Q, Batch, QHeads, Dim), call.Cache, new TensorView<int>(call.Lens, Batch), new TensorView<int>(call.Pages, 3, [Batch, Columns - 3], [Columns, 1]),
            new TensorView<float>(call.Out, Batch, QHeads, Dim), null, new TensorView<LogSumExp>(call.Lse, Batch, QHeads));
        there.ThrowIfRefused();
        call.Result.CopyTo(outs, Size);
        call.Sums.Select(s => new LogSumExp(s)).ToArray().CopyTo(lses, Rows);
        Kernels.DecodeAttention.MergeStates<float, float>(outs, lses, output, lse);
        Assert.That(output, Is.EqualTo(whole).Within(2 * Bound()));
        Assert.That(lse.Select(l => l.Nats), Is.EqualTo(sums).Within(2 * Bound() + Math.Pow(2, -21)));
    }
}
