using Kernels.Interop.Native;

namespace Kernels.Perf;

internal sealed partial class DecodeAttentionOperation
{
    private const ulong Seed = 20260101;
    private const int MostFaults = 3;

    private sealed class Tally
    {
        public int Cases, Refused;
        public double Fraction, Error, Plain, OfTwicePlain, Lse;
        public List<string> Faults { get; } = [];
    }

    public override IEnumerable<CheckResult> Check(KernelTable table, Row row)
    {
        var tallies = new Dictionary<string, Tally>();
        int index = 0;
        foreach (DecodeAttentionCase one in DecodeAttentionCases.Conformance(Seed))
        {
            string kind = DecodeAttentionCases.KindOf(one.Problem).ToString();
            if (!tallies.TryGetValue(kind, out Tally? tally)) tallies[kind] = tally = new Tally();
            Try(row, one, index++, tally);
        }
        foreach ((string kind, Tally t) in tallies)
            yield return new CheckResult(row.Name, kind, t.Cases, t.Refused, t.Fraction,
                [("error", t.Error), ("of plain reference", t.Plain), ("worst of twice plain", t.OfTwicePlain), ("lse error", t.Lse)], t.Faults);
    }

    /// <summary>One case: launches, among them every softmax, and thread bounds take turns.</summary>
    private static void Try(Row row, DecodeAttentionCase one, int index, Tally tally)
    {
        KnLaunch[] launches = [.. row.Launches(index % 3)];
        KnLaunch launch = launches[index * 7 % launches.Length];
        using var trial = new DecodeAttentionTrial(one.Problem, one.Data);
        if (!trial.Prepare(row, launch, out _))
        {
            tally.Refused++;
            return;
        }
        tally.Cases++;
        KnStatus status = trial.Run(row, launch);
        DecodeAttentionVerdict verdict = status == KnStatus.Ok ? trial.Check() : new(false, 0, 0, 0, 0, "", $"{(Status)status}: {row.LastError}");
        tally.Fraction = Math.Max(tally.Fraction, verdict.Fraction);
        tally.Error = Math.Max(tally.Error, verdict.Error);
        tally.Plain = Math.Max(tally.Plain, verdict.Plain);
        tally.OfTwicePlain = Math.Max(tally.OfTwicePlain, verdict.OfTwicePlain);
        tally.Lse = Math.Max(tally.Lse, verdict.LseError);
        if (!verdict.Ok && tally.Faults.Count < MostFaults) tally.Faults.Add($"{row.Dataflow(launch)} on {one}: {verdict}");
    }

    public override string? SelfTest(Row row)
    {
        foreach (DecodeAttentionCases.Kind kind in DecodeAttentionCases.MainKinds)
        {
            using var trial = new DecodeAttentionTrial(DecodeAttentionCases.Problem(kind, 2, 2, 4, 2, 64, 64, 70), new DecodeAttentionData(Seed));
            KnLaunch launch = row.DefaultLaunch(0);
            if (!trial.Prepare(row, launch, out _)) continue;
            KnStatus status = trial.Run(row, launch);
            if (status != KnStatus.Ok) return $"{kind}: {(Status)status}: {row.LastError}";
            DecodeAttentionVerdict verdict = trial.Check();
            return verdict.Ok ? null : $"{kind}: {verdict}";
        }
        return "it takes none of the kinds of operands";
    }
}
