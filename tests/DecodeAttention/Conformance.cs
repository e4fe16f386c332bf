using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>
/// One theory: every row that this machine can run, on every case it accepts, by every softmax that the case offers and some
/// splits, against the oracle. The cases of one row and kind are one NUnit test.
/// </summary>
[TestFixture]
public sealed class Conformance
{
    private static readonly Dictionary<int, DecodeAttentionTrial> s_trials = [];
    private static readonly SortedDictionary<string, Tally> s_tallies = [];

    private sealed class Tally
    {
        public int Ran, Runs;
        public double Worst, WorstOfTwicePlain;
        public SortedDictionary<string, int> Refusals { get; } = [];
    }

    private static DecodeAttentionCase[] Cases { get; } = [.. DecodeAttentionCases.Conformance(Tables.Seed)];

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.DecodeAttention))
            foreach (string kind in Cases.Select(c => DecodeAttentionCases.KindOf(c.Problem).ToString()).Distinct())
                yield return new TestCaseData(name, kind).SetArgDisplayNames(name, kind);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void Matches(string name, string kind)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        if (!s_tallies.TryGetValue(name, out Tally? tally)) s_tallies.Add(name, tally = new Tally());
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 8; i++)
            if (DecodeAttentionCases.KindOf(Cases[i].Problem).ToString() == kind) Try(row, tally, i, faults);
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
    }

    private static void Try(Row row, Tally tally, int index, List<string> faults)
    {
        if (!s_trials.TryGetValue(index, out DecodeAttentionTrial? trial)) s_trials.Add(index, trial = new DecodeAttentionTrial(Cases[index].Problem, Cases[index].Data));
        int ran = 0;
        string refusal = "";
        foreach (KnLaunch launch in LaunchesFor(row, index))
        {
            string what = $"{row.Name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param)[..row.Parameters.Length].ToArray())}] threads {launch.Threads}: {Cases[index]}";
            if (!trial.Prepare(row, launch, out refusal))
            {
                if (refusal.Length == 0) faults.Add($"{what}: refused without a reason");
                continue;
            }
            ran++;
            tally.Runs++;
            trial.Poison();
            KnStatus status = trial.Run(row, launch);
            DecodeAttentionVerdict verdict = status == KnStatus.Ok ? trial.Check() : default;
            tally.Worst = Math.Max(tally.Worst, verdict.Fraction);
            if (status != KnStatus.Ok) faults.Add($"{what}: {status} {row.LastError}");
            else if (!verdict.Ok) faults.Add($"{what}: {verdict}");
            else tally.WorstOfTwicePlain = Math.Max(tally.WorstOfTwicePlain, verdict.OfTwicePlain);
        }
        if (ran > 0) tally.Ran++;
        else tally.Refusals[refusal] = tally.Refusals.GetValueOrDefault(refusal) + 1;
    }

    /// <summary>Every value of softmax, each with another split; thread bounds take turns.</summary>
    private static IEnumerable<KnLaunch> LaunchesFor(Row row, int index)
    {
        KnLaunch launch = row.DefaultLaunch(index % 3);
        yield return launch;
        for (int i = 0; i < row.Parameters.Length; i++)
            foreach (int value in row.Parameters[i].Values)
            {
                if (row.Parameters[i].Name != "softmax") continue;
                launch.Param[i] = value;
                for (int j = 0; j < row.Parameters.Length; j++)
                    if (j != i) launch.Param[j] = row.Parameters[j].Values[(index + value) % row.Parameters[j].Values.Length];
                yield return launch;
            }
    }

    [OneTimeTearDown]
    public void Summarise()
    {
        foreach (DecodeAttentionTrial trial in s_trials.Values) trial.Dispose();
        s_trials.Clear();
        TestContext.Progress.WriteLine($"decode_attention: {Cases.Length} cases, seed {Tables.Seed}, native library: {KernelTable.Default.Path ?? KernelTable.Default.Problem}");
        foreach (Row row in KernelTable.Default.Of(KnOp.DecodeAttention))
            if (!KernelTable.Default.Runs(row, out string? lacks)) TestContext.Progress.WriteLine($"  {row.Name}: not run, {lacks}");
        if (Tables.Emulated is null) TestContext.Progress.WriteLine("  emulated rows: not run, no kn_cpu_emulated library beside the tests or in KERNELS_NATIVE");
        foreach ((string name, Tally tally) in s_tallies)
        {
            TestContext.Progress.WriteLine($"  {name}: {tally.Ran} cases, {tally.Runs} runs, worst {tally.Worst:0.###} of the tolerance, {tally.WorstOfTwicePlain:0.##} of twice the plain reference's error and the spread of f32");
            foreach ((string reason, int count) in tally.Refusals) TestContext.Progress.WriteLine($"    refused {count}: {reason}");
        }
    }

    [Test]
    public void EveryRowAcceptsSomeCase()
    {
        foreach ((_, Row row, string name) in Tables.Runnable(KnOp.DecodeAttention))
            Assert.That(Cases.Any(c => Accepts(row, c.Problem)), $"{name} accepts no case at all: it is not tested");
        Row last = KernelTable.Default.Of(KnOp.DecodeAttention).Last();
        Assert.That(Cases.All(c => Accepts(last, c.Problem)), "the last row accepts everything");
    }

    private static unsafe bool Accepts(Row row, KnDecodeAttentionProblem problem) => row.Accepts(&problem, row.DefaultLaunch(0), out _);
}
