using Kernels.Interop.Native;

namespace Kernels.Perf;

internal sealed partial class FlatGemmOperation
{
    private const ulong Seed = 20260101;
    private const int MostFaults = 3;

    private sealed class Tally
    {
        public int Cases, Refused;
        public double Fraction, Ulp, Relative;
        public List<string> Faults { get; } = [];
    }

    public override IEnumerable<CheckResult> Check(KernelTable table, Row row)
    {
        var tallies = new Dictionary<string, Tally>();
        int index = 0;
        foreach (KnFlatGemmProblem problem in FlatGemmCases.Conformance())
        {
            string kind = FlatGemmCases.KindOf(problem).ToString();
            if (!tallies.TryGetValue(kind, out Tally? tally)) tallies[kind] = tally = new Tally();
            Try(row, problem, index++, tally);
        }
        foreach ((string kind, Tally t) in tallies)
            yield return new CheckResult(row.Name, kind, t.Cases, t.Refused, t.Fraction, [("worst ulp", t.Ulp), ("worst relative", t.Relative)], t.Faults);
    }

    /// <summary>One case: strided and dense operands, launches and thread bounds take turns.</summary>
    private static void Try(Row row, in KnFlatGemmProblem problem, int index, Tally tally)
    {
        KnLaunch[] launches = [.. row.Launches(index % 3)];
        KnLaunch launch = index % 2 == 0 ? launches[0] : launches[index * 7 % launches.Length];
        using var trial = new FlatGemmTrial(problem, Seed + (ulong)index, strided: index % 2 == 1);
        if (!trial.Prepare(row, launch, out KnStatus status, out string error))
        {
            if (status == KnStatus.Unsupported) tally.Refused++;
            else Fault(tally, $"{FlatGemmCases.Describe(problem)}: {error}");
            return;
        }
        tally.Cases++;
        int m = problem.M;
        foreach (int rows in (int[])[.. new[] { m, 1, m / 2 }.Where(r => r >= 0 && r <= m).Distinct()])
        {
            trial.Poison();
            status = trial.Run(row, launch, rows);
            FlatGemmVerdict verdict = status == KnStatus.Ok ? trial.Check(rows) : new FlatGemmVerdict(false, 0, 0, 0, 0, 0, 0, 0, $"{(Status)status}: {row.LastError}");
            tally.Fraction = Math.Max(tally.Fraction, verdict.Fraction);
            tally.Ulp = Math.Max(tally.Ulp, verdict.Ulp);
            tally.Relative = Math.Max(tally.Relative, verdict.Relative);
            if (!verdict.Ok) Fault(tally, $"{row.Dataflow(launch)} on {FlatGemmCases.Describe(problem)}, {rows} rows: {verdict}");
        }
    }

    private static void Fault(Tally tally, string sentence)
    {
        if (tally.Faults.Count < MostFaults) tally.Faults.Add(sentence);
    }

    public override string? SelfTest(Row row)
    {
        foreach (FlatGemmCases.Kind kind in FlatGemmCases.MainKinds)
        {
            using var trial = new FlatGemmTrial(FlatGemmCases.Problem(kind, 3, 33, 144), Seed);
            KnLaunch launch = row.DefaultLaunch(0);
            if (!trial.Prepare(row, launch, out KnStatus status, out string error))
            {
                if (status == KnStatus.Unsupported) continue;
                return $"{kind}: {error}";
            }
            status = trial.Run(row, launch, 3);
            if (status != KnStatus.Ok) return $"{kind}: {(Status)status}: {row.LastError}";
            FlatGemmVerdict verdict = trial.Check(3);
            return verdict.Ok ? null : $"{kind}: {verdict}";
        }
        return "it takes none of the kinds of operands";
    }
}
