using System.Collections.Immutable;
using Kernels.Tests.Perf;
using Kernels.Tuning;
using NUnit.Framework;

namespace Kernels.Tests.Tuning;

/// <summary>perf tune on a library whose rows crash or hang: they are recorded as failed, and the others are measured.</summary>
[TestFixture]
public sealed class Faults
{
    private const string Gemv = "flat_gemm/avx512_gemv", Flat = "flat_gemm/avx512_flat";

    private static int Perf(string[] arguments, out string output, params (string Name, string Value)[] environment)
    {
        PerfProcess process = PerfProcess.Run(environment, arguments);
        output = process.Output + process.Error;
        return process.Code;
    }

    [Test]
    public void WhatTheChildRefusesIsSaidOnceWithItsRuleAndCode()
    {
        using var scratch = new Scratch();
        Assert.That(Perf(["tune", "spgemm", "--matrix", "rmat:6:4", "--db", scratch.Path], out string output), Is.EqualTo(2), output);
        Assert.That(output.Split('\n').Where(l => l.Contains("products, not", StringComparison.Ordinal)), Has.One.Items, output);
        Assert.That(Directory.GetFiles(scratch.Path), Is.Empty);
    }

    [Test]
    public void ACandidateThatCrashesOrHangsIsRecordedAndTheTuneGoesOn()
    {
        string faulty = Path.Combine(PerfProcess.Root, "build", "faulty");
        if (KernelTable.Default.Path is null || !Directory.Exists(faulty)) Assert.Ignore($"{faulty} was not built: it needs Linux on x86-64");
        if (!KernelTable.Default.Of(Kernels.Interop.Native.KnOp.FlatGemm).Any(r => r.Name == Gemv && KernelTable.Default.Runs(r, out _))) Assert.Ignore($"{Gemv} does not run here");
        using var scratch = new Scratch();
        string[] arguments = ["tune", "flat_gemm", "--n", "64", "--k", "256", "--weights", "f32", "--m", "4", "--budget", "600", "--time-out", "5", "--cache", "warm", "--db", scratch.Path];
        Assert.That(Perf(arguments, out string output, ("KERNELS_NATIVE", faulty), ("KN_CRASH", Gemv), ("KN_HANG", Flat)), Is.Zero, output);

        TuningRecord record = TuningRecord.Parse("", TuningSource.User, File.ReadAllBytes(Directory.GetFiles(scratch.Path, "*.json").Single())).Record!;
        Evidence evidence = record.Evidence.Single();
        Dictionary<Dataflow, Timing> timings = evidence.Candidates.Zip(evidence.Result.Timings).ToDictionary(t => t.First, t => t.Second);
        IEnumerable<FailureKind?> Kinds(string row) => timings.Where(t => t.Key.Row == row).Select(t => t.Value.Failure?.Kind);
        Assert.That(Kinds(Gemv), Is.Not.Empty.And.All.EqualTo(FailureKind.Crash), output);
        Assert.That(Kinds(Flat), Is.Not.Empty.And.All.EqualTo(FailureKind.Timeout), output);
        Assert.That(evidence.Result.Winner, Is.Not.Negative, output);
        Assert.That(evidence.Candidates[evidence.Result.Winner].Row, Is.Not.AnyOf(Gemv, Flat));
    }
}
