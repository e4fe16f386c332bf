using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>
/// NaN or infinity in the operands of a linear layer: the oracle says what the spoilt elements of y must be, and all others keep the
/// bits that they have without.
/// </summary>
internal static class SpoiltOperands
{
    public const int M = 7, N = 37, K = 130;
    private const int SpoiltRow = 2;

    /// <summary>In a row of x: that row of y and no other.</summary>
    public static unsafe void OfX(Row row, IEnumerable<KnFlatGemmProblem> problems, Func<KnFlatGemmProblem, FlatGemmTrial> make)
    {
        foreach (KnFlatGemmProblem problem in problems)
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity, float.NegativeInfinity])
                foreach (int at in (int[])[0, 64, K - 1])
                    Compare(row, problem, make, $"{value} at x[{SpoiltRow}, {at}]", trial =>
                    {
                        if ((DType)problem.XType == DType.Int8) trial.Args.XScales[SpoiltRow] = value;
                        else trial.SetX(SpoiltRow, at, value);
                    }, (r, _) => r == SpoiltRow);
    }

    /// <summary>In a row of w, its scales where it has them: that column of y and no other.</summary>
    public static void OfW(Row row, IEnumerable<KnFlatGemmProblem> problems, Func<KnFlatGemmProblem, FlatGemmTrial> make)
    {
        foreach (KnFlatGemmProblem problem in problems)
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity])
                foreach (int column in (int[])[0, 20, N - 1])
                    Compare(row, problem, make, $"{value} in row {column} of w", trial =>
                    {
                        if ((DType)problem.WType is DType.Int8 or DType.UInt4) trial.SetScale(column, 0, value);
                        else trial.SetW(column, K - 1, value);
                    }, (_, c) => c == column);
    }

    private static void Compare(Row row, KnFlatGemmProblem problem, Func<KnFlatGemmProblem, FlatGemmTrial> make, string what, Action<FlatGemmTrial> spoil, Func<int, int, bool> spoils)
    {
        using FlatGemmTrial clean = make(problem), spoilt = make(problem);
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
