using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The rules of decode_attention, as decode_attention.h states them: a false condition is its own reason.</summary>
internal static unsafe class DecodeAttentionRules
{
    public const int MostBatch = 1 << 20, MostTokens = 16, MostHeads = 1 << 16, LongestHead = 1024, LongestKv = 1 << 28;
    public const long LongestStride = 1L << 40;

    /// <summary>The largest soft cap at which phi = 0 can neither overflow nor flush anything (reference: exp(60) times 2^28 tokens fits).</summary>
    public const float ProvenSoftcap = 60;

    /// <summary>The rules of the operation itself, the same for every row.</summary>
    public static bool Valid(in KnDecodeAttentionProblem p, [NotNullWhen(false)] out string? why)
    {
        var flags = (KnAttentionFlags)p.Flags;
        bool dtypes = DTypesOk(p);
        return Holds(p.Size == sizeof(KnDecodeAttentionProblem), out why)
            && Holds(dtypes, out why)
            && Holds(p.Batch >= 0 && p.Batch <= MostBatch, out why)
            && Holds(p.QLen >= 1 && p.QLen <= MostTokens, out why)
            && Holds(p.KvHeads >= 1 && p.QHeads >= 1 && p.QHeads <= MostHeads, out why)
            && Holds(p.QHeads % p.KvHeads == 0, out why)
            && Holds(p.HeadDim >= 8 && p.HeadDim <= LongestHead && p.HeadDim % 8 == 0, out why)
            && Holds(p.VHeadDim >= 8 && p.VHeadDim <= LongestHead && p.VHeadDim % 8 == 0, out why)
            && Holds(p.KvLen >= 0 && p.KvLen <= LongestKv, out why)
            && Holds(p.PageSize >= 0 && p.PageSize <= LongestKv, out why)
            && Holds(p.Window >= 0, out why)
            && Holds(p.Softcap >= 0 && p.Softcap < float.PositiveInfinity, out why)
            && Holds((p.Flags & ~127) == 0, out why)
            && Holds((flags & KnAttentionFlags.Full) == 0 || (flags & (KnAttentionFlags.Tree | KnAttentionFlags.Alibi)) == 0, out why)
            && Holds((flags & KnAttentionFlags.Full) == 0 || p.Window == 0, out why)
            && Holds((flags & KnAttentionFlags.Scales) != 0 || p.KvType != (int)DType.Int8, out why)
            && Holds((flags & KnAttentionFlags.Scales) == 0 || p.KvType is (int)DType.Int8 or (int)DType.Float8E4M3, out why);
    }

    /// <summary>Whether a problem has what a softmax dataflow needs.</summary>
    public static bool Offers(in KnDecodeAttentionProblem p, KnSoftmax softmax, [NotNullWhen(false)] out string? why)
    {
        var flags = (KnAttentionFlags)p.Flags;
        return Holds(softmax is >= KnSoftmax.Sync and <= KnSoftmax.Bounded, out why)
            && Holds(softmax != KnSoftmax.Unified || (flags & KnAttentionFlags.Phi) != 0, out why)
            && Holds(softmax != KnSoftmax.Bounded || (flags & KnAttentionFlags.Norms) != 0 || p.Softcap is > 0 and <= ProvenSoftcap, out why);
    }

    /// <summary>
    /// The rules of one call with `workspace` bytes of scratch. False with the argument at fault and the rule it breaks. Reads
    /// q_start, kv_lens, pages, tree and what there is per head; O(batch + pages).
    /// </summary>
    public static bool Check(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        if (!Holds(a.Size == sizeof(KnDecodeAttentionArgs), "args", out argument, out rule)
            || !Holds(a.Batch >= 0 && a.Batch <= p.Batch, "batch", out argument, out rule))
            return false;
        if (a.Batch == 0) return true;
        if (!CheckTokens(p, a, out long tokens, out argument, out rule)) return false;
        if (tokens == 0) return true;
        return CheckLengths(p, a, out int longest, out argument, out rule)
            && CheckHeads(p, a, out argument, out rule)
            && (longest == 0 || CheckCache(p, a, out argument, out rule))
            && CheckPointers(p, a, workspace, out argument, out rule)
            && CheckOverlap(p, a, tokens, longest, workspace, out argument, out rule);
    }

    /// <summary>
    /// The rules of one call on a GPU: those of <see cref="Check"/> that need not read what lies there. Lengths, page ids and masks
    /// are the caller's word.
    /// </summary>
    public static bool CheckOnDevice(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var flags = (KnAttentionFlags)p.Flags;
        if (!Holds(a.Size == sizeof(KnDecodeAttentionArgs), "args", out argument, out rule)
            || !Holds(a.Batch >= 0 && a.Batch <= p.Batch, "batch", out argument, out rule))
            return false;
        if (a.Batch == 0) return true;
        return Holds(a.KvLens != null, "kv_lens", out argument, out rule)
            && Holds(a.Pages != null || p.PageSize == 0 || p.KvLen == 0, "pages", out argument, out rule)
            && Holds(a.PagesLd >= 0 && a.PagesLd <= LongestStride, "pages_ld", out argument, out rule)
            && Holds(a.PageCount >= (p.PageSize == 0 && p.KvLen > 0 ? a.Batch : 0), "page_count", out argument, out rule)
            && Holds(a.Scale > 0 && a.Scale < float.PositiveInfinity, "scale", out argument, out rule)
            && Holds(a.Alibi != null || (flags & KnAttentionFlags.Alibi) == 0, "alibi", out argument, out rule)
            && Holds(a.Sinks != null || (flags & KnAttentionFlags.Sinks) == 0, "sinks", out argument, out rule)
            && Holds(a.Phi != null || (flags & KnAttentionFlags.Phi) == 0, "phi", out argument, out rule)
            && Holds(a.Tree != null || (flags & KnAttentionFlags.Tree) == 0, "tree", out argument, out rule)
            && (p.KvLen == 0 || a.PageCount == 0 || CheckCache(p, a, out argument, out rule))
            && CheckPointers(p, a, workspace, out argument, out rule);
    }

    /// <summary>Tokens of sequence b and the first of them.</summary>
    public static int Tokens(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, int b, out long first)
    {
        first = a.QStart == null ? (long)b * p.QLen : a.QStart[b];
        return a.QStart == null ? p.QLen : a.QStart[b + 1] - a.QStart[b];
    }

    private static bool CheckTokens(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, out long tokens,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        argument = rule = null;
        tokens = (long)a.Batch * p.QLen;
        if (a.QStart == null) return true;
        if (!Holds(a.QStart[0] == 0, "q_start", out argument, out rule)) return false;
        for (int b = 0; b < a.Batch; b++)
        {
            long count = (long)a.QStart[b + 1] - a.QStart[b];
            if (!Holds(count >= 0 && count <= p.QLen, "q_start", out argument, out rule)) return false;
        }
        tokens = a.QStart[a.Batch];
        return true;
    }

    private static bool CheckLengths(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, out int longest,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        longest = 0;
        if (!Holds(a.KvLens != null, "kv_lens", out argument, out rule)) return false;
        for (int b = 0; b < a.Batch; b++)
        {
            if (!Holds(a.KvLens[b] >= 0 && a.KvLens[b] <= p.KvLen, "kv_lens", out argument, out rule)) return false;
            longest = Math.Max(longest, a.KvLens[b]);
        }
        if (!Holds(a.PageCount >= 0, "page_count", out argument, out rule)) return false;
        if (longest == 0) return true;
        if (p.PageSize == 0) return Holds(a.PageCount >= a.Batch, "page_count", out argument, out rule);
        if (!Holds(a.Pages != null, "pages", out argument, out rule)
            || !Holds(a.PagesLd >= 0 && a.PagesLd <= LongestStride, "pages_ld", out argument, out rule))
            return false;
        for (int b = 0; b < a.Batch; b++)
        {
            long used = ((long)a.KvLens[b] + p.PageSize - 1) / p.PageSize;
            if (!Holds(used <= a.PagesLd, "pages_ld", out argument, out rule)) return false;
            for (int* id = a.Pages + b * a.PagesLd, end = id + used; id < end; id++)
                if (!Holds(*id >= 0 && *id < a.PageCount, "pages", out argument, out rule)) return false;
        }
        return true;
    }

    private static bool CheckHeads(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var flags = (KnAttentionFlags)p.Flags;
        bool alibi = (flags & KnAttentionFlags.Alibi) != 0, sinks = (flags & KnAttentionFlags.Sinks) != 0;
        bool phi = (flags & KnAttentionFlags.Phi) != 0, tree = (flags & KnAttentionFlags.Tree) != 0;
        if (!Holds(a.Scale > 0 && a.Scale < float.PositiveInfinity, "scale", out argument, out rule)
            || !Holds(a.Alibi != null || !alibi, "alibi", out argument, out rule)
            || !Holds(a.Sinks != null || !sinks, "sinks", out argument, out rule)
            || !Holds(a.Phi != null || !phi, "phi", out argument, out rule)
            || !Holds(a.Tree != null || !tree, "tree", out argument, out rule))
            return false;
        for (int h = 0; h < p.QHeads; h++)
            if ((alibi && !Holds(a.Alibi[h] >= 0 && a.Alibi[h] < float.PositiveInfinity, "alibi", out argument, out rule))
                || (sinks && !Holds(a.Sinks[h] < float.PositiveInfinity, "sinks", out argument, out rule))
                || (phi && !Holds(!float.IsNaN(a.Phi[h]), "phi", out argument, out rule)))
                return false;
        for (int b = 0; tree && b < a.Batch; b++)
        {
            int count = Tokens(p, a, b, out long first);
            for (int t = 0; t < count; t++)
                if (!Holds(a.Tree[first + t] >> t == 1, "tree", out argument, out rule)) return false;
        }
        return true;
    }

    private static bool CheckCache(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var flags = (KnAttentionFlags)p.Flags;
        bool scales = (flags & KnAttentionFlags.Scales) != 0, norms = (flags & KnAttentionFlags.Norms) != 0;
        return Holds(a.K != null, "k", out argument, out rule)
            && Holds(a.V != null, "v", out argument, out rule)
            && Holds(a.KScales != null || !scales, "k_scales", out argument, out rule)
            && Holds(a.VScales != null || !scales, "v_scales", out argument, out rule)
            && Holds(a.KeyNorms != null || !norms, "key_norms", out argument, out rule)
            && Stride(a.KPage, "k_page", out argument, out rule) && Stride(a.KToken, "k_token", out argument, out rule)
            && Stride(a.KHead, "k_head", out argument, out rule) && Stride(a.VPage, "v_page", out argument, out rule)
            && Stride(a.VToken, "v_token", out argument, out rule) && Stride(a.VHead, "v_head", out argument, out rule)
            && (!scales || (Stride(a.ScalePage, "scale_page", out argument, out rule)
                && Stride(a.ScaleToken, "scale_token", out argument, out rule)
                && Stride(a.ScaleHead, "scale_head", out argument, out rule)));
    }

    private static bool CheckPointers(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule) =>
        Holds(a.Q != null, "q", out argument, out rule)
        && Holds(a.Out != null, "out", out argument, out rule)
        && Stride(a.QToken, "q_token", out argument, out rule) && Stride(a.QHead, "q_head", out argument, out rule)
        && Stride(a.OutToken, "out_token", out argument, out rule) && Stride(a.OutHead, "out_head", out argument, out rule)
        && (a.Lse == null || Stride(a.LseToken, "lse_token", out argument, out rule))
        && Holds(workspace == 0 || (a.Workspace != null && a.WorkspaceBytes >= workspace), "workspace", out argument, out rule)
        && Holds((nuint)a.Workspace % 64 == 0, "workspace", out argument, out rule);

    /// <summary>What a call writes overlaps nothing else of it.</summary>
    private static bool CheckOverlap(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long tokens, int longest, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var flags = (KnAttentionFlags)p.Flags;
        long held = longest == 0 ? 0 : a.PageCount, inPage = p.PageSize == 0 ? longest : p.PageSize, heads = p.KvHeads;
        bool scales = (flags & KnAttentionFlags.Scales) != 0;
        var @out = new Extent(a.Out, p.OutType, p.VHeadDim, tokens, a.OutToken, p.QHeads, a.OutHead);
        var lse = new Extent(a.Lse, (int)DType.Float32, p.QHeads, tokens, a.LseToken);
        var k = new Extent(a.K, p.KvType, p.HeadDim, held, a.KPage, inPage, a.KToken, heads, a.KHead);
        var v = new Extent(a.V, p.KvType, p.VHeadDim, held, a.VPage, inPage, a.VToken, heads, a.VHead);
        if (!Holds(k.Fits, "k", out argument, out rule) || !Holds(v.Fits, "v", out argument, out rule)
            || !Holds(@out.Fits, "out", out argument, out rule) || !Holds(@out.Apart(lse), "out", out argument, out rule))
            return false;
        var read = (ReadOnlySpan<Extent>)[k, v,
            new Extent(a.Q, p.QType, p.HeadDim, tokens, a.QToken, p.QHeads, a.QHead),
            new Extent(scales ? a.KScales : null, (int)DType.Float32, 1, held, a.ScalePage, inPage, a.ScaleToken, heads, a.ScaleHead),
            new Extent(scales ? a.VScales : null, (int)DType.Float32, 1, held, a.ScalePage, inPage, a.ScaleToken, heads, a.ScaleHead),
            new Extent((flags & KnAttentionFlags.Norms) != 0 ? a.KeyNorms : null, (int)DType.Float32, heads, held, heads),
            new Extent((flags & KnAttentionFlags.Phi) != 0 ? a.Phi : null, (int)DType.Float32, p.QHeads, 1, 0),
            new Extent((flags & KnAttentionFlags.Alibi) != 0 ? a.Alibi : null, (int)DType.Float32, p.QHeads, 1, 0),
            new Extent((flags & KnAttentionFlags.Sinks) != 0 ? a.Sinks : null, (int)DType.Float32, p.QHeads, 1, 0),
            new Extent((flags & KnAttentionFlags.Tree) != 0 ? a.Tree : null, (int)DType.Float32, tokens, 1, 0),
            new Extent(a.QStart, (int)DType.Float32, a.Batch + 1L, 1, 0),
            new Extent(a.KvLens, (int)DType.Float32, a.Batch, 1, 0),
            new Extent(p.PageSize > 0 && longest > 0 ? a.Pages : null, (int)DType.Float32, a.PagesLd, a.Batch, a.PagesLd),
            new Extent(a.Recomputed, (int)DType.Float32, 2, 1, 0),
            new Extent(a.Workspace, (int)DType.Int8, workspace, 1, 0)];
        foreach (Extent other in read)
            if (!Holds(@out.Apart(other), "out", out argument, out rule) || !Holds(lse.Apart(other), "lse", out argument, out rule))
                return false;
        return true;
    }

    private static bool DTypesOk(in KnDecodeAttentionProblem p)
    {
        DType q = (DType)p.QType, kv = (DType)p.KvType, result = (DType)p.OutType;
        return q switch
        {
            DType.Float32 => kv == q && result == q,
            DType.BFloat16 or DType.Float16 => (kv == q || kv is DType.Int8 or DType.Float8E4M3) && (result == q || result == DType.Float32),
            _ => false,
        };
    }

    private static bool Stride(long stride, string name, [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule) =>
        Holds(stride >= 0 && stride <= LongestStride, name, out argument, out rule);

    private static bool Holds(bool condition, [NotNullWhen(false)] out string? why,
        [CallerArgumentExpression(nameof(condition))] string text = "")
    {
        why = condition ? null : text;
        return condition;
    }

    private static bool Holds(bool condition, string name, [NotNullWhen(false)] out string? argument,
        [NotNullWhen(false)] out string? rule, [CallerArgumentExpression(nameof(condition))] string text = "")
    {
        argument = condition ? null : name;
        rule = condition ? null : text;
        return condition;
    }

    /// <summary>The bytes from the first element of a strided array to its last. 128 bits: 2^40 times a count overflows 64.</summary>
    private readonly struct Extent
    {
        private readonly UInt128 _begin, _end;

        public Extent(void* at, int type, long last, long n0, long s0, long n1 = 1, long s1 = 0, long n2 = 1, long s2 = 0)
        {
            _begin = _end = (nuint)at;
            if (at == null || last <= 0 || n0 <= 0 || n1 <= 0 || n2 <= 0) return;
            UInt128 elements = (UInt128)(n0 - 1) * (UInt128)s0 + (UInt128)(n1 - 1) * (UInt128)s1 + (UInt128)(n2 - 1) * (UInt128)s2 + (UInt128)last;
            _end += elements * (UInt128)((DType)type).Bits() / 8;
        }

        /// <summary>Whether it ends within the address space.</summary>
        public bool Fits => _end <= long.MaxValue;

        public bool Apart(Extent other) =>
            _end <= other._begin || other._end <= _begin || _begin == _end || other._begin == other._end;
    }
}
