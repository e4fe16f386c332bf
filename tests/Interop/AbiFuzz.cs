using Kernels.Interop.Native;

namespace Kernels.Tests.Interop;

/// <summary>
/// Thousands of broken problems, arguments and launches at the doors of every row. Whatever is wrong must come back as a status
/// with a sentence, and a refused call must leave y alone. Every pointer leads to memory that is large enough for whatever
/// combination could be accepted; the sizes told to the row are what lies about it, and never upwards.
/// </summary>
[TestFixture]
public sealed unsafe class AbiFuzz
{
    private const int Rounds = 30_000;
    private const int Arena = 4 << 20;  // of each operand
    private const int MostM = 20, MostN = 50, MostK = 300, LongestStride = 400;

    private readonly List<GuardedMemory> _memory = [];
    private TrialRandom _random;

    private static IEnumerable<string> Names() => Tables.Runnable().Select(r => r.Name);

    [TearDown]
    public void Free()
    {
        foreach (GuardedMemory m in _memory) m.Dispose();
        _memory.Clear();
    }

    [TestCaseSource(nameof(Names))]
    public void BrokenCallsAreRefused(string name)
    {
        Row row = Tables.Find(name);
        _random = new TrialRandom(Tables.Seed);
        FlatGemmCases.Kind[] kinds = [.. FlatGemmCases.Kinds()];
        byte*[] arenas = new byte*[9];
        for (int i = 0; i < arenas.Length; i++) arenas[i] = NewArena();
        var y = new GuardedMemory(Arena);
        _memory.Add(y);
        var outcomes = new int[7];
        for (int i = 0; i < Rounds; i++)
        {
            KnFlatGemmProblem p = FlatGemmCases.Problem(kinds[Below(kinds.Length)], Below(MostM), Below(MostN), Below(MostK),
                (FlatGemmActivation)Below(5), (KnGemmFlags)Below(4));
            KnLaunch launch = row.DefaultLaunch(Below(4));
            int faults = 1 + Below(3);
            bool breakProblem = Below(3) == 0;
            for (int f = 0; breakProblem && f < faults; f++) Break(ref p);
            if (Below(4) == 0) Break(ref launch);
            KnFlatGemmArgs a = ArgsFor(row, p, launch, arenas, y.At);
            for (int f = 0; !breakProblem && f < faults; f++) Break(ref a, p, arenas);
            Call(row, p, launch, a, y, outcomes, $"seed {Tables.Seed}, round {i}: {FlatGemmCases.Describe(p)}");
        }
        TestContext.Progress.WriteLine($"{name}: {Rounds} calls, {string.Join(", ", Enum.GetValues<KnStatus>().Where(s => outcomes[(int)s] > 0).Select(s => $"{s} {outcomes[(int)s]}"))}");
        Assert.That(outcomes[(int)KnStatus.Ok], Is.GreaterThan(Rounds / 20), "too few calls were right to mean anything");
        Assert.That(outcomes[(int)KnStatus.Invalid], Is.GreaterThan(Rounds / 20));
        Assert.That(outcomes[(int)KnStatus.Unsupported], Is.GreaterThan(Rounds / 20));
    }

    private static void Call(Row row, KnFlatGemmProblem p, KnLaunch launch, KnFlatGemmArgs a, GuardedMemory y, int[] outcomes, string what)
    {
        bool accepts = row.Accepts(&p, launch, out string? why);
        if (!accepts && string.IsNullOrEmpty(why)) Assert.Fail($"{what}: refused without a reason");
        if (row.PackedBytes(&p) < 0) Assert.Fail($"{what}: packed bytes {row.PackedBytes(&p)}");
        KnStatus packed = row.Prepack(&p, &a);
        if (packed is not (KnStatus.Ok or KnStatus.Invalid)) Assert.Fail($"{what}: prepack {packed}");
        const int Looked = 8192;
        new Span<byte>(y.At, Looked).Fill(0x77);
        KnStatus status = row.Run(&p, launch, &a);
        outcomes[(int)status]++;
        if (status is not (KnStatus.Ok or KnStatus.Invalid or KnStatus.Unsupported)) Assert.Fail($"{what}: {status}");
        if (!accepts && status == KnStatus.Ok) Assert.Fail($"{what}: not accepted ({why}) but run");
        if (status == KnStatus.Ok) return;
        if (row.LastError.Length == 0) Assert.Fail($"{what}: {status} without a sentence");
        if (new ReadOnlySpan<byte>(y.At, Looked).IndexOfAnyExcept((byte)0x77) >= 0) Assert.Fail($"{what}: {status}, but y was written");
    }

    private int Below(int n) => (int)(_random.Next() % (ulong)n);

    private T Any<T>(params ReadOnlySpan<T> values) => values[Below(values.Length)];

    private byte* NewArena()
    {
        var memory = new GuardedMemory(Arena);
        _memory.Add(memory);
        // Bits that are small numbers in every dtype: sums of NaN would hide nothing, but denormals would be slow.
        new TrialRandom(7).Fill(DType.BFloat16, memory.At, Arena, 0);
        return memory.At;
    }

    private KnFlatGemmArgs ArgsFor(Row row, KnFlatGemmProblem p, in KnLaunch launch, byte*[] arenas, byte* y) => new()
    {
        Size = (uint)sizeof(KnFlatGemmArgs),
        M = Math.Clamp(p.M, 0, MostM) is var m && Below(2) == 0 ? m : Below(m + 1),
        X = arenas[0],
        Ldx = Math.Clamp(p.K, 0, LongestStride) + Below(3),
        XScales = (float*)arenas[1],
        W = arenas[2],
        Ldw = (Math.Clamp(p.K, 0, LongestStride - 1) + 1) / 2 * 2,
        Scales = (float*)arenas[3],
        Zeros = arenas[4],
        Packed = arenas[5],
        PackedBytes = Math.Min(Arena, row.PackedBytes(&p)),
        Bias = (float*)arenas[6],
        Residual = arenas[7],
        Ldr = Math.Clamp(p.N, 0, LongestStride) + Below(3),
        Y = y,
        Ldy = Math.Clamp(p.N, 0, LongestStride) + Below(3),
        Workspace = arenas[8],
        // Asked of accepted problems only, as the header has it.
        WorkspaceBytes = row.Accepts(&p, launch, out _) ? Math.Min(Arena, row.Workspace(&p, launch)) : 4096,
    };

    private void Break(ref KnFlatGemmProblem p)
    {
        int wild = Any(-1, int.MinValue, int.MaxValue, FlatGemmRules.Longest + 1, FlatGemmRules.Longest, 5, 0, Below(MostM));
        switch (Below(10))
        {
            case 0: p.Size = Any(0u, p.Size - 1, p.Size + 4, uint.MaxValue); break;
            case 1: p.XType = Any(-1, 5, int.MaxValue, int.MinValue, Below(5)); break;
            case 2: p.WType = Any(-1, 5, int.MaxValue, int.MinValue, Below(5)); break;
            case 3: p.YType = Any(-1, 5, int.MaxValue, int.MinValue, Below(5)); break;
            case 4: p.M = wild; break;
            // Two dimensions of 2^28 at once are the subject of a test of their own, without memory behind them.
            case 5: p.N = p.K > MostK ? p.N : wild; break;
            case 6: p.K = p.N > MostN ? p.K : wild; break;
            case 7: p.Group = Any(-1, 0, 1, 31, 32, 64, 128, int.MaxValue, int.MinValue); break;
            case 8: p.Activation = Any(-1, 5, int.MaxValue, int.MinValue, Below(5)); break;
            default: p.Flags = Any(-1, 32, int.MinValue, Below(32), Below(64)); break;
        }
    }

    private void Break(ref KnLaunch launch)
    {
        switch (Below(3))
        {
            case 0: launch.Size = Any(0u, launch.Size - 1, launch.Size + 4, uint.MaxValue); break;
            case 1: launch.Threads = Any(-1, int.MinValue, int.MaxValue, 7); break;
            default: launch.Param[Below(6)] = Any(-1, 1, 3, int.MaxValue, int.MinValue, 512, 4, 0); break;
        }
    }

    private void Break(ref KnFlatGemmArgs a, in KnFlatGemmProblem p, byte*[] arenas)
    {
        long stride = Any(-1L, long.MinValue, long.MaxValue, FlatGemmRules.Longest + 1L, 0, p.K - 1, p.K, p.N - 1, p.N, LongestStride);
        switch (Below(18))
        {
            case 0: a.Size = Any(0u, a.Size - 8, a.Size + 8, uint.MaxValue); break;
            case 1: a.M = Any(-1, int.MinValue, p.M < int.MaxValue ? p.M + 1 : -1, 0); break;
            case 2: a.X = null; break;
            case 3: a.Ldx = stride; break;
            case 4: a.XScales = null; break;
            case 5: a.W = null; break;
            case 6: a.Ldw = stride; break;
            case 7: a.Scales = null; break;
            case 8: a.Zeros = null; break;
            case 9: a.Packed = Below(2) == 0 ? null : (byte*)a.Packed + 1 + Below(63); break;
            case 10: a.PackedBytes = Any(0, -1, long.MinValue, a.PackedBytes - 1, a.PackedBytes / 2); break;
            case 11: a.Bias = null; break;
            case 12: a.Residual = Below(2) == 0 ? null : a.Y; break;
            case 13: a.Ldr = stride; break;
            case 14: a.Y = Below(3) == 0 ? null : arenas[Any(0, 2, 5, 7, 8)] + 64 * Below(40); break;
            case 15: a.Ldy = stride; break;
            case 16: a.Workspace = Below(2) == 0 ? null : (byte*)a.Workspace + 1 + Below(63); break;
            default: a.WorkspaceBytes = Any(0, -1, long.MinValue, a.WorkspaceBytes - 1, a.WorkspaceBytes / 2); break;
        }
    }
}
