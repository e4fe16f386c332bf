using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>
/// NaN or infinity in q spoils that row and no other; in a key or a value, the rows that see it and no others. The oracle says what
/// the spoilt elements must be; all others keep the bits that they have without. (NaN where nobody may look is in every trial.)
/// </summary>
[TestFixture]
public sealed class NonFinite
{
    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Anywhere(KnOp.DecodeAttention))
            for (int i = 0; i < DecodeAttentionCases.MainKinds.Length; i++)
                if (Dataflows.TakesAll(row, Problem(i, 0, KnAttentionFlags.None))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, DecodeAttentionCases.MainKinds[i].ToString());
    }

    private static KnDecodeAttentionProblem Problem(int kind, int window, KnAttentionFlags flags) => DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[kind], 3, 4, 4, 2, 64, 64, 90, 16,
        window, 0, flags | KnAttentionFlags.Phi | KnAttentionFlags.Norms);

    private static readonly DecodeAttentionData s_data = new(5) { KvLens = [90, 40, 65], QLens = [4, 1, 3] };

    private static IEnumerable<KnDecodeAttentionProblem> Problems(int kind) =>
        [Problem(kind, 0, KnAttentionFlags.None), Problem(kind, 10, KnAttentionFlags.Sinks), Problem(kind, 0, KnAttentionFlags.Tree), Problem(kind, 0, KnAttentionFlags.None) with { HeadDim = 136, VHeadDim = 256 },
            Problem(kind, 0, KnAttentionFlags.None) with { QHeads = 12 }];

    [TestCaseSource(nameof(RowsByKind))]
    public void InQuerySpoilsItsOwnRow(string name, int kind)
    {
        foreach (KnDecodeAttentionProblem problem in Problems(kind))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity, float.NegativeInfinity])
                Compare(name, problem, $"{value} in q[2, 1]", trial => trial.SetQ(2, 1, 9, value), (row, _) => row.Token == 2 && row.Head == 1);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void InKeySpoilsTheRowsThatSeeIt(string name, int kind)
    {
        foreach (KnDecodeAttentionProblem problem in Problems(kind))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity])
                foreach (int key in (int[])[0, 60, 80, 86, 87, 88, 89])
                    if (problem.Window == 0 || key >= 77)  // before that nobody looks: it is NaN already
                        Compare(name, problem, $"{value} in key {key}", trial => trial.SetCache(0, key, 1, 17, value), (row, sees) => row.Head >= problem.QHeads / 2 && sees(row, key));
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void InValueSpoilsTheRowsThatSeeIt(string name, int kind)
    {
        foreach (KnDecodeAttentionProblem problem in Problems(kind))
            foreach (float value in (float[])[float.NaN, float.PositiveInfinity])
                foreach (int key in (int[])[50, 79, 86, 88, 89])
                    if (problem.Window == 0 || key >= 77)
                        Compare(name, problem, $"{value} in value {key}", trial => trial.SetCache(0, key, 0, 33, value, value: true), (row, sees) => row.Head < problem.QHeads / 2 && sees(row, key));
    }

    private static void Compare(string name, KnDecodeAttentionProblem problem, string what, Action<DecodeAttentionTrial> spoil,
        Func<DecodeAttentionTrial.RowExpected, Func<DecodeAttentionTrial.RowExpected, int, bool>, bool> spoils)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        using var clean = new DecodeAttentionTrial(problem, s_data);
        using var spoilt = new DecodeAttentionTrial(problem, s_data);
        spoil(spoilt);
        foreach (KnLaunch launch in Dataflows.Launches(row))
        {
            string which = $"{row.Name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}], {DecodeAttentionCases.Describe(problem)}: {what}";
            foreach (DecodeAttentionTrial trial in (DecodeAttentionTrial[])[clean, spoilt])
            {
                Assert.That(trial.Prepare(row, launch, out string error), $"{which}: {error}");
                trial.Poison();
                Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), $"{which}: {row.LastError}");
            }
            DecodeAttentionVerdict verdict = spoilt.Check();
            Assert.That(verdict.Ok, $"{which}: {verdict}");
            int count = 0;
            foreach (DecodeAttentionTrial.RowExpected e in spoilt.Expect().Each)
            {
                if (spoils(e, (r, key) => r.Sequence == 0 && Array.IndexOf(r.Keys, key) >= 0)) count++;
                else if (!clean.Output(e.Token, e.Head).SequenceEqual(spoilt.Output(e.Token, e.Head)) || clean.Lse(e.Token, e.Head) != spoilt.Lse(e.Token, e.Head))
                    Assert.Fail($"{which}: row [{e.Token}, {e.Head}] changed");
            }
            Assert.That(count, Is.Positive, $"{which}: nobody sees it");
        }
    }
}
