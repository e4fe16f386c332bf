using CommunityToolkit.HighPerformance;

namespace Kernels.Tests;

/// <summary>The cache: where tokens go, what rounding costs, and the bounds that are kept of their norms.</summary>
[TestFixture(typeof(float))]
[TestFixture(typeof(BFloat16))]
[TestFixture(typeof(Half))]
[TestFixture(typeof(sbyte))]
[TestFixture(typeof(Float8E4M3))]
public sealed unsafe class KvCacheTests<T> where T : unmanaged
{
    private const int Heads = 3, Dim = 24, VDim = 16, PageSize = 5, Pages = 7;
    private static readonly int[,] s_table = { { 4, 1, 6 }, { 2, 0, 5 } };

    private static float[] Random(int count, int seed, float most = 2)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => most * (2 * random.NextSingle() - 1))];
    }

    private static float At(TensorView<T> view, long page, long slot, long head, long d, TensorView<float>? scales)
    {
        T* at = view.Pointer + page * view.Stride(0) + slot * view.Stride(1) + head * view.Stride(2) + d;
        return FloatRow.LoadOne(at) * (scales is { } s ? s.Pointer[page * s.Stride(0) + slot * s.Stride(1) + head * s.Stride(2)] : 1);
    }

    /// <summary>The error that Append states, for an element x of a head whose largest element is peak.</summary>
    private static double Bound(float x, float peak, bool scaled) => DTypes.Of<T>() switch
    {
        DType.Float32 => 0,
        DType.BFloat16 => Math.Abs(x) * Math.Pow(2, -8),
        DType.Float16 => Math.Max(Math.Abs(x) * Math.Pow(2, -11), Math.Pow(2, -25)),
        // Half a step of the scale, and two roundings of float in scale and quotient.
        DType.Int8 => peak / 127 / 2 + peak * Math.Pow(2, -22),
        _ => Math.Max(Math.Abs(x) * Math.Pow(2, -4), (scaled ? peak / 448 : 1) * Math.Pow(2, -10)) + (scaled ? peak * Math.Pow(2, -22) : 0),
    };

    private static KvCache<T> Make(KvLayout layout, bool scales) => KvCache<T>.Allocate(Pages, PageSize, Heads, Dim, VDim, layout, scales && typeof(T) == typeof(Float8E4M3), keyNorms: true);

    [Test]
    public void TokensLieInTheirPagesWithinTheStatedError([Values] KvLayout layout, [Values] bool scales)
    {
        using KvCache<T> cache = Make(layout, scales);
        int[] lens = [13, 6], start = [0, 13, 19];
        float[] k = Random(19 * Heads * Dim, 1), v = Random(19 * Heads * VDim, 2);
        cache.Append<float>(k, v, lens, s_table, start);
        for (int b = 0; b < 2; b++)
            for (int p = 0; p < lens[b]; p++)
                for (int h = 0; h < Heads; h++)
                {
                    CheckHead(k.AsSpan(((start[b] + p) * Heads + h) * Dim, Dim), cache.K, s_table[b, p / PageSize], p % PageSize, h, cache.KScales);
                    CheckHead(v.AsSpan(((start[b] + p) * Heads + h) * VDim, VDim), cache.V, s_table[b, p / PageSize], p % PageSize, h, cache.VScales);
                }
    }

    private static void CheckHead(ReadOnlySpan<float> given, TensorView<T> view, int page, int slot, int head, TensorView<float>? scales)
    {
        float peak = 0;
        foreach (float x in given) peak = Math.Max(peak, Math.Abs(x));
        for (int d = 0; d < given.Length; d++)
            Assert.That(At(view, page, slot, head, d, scales), Is.EqualTo(given[d]).Within(Bound(given[d], peak, scales is not null)), $"page {page}, slot {slot}, head {head}, element {d}");
    }

    [Test]
    public void NewTokensLieOutsideTheCache()
    {
        using KvCache<T> cache = Make(KvLayout.Nhd, true);
        byte[] before = cache.K.Buffer.Span.AsBytes().ToArray();
        var e = Assert.Throws<KernelsException>(() => cache.Append<float>(System.Runtime.InteropServices.MemoryMarshal.Cast<T, float>(cache.K.Buffer.Span)[..(Heads * Dim)],
            Random(Heads * VDim, 2), [1], s_table.AsSpan2D()[..1, ..]))!;
        Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, "k")));
        Assert.That(cache.K.Buffer.Span.AsBytes().SequenceEqual(before));
    }

    [Test]
    public void OneByOneAndAtOnceAreTheSame()
    {
        using KvCache<T> once = Make(KvLayout.Nhd, true), steps = Make(KvLayout.Nhd, true);
        Half[] k = [.. Random(12 * Heads * Dim, 1).Select(x => (Half)x)], v = [.. Random(12 * Heads * VDim, 2).Select(x => (Half)x)];
        once.Append<Half>(k, v, [12], s_table.AsSpan2D()[..1, ..]);
        for (int t = 0; t < 12; t++)
            steps.Append<Half>(k.AsSpan(t * Heads * Dim, Heads * Dim), v.AsSpan(t * Heads * VDim, Heads * VDim), [t + 1], s_table.AsSpan2D()[..1, ..]);
        Assert.That(steps.K.Buffer.Span.AsBytes().SequenceEqual(once.K.Buffer.Span.AsBytes()));
        Assert.That(steps.V.Buffer.Span.AsBytes().SequenceEqual(once.V.Buffer.Span.AsBytes()));
        Assert.That(steps.KeyNorms!.Span.SequenceEqual(once.KeyNorms!.Span));
    }

    [Test]
    public void NormsBoundEveryKeyOfThePageAndNotByMuch()
    {
        using KvCache<T> cache = Make(KvLayout.Hnd, true);
        cache.Append<float>(Random(13 * Heads * Dim, 1, 3), Random(13 * Heads * VDim, 2), [13], s_table.AsSpan2D()[..1, ..]);
        for (int page = 0; page < 3; page++)
            for (int h = 0; h < Heads; h++)
            {
                double most = 0;
                for (int slot = 0; slot < Math.Min(PageSize, 13 - page * PageSize); slot++)
                {
                    double squares = 0;
                    for (int d = 0; d < Dim; d++)
                    {
                        // The product of stored and scale, which float would round.
                        double x = At(cache.K, s_table[0, page], slot, h, d, null), s = cache.KScales is { } ks ? ks.Pointer[s_table[0, page] * ks.Stride(0) + slot * ks.Stride(1) + h * ks.Stride(2)] : 1;
                        squares += x * s * x * s;
                    }
                    most = Math.Max(most, Math.Sqrt(squares));
                }
                double bound = cache.KeyNorms!.Span[s_table[0, page] * Heads + h];
                Assert.That(bound, Is.GreaterThanOrEqualTo(most).And.LessThanOrEqualTo(most * (1 + Math.Pow(2, -21))));
            }
        // The first slot starts a page again.
        cache.Append<float>(new float[Heads * Dim], new float[Heads * VDim], [1], s_table.AsSpan2D()[..1, ..]);
        Assert.That(cache.KeyNorms!.Span.Slice(4 * Heads, Heads).ToArray(), Is.All.LessThan(1e-30f));
    }

    [Test]
    public void NaNAndInfinityStayInTheirHead()
    {
        using KvCache<T> cache = Make(KvLayout.Nhd, true);
        float[] k = Random(2 * Heads * Dim, 1), v = Random(2 * Heads * VDim, 2);
        (k[Dim + 3], k[Heads * Dim]) = (float.NaN, float.PositiveInfinity);
        cache.Append<float>(k, v, [2], s_table.AsSpan2D()[..1, ..]);
        Assert.That(At(cache.K, 4, 0, 1, 3, cache.KScales), Is.NaN);
        Assert.That(cache.KeyNorms!.Span[4 * Heads + 1], Is.EqualTo(float.PositiveInfinity));
        Assert.That(At(cache.K, 4, 1, 0, 0, cache.KScales), typeof(T) == typeof(sbyte) || cache.KScales is not null ? Is.NaN : typeof(T) == typeof(Float8E4M3) ? Is.EqualTo(448) : Is.EqualTo(float.PositiveInfinity));
        CheckHead(k.AsSpan(0, Dim), cache.K, 4, 0, 0, cache.KScales);
        CheckHead(v.AsSpan(VDim, VDim), cache.V, 4, 0, 1, cache.VScales);
    }

    [Test]
    public void ScalesAreFullAtTheLargestElementAndZeroWhereAllIs()
    {
        if (typeof(T) != typeof(sbyte) && typeof(T) != typeof(Float8E4M3)) return;
        using KvCache<T> cache = Make(KvLayout.Nhd, true);
        float[] k = new float[Heads * Dim];
        (k[0], k[Dim], k[2 * Dim]) = (-5, 1e-37f, 1e38f);
        cache.Append<float>(k, new float[Heads * VDim], [1], s_table.AsSpan2D()[..1, ..]);
        Assert.That(At(cache.K, 4, 0, 0, 0, null), Is.EqualTo(typeof(T) == typeof(sbyte) ? -127 : -448));
        Assert.That(At(cache.K, 4, 0, 1, 0, cache.KScales), Is.Zero, "below 2^-119");
        Assert.That(At(cache.K, 4, 0, 2, 0, cache.KScales), Is.EqualTo(1e38f).Within(1e38f * 1e-6f));
    }

    [Test]
    public void AppendAllocatesNothing()
    {
        using KvCache<T> cache = Make(KvLayout.Nhd, true);
        float[] k = Random(2 * Heads * Dim, 1), v = Random(2 * Heads * VDim, 2);
        int[] lens = [4, 9];
        for (int i = 0; i < 50; i++) cache.Append<float>(k, v, lens, s_table);
        Assert.That(Allocations.Of(500, () => cache.Append<float>(k, v, lens, s_table)), Is.Zero);
    }

    [Test]
    public void ABadAppendIsRefusedByNameAndWritesNothing()
    {
        KvCache<T> cache = Make(KvLayout.Nhd, true);
        cache.K.Buffer.Span.AsBytes().Fill(0x11);
        cache.V.Buffer.Span.AsBytes().Fill(0x11);
        float[] k = Random(2 * Heads * Dim, 1), v = Random(2 * Heads * VDim, 2);
        void Refused(string argument, Action call)
        {
            var e = Assert.Throws<KernelsException>(call)!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, argument)), e.Message);
            Assert.That(cache.K.Buffer.Span.AsBytes().IndexOfAnyExcept((byte)0x11), Is.Negative);
            Assert.That(cache.V.Buffer.Span.AsBytes().IndexOfAnyExcept((byte)0x11), Is.Negative);
        }
        Refused("k", () => cache.Append<float>(k.AsSpan(1), v, [4, 9], s_table));
        Refused("v", () => cache.Append<float>(k, v.AsSpan(1), [4, 9], s_table));
        Refused("k", () => cache.Append<sbyte>(new sbyte[k.Length], new sbyte[v.Length], [4, 9], s_table));
        Refused("kvLens", () => cache.Append<float>(k, v, [4, 9, 9], s_table));
        Refused("kvLens", () => cache.Append<float>(k, v, [4, 16], s_table));
        Refused("kvLens", () => cache.Append<float>(k, v, [4, 0], s_table));
        Refused("kvLens", () => cache.Append<float>(k, v, [4, 6], default));
        Refused("pages", () => cache.Append<float>(k, v, [4, 9], s_table.AsSpan2D()[..1, ..]));
        Refused("pages", () => cache.Append<float>(k, v, [4, 9], new int[,] { { 4, 1 }, { 2, 3 }, { 0, 5 } }));
        Refused("pages", () => cache.Append<float>(k, v, [4, 9], new int[,] { { 4, 1 }, { 2, 7 } }));
        Refused("pages", () => cache.Append<float>(k, v, [4, 9], new int[,] { { -1, 1 }, { 2, 3 } }));
        Refused("qStart", () => cache.Append<float>(k, v, [4, 9], s_table, [0, 2]));
        Refused("qStart", () => cache.Append<float>(k, v, [4, 9], s_table, [0, 3, 2]));
        cache.Dispose();
        Assert.That(Assert.Throws<KernelsException>(() => cache.Append<float>(k, v, [4, 9], s_table))!.Argument, Is.EqualTo("cache"));
    }

    [Test]
    public void ViewsThatDoNotFitTogetherAreRefusedByName()
    {
        using Buffer<T> b = Buffer<T>.Allocate(4000);
        using Buffer<float> s = Buffer<float>.Allocate(400);
        TensorView<T> k = KvCache<T>.View(b, 2, 5, 3, 24, KvLayout.Hnd), v = KvCache<T>.View(b, 2, 5, 3, 16, KvLayout.Nhd);
        TensorView<float>? scales = typeof(T) == typeof(sbyte) ? new TensorView<float>(s, 2, 5, 3) : null;
        void Refused(string argument, Action call) => Assert.That(Assert.Throws<KernelsException>(call)!.Argument, Is.EqualTo(argument));
        Assert.That(KvCache<T>.Over(k, v, scales, scales).HeadDim, Is.EqualTo(24));
        Refused("k", () => KvCache<T>.Over(new TensorView<T>(b, 0, [2, 5, 3, 24], [360, 72, 24, 2]), v, scales, scales));
        Refused("k", () => KvCache<T>.Over(new TensorView<T>(b, 2, 5, 72), v, scales, scales));
        Refused("v", () => KvCache<T>.Over(k, KvCache<T>.View(b, 2, 4, 3, 16, KvLayout.Nhd), scales, scales));
        Refused("headDim", () => KvCache<T>.Over(KvCache<T>.View(b, 2, 5, 3, 20, KvLayout.Nhd), v, scales, scales));
        Refused("keyNorms", () => KvCache<T>.Over(k, v, scales, scales, Buffer<float>.Allocate(5)));
        Refused(typeof(T) == typeof(sbyte) ? "vScales" : typeof(T) == typeof(Float8E4M3) ? "vScales" : "kScales", () => KvCache<T>.Over(k, v, new TensorView<float>(s, 2, 5, 3)));
        if (typeof(T) == typeof(sbyte)) Refused("kScales", () => KvCache<T>.Over(k, v));
        Refused("pageSize", () => KvCache<T>.Allocate(1, 0, 1, 8));
        Refused("pages", () => KvCache<T>.Allocate(-1, 1, 1, 8));
        Refused("pageSize", () => KvCache<T>.Allocate(1, (1 << 28) + 1, 1, 8));
        Refused("pages", () => KvCache<T>.Allocate(int.MaxValue, 1 << 28, 1 << 16, 1024));
        Refused("kvHeads", () => KvCache<T>.Allocate(1, 1, 0, 8));
    }
}
