using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>The four softmax dataflows on logits that tell them apart: who recomputes, how often, and that nobody else notices.</summary>
[TestFixture]
public sealed class Dataflows
{
    private const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms;
    private static readonly double s_lnMax = Math.Log(float.MaxValue), s_ln2 = Math.Log(2);

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Anywhere(KnOp.DecodeAttention))
            for (int i = 0; i < DecodeAttentionCases.MainKinds.Length; i++)
                if (TakesAll(row, Problem(i))) yield return new TestCaseData(name, i).SetArgDisplayNames(name, DecodeAttentionCases.MainKinds[i].ToString());
    }

    /// <summary>Whether the row takes the problem by every softmax: sm90 takes f16 values by sync and lazy alone.</summary>
    internal static unsafe bool TakesAll(Row row, KnDecodeAttentionProblem problem)
    {
        foreach (KnLaunch launch in Launches(row))
            if (!row.Accepts(&problem, launch, out _)) return false;
        return true;
    }

    /// <summary>Whether the row takes the problem by its default launch.</summary>
    internal static unsafe bool Takes(Row row, KnDecodeAttentionProblem problem) => row.Accepts(&problem, row.DefaultLaunch(0), out _);

    /// <summary>Who is tested here: every row with all that it takes, but f16 in sm90, whose weights in f16 have no range for a fixed reference.</summary>
    [Test]
    public void RowsTakeEverySoftmax()
    {
        foreach ((_, Row row, string name) in Tables.Anywhere(KnOp.DecodeAttention))
            for (int i = 0; i < DecodeAttentionCases.MainKinds.Length; i++)
            {
                KnDecodeAttentionProblem problem = Problem(i);
                bool any, sm90f16 = row.Target == "sm90" && DecodeAttentionCases.MainKinds[i].Q == DType.Float16;
                unsafe
                {
                    any = row.Accepts(&problem, row.DefaultLaunch(0), out _);
                }
                Assert.That(TakesAll(row, problem), Is.EqualTo(any && !sm90f16), $"{name}, {DecodeAttentionCases.MainKinds[i]}");
            }
    }

    private static KnDecodeAttentionProblem Problem(int kind, KnAttentionFlags flags = 0, float softcap = 0, int batch = 4) =>
        DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[kind], batch, 3, 4, 2, 64, 64, 1200, 16, 0, softcap, Fixed | flags);

    /// <summary>Every softmax of the row, each with the default and with the shortest split.</summary>
    internal static IEnumerable<KnLaunch> Launches(Row row)
    {
        int[][] values = [.. row.Parameters.Select(p => p.Name == "softmax" ? p.Values.ToArray() : p.Name == "split" ? [p.Values[0], p.Values.Min()] : [p.Values[0]])];
        int count = values.Aggregate(1, (n, v) => n * v.Length);
        for (int i = 0; i < count; i++)
        {
            KnLaunch launch = row.DefaultLaunch(0);
            for (int j = 0, rest = i; j < values.Length; rest /= values[j++].Length) launch.Param[j] = values[j][rest % values[j].Length];
            yield return launch;
        }
    }

    internal static KnSoftmax Softmax(Row row, KnLaunch launch)
    {
        for (int i = 0; i < row.Parameters.Length; i++)
            if (row.Parameters[i].Name == "softmax") return (KnSoftmax)launch.Param[i];
        return KnSoftmax.Lazy;
    }

    /// <summary>Every launch of rows that share a trial, and which one it is.</summary>
    private static IEnumerable<(Row Row, KnLaunch Launch, string Which)> Calls((string Name, Row Row)[] rows)
    {
        foreach ((string name, Row row) in rows)
            foreach (KnLaunch launch in Launches(row)) yield return (row, launch, Which(name, launch));
    }

    private static string Which(string name, KnLaunch launch) => $"seed {Tables.Seed}, {name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}]";

    private static (string Name, Row Row)[] Alone(string name) => [(name, Tables.Find(name, KnOp.DecodeAttention))];

    private static void Run(Row row, KnLaunch launch, DecodeAttentionTrial trial, string what)
    {
        if (!trial.Prepare(row, launch, out string error)) Assert.Fail($"{what}: {error}");
        trial.Poison();
        KnStatus status = trial.Run(row, launch);
        if (status != KnStatus.Ok) Assert.Fail($"{what}: {status} {row.LastError}");
        DecodeAttentionVerdict verdict = trial.Check();
        if (!verdict.Ok) Assert.Fail($"{what}: {verdict}");
    }

    private static readonly DecodeAttentionLogits[] s_logits =
        [new(-490, 370), new(0, 10, 97), new(-3, 3, 120), new(-62, -50), new(-84, -80), new(-130, -100), new(-200, 60), new(2, 8)];

    [TestCaseSource(nameof(RowsByKind))]
    public void RecomputedRowsAreCounted(string name, int kind) =>
        CountRecomputed(Alone(name), Problem(kind), new(Tables.Seed) { KvLens = [1200, 300, 517, 0], QLens = [3, 2, 1, 2] });

    internal static void CountRecomputed((string Name, Row Row)[] rows, KnDecodeAttentionProblem problem, DecodeAttentionData data)
    {
        long some = 0, none = 0;
        foreach (DecodeAttentionLogits logits in s_logits)
        {
            using var trial = new DecodeAttentionTrial(problem, data with { Logits = logits, Phi = 5 });
            long expected = ExpectedFailures(trial, logits);
            foreach ((Row row, KnLaunch launch, string which) in Calls(rows))
            {
                string what = $"{which}, {DecodeAttentionCases.Describe(problem)}, {logits}";
                Run(row, launch, trial, what);
                KnSoftmax softmax = Softmax(row, launch);
                if (softmax is KnSoftmax.Sync or KnSoftmax.Lazy) Assert.That(trial.Recomputed, Is.Zero, what);
                if (softmax == KnSoftmax.Unified) Assert.That(trial.Recomputed, Is.EqualTo(expected), what);
            }
            if (expected > 0) some++;
            else none++;
        }
        Assert.That((some, none), Is.EqualTo((5, 3)), "the logits are such that some rows fail, and some are such that none does");
    }

    // l = exp(lse - phi), to be finite and at least kv_len 2^-102; no row may lie so near to an edge that rounding decides.
    private static long ExpectedFailures(DecodeAttentionTrial trial, DecodeAttentionLogits logits)
    {
        long failures = 0;
        foreach (DecodeAttentionTrial.RowExpected e in trial.Expect().Each)
        {
            if (e.Keys.Length == 0) continue;
            double phi = 5 + 0.25 * (e.Head % 3), nats = e.Lse.Value - phi, low = Math.Log(trial.KvLens[e.Sequence]) - 102 * s_ln2;
            bool fails = nats > s_lnMax + 0.1 || nats < low - 0.1, passes = nats < s_lnMax - 1.5 && nats > low + 0.1;
            Assert.That(fails || passes, $"{logits}: row [{e.Token}, {e.Head}] is {nats} nats from phi, at the edge");
            if (fails) failures++;
        }
        return failures;
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void BoundedNeedsNoSecondPassWhereItIsProved(string name, int kind)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        foreach ((DecodeAttentionLogits logits, float softcap) in ((DecodeAttentionLogits, float)[])[(new(-490, 370), 50), (new(-490, 370), 60), (new(-25, 25), 0)])
        {
            using var trial = new DecodeAttentionTrial(Problem(kind, 0, softcap), new DecodeAttentionData(Tables.Seed) { Logits = logits });
            foreach (KnLaunch launch in Launches(row))
            {
                if (Softmax(row, launch) != KnSoftmax.Bounded) continue;
                Run(row, launch, trial, $"seed {Tables.Seed}, {name}, {DecodeAttentionCases.MainKinds[kind]}, softcap {softcap}");
                Assert.That(trial.Recomputed, Is.Zero);
            }
        }
    }

    /// <summary>
    /// Sinks far above every score, nearer above than what a reference lies below the sums, in place of scores that flush to 0, and far below
    /// everything: no fixed reference minds, for none of them is in its sums.
    /// </summary>
    [TestCaseSource(nameof(RowsByKind))]
    public void SinksMayBeOfAnySize(string name, int kind) => TrySinks(Alone(name), Problem(kind), new(Tables.Seed));

    internal static unsafe void TrySinks((string Name, Row Row)[] rows, KnDecodeAttentionProblem problem, DecodeAttentionData data)
    {
        foreach ((DecodeAttentionLogits logits, float softcap, float[] sinks, bool proved) in ((DecodeAttentionLogits, float, float[], bool)[])
            [(new(-490, 370), 50, [150, 160, 170, 180], true), (new(-25, 25), 0, [150, 160, 400, 1000], true), (new(70, 80), 0, [84, 94, 97, 200], true),
             (new(-130, -100), 0, [0, 5, -20, -40], false), (new(2, 8), 0, [-200, -1000, float.NegativeInfinity, 4], true)])
        {
            using var trial = new DecodeAttentionTrial(problem with { Softcap = softcap, Flags = problem.Flags | (int)KnAttentionFlags.Sinks }, data with { Logits = logits, Phi = 5 });
            for (int h = 0; h < problem.QHeads; h++) trial.Args.Sinks[h] = sinks[(h + h / 4) % 4];  // another one for each even head
            foreach ((Row row, KnLaunch launch, string which) in Calls(rows))
            {
                string what = $"{which}, {DecodeAttentionCases.Describe(problem)}, {logits}, sinks {string.Join(' ', sinks)}";
                Run(row, launch, trial, what);
                if (Softmax(row, launch) != KnSoftmax.Bounded || proved) Assert.That(trial.Recomputed, Is.Zero, what);
            }
        }
    }

    /// <summary>No row asks which page the keys before a window are in: the caller may have given it away.</summary>
    [TestCaseSource(nameof(RowsByKind))]
    public unsafe void PagesBeforeTheWindowMayBeGone(string name, int kind)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        using var trial = new DecodeAttentionTrial(Problem(kind, 0, 0, 2) with { Window = 40 }, new DecodeAttentionData(Tables.Seed) { KvLens = [1200, 333], QLens = [3, 2] });
        trial.Expect();
        for (int b = 0; b < 2; b++) new Span<int>(trial.Args.Pages + b * trial.Args.PagesLd, (trial.KvLens[b] - trial.QLens[b] - 39) / 16).Fill(int.MinValue);
        foreach (KnLaunch launch in Launches(row)) Run(row, launch, trial, $"seed {Tables.Seed}, {name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}]");
    }

    /// <summary>One head of one token is made to fail: it gets the result of sync, and no other row another bit.</summary>
    [TestCaseSource(nameof(RowsByKind))]
    public void AFailingRowDisturbsNobody(string name, int kind)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        var data = new DecodeAttentionData(Tables.Seed) { KvLens = [1200, 300, 517, 40], QLens = [3, 2, 1, 3] };
        using var calm = new DecodeAttentionTrial(Problem(kind), data);
        using var wild = new DecodeAttentionTrial(Problem(kind), data);
        for (int d = 0; d < 64; d++) wild.SetQ(1, 2, d, d % 2 == 0 ? 300 : -150);
        foreach (KnLaunch launch in Launches(row))
        {
            if (Softmax(row, launch) != KnSoftmax.Unified) continue;
            string what = $"seed {Tables.Seed}, {name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}]";
            Run(row, launch, calm, what);
            Assert.That(calm.Recomputed, Is.Zero, what);
            Run(row, launch, wild, what);
            Assert.That(wild.Recomputed, Is.EqualTo(1), what);
            foreach (DecodeAttentionTrial.RowExpected e in calm.Expect().Each)
                if ((e.Token, e.Head) != (1, 2) && (!calm.Output(e.Token, e.Head).SequenceEqual(wild.Output(e.Token, e.Head)) || calm.Lse(e.Token, e.Head) != wild.Lse(e.Token, e.Head)))
                    Assert.Fail($"{what}: row [{e.Token}, {e.Head}] changed");
        }
    }

    /// <summary>
    /// A mean of ones is one, whatever the logits: within the rounding of the sums in f32, and within the 2^-8 or 2^-11 that the oracle leaves to
    /// weights and outputs of bf16 or f16. Lost mass and wrong weights of splits show.
    /// </summary>
    [TestCaseSource(nameof(RowsByKind))]
    public void OnesGiveOnes(string name, int kind) => TryOnes(Alone(name), Problem(kind), new(Tables.Seed) { QLens = [3, 3, 3, 3], KvLens = [1200, 1000, 100, 5] });

    internal static void TryOnes((string Name, Row Row)[] rows, KnDecodeAttentionProblem problem, DecodeAttentionData data)
    {
        foreach (DecodeAttentionLogits? logits in (DecodeAttentionLogits?[])[null, new(-490, 370), new(-130, -100), new(0, 10, 120)])
        {
            using var trial = new DecodeAttentionTrial(problem, data with { Logits = logits, Ones = true, Phi = 5 });
            foreach (DecodeAttentionTrial.RowExpected e in trial.Expect().Each)
                foreach (Expected x in e.Out) Assert.That(x.Value, Is.EqualTo(e.Keys.Length > 0 ? 1 : 0).Within(1e-12), "the oracle's own mean of ones");
            foreach ((Row row, KnLaunch launch, string which) in Calls(rows)) Run(row, launch, trial, $"{which}, {DecodeAttentionCases.Describe(problem)}, {logits}");
        }
    }

    /// <summary>No key in sight: 0 and -inf; only the sink: 0 and the sink's logit; exactly, and nothing is recomputed.</summary>
    [TestCaseSource(nameof(RowsByKind))]
    public unsafe void NothingToSee(string name, int kind)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        foreach (KnAttentionFlags flags in (KnAttentionFlags[])[0, KnAttentionFlags.Sinks, KnAttentionFlags.Full, KnAttentionFlags.Full | KnAttentionFlags.Sinks])
        {
            // The second sequence has no key; the third has fewer keys than tokens, so that its first tokens come before all keys.
            using var trial = new DecodeAttentionTrial(Problem(kind, flags, 0, 3), new DecodeAttentionData(3) { KvLens = [20, 0, 1], QLens = [1, 3, 3] });
            bool full = (flags & KnAttentionFlags.Full) != 0, sinks = (flags & KnAttentionFlags.Sinks) != 0;
            foreach (KnLaunch launch in Launches(row))
            {
                Run(row, launch, trial, $"{name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}] {flags}");
                Assert.That(trial.Recomputed, Is.Zero);
                for (long t = 1; t < (full ? 4 : 6); t++)
                    for (int h = 0; h < 4; h++)
                    {
                        Assert.That(trial.Output(t, h).IndexOfAnyExcept((byte)0), Is.Negative, $"{name} {flags} out [{t}, {h}]");
                        Assert.That(trial.Lse(t, h), Is.EqualTo(sinks ? trial.Args.Sinks[h] : float.NegativeInfinity).Within(1).Ulps, $"{name} {flags} lse [{t}, {h}]");
                    }
            }
        }
    }
}
