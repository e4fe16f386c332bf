using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>
/// One theory: every row that this machine can run, on every case it accepts, every phase, against the oracle; C at once and in
/// pieces. The cases of one row and matrix are one NUnit test.
/// </summary>
[TestFixture]
public sealed class Conformance
{
    private static readonly SpGemmCase[] s_cases = [.. SpGemmCases.All()];
    private static readonly SortedDictionary<string, (int Ran, int Refused)> s_tallies = [];

    private static IEnumerable<TestCaseData> RowsByMatrix()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.SpGemm))
            foreach ((string matrix, _, _) in SpGemmCases.Matrices)
                yield return new TestCaseData(name, matrix).SetArgDisplayNames(name, matrix);
    }

    [TestCaseSource(nameof(RowsByMatrix))]
    public void Matches(string name, string matrix)
    {
        Row row = Tables.Find(name, KnOp.SpGemm);
        KnLaunch[] launches = [.. row.Launches(0)];
        int ran = 0, refused = 0;
        for (int i = 0; i < s_cases.Length; i++)
        {
            if (s_cases[i].Matrix != matrix) continue;
            using var trial = new SpGemmTrial(s_cases[i], Tables.Seed + (ulong)i);
            if (!Accepts(row, trial.Problem, out string? why))
            {
                Assert.That(why, Is.Not.Empty);
                refused++;
                continue;
            }
            ran++;
            // The default, and launches and thread bounds in turns.
            foreach (KnLaunch launch in (KnLaunch[])[row.DefaultLaunch(i % 4), launches[i * 7 % launches.Length]])
            {
                string what = $"{row.Dataflow(launch)}, {s_cases[i]}, seed {Tables.Seed}";
                Assert.That(trial.Analyse(row, launch), Is.Null, what);
                Assert.That(trial.Check(row, launch), Is.Null, what);
                Assert.That(trial.Check(row, launch, Math.Max(1, trial.NonZeros / 3)), Is.Null, $"{what}, in pieces");
            }
        }
        (int r, int f) = s_tallies.GetValueOrDefault(name);
        s_tallies[name] = (r + ran, f + refused);
    }

    private static unsafe bool Accepts(Row row, KnSpgemmProblem problem, out string? why) => row.Accepts(&problem, row.DefaultLaunch(0), out why);

    [Test]
    public void TheLastRowAcceptsEverything() =>
        Assert.That(s_cases.All(c => Accepts(KernelTable.Default.Of(KnOp.SpGemm).Last(), c.Problem, out _)));

    [OneTimeTearDown]
    public void Summarise()
    {
        TestContext.Progress.WriteLine($"spgemm: {s_cases.Length} cases, seed {Tables.Seed}, native library: {KernelTable.Default.Path ?? KernelTable.Default.Problem}");
        foreach ((string name, (int ran, int refused)) in s_tallies) TestContext.Progress.WriteLine($"  {name}: {ran} cases, {refused} refused");
    }
}
