using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>The rules in C# and in C are the same rules; whatever breaks one is refused before anything is written; the oracle's parts.</summary>
[TestFixture]
public sealed unsafe class Rules
{
    private static IEnumerable<string> Names() => Tables.Runnable(KnOp.DecodeAttention).Select(r => r.Name);

    private delegate void Breaks(ref KnDecodeAttentionArgs args);

    /// <summary>A problem with every argument, over a cache with scales that the row takes.</summary>
    private static KnDecodeAttentionProblem Everything(Row row) => ((DecodeAttentionCases.Kind[])[DecodeAttentionCases.MainKinds[3], new(DType.BFloat16, DType.Float8E4M3, DType.BFloat16, true)])
        .Select(kind => DecodeAttentionCases.Problem(kind, 3, 4, 4, 2, 64, 64, 100, 16, 70, 0,
            KnAttentionFlags.Tree | KnAttentionFlags.Alibi | KnAttentionFlags.Sinks | KnAttentionFlags.Phi | KnAttentionFlags.Norms))
        .First(problem => Dataflows.Takes(row, problem));

    private const long Over = DecodeAttentionRules.LongestStride + 1;

    private static readonly (string What, Breaks Break)[] s_broken =
    [
        ("size", (ref KnDecodeAttentionArgs a) => a.Size--),
        ("batch", (ref KnDecodeAttentionArgs a) => a.Batch = 4),
        ("batch", (ref KnDecodeAttentionArgs a) => a.Batch = -1),
        ("q_start from 1", (ref KnDecodeAttentionArgs a) => a.QStart[0] = 1),
        ("q_start descends", (ref KnDecodeAttentionArgs a) => a.QStart[1] = a.QStart[2] + 1),
        ("more tokens than q_len", (ref KnDecodeAttentionArgs a) => a.QStart[3] += 9),
        ("q_len beyond the problem's", (ref KnDecodeAttentionArgs a) => { a.QStart = null; a.QLen = 5; }),
        ("q_len below 0", (ref KnDecodeAttentionArgs a) => { a.QStart = null; a.QLen = -1; }),
        ("kv_lens null", (ref KnDecodeAttentionArgs a) => a.KvLens = null),
        ("kv_lens below 0", (ref KnDecodeAttentionArgs a) => a.KvLens[1] = -1),
        ("kv_lens beyond kv_len", (ref KnDecodeAttentionArgs a) => a.KvLens[0] = 101),
        ("kv_later below 0", (ref KnDecodeAttentionArgs a) => a.KvLater[1] = -1),
        ("kv_later beyond 2^28", (ref KnDecodeAttentionArgs a) => a.KvLater[0] = (1 << 28) - 99),
        ("lse over kv_later", (ref KnDecodeAttentionArgs a) => a.Lse = (float*)a.KvLater),
        ("pages null", (ref KnDecodeAttentionArgs a) => a.Pages = null),
        ("table shorter than kv_lens", (ref KnDecodeAttentionArgs a) => a.PagesLd = 6),
        ("pages_ld", (ref KnDecodeAttentionArgs a) => a.PagesLd = -1),
        ("pages_ld", (ref KnDecodeAttentionArgs a) => a.PagesLd = Over),
        ("page id below 0", (ref KnDecodeAttentionArgs a) => a.Pages[6] = -1),
        ("page id beyond page_count", (ref KnDecodeAttentionArgs a) => a.Pages[4] = (int)a.PageCount),
        ("page_count", (ref KnDecodeAttentionArgs a) => a.PageCount = -1),
        ("page_count below ids", (ref KnDecodeAttentionArgs a) => a.PageCount = 1),
        ("scale 0", (ref KnDecodeAttentionArgs a) => a.Scale = 0),
        ("scale below 0", (ref KnDecodeAttentionArgs a) => a.Scale = -1),
        ("scale NaN", (ref KnDecodeAttentionArgs a) => a.Scale = float.NaN),
        ("scale infinite", (ref KnDecodeAttentionArgs a) => a.Scale = float.PositiveInfinity),
        ("phi null", (ref KnDecodeAttentionArgs a) => a.Phi = null),
        ("phi NaN", (ref KnDecodeAttentionArgs a) => a.Phi[3] = float.NaN),
        ("alibi null", (ref KnDecodeAttentionArgs a) => a.Alibi = null),
        ("alibi below 0", (ref KnDecodeAttentionArgs a) => a.Alibi[1] = -0.5f),
        ("alibi NaN", (ref KnDecodeAttentionArgs a) => a.Alibi[1] = float.NaN),
        ("sinks null", (ref KnDecodeAttentionArgs a) => a.Sinks = null),
        ("sinks NaN", (ref KnDecodeAttentionArgs a) => a.Sinks[0] = float.NaN),
        ("tree null", (ref KnDecodeAttentionArgs a) => a.Tree = null),
        ("tree without its own bit", (ref KnDecodeAttentionArgs a) => a.Tree[2] = 1),
        ("tree with a later bit", (ref KnDecodeAttentionArgs a) => a.Tree[0] = 3),
        ("k_scales null", (ref KnDecodeAttentionArgs a) => a.KScales = null),
        ("v_scales null", (ref KnDecodeAttentionArgs a) => a.VScales = null),
        ("key_norms null", (ref KnDecodeAttentionArgs a) => a.KeyNorms = null),
        ("q null", (ref KnDecodeAttentionArgs a) => a.Q = null),
        ("k null", (ref KnDecodeAttentionArgs a) => a.K = null),
        ("v null", (ref KnDecodeAttentionArgs a) => a.V = null),
        ("out null", (ref KnDecodeAttentionArgs a) => a.Out = null),
        ("rows of out overlap", (ref KnDecodeAttentionArgs a) => a.OutHead = 63),
        ("rows of out overlap", (ref KnDecodeAttentionArgs a) => a.OutToken = 255),
        ("rows of lse overlap", (ref KnDecodeAttentionArgs a) => a.LseToken = 3),
        ("more pages than memory", (ref KnDecodeAttentionArgs a) => (a.PageCount, a.KPage) = (1L << 31, 1L << 40)),
        ("workspace null", (ref KnDecodeAttentionArgs a) => a.Workspace = null),
        ("workspace not aligned", (ref KnDecodeAttentionArgs a) => a.Workspace = (byte*)a.Workspace + 4),
        ("workspace too small", (ref KnDecodeAttentionArgs a) => a.WorkspaceBytes--),
        ("out over q", (ref KnDecodeAttentionArgs a) => a.Out = (byte*)a.Q + 10),
        ("out over k", (ref KnDecodeAttentionArgs a) => a.Out = (byte*)a.K + 100),
        ("out over v", (ref KnDecodeAttentionArgs a) => a.Out = a.V),
        ("out over k_scales", (ref KnDecodeAttentionArgs a) => a.Out = a.KScales + 4),
        ("out over the table", (ref KnDecodeAttentionArgs a) => a.Out = a.Pages),
        ("out over lse", (ref KnDecodeAttentionArgs a) => a.Lse = (float*)((byte*)a.Out + 64)),
        ("out over the workspace", (ref KnDecodeAttentionArgs a) => a.Out = a.Workspace),
        ("out over the counter", (ref KnDecodeAttentionArgs a) => a.Recomputed = (long*)a.Out),
        ("lse over q", (ref KnDecodeAttentionArgs a) => a.Lse = (float*)a.Q),
        ("lse over k", (ref KnDecodeAttentionArgs a) => a.Lse = (float*)a.K),
        ("lse over phi", (ref KnDecodeAttentionArgs a) => a.Lse = a.Phi),
        ("lse over sinks", (ref KnDecodeAttentionArgs a) => a.Lse = a.Sinks),
        ("lse over tree", (ref KnDecodeAttentionArgs a) => a.Lse = (float*)a.Tree),
    ];

    private static (string What, Breaks Break)[] Strides(long stride) =>
    [
        ($"q_token {stride}", (ref KnDecodeAttentionArgs a) => a.QToken = stride),
        ($"q_head {stride}", (ref KnDecodeAttentionArgs a) => a.QHead = stride),
        ($"k_page {stride}", (ref KnDecodeAttentionArgs a) => a.KPage = stride),
        ($"k_token {stride}", (ref KnDecodeAttentionArgs a) => a.KToken = stride),
        ($"k_head {stride}", (ref KnDecodeAttentionArgs a) => a.KHead = stride),
        ($"v_page {stride}", (ref KnDecodeAttentionArgs a) => a.VPage = stride),
        ($"v_token {stride}", (ref KnDecodeAttentionArgs a) => a.VToken = stride),
        ($"v_head {stride}", (ref KnDecodeAttentionArgs a) => a.VHead = stride),
        ($"scale_page {stride}", (ref KnDecodeAttentionArgs a) => a.ScalePage = stride),
        ($"scale_token {stride}", (ref KnDecodeAttentionArgs a) => a.ScaleToken = stride),
        ($"scale_head {stride}", (ref KnDecodeAttentionArgs a) => a.ScaleHead = stride),
        ($"out_token {stride}", (ref KnDecodeAttentionArgs a) => a.OutToken = stride),
        ($"out_head {stride}", (ref KnDecodeAttentionArgs a) => a.OutHead = stride),
        ($"lse_token {stride}", (ref KnDecodeAttentionArgs a) => a.LseToken = stride),
    ];

    [TestCaseSource(nameof(Names))]
    public void WhatBreaksARuleIsRefused(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        (string, Breaks)[] nothing = [("nothing", (ref KnDecodeAttentionArgs _) => { })];
        foreach ((string what, Breaks breaks) in (ReadOnlySpan<(string, Breaks)>)[.. nothing, .. s_broken, .. Strides(-1), .. Strides(Over), .. Strides(long.MaxValue), .. Strides(long.MinValue)])
        {
            using var trial = new DecodeAttentionTrial(Everything(row), new DecodeAttentionData(9) { KvLens = [100, 30, 2], QLens = [4, 3, 2], KvLater = [0, 3, 9] });
            KnLaunch launch = row.DefaultLaunch(0);
            Assert.That(trial.Prepare(row, launch, out string error), $"{name}: {error}");
            KnDecodeAttentionArgs args = trial.Call();
            breaks(ref args);
            bool right = DecodeAttentionRules.Check(trial.Problem, args, row.Workspace(trial.ProblemAt, launch), out string? argument, out string? rule);
            Assert.That(right, Is.EqualTo(what == "nothing"), $"rules: {what}: {argument} {rule}");
            KnStatus status = row.Run(trial.ProblemAt, launch, &args);
            Assert.That(status, Is.EqualTo(right ? KnStatus.Ok : KnStatus.Invalid), $"{name}: {what}");
            if (right) continue;
            Assert.That(row.LastError, Is.Not.Empty, $"{name}: {what}");
            Assert.That(trial.Untouched(), $"{name}: {what}: refused, but something was written");
        }
    }

    [Test]
    public void ValidAgreesWithTheNativeRules()
    {
        Row native = Tables.Native("decode_attention/avx512");
        Row managed = KernelTable.Default.Of(KnOp.DecodeAttention).Last();
        var random = new TrialRandom(Tables.Seed);
        int valid = 0;
        for (int i = 0; i < 200_000; i++)
        {
            KnDecodeAttentionProblem p = RandomProblem(ref random);
            bool holds = managed.Accepts(&p, managed.DefaultLaunch(0), out string? why), accepts = native.Accepts(&p, native.DefaultLaunch(0), out string? reason);
            if (holds) valid++;
            // What this row asks beyond the rules of the operation: that its workspace can be counted.
            if (reason?.Contains("workspace", StringComparison.Ordinal) == true) accepts = true;
            if (holds != accepts) Assert.Fail($"seed {Tables.Seed}, {i}: {DecodeAttentionCases.Describe(p)} size {p.Size} flags {p.Flags}: managed {why ?? "valid"}, native {reason ?? "valid"}");
        }
        Assert.That(valid, Is.GreaterThan(10_000), "too few valid problems to mean anything");
    }

    internal static KnDecodeAttentionProblem RandomProblem(ref TrialRandom random)
    {
        DecodeAttentionCases.Kind[] kinds = [.. DecodeAttentionCases.Kinds()];
        int kvHeads = 1 + Below(ref random, 4);
        KnDecodeAttentionProblem p = DecodeAttentionCases.Problem(kinds[Below(ref random, kinds.Length)], Below(ref random, 4), 1 + Below(ref random, 4), kvHeads * (1 + Below(ref random, 5)), kvHeads,
            8 * (1 + Below(ref random, 9)), 8 * (1 + Below(ref random, 9)), Below(ref random, 101), Below(ref random, 3) == 0 ? 0 : 1 + Below(ref random, 40), 0, 0,
            (KnAttentionFlags)(Below(ref random, 8) switch { 0 => 1, 1 => 2, 2 => 4, 3 => 8, 4 => 13, 5 => 10, _ => 0 }) | (KnAttentionFlags)(32 * Below(ref random, 4)));
        if (Below(ref random, 2) == 0) return p;
        for (int i = 0; i < 1 + Below(ref random, 3); i++) Break(ref p, ref random);
        return p;
    }

    internal static void Break(ref KnDecodeAttentionProblem p, ref TrialRandom random)
    {
        int wild = ((int[])[-1, 0, 1, int.MinValue, int.MaxValue, 16, 17, Below(ref random, 80), 8, 1 << 28, (1 << 28) + 1])[Below(ref random, 11)];
        switch (Below(ref random, 15))
        {
            case 0: p.Size += (uint)Below(ref random, 3) - 1; break;
            case 1: p.QType = Below(ref random, 9) - 1; break;
            case 2: p.KvType = Below(ref random, 9) - 1; break;
            case 3: p.OutType = Below(ref random, 9) - 1; break;
            case 4: p.Batch = wild; break;
            case 5: p.QLen = wild; break;
            case 6: p.QHeads = wild; break;
            case 7: p.KvHeads = wild; break;
            case 8: p.HeadDim = wild; break;
            case 9: p.VHeadDim = wild; break;
            case 10: p.KvLen = wild; break;
            case 11: p.PageSize = wild; break;
            case 12: p.Window = wild; break;
            case 13: p.Softcap = ((float[])[-1, 30, float.NaN, float.PositiveInfinity, 60, 61, 1e-30f])[Below(ref random, 7)]; break;
            default: p.Flags = Below(ref random, 10) == 0 ? wild : Below(ref random, 130); break;
        }
    }

    private static int Below(ref TrialRandom random, int n) => (int)(random.Next() % (ulong)n);

    [TestCaseSource(nameof(Names))]
    public void RunAllocatesNothing(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        int ran = 0;
        foreach (DecodeAttentionCases.Kind kind in DecodeAttentionCases.MainKinds)
        {
            KnDecodeAttentionProblem p = DecodeAttentionCases.Problem(kind, 3, 4, 8, 2, 64, 64, 700, 16, 0, 0, KnAttentionFlags.Phi | KnAttentionFlags.Norms);
            using var trial = new DecodeAttentionTrial(p, new DecodeAttentionData(3) { Logits = new(-300, 300) });
            foreach (KnLaunch launch in Dataflows.Launches(row))
            {
                if (!trial.Prepare(row, launch, out _)) continue;
                for (int i = 0; i < 30; i++) trial.Run(row, launch);
                long before = GC.GetAllocatedBytesForCurrentThread();
                for (int i = 0; i < 20; i++) trial.Run(row, launch);
                Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero, kind.ToString());
                ran++;
            }
        }
        Assert.That(ran, Is.Positive);
    }

    /// <summary>Two keys with logits ln 3 and 0, values 4 and 8: 5 and ln 4; with a sink of ln 4 half of that.</summary>
    [Test]
    public void TheOracleByHand()
    {
        KnDecodeAttentionProblem p = DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[0], 1, 1, 1, 1, 8, 8, 2);
        double[] v = [.. Enumerable.Repeat(4.0, 8), .. Enumerable.Repeat(8.0, 8)];
        var view = new DecodeAttentionView
        {
            Q = [1, 0, 0, 0, 0, 0, 0, 0],
            K = [Math.Log(3), 9, 9, 9, 9, 9, 9, 9, 0, 9, 9, 9, 9, 9, 9, 9],
            V = v,
            KScales = [1, 1],
            VScales = [1, 1],
            Visible = [0, 1],
            Bias = [0, 0],
            Scale = 1,
        };
        var @out = new Expected[8];
        DecodeAttentionOracle.Row(p, view, @out, out Expected lse, out double spread);
        Assert.That(@out.Select(x => x.Value), Has.All.EqualTo(5).Within(1e-12));
        Assert.That(lse.Value, Is.EqualTo(Math.Log(4)).Within(1e-12));
        Assert.That(@out[0].Tolerance, Is.LessThan(3e-5));
        Assert.That(spread, Is.LessThan(@out[0].Tolerance));
        var plain = new float[8];
        Assert.That(DecodeAttentionPlain.Row(p, view, plain), Is.EqualTo(Math.Log(4)).Within(1e-6));
        Assert.That(plain, Has.All.EqualTo(5).Within(1e-5));
        view.Sink = Math.Log(4);
        DecodeAttentionOracle.Row(p, view, @out, out lse, out _);
        Assert.That(@out.Select(x => x.Value), Has.All.EqualTo(2.5).Within(1e-12));
        Assert.That(lse.Value, Is.EqualTo(Math.Log(8)).Within(1e-12));
        view.Visible = [];
        view.Bias = [];
        DecodeAttentionOracle.Row(p, view, @out, out lse, out _);
        Assert.That(@out.Select(x => (x.Value, x.Tolerance >= 0)), Has.All.EqualTo((0.0, true)));
        Assert.That(lse.Value, Is.EqualTo(Math.Log(4)).Within(1e-12));
    }

    /// <summary>Which keys tokens see, by the words of the header, counted by hand.</summary>
    [TestCase(0, KnAttentionFlags.None, "0-7 0-8 0-9")]
    [TestCase(2, KnAttentionFlags.None, "6-7 7-8 8-9")]
    [TestCase(0, KnAttentionFlags.Full, "0-9 0-9 0-9")]
    [TestCase(0, KnAttentionFlags.Tree, "0-7 0-6,8 0-7,9")]
    [TestCase(3, KnAttentionFlags.Tree, "5-7 5-6,8 6-7,9")]
    public void WhatTokensSee(int window, object flags, string expected)
    {
        KnDecodeAttentionProblem p = DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[0], 1, 3, 1, 1, 8, 8, 10, 4, window, 0, (KnAttentionFlags)flags);
        using var trial = new DecodeAttentionTrial(p, new DecodeAttentionData(1));
        if (trial.Args.Tree != null) (trial.Args.Tree[0], trial.Args.Tree[1], trial.Args.Tree[2]) = (0b001, 0b010, 0b101);
        IEnumerable<string> seen = trial.Expect().Each.Select(e => string.Join(',', Ranges(e.Keys)));
        Assert.That(string.Join(' ', seen), Is.EqualTo(expected));
    }

    private static IEnumerable<string> Ranges(int[] keys)
    {
        for (int i = 0, j; i < keys.Length; i = j)
        {
            for (j = i + 1; j < keys.Length && keys[j] == keys[j - 1] + 1;) j++;
            yield return j == i + 1 ? $"{keys[i]}" : $"{keys[i]}-{keys[j - 1]}";
        }
    }
}
