using Kernels.Interop.Native;
using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>perf check and perf compare of sparse products of the user's own matrices.</summary>
[TestFixture, Parallelizable]
public sealed class SpGemmCommands
{
    private static string Written(Tuning.Scratch scratch)
    {
        using CsrMatrix<double> a = SpGemm.SpGemmTests.Of(SpGemmMatrices.Rmat(6, 4, 3), i => i % 5 == 0 ? 0 : 1.0 / (i + 3));
        MatrixMarket.Write(scratch["a.mtx"], a);
        return $"file:{scratch["a.mtx"]}";
    }

    [TestCase]
    [TestCase("--semiring", "min_plus", "--masked", "--values", "f32")]
    [TestCase("--masked", "--complement", "--accumulate", "--index", "64")]
    [TestCase("--masked", "--valued")]
    [TestCase("--masked", "--valued", "--complement", "--index", "64")]
    [TestCase("--transpose", "--unsorted", "--semiring", "or_and")]
    [TestCase("--structure", "--accumulate")]
    public void CheckHoldsEveryRowToTheOracleOnNamedMatrices(params string[] asked)
    {
        using var scratch = new Tuning.Scratch();
        JsonElement[] results = [.. PerfProcess.Run(["check", "spgemm", "--matrix", $"{Written(scratch)},laplace2d:9", .. asked, "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray()];
        int rows = Device.Cpu.Table.Of(Kernels.Interop.Native.KnOp.SpGemm).Count(r => Device.Cpu.Table.Runs(r, out _));
        Assert.That(results.Select(r => r.GetProperty("cases").GetInt32()), Is.EqualTo(Enumerable.Repeat(1, 2 * rows)));
        Assert.That(results.All(r => r.GetProperty("faults").GetArrayLength() == 0));
    }

    [Test]
    public void AValueThatIsNotTheOraclesEndsCheckWith1()
    {
        string faulty = Path.Combine(PerfProcess.Root, "build", "faulty");
        const string Row = "spgemm/avx512";
        if (KernelTable.Default.Path is null || !Directory.Exists(faulty)) Assert.Ignore($"{faulty} was not built: it needs Linux on x86-64");
        if (!KernelTable.Default.Of(Kernels.Interop.Native.KnOp.SpGemm).Any(r => r.Name == Row && KernelTable.Default.Runs(r, out _))) Assert.Ignore($"{Row} does not run here");
        using var scratch = new Tuning.Scratch();
        string matrix = Written(scratch);
        PerfProcess check = PerfProcess.Run([("KERNELS_NATIVE", faulty), ("KN_WRONG", Row)], "check", "spgemm", "--matrix", matrix).Expect(PerfProcess.Bad);
        Assert.That(check.Output, Does.Contain($"{Row}[").And.Contain("tolerance").And.Contain("WRONG"));
        PerfProcess.Run([("KERNELS_NATIVE", faulty), ("KN_WRONG", Row)], "check", "spgemm", "--matrix", matrix, "--row", "managed").Expect(PerfProcess.Ok);
    }

    /// <summary>Without --matrix: the files of a folder and every kind of matrix of the suite, each with both products; what is too large is named.</summary>
    [Test]
    public void TheSuiteHasFilesAndEveryKindAndSaysWhatItLeavesOut()
    {
        using var scratch = new Tuning.Scratch();
        string file = Written(scratch), complex = scratch["b.mtx"];
        File.WriteAllText(complex, "%%MatrixMarket matrix coordinate complex general\n1 1 0\n");
        PerfProcess Bench(string folder, params string[] more) =>
            PerfProcess.Run([("KN_MATRICES", folder)], ["bench", "spgemm", "--most-products", "1e5", "--reuse", "2", "--threads", "1", "--seconds", "0.01", .. more, "--json"]);
        PerfProcess bench = Bench(scratch.Path).Expect(PerfProcess.Ok);
        Assert.That(bench.Json().EnumerateArray().Select(c => c.GetProperty("case").GetString()), Is.EqualTo(new[] { $"{file} A·A", $"{file} A·Aᵀ" }));
        foreach (string kind in (string[])["rmat:14", "rmat:15", "rmat:16", "rmat:17", "rmat:18", "laplace2d:1000", "laplace3d:100", "banded", "uniform", "powerlaw"])
            foreach (string product in (string[])["A·A", "A·Aᵀ"])
                Assert.That(bench.Error, Does.Match($"{kind}[0-9:]* {product} is left out: .* more than --most-products"));
        Assert.That(bench.Error, Does.Match("b.mtx: line 1: .* complex .* left out"));
        Assert.That(Bench(scratch.Path, "--transpose", "false").Expect(PerfProcess.Ok).Json().GetArrayLength(), Is.EqualTo(1));
        Assert.That(Bench(scratch["none"]).Error, Does.Contain($"files are left out: {scratch["none"]} is not there"));
        Assert.That(PerfProcess.Run("check", "spgemm", "--matrix", $"file:{scratch.Path}").Expect(PerfProcess.Usage).Error, Does.Contain("b.mtx: line 1: "));
        File.Delete(complex);
        Assert.That(PerfProcess.Run("check", "spgemm", "--matrix", $"file:{scratch.Path}", "--row", "managed", "--json").Expect(PerfProcess.Ok).Json().GetArrayLength(), Is.EqualTo(1));
    }

    [TestCase("check", "flat_gemm", "--matrix", "laplace2d:9")]
    [TestCase("check", "--matrix", "laplace2d:9")]
    [TestCase("check", "spgemm", "--matrix", "laplace2d:9", "--complement")]
    [TestCase("check", "spgemm", "--matrix", "laplace2d:9", "--valued")]
    [TestCase("check", "spgemm", "--matrix", "file:/nosuch.mtx")]
    public void WhatNoRowIsCheckedOnIsWrongUsage(params string[] arguments) =>
        Assert.That(PerfProcess.Run(arguments).Expect(PerfProcess.Usage).Error, Does.Contain("perf: --"));

    /// <summary>bench measures the process against the budget, which pieces of C keep.</summary>
    [Test]
    public void TheProcessKeepsToAMemoryBudget()
    {
        if (!OperatingSystem.IsLinux()) Assert.Ignore("the memory of a process is measured on Linux alone");
        PerfProcess bench = PerfProcess.Run("bench", "spgemm", "--matrix", "rmat:12:16", "--memory-budget", "24", "--reuse", "2", "--threads", "1", "--seconds", "0.01").Expect(PerfProcess.Ok);
        Assert.That(bench.Error, Does.Match("budget 24.* MiB, [0-9]+ pieces, the process grew by").And.Not.Contain(" 1 pieces"));
    }

    [Test]
    public void ValuesAloneSayTheirScheduleButTheManagedRowMakesNoneUnasked()
    {
        bool native = KernelTable.Default.Of(KnOp.SpGemm).Any(r => r.Target != "managed" && KernelTable.Default.Runs(r, out _));
        ValuesAloneSayTheirSchedule(null, native ? "a schedule of [0-9.]+ KiB, made in [0-9.]+ ms" : "no schedule");
    }

    [TestCase("0", "no schedule")]
    [TestCase("1", "a schedule of [0-9.]+ KiB, made in [0-9.]+ ms")]
    public void ValuesAloneSayTheirSchedule(string? limit, string expected)
    {
        string[] asked = limit is null ? [] : ["--schedule-limit", limit];
        PerfProcess bench = PerfProcess.Run(["bench", "spgemm", "--matrix", "laplace2d:40", "--reuse", "3", "--threads", "1", "--seconds", "0.01", .. asked]).Expect(PerfProcess.Ok);
        Assert.That(bench.Error, Does.Match(expected));
    }

    /// <summary>Thresholds of a class, measured in little time and found again; the product is large enough for a store to be asked.</summary>
    [Test]
    public void TuneStoresThresholdsForExplain()
    {
        using var scratch = new Tuning.Scratch();
        string[] product = ["spgemm", "--matrix", "banded:1500:3:5", "--threads", "1", "--db", scratch["db"]];
        JsonElement tuned = PerfProcess.Run(["tune", .. product, "--budget", "600", "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray().Single();
        Assert.That(tuned.GetProperty("stored").GetBoolean(), Is.True, tuned.ToString());
        JsonElement said = PerfProcess.Run(["explain", .. product, "--json"]).Expect(PerfProcess.Ok).Json()[0];
        Assert.That(said.GetProperty("source").GetString(), Is.EqualTo("tuned"), said.ToString());
        Assert.That(said.GetProperty("dataflow").GetString(), Is.EqualTo(tuned.GetProperty("intervals").EnumerateArray().Single().GetProperty("dataflow").GetString()));
        Assert.That(said.GetProperty("thresholds").EnumerateArray().Single(t => t.GetProperty("chosen").GetBoolean()).GetProperty("tuned_us").GetDouble(), Is.Positive);
    }

    [Test]
    public void MebibytesThatAreNoneAreWrongUsage([Values("--schedule-limit", "--memory-budget")] string option, [Values("-1", "8796093022208")] string value) =>
        Assert.That(PerfProcess.Run("bench", "spgemm", "--matrix", "laplace2d:9", option, value).Expect(PerfProcess.Usage).Error, Does.Contain($"{option}: 0 to 8796093022207 MiB, not {value}"));

    /// <summary>compare ends with 1 where GraphBLAS has another C.</summary>
    [TestCase("--semiring", "min_plus", "--masked")]
    [TestCase("--semiring", "max_plus", "--accumulate", "--values", "f32")]
    [TestCase("--semiring", "or_and", "--masked", "--complement")]
    [TestCase("--semiring", "plus_pair", "--masked", "--accumulate")]
    [TestCase("--masked", "--complement", "--accumulate", "--unsorted")]
    [TestCase("--structure", "--masked", "--accumulate")]
    [TestCase("--masked", "--valued", "--accumulate")]
    public void GraphBlasComputesTheSameProblem(params string[] asked)
    {
        using var scratch = new Tuning.Scratch();
        string results = scratch["compare.json"];
        PerfProcess compare = PerfProcess.Run(["compare", "spgemm", "--matrix", $"{Written(scratch)},laplace2d:9", .. asked, "--reuse", "2", "--threads", "1", "--seconds", "0.01", "--json", results]);
        if (compare.Error.Contains("GraphBLAS is missing", StringComparison.Ordinal) || compare.Error.Contains("no native peers", StringComparison.Ordinal)) Assert.Ignore("this build has no GraphBLAS");
        compare.Expect(PerfProcess.Ok);
        using JsonDocument cells = JsonDocument.Parse(File.ReadAllText(results));
        Assert.That(cells.RootElement.EnumerateArray().Select(c => c.GetProperty("peer").GetString()), Has.Exactly(2).StartsWith("GraphBLAS"));
    }
}
