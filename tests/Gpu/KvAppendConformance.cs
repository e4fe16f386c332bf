using CommunityToolkit.HighPerformance;

namespace Kernels.Tests.Gpu;

/// <summary>kv_append/gpu, simulated with every access checked: what it stores has the bits of the CPU's Append, whose errors KvCacheTests bounds.</summary>
[TestFixture(typeof(float))]
[TestFixture(typeof(BFloat16))]
[TestFixture(typeof(Half))]
[TestFixture(typeof(sbyte))]
[TestFixture(typeof(Float8E4M3))]
public sealed class KvAppendConformance<T> where T : unmanaged
{
    private const int Heads = 5, Dim = 40, VDim = 16, PageSize = 5, Pages = 7;
    private static readonly int[,] s_table = { { 4, 1, 6 }, { 2, 0, 5 } };

    private static IEnumerable<TestCaseData> Cases()
    {
        foreach (string device in Simulated.Names)
            foreach (KvLayout layout in Enum.GetValues<KvLayout>())
                foreach (bool scales in (bool[])[false, true])
                    yield return new TestCaseData(device, layout, scales).SetArgDisplayNames(device, layout.ToString(), scales ? "scales" : "plain");
    }

    private static KvCache<T> Make(Device device, KvLayout layout, bool scales) =>
        KvCache<T>.Allocate(Pages, PageSize, Heads, Dim, VDim, layout, scales && typeof(T) == typeof(Float8E4M3), keyNorms: true, device: device);

    /// <summary>Ordinary heads, and those of a zero, a tiny, a huge, an infinite and a NaN element.</summary>
    private static float[] Values(int count, int dim, int seed)
    {
        var random = new Random(seed);
        float[] all = [.. Enumerable.Range(0, count).Select(_ => 4 * random.NextSingle() - 2)];
        float[] odd = [0, 1e-37f, 3e38f, float.PositiveInfinity, float.NaN, -0f, 500, 1e-4f];
        for (int head = 0; head * dim < count; head += 3)
        {
            if (head % 6 == 0) all.AsSpan(head * dim, dim).Clear();
            all[head * dim + 7] = odd[head / 3 % odd.Length];
        }
        return all;
    }

    private static TIn[] As<TIn>(float[] values) where TIn : unmanaged
    {
        var all = new TIn[values.Length];
        unsafe
        {
            fixed (TIn* at = all)
                for (int i = 0; i < all.Length; i++) FloatRow.StoreOne(values[i], at + i);
        }
        return all;
    }

    private static void Append<TIn>(KvCache<T> here, KvCache<T> there, TIn[] k, TIn[] v, int[] lens, int[,]? pages, int[]? starts) where TIn : unmanaged
    {
        here.Append<TIn>(k, v, lens, pages is null ? default : pages.AsSpan2D(), starts);
        Device device = there.Device;
        int tokens = k.Length / (Heads * Dim);
        using Buffer<TIn> kt = Buffer<TIn>.Of(device, k), vt = Buffer<TIn>.Of(device, v);
        using Buffer<int> lt = Buffer<int>.Of(device, lens), st = Buffer<int>.Of(device, starts ?? [0]);
        using Buffer<int>? pt = pages is null ? null : Buffer<int>.Of(device, pages.AsSpan().ToArray());
        there.Append(new TensorView<TIn>(kt, tokens, Heads, Dim), new TensorView<TIn>(vt, tokens, Heads, VDim), new TensorView<int>(lt, lens.Length),
            pt is null ? null : new TensorView<int>(pt, lens.Length, pages!.GetLength(1)), null, starts is null ? null : new TensorView<int>(st, lens.Length + 1));
        there.ThrowIfRefused();
    }

    private static void AssertSame(KvCache<T> there, KvCache<T> here)
    {
        Assert.That(Back(there.K.Buffer).AsSpan().AsBytes().SequenceEqual(here.K.Buffer.Span.AsBytes()), "k");
        Assert.That(Back(there.V.Buffer).AsSpan().AsBytes().SequenceEqual(here.V.Buffer.Span.AsBytes()), "v");
        foreach ((TensorView<float>? t, TensorView<float>? h) in ((TensorView<float>?, TensorView<float>?)[])[(there.KScales, here.KScales), (there.VScales, here.VScales)])
            if (t is { } scales) Assert.That(Back(scales.Buffer), Is.EqualTo(h!.Value.Buffer.Span.ToArray()), "scales");
        float[] norms = Back(there.KeyNorms!), expected = here.KeyNorms!.Span.ToArray();
        for (int i = 0; i < norms.Length; i++)
            Assert.That(norms[i], Is.InRange(MathF.BitDecrement(expected[i]), MathF.BitIncrement(expected[i])), $"norm {i}: sums in another order round to a neighbour at most");
    }

    private static TElement[] Back<TElement>(Buffer<TElement> buffer) where TElement : unmanaged
    {
        var back = new TElement[buffer.Length];
        buffer.CopyTo(back);
        return back;
    }

    [TestCaseSource(nameof(Cases))]
    public void StoresTheBitsOfTheCpu(string name, KvLayout layout, bool scales)
    {
        Device device = Simulated.Open(name);
        using KvCache<T> there = Make(device, layout, scales), here = Make(Device.Cpu, layout, scales);
        float[] k = Values(19 * Heads * Dim, Dim, 1), v = Values(19 * Heads * VDim, VDim, 2);
        Append<float>(here, there, k, v, [13, 6], s_table, [0, 13, 19]);
        AssertSame(there, here);
        // More tokens of each, the first of which starts a page of sequence 0 again.
        Append(here, there, As<Half>(Values(4 * Heads * Dim, Dim, 3)), As<Half>(Values(4 * Heads * VDim, VDim, 4)), [12, 8], s_table, null);
        Append(here, there, As<BFloat16>(Values(3 * Heads * Dim, Dim, 5)), As<BFloat16>(Values(3 * Heads * VDim, VDim, 6)), [7, 9], s_table, [0, 2, 3]);
        AssertSame(there, here);
    }

    [TestCaseSource(nameof(Cases))]
    public void AContiguousCacheAndAnEmptySequence(string name, KvLayout layout, bool scales)
    {
        Device device = Simulated.Open(name);
        using KvCache<T> there = Make(device, layout, scales), here = Make(Device.Cpu, layout, scales);
        Append(here, there, Values(6 * Heads * Dim, Dim, 1), Values(6 * Heads * VDim, VDim, 2), [5, 3, 1], null, [0, 5, 5, 6]);
        AssertSame(there, here);
        Append(here, there, Values(2 * Heads * Dim, Dim, 1), Values(2 * Heads * VDim, VDim, 2), [1, 4], null, null);
        AssertSame(there, here);
    }

    /// <summary>New tokens, lengths and tables that lie in the cache are refused on the host.</summary>
    [Test]
    public unsafe void WhatLiesInTheCacheIsRefusedByName()
    {
        Device device = Simulated.Open("simt32");
        using KvCache<T> cache = Make(device, KvLayout.Nhd, true);
        using Buffer<float> k = Buffer<float>.Of(device, Values(4 * Heads * Dim, Dim, 1)), v = Buffer<float>.Of(device, Values(4 * Heads * VDim, VDim, 2));
        using Buffer<int> lens = Buffer<int>.Of(device, [5, 5]), table = Buffer<int>.Of(device, s_table.AsSpan().ToArray());
        TensorView<float> ks = new(k, 4, Heads, Dim), vs = new(v, 4, Heads, VDim);
        TensorView<int> ls = new(lens, 2), ps = new(table, 2, 3);
        void Refused(string argument, Action call)
        {
            var e = Assert.Throws<KernelsException>(call)!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(Back(cache.K.Buffer).AsSpan().AsBytes().IndexOfAnyExcept((byte)0), Is.Negative);
        }
        Buffer<TElement> Over<TElement>(void* at, long length) where TElement : unmanaged => Buffer<TElement>.FromPointer(device, (nint)at, length);
        Refused("k", () => cache.Append(new TensorView<float>(Over<float>(cache.V.Pointer, 2 * Heads * Dim), 2, Heads, Dim), new TensorView<float>(v, 2, Heads, VDim), ls, ps, null));
        Refused("v", () => cache.Append(new TensorView<float>(k, 2, Heads, Dim), new TensorView<float>(Over<float>(cache.KeyNorms!.Pointer, 2 * Heads * VDim), 2, Heads, VDim), ls, ps, null));
        Refused("kvLens", () => cache.Append(ks, vs, new TensorView<int>(Over<int>(cache.K.Pointer + 64, 2), 2), ps, null));
        Refused("pages", () => cache.Append(ks, vs, ls, new TensorView<int>(Over<int>(cache.V.Pointer + 64, 6), 2, 3), null));
        Refused("qStart", () => cache.Append(ks, vs, ls, ps, null, new TensorView<int>(Over<int>(cache.KeyNorms!.Pointer, 3), 3)));
        cache.Append(ks, vs, ls, ps, null);
        cache.ThrowIfRefused();
    }

    /// <summary>Refused on the device: nothing is written, the argument and the sequence are named.</summary>
    [TestCase("simt32")]
    [TestCase("simt64")]
    public void WhatIsWrongIsRefusedThereByName(string name)
    {
        Device device = Simulated.Open(name);
        using KvCache<T> cache = Make(device, KvLayout.Nhd, true);
        using Buffer<float> k = Buffer<float>.Of(device, Values(4 * Heads * Dim, Dim, 1)), v = Buffer<float>.Of(device, Values(4 * Heads * VDim, VDim, 2));
        void Refused(string argument, int sequence, int[] lens, int[,] pages, int[]? starts = null)
        {
            using Buffer<int> lt = Buffer<int>.Of(device, lens), pt = Buffer<int>.Of(device, pages.AsSpan().ToArray()), st = Buffer<int>.Of(device, starts ?? [0]);
            cache.Append(new TensorView<float>(k, 4, Heads, Dim), new TensorView<float>(v, 4, Heads, VDim), new TensorView<int>(lt, 2), new TensorView<int>(pt, 2, 3), null,
                starts is null ? null : new TensorView<int>(st, 3));
            var e = Assert.Throws<KernelsException>(() => cache.ThrowIfRefused())!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(e.Message, Does.Contain($"sequence {sequence} "));
            Assert.That(Back(cache.K.Buffer).AsSpan().AsBytes().IndexOfAnyExcept((byte)0), Is.Negative);
            Assert.That(Back(cache.V.Buffer).AsSpan().AsBytes().IndexOfAnyExcept((byte)0), Is.Negative);
            Assert.That(Back(cache.KeyNorms!), Is.All.Zero);
        }
        Refused("kvLens", 1, [4, 16], s_table);
        Refused("kvLens", 0, [1, 4], s_table);
        Refused("pages", 1, [4, 9], new int[,] { { 4, 1, 6 }, { 2, 7, 5 } });
        Refused("pages", 0, [7, 9], new int[,] { { 4, -1, 6 }, { 2, 0, 5 } });
        Refused("qStart", 1, [7, 9], s_table, [0, 4, 3]);
        Refused("qStart", 1, [7, 9], s_table, [0, 2, 3]);
        // Pages that no new token goes to are not looked at.
        using Buffer<int> lens = Buffer<int>.Of(device, [7, 9]), table = Buffer<int>.Of(device, [-1, 1, -1, 99, 0, 99]);
        cache.Append(new TensorView<float>(k, 4, Heads, Dim), new TensorView<float>(v, 4, Heads, VDim), new TensorView<int>(lens, 2), new TensorView<int>(table, 2, 3), null);
        cache.ThrowIfRefused();
    }
}
