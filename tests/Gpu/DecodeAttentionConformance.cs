using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>Every GPU row of decode_attention over the operation's cases and every softmax that they offer; as <see cref="FlatGemmConformance"/>.</summary>
[TestFixture]
public sealed class DecodeAttentionConformance
{
    private const long MostSimulated = 400_000;  // multiply-adds of a case
    private static readonly SortedDictionary<string, (int Ran, int Refused, double Worst)> s_tallies = [];

    private static DecodeAttentionCase[] Cases { get; } = [.. DecodeAttentionCases.Conformance(Tables.Seed)];

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach (string device in Simulated.Names)
            foreach (string row in device == "simt64" || device.StartsWith("hip", StringComparison.Ordinal) ? (string[])["decode_attention/gpu"] : ["decode_attention/sm90", "decode_attention/sm80", "decode_attention/gpu"])
                foreach (string kind in Cases.Select(c => DecodeAttentionCases.KindOf(c.Problem).ToString()).Distinct())
                    yield return new TestCaseData(device, row, kind).SetArgDisplayNames(device, row, kind);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void Matches(string name, string rowName, string kind)
    {
        Device device = Simulated.Open(name);
        Row row = device.Table.Of(KnOp.DecodeAttention).First(r => r.Name == rowName);
        if (!device.Table.Runs(row, out string? lacks)) Assert.Ignore(lacks!);
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 4 && device.Fault is null; i++)
        {
            if (DecodeAttentionCases.KindOf(Cases[i].Problem).ToString() != kind) continue;
            if (device.Kind == DeviceKind.Simulated && Work(Cases[i].Problem) > MostSimulated) continue;
            Try(name, row, i, faults);
        }
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
    }

    private static long Work(in KnDecodeAttentionProblem p) => (long)p.Batch * p.QLen * p.QHeads * p.KvLen * (p.HeadDim + p.VHeadDim);

    /// <summary>The softmaxes take turns over the cases, with another split each time.</summary>
    private static void Try(string device, Row row, int index, List<string> faults)
    {
        using var trial = new DecodeAttentionTrial(Cases[index].Problem, Cases[index].Data);
        KnLaunch launch = row.DefaultLaunch(0);
        for (int i = 0; i < 4; i++)
        {
            launch.Param[0] = row.Parameters[0].Values[(index + i) % 4];
            launch.Param[1] = row.Parameters[1].Values[(index + i) % row.Parameters[1].Values.Length];
            if (trial.Prepare(row, launch, out _)) break;
        }
        string what = $"{row.Dataflow(launch)} on {device}: {Cases[index]}", key = $"{row.Name} on {device}";
        (int Ran, int Refused, double Worst) tally = s_tallies.GetValueOrDefault(key);
        if (!trial.Prepare(row, launch, out string refusal))
        {
            if (refusal.Length == 0) faults.Add($"{what}: refused without a reason");
            s_tallies[key] = tally with { Refused = tally.Refused + 1 };
            return;
        }
        KnStatus status = trial.Run(row, launch);
        DecodeAttentionVerdict verdict = status == KnStatus.Ok ? trial.Check() : default;
        if (status != KnStatus.Ok) faults.Add($"{what}: {status} {row.LastError}");
        else if (!verdict.Ok) faults.Add($"{what}: {verdict}");
        s_tallies[key] = tally with { Ran = tally.Ran + 1, Worst = Math.Max(tally.Worst, verdict.Fraction) };
    }

    [OneTimeTearDown]
    public void Summarise()
    {
        foreach ((string key, (int ran, int refused, double worst)) in s_tallies)
            TestContext.Progress.WriteLine($"  {key}: {ran} cases, {refused} refused, worst {worst:0.###} of the tolerance");
    }
}
