using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>
/// Rows of a tag give a token the same bits for the same launch parameters: alone and in any batch, at any place in it, whatever
/// the others hold, in whatever pages, by however many threads, alone or verified with the tokens after it: where the problem asks for it.
/// </summary>
[TestFixture]
public sealed class Invariance
{
    private const int Longest = 2600, Most = 5;
    private const KnAttentionFlags Everything = KnAttentionFlags.Phi | KnAttentionFlags.Norms | KnAttentionFlags.Sinks | KnAttentionFlags.Alibi | KnAttentionFlags.Invariant;
    private static readonly (ulong Content, int KvLen)[] s_sequences = [(11, 2600), (12, 77), (13, 1100), (14, 1)];

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Anywhere(KnOp.DecodeAttention))
            for (int i = 0; i < DecodeAttentionCases.MainKinds.Length; i++)
                if (row.Bits is not null && Dataflows.TakesAll(row, Problem(i, 0))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, DecodeAttentionCases.MainKinds[i].ToString());
    }

    private static KnDecodeAttentionProblem Problem(int kind, int window) =>
        DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[kind], Most, 4, 6, 2, 64, 64, Longest, 16, window, 0, Everything);

    /// <summary>What the rows of the CPU have code of their own for: 4 rows of a kv head, which are 16 with the tokens that are verified.</summary>
    private static IEnumerable<TestCaseData> WideRowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable(KnOp.DecodeAttention))
            for (int i = 0; i < DecodeAttentionCases.MainKinds.Length; i++)
                foreach ((int dim, int kvHeads) in ((int, int)[])[(128, 8), (256, 4)])
                    if (row.Bits is not null && Dataflows.TakesAll(row, Wide(i, dim, kvHeads)))
                        yield return new TestCaseData(name, i, dim, kvHeads).SetArgDisplayNames(name, DecodeAttentionCases.MainKinds[i].ToString(), $"{dim}", $"{kvHeads} heads");
    }

    private static KnDecodeAttentionProblem Wide(int kind, int dim, int kvHeads) =>
        DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[kind], Most, 4, 4 * kvHeads, kvHeads, dim, dim, 1100, 16, 0, 0, Everything);

    [TestCaseSource(nameof(RowsByKind))]
    public void BitsDependOnTheSequenceAlone(string name, int kind)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        foreach (KnDecodeAttentionProblem problem in (KnDecodeAttentionProblem[])[Problem(kind, 0), Problem(kind, 700)])
            foreach (KnLaunch launch in Launches(row))
            {
                // Each sequence alone, its last token alone.
                var bits = new Dictionary<ulong, byte[]>();
                foreach ((ulong content, int kvLen) in s_sequences)
                    Run(row, launch, problem, [(content, kvLen, 1)], 1, bits, content);
                Run(row, launch, problem, [(11, 2600, 1), (12, 77, 1), (13, 1100, 1), (14, 1, 1)], 2, bits, 1);
                Run(row, launch, problem, [(14, 1, 1), (20, 900, 2), (13, 1100, 1), (21, 0, 1), (11, 2600, 1)], 7, bits, 2);
                Run(row, launch, problem, [(22, 2500, 4), (12, 77, 4), (13, 1100, 4), (23, 3, 0), (11, 2600, 3)], 0, bits, 3);
                // The token before the end of a longer sequence: what comes after it must not matter.
                Run(row, launch, problem, [(13, 1100, 1)], 1, bits, 4);
                Run(row, launch, problem, [(13, 1102, 4), (11, 2600, 2)], 2, bits, 5, early: 2);
            }
    }

    /// <summary>Widths of 128 and 256: alone, among others, and verified with the tokens before it.</summary>
    [TestCaseSource(nameof(WideRowsByKind))]
    public void BitsOfWideHeadsDependOnTheSequenceAlone(string name, int kind, int dim, int kvHeads)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        KnDecodeAttentionProblem problem = Wide(kind, dim, kvHeads);
        foreach (KnLaunch launch in Launches(row))
        {
            var bits = new Dictionary<ulong, byte[]>();
            foreach ((ulong content, int kvLen) in ((ulong, int)[])[(11, 1100), (12, 77), (13, 1)])
                Run(row, launch, problem, [(content, kvLen, 1)], 1, bits, content);
            Run(row, launch, problem, [(20, 300, 2), (13, 1, 1), (11, 1100, 1), (12, 77, 1)], 2, bits, 1);
            Run(row, launch, problem, [(11, 1100, 4), (21, 0, 1), (12, 77, 3), (13, 1, 1)], 0, bits, 2);
        }
    }

    private static IEnumerable<KnLaunch> Launches(Row row)
    {
        KnLaunch launch = row.DefaultLaunch(0);
        int softmax = Index(row, "softmax"), split = Index(row, "split");
        if (softmax < 0) yield return launch;
        else
            foreach (int value in row.Parameters[softmax].Values)
            {
                launch.Param[softmax] = value;
                if (split >= 0) launch.Param[split] = row.Parameters[split].Values[value % 2 == 0 ? 0 : 1];
                yield return launch;
            }
    }

    private static int Index(Row row, string parameter)
    {
        for (int i = 0; i < row.Parameters.Length; i++)
            if (row.Parameters[i].Name == parameter) return i;
        return -1;
    }

    /// <summary>The bits of the last token of each known sequence (of the first one, `early` tokens before its end) are those of before.</summary>
    private static void Run(Row row, KnLaunch launch, KnDecodeAttentionProblem problem, (ulong Content, int KvLen, int Tokens)[] batch, int threads,
        Dictionary<ulong, byte[]> bits, ulong seed, int early = 0)
    {
        launch.Threads = threads;
        using var trial = new DecodeAttentionTrial(problem, new DecodeAttentionData(seed)
        {
            Content = [.. batch.Select(s => s.Content)],
            KvLens = [.. batch.Select(s => s.KvLen)],
            QLens = [.. batch.Select(s => s.Tokens)],
            Strided = seed % 2 == 1,
        });
        Assert.That(trial.Prepare(row, launch, out string error), error);
        Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
        for (int b = 0; b < batch.Length; b++)
        {
            if (batch[b].Tokens == 0 || batch[b].Content >= 20) continue;
            long token = trial.FirstToken(b) + batch[b].Tokens - 1 - (b == 0 ? early : 0);
            var got = new List<byte>();
            for (int h = 0; h < trial.Problem.QHeads; h++)
            {
                got.AddRange(trial.Output(token, h));
                got.AddRange(BitConverter.GetBytes(trial.Lse(token, h)));
            }
            if (!bits.TryGetValue(batch[b].Content, out byte[]? expected)) bits[batch[b].Content] = [.. got];
            else if (!got.SequenceEqual(expected))
                Assert.Fail($"{row.Name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}] threads {threads}, {DecodeAttentionCases.Describe(problem)}: sequence {b} of [{string.Join(", ", batch)}] has other bits than alone");
        }
    }
}
