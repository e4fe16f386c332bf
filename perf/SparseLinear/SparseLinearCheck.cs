using Kernels.Interop.Native;

namespace Kernels.Perf;

internal sealed partial class SparseLinearOperation
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
        foreach (SparseLinearCase c in SparseLinearCases.Conformance())
        {
            string kind = FlatGemmCases.KindOf(c.Layer).ToString();
            if (!tallies.TryGetValue(kind, out Tally? tally)) tallies[kind] = tally = new Tally();
            Try(row, c, index++, tally);
        }
        foreach ((string kind, Tally t) in tallies)
            yield return new CheckResult(row.Name, kind, t.Cases, t.Refused, t.Fraction, [("worst ulp", t.Ulp), ("worst relative", t.Relative)], t.Faults);
    }

    /// <summary>One case: strided and dense operands, launches and thread bounds take turns.</summary>
    private static void Try(Row row, in SparseLinearCase c, int index, Tally tally)
    {
        KnLaunch[] launches = [.. row.Launches(index % 3)];
        KnLaunch launch = index % 2 == 0 ? launches[0] : launches[index * 7 % launches.Length];
        using var trial = new SparseLinearTrial(c.Layer, Seed + (ulong)index, c.Density, c.Pattern, c.Sets, strided: index % 2 == 1);
        if (!trial.Prepare(row, launch, out KnStatus status, out string error))
        {
            if (status == KnStatus.Unsupported) tally.Refused++;
            else if (tally.Faults.Count < MostFaults) tally.Faults.Add($"{c}: {error}");
            return;
        }
        tally.Cases++;
        trial.Poison();
        status = trial.Run(row, launch, c.Layer.M);
        FlatGemmVerdict verdict = status == KnStatus.Ok ? trial.Check(c.Layer.M) : new FlatGemmVerdict(false, 0, 0, 0, 0, 0, 0, 0, $"{(Status)status}: {row.LastError}");
        tally.Fraction = Math.Max(tally.Fraction, verdict.Fraction);
        tally.Ulp = Math.Max(tally.Ulp, verdict.Ulp);
        tally.Relative = Math.Max(tally.Relative, verdict.Relative);
        if (!verdict.Ok && tally.Faults.Count < MostFaults) tally.Faults.Add($"{row.Dataflow(launch)} on {c}: {verdict}");
    }

    public override string? SelfTest(Row row)
    {
        foreach (FlatGemmCases.Kind kind in SparseLinearCases.MainKinds)
        {
            using var trial = new SparseLinearTrial(FlatGemmCases.Problem(kind, 3, 33, 130), Seed);
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
