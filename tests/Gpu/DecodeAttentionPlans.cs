using System.Collections.Immutable;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.Gpu;

/// <summary>Plans of decode attention on a device: what they choose, count, refuse and cost, and that they follow a captured graph's operands.</summary>
[TestFixture]
public sealed partial class DecodeAttentionPlans
{
    private const int QHeads = 6, KvHeads = 2, Dim = 32, PageSize = 5, Columns = 8, Batch = 3;
    private static readonly int[] s_lens = [33, 7, 40];

    private static readonly DecodeAttentionOptions s_options = new()
    {
        QHeads = QHeads,
        KvHeads = KvHeads,
        HeadDim = Dim,
        MaxBatch = Batch,
        MaxKvLen = 40,
        PageSize = PageSize,
        Query = DType.Float32,
        Kv = DType.Float32,
        Output = DType.Float32,
    };

    private static IEnumerable<string> Devices => Simulated.Names;

    private static float[] Random(int count, int seed, float most = 1)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => most * (2 * random.NextSingle() - 1))];
    }

    private static int[] Table(int seed)
    {
        int[] ids = [.. Enumerable.Range(0, Batch * Columns)];
        new Random(seed).Shuffle(ids);
        return ids;
    }

    /// <summary>A cache on the device with 80 tokens in three sequences, its operands, and room for the results.</summary>
    private sealed class Call : IDisposable
    {
        public Call(Device device, int[]? pages = null, float most = 1, bool keyNorms = false, KvLayout layout = KvLayout.Nhd)
        {
            Cache = KvCache<float>.Allocate(Batch * Columns, PageSize, KvHeads, Dim, 0, layout, keyNorms: keyNorms, device: device);
            Lens = Buffer<int>.Of(device, s_lens);
            Pages = Buffer<int>.Of(device, pages ?? Table(1));
            Q = Buffer<float>.Of(device, Random(Batch * QHeads * Dim, 3, most));
            Out = Buffer<float>.Of(device, [.. Enumerable.Repeat(7f, Batch * QHeads * Dim)]);
            Lse = Buffer<LogSumExp>.Of(device, [.. Enumerable.Repeat(new LogSumExp(7), Batch * QHeads)]);
            using Buffer<float> k = Buffer<float>.Of(device, Random(80 * KvHeads * Dim, 1, most)), v = Buffer<float>.Of(device, Random(80 * KvHeads * Dim, 2));
            using Buffer<int> starts = Buffer<int>.Of(device, [0, 33, 40, 80]);
            Cache.Append(new TensorView<float>(k, 80, KvHeads, Dim), new TensorView<float>(v, 80, KvHeads, Dim), new TensorView<int>(Lens, Batch), PageTable, null, new TensorView<int>(starts, Batch + 1));
            Cache.ThrowIfRefused();
        }

        public KvCache<float> Cache { get; }

        public Buffer<int> Lens { get; }

        public Buffer<int> Pages { get; }

        public Buffer<float> Q { get; }

        public Buffer<float> Out { get; }

        public Buffer<LogSumExp> Lse { get; }

        public TensorView<int> PageTable => new(Pages, Batch, Columns);

        public void Run(Kernels.DecodeAttention plan, Kernels.Stream? stream = null, int tokens = Batch, TensorView<int>? qStart = null, TensorView<uint>? tree = null, int longest = 0, Buffer<byte>? workspace = null, TensorView<int>? kvLater = null) =>
            plan.Run(new TensorView<float>(Q, tokens, QHeads, Dim), Cache, new TensorView<int>(Lens, Batch), PageTable, new TensorView<float>(Out, tokens, QHeads, Dim), stream,
                new TensorView<LogSumExp>(Lse, tokens, QHeads), qStart, tree, longest, workspace: workspace, kvLater: kvLater);

        public float[] Result
        {
            get
            {
                var back = new float[Out.Length];
                Out.CopyTo(back);
                return back;
            }
        }

        public float[] Sums
        {
            get
            {
                var back = new LogSumExp[Lse.Length];
                Lse.CopyTo(back);
                return [.. back.Select(l => l.Nats)];
            }
        }

        public void Dispose()
        {
            Cache.Dispose();
            foreach (IDisposable d in (IDisposable[])[Lens, Pages, Q, Out, Lse]) d.Dispose();
        }
    }

    /// <summary>The same by the CPU's plan.</summary>
    private static (float[] Out, float[] Lse) OnCpu(float most = 1)
    {
        using KvCache<float> cache = KvCache<float>.Allocate(Batch * Columns, PageSize, KvHeads, Dim);
        var pages = new int[Batch, Columns];
        System.Buffer.BlockCopy(Table(1), 0, pages, 0, 4 * Batch * Columns);
        cache.Append<float>(Random(80 * KvHeads * Dim, 1, most), Random(80 * KvHeads * Dim, 2), s_lens, pages, [0, 33, 40, 80]);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options);
        var output = new float[Batch * QHeads * Dim];
        var lse = new LogSumExp[Batch * QHeads];
        plan.Run<float, float, float>(Random(Batch * QHeads * Dim, 3, most), cache, s_lens, pages, output, lse);
        return (output, [.. lse.Select(l => l.Nats)]);
    }

    /// <summary>Two results, each within the bound of DecodeAttentionPlanTests of the exact one.</summary>
    private static double Bound(float most = 1) => 2 * 2 * ((Dim + 4) * most * most * Math.Sqrt(Dim) + 64) * Math.Pow(2, -24);

    [TestCaseSource(nameof(Devices))]
    public void PagesAnywhereAndAnyLayoutGiveTheSameBits(string name)
    {
        Device device = Simulated.Open(name);
        using Call call = new(device), other = new(device, Table(2), layout: KvLayout.Hnd);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options, device: device);
        call.Run(plan);
        other.Run(plan, longest: 40);
        Assert.That(other.Result, Is.EqualTo(call.Result));
        Assert.That(other.Sums, Is.EqualTo(call.Sums));
        (float[] expected, float[] sums) = OnCpu();
        Assert.That(call.Result, Is.EqualTo(expected).Within(Bound()));
        Assert.That(call.Sums, Is.EqualTo(sums).Within(Bound() + Math.Pow(2, -21)));
        Assert.That(plan.Device, Is.SameAs(device));
        plan.ThrowIfRefused();
    }

    [TestCaseSource(nameof(Devices))]
    public void RowsOutOfRangeAreDoneAgainAndCounted(string name)
    {
        Device device = Simulated.Open(name);
        using Call call = new(device, most: 40, keyNorms: true);
        (float[] expected, float[] sums) = OnCpu(40);
        float[] phi = [.. Enumerable.Repeat(5f, QHeads)];
        foreach (SoftmaxDataflow softmax in (SoftmaxDataflow[])[SoftmaxDataflow.Sync, SoftmaxDataflow.Lazy, SoftmaxDataflow.Unified, SoftmaxDataflow.Bounded])
        {
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { Softmax = softmax, KeyNorms = true }, phi, device: device);
            Assert.That(plan.Choice(40).Softmax, Is.EqualTo(softmax));
            call.Run(plan);
            Assert.That(call.Result, Is.EqualTo(expected).Within(Bound(40)), softmax.ToString());
            Assert.That(call.Sums, Is.EqualTo(sums).Within(Bound(40) + 860 * Math.Pow(2, -22)), softmax.ToString());
            long once = plan.RecomputedRows;
            call.Run(plan);
            Assert.That(plan.RecomputedRows, Is.EqualTo(2 * once));
            int far = sums.Count(s => s - 5 > 88.8);
            if (softmax is SoftmaxDataflow.Sync or SoftmaxDataflow.Lazy) Assert.That(once, Is.Zero);
            if (softmax == SoftmaxDataflow.Unified) Assert.That(once, Is.InRange(Math.Max(far, 1), Batch * QHeads));
        }
    }

    /// <summary>What the device finds wrong in lengths, pages, starts and masks: nothing is written, it is named, and the next call runs.</summary>
    [TestCaseSource(nameof(Devices))]
    public void WhatIsWrongOnTheDeviceIsRefusedThereByName(string name)
    {
        Device device = Simulated.Open(name);
        using Call call = new(device);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options with { MaxQLen = 2 }, device: device), tree = Kernels.DecodeAttention.Create(s_options with { Mask = AttentionMask.Tree }, device: device);
        using Buffer<int> starts = Buffer<int>.Allocate(device, Batch + 1);
        using Buffer<uint> masks = Buffer<uint>.Allocate(device, Batch);
        void Refused(string argument, int sequence, int[]? lens = null, int[]? pages = null, int[]? qStart = null, uint[]? mask = null, int longest = 0, int[]? later = null)
        {
            using Buffer<int>? following = later is null ? null : Buffer<int>.Of(device, later);
            call.Lens.CopyFrom(lens ?? s_lens);
            call.Pages.CopyFrom(pages ?? Table(1));
            starts.CopyFrom(qStart ?? [0, 1, 2, 3]);
            masks.CopyFrom(mask ?? [1, 1, 1]);
            Kernels.DecodeAttention refuses = mask is null ? plan : tree;
            call.Run(refuses, qStart: new TensorView<int>(starts, Batch + 1), tree: mask is null ? null : new TensorView<uint>(masks, Batch), longest: longest,
                kvLater: following is null ? null : new TensorView<int>(following, Batch));
            var e = Assert.Throws<KernelsException>(() => refuses.ThrowIfRefused())!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(e.Message, Does.Contain($"sequence {sequence} "));
            Assert.That(call.Result, Is.All.EqualTo(7f));
            Assert.That(call.Sums, Is.All.EqualTo(7f));
            refuses.ThrowIfRefused();
        }
        int[] bad = Table(1), outside = Table(1);
        (bad[2 * Columns + 7], outside[3]) = (Batch * Columns, -1);
        Refused("kvLens", 2, lens: [33, 7, 41]);
        Refused("kvLens", 1, lens: [33, -1, 40]);
        Refused("kvLens", 2, longest: 39);
        Refused("kvLater", 1, later: [0, -1, 0]);
        Refused("kvLater", 2, later: [0, 5, (1 << 28) - 39]);
        Refused("pages", 2, pages: bad);
        Refused("pages", 0, pages: outside);
        Refused("qStart", 0, qStart: [1, 1, 2, 3]);
        Refused("qStart", 1, qStart: [0, 2, 1, 3]);
        Refused("qStart", 0, qStart: [0, 3, 3, 3]);
        Refused("qStart", 2, qStart: [0, 1, 2, 2]);
        Refused("qStart", 1, qStart: [0, 1, int.MinValue, 3]);
        Refused("tree", 2, mask: [1, 1, 3]);
        Refused("tree", 0, mask: [2, 1, 1]);
        starts.CopyFrom([0, 1, 2, 3]);
        call.Lens.CopyFrom([33, 2, 40]);
        call.Pages.CopyFrom(bad.AsSpan(0, 2 * Columns).ToArray().Concat(Table(1).AsSpan(2 * Columns).ToArray()).ToArray());
        call.Run(plan, qStart: new TensorView<int>(starts, Batch + 1));
        plan.ThrowIfRefused();
        Assert.That(call.Result, Has.None.EqualTo(7f));
    }

    private static unsafe nint CacheAddress(Call call) => (nint)call.Cache.K.Pointer;

    /// <summary>Shapes, devices and overlaps are refused on the host, before anything is enqueued.</summary>
    [Test]
    public void WhatTheHostSeesIsRefusedByName()
    {
        Device device = Simulated.Open("simt32");
        using Call call = new(device);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options, device: device), onCpu = Kernels.DecodeAttention.Create(s_options);
        using Buffer<float> here = Buffer<float>.Allocate(Batch * QHeads * Dim);
        using Buffer<int> few = Buffer<int>.Of(device, [33, 7]);
        using KvCache<float> hostCache = KvCache<float>.Allocate(Batch * Columns, PageSize, KvHeads, Dim);
        TensorView<float> q = new(call.Q, Batch, QHeads, Dim), output = new(call.Out, Batch, QHeads, Dim), host = new(here, Batch, QHeads, Dim);
        TensorView<int> lens = new(call.Lens, Batch), hostInts = new(Buffer<int>.Allocate(Batch), Batch);
        void Refused(string argument, Action run)
        {
            var e = Assert.Throws<KernelsException>(run)!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(call.Result, Is.All.EqualTo(7f));
        }
        Refused("q", () => plan.Run(host, call.Cache, lens, call.PageTable, output, null));
        Refused("output", () => plan.Run(q, call.Cache, lens, call.PageTable, host, null));
        Refused("cache", () => plan.Run(q, hostCache, lens, call.PageTable, output, null));
        Refused("kvLens", () => plan.Run(q, call.Cache, hostInts, call.PageTable, output, null));
        Refused("q", () => plan.Run(q, call.Cache, new TensorView<int>(few, 2), new TensorView<int>(call.Pages, 2, Columns), output, null));
        Refused("pages", () => plan.Run(q, call.Cache, lens, null, output, null));
        Refused("pages", () => plan.Run(q, call.Cache, lens, new TensorView<int>(call.Pages, 2, Columns), output, null));
        Refused("lse", () => plan.Run(q, call.Cache, lens, call.PageTable, output, null, new TensorView<LogSumExp>(call.Lse, Batch, QHeads - 1)));
        Refused("tree", () => plan.Run(q, call.Cache, lens, call.PageTable, output, null, tree: new TensorView<uint>(Buffer<uint>.Allocate(device, Batch), Batch)));
        Refused("qStart", () => plan.Run(q, call.Cache, lens, call.PageTable, output, null, qStart: lens));
        Refused("longest", () => call.Run(plan, longest: 41));
        Refused("kvLater", () => call.Run(plan, kvLater: new TensorView<int>(few, 2)));
        Refused("out, lse, recomputed, workspace", () => call.Run(plan, workspace: Buffer<byte>.FromPointer(device, CacheAddress(call), plan.WorkspaceBytes)));
        Refused("workspace", () => call.Run(plan, workspace: Buffer<byte>.Allocate(device, plan.WorkspaceBytes - 1)));
        Refused("out, lse, recomputed, workspace", () => plan.Run(q, call.Cache, lens, call.PageTable, q, null));
        Refused("kvLens", () => plan.Run(q, call.Cache, s_lens, new int[Batch, Columns], output));
        Refused("device", () => onCpu.Run(host, hostCache, hostInts, hostInts, host, null));
        Refused("k", () => call.Cache.Append<float>(new float[KvHeads * Dim], new float[KvHeads * Dim], [1], new int[1, 1]));
        using Kernels.Stream stream = device.CreateStream();
        stream.Dispose();
        Refused("stream", () => call.Run(plan, stream));
        plan.Dispose();
        Refused("plan", () => call.Run(plan));
    }

    [TestCaseSource(nameof(Devices))]
    public void ACapturedGraphFollowsLengthsAndPages(string name)
    {
        Device device = Simulated.Open(name);
        using Call call = new(device);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options, device: device);
        using Buffer<byte> workspace = Buffer<byte>.Allocate(device, plan.WorkspaceBytes);
        using Kernels.Stream stream = device.CreateStream();
        using Graph graph = stream.Capture(() => call.Run(plan, stream, workspace: workspace)), pooled = stream.Capture(() => call.Run(plan, stream));
        foreach (int[] lens in (int[][])[[33, 7, 40], [1, 0, 12]])
        {
            call.Lens.CopyFrom(lens);
            call.Run(plan, stream);
            float[] eager = call.Result;
            foreach (Graph each in (Graph[])[graph, pooled])
            {
                call.Out.CopyFrom(new float[call.Out.Length]);
                each.Launch(stream);
                plan.ThrowIfRefused(stream);
                Assert.That(call.Result, Is.EqualTo(eager));
            }
        }
        call.Lens.CopyFrom([1, 41, 12]);
        float[] before = call.Result;
        graph.Launch(stream);
        Assert.That(Assert.Throws<KernelsException>(() => plan.ThrowIfRefused(stream))!.Argument, Is.EqualTo("kvLens"));
        Assert.That(call.Result, Is.EqualTo(before));
    }

    /// <summary>Also with a window, whose first key the number of new tokens would move.</summary>
    [TestCase("simt32", 0, DType.Float32)]
    [TestCase("simt32", 300, DType.Float32)]
    [TestCase("simt64", 300, DType.Float32)]
    [TestCase("simt32", 300, DType.BFloat16)]
    public void ABatchInvariantPlanGivesASequenceTheSameBits(string name, int window, DType type)
    {
        if (type == DType.Float32) BatchInvariant<float>(Simulated.Open(name), window);
        else BatchInvariant<BFloat16>(Simulated.Open(name), window);
    }

    private static void BatchInvariant<T>(Device device, int window) where T : unmanaged
    {
        const int Most = 700, Heads = 4;
        int[] lens = [700, 90, 560];
        DType type = DTypes.Of<T>();
        DecodeAttentionOptions options = new() { QHeads = Heads, KvHeads = 2, HeadDim = Dim, MaxKvLen = Most, Window = window, Query = type, Kv = type, Output = DType.Float32, BatchInvariant = true };
        using KvCache<T> cache = KvCache<T>.Allocate(3, Most, 2, Dim, device: device);
        using Buffer<float> k = Buffer<float>.Of(device, Random(1350 * 2 * Dim, 1)), v = Buffer<float>.Of(device, Random(1350 * 2 * Dim, 2));
        using Buffer<int> all = Buffer<int>.Of(device, lens), starts = Buffer<int>.Of(device, [0, 700, 790, 1350]);
        cache.Append(new TensorView<float>(k, 1350, 2, Dim), new TensorView<float>(v, 1350, 2, Dim), new TensorView<int>(all, 3), null, null, new TensorView<int>(starts, 4));
        T[] q = new T[12 * Heads * Dim];
        float[] values = Random(q.Length, 3);
        unsafe
        {
            fixed (T* at = q)
                for (int i = 0; i < q.Length; i++) FloatRow.StoreOne(values[i], at + i);
        }
        float[] Run(int qLen, int first, int batch, int maxBatch)
        {
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(options with { MaxQLen = qLen, MaxBatch = maxBatch }, device: device);
            T[] part = [.. Enumerable.Range(first, batch).SelectMany(b => q.AsSpan((b * 4 + 4 - qLen) * Heads * Dim, qLen * Heads * Dim).ToArray())];
            using Buffer<T> there = Buffer<T>.Of(device, part);
            using Buffer<int> length = Buffer<int>.Of(device, lens.AsSpan(first, batch));
            using Buffer<float> output = Buffer<float>.Allocate(device, batch * qLen * Heads * Dim);
            using KvCache<T> from = KvCache<T>.Over(cache.K.Rows(first, batch), cache.V.Rows(first, batch));
            plan.Run(new TensorView<T>(there, batch * qLen, Heads, Dim), from, new TensorView<int>(length, batch), null, new TensorView<float>(output, batch * qLen, Heads, Dim), null);
            plan.ThrowIfRefused();
            var back = new float[output.Length];
            output.CopyTo(back);
            return back;
        }
        const int Token = Heads * Dim;
        float[] together = Run(4, 0, 3, 3);
        for (int b = 0; b < 3; b++)
        {
            Assert.That(Run(4, b, 1, 1), Is.EqualTo(together[(b * 4 * Token)..((b + 1) * 4 * Token)]), "alone");
            Assert.That(Run(1, b, 1, 16), Is.EqualTo(together[((b * 4 + 3) * Token)..((b + 1) * 4 * Token)]), "the last token without those before it");
        }
    }

    [TestCase("simt32")]
    [TestCase("simt64")]
    public void ThePlanRunsWhatExplainSays(string name)
    {
        Device device = Simulated.Open(name);
        foreach (DecodeAttentionOptions options in (DecodeAttentionOptions[])[s_options, s_options with { MaxKvLen = 100_000, MaxBatch = 32, Query = DType.BFloat16, Kv = DType.Int8, Output = DType.BFloat16, SoftCap = 30 },
            s_options with { BatchInvariant = true, MaxQLen = 4 }, s_options with { Query = DType.BFloat16, Kv = DType.BFloat16, QHeads = 32, MaxKvLen = 20_000 }])
        {
            ImmutableArray<Segment<KnDecodeAttentionProblem>> said = DecodeAttentionSelection.Choose(device, options, false, TuningStore.Default);
            using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(options, device: device);
            Assert.That(plan.Choices.Select(c => (c.KvFrom, c.KvTo, c.Dataflow, c.WorkspaceBytes, c.Reason)),
                Is.EqualTo(said.Select(s => (s.From, s.To, s.Row.Dataflow(s.Launch), s.Workspace, s.Reason))));
            Assert.That(plan.Choices.Select(c => c.Dataflow.Row).Distinct(), Is.SubsetOf((string[])["decode_attention/sm90", "decode_attention/sm80", "decode_attention/gpu"]));
            Assert.That(plan.WorkspaceBytes, Is.EqualTo(plan.Choices.Max(c => c.WorkspaceBytes) + AttentionDoor.Bytes(options.MaxBatch)));
        }
        // Tensor cores where many rows are packed, and nowhere for f32, which they do not take.
        string RowOf(int qHeads, DType type) => DecodeAttentionSelection.Choose(device, s_options with { QHeads = qHeads, MaxKvLen = 8192, Query = type, Kv = type, Output = type }, false, null)[^1].Row.Target;
        Assert.That(RowOf(32, DType.Float32), Is.EqualTo("gpu"));
        Assert.That(RowOf(32, DType.BFloat16), name == "simt64" ? Is.EqualTo("gpu") : Is.AnyOf("sm80", "sm90"));
    }

    [Test]
    public void RunAppendAndMergeAllocateNothing()
    {
        if (!Device.TryGetSimulated(out Device? device, out string? reason, check: false)) Assert.Ignore(reason!);
        using Call call = new(device!);
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(s_options, device: device);
        using Buffer<float> k = Buffer<float>.Allocate(device!, Batch * KvHeads * Dim);
        using Buffer<LogSumExp> lses = Buffer<LogSumExp>.Of(device!, new LogSumExp[2 * Batch * QHeads]);
        using Buffer<float> parts = Buffer<float>.Of(device!, new float[2 * Batch * QHeads * Dim]);
        k.CopyFrom(new float[Batch * KvHeads * Dim]);
        TensorView<float> tokens = new(k, Batch, KvHeads, Dim), outs = new(parts, 2, Batch, QHeads, Dim), output = new(call.Out, Batch, QHeads, Dim);
        TensorView<LogSumExp> sums = new(lses, 2, Batch, QHeads), sum = new(call.Lse, Batch, QHeads);
        TensorView<int> lens = new(call.Lens, Batch), pages = call.PageTable;
        TensorView<float> q = new(call.Q, Batch, QHeads, Dim);
        void Run() => plan.Run(q, call.Cache, lens, pages, output, null, sum);
        void Append() => call.Cache.Append(tokens, tokens, lens, pages, null);
        void Merge() => Kernels.DecodeAttention.MergeStates(outs, sums, output, sum);
        foreach (Action each in (Action[])[Run, Append, Merge])
        {
            for (int i = 0; i < 10; i++) each();
            Assert.That(Allocations.Of(50, each), Is.Zero, each.Method.Name);
        }
    }
}
