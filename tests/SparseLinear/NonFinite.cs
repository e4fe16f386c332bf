using Kernels.Interop.Native;
using Kernels.Tests.FlatGemm;

namespace Kernels.Tests.SparseLinear;

/// <summary>
/// NaN or infinity in a row of x spoils that row of y and no other, weights of 0 included, as in a dense layer; a stored weight spoils its column.
/// </summary>
[TestFixture]
public sealed class NonFinite
{
    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable(KnOp.SparseLinear))
            for (int i = 0; i < SparseLinearCases.MainKinds.Count; i++)
                if (Accepts(row, Case(i, FlatGemmActivation.None))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, SparseLinearCases.MainKinds[i].ToString());
    }

    private static KnFlatGemmProblem Case(int index, FlatGemmActivation activation, KnGemmFlags flags = KnGemmFlags.None) =>
        FlatGemmCases.Problem(SparseLinearCases.MainKinds[index], SpoiltOperands.M, SpoiltOperands.N, SpoiltOperands.K, activation, flags);

    private static unsafe bool Accepts(Row row, KnFlatGemmProblem layer)
    {
        var problem = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Layer = layer, Nnz = 1 };
        return row.Accepts(&problem, row.DefaultLaunch(0), out _);
    }

    private static IEnumerable<KnFlatGemmProblem> Problems(int index) =>
        [Case(index, FlatGemmActivation.None), Case(index, FlatGemmActivation.Relu), Case(index, FlatGemmActivation.Silu, KnGemmFlags.Gated | KnGemmFlags.Residual)];

    private static FlatGemmTrial Make(KnFlatGemmProblem problem) => new SparseLinearTrial(problem, 5, 0.4, strided: true);

    [TestCaseSource(nameof(RowsByKind))]
    public void XSpoilsItsOwnRow(string name, int index) => SpoiltOperands.OfX(Tables.Find(name, KnOp.SparseLinear), Problems(index), Make);

    [TestCaseSource(nameof(RowsByKind))]
    public void AWeightSpoilsItsOwnColumn(string name, int index) => SpoiltOperands.OfW(Tables.Find(name, KnOp.SparseLinear), Problems(index), Make);
}
