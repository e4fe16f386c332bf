using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>The rules in C# and in C are the same rules, and keeping them costs no allocation.</summary>
[TestFixture]
public sealed unsafe class Rules
{
    [Test]
    public void ValidAgreesWithTheNativeRules()
    {
        Row native = Tables.Native("flat_gemm/avx512_block");
        var random = new TrialRandom(Tables.Seed);
        KnLaunch launch = native.DefaultLaunch(0);
        int valid = 0;
        for (int i = 0; i < 300_000; i++)
        {
            KnFlatGemmProblem p = RandomProblem(ref random);
            bool managed = FlatGemmRules.Valid(p, out string? why);
            bool accepts = native.Accepts(&p, launch, out string? reason);
            // The one thing this row asks beyond the rules of the operation.
            if (reason?.Contains("65536", StringComparison.Ordinal) == true) accepts = true;
            if (managed) valid++;
            if (managed != accepts) Assert.Fail($"seed {Tables.Seed}, {i}: {FlatGemmCases.Describe(p)}: managed {why ?? "valid"}, native {reason ?? "valid"}");
        }
        Assert.That(valid, Is.GreaterThan(1000), "too few valid problems to mean anything");
    }

    private static KnFlatGemmProblem RandomProblem(ref TrialRandom random)
    {
        FlatGemmCases.Kind[] kinds = [.. FlatGemmCases.Kinds()];
        KnFlatGemmProblem p = FlatGemmCases.Problem(kinds[random.Next() % (ulong)kinds.Length], Number(ref random), Number(ref random), Number(ref random));
        if (random.Next() % 4 == 0) p.Flags = (int)(random.Next() % 70);
        if (random.Next() % 4 == 0) p.Activation = (int)(random.Next() % 8) - 1;
        switch (random.Next() % 12)
        {
            case 0: p.XType = (int)(random.Next() % 8) - 1; break;
            case 1: p.WType = (int)(random.Next() % 8) - 1; break;
            case 2: p.YType = (int)(random.Next() % 8) - 1; break;
            case 3: p.Group = (int)(random.Next() % 130); break;
            case 4: p.Size += (uint)(random.Next() % 3) - 1; break;
            default: break;
        }
        return p;
    }

    private static int Number(ref TrialRandom random) => (random.Next() % 24) switch
    {
        0 => -1,
        1 => FlatGemmRules.Longest + 1,
        2 => FlatGemmRules.Longest,
        3 => int.MinValue,
        _ => (int)(random.Next() % 300),
    };

    /// <summary>y beside its neighbours and one byte into them; and the longest strides there are.</summary>
    [Test]
    public void CheckSeesOverlaps()
    {
        var arena = stackalloc byte[4096 + 64];
        byte* at = (byte*)(((nuint)arena + 63) & ~(nuint)63);
        KnFlatGemmProblem p = FlatGemmCases.Problem(FlatGemmCases.MainKinds[1], 2, 4, 8);
        var a = new KnFlatGemmArgs { Size = (uint)sizeof(KnFlatGemmArgs), M = 2, X = at, Ldx = 8, W = at + 1024, Ldw = 8, Y = at + 64, Ldy = 4, Workspace = at + 2048, WorkspaceBytes = 64 };
        Assert.That(FlatGemmRules.Check(p, a, -1, 64, out _, out _), "y begins where x ends");
        a.Y = at + 60;
        Assert.That(FlatGemmRules.Check(p, a, -1, 64, out string? argument, out string? rule), Is.False);
        Assert.That((argument, rule), Is.EqualTo(("y", "y.Apart(x)")));
        a.Y = at + 1024 - 32 + 4;
        Assert.That(FlatGemmRules.Check(p, a, -1, 64, out _, out rule), Is.False);
        Assert.That(rule, Is.EqualTo("y.Apart(w)"));
        a.Y = at + 2048 + 32;
        Assert.That(FlatGemmRules.Check(p, a, -1, 64, out _, out rule), Is.False);
        Assert.That(rule, Is.EqualTo("y.Apart(scratch)"));
        a.Y = at + 512;
        p.Flags = (int)KnGemmFlags.Bias;
        a.Bias = (float*)(at + 512 - 12);
        Assert.That(FlatGemmRules.Check(p, a, -1, 64, out _, out rule), Is.False);
        Assert.That(rule, Is.EqualTo("y.Apart(bias)"));
        foreach ((_, Row row, string name) in Tables.Runnable())
        {
            KnLaunch launch = row.DefaultLaunch(1);
            if (!row.Accepts(&p, launch, out _) || row.Layout(&p) is not null) continue;
            using var scratch = new GuardedMemory(row.Workspace(&p, launch));
            a.Workspace = scratch.At;
            a.WorkspaceBytes = scratch.Bytes;
            Assert.That(row.Run(&p, launch, &a), Is.EqualTo(KnStatus.Invalid), name);
            Assert.That(row.LastError, Does.StartWith("y:"), name);
        }
        p.Flags = 0;
        a.Ldw = FlatGemmRules.Longest;
        p.N = FlatGemmRules.Longest;
        a.Ldy = p.N;
        Assert.That(FlatGemmRules.Check(p, a, -1, 64, out _, out _), Is.False, "1 GiB of y from here lie over w");
    }

    [TestCaseSource(nameof(Names))]
    public void RunAllocatesNothing(string name)
    {
        Row row = Tables.Find(name);
        int ran = 0;
        foreach (FlatGemmCases.Kind kind in FlatGemmCases.MainKinds)
        {
            using var trial = new FlatGemmTrial(FlatGemmCases.Problem(kind, 9, 130, 300, FlatGemmActivation.GeluErf, KnGemmFlags.Bias), 3);
            KnLaunch launch = row.DefaultLaunch(0);
            if (!trial.Prepare(row, launch, out _, out _)) continue;
            for (int i = 0; i < 50; i++) trial.Run(row, launch, 9);
            Assert.That(Allocations.Of(100, () => trial.Run(row, launch, 9)), Is.Zero, kind.ToString());
            ran++;
        }
        Assert.That(ran, Is.Positive);
    }

    private static IEnumerable<string> Names() => Tables.Runnable().Select(r => r.Name);

    /// <summary>The one special function of the oracle against values of Abramowitz and Stegun, table 7.1, and its limits.</summary>
    [Test]
    public void ErfOfTheOracle()
    {
        Assert.That(FlatGemmOracle.Erf(0.5), Is.EqualTo(0.5204998778130465).Within(1e-15));
        Assert.That(FlatGemmOracle.Erf(1), Is.EqualTo(0.8427007929497149).Within(1e-15));
        Assert.That(FlatGemmOracle.Erf(-2), Is.EqualTo(-0.9953222650189527).Within(1e-15));
        Assert.That(FlatGemmOracle.Erf(5.9), Is.EqualTo(1).Within(1e-15));
        Assert.That(FlatGemmOracle.Erf(0), Is.Zero);
    }
}
