using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>NaN or infinity in a row of x spoils that row of y and no other; in a row of w, that column and no other.</summary>
[TestFixture]
public sealed class NonFinite
{
    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable())
            for (int i = 0; i < FlatGemmCases.MainKinds.Length; i++)
                if (Accepts(row, Case(i, FlatGemmActivation.None))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, FlatGemmCases.MainKinds[i].ToString());
    }

    private static KnFlatGemmProblem Case(int index, FlatGemmActivation activation, KnGemmFlags flags = KnGemmFlags.None) =>
        FlatGemmCases.Problem(FlatGemmCases.MainKinds[index], SpoiltOperands.M, SpoiltOperands.N, SpoiltOperands.K, activation, flags);

    private static unsafe bool Accepts(Row row, KnFlatGemmProblem problem) => row.Accepts(&problem, row.DefaultLaunch(0), out _);

    private static IEnumerable<KnFlatGemmProblem> Problems(int index)
    {
        foreach (FlatGemmActivation a in Enum.GetValues<FlatGemmActivation>()) yield return Case(index, a);
        yield return Case(index, FlatGemmActivation.Silu, KnGemmFlags.Gated | KnGemmFlags.Residual);
    }

    private static FlatGemmTrial Make(KnFlatGemmProblem problem) => new(problem, 5, strided: true);

    [TestCaseSource(nameof(RowsByKind))]
    public void SpoilsItsOwnRow(string name, int index) => SpoiltOperands.OfX(Tables.Find(name), Problems(index), Make);

    [TestCaseSource(nameof(RowsByKind))]
    public void SpoilsItsOwnColumn(string name, int index) => SpoiltOperands.OfW(Tables.Find(name), Problems(index), Make);
}
