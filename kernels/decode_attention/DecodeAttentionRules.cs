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
            && Holds(p.Window >= 0 && p.Window <= LongestKv, out why)
            && Holds(p.Softcap >= 0 && p.Softcap < float.PositiveInfinity, out why)
            && Holds((p.Flags & ~255) == 0, out why)
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
        if (!CheckTokens(p, a, out long tokens, out int longest, out argument, out rule)) return false;
        if (tokens == 0) return true;
        return CheckPointers(p, a, tokens, workspace, out argument, out rule)
            && CheckHeads(p, a, out argument, out rule)
            && (longest == 0 || (CheckCache(p, a, out argument, out rule) && CheckPages(p, a, longest, out argument, out rule)))
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
            && Holds(a.QStart != null || (a.QLen >= 0 && a.QLen <= p.QLen), "q_len", out argument, out rule)
            && Holds(a.Scale > 0 && a.Scale < float.PositiveInfinity, "scale", out argument, out rule)
            && Holds(a.Alibi != null || (flags & KnAttentionFlags.Alibi) == 0, "alibi", out argument, out rule)
            && Holds(a.Sinks != null || (flags & KnAttentionFlags.Sinks) == 0, "sinks", out argument, out rule)
            && Holds(a.Phi != null || (flags & KnAttentionFlags.Phi) == 0, "phi", out argument, out rule)
            && Holds(a.Tree != null || (flags & KnAttentionFlags.Tree) == 0, "tree", out argument, out rule)
            && (p.KvLen == 0 || a.PageCount == 0 || CheckCache(p, a, out argument, out rule))
            && CheckPointers(p, a, (long)a.Batch * (a.QStart == null ? a.QLen : p.QLen), workspace, out argument, out rule);
    }

    /// <summary>The rule of overlap for addresses of a GPU, with the workspace where the caller brings one.</summary>
    public static bool CheckOverlapOnDevice(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long tokens, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule) => CheckOverlap(p, a, tokens, p.KvLen, workspace, out argument, out rule);

    /// <summary>Tokens of sequence b and the first of them.</summary>
    public static int Tokens(in KnDecodeAttentionArgs a, int b, out long first)
    {
        first = a.QStart == null ? (long)b * a.QLen : a.QStart[b];
        return a.QStart == null ? a.QLen : a.QStart[b + 1] - a.QStart[b];
    }

    /// <summary>New tokens of every sequence where there is no qStart; 0 where there is one, which then is held to the tokens.</summary>
    internal static int TokensEach(long tokens, int batch, ReadOnlySpan<int> qStart)
    {
        if (qStart.Length == 0)
        {
            KernelsException.Require(batch == 0 ? tokens == 0 : tokens % batch == 0, "kvLens", $"as many sequences as share {tokens} tokens evenly, or a qStart");
            return batch == 0 ? 0 : (int)(tokens / batch);
        }
        KernelsException.Require(qStart.Length == batch + 1 && qStart[0] == 0 && qStart[^1] == tokens, nameof(qStart), $"{batch + 1} values from 0 to {tokens}");
        for (int b = 0; b < batch; b++) KernelsException.Require(qStart[b] <= qStart[b + 1], nameof(qStart), $"ascending values, not {qStart[b]} before {qStart[b + 1]}");
        return 0;
    }

    /// <summary>The first new token of sequence b as a key: below 0 where the cache holds fewer, past its end where later keys lie elsewhere.</summary>
    public static int FirstNew(in KnDecodeAttentionArgs a, int b, int tokens) => a.KvLens[b] + (a.KvLater == null ? 0 : a.KvLater[b]) - tokens;

    /// <summary>The first key that a token at `position` may see.</summary>
    public static int FirstKey(in KnDecodeAttentionProblem p, int position) => p.Window == 0 ? 0 : (int)Math.Max(0, position - (long)p.Window + 1);

    // Tokens of all sequences, and the longest kv_len of one that has any.
    private static bool CheckTokens(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, out long tokens, out int longest,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        (tokens, longest) = (0, 0);
        if (!Holds(a.KvLens != null, "kv_lens", out argument, out rule)
            || !Holds(a.QStart == null || a.QStart[0] == 0, "q_start", out argument, out rule)
            || !Holds(a.QStart != null || (a.QLen >= 0 && a.QLen <= p.QLen), "q_len", out argument, out rule))
            return false;
        for (int b = 0; b < a.Batch; b++)
        {
            long count = a.QStart == null ? a.QLen : (long)a.QStart[b + 1] - a.QStart[b];
            if (!Holds(count >= 0 && count <= p.QLen, "q_start", out argument, out rule)
                || !Holds(a.KvLens[b] >= 0 && a.KvLens[b] <= p.KvLen, "kv_lens", out argument, out rule)
                || !Holds(a.KvLater == null || (a.KvLater[b] >= 0 && a.KvLater[b] <= LongestKv - a.KvLens[b]), "kv_later", out argument, out rule))
                return false;
            tokens += count;
            if (count > 0) longest = Math.Max(longest, a.KvLens[b]);
        }
        return true;
    }

    // The pages in use: those before the window may be gone already.
    private static bool CheckPages(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, int longest,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        if (p.PageSize == 0) return Holds(a.PageCount >= a.Batch, "page_count", out argument, out rule);
        long needed = ((long)longest + p.PageSize - 1) / p.PageSize;
        if (!Holds(a.PageCount >= 0, "page_count", out argument, out rule)
            || !Holds(a.PagesLd >= needed && a.PagesLd <= LongestStride, "pages_ld", out argument, out rule)
            || !Holds(a.Pages != null, "pages", out argument, out rule))
            return false;
        bool idsAreBelowPageCount = WrongPage(p, a) is null;
        return Holds(idsAreBelowPageCount, "pages", out argument, out rule);
    }

    /// <summary>A page in use that the cache does not have, where the table itself keeps the rules; null: none. Only for memory of the host.</summary>
    public static (int Sequence, int Id)? WrongPage(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a)
    {
        for (int b = 0; p.PageSize > 0 && b < a.Batch; b++)
        {
            int count = Tokens(a, b, out _);
            int first = FirstKey(p, FirstNew(a, b, count));
            for (long i = first / p.PageSize; count > 0 && first < a.KvLens[b] && i * p.PageSize < a.KvLens[b]; i++)
                if (a.Pages[b * a.PagesLd + i] is var id && (id < 0 || id >= a.PageCount)) return (b, id);
        }
        return null;
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
                || (phi && !Holds(float.IsFinite(a.Phi[h]), "phi", out argument, out rule)))
                return false;
        for (int b = 0; tree && b < a.Batch; b++)
        {
            int count = Tokens(a, b, out long first);
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

    private static bool CheckPointers(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long tokens, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        if (!Holds(a.Q != null, "q", out argument, out rule) || !Holds(a.Out != null, "out", out argument, out rule)
            || !Stride(a.QToken, "q_token", out argument, out rule) || !Stride(a.QHead, "q_head", out argument, out rule)
            || !Stride(a.OutToken, "out_token", out argument, out rule) || !Stride(a.OutHead, "out_head", out argument, out rule))
            return false;
        bool apart = Disjoint(tokens, a.OutToken, p.QHeads, a.OutHead, p.VHeadDim);
        return Holds(apart, "out_token, out_head", out argument, out rule)
            && (a.Lse == null || Stride(a.LseToken, "lse_token", out argument, out rule))
            && Holds(a.Lse == null || tokens == 1 || a.LseToken >= p.QHeads, "lse_token", out argument, out rule)
            && Holds(workspace == 0 || (a.Workspace != null && a.WorkspaceBytes >= workspace), "workspace", out argument, out rule)
            && Holds((nuint)a.Workspace % 64 == 0, "workspace", out argument, out rule);
    }

    // No row of width elements lies where another one does; strides of at most 2^40 times 2^24 do not wrap.
    internal static bool Disjoint(long tokens, long token, long heads, long head, long width)
    {
        if (tokens <= 1) return heads <= 1 || head >= width;
        if (heads <= 1) return token >= width;
        return token >= head ? head >= width && token >= (heads - 1) * head + width : token >= width && head >= (Int128)(tokens - 1) * token + width;
    }

    /// <summary>What a call writes overlaps nothing else of it, and all of it fits in memory.</summary>
    private static bool CheckOverlap(in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long tokens, int longest, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var flags = (KnAttentionFlags)p.Flags;
        long held = longest == 0 ? 0 : Math.Min(a.PageCount, 1L << 31), inPage = p.PageSize == 0 ? longest : p.PageSize, heads = p.KvHeads;
        bool scales = (flags & KnAttentionFlags.Scales) != 0;
        var @out = new Extent(a.Out, p.OutType, p.VHeadDim, tokens, a.OutToken, p.QHeads, a.OutHead);
        var lse = new Extent(a.Lse, (int)DType.Float32, p.QHeads, tokens, a.Lse == null ? 0 : a.LseToken);
        var k = new Extent(a.K, p.KvType, p.HeadDim, held, a.KPage, inPage, a.KToken, heads, a.KHead);
        var v = new Extent(a.V, p.KvType, p.VHeadDim, held, a.VPage, inPage, a.VToken, heads, a.VHead);
        var written = (ReadOnlySpan<Extent>)[@out, lse,
            new Extent(a.Recomputed, (int)DType.Float32, 2, 1, 0), new Extent(a.Workspace, (int)DType.Int8, workspace, 1, 0)];
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
            new Extent(a.KvLater, (int)DType.Float32, a.Batch, 1, 0),
            new Extent(p.PageSize > 0 && longest > 0 ? a.Pages : null, (int)DType.Float32, a.PagesLd, a.Batch, a.PagesLd)];
        bool fits = true, apart = true;
        foreach (Extent other in read) fits &= other.Fits;
        for (int i = 0; i < written.Length; i++)
        {
            fits &= written[i].Fits;
            foreach (Extent other in read) apart &= written[i].Apart(other);
            for (int j = 0; j < i; j++) apart &= written[i].Apart(written[j]);
        }
        return Holds(fits, "page_count and strides", out argument, out rule)
            && Holds(apart, "out, lse, recomputed, workspace", out argument, out rule);
    }

    private static bool DTypesOk(in KnDecodeAttentionProblem p)
    {
        DType q = (DType)p.QType, kv = (DType)p.KvType, result = (DType)p.OutType;
        return q is DType.Float32 or DType.BFloat16 or DType.Float16 && (kv == q || kv is DType.Int8 or DType.Float8E4M3) && (result == q || result == DType.Float32);
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
    internal readonly struct Extent
    {
        private readonly UInt128 _begin, _end;

        public Extent(void* at, int type, long last, long n0, long s0, long n1 = 1, long s1 = 0, long n2 = 1, long s2 = 0)
        {
            _begin = _end = (nuint)at;
            if (at == null || last <= 0 || n0 <= 0 || n1 <= 0 || n2 <= 0) return;
            UInt128 elements = (UInt128)(n0 - 1) * (UInt128)s0 + (UInt128)(n1 - 1) * (UInt128)s1 + (UInt128)(n2 - 1) * (UInt128)s2 + (UInt128)last;
            _end += elements * (UInt128)((DType)type).Bits() / 8;
        }

        /// <summary>Whether there can be so much memory.</summary>
        public bool Fits => _end - _begin < (UInt128)1 << 62;

        public bool Apart(Extent other) =>
            _end <= other._begin || other._end <= _begin || _begin == _end || other._begin == other._end;
    }
}
