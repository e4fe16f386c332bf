using CommunityToolkit.HighPerformance;
using Kernels;
using Stream = Kernels.Stream;  // implicit usings bring System.IO's as well

/// <summary>The step on a GPU: lengths, pages and new tokens lie there, so that one captured graph serves every step that changes them in place.</summary>
internal static class OnGpu
{
    public static void Step(DecodeAttentionOptions options, KvCache<BFloat16> cache, BFloat16[] newK, BFloat16[] newV, BFloat16[] q, int[] lengths, int[,] pages, float[] expected)
    {
        if (!Device.TryGetCuda(0, out Device? device, out string? reason) && !Device.TryGetHip(0, out device, out reason) && !Device.TryGetSimulated(out device, out reason, check: false))
        {
            Console.WriteLine($"no GPU: {reason}");
            return;
        }
        int batch = lengths.Length, columns = pages.GetLength(1);
        // Keys and values as they lie here; the engine's own cache is taken by KvCache.Over.
        using KvCache<BFloat16> there = KvCache<BFloat16>.Allocate((int)cache.Pages, cache.PageSize, cache.KvHeads, cache.HeadDim, keyNorms: true, device: device);
        there.K.Buffer.CopyFrom(cache.K.Buffer.Span);
        there.V.Buffer.CopyFrom(cache.V.Buffer.Span);
        there.KeyNorms!.CopyFrom(cache.KeyNorms!.Span);
        using Buffer<BFloat16> k = Buffer<BFloat16>.Of(device, newK), v = Buffer<BFloat16>.Of(device, newV), queries = Buffer<BFloat16>.Of(device, q);
        using Buffer<int> lens = Buffer<int>.Of(device, lengths), table = Buffer<int>.Of(device, pages.AsSpan());
        using Buffer<float> output = Buffer<float>.Allocate(device, expected.Length);
        using DecodeAttention plan = DecodeAttention.Create(options, device: device);
        using Buffer<byte> scratch = Buffer<byte>.Allocate(device, plan.WorkspaceBytes);
        using Stream stream = device.CreateStream();
        TensorView<int> kvLens = new(lens, batch), pageTable = new(table, batch, columns);
        using Graph step = stream.Capture(() =>
        {
            there.Append(new TensorView<BFloat16>(k, batch, cache.KvHeads, cache.HeadDim), new TensorView<BFloat16>(v, batch, cache.KvHeads, cache.HeadDim), kvLens, pageTable, stream);
            plan.Run(new TensorView<BFloat16>(queries, batch, options.QHeads, options.HeadDim), there, kvLens, pageTable, new TensorView<float>(output, batch, options.QHeads, options.HeadDim), stream, workspace: scratch);
        });
        step.Launch(stream);
        // Waits, and says what of the lengths and pages was wrong, if something was.
        there.ThrowIfRefused(stream);
        plan.ThrowIfRefused(stream);
        var back = new float[expected.Length];
        output.CopyTo(back, stream: stream);
        Console.WriteLine($"on {device}: {plan.Choice(options.MaxKvLen).Dataflow}, largest difference from the CPU {back.Zip(expected, (a, b) => Math.Abs(a - b)).Max():0.######}, {plan.RecomputedRows} rows done again");
    }
}
