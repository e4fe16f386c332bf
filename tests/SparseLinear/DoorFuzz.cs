using Kernels.Interop.Native;

namespace Kernels.Tests.SparseLinear;

/// <summary>
/// Broken problems, arguments and launches at the doors of every row: a status with a sentence, y left alone, and the same verdict as the rules
/// in C#. Packed weights are an arena of zeros, which is what no weights look like: nothing that is accepted reads what is not there.
/// </summary>
[TestFixture]
public sealed unsafe class DoorFuzz
{
    private const int Rounds = 20_000, Arena = 4 << 20, MostM = 20, MostN = 50, MostK = 300, LongestStride = 400;

    private readonly List<GuardedMemory> _memory = [];
    private TrialRandom _random;

    private static IEnumerable<string> Names() => Tables.Runnable(KnOp.SparseLinear).Select(r => r.Name);

    [TearDown]
    public void Free()
    {
        foreach (GuardedMemory m in _memory) m.Dispose();
        _memory.Clear();
    }

    [TestCaseSource(nameof(Names))]
    public void BrokenCallsAreRefusedAsTheRulesSay(string name)
    {
        Row row = Tables.Find(name, KnOp.SparseLinear);
        _random = new TrialRandom(Tables.Seed);
        byte*[] arenas = new byte*[8];
        for (int i = 0; i < arenas.Length; i++) arenas[i] = NewArena(numbers: true);
        byte* packed = NewArena(numbers: false), fresh = NewArena(numbers: false), y = NewArena(numbers: false);
        var outcomes = new int[7];
        // Half of the calls are of kinds that the row takes: one of a single type would refuse nearly all others before it reads them.
        FlatGemmCases.Kind[] all = [.. SparseLinearCases.MainKinds], taken = [.. all.Where(k => Takes(row, k))];
        for (int i = 0; i < Rounds; i++)
        {
            FlatGemmCases.Kind kind = Any<FlatGemmCases.Kind>(Below(2) == 0 ? taken : all);
            KnSparseLinearProblem p = Problem(kind, Below(4), Below(MostM), Below(MostN), Below(MostK), (FlatGemmActivation)Below(5), (KnGemmFlags)Below(8));
            KnLaunch launch = row.DefaultLaunch(Below(4));
            bool breakProblem = Below(3) == 0;
            if (breakProblem) Break(ref p);
            if (Below(4) == 0) Break(ref launch);
            KnSparseLinearArgs a = ArgsFor(row, p, launch, arenas, packed, y);
            int faults = breakProblem ? 0 : Below(3);
            for (int f = 0; f < faults; f++) Break(ref a, p, arenas);
            Call(row, p, launch, a, fresh, y, faults <= 1, outcomes, $"seed {Tables.Seed}, round {i}: {FlatGemmCases.Describe(p.Layer)}, sets {p.Sets}, nnz {p.Nnz}");
        }
        TestContext.Progress.WriteLine($"{name}: {Rounds} calls, {string.Join(", ", Enum.GetValues<KnStatus>().Where(s => outcomes[(int)s] > 0).Select(s => $"{s} {outcomes[(int)s]}"))}");
        foreach (KnStatus s in (KnStatus[])[KnStatus.Ok, KnStatus.Invalid, KnStatus.Unsupported])
            Assert.That(outcomes[(int)s], Is.GreaterThan(Rounds / 20), $"too few calls were {s} to mean anything");
    }

    private static KnSparseLinearProblem Problem(FlatGemmCases.Kind kind, int sets, int m, int n, int k, FlatGemmActivation activation = 0, KnGemmFlags flags = 0) => new()
    {
        Size = (uint)sizeof(KnSparseLinearProblem),
        Sets = sets,
        Layer = FlatGemmCases.Problem(kind, m, n, k, activation, flags),
    };

    private static bool Takes(Row row, FlatGemmCases.Kind kind)
    {
        KnSparseLinearProblem p = Problem(kind, 0, 1, 1, 1);
        return row.Accepts(&p, row.DefaultLaunch(0), out _);
    }

    private static void Call(Row row, KnSparseLinearProblem p, KnLaunch launch, KnSparseLinearArgs a, byte* fresh, byte* y, bool single, int[] outcomes, string what)
    {
        bool accepts = row.Accepts(&p, launch, out string? why), valid = SparseLinearRules.Valid(p, out string? rule);
        if (!accepts && string.IsNullOrEmpty(why)) Assert.Fail($"{what}: refused without a reason");
        if (accepts && !valid) Assert.Fail($"{what}: accepted, though the rules ask {rule}");
        KnSparseLinearArgs pack = a;
        pack.Call.Packed = fresh;
        pack.Call.PackedBytes = Arena;
        KnStatus packing = row.Prepack(&p, &pack);
        if (packing is not (KnStatus.Ok or KnStatus.Invalid)) Assert.Fail($"{what}: prepack {packing}");
        const int Looked = 8192;
        new Span<byte>(y, Looked).Fill(0x77);
        // Before the call, which may write what an output overlaps.
        string? argument = null;
        bool right = accepts && SparseLinearRules.Check(p, a, row.Workspace(&p, launch), false, out argument, out rule);
        KnStatus status = row.Run(&p, launch, &a);
        outcomes[(int)status]++;
        KnStatus expected = !accepts ? KnStatus.Unsupported : right ? KnStatus.Ok : KnStatus.Invalid;
        if (status != expected) Assert.Fail($"{what}: {status} {row.LastError}, and the rules say {expected} ({argument}: {rule})");
        if (status == KnStatus.Ok) return;
        if (row.LastError.Length == 0) Assert.Fail($"{what}: {status} without a sentence");
        // Of several faults either may be told.
        if (accepts && single && !row.LastError.StartsWith($"{argument}:", StringComparison.Ordinal)) Assert.Fail($"{what}: {row.LastError}, and the rules say {argument}: {rule}");
        if (new ReadOnlySpan<byte>(y, Looked).IndexOfAnyExcept((byte)0x77) >= 0) Assert.Fail($"{what}: {status}, but y was written");
    }

    private int Below(int n) => (int)(_random.Next() % (ulong)n);

    private T Any<T>(params ReadOnlySpan<T> values) => values[Below(values.Length)];

    private byte* NewArena(bool numbers)
    {
        var memory = new GuardedMemory(Arena);
        _memory.Add(memory);
        memory.Fill(0);
        if (numbers) new TrialRandom(7).Fill(DType.BFloat16, memory.At, Arena, 0);
        return memory.At;
    }

    private KnSparseLinearArgs ArgsFor(Row row, KnSparseLinearProblem p, in KnLaunch launch, byte*[] arenas, byte* packed, byte* y) => new()
    {
        Size = (uint)sizeof(KnSparseLinearArgs),
        Outputs = (ulong*)arenas[6],
        Inputs = (ulong*)arenas[7],
        Call = new KnFlatGemmArgs
        {
            Size = (uint)sizeof(KnFlatGemmArgs),
            M = Math.Clamp(p.Layer.M, 0, MostM) is var m && Below(2) == 0 ? m : Below(m + 1),
            X = arenas[0],
            Ldx = Math.Clamp(p.Layer.K, 0, LongestStride) + Below(3),
            XScales = (float*)arenas[1],
            W = arenas[2],
            Ldw = Math.Clamp(p.Layer.K, 0, LongestStride),
            Scales = (float*)arenas[3],
            Packed = packed,
            PackedBytes = Arena,
            Bias = (float*)arenas[4],
            Residual = arenas[5],
            Ldr = Math.Clamp(p.Layer.N, 0, LongestStride) + Below(3),
            Y = y,
            Ldy = Math.Clamp(p.Layer.N, 0, LongestStride) + Below(3),
            Workspace = NewWorkspace(),
            WorkspaceBytes = row.Accepts(&p, launch, out _) ? Math.Min(Arena, row.Workspace(&p, launch)) : 4096,
        },
    };

    private byte* NewWorkspace()
    {
        if (_memory.Count < 12) NewArena(numbers: false);
        return _memory[11].At;
    }

    private void Break(ref KnSparseLinearProblem p)
    {
        int wild = Any(-1, int.MinValue, int.MaxValue, FlatGemmRules.Longest + 1, FlatGemmRules.Longest, 5, 0);
        switch (Below(11))
        {
            case 0: p.Size = Any(0u, p.Size - 1, p.Size + 8, uint.MaxValue); break;
            case 1: p.Sets = Any(-1, 4, int.MinValue, Below(8)); break;
            case 2: p.Nnz = Any(-1L, 1, long.MaxValue, long.MinValue, (long)p.Layer.N * p.Layer.K + 1); break;
            case 3: p.Layer.Size = Any(0u, p.Layer.Size + 4); break;
            case 4: p.Layer.XType = Any(-1, 5, int.MaxValue, Below(5)); break;
            case 5: p.Layer.WType = Any(-1, 5, int.MinValue, Below(5)); break;
            case 6: p.Layer.YType = Any(-1, 5, int.MaxValue, Below(5)); break;
            case 7: p.Layer.M = wild; break;
            case 8: p.Layer.N = wild; break;
            case 9: p.Layer.K = wild; break;
            default: p.Layer.Flags = Any(-1, 64, int.MinValue, Below(64)); break;
        }
    }

    private void Break(ref KnLaunch launch)
    {
        switch (Below(3))
        {
            case 0: launch.Size = Any(0u, launch.Size - 1, launch.Size + 4); break;
            case 1: launch.Threads = Any(-1, int.MinValue, int.MaxValue, 7); break;
            default: launch.Param[Below(6)] = Any(-1, 1, 3, int.MaxValue, int.MinValue, 4, 0); break;
        }
    }

    private void Break(ref KnSparseLinearArgs a, in KnSparseLinearProblem p, byte*[] arenas)
    {
        long stride = Any(-1L, long.MinValue, long.MaxValue, FlatGemmRules.Longest + 1L, 0, p.Layer.K - 1, p.Layer.N - 1, LongestStride);
        switch (Below(17))
        {
            case 0: a.Size = Any(0u, a.Size - 8, a.Size + 8); break;
            case 1: a.Call.Size = Any(0u, a.Call.Size - 8, uint.MaxValue); break;
            case 2: a.Outputs = null; break;
            case 3: a.Inputs = null; break;
            case 4: a.Call.M = Any(-1, int.MinValue, p.Layer.M + 1, 0); break;
            case 5: a.Call.X = null; break;
            case 6: a.Call.Ldx = stride; break;
            case 7: a.Call.XScales = null; break;
            case 8: a.Call.Packed = Below(2) == 0 ? null : (byte*)a.Call.Packed + 1 + Below(63); break;
            case 9: a.Call.PackedBytes = Any(0, -1, long.MinValue, 63); break;
            case 10: a.Call.Bias = null; break;
            case 11: a.Call.Residual = Below(2) == 0 ? null : a.Call.Y; break;
            case 12: a.Call.Ldr = stride; break;
            case 13: a.Call.Y = Below(3) == 0 ? null : arenas[Any(0, 5, 6, 7)] + 64 * Below(40); break;
            case 14: a.Call.Ldy = stride; break;
            case 15: a.Call.Workspace = Below(2) == 0 ? null : (byte*)a.Call.Workspace + 1 + Below(63); break;
            default: a.Call.WorkspaceBytes = Any(0, -1, long.MinValue, a.Call.WorkspaceBytes - 1); break;
        }
    }

    /// <summary>Beyond the launch and 2^16 products of bytes, the native row asks what the rules in C# ask, and no more.</summary>
    [Test]
    public void ValidAgreesWithTheNativeRules()
    {
        Row native = Tables.Native("sparse_linear/avx512_flat");
        _random = new TrialRandom(Tables.Seed);
        KnLaunch launch = native.DefaultLaunch(0);
        FlatGemmCases.Kind[] kinds = [.. FlatGemmCases.Kinds()];
        int valids = 0;
        for (int i = 0; i < 200_000; i++)
        {
            var p = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Sets = Below(4), Layer = FlatGemmCases.Problem(kinds[Below(kinds.Length)], Below(300), Below(300), Below(300)) };
            p.Nnz = Below(300) * (long)Below(300);
            for (int f = Below(3); f > 0; f--) Break(ref p);
            bool valid = SparseLinearRules.Valid(p, out string? why), accepts = native.Accepts(&p, launch, out string? reason);
            if (reason?.Contains("65536", StringComparison.Ordinal) == true) accepts = true;
            if (valid) valids++;
            if (valid != accepts) Assert.Fail($"seed {Tables.Seed}, {i}: {FlatGemmCases.Describe(p.Layer)}, nnz {p.Nnz}: C# {why ?? "valid"}, native {reason ?? "valid"}");
        }
        Assert.That(valids, Is.GreaterThan(1000), "too few valid problems to mean anything");
    }
}
