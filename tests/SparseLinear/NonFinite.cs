using Kernels.Interop.Native;

namespace Kernels.Tests.SparseLinear;

/// <summary>
/// NaN or infinity in a row of x spoils that row of y and no other, weights of 0 included, as in a dense layer; a stored weight spoils its column.
/// The oracle says what the spoilt elements must be; all others keep the bits that they have without.
/// </summary>
[TestFixture]
public sealed class NonFinite
{
    private const int M = 7, N = 37, K = 130, Spoilt = 2;

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable(KnOp.SparseLinear))
            for (int i = 0; i < SparseLinearCases.MainKinds.Count; i++)
                if (Accepts(row, Case(i, FlatGemmActivation.None))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, SparseLinearCases.MainKinds[i].ToString());
    }

    private static KnFlatGemmProblem Case(int index, FlatGemmActivation activation, KnGemmFlags flags = KnGemmFlags.None) =>
        FlatGemmCases.Problem(SparseLinearCases.MainKinds[index], M, N, K, activation, flags);

    private static unsafe bool Accepts(Row row, KnFlatGemmProblem layer)
    {
        var problem = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Layer = layer, Nnz = 1 };
        return row.Accepts(&problem, row.DefaultLaunch(0), out _);
    }

    private static IEnumerable<KnFlatGemmProblem> Problems(int index) =>
        [Case(index, FlatGemmActivation.None), Case(index, FlatGemmActivation.Relu), Case(index, FlatGemmActivation.Silu, KnGemmFlags.Gated | KnGemmFlags.Residual)];

    [TestCaseSource(nameof(RowsByKind))]
    public unsafe void XSpoilsItsOwnRow(string name, int index)
    {
        foreach (KnFlatGemmProblem problem in Problems(index))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity, float.NegativeInfinity])
                foreach (int at in (int[])[0, 64, K - 1])
                    Compare(name, problem, $"{value} at x[{Spoilt}, {at}]", trial =>
                    {
                        if ((DType)problem.XType == DType.Int8) trial.Args.XScales[Spoilt] = value;
                        else trial.SetX(Spoilt, at, value);
                    }, (r, _) => r == Spoilt);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void AWeightSpoilsItsOwnColumn(string name, int index)
    {
        foreach (KnFlatGemmProblem problem in Problems(index))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity])
                foreach (int column in (int[])[0, 20, N - 1])
                    Compare(name, problem, $"{value} in row {column} of w", trial =>
                    {
                        if ((DType)problem.WType == DType.Int8) trial.SetScale(column, 0, value);
                        else trial.SetW(column, K - 1, value);
                    }, (_, c) => c == column);
    }

    private static void Compare(string name, KnFlatGemmProblem problem, string what, Action<FlatGemmTrial> spoil, Func<int, int, bool> spoils)
    {
        Row row = Tables.Find(name, KnOp.SparseLinear);
        using var clean = new SparseLinearTrial(problem, 5, 0.4, strided: true);
        using var spoilt = new SparseLinearTrial(problem, 5, 0.4, strided: true);
        spoil(spoilt);
        what = $"{row.Name}, {FlatGemmCases.Describe(problem)}: {what}";
        Run(row, clean, what);
        FlatGemmVerdict verdict = Run(row, spoilt, what);
        int bytes = ((DType)problem.YType).Bits() / 8;
        for (int r = 0; r < M; r++)
            for (int c = 0; c < N; c++)
                if (!spoils(r, c) && !clean.Output(r).Slice(c * bytes, bytes).SequenceEqual(spoilt.Output(r).Slice(c * bytes, bytes)))
                    Assert.Fail($"{what}: [{r}, {c}] changed");
        if (!verdict.Ok) Assert.Fail($"{what}: {verdict}");
    }

    private static FlatGemmVerdict Run(Row row, FlatGemmTrial trial, string what)
    {
        KnLaunch launch = row.DefaultLaunch(0);
        if (!trial.Prepare(row, launch, out _, out string error)) Assert.Fail($"{what}: {error}");
        KnStatus status = trial.Run(row, launch, M);
        if (status != KnStatus.Ok) Assert.Fail($"{what}: {status} {row.LastError}");
        return trial.Check(M);
    }
}
