using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>
/// NaN or infinity in a row of x spoils that row of y and no other; in a row of w, that column and no other. The oracle says
/// what the spoilt elements must be; all others keep the bits that they have without.
/// </summary>
[TestFixture]
public sealed class NonFinite
{
    private const int M = 7, N = 37, K = 130, Spoilt = 2;

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable())
            for (int i = 0; i < FlatGemmCases.MainKinds.Length; i++)
                if (Accepts(row, Case(i, FlatGemmActivation.None))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, FlatGemmCases.MainKinds[i].ToString());
    }

    private static KnFlatGemmProblem Case(int index, FlatGemmActivation activation, KnGemmFlags flags = KnGemmFlags.None) =>
        FlatGemmCases.Problem(FlatGemmCases.MainKinds[index], M, N, K, activation, flags);

    private static unsafe bool Accepts(Row row, KnFlatGemmProblem problem) => row.Accepts(&problem, row.DefaultLaunch(0), out _);

    private static IEnumerable<KnFlatGemmProblem> Problems(int index)
    {
        foreach (FlatGemmActivation a in Enum.GetValues<FlatGemmActivation>()) yield return Case(index, a);
        yield return Case(index, FlatGemmActivation.Silu, KnGemmFlags.Gated | KnGemmFlags.Residual);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void SpoilsItsOwnRow(string name, int index)
    {
        Row row = Tables.Find(name);
        foreach (KnFlatGemmProblem problem in Problems(index))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity, float.NegativeInfinity])
                foreach (int at in (int[])[0, 64, K - 1])
                    Compare(row, problem, $"{value} at x[{Spoilt}, {at}]", trial => Spoil(trial, at, value), (r, _) => r == Spoilt);
    }

    private static unsafe void Spoil(FlatGemmTrial trial, int at, float value)
    {
        if (trial.Problem.XType == (int)DType.Int8) trial.Args.XScales[Spoilt] = value;
        else trial.SetX(Spoilt, at, value);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void SpoilsItsOwnColumn(string name, int index)
    {
        Row row = Tables.Find(name);
        foreach (KnFlatGemmProblem problem in Problems(index))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity])
                foreach (int column in (int[])[0, 20, N - 1])
                    Compare(row, problem, $"{value} in row {column} of w", trial =>
                    {
                        if ((DType)problem.WType is DType.Int8 or DType.UInt4) trial.SetScale(column, 0, value);
                        else trial.SetW(column, K - 1, value);
                    }, (_, c) => c == column);
    }

    private static void Compare(Row row, KnFlatGemmProblem problem, string what, Action<FlatGemmTrial> spoil, Func<int, int, bool> spoils)
    {
        using var clean = new FlatGemmTrial(problem, 5, strided: true);
        using var spoilt = new FlatGemmTrial(problem, 5, strided: true);
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
