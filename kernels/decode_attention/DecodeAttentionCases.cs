using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A problem and how its operands are made.</summary>
internal sealed record DecodeAttentionCase(KnDecodeAttentionProblem Problem, DecodeAttentionData Data)
{
    public override string ToString() => DecodeAttentionCases.Describe(Problem)
        + (Data.HeadMajor ? " hnd" : "") + (Data.Strided ? " strided" : "") + (Data.Logits is { } l ? $" logits {l.Low}..{l.High}{(float.IsNaN(l.Peak) ? "" : $" peak {l.Peak}")}" : "");
}

/// <summary>The problems that every row is held to.</summary>
internal static unsafe class DecodeAttentionCases
{
    /// <summary>A legal combination of dtypes and scales.</summary>
    internal readonly record struct Kind(DType Q, DType Kv, DType Out, bool Scales = false)
    {
        public override string ToString() => $"{Q.Name()} kv {Kv.Name()}{(Scales ? " scaled" : "")} -> {Out.Name()}";
    }

    /// <summary>One kind per engine; the rest is swept with fewer shapes.</summary>
    public static readonly Kind[] MainKinds =
    [
        new(DType.Float32, DType.Float32, DType.Float32),
        new(DType.BFloat16, DType.BFloat16, DType.BFloat16),
        new(DType.Float16, DType.Float16, DType.Float16),
        new(DType.BFloat16, DType.Int8, DType.BFloat16, true),
        new(DType.BFloat16, DType.Float8E4M3, DType.BFloat16),
    ];

    private static readonly (int Q, int Kv)[] s_heads = [(4, 1), (5, 1), (2, 2), (7, 1), (8, 2), (16, 1), (10, 2), (3, 3), (8, 1), (71, 1)];
    private static readonly (int D, int V)[] s_dims = [(64, 64), (128, 128), (8, 8), (80, 80), (16, 24), (72, 40), (96, 96), (192, 128), (256, 256), (128, 64), (104, 8)];
    private static readonly (int D, int V)[] s_longDims = [(264, 264), (320, 320), (512, 512), (576, 512), (512, 264), (1024, 1024)];
    private static readonly (int D, int V)[] s_unevenDims = [(64, 80), (40, 24), (128, 72), (8, 104)];
    private static readonly int[] s_pages = [16, 0, 17, 64, 1, 5, 128, 256];
    private static readonly int[] s_lengths = [130, 0, 1, 15, 16, 17, 63, 64, 65, 300, 33, 511, 700];

    /// <summary>Every legal combination.</summary>
    public static IEnumerable<Kind> Kinds()
    {
        foreach (DType q in (DType[])[DType.Float32, DType.BFloat16, DType.Float16])
            foreach (DType result in (DType[])[.. new[] { q, DType.Float32 }.Distinct()])
            {
                yield return new(q, q, result);
                yield return new(q, DType.Int8, result, true);
                yield return new(q, DType.Float8E4M3, result);
                yield return new(q, DType.Float8E4M3, result, true);
            }
    }

    public static KnDecodeAttentionProblem Problem(Kind kind, int batch, int qLen, int qHeads, int kvHeads, int headDim, int vHeadDim, int kvLen,
        int pageSize = 16, int window = 0, float softcap = 0, KnAttentionFlags flags = KnAttentionFlags.None) => new()
        {
            Size = (uint)sizeof(KnDecodeAttentionProblem),
            QType = (int)kind.Q,
            KvType = (int)kind.Kv,
            OutType = (int)kind.Out,
            Batch = batch,
            QLen = qLen,
            QHeads = qHeads,
            KvHeads = kvHeads,
            HeadDim = headDim,
            VHeadDim = vHeadDim,
            KvLen = kvLen,
            PageSize = pageSize,
            Window = window,
            Softcap = softcap,
            Flags = (int)(flags | (kind.Scales ? KnAttentionFlags.Scales : 0)),
        };

    public static Kind KindOf(in KnDecodeAttentionProblem p) =>
        new((DType)p.QType, (DType)p.KvType, (DType)p.OutType, (p.Flags & (int)KnAttentionFlags.Scales) != 0);

    /// <summary>The problem in one line, for messages.</summary>
    public static string Describe(in KnDecodeAttentionProblem p) =>
        $"{KindOf(p)} batch {p.Batch} q_len {p.QLen} heads {p.QHeads}/{p.KvHeads} dim {p.HeadDim}{(p.VHeadDim == p.HeadDim ? "" : $"/{p.VHeadDim}")} kv_len {p.KvLen} page {p.PageSize}"
        + (p.Window > 0 ? $" window {p.Window}" : "") + (p.Softcap > 0 ? $" softcap {p.Softcap}" : "")
        + (((KnAttentionFlags)p.Flags & ~KnAttentionFlags.Scales) is var f and not 0 ? $" {f.ToString().ToLowerInvariant()}" : "");

    /// <summary>A few hundred cases. Seeds of the data are seed + index.</summary>
    public static IEnumerable<DecodeAttentionCase> Conformance(ulong seed)
    {
        ulong turn = seed;
        foreach (KnDecodeAttentionProblem p in Problems())
        {
            int t = (int)(turn - seed);
            yield return new(p, new DecodeAttentionData(turn) { HeadMajor = t % 3 == 1, Strided = t % 4 == 2, NoStarts = t % 5 == 4, NoLse = t % 11 == 10 });
            turn++;
        }
        foreach (DecodeAttentionCase ragged in Ragged(turn)) yield return ragged;
        foreach (DecodeAttentionCase fewer in Fewer(turn)) yield return fewer;
        foreach (DecodeAttentionCase part in Parts(turn)) yield return part;
        foreach (DecodeAttentionCase hostile in Hostile(turn)) yield return hostile;
        foreach (DecodeAttentionCase small in Small(turn + 1000)) yield return small;
        foreach (DecodeAttentionCase many in ManyHeads(turn + 2000)) yield return many;
        foreach (DecodeAttentionCase many in ManyRows(turn + 3000)) yield return many;
    }

    /// <summary>Every kind, the masks and the hostile logits once more, in problems so small that a simulated device checks every access of them.</summary>
    private static IEnumerable<DecodeAttentionCase> Small(ulong seed)
    {
        foreach (Kind kind in Kinds()) yield return new(Problem(kind, 2, 3, 4, 2, 24, 16, 70, 16, 0, 0, KnAttentionFlags.Phi), new DecodeAttentionData(seed++));
        foreach (KnDecodeAttentionProblem p in MainKinds.SelectMany(k => Masks(k, small: true))) yield return new(p, new DecodeAttentionData(seed++));
        foreach (DecodeAttentionCase hostile in Hostile(seed))
            yield return hostile with { Problem = hostile.Problem with { Batch = 1, QHeads = 2, KvHeads = 1, HeadDim = 16, VHeadDim = 16, KvLen = 140 } };
    }

    private static IEnumerable<KnDecodeAttentionProblem> Problems()
    {
        const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms;
        int i = 0;
        foreach (Kind kind in MainKinds)
        {
            // Each list in turn against others that change with it; the lengths of a batch go to the edges of pages by themselves.
            foreach ((int q, int kv) in s_heads) yield return Next(kind, q, kv, s_dims[i % 4], s_lengths[i % 13 == 1 ? 0 : i % 13], s_pages[i % 5]);
            foreach ((int, int) dims in s_dims) yield return Next(kind, 4, 2, dims, s_lengths[9 - i % 3], s_pages[i % 5]);
            foreach ((int d, int v) in s_longDims) yield return Problem(kind, 2, 3, 4, 2, d, v, 70, 16, 0, 0, Fixed);
            foreach (int page in s_pages) yield return Next(kind, 4, 1, s_dims[i % 3], Math.Max(page + 1, 100 + i % 40), page);
            foreach (int length in s_lengths) yield return Next(kind, 4, 2, s_dims[i % 4], length, s_pages[i % 4]);
            foreach (KnDecodeAttentionProblem p in Masks(kind)) yield return p;
            yield return Problem(kind, 2, 2, 4, 1, 64, 64, 4200 + 100 * (i++ % 7), 16, 0, 0, Fixed);
            yield return Problem(kind, 0, 1, 4, 1, 64, 64, 100);
        }
        foreach (Kind kind in Kinds())
            for (int j = 0; j < 3; j++) yield return Next(kind, 8, 2, s_dims[j], s_lengths[6 + i % 7], s_pages[i % 5]);

        KnDecodeAttentionProblem Next(Kind kind, int q, int kv, (int D, int V) dims, int length, int page) => Problem(kind, 1 + i % 4, 1 + 3 * (i++ % 3) % 16,
            q, kv, dims.D, dims.V, length, page, 0, 0, i % 2 == 0 ? Fixed : KnAttentionFlags.Phi);
    }

    /// <summary>Windows, masks and what changes scores, one by one and together.</summary>
    private static IEnumerable<KnDecodeAttentionProblem> Masks(Kind kind, bool small = false)
    {
        const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms, Tree = KnAttentionFlags.Tree, Full = KnAttentionFlags.Full,
            Alibi = KnAttentionFlags.Alibi, Sinks = KnAttentionFlags.Sinks;
        foreach ((int window, float softcap, KnAttentionFlags flags, int qLen) in ((int, float, KnAttentionFlags, int)[])
            [
                (1, 0, 0, 4), (5, 0, 0, 3), (64, 0, Fixed, 5), (1000, 0, 0, 1), (0, 0, Tree, 16), (0, 0, Tree | Fixed, 7), (3, 0, Tree, 16),
                (0, 0, Full, 4), (0, 20, Full | Sinks | KnAttentionFlags.Phi, 4), (0, 0, Alibi, 2), (0, 0, Alibi | Tree | Fixed, 9), (0, 30, 0, 4), (0, 50, Fixed, 1),
                (0, 80, Fixed, 2), (0, 0, Sinks, 3), (0, 0, Sinks | Fixed, 1), (9, 20, Sinks | Alibi | KnAttentionFlags.Phi, 8), (40, 15, Sinks | Alibi | Tree | Fixed, 16),
            ])
        {
            if (small)
            {
                yield return Problem(kind, 1, qLen, 3, 1, 16, 24, 100, 16, window, softcap, flags);
                continue;
            }
            yield return Problem(kind, 4, qLen, 6, 2, 64, 64, 150, 16, window, softcap, flags);
            yield return Problem(kind, 3, qLen, 5, 1, 24, 72, 90, 0, window, softcap, flags);
        }
    }

    /// <summary>As many kv heads as a task may walk together, more of them and fewer, with every key seen and not; 16 rows of f32 whose tokens are 4 KB apart.</summary>
    private static IEnumerable<DecodeAttentionCase> ManyHeads(ulong seed)
    {
        const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms;
        foreach (Kind kind in MainKinds)
            foreach ((int qHeads, int kvHeads, int headDim, int qLen, int window, KnAttentionFlags flags) in ((int, int, int, int, int, KnAttentionFlags)[])
                [(33, 33, 128, 1, 0, Fixed), (64, 64, 64, 1, 0, Fixed | KnAttentionFlags.Sinks), (80, 80, 32, 3, 40, Fixed | KnAttentionFlags.Tree), (130, 65, 16, 2, 0, Fixed | KnAttentionFlags.Alibi),
                    (32, 8, 128, 4, 0, Fixed), (8, 4, 256, 8, 0, Fixed)])
                foreach (bool headMajor in (bool[])[false, true])
                    yield return new(Problem(kind, 3, qLen, qHeads, kvHeads, headDim, headDim, 150, 16, window, 0, flags), new DecodeAttentionData(seed++) { HeadMajor = headMajor });
    }

    /// <summary>Around 16 and 32 rows of a kv head, which are multiplied together; widths that fill no line.</summary>
    private static IEnumerable<DecodeAttentionCase> ManyRows(ulong seed)
    {
        foreach (Kind kind in (Kind[])[.. MainKinds, new(DType.Float32, DType.Int8, DType.Float32, true)])
            foreach (int rows in (int[])[11, 12, 15, 16, 17, 23, 24, 31, 32, 33])
            {
                (int d, int v) = s_unevenDims[seed % 4];
                yield return new(Problem(kind, 2, 1, 2 * rows, 2, d, v, 200, seed % 3 == 0 ? 0 : 16, 0, 0, KnAttentionFlags.Phi | KnAttentionFlags.Norms),
                    new DecodeAttentionData(seed) { HeadMajor = seed % 5 == 0, KvLens = [200, 64] });
                seed++;
            }
    }

    /// <summary>One long sequence behind short ones: cut by cost, or as the launch says.</summary>
    private static IEnumerable<DecodeAttentionCase> Ragged(ulong seed)
    {
        const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms;
        foreach (Kind kind in MainKinds)
            foreach ((int window, KnAttentionFlags flags) in ((int, KnAttentionFlags)[])[(0, Fixed), (1700, KnAttentionFlags.Phi), (0, Fixed | KnAttentionFlags.Invariant)])
                yield return new(Problem(kind, 6, 2, 4, 2, 64, 64, 2500, 16, window, 0, flags),
                    new DecodeAttentionData(seed++) { KvLens = [70, 0, 300, 1, 2500, 64], QLens = [2, 1, 1, 2, 2, 0] });
    }

    /// <summary>As many new tokens for each sequence without a q_start, but fewer than the problem has at most.</summary>
    private static IEnumerable<DecodeAttentionCase> Fewer(ulong seed)
    {
        foreach (Kind kind in MainKinds)
            foreach ((int qLen, KnAttentionFlags flags) in ((int, KnAttentionFlags)[])[(1, KnAttentionFlags.Phi | KnAttentionFlags.Norms), (3, KnAttentionFlags.Tree), (0, 0)])
                yield return new(Problem(kind, 3, 4, 8, 2, 64, 64, 150, 16, 0, 0, flags),
                    new DecodeAttentionData(seed++) { KvLens = [150, 20, 0], QLens = [qLen, qLen, qLen], NoStarts = true });
    }

    /// <summary>The first keys of sequences whose other tokens lie elsewhere: none, some or all of the new ones among those here.</summary>
    private static IEnumerable<DecodeAttentionCase> Parts(ulong seed)
    {
        const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms, Tree = KnAttentionFlags.Tree;
        foreach (Kind kind in (Kind[])[.. MainKinds, new(DType.Float32, DType.Int8, DType.Float32, true)])
            foreach ((int window, KnAttentionFlags flags) in ((int, KnAttentionFlags)[])
                [(0, Fixed), (30, Fixed), (0, KnAttentionFlags.Alibi), (30, Tree | Fixed), (0, Tree | KnAttentionFlags.Alibi | Fixed), (0, KnAttentionFlags.Full), (5, KnAttentionFlags.Sinks | Fixed)])
                yield return new(Problem(kind, 5, 4, 4, 2, 24, 16, 150, 16, window, 0, flags),
                    new DecodeAttentionData(seed++) { KvLens = [150, 70, 0, 90, 3], QLens = [4, 4, 2, 3, 4], KvLater = [2, 20, 5, 1000, 2] });
    }

    /// <summary>
    /// Logits that a careless softmax does not survive: 860 nats apart (OPT-6.7B), above 94 with phi = 5, far below phi, below every
    /// lower limit, and values of which every mean is 1, as the output is where no sink takes a part of it.
    /// </summary>
    public static IEnumerable<DecodeAttentionCase> Hostile(ulong seed)
    {
        const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms;
        DecodeAttentionLogits[] logits = [new(-490, 370), new(0, 10, 96), new(-3, 3, 120), new(-62, -58), new(-82, -78), new(-120, -100), new(-200, 90), new(20, 24)];
        ulong turn = 0;
        foreach (Kind kind in (Kind[])[.. MainKinds, new(DType.Float32, DType.Int8, DType.Float32, true)])
            foreach (DecodeAttentionLogits l in logits)
                foreach (KnAttentionFlags more in (KnAttentionFlags[])[0, KnAttentionFlags.Sinks])
                    yield return new(Problem(kind, 3, 2, 4, 2, 64, 64, turn % 3 == 0 ? 1300 : 200, 16, 0, 0, Fixed | more),
                        new DecodeAttentionData(seed + turn) { Logits = l, Phi = 5, Ones = turn++ % 5 < 2 });
    }
}
