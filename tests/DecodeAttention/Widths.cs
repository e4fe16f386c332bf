using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>
/// What <see cref="Dataflows"/> holds rows to, of what those of the CPU have code of their own for: widths of 128 and 256, steps of 8 rows, and 16 rows
/// of a kv head, which may go by lanes. The oracle takes longer than they do: they share its trials.
/// </summary>
[TestFixture]
public sealed class Widths
{
    private static IEnumerable<TestCaseData> Shapes()
    {
        foreach ((int dim, int qLen) in ((int, int)[])[(128, 1), (256, 2), (128, 4), (64, 4)])
            for (int kind = 0; kind < DecodeAttentionCases.MainKinds.Length; kind++)
                yield return new TestCaseData(kind, dim, qLen).SetArgDisplayNames(DecodeAttentionCases.MainKinds[kind].ToString(), $"{dim}", $"{4 * qLen} rows");
    }

    private static KnDecodeAttentionProblem Problem(int kind, int dim, int qLen) =>
        DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[kind], 3, qLen, 8, 2, dim, dim, 530, 16, 0, 0, KnAttentionFlags.Phi | KnAttentionFlags.Norms);

    /// <summary>Keys of two splits and of none; the sequence between them has none, so that all scores are those that are asked for.</summary>
    private static DecodeAttentionData Data(int qLen) => new(Tables.Seed) { KvLens = [qLen == 1 ? 530 : 300, 0, 70], QLens = [qLen, qLen, qLen] };

    private static (string Name, Row Row)[] Rows(KnDecodeAttentionProblem problem) =>
        [.. Tables.Runnable(KnOp.DecodeAttention).Where(r => Dataflows.TakesAll(r.Row, problem)).Select(r => (r.Name, r.Row))];

    [TestCaseSource(nameof(Shapes))]
    public void RecomputedRowsAreCounted(int kind, int dim, int qLen) => Dataflows.CountRecomputed(Rows(Problem(kind, dim, qLen)), Problem(kind, dim, qLen), Data(qLen));

    [TestCaseSource(nameof(Shapes))]
    public void SinksMayBeOfAnySize(int kind, int dim, int qLen) => Dataflows.TrySinks(Rows(Problem(kind, dim, qLen)), Problem(kind, dim, qLen), Data(qLen));

    [TestCaseSource(nameof(Shapes))]
    public void OnesGiveOnes(int kind, int dim, int qLen) => Dataflows.TryOnes(Rows(Problem(kind, dim, qLen)), Problem(kind, dim, qLen), Data(qLen));
}
