using System.Collections.Immutable;
using System.Diagnostics;
using Kernels.Tuning;
using NUnit.Framework;

namespace Kernels.Tests.Tuning;

/// <summary>perf tune on a library whose rows crash or hang: they are recorded as failed, and the others are measured.</summary>
[TestFixture]
public sealed class Faults
{
    private const string Gemv = "flat_gemm/avx512_gemv", Flat = "flat_gemm/avx512_flat";

    [Test]
    public void ACandidateThatCrashesOrHangsIsRecordedAndTheTuneGoesOn()
    {
        string root = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../.."));
        string faulty = Path.Combine(root, "build", "faulty"), perf = Path.Combine(root, "perf", "bin", AppContext.BaseDirectory.Contains("Release", StringComparison.Ordinal) ? "Release" : "Debug", "net10.0", "perf.dll");
        if (KernelTable.Default.Path is null || !Directory.Exists(faulty)) Assert.Ignore($"{faulty} was not built: it needs Linux on x86-64");
        if (!KernelTable.Default.Of(Kernels.Interop.Native.KnOp.FlatGemm).Any(r => r.Name == Gemv && KernelTable.Default.Runs(r, out _))) Assert.Ignore($"{Gemv} does not run here");
        using var scratch = new Scratch();
        string[] arguments = [perf, "tune", "flat_gemm", "--n", "64", "--k", "256", "--weights", "f32", "--m", "4", "--budget", "600", "--time-out", "5", "--cache", "warm", "--db", scratch.Path];
        var start = new ProcessStartInfo("dotnet", arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["KERNELS_NATIVE"] = faulty;
        start.Environment["KN_CRASH"] = Gemv;
        start.Environment["KN_HANG"] = Flat;
        using Process tune = Process.Start(start)!;
        Task<string> error = tune.StandardError.ReadToEndAsync();
        string output = tune.StandardOutput.ReadToEnd() + error.Result;
        tune.WaitForExit();
        Assert.That(tune.ExitCode, Is.Zero, output);

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
