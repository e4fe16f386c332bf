using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.SpGemm;

/// <summary>Broken problems, launches and arguments, and broken matrices: answered with a status and a sentence, as the rules in C# say, outputs left alone.</summary>
[TestFixture]
public sealed unsafe class DoorFuzz
{
    private TrialRandom _random;

    private static IEnumerable<string> Names() => Tables.Runnable(KnOp.SpGemm).Select(r => r.Name);

    private int Below(int n) => (int)(_random.Next() % (ulong)n);

    private T Any<T>(params ReadOnlySpan<T> values) => values[Below(values.Length)];

    [TestCaseSource(nameof(Names))]
    public void BrokenCallsAreRefused(string name)
    {
        Row row = Tables.Find(name, KnOp.SpGemm);
        _random = new TrialRandom(Tables.Seed);
        SparseStructure s = SpGemmMatrices.Uniform(30, 30, 4, 1);
        var outcomes = new int[7];
        foreach (KnSpgemmFlags flags in (KnSpgemmFlags[])[KnSpgemmFlags.None, KnSpgemmFlags.Mask | KnSpgemmFlags.Accumulate, KnSpgemmFlags.Mask | KnSpgemmFlags.Valued])
        {
            using var trial = new SpGemmTrial(new SpGemmCase("fuzz", s, s, DType.Float64, 4, Semiring.PlusTimes, flags), 5);
            KnLaunch launch = row.DefaultLaunch(2);
            Assert.That(trial.Analyse(row, launch), Is.Null);
            Assert.That(trial.Check(row, launch), Is.Null);
            byte[] c = trial.Values.ToArray();
            using GuardedMemory offsets = new(31 * sizeof(long)), terms = new(trial.Problem.Products * sizeof(KnSpgemmTerm)), counts = new(SpGemmSchedule.CountBytes(trial.Problem, trial.NonZeros));
            var schedule = new KnSpgemmSchedule { Offsets = (long*)offsets.At, Terms = (KnSpgemmTerm*)terms.At, Counts = (ushort*)counts.At };
            for (int i = -2; i < 10_000; i++)
                Call(row, trial, schedule, i < 0 ? KnSpgemmPhase.Schedule + i + 1 : KnSpgemmPhase.Symbolic + Below(5), i >= 0, c, outcomes, $"seed {Tables.Seed}, round {i}");
            Assert.That(offsets.Untouched(offsets.Bytes) && terms.Untouched(terms.Bytes) && counts.Untouched(counts.Bytes), "something outside the schedule was written");
        }
        TestContext.Progress.WriteLine($"{name}: {string.Join(", ", Enum.GetValues<KnStatus>().Where(x => outcomes[(int)x] > 0).Select(x => $"{x} {outcomes[(int)x]}"))}");
        Assert.That(outcomes[(int)KnStatus.Ok], Is.GreaterThan(1000), "too few calls were right to mean anything");
        Assert.That(outcomes[(int)KnStatus.Invalid], Is.GreaterThan(1000));
        Assert.That(outcomes[(int)KnStatus.Unsupported], Is.GreaterThan(1000));
    }

    private void Call(Row row, SpGemmTrial trial, KnSpgemmSchedule schedule, KnSpgemmPhase phase, bool breaks, byte[] c, int[] outcomes, string what)
    {
        KnSpgemmProblem p = trial.Problem;
        KnLaunch launch = row.DefaultLaunch(Below(3));
        KnSpgemmArgs a = trial.Args;
        long bytes = row.Workspace(&p, launch);
        using var workspace = new GuardedMemory(bytes);
        a.Workspace = workspace.At;
        a.WorkspaceBytes = bytes;
        a.Phase = (int)phase;
        a.Schedule = schedule;
        if (breaks && Below(3) == 0) Break(ref p);
        if (breaks && Below(4) == 0) Break(ref launch);
        if (breaks && Below(2) == 0) Break(ref a);
        bool accepts = row.Accepts(&p, launch, out string? why);
        if (!accepts && string.IsNullOrEmpty(why)) Assert.Fail($"{what}: refused without a reason");
        if (accepts && !SpGemmRules.Valid(p, out string? broken)) Assert.Fail($"{what}: accepted, though the rules ask {broken}");
        string? argument = null, rule = null;
        bool right = accepts && SpGemmRules.Check(p, a, row.Workspace(&p, launch), false, out argument, out rule);
        KnStatus status = row.Run(&p, launch, &a);
        outcomes[(int)status]++;
        if (accepts && (right != (status == KnStatus.Ok) || (!right && !row.LastError.StartsWith($"{argument}:", StringComparison.Ordinal))))
            Assert.Fail($"{what}: {status} {row.LastError}, and the rules say {(right ? "ok" : $"{argument}: {rule}")}");
        if (status is not (KnStatus.Ok or KnStatus.Invalid or KnStatus.Unsupported)) Assert.Fail($"{what}: {status}");
        if (!accepts && status == KnStatus.Ok) Assert.Fail($"{what}: not accepted ({why}) but run");
        if (status != KnStatus.Ok && row.LastError.Length == 0) Assert.Fail($"{what}: {status} without a sentence");
        if (!workspace.Untouched(bytes)) Assert.Fail($"{what}: {status}, workspace outgrown");
        // A right call computes the same C again; a refused one leaves it as it was.
        if (!trial.Values.SequenceEqual(c)) Assert.Fail($"{what}: {status}, and C has changed");
    }

    private void Break(ref KnSpgemmProblem p)
    {
        long wild = Any(-1L, long.MinValue, long.MaxValue, SpGemmRules.Longest64 + 1, SpGemmRules.Longest32 + 1L);
        switch (Below(12))
        {
            case 0: p.Size = Any(0u, p.Size - 8, uint.MaxValue); break;
            case 1: p.Type = Any(-1, 1, 5, 8, int.MaxValue); break;
            case 2: p.IndexBytes = Any(-1, 0, 1, 16, int.MinValue); break;
            case 3: p.Semiring = Any(-1, 5, int.MaxValue); break;
            case 4: p.Flags = Any(-1, 2, 32, 64, int.MinValue); break;
            case 5: p.Reserved = Any(1, -1); break;
            case 6: p.M = wild; break;
            case 7: p.K = wild; break;
            case 8: p.N = wild; break;
            case 9: p.ANnz = Any(-1L, p.ANnz - 1, p.ANnz + 1, long.MaxValue); break;
            case 10: p.BNnz = Any(-1L, p.BNnz - 1, p.BNnz + 1, long.MinValue); break;
            default: p.Products = Any(-1L, p.Products - 1, p.Products + 1, long.MaxValue); break;
        }
    }

    private void Break(ref KnLaunch launch)
    {
        switch (Below(3))
        {
            case 0: launch.Size = Any(0u, launch.Size - 1, launch.Size + 4); break;
            case 1: launch.Threads = Any(-1, int.MinValue, int.MaxValue); break;
            default: launch.Param[Below(6)] = Any(-1, 1, 3, int.MaxValue, int.MinValue); break;
        }
    }

    private void Break(ref KnSpgemmArgs a)
    {
        switch (Below(18))
        {
            case 0: a.Size = Any(0u, a.Size - 8, uint.MaxValue); break;
            case 1: a.Phase = Any(-1, 6, int.MaxValue); break;
            case 2: a.RowFrom = Any(-1L, 31L, long.MaxValue, long.MinValue); break;
            case 3: a.RowTo = Any(-1L, 31L, long.MaxValue, long.MinValue); break;
            case 4: a.A.Offsets = null; break;
            case 5: a.B.Columns = null; break;
            case 6: a.A.Values = null; break;
            case 7: a.Products = null; break;
            case 8: a.COffsets = null; break;
            case 9: a.CColumns = null; break;
            case 10: a.CValues = null; break;
            case 11: a.CCapacity = Any(-1L, long.MinValue); break;
            case 12: a.Workspace = Below(2) == 0 ? null : (byte*)a.Workspace + 1 + Below(63); break;
            case 13: a.Mask.Values = null; break;
            case 14: a.Schedule.Offsets = null; break;
            case 15: a.Schedule.Terms = null; break;
            case 16: a.Schedule.Counts = null; break;
            default: a.WorkspaceBytes = Any(0L, -1, long.MinValue, a.WorkspaceBytes - 1); break;
        }
    }

    /// <summary>But for the columns that its accumulators hold, the native row asks what the rules in C# ask, and no more.</summary>
    [Test]
    public void ValidAgreesWithTheNativeRules()
    {
        Row native = Tables.Native("spgemm/avx512");
        _random = new TrialRandom(Tables.Seed);
        KnLaunch launch = native.DefaultLaunch(0);
        int valids = 0;
        for (int i = 0; i < 200_000; i++)
        {
            KnSpgemmProblem p = SpGemmCases.All().First().Problem with { Flags = Below(64), Type = Any((int)DType.Float32, (int)DType.Float64, (int)DType.None), Semiring = Below(5), IndexBytes = Any(4, 8) };
            for (int f = Below(3); f > 0; f--) Break(ref p);
            bool valid = SpGemmRules.Valid(p, out string? why), accepts = native.Accepts(&p, launch, out string? reason);
            if (reason?.Contains("kDense", StringComparison.Ordinal) == true || reason?.Contains("kMaskedSpan", StringComparison.Ordinal) == true) accepts = true;
            if (valid) valids++;
            if (valid != accepts) Assert.Fail($"seed {Tables.Seed}, {i}: C# {why ?? "valid"}, native {reason ?? "valid"}");
        }
        Assert.That(valids, Is.GreaterThan(1000), "too few valid problems to mean anything");
    }

    [TestCaseSource(nameof(Names))]
    public void BrokenMatricesAreRefused(string name)
    {
        Row row = Tables.Find(name, KnOp.SpGemm);
        _random = new TrialRandom(Tables.Seed);
        SparseStructure s = SpGemmMatrices.Uniform(300, 300, 6, 1);
        foreach (int index in (int[])[4, 8])
        {
            using var trial = new SpGemmTrial(new SpGemmCase("fuzz", s, s, DType.Float64, index, Semiring.PlusTimes, KnSpgemmFlags.Mask | KnSpgemmFlags.Accumulate), 5);
            KnLaunch launch = row.DefaultLaunch(2);
            foreach (string operand in (string[])["a", "b", "mask", "d"])
                for (int i = 0; i < 50; i++)
                {
                    KnSpgemmArgs args = trial.Args;
                    KnCsr x = operand switch { "a" => args.A, "b" => args.B, "mask" => args.Mask, _ => args.D };
                    long entry = Below((int)x.Offsets[300]), old = index == 4 ? ((int*)x.Columns)[entry] : ((long*)x.Columns)[entry];
                    void Put(long column)
                    {
                        if (index == 4) ((int*)x.Columns)[entry] = (int)column;
                        else ((long*)x.Columns)[entry] = column;
                    }
                    Put(Any(-1L, 300L, int.MinValue, int.MaxValue));
                    Assert.That(trial.Analyse(row, launch), Does.Contain($"{operand}: requires 0 <= column"), operand);
                    Put(old);
                    long* offset = x.Offsets + 1 + Below(299);
                    long was = *offset;
                    *offset = Any(-1L, long.MinValue, long.MaxValue, x.Offsets[300] + 1);
                    Assert.That(trial.Analyse(row, launch), Does.Contain($"{operand}: requires ascending offsets"), operand);
                    *offset = was;
                }
            Assert.That(trial.Analyse(row, launch), Is.Null);
        }
    }
}
