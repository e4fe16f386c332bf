using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>
/// Thousands of broken problems, arguments and launches at the doors of every row. A row must say what the rules in C# say, with a
/// sentence, and a refused call must leave out alone. Every pointer leads to memory that is large enough for whatever could be
/// accepted; the sizes told to the row are what lies about it, and never upwards.
/// </summary>
[TestFixture]
public sealed unsafe class Fuzz
{
    private const int Rounds = 20_000;
    private const int Arena = 8 << 20;  // of each operand
    private const int MostHeads = 80, MostDim = 1024;

    private readonly List<GuardedMemory> _memory = [];
    private readonly Dictionary<string, nint> _arenas = [];
    private TrialRandom _random;

    private static IEnumerable<string> Names() => Tables.Runnable(KnOp.DecodeAttention).Select(r => r.Name);

    [TearDown]
    public void Free()
    {
        foreach (GuardedMemory m in _memory) m.Dispose();
        _memory.Clear();
        _arenas.Clear();
    }

    private byte* At(string operand)
    {
        if (_arenas.TryGetValue(operand, out nint at)) return (byte*)at;
        var memory = new GuardedMemory(Arena);
        _memory.Add(memory);
        new TrialRandom(7).Fill(DType.BFloat16, memory.At, Arena, 0);  // small numbers in every dtype
        _arenas.Add(operand, (nint)memory.At);
        return memory.At;
    }

    private int Below(int n) => (int)(_random.Next() % (ulong)n);

    private T Any<T>(params ReadOnlySpan<T> values) => values[Below(values.Length)];

    [TestCaseSource(nameof(Names))]
    public void BrokenCallsAreRefused(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        _random = new TrialRandom(Tables.Seed);
        var outcomes = new int[7];
        for (int i = 0; i < Rounds; i++)
        {
            KnDecodeAttentionProblem p = Rules.RandomProblem(ref _random);
            // A row of few types would refuse most of them at the door; three rounds of four look for one that it takes.
            for (int tries = 0; tries < 8 && i % 4 != 0 && !row.Accepts(&p, row.DefaultLaunch(0), out _); tries++) p = Rules.RandomProblem(ref _random);
            // Head counts and dims of a million, without memory behind them, are ValidAgreesWithTheNativeRules' matter.
            if (p.QHeads > MostHeads) p.QHeads = p.KvHeads = 1;
            KnLaunch launch = row.DefaultLaunch(Below(4));
            if (Below(3) == 0) launch.Param[0] = Below(7) - 1;
            if (Below(12) == 0) Break(ref launch);
            KnDecodeAttentionArgs a = ArgsFor(row, p, launch);
            for (int f = Below(3); f > 0; f--) Break(ref a, p);
            Call(row, p, launch, a, outcomes, $"seed {Tables.Seed}, round {i}: {DecodeAttentionCases.Describe(p)}");
        }
        TestContext.Progress.WriteLine($"{name}: {Rounds} calls, {string.Join(", ", Enum.GetValues<KnStatus>().Where(s => outcomes[(int)s] > 0).Select(s => $"{s} {outcomes[(int)s]}"))}");
        foreach (KnStatus status in (KnStatus[])[KnStatus.Ok, KnStatus.Invalid, KnStatus.Unsupported])
            Assert.That(outcomes[(int)status], Is.GreaterThan(Rounds / 20), "too few to mean anything");
    }

    private void Call(Row row, KnDecodeAttentionProblem p, KnLaunch launch, KnDecodeAttentionArgs a, int[] outcomes, string what)
    {
        bool accepts = row.Accepts(&p, launch, out string? why);
        if (!accepts && string.IsNullOrEmpty(why)) Assert.Fail($"{what}: refused without a reason");
        if (accepts && !DecodeAttentionRules.Valid(p, out string? broken)) Assert.Fail($"{what}: accepted against {broken}");
        string? argument = null, rule = null;
        bool right = accepts && DecodeAttentionRules.Check(p, a, row.Workspace(&p, launch), out argument, out rule);
        const int Looked = 16384;
        byte* @out = At("out");
        new Span<byte>(@out, Looked).Fill(0x77);
        KnStatus status = row.Run(&p, launch, &a);
        outcomes[(int)status]++;
        KnStatus expected = !accepts ? KnStatus.Unsupported : right ? KnStatus.Ok : KnStatus.Invalid;
        if (status != expected) Assert.Fail($"{what}: {status} ({row.LastError}), by the rules {expected} ({argument} {rule}{why})");
        if (status == KnStatus.Ok) return;
        if (row.LastError.Length == 0) Assert.Fail($"{what}: {status} without a sentence");
        if (new ReadOnlySpan<byte>(@out, Looked).IndexOfAnyExcept((byte)0x77) >= 0) Assert.Fail($"{what}: {status}, but out was written");
    }

    private KnDecodeAttentionArgs ArgsFor(Row row, KnDecodeAttentionProblem p, in KnLaunch launch)
    {
        int batch = Math.Clamp(p.Batch, 0, 3), qLen = Math.Clamp(p.QLen, 0, 16), kvLen = Math.Clamp(p.KvLen, 0, 100);
        int heads = Math.Clamp(p.QHeads, 1, MostHeads), kvHeads = Math.Clamp(p.KvHeads, 1, MostHeads), pageSize = p.PageSize is > 0 and < 64 ? p.PageSize : 100;
        long dim = Math.Clamp(p.HeadDim, 8, MostDim), vDim = Math.Clamp(p.VHeadDim, 8, MostDim);
        bool starts = Below(2) == 0;
        var a = new KnDecodeAttentionArgs
        {
            Size = (uint)sizeof(KnDecodeAttentionArgs),
            Batch = batch,
            QStart = starts ? (int*)At("q_start") : null,
            QLen = Below(4) == 0 ? Below(40) - 20 : qLen,
            KvLens = (int*)At("kv_lens"),
            KvLater = Below(3) == 0 ? (int*)At("kv_later") : null,
            Pages = (int*)At("pages"),
            PagesLd = 101,
            PageCount = 8,
            Q = At("q"),
            QHead = dim,
            QToken = heads * dim,
            K = At("k"),
            KHead = dim,
            KToken = Math.Min(kvHeads, 4) * dim,
            KPage = 200,
            V = At("v"),
            VHead = vDim,
            VToken = vDim,
            VPage = 3 * vDim,
            KScales = (float*)At("k_scales"),
            VScales = (float*)At("v_scales"),
            ScalePage = 100,
            ScaleToken = kvHeads,
            ScaleHead = 1,
            KeyNorms = (float*)At("key_norms"),
            Phi = (float*)At("phi"),
            Alibi = (float*)At("alibi"),
            Sinks = (float*)At("sinks"),
            Tree = (uint*)At("tree"),
            Scale = 0.1f,
            Out = At("out"),
            OutHead = vDim,
            OutToken = heads * vDim,
            Lse = Below(4) == 0 ? null : (float*)At("lse"),
            LseToken = heads,
            Recomputed = Below(2) == 0 ? null : (long*)At("recomputed"),
            Workspace = At("workspace"),
            // Asked of accepted problems only, as the header has it.
            WorkspaceBytes = row.Accepts(&p, launch, out _) ? Math.Min(Arena, row.Workspace(&p, launch)) : 4096,
        };
        ((int*)At("q_start"))[0] = 0;
        for (int b = 0; b < 3; b++)
        {
            int count = starts ? Below(qLen + 1) : qLen;
            ((int*)At("q_start"))[b + 1] = ((int*)At("q_start"))[b] + count;
            a.KvLens[b] = Below(kvLen + 1);
            ((int*)At("kv_later"))[b] = Any(0, Below(20), Below(200));
            for (int t = 0, first = starts ? ((int*)At("q_start"))[b] : b * qLen; t < count; t++) a.Tree[first + t] = 1u << t | (uint)Below(1 << t);
            for (int i = 0; i < 101; i++) a.Pages[b * 101 + i] = i * pageSize < a.KvLens[b] ? Below(8) : Any(0, -1, int.MaxValue);
        }
        for (int h = 0; h < MostHeads; h++) a.Alibi[h] = 0.01f * h;
        return a;
    }

    private void Break(ref KnLaunch launch)
    {
        switch (Below(3))
        {
            case 0: launch.Size = Any(0u, launch.Size - 1, launch.Size + 4, uint.MaxValue); break;
            case 1: launch.Threads = Any(-1, int.MinValue, int.MaxValue, 7, 1025); break;
            default: launch.Param[Below(6)] = Any(-1, 1, 3, int.MaxValue, int.MinValue, 512, 4, 0); break;
        }
    }

    private void Break(ref KnDecodeAttentionArgs a, in KnDecodeAttentionProblem p)
    {
        long stride = Any(-1, long.MinValue, long.MaxValue, DecodeAttentionRules.LongestStride + 1, 0, p.HeadDim - 1, p.VHeadDim, 300);
        byte* somewhere = At(Any("q", "k", "v", "k_scales", "key_norms", "workspace", "phi", "pages", "kv_lens", "lse", "out")) + 64 * Below(40);
        switch (Below(41))
        {
            case 0: a.Size = Any(0u, a.Size - 8, a.Size + 8, uint.MaxValue); break;
            case 1: a.Batch = Any(-1, int.MinValue, p.Batch < int.MaxValue ? p.Batch + 1 : -1, 0); break;
            case 2: ((int*)At("q_start"))[Below(4)] = Any(-1, 0, 1, 17, int.MaxValue, int.MinValue); break;
            case 3: ((int*)At("kv_lens"))[Below(3)] = Any(-1, p.KvLen < 100 ? p.KvLen + 1 : -1, int.MaxValue, int.MinValue, 0); break;
            case 4: a.KvLens = null; break;
            case 5: ((int*)At("pages"))[Below(303)] = Any(-1, 8, int.MaxValue, int.MinValue); break;
            case 6: a.Pages = null; break;
            case 7: a.PagesLd = Any(0, 1, -1, long.MinValue, long.MaxValue, 2); break;
            case 8: a.PageCount = Any(0, 1, -1, long.MinValue); break;
            case 9: a.Q = null; break;
            case 10: a.QToken = stride; break;
            case 11: a.QHead = stride; break;
            case 12: a.K = null; break;
            case 13: a.KPage = stride; break;
            case 14: a.KToken = stride; break;
            case 15: a.KHead = stride; break;
            case 16: a.V = null; break;
            case 17: a.VPage = stride; break;
            case 18: a.VToken = stride; break;
            case 19: a.VHead = stride; break;
            case 20: a.KScales = null; break;
            case 21: a.VScales = null; break;
            case 22: a.ScalePage = stride; break;
            case 23: a.ScaleToken = stride; break;
            case 24: a.ScaleHead = stride; break;
            case 25: a.KeyNorms = null; break;
            case 26: a.Phi = null; break;
            case 27: a.Alibi = null; break;
            case 28: ((float*)At("alibi"))[Below(MostHeads)] = Any(-1, float.NaN, float.PositiveInfinity); break;
            case 29: a.Sinks = null; break;
            case 30: a.Tree = null; break;
            case 31: ((uint*)At("tree"))[Below(8)] = Any(0u, 3u, uint.MaxValue, 0x10000u); break;
            case 32: a.Scale = Any(0, -1, float.NaN, float.PositiveInfinity, 1e-30f); break;
            case 33: a.Out = Below(3) == 0 ? null : somewhere; break;
            case 34: a.OutToken = stride; break;
            case 35: a.OutHead = stride; break;
            case 36: a.Lse = (float*)somewhere; break;
            case 37: a.LseToken = stride; break;
            case 39: ((int*)At("kv_later"))[Below(3)] = Any(-1, int.MinValue, int.MaxValue, 1 << 28); break;
            case 38: a.Recomputed = (long*)somewhere; break;
            default:
                if (Below(2) == 0) a.Workspace = Below(2) == 0 ? null : (byte*)a.Workspace + 1 + Below(63);
                else a.WorkspaceBytes = Any(0, -1, long.MinValue, a.WorkspaceBytes - 1, a.WorkspaceBytes / 2);
                break;
        }
    }
}
