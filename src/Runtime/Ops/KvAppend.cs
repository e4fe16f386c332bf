using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using CommunityToolkit.HighPerformance;
using Extent = Kernels.DecodeAttentionRules.Extent;

namespace Kernels;

/// <summary>Writes new tokens into the pages of their sequences.</summary>
public sealed unsafe partial class KvCache<T> where T : unmanaged
{
    // Below it the scale of a head would be subnormal and its quotients inexact.
    private const float LeastPeak = 1.504632769052528e-36f;  // 2^-119

    /// <summary>
    /// Stores the new tokens' keys and values, contiguous in <paramref name="k"/> and <paramref name="v"/>, at the ends of their
    /// sequences, rounded to the cache's type: nearest even to BFloat16 and Half; saturating to Float8E4M3, an error of at most
    /// 2^-4 |x| (or scale 2^-10 near zero), by scale = max|x| / 448 where there are scales; with scale = max|x| / 127 per token and
    /// head to sbyte, an error of at most scale / 2 and the rounding of float. A quantised head whose largest element is below
    /// 2^-119 becomes zeros, and one with a NaN or an infinity becomes NaN by its scale. The bounds of the key norms, of what is
    /// stored, grow with every key and start again with the first slot of a page. Sequences may share pages that are full: a slot that two
    /// new tokens are given holds either. Allocates nothing, and runs on the caller's thread; other calls may run beside it as long as they neither
    /// read nor write its pages.
    /// </summary>
    /// <param name="k">[tokens, KvHeads, HeadDim].</param>
    /// <param name="v">[tokens, KvHeads, VHeadDim].</param>
    /// <param name="kvLens">[batch]: tokens of each sequence, the new ones included, as the call of attention takes it.</param>
    /// <param name="pages">[batch, columns] the pages of each sequence in order; empty for a contiguous cache.</param>
    /// <param name="qStart">[batch + 1]: the new tokens of sequence b are qStart[b] to qStart[b + 1] - 1; empty: the same number each.</param>
    /// <exception cref="KernelsException">A shape, length, page or overlap with the cache that breaks a rule; nothing is then written.</exception>
    public void Append<TIn>(ReadOnlySpan<TIn> k, ReadOnlySpan<TIn> v, ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages, ReadOnlySpan<int> qStart = default)
        where TIn : unmanaged
    {
        RequireHost(nameof(k));
        long tokens = k.Length / ((long)KvHeads * HeadDim);
        KernelsException.Require(k.Length == tokens * KvHeads * HeadDim, nameof(k), $"a multiple of {KvHeads} x {HeadDim} elements, not {k.Length}");
        KernelsException.Require(v.Length == tokens * KvHeads * VHeadDim, nameof(v), $"{tokens} x {KvHeads} x {VHeadDim} elements, not {v.Length}");
        fixed (TIn* pk = k)
        fixed (TIn* pv = v)
            Append(tokens, pk, (long)KvHeads * HeadDim, HeadDim, pv, (long)KvHeads * VHeadDim, VHeadDim, kvLens, pages, qStart);
    }

    /// <summary>Stores from strided views, such as parts of a fused projection.</summary>
    /// <param name="k">[tokens, KvHeads, HeadDim], the last dimension contiguous.</param>
    /// <param name="v">[tokens, KvHeads, VHeadDim], the last dimension contiguous.</param>
    /// <param name="kvLens">As above.</param>
    /// <param name="pages">As above.</param>
    /// <param name="qStart">As above.</param>
    /// <inheritdoc cref="Append{TIn}(ReadOnlySpan{TIn}, ReadOnlySpan{TIn}, ReadOnlySpan{int}, ReadOnlySpan2D{int}, ReadOnlySpan{int})"/>
    public void Append<TIn>(in TensorView<TIn> k, in TensorView<TIn> v, ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages, ReadOnlySpan<int> qStart = default)
        where TIn : unmanaged
    {
        RequireHost(nameof(kvLens));
        CheckTokens(k, v);
        var held = new Held();
        try
        {
            held.Add(k.Buffer, nameof(k));
            held.Add(v.Buffer, nameof(v));
            Append(k.Shape(0), k.Pointer, k.Stride(0), k.Stride(1), v.Pointer, v.Stride(0), v.Stride(1), kvLens, pages, qStart);
        }
        finally
        {
            held.Dispose();
        }
    }

    private void CheckTokens<TIn>(in TensorView<TIn> k, in TensorView<TIn> v) where TIn : unmanaged
    {
        KernelsException.Require(k.Rank == 3 && k.Stride(2) == 1 && k.Shape(1) == KvHeads && k.Shape(2) == HeadDim, nameof(k), $"shape [tokens, {KvHeads}, {HeadDim}], the last dimension contiguous");
        KernelsException.Require(v.Rank == 3 && v.Stride(2) == 1 && v.Shape(0) == k.Shape(0) && v.Shape(1) == KvHeads && v.Shape(2) == VHeadDim, nameof(v), $"shape [{k.Shape(0)}, {KvHeads}, {VHeadDim}], the last dimension contiguous");
        KernelsException.Require(k.Buffer.Device.Shares(Device), nameof(k), $"a buffer on {Device}, not on {k.Buffer.Device}");
        KernelsException.Require(v.Buffer.Device.Shares(Device), nameof(v), $"a buffer on {Device}, not on {v.Buffer.Device}");
        CheckType<TIn>();
    }

    private static void CheckType<TIn>() where TIn : unmanaged
    {
        if (DTypes.Of<TIn>() is DType.Int8 or DType.Float8E4M3) throw new KernelsException(Status.Invalid, "k", "float, BFloat16 or Half, which Append quantises itself");
    }

    private void RequireHost(string argument)
    {
        if (Device.Gpu is not null) throw new KernelsException(Status.Invalid, argument, $"views of buffers on {Device}: this overload takes memory of the host, and no copy is hidden");
    }

    private void Append<TIn>(long tokens, TIn* k, long kToken, long kHead, TIn* v, long vToken, long vHead,
        ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages, ReadOnlySpan<int> qStart) where TIn : unmanaged
    {
        CheckType<TIn>();
        int qLen = DecodeAttentionRules.TokensEach(tokens, kvLens.Length, qStart);
        KernelsException.Require(pages.Length == 0 || pages.Height == kvLens.Length, nameof(pages), $"{kvLens.Length} rows, not {pages.Height}");
        for (int b = 0; b < kvLens.Length; b++) CheckSequence(b, Count(b, qLen, qStart), kvLens[b], pages);
        var held = new Held();
        try
        {
            Hold(ref held);
            CheckOutside(new Extent(k, (int)DTypes.Of<TIn>(), HeadDim, tokens, kToken, KvHeads, kHead), nameof(k));
            CheckOutside(new Extent(v, (int)DTypes.Of<TIn>(), VHeadDim, tokens, vToken, KvHeads, vHead), nameof(v));
            long t = 0;
            for (int b = 0; b < kvLens.Length; b++)
                for (int count = Count(b, qLen, qStart), i = 0; i < count; i++, t++)
                {
                    int position = kvLens[b] - count + i, slot = position % PageSize;
                    long page = pages.Length == 0 ? b : pages[b, position / PageSize];
                    StoreToken(page, slot, k + t * kToken, kHead, v + t * vToken, vHead);
                }
        }
        finally
        {
            held.Dispose();
        }
    }

    /// <summary>What is read lies outside what is written.</summary>
    private void CheckOutside(Extent from, string name)
    {
        bool apart = from.Apart(Of(K)) && from.Apart(Of(V))
            && (KScales is not { } ks || from.Apart(Of(ks))) && (VScales is not { } vs || from.Apart(Of(vs)))
            && (KeyNorms is not { } norms || from.Apart(new Extent(norms.Pointer, (int)DType.Float32, norms.Length, 1, 0)));
        KernelsException.Require(apart, name, "memory outside the cache");

        static Extent Of<TAny>(in TensorView<TAny> view) where TAny : unmanaged => new(view.Pointer, (int)DTypes.Of<TAny>(),
            view.Rank == 4 ? view.Shape(3) : 1, view.Shape(0), view.Stride(0), view.Shape(1), view.Stride(1), view.Shape(2), view.Stride(2));
    }

    private static int Count(int b, int qLen, ReadOnlySpan<int> qStart) => qStart.Length == 0 ? qLen : qStart[b + 1] - qStart[b];

    private void CheckSequence(int b, int count, int kvLen, ReadOnlySpan2D<int> pages)
    {
        KernelsException.Require(kvLen >= count, "kvLens", $"at least the {count} new tokens of sequence {b}, not {kvLen}");
        bool paged = pages.Length > 0;
        KernelsException.Require(paged || b < Pages, "kvLens", $"at most the {Pages} sequences of the cache, not {b + 1}");
        long room = (paged ? (long)pages.Width : 1) * PageSize;
        KernelsException.Require(kvLen <= room, "kvLens", $"at most the {room} tokens that sequence {b} has room for, not {kvLen}");
        if (!paged || count == 0) return;
        for (int i = (kvLen - count) / PageSize; i <= (kvLen - 1) / PageSize; i++)
            KernelsException.Require(pages[b, i] >= 0 && pages[b, i] < Pages, nameof(pages), $"ids below {Pages}, not {pages[b, i]} of sequence {b}");
    }

    private void StoreToken<TIn>(long page, int slot, TIn* k, long kHead, TIn* v, long vHead) where TIn : unmanaged
    {
        T* toK = K.Pointer + page * K.Stride(0) + slot * K.Stride(1), toV = V.Pointer + page * V.Stride(0) + slot * V.Stride(1);
        long scaleAt = KScales is { } s ? page * s.Stride(0) + slot * s.Stride(1) : 0, scaleHead = KScales?.Stride(2) ?? 0;
        float* kScales = KScales is { } ks ? ks.Pointer + scaleAt : null, vScales = VScales is { } vs ? vs.Pointer + scaleAt : null;
        float* norms = KeyNorms is null ? null : KeyNorms.Pointer + page * KvHeads;
        for (int h = 0; h < KvHeads; h++, kScales += kScales == null ? 0 : scaleHead, vScales += vScales == null ? 0 : scaleHead)
        {
            StoreHead(k + h * kHead, HeadDim, toK + h * K.Stride(2), kScales);
            StoreHead(v + h * vHead, VHeadDim, toV + h * V.Stride(2), vScales);
            if (norms == null) continue;
            float norm = NormBound(toK + h * K.Stride(2), HeadDim, kScales == null ? 1 : *kScales);
            norms[h] = slot == 0 ? norm : Math.Max(norms[h], norm);
        }
    }

    private static void StoreHead<TIn>(TIn* from, int dim, T* to, float* scale) where TIn : unmanaged
    {
        if (scale == null)
        {
            for (int i = 0; i < dim; i += FloatRow.Step) FloatRow.Store(FloatRow.Load(from + i), to + i);
            return;
        }
        Vector256<float> most = Vector256<float>.Zero;
        for (int i = 0; i < dim; i += FloatRow.Step) most = Vector256.Max(most, Vector256.Abs(FloatRow.Load(from + i)));
        float peak = 0;
        // Max keeps a NaN wherever it stands.
        for (int i = 0; i < FloatRow.Step; i++) peak = Math.Max(peak, most[i]);
        bool finite = float.IsFinite(peak);
        *scale = !finite ? float.NaN : peak < LeastPeak ? 0 : peak / (typeof(T) == typeof(sbyte) ? 127 : 448);
        Vector256<float> by = Vector256.Create(finite && *scale > 0 ? *scale : float.PositiveInfinity);
        for (int i = 0; i < dim; i += FloatRow.Step)
            FloatRow.Store(finite ? FloatRow.Load(from + i) / by : Vector256<float>.Zero, to + i);
    }

    /// <summary>The 2-norm of what was stored, rounded up: float64 sums err by less than the step to the next float.</summary>
    private static float NormBound(T* key, int dim, float scale)
    {
        Vector256<double> squares = Vector256<double>.Zero;
        for (int i = 0; i < dim; i += FloatRow.Step)
        {
            (Vector256<double> low, Vector256<double> high) = Vector256.Widen(FloatRow.Load(key + i));
            squares += low * low + high * high;
        }
        float norm = MathF.BitIncrement((float)(Math.Sqrt(Vector256.Sum(squares)) * scale));
        return float.IsNaN(norm) ? float.PositiveInfinity : norm;
    }
}
