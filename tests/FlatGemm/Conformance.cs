using System.Runtime.Intrinsics.X86;
using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>
/// One theory: every row that this machine can run, on every case it accepts, plain and strided, for several m of the call,
/// against the oracle. The cases of one row and kind are one NUnit test.
/// </summary>
[TestFixture]
public sealed class Conformance
{
    private static readonly Dictionary<(KnFlatGemmProblem, bool), FlatGemmTrial> s_trials = [];
    private static readonly SortedDictionary<string, Tally> s_tallies = [];

    private sealed class Tally
    {
        public int Ran, Runs;
        public double Worst;
        public SortedDictionary<string, int> Refusals { get; } = [];
    }

    private static KnFlatGemmProblem[] Cases { get; } = [.. FlatGemmCases.Conformance()];

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, _, string name) in Tables.Runnable())
            foreach (string kind in Cases.Select(p => FlatGemmCases.KindOf(p).ToString()).Distinct())
                yield return new TestCaseData(name, kind).SetArgDisplayNames(name, kind);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void Matches(string name, string kind)
    {
        Row row = Tables.Find(name);
        Tally tally = TallyOf(name);
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 8; i++)
        {
            if (FlatGemmCases.KindOf(Cases[i]).ToString() != kind) continue;
            Try(row, tally, i, false, faults);
            Try(row, tally, i, true, faults);
        }
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
    }

    private static void Try(Row row, Tally tally, int index, bool strided, List<string> faults)
    {
        FlatGemmTrial trial = TrialOf(index, strided);
        KnLaunch launch = LaunchFor(row, index, strided);
        string what = $"{row.Name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param)[..row.Parameters.Length].ToArray())}] "
            + $"threads {launch.Threads}: {FlatGemmCases.Describe(trial.Problem)}{(strided ? " strided" : "")}";
        if (!trial.Prepare(row, launch, out KnStatus status, out string error))
        {
            if (status != KnStatus.Unsupported || error.Length == 0) faults.Add($"{what}: {status} {error}");
            tally.Refusals[error] = tally.Refusals.GetValueOrDefault(error) + 1;
            return;
        }
        tally.Ran++;
        int m = trial.Problem.M;
        foreach (int rows in (int[])[.. new[] { m, 0, 1, m / 2, m - 1 }.Where(r => r >= 0 && r <= m).Distinct()])
        {
            trial.Poison();
            status = trial.Run(row, launch, rows);
            tally.Runs++;
            FlatGemmVerdict verdict = status == KnStatus.Ok ? trial.Check(rows) : default;
            tally.Worst = Math.Max(tally.Worst, verdict.Fraction);
            if (status != KnStatus.Ok) faults.Add($"{what}, {rows} rows: {status} {row.LastError}");
            else if (!verdict.Ok) faults.Add($"{what}, {rows} rows: {verdict}");
        }
    }

    /// <summary>Launches and thread bounds take turns over the cases, the default first.</summary>
    private static KnLaunch LaunchFor(Row row, int index, bool strided)
    {
        int threads = index % 3;
        if (!strided && index % 2 == 0) return row.DefaultLaunch(threads);
        KnLaunch[] launches = [.. row.Launches(threads)];
        return launches[index * 7 % launches.Length];
    }

    /// <summary>
    /// Trials, and so what the oracle says, are shared by all rows. Strided ones take turns between a residual apart and one in
    /// place, and between sizes: of one, denormals, and such that f16 overflows.
    /// </summary>
    private static FlatGemmTrial TrialOf(int index, bool strided)
    {
        ref readonly KnFlatGemmProblem problem = ref Cases[index];
        if (s_trials.TryGetValue((problem, strided), out FlatGemmTrial? trial)) return trial;
        int exponent = strided ? ((int[])[0, 0, -127, 14])[index % 4] : 0;
        trial = new FlatGemmTrial(problem, Tables.Seed + (ulong)index, strided: strided, exponent: exponent, inPlace: strided && index % 3 != 0);
        s_trials.Add((problem, strided), trial);
        return trial;
    }

    private static Tally TallyOf(string name)
    {
        if (!s_tallies.TryGetValue(name, out Tally? tally)) s_tallies.Add(name, tally = new Tally());
        return tally;
    }

    [OneTimeTearDown]
    public void Summarise()
    {
        foreach (FlatGemmTrial trial in s_trials.Values) trial.Dispose();
        s_trials.Clear();
        TestContext.Progress.WriteLine($"flat_gemm: {Cases.Length} cases, seed {Tables.Seed}, native library: {KernelTable.Default.Path ?? KernelTable.Default.Problem}");
        foreach (Row row in KernelTable.Default.Of(KnOp.FlatGemm))
            if (!KernelTable.Default.Runs(row, out string? lacks)) TestContext.Progress.WriteLine($"  {row.Name}: not run, {lacks}");
        if (Tables.Emulated is null) TestContext.Progress.WriteLine("  emulated rows: not run, no kn_cpu_emulated library beside the tests or in KERNELS_NATIVE");
        foreach ((string name, Tally tally) in s_tallies)
        {
            TestContext.Progress.WriteLine($"  {name}: {tally.Ran} cases, {tally.Runs} runs, worst {tally.Worst:0.###} of the tolerance");
            foreach ((string reason, int count) in tally.Refusals) TestContext.Progress.WriteLine($"    refused {count}: {reason}");
        }
    }

    [Test]
    public void NativeRowsRunWhereTheyCan()
    {
        if (KernelTable.Default.Path is null) Assert.Ignore($"no native library: {KernelTable.Default.Problem}");
        if (!Avx512F.IsSupported) Assert.Ignore("this CPU, or this setting of the runtime, has no AVX-512");
        string[] native = [.. Tables.Runnable().Where(r => r.Row is NativeRow).Select(r => r.Name)];
        Assert.That(native, Is.Not.Empty, "the library is there and the CPU has AVX-512, but no native row runs");
    }

    [Test]
    public void EveryRowAcceptsSomeCase()
    {
        foreach ((_, Row row, string name) in Tables.Runnable())
            Assert.That(Cases.Any(p => Accepts(row, p)), $"{name} accepts no case at all: it is not tested");
        Assert.That(Cases.All(p => Accepts(KernelTable.Default.Of(KnOp.FlatGemm).Last(), p)), "the last row accepts everything");
    }

    private static unsafe bool Accepts(Row row, KnFlatGemmProblem problem) => row.Accepts(&problem, row.DefaultLaunch(0), out _);
}
