using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>Every pattern of e4m3 as a value and as a key: one token in the cache, whose values are the output and one of whose elements each row of q takes.</summary>
[TestFixture]
public sealed class Codes
{
    private const int Width = 128, KvHeads = 2;

    private static IEnumerable<TestCaseData> Rows()
    {
        foreach ((_, Row row, string name) in Tables.Anywhere(KnOp.DecodeAttention))
            foreach (DType query in (DType[])[DType.Float32, DType.BFloat16, DType.Float16])
                foreach (int group in (int[])[1, 4, 16])
                    if (Dataflows.TakesAll(row, Problem(query, group))) yield return new TestCaseData(name, query, group);
    }

    private static KnDecodeAttentionProblem Problem(DType query, int group) => DecodeAttentionCases.Problem(new(query, DType.Float8E4M3, DType.Float32), 1, 1, KvHeads * group, KvHeads, Width, Width, 1, 16, 0, 0,
        KnAttentionFlags.Phi | KnAttentionFlags.Norms);

    [TestCaseSource(nameof(Rows))]
    public void AreWhatTheyStandFor(string name, DType query, int group)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        KnLaunch launch = row.DefaultLaunch(1);
        using var trial = new DecodeAttentionTrial(Problem(query, group), new(5) { KvLens = [1], QLens = [1] });
        Assert.That(trial.Prepare(row, launch, out string error), error);
        for (int i = 0; i < KvHeads * Width; i++)
        {
            trial.SetCache(0, 0, i / Width, i % Width, Code(i), value: true);
            trial.SetCache(0, 0, i / Width, i % Width, float.IsNaN(Code(i)) ? 0 : Code(i));
        }
        double scale = trial.Call().Scale;
        for (int first = 0; first < Width; first += group)
        {
            for (int h = 0; h < KvHeads * group; h++)
                for (int d = 0; d < Width; d++) trial.SetQ(0, h, d, d == first + h % group ? 1 : 0);
            trial.Poison();
            Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
            for (int h = 0; h < KvHeads * group; h++)
            {
                int head = h / group, key = head * Width + first + h % group;
                double logit = float.IsNaN(Code(key)) ? 0 : scale * Code(key);
                Assert.That(trial.Lse(0, h), Is.EqualTo(logit).Within(1e-6 * Math.Abs(logit)), $"key 0x{key:x2}");
                for (int d = 0; d < Width; d++)
                {
                    double value = Code(head * Width + d);
                    Assert.That(trial.Value(0, h, d), double.IsNaN(value) ? Is.NaN : Is.EqualTo(value).Within(1e-6 * Math.Abs(value)), $"value 0x{head * Width + d:x2}");
                }
            }
        }
    }

    private static float Code(int bits) => (float)Float8E4M3.FromBits((byte)bits);
}
