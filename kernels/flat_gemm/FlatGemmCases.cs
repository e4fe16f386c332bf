using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The small problems that every row is held to. One list: tests, and whoever checks a new row, read it.</summary>
internal static unsafe class FlatGemmCases
{
    /// <summary>A legal combination of dtypes and of the flags that belong to it.</summary>
    internal readonly record struct Kind(DType X, DType W, DType Y, int Group = 0, KnGemmFlags Flags = KnGemmFlags.None)
    {
        public override string ToString() => $"{X.Name()} x {W.Name()}{(Group == 0 ? "" : $"/{Group}")} -> {Y.Name()}"
            + (Flags == KnGemmFlags.None ? "" : $" {Flags.ToString().ToLowerInvariant()}");
    }

    private static readonly int[] s_m = [0, 1, 2, 3, 4, 8, 12, 16, 17, 24, 31, 32, 33, 48, 64, 70, 118, 128, 152];
    private static readonly int[] s_n = [1, 7, 15, 16, 17, 33, 77, 160];
    private static readonly int[] s_k = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 500, 1728];
    private static readonly DType[] s_floats = [DType.BFloat16, DType.Float16, DType.Float32];
    private static readonly DType[] s_outputs = [DType.BFloat16, DType.Float32];

    /// <summary>One kind per engine and weight dtype; the whole list of kinds is swept with fewer shapes.</summary>
    public static readonly Kind[] MainKinds =
    [
        new(DType.BFloat16, DType.BFloat16, DType.BFloat16),
        new(DType.Float32, DType.Float32, DType.Float32),
        new(DType.Float16, DType.Float16, DType.Float16),
        new(DType.BFloat16, DType.Int8, DType.BFloat16),
        new(DType.BFloat16, DType.Int8, DType.BFloat16, 0, KnGemmFlags.QuantizeX),
        new(DType.Int8, DType.Int8, DType.Float32),
        new(DType.BFloat16, DType.UInt4, DType.BFloat16, 128, KnGemmFlags.Zeros),
        new(DType.BFloat16, DType.UInt4, DType.Float32, 32),
    ];

    /// <summary>Every legal combination of dtypes, groups and zero points.</summary>
    public static IEnumerable<Kind> Kinds()
    {
        yield return new(DType.Float32, DType.Float32, DType.Float32);
        foreach (DType w in (DType[])[DType.BFloat16, DType.Float16])
            foreach (DType x in s_floats)
                foreach (DType y in s_floats)
                    yield return new(x, w, y);
        foreach (DType y in s_outputs)
        {
            yield return new(DType.Int8, DType.Int8, y);
            yield return new(DType.BFloat16, DType.Int8, y);
            yield return new(DType.BFloat16, DType.Int8, y, 0, KnGemmFlags.QuantizeX);
            yield return new(DType.Float32, DType.Int8, y, 0, KnGemmFlags.QuantizeX);
            foreach (int group in (int[])[32, 64, 128])
            {
                yield return new(DType.BFloat16, DType.UInt4, y, group);
                yield return new(DType.BFloat16, DType.UInt4, y, group, KnGemmFlags.Zeros);
            }
        }
    }

    public static KnFlatGemmProblem Problem(Kind kind, int m, int n, int k,
        FlatGemmActivation activation = FlatGemmActivation.None, KnGemmFlags flags = KnGemmFlags.None) => new()
        {
            Size = (uint)sizeof(KnFlatGemmProblem),
            XType = (int)kind.X,
            WType = (int)kind.W,
            YType = (int)kind.Y,
            M = m,
            N = n,
            K = k,
            Group = kind.Group,
            Activation = (int)activation,
            Flags = (int)(kind.Flags | flags),
        };

    /// <summary>The kind of a problem.</summary>
    public static Kind KindOf(in KnFlatGemmProblem p) => new((DType)p.XType, (DType)p.WType, (DType)p.YType, p.Group,
        (KnGemmFlags)p.Flags & (KnGemmFlags.Zeros | KnGemmFlags.QuantizeX));

    /// <summary>m x n x k, kind, and what follows the product: for messages.</summary>
    public static string Describe(in KnFlatGemmProblem p) =>
        $"{p.M} x {p.N} x {p.K} {KindOf(p)} {(FlatGemmActivation)p.Activation} "
        + ((KnGemmFlags)p.Flags & (KnGemmFlags.Bias | KnGemmFlags.Residual | KnGemmFlags.Gated)).ToString();

    /// <summary>A few hundred problems, without repetitions.</summary>
    public static IEnumerable<KnFlatGemmProblem> Conformance() => All().Distinct();

    private static IEnumerable<KnFlatGemmProblem> All()
    {
        int turn = 0;
        foreach (Kind kind in MainKinds)
        {
            // m against short n and k that change with it, then n, then k, each past every block edge of the rows.
            foreach (int m in s_m) yield return Problem(kind, m, s_n[turn % 6], s_k[1 + turn++ % 11], FlatGemmActivation.None, Extras(turn));
            foreach (int n in s_n) yield return Problem(kind, 5 + turn % 3, n, 129 + 32 * (turn++ % 4), FlatGemmActivation.None, Extras(turn));
            foreach (int k in s_k) yield return Problem(kind, 3 + 9 * (turn % 2), s_n[turn++ % 6], k, FlatGemmActivation.None, Extras(turn));
            yield return Problem(kind, 3, 0, 64);
            foreach (KnFlatGemmProblem p in Epilogues(kind)) yield return p;
        }
        foreach (Kind kind in Kinds())
            for (int i = 0; i < 3; i++, turn++)
                yield return Problem(kind, s_m[1 + turn % 14], s_n[turn % 7], s_k[1 + turn * 5 % 12], (FlatGemmActivation)(turn % 5), Extras(turn));
        yield return Problem(MainKinds[0], 768, 7, 64, FlatGemmActivation.Silu, KnGemmFlags.Gated);
        yield return Problem(MainKinds[0], 1024, 17, 96);
        yield return Problem(MainKinds[4], 1024, 7, 64);
        yield return Problem(MainKinds[6], 768, 16, 129);
        // More k than one s32 or f32 holds of full-scale products: exact rows must refuse or split.
        yield return Problem(MainKinds[5], 2, 3, 70000);
        yield return Problem(MainKinds[4], 2, 3, 70000);
        yield return Problem(MainKinds[0], 1, 18, 9000, FlatGemmActivation.None, KnGemmFlags.Residual);
        // Every kind with rows of w of whole 16 bytes, which tensor copies need, so small that a simulated device checks it.
        foreach (Kind kind in Kinds()) yield return Problem(kind, 5, 19, 128, FlatGemmActivation.None, Extras(turn++));
        // Prefill: more rows than a block of any row has, with one left over, and the most that is promised.
        foreach (Kind kind in MainKinds)
        {
            yield return Problem(kind, 1025, 18, 40, FlatGemmActivation.None, Extras(turn++));
            yield return Problem(kind, 4096, 7, 33, FlatGemmActivation.None, Extras(turn++));
        }
    }

    /// <summary>Every activation, gated and not, with every combination of bias and residual, on a shape with tails everywhere.</summary>
    private static IEnumerable<KnFlatGemmProblem> Epilogues(Kind kind)
    {
        for (int i = 0; i < 4; i++)
        {
            KnGemmFlags extras = Extras(i);
            for (int a = 0; a < 5; a++) yield return Problem(kind, 6, 19, 97, (FlatGemmActivation)a, extras);
            yield return Problem(kind, 6, 19, 97, FlatGemmActivation.Silu, extras | KnGemmFlags.Gated);
            yield return Problem(kind, 37, 33, 65, FlatGemmActivation.Silu, extras | KnGemmFlags.Gated);
        }
    }

    private static KnGemmFlags Extras(int i) =>
        (i & 1) != 0 ? (i & 2) != 0 ? KnGemmFlags.Bias | KnGemmFlags.Residual : KnGemmFlags.Bias
        : (i & 2) != 0 ? KnGemmFlags.Residual : KnGemmFlags.None;
}
