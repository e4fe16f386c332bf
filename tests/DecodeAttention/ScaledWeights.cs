using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>Weights of s8 caches, which rows multiply with the scale of a value and some of them round so.</summary>
[TestFixture]
public sealed class ScaledWeights
{
    private static readonly DecodeAttentionCases.Kind s_kind =
        DecodeAttentionCases.Kinds().First(k => k is { Q: DType.BFloat16, Kv: DType.Int8, Out: DType.Float32 });

    private static IEnumerable<string> Rows() =>
        Tables.Runnable(KnOp.DecodeAttention).Where(r => Dataflows.Takes(r.Row, DecodeAttentionCases.Problem(s_kind, 4, 2, 4, 2, 32, 32, 100))).Select(r => r.Name);

    /// <summary>One key far above all others: its value to the 15 bits that the least precise of the weights has, and not the 8 of bf16.</summary>
    [TestCaseSource(nameof(Rows))]
    public void AKeyAloneGivesItsValue(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        foreach (KnLaunch launch in Dataflows.Launches(row))
        {
            using var trial = new DecodeAttentionTrial(DecodeAttentionCases.Problem(s_kind, 4, 2, 4, 2, 32, 32, 100, 16, 0, 0, KnAttentionFlags.Phi | KnAttentionFlags.Norms),
                new DecodeAttentionData(Tables.Seed) { Logits = new(0, 10, 120) });
            Assert.That(trial.Prepare(row, launch, out string? why), why);
            Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
            // Rows without the key see a mean of many.
            DecodeAttentionTrial.RowExpected[] alone = [.. trial.Expect().Each.Where(e => e.Lse.Value > 100)];
            Assert.That(alone, Is.Not.Empty);
            foreach (DecodeAttentionTrial.RowExpected e in alone)
                for (int d = 0; d < e.Out.Length; d++)
                    Assert.That(trial.Value(e.Token, e.Head, d), Is.EqualTo(e.Out[d].Value).Within(Math.Max(Math.Abs(e.Out[d].Value) * Math.ScaleB(1, -14), Math.ScaleB(1, -126))), $"{name}, seed {Tables.Seed}, row {e.Token}, {e.Head}");
        }
    }

    /// <summary>A scale so small that the weight of its value is 0 takes nothing from the others.</summary>
    [TestCaseSource(nameof(Rows))]
    public void AScaleThatVanishesRaisesNobody(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        foreach (KnLaunch launch in Dataflows.Launches(row))
        {
            using var trial = new DecodeAttentionTrial(DecodeAttentionCases.Problem(s_kind, 1, 1, 4, 2, 32, 32, 4, 16, 0, 0, KnAttentionFlags.Phi | KnAttentionFlags.Norms),
                new DecodeAttentionData(Tables.Seed) { Logits = new(-1, 1) });
            for (int head = 0; head < 2; head++) trial.SetCache(0, 1, head, 0, 1e-39f, value: true);
            Assert.That(trial.Prepare(row, launch, out string? why), why);
            Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
            DecodeAttentionVerdict verdict = trial.Check();
            Assert.That(verdict.Ok, $"{name}, seed {Tables.Seed}: {verdict}");
        }
    }
}
