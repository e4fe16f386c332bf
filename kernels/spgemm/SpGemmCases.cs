using Kernels.Interop.Native;

namespace Kernels;

/// <summary>One product for tests: operands, and what is asked of it.</summary>
internal sealed record SpGemmCase(string Matrix, SparseStructure A, SparseStructure B, DType Type, int IndexBytes, Semiring Semiring, KnSpgemmFlags Flags)
{
    public override string ToString() => $"{Matrix} {Type.Name()} i{8 * IndexBytes} {Semiring} {Flags}";

    public unsafe KnSpgemmProblem Problem => new()
    {
        Size = (uint)sizeof(KnSpgemmProblem),
        Type = (int)Type,
        IndexBytes = IndexBytes,
        Semiring = (int)Semiring,
        Flags = (int)(Flags | KnSpgemmFlags.BSorted),
        M = A.Rows,
        K = A.Columns,
        N = B.Columns,
        ANnz = A.NonZeros,
        BNnz = B.NonZeros,
    };
}

/// <summary>The cases of spgemm: every kind of matrix with the usual product, and every option on a few of them.</summary>
internal static class SpGemmCases
{
    private static readonly Lazy<(string Name, SparseStructure A, SparseStructure B)[]> s_matrices = new(() =>
    [
        Square("rmat 9", SpGemmMatrices.Rmat(9, 8, 1)),
        Square("laplace2d 20", SpGemmMatrices.Laplace2D(20)),
        Square("laplace3d 7", SpGemmMatrices.Laplace3D(7)),
        Square("stencil", SpGemmMatrices.Stencils(150, [-1, 0, 1])),
        Square("stencil of seven", SpGemmMatrices.Stencils(200, [-30, -9, -1, 0, 1, 9, 30])),
        Square("stencils in turn", SpGemmMatrices.Stencils(150, [-4, -1, 0, 2, 5, 6], [-3, 0, 1, 2, 4, 9])),
        Square("banded", SpGemmMatrices.Banded(60, 3, 2, 2)),
        Square("uniform", SpGemmMatrices.Uniform(700, 700, 6, 3)),
        Square("uniform dense", SpGemmMatrices.Uniform(130, 130, 60, 4)),
        Square("power law", SpGemmMatrices.PowerLaw(400, 4, 5)),
        Square("identity", SpGemmMatrices.Identity(33)),
        ("permuted", SpGemmMatrices.Permutation(300, 6), SpGemmMatrices.Uniform(300, 200, 5, 7)),
        ("rectangular", SpGemmMatrices.Uniform(100, 80, 7, 8), SpGemmMatrices.Uniform(80, 600, 20, 9)),
        ("wide", SpGemmMatrices.Uniform(40, 50, 9, 10), SpGemmMatrices.Uniform(50, 3_000_000, 30, 11)),
        ("wide and heavy", SpGemmMatrices.Uniform(3, 3000, 2500, 12), SpGemmMatrices.Uniform(3000, 9_000_000, 4, 13)),
        ("row times column", SpGemmMatrices.Uniform(1, 500, 5000, 14), SpGemmMatrices.Uniform(500, 1, 1, 15)),
        ("column times row", SpGemmMatrices.Uniform(200, 1, 1, 16), SpGemmMatrices.Uniform(1, 900, 9000, 17)),
        ("A times its transpose", SpGemmMatrices.Uniform(90, 70, 6, 18), SpGemmMatrices.Transpose(SpGemmMatrices.Uniform(90, 70, 6, 18))),
        ("ends that meet", SpGemmMatrices.Cyclic(8, 2), SpGemmMatrices.Ends(2048)),
        ("no entries", SpGemmMatrices.Empty(5, 4), SpGemmMatrices.Empty(4, 6)),
        ("no entries in B", SpGemmMatrices.Uniform(5, 4, 2, 19), SpGemmMatrices.Empty(4, 6)),
        ("0 x 12 x 5", SpGemmMatrices.Empty(0, 12), SpGemmMatrices.Uniform(12, 5, 2, 20)),
        ("10 x 10 x 0", SpGemmMatrices.Uniform(10, 10, 2, 21), SpGemmMatrices.Empty(10, 0)),
        ("0 x 0 x 0", SpGemmMatrices.Empty(0, 0), SpGemmMatrices.Empty(0, 0)),
        ("7 x 0 x 8", SpGemmMatrices.Empty(7, 0), SpGemmMatrices.Empty(0, 8)),
    ]);

    public static IEnumerable<(string Name, SparseStructure A, SparseStructure B)> Matrices => s_matrices.Value;

    private static (string, SparseStructure, SparseStructure) Square(string name, SparseStructure x) => (name, x, x);

    public static IEnumerable<SpGemmCase> All()
    {
        foreach ((string name, SparseStructure a, SparseStructure b) in Matrices)
            foreach (DType type in (DType[])[DType.Float64, DType.Float32, DType.None])
                foreach (int index in (int[])[4, 8])
                    yield return new SpGemmCase(name, a, b, type, index, Semiring.PlusTimes, KnSpgemmFlags.None);
        foreach ((string name, SparseStructure a, SparseStructure b) in Matrices)
        {
            foreach (KnSpgemmFlags flags in s_flags)
                yield return new SpGemmCase(name, a, b, DType.Float64, flags.HasFlag(KnSpgemmFlags.Accumulate) ? 8 : 4, Semiring.PlusTimes, flags);
            foreach (Semiring semiring in Enum.GetValues<Semiring>())
                foreach (DType type in (DType[])[DType.Float64, DType.Float32])
                    yield return new SpGemmCase(name, a, b, type, 4, semiring, semiring is Semiring.MaxPlus or Semiring.PlusPair ? KnSpgemmFlags.Accumulate : KnSpgemmFlags.None);
            yield return new SpGemmCase(name, a, b, DType.None, 4, Semiring.PlusTimes, KnSpgemmFlags.Mask | KnSpgemmFlags.Accumulate);
            yield return new SpGemmCase(name, a, b, DType.Float32, 8, Semiring.MinPlus, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement | KnSpgemmFlags.Accumulate);
            yield return new SpGemmCase(name, a, b, DType.Float32, 4, Semiring.OrAnd, KnSpgemmFlags.Mask | KnSpgemmFlags.Valued);
            yield return new SpGemmCase(name, a, b, DType.Float32, 8, Semiring.PlusPair, KnSpgemmFlags.Mask | KnSpgemmFlags.Valued | KnSpgemmFlags.Complement);
            yield return new SpGemmCase(name, a, b, DType.None, 8, Semiring.PlusTimes, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement);
        }
    }

    private static readonly KnSpgemmFlags[] s_flags =
    [
        KnSpgemmFlags.Mask | KnSpgemmFlags.Valued, KnSpgemmFlags.Mask | KnSpgemmFlags.Valued | KnSpgemmFlags.Complement | KnSpgemmFlags.Accumulate,
        KnSpgemmFlags.Unsorted, KnSpgemmFlags.Mask, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement, KnSpgemmFlags.Accumulate,
        KnSpgemmFlags.Mask | KnSpgemmFlags.Accumulate, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement | KnSpgemmFlags.Accumulate | KnSpgemmFlags.Unsorted,
    ];
}
