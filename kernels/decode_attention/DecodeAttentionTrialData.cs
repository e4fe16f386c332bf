using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Logits that keys are made for: uniform between two ends, but for one key in the middle, where Peak is a number.</summary>
internal readonly record struct DecodeAttentionLogits(float Low, float High, float Peak = float.NaN);

/// <summary>How the operands of a trial are made. What a sequence holds depends on its Content and on positions alone.</summary>
internal sealed record DecodeAttentionData(ulong Seed)
{
    /// <summary>Tokens in the cache and new tokens of each sequence; null: kv_len and q_len first, then random and edges of pages.</summary>
    public int[]? KvLens { get; init; }
    public int[]? QLens { get; init; }

    /// <summary>Tokens of each sequence that follow its keys elsewhere; null: none, and no argument.</summary>
    public int[]? KvLater { get; init; }

    /// <summary>Seed of what each sequence holds; null: its number.</summary>
    public ulong[]? Content { get; init; }

    /// <summary>Gaps between rows everywhere, of a length that breaks alignment.</summary>
    public bool Strided { get; init; }

    /// <summary>[page, kv_heads, page_size, D] instead of [page, page_size, kv_heads, D].</summary>
    public bool HeadMajor { get; init; }

    /// <summary>q_start is null: as many new tokens for each sequence.</summary>
    public bool NoStarts { get; init; }
    public bool NoLse { get; init; }

    /// <summary>Even sequences get these logits, in heads of an even number; 1 % of them in the others.</summary>
    public DecodeAttentionLogits? Logits { get; init; }

    /// <summary>Every element of v is 1.</summary>
    public bool Ones { get; init; }

    /// <summary>A phi that fits what is made without Logits.</summary>
    public const float Fits = 2;

    public float Phi { get; init; } = Fits;
    public int Copies { get; init; } = 1;

    /// <summary>Key 0 holds what key KeyOffset of the same content holds without it.</summary>
    public int KeyOffset { get; init; }

    /// <summary>Rows that the oracle looks at; 0: all.</summary>
    public int SampleRows { get; init; }
}

/// <summary>The operands of a trial: how they are made.</summary>
internal sealed unsafe partial class DecodeAttentionTrial
{
    private const byte Gap = 0xa5, Unwritten = 0xff;

    private float* Floats(long count)
    {
        GuardedMemory memory = Own(count * 4, 0xff);
        memory.Fill(0xff);
        return (float*)memory.At;
    }

    private static int[] Lengths(in KnDecodeAttentionProblem p, ref TrialRandom random)
    {
        int page = p.PageSize == 0 ? 16 : p.PageSize;
        var lengths = new int[p.Batch];
        for (int b = 0; b < p.Batch; b++)
        {
            int choice = b == 0 ? p.KvLen : ((int[])[0, 1, page - 1, page, page + 1, p.KvLen / 2, (int)(random.Next() % ((ulong)p.KvLen + 1))])[(b - 1 + (int)(random.Next() % 2)) % 7];
            lengths[b] = Math.Clamp(choice, 0, p.KvLen);
        }
        return lengths;
    }

    private static int[] TokenCounts(in KnDecodeAttentionProblem p, DecodeAttentionData data, ref TrialRandom random)
    {
        var counts = new int[p.Batch];
        for (int b = 0; b < p.Batch; b++) counts[b] = b == 0 || data.NoStarts ? p.QLen : (int)(random.Next() % ((ulong)p.QLen + 1));
        return counts;
    }

    private int PageTokens => _problem->PageSize == 0 ? Math.Max(1, _kvLens.DefaultIfEmpty().Max()) : _problem->PageSize;

    private long CacheBytes(long page, long token, long head, int dim)
    {
        if (_args.PageCount == 0) return 0;
        long elements = (_args.PageCount - 1) * page + (PageTokens - 1) * token + (_problem->KvHeads - 1) * head + dim;
        return elements * ((DType)_problem->KvType).Bits() / 8;
    }

    // Strides, q_start, kv_lens and the block table: pages in random order, more of them than are used, and a table whose
    // unused entries are no pages at all.
    private void LayOut(ref TrialRandom random)
    {
        KnDecodeAttentionProblem p = *_problem;
        int gap = Data.Strided ? 3 : 0, batch = _qLens.Length, size = PageTokens;
        (_args.QHead, _args.QToken) = (p.HeadDim + gap, p.QHeads * (long)(p.HeadDim + gap) + gap);
        (_args.OutHead, _args.OutToken) = (p.VHeadDim + gap, p.QHeads * (long)(p.VHeadDim + gap) + gap);
        _args.LseToken = p.QHeads + gap;
        int major = Data.HeadMajor ? 1 : p.KvHeads, minor = Data.HeadMajor ? size : 1;
        (_args.KToken, _args.KHead, _args.KPage) = Strides(p.HeadDim + gap);
        (_args.VToken, _args.VHead, _args.VPage) = Strides(p.VHeadDim + 2 * gap);
        (_args.ScaleToken, _args.ScaleHead, _args.ScalePage) = Strides(1);
        (long, long, long) Strides(long dim) => (major * dim, minor * dim, (long)size * p.KvHeads * dim + gap);
        var starts = (int*)Own(4L * (batch + 1)).At;
        for (int b = 0; b <= batch; b++) starts[b] = (int)_firstToken[b];
        _args.QStart = Data.NoStarts ? null : starts;
        _args.KvLens = (int*)Own(4L * batch).At;
        _kvLens.CopyTo(new Span<int>(_args.KvLens, batch));
        if (Data.KvLater is { } later)
        {
            _args.KvLater = (int*)Own(4L * batch).At;
            later.CopyTo(new Span<int>(_args.KvLater, batch));
        }
        _args.PageCount = batch;
        if (p.PageSize == 0) return;
        int[] used = [.. _kvLens.Select(l => (int)(((long)l + p.PageSize - 1) / p.PageSize))];
        int[] ids = [.. Enumerable.Range(0, used.Sum() + 3)];
        for (int i = ids.Length - 1; i > 0; i--)
        {
            int j = (int)(random.Next() % (ulong)(i + 1));
            (ids[i], ids[j]) = (ids[j], ids[i]);
        }
        _args.PageCount = ids.Length;
        _args.PagesLd = used.DefaultIfEmpty().Max() + 1;
        _args.Pages = (int*)Own(4 * batch * _args.PagesLd).At;
        new Span<int>(_args.Pages, (int)(batch * _args.PagesLd)).Fill(int.MinValue);
        for (int b = 0, next = 0; b < batch; b++)
            for (int i = 0; i < used[b]; i++) _args.Pages[b * _args.PagesLd + i] = ids[next++];
    }

    private void FillHeads()
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        _args.Scale = Data.Logits is null ? 2 / MathF.Sqrt(p.HeadDim) : 1;
        long qBytes = Tokens == 0 ? 0 : ((Tokens - 1) * _args.QToken + (p.QHeads - 1) * _args.QHead + p.HeadDim) * ((DType)p.QType).Bits() / 8;
        GuardedMemory q = Own(qBytes, 0xff);
        q.Fill(0xff);
        _args.Q = q.At;
        _cache[0].K.Fill(0xff);
        _cache[0].V.Fill(0xff);
        long scales = _args.PageCount == 0 ? 0 : (_args.PageCount - 1) * _args.ScalePage + (PageTokens - 1) * _args.ScaleToken + (p.KvHeads - 1) * _args.ScaleHead + 1;
        if (Has(KnAttentionFlags.Scales)) _args.KScales = Floats(scales);
        if (Has(KnAttentionFlags.Scales)) _args.VScales = Floats(scales);
        if (Has(KnAttentionFlags.Phi)) _args.Phi = Floats(p.QHeads);
        if (Has(KnAttentionFlags.Alibi)) _args.Alibi = Floats(p.QHeads);
        if (Has(KnAttentionFlags.Sinks)) _args.Sinks = Floats(p.QHeads);
        if (Has(KnAttentionFlags.Tree)) _args.Tree = (uint*)Floats(Tokens);
        var random = new TrialRandom(7);  // the same whatever the batch
        for (int h = 0; h < p.QHeads; h++)
        {
            if (_args.Phi != null) _args.Phi[h] = Data.Phi + 0.25f * (h % 3);
            if (_args.Alibi != null) _args.Alibi[h] = h % 5 == 4 ? 0 : random.Uniform(0, 0.2f);
            if (_args.Sinks != null) _args.Sinks[h] = h % 7 == 6 ? float.NegativeInfinity : random.Uniform(-1, 4);
        }
    }

    private TrialRandom RandomOf(int b, int kind, long position, int head)
    {
        ulong content = Data.Content is null ? Data.Seed * 31 + (ulong)b : Data.Content[b];
        var random = new TrialRandom(((content * 8 + (ulong)kind << 28) + (ulong)(position + 64) << 12) + (ulong)head);
        random.Next();
        return random;
    }

    // Keys that none of the tokens sees, for a window or because there are no tokens, stay NaN.
    private void FillSequence(int b)
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        int length = _kvLens[b], count = _qLens[b], fresh = FirstNew(b), lowest = Math.Min(length, DecodeAttentionRules.FirstKey(p, fresh));
        if (count == 0) return;
        bool hostile = Data.Logits is not null && b % 2 == 0;
        for (int t = 0; t < count; t++)
        {
            long token = _firstToken[b] + t;
            if (_args.Tree != null) _args.Tree[token] = Branch(b, t, token);
            for (int h = 0; h < p.QHeads; h++)
            {
                TrialRandom random = RandomOf(b, 1, Has(KnAttentionFlags.Full) ? t : fresh + Data.KeyOffset + t, h);
                long at = token * _args.QToken + h * _args.QHead;
                random.Fill((DType)p.QType, (byte*)_args.Q + at * ((DType)p.QType).Bits() / 8, p.HeadDim * (long)((DType)p.QType).Bits() / 8, hostile ? -8 : 1);
                if (hostile) Encode((DType)p.QType, _args.Q, at, h % 2 == 0 ? 1 : 0.01f);
            }
        }
        for (int j = lowest; j < length; j++)
            for (int h = 0; h < p.KvHeads; h++) FillKey(b, j, h, hostile);
        BytesRead += (length - lowest) * (long)p.KvHeads * ((p.HeadDim + p.VHeadDim) * ((DType)p.KvType).Bits() / 8 + (Has(KnAttentionFlags.Scales) ? 8 : 0));
    }

    private uint Branch(int b, int t, long token)
    {
        TrialRandom random = RandomOf(b, 2, t, 0);
        int parent = t == 0 ? -1 : (int)(random.Next() % (ulong)(t + 1)) - 1;
        return (parent < 0 ? 0 : _args.Tree[token - t + parent]) | 1u << t;
    }

    private void FillKey(int b, int j, int h, bool hostile)
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        (long k, long v, long scale) = Places(b, j, h);
        var type = (DType)p.KvType;
        int bits = type.Bits();
        TrialRandom random = RandomOf(b, 3, j + Data.KeyOffset, h);
        int exponent = type == DType.Int8 ? 0 : 1;
        random.Fill(type, (byte*)_args.K + k * bits / 8, p.HeadDim * (long)bits / 8, hostile ? -3 : exponent);
        random.Fill(type, (byte*)_args.V + v * bits / 8, p.VHeadDim * (long)bits / 8, exponent);
        float unit = type == DType.Int8 ? 1f / 64 : 1;
        if (_args.KScales != null) _args.KScales[scale] = unit * random.Uniform(0.5f, 1);
        if (_args.VScales != null) _args.VScales[scale] = Data.Ones ? 1 : unit * random.Uniform(0.5f, 1);
        if (Data.Ones)
            for (int d = 0; d < p.VHeadDim; d++) Encode(type, _args.V, v + d, 1);
        if (!hostile) return;
        DecodeAttentionLogits logits = Data.Logits!.Value;
        float target = j == _kvLens[b] / 2 && !float.IsNaN(logits.Peak) ? logits.Peak : random.Uniform(logits.Low, logits.High);
        if (type == DType.Int8)
            for (int d = 0; d < p.HeadDim; d++) Encode(type, _args.K, k + d, (d & 3) - 1);
        if (_args.KScales != null) _args.KScales[scale] = Math.Max(Math.Abs(target), 1e-3f) / 96;
        Encode(type, _args.K, k, _args.KScales != null ? MathF.CopySign(96, target) : target);
    }

    /// <summary>Elements at which the key, the value and their scales of key j begin.</summary>
    private (long K, long V, long Scale) Places(int b, int j, int h)
    {
        long page = _problem->PageSize == 0 ? b : _args.Pages[b * _args.PagesLd + j / _problem->PageSize];
        long token = _problem->PageSize == 0 ? j : j % _problem->PageSize;
        return (page * _args.KPage + token * _args.KToken + h * _args.KHead, page * _args.VPage + token * _args.VToken + h * _args.VHead,
            page * _args.ScalePage + token * _args.ScaleToken + h * _args.ScaleHead);
    }

    /// <summary>Keys or values of all sequences as a cache without pages has them, by strides in elements.</summary>
    public void CopyCache(bool values, long batch, long token, long head, byte* to)
    {
        int element = ((DType)_problem->KvType).Bits() / 8, bytes = (values ? _problem->VHeadDim : _problem->HeadDim) * element;
        for (int b = 0; b < _kvLens.Length; b++)
            for (int j = 0; j < _kvLens[b]; j++)
                for (int h = 0; h < _problem->KvHeads; h++)
                {
                    (long k, long v, _) = Places(b, j, h);
                    System.Buffer.MemoryCopy((byte*)(values ? _args.V : _args.K) + (values ? v : k) * element, to + (b * batch + j * token + h * head) * element, bytes, bytes);
                }
    }

    /// <summary>q as [sequence, kv head, new token, head of the group, head_dim], all sequences with as many new tokens.</summary>
    public void CopyQ(byte* to)
    {
        int bytes = _problem->HeadDim * ((DType)_problem->QType).Bits() / 8, group = _problem->QHeads / _problem->KvHeads;
        for (int b = 0; b < _qLens.Length; b++)
            for (int h = 0; h < _problem->QHeads; h++)
                for (int t = 0; t < _qLens[b]; t++)
                {
                    long row = ((b * (long)_problem->KvHeads + h / group) * _qLens[b] + t) * group + h % group;
                    byte* from = (byte*)_args.Q + ((_firstToken[b] + t) * _args.QToken + h * _args.QHead) * ((DType)_problem->QType).Bits() / 8;
                    System.Buffer.MemoryCopy(from, to + row * bytes, bytes, bytes);
                }
    }

    /// <summary>Puts a value in place of one element of a key or, with `value`, of a value; before the first Check.</summary>
    public void SetCache(int b, int j, int head, int d, float to, bool value = false)
    {
        (long k, long v, long scale) = Places(b, j, head);
        var type = (DType)_problem->KvType;
        if (type == DType.Int8) (value ? _args.VScales : _args.KScales)[scale] = to;
        else Encode(type, value ? _args.V : _args.K, (value ? v : k) + d, to);
    }

    public void SetQ(long token, int head, int d, float to) => Encode((DType)_problem->QType, _args.Q, token * _args.QToken + head * _args.QHead + d, to);

    // The norms of the keys that are there; NaN for pages without any.
    private void FillNorms()
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        if (!Has(KnAttentionFlags.Norms)) return;
        _args.KeyNorms = Floats(_args.PageCount * p.KvHeads);
        for (int b = 0; b < _qLens.Length; b++)
            for (int j = 0; j < _kvLens[b]; j++)
                for (int h = 0; h < p.KvHeads; h++)
                {
                    (long k, _, long scale) = Places(b, j, h);
                    double square = 0;
                    for (int d = 0; d < p.HeadDim; d++)
                    {
                        double x = Decode((DType)p.KvType, _args.K, k + d);
                        square += x * x;
                    }
                    double norm = Math.Sqrt(square) * (_args.KScales == null ? 1 : Math.Abs(_args.KScales[scale])) * (1 + 1e-6);
                    long page = p.PageSize == 0 ? b : _args.Pages[b * _args.PagesLd + j / p.PageSize];
                    ref float at = ref _args.KeyNorms[page * p.KvHeads + h];
                    if (norm >= 0 && !(at >= norm)) at = (float)norm;
                }
    }

    internal static double Decode(DType type, void* at, long i) => type switch
    {
        DType.Float32 => ((float*)at)[i],
        DType.BFloat16 => (float)((BFloat16*)at)[i],
        DType.Float16 => (double)((Half*)at)[i],
        DType.Int8 => ((sbyte*)at)[i],
        _ => (float)((Float8E4M3*)at)[i],
    };

    private static void Encode(DType type, void* at, long i, float value)
    {
        switch (type)
        {
            case DType.Float32: ((float*)at)[i] = value; break;
            case DType.BFloat16: ((BFloat16*)at)[i] = (BFloat16)value; break;
            case DType.Float16: ((Half*)at)[i] = (Half)value; break;
            case DType.Int8: ((sbyte*)at)[i] = (sbyte)value; break;
            default: ((Float8E4M3*)at)[i] = Float8E4M3.Saturate(value); break;
        }
    }
}
