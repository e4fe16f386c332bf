using Kernels.Interop.Native;

namespace Kernels.Tests.SparseLinear;

/// <summary>Every row of sparse_linear that this machine can run, on every case it accepts, plain and strided, against the oracle of flat_gemm.</summary>
[TestFixture]
public sealed class Conformance
{
    private static readonly SortedDictionary<string, (int Ran, double Worst)> s_tallies = [];

    private static SparseLinearCase[] Cases { get; } = [.. SparseLinearCases.Conformance()];

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.SparseLinear))
            foreach (string kind in Cases.Select(c => FlatGemmCases.KindOf(c.Layer).ToString()).Distinct())
                yield return new TestCaseData(name, kind).SetArgDisplayNames(name, kind);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void Matches(string name, string kind)
    {
        Row row = Tables.Find(name, KnOp.SparseLinear);
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 8; i++)
        {
            if (FlatGemmCases.KindOf(Cases[i].Layer).ToString() != kind) continue;
            Try(row, name, i, false, faults);
            Try(row, name, i, true, faults);
        }
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
    }

    private static void Try(Row row, string name, int index, bool strided, List<string> faults)
    {
        SparseLinearCase c = Cases[index];
        using var trial = new SparseLinearTrial(c.Layer, Tables.Seed + (ulong)index, c.Density, c.Pattern, c.Sets, strided: strided,
            exponent: strided ? ((int[])[0, 0, -127, 14])[index % 4] : 0, inPlace: strided && index % 3 != 0);
        KnLaunch[] launches = [.. row.Launches(index % 3)];
        KnLaunch launch = strided ? launches[index * 7 % launches.Length] : launches[0];
        string what = $"{row.Dataflow(launch)}: {c}{(strided ? " strided" : "")}";
        if (!trial.Prepare(row, launch, out KnStatus status, out string error))
        {
            if (status != KnStatus.Unsupported || error.Length == 0) faults.Add($"{what}: {status} {error}");
            return;
        }
        int m = c.Layer.M;
        foreach (int rows in (int[])[.. new[] { m, 1, m / 2 }.Where(r => r >= 0 && r <= m).Distinct()])
        {
            trial.Poison();
            status = trial.Run(row, launch, rows);
            FlatGemmVerdict verdict = status == KnStatus.Ok ? trial.Check(rows) : default;
            (int ran, double worst) = s_tallies.GetValueOrDefault(name);
            s_tallies[name] = (ran + 1, Math.Max(worst, verdict.Fraction));
            if (status != KnStatus.Ok) faults.Add($"{what}, {rows} rows: {status} {row.LastError}");
            else if (!verdict.Ok) faults.Add($"{what}, {rows} rows: {verdict}");
        }
    }

    [OneTimeTearDown]
    public void Summarise()
    {
        TestContext.Progress.WriteLine($"sparse_linear: {Cases.Length} cases, seed {Tables.Seed}");
        foreach ((string name, (int ran, double worst)) in s_tallies) TestContext.Progress.WriteLine($"  {name}: {ran} runs, worst {worst:0.###} of the tolerance");
    }

    [Test]
    public unsafe void EveryRowAcceptsSomeCase()
    {
        foreach ((_, Row row, string name) in Tables.Runnable(KnOp.SparseLinear))
            Assert.That(Cases.Any(c =>
            {
                var p = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Layer = c.Layer };
                return row.Accepts(&p, row.DefaultLaunch(0), out _);
            }), $"{name} accepts no case at all: it is not tested");
    }
}
