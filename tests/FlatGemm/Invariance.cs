using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>
/// Rows with the same tag of bits give a row of work the same bits, whatever m, position, launch parameters, threads and rows.
/// x holds three different rows in turn, so every row of y must be one of three.
/// </summary>
[TestFixture]
public sealed class Invariance
{
    private const int Period = 3;
    private static readonly Dictionary<(string Tag, int Case), (string Who, byte[][] Bits)> s_first = [];

    /// <summary>k crosses the blocks of every row, n their panels; gated where the kind's turn is odd.</summary>
    private static KnFlatGemmProblem Case(int index, int m) => FlatGemmCases.Problem(FlatGemmCases.MainKinds[index], m, 37, 2200,
        FlatGemmActivation.Silu, KnGemmFlags.Bias | KnGemmFlags.Residual | (index % 2 == 0 ? 0 : KnGemmFlags.Gated));

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable())
            for (int i = 0; i < FlatGemmCases.MainKinds.Length; i++)
                if (MostRows(row, i) > 0) yield return new TestCaseData(name, i).SetArgDisplayNames(name, FlatGemmCases.MainKinds[i].ToString());
    }

    private static unsafe int MostRows(Row row, int index)
    {
        foreach (int m in (int[])[64, 12, 1])
        {
            KnFlatGemmProblem problem = Case(index, m);
            if (row.Accepts(&problem, row.DefaultLaunch(0), out _)) return m;
        }
        return 0;
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void BitsDependOnTheRowAlone(string name, int index)
    {
        Row row = Tables.Find(name);
        int most = MostRows(row, index);
        using var trial = new FlatGemmTrial(Case(index, most), 11);
        trial.Repeat(Period);
        foreach (int threads in (int[])[0, 1, 2])
            for (int m = 1; m <= most; m++) Compare(row, trial, row.DefaultLaunch(threads), m, index);
        foreach (KnLaunch launch in row.Launches(0))
            foreach (int m in (int[])[1, 5, 11, 33, most])
                if (m <= most) Compare(row, trial, launch, m, index);
        // The m that a plan was made for chooses blocks as well.
        foreach (int planned in (int[])[1, 2, 7, 12])
        {
            using var small = new FlatGemmTrial(Case(index, planned), 11);
            small.Repeat(Period);
            Compare(row, small, row.DefaultLaunch(0), planned, index);
        }
    }

    private static void Compare(Row row, FlatGemmTrial trial, in KnLaunch launch, int m, int index)
    {
        bool prepared = trial.Prepare(row, launch, out _, out string error);
        Assert.That(prepared, error);
        trial.Poison();
        KnStatus status = trial.Run(row, launch, m);
        Assert.That(status, Is.EqualTo(KnStatus.Ok), row.LastError);
        string what = $"{row.Name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}], threads {launch.Threads}, m {m} of {trial.Problem.M}";
        (string, int) key = (row.Bits ?? row.Name, index);
        for (int r = 0; r < m; r++)
        {
            // Row r < Period of the first run that has it is the reference of its tag.
            if (!s_first.TryGetValue(key, out (string Who, byte[][] Bits) first)) s_first[key] = first = (what, new byte[Period][]);
            byte[] expected = first.Bits[r % Period] ??= trial.Output(r).ToArray();
            if (!trial.Output(r).SequenceEqual(expected)) Assert.Fail($"{what}: row {r} has other bits than in {first.Who}");
        }
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void TheFirstOfThemIsRight(string name, int index)
    {
        Row row = Tables.Find(name);
        using var trial = new FlatGemmTrial(Case(index, MostRows(row, index)), 11, sampleRows: 5);
        trial.Repeat(Period);
        KnLaunch launch = row.DefaultLaunch(0);
        Assert.That(trial.Prepare(row, launch, out _, out string error), error);
        Assert.That(trial.Run(row, launch, trial.Problem.M), Is.EqualTo(KnStatus.Ok));
        FlatGemmVerdict verdict = trial.Check(trial.Problem.M);
        Assert.That(verdict.Ok, verdict.ToString());
    }
}
