using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>Every GPU row of decode_attention over the operation's cases and every softmax that they offer; as <see cref="FlatGemmConformance"/>.</summary>
[TestFixture, Parallelizable]
public sealed class DecodeAttentionConformance
{
    private static readonly List<RowUnderTest> s_tested = [];

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
        var tested = new RowUnderTest(name, KnOp.DecodeAttention, rowName);
        s_tested.Add(tested);
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 4 && tested.Fault is null; i++)
            if (DecodeAttentionCases.KindOf(Cases[i].Problem).ToString() == kind) Try(tested, i, faults);
        if (tested.Fault is { } fault) faults.Add(fault);
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
        DecodeAttentionCases.Kind of = DecodeAttentionCases.KindOf(Cases.First(c => DecodeAttentionCases.KindOf(c.Problem).ToString() == kind).Problem);
        tested.AssertRan(rowName switch { "decode_attention/gpu" => true, "decode_attention/sm80" => of.Q != DType.Float32, _ => of.Q != DType.Float32 && of.Q == of.Kv });
    }

    internal static long Work(in KnDecodeAttentionProblem p) => (long)p.Batch * p.QLen * p.QHeads * p.KvLen * (p.HeadDim + p.VHeadDim);

    /// <summary>The softmaxes take turns over the cases, with another split each time; hostile logits that are checked meet every one.</summary>
    private static void Try(RowUnderTest tested, int index, List<string> faults)
    {
        long work = Work(Cases[index].Problem);
        using var trial = new DecodeAttentionTrial(Cases[index].Problem, Cases[index].Data);
        bool all = Cases[index].Data.Logits is not null && work <= RowUnderTest.MostChecked, ran = false;
        for (int i = 0; i < 4 && (all || !ran); i++)
        {
            Row row = tested.For(work);
            KnLaunch launch = row.DefaultLaunch(0);
            launch.Param[0] = row.Parameters[0].Values[(index + i) % 4];
            launch.Param[1] = row.Parameters[1].Values[(index + i) % row.Parameters[1].Values.Length];
            string what = $"{row.Dataflow(launch)} on {tested.Device}: {Cases[index]}";
            if (!trial.Prepare(row, launch, out string refusal))
            {
                if (refusal.Length == 0) faults.Add($"{what}: refused without a reason");
                tested.Refuse(row);
                continue;
            }
            ran = true;
            trial.Poison();
            KnStatus status = trial.Run(row, launch);
            DecodeAttentionVerdict verdict = status == KnStatus.Ok ? trial.Check() : default;
            if (status != KnStatus.Ok) faults.Add($"{what}: {status} {row.LastError}");
            else if (!verdict.Ok) faults.Add($"{what}: {verdict}");
            tested.Measure(verdict.Fraction);
        }
    }

    [OneTimeTearDown]
    public void Summarise() => RowUnderTest.Summarise(s_tested);
}
