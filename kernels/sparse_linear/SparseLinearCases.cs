using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A layer, where its weights are not 0, and what a call brings.</summary>
internal readonly record struct SparseLinearCase(KnFlatGemmProblem Layer, double Density, SparsePattern Pattern, KnSparseSets Sets)
{
    public override string ToString() => $"{FlatGemmCases.Describe(Layer)}, {Pattern} {Density}, sets {Sets}";
}

/// <summary>The small problems that every row is held to: those of flat_gemm, with all there is to be sparse about taking turns.</summary>
internal static class SparseLinearCases
{
    private static readonly double[] s_densities = [0.5, 0.2, 0.99, 0.01, 0.8];

    /// <summary>The kinds of flat_gemm with weights that can be sparse.</summary>
    public static IReadOnlyList<FlatGemmCases.Kind> MainKinds { get; } = [.. FlatGemmCases.MainKinds.Where(k => k.W != DType.UInt4)];

    public static IEnumerable<FlatGemmCases.Kind> Kinds() => FlatGemmCases.Kinds().Where(k => k.W != DType.UInt4);

    public static IEnumerable<SparseLinearCase> Conformance()
    {
        int turn = 0;
        foreach (KnFlatGemmProblem layer in FlatGemmCases.Conformance().Where(p => p.WType != (int)DType.UInt4))
        {
            SparsePattern pattern = turn % 3 == 0 ? (SparsePattern)(turn / 3 % 8) : SparsePattern.Random;
            yield return new SparseLinearCase(layer, s_densities[turn % 5], pattern, (KnSparseSets)(turn % 4 == 3 ? 1 + turn / 4 % 3 : 0));
            turn++;
        }
        foreach (FlatGemmCases.Kind kind in MainKinds)
            foreach (SparsePattern pattern in Enum.GetValues<SparsePattern>())
                for (int sets = 0; sets < 4; sets++)
                    yield return new SparseLinearCase(FlatGemmCases.Problem(kind, 5 + 20 * (sets % 2), 83, 333, FlatGemmActivation.Silu,
                        sets % 2 == 0 ? KnGemmFlags.Bias | KnGemmFlags.Residual : KnGemmFlags.Gated | KnGemmFlags.Bias), 0.4, pattern, (KnSparseSets)sets);
    }
}
