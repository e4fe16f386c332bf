using System.Runtime.Intrinsics;
using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>What scripts rely on: every verb's exit codes, plain text in a pipe, and the fields of its JSON.</summary>
[TestFixture, Parallelizable]
public sealed class CommandLine
{
    private static readonly string[] s_dense = ["--n", "64", "--k", "64", "--weights", "f32", "--m", "4"];

    /// <summary>The fields that the results of bench and compare have, whatever the operation; of flat_gemm also its extents.</summary>
    private static readonly string[] s_fields = ["op", "row", "case", "m", "n", "k", "dtypes", "threads", "cache", "median_us", "ci_low_us", "ci_high_us",
        "gbps", "gflops", "limit_fraction", "peer", "peer_median_us", "ratio"];

    private static void IsPlain(string output) =>
        Assert.That(output, Is.Not.Empty.And.Not.Contain("\e").And.Not.Contain("│").And.Not.Contain("╭"), output);

    [TestCase("--help")]
    [TestCase("--version")]
    [TestCase("compare", "--help")]
    [TestCase("db", "--help")]
    public void HelpAndVersionAreNoErrors(params string[] arguments) => IsPlain(PerfProcess.Run(arguments).Expect(PerfProcess.Ok).Output);

    [TestCase("conquer")]
    [TestCase("explain", "gemm")]
    [TestCase("explain", "flat_gemm")]
    [TestCase("explain", "flat_gemm", "--model", "nosuch-7b")]
    [TestCase("explain", "flat_gemm", "--n", "0", "--k", "64")]
    [TestCase("explain", "flat_gemm", "--n", "64", "--k", "64", "--row", "nosuch")]
    [TestCase("explain", "flat_gemm", "--n", "64", "--k", "64", "--kv-len", "4096")]
    [TestCase("bench", "spgemm", "--matrix", "laplace2d:4", "--batch", "2")]
    [TestCase("check", "--row", "nosuch")]
    [TestCase("bench", "flat_gemm", "--n", "64", "--k", "64", "--cache", "tepid")]
    [TestCase("compare", "flat_gemm", "--n", "64", "--k", "64", "--peer-dir", "/nosuch")]
    [TestCase("report", "/nosuch.json")]
    [TestCase("db", "import", "/nosuch.json")]
    [TestCase("db", "show", "nosuch")]
    [TestCase("db", "export", "-", "--json")]
    [TestCase("tune", "flat_gemm", "--n", "64", "--k", "64", "--row", "managed")]
    [TestCase("tune", "flat_gemm", "--n", "64", "--k", "64", "--batch-invariant")]
    public void WrongUsageIsASentenceAndTheCode2(params string[] arguments)
    {
        using var scratch = new Tuning.Scratch();
        PerfProcess process = PerfProcess.Run([("XDG_CACHE_HOME", scratch.Path)], arguments).Expect(PerfProcess.Usage);
        Assert.That(process.Output, Is.Empty);
        Assert.That(process.Error, Does.StartWith("perf: ").And.Not.Contain("   at "));
        Assert.That(Directory.GetFileSystemEntries(scratch.Path), Is.Empty);
    }

    [Test]
    public void DoctorTestsEveryRowAndSaysWhatIsMissing()
    {
        PerfProcess doctor = PerfProcess.Run("doctor", "--json").Expect(KernelTable.Default.Problem is null ? PerfProcess.Ok : PerfProcess.Bad);
        JsonElement json = doctor.Json();
        Assert.That(json.GetProperty("rows").EnumerateArray().Where(r => r.GetProperty("available").GetBoolean()).Select(r => r.GetProperty("self_test").GetBoolean()), Is.Not.Empty.And.All.True);
        Assert.That(json.GetProperty("facts").EnumerateArray().Select(f => f.GetProperty("what").GetString()), Is.SupersetOf(new[] { "processor", "instruction sets", "vectors of managed rows", "tuning database" }));
    }

    /// <summary>Every kernel of a device, those without a verb too.</summary>
    [TestCase("simt")]
    [TestCase("simt64")]
    public void DoctorTestsEveryRowOfADevice(string device)
    {
        if (!Device.TryGetSimulated(out Device? simulated, out string? reason, device == "simt64" ? 64 : 32)) Assert.Ignore(reason);
        JsonElement json = PerfProcess.Run("doctor", "--device", device, "--json").Expect(KernelTable.Default.Problem is null ? PerfProcess.Ok : PerfProcess.Bad).Json();
        JsonElement[] rows = [.. json.GetProperty("rows").EnumerateArray().Where(r => r.GetProperty("device").GetString() == device)];
        Assert.That(rows.Select(r => r.GetProperty("row").GetString()), Is.EqualTo(simulated!.Table.Rows.Select(r => r.Name)).And.Contains("kv_append/gpu").And.Contains("merge_states/gpu"));
        Assert.That(rows.Where(r => r.GetProperty("available").GetBoolean()).Select(r => r.GetProperty("self_test").GetBoolean()), Is.Not.Empty.And.All.True);
    }

    [Test]
    public void ListNamesTheRowsOfTheTable()
    {
        IEnumerable<string?> rows = PerfProcess.Run("list", "--json").Expect(PerfProcess.Ok).Json().EnumerateArray()
            .Where(r => r.GetProperty("device").GetString() == "cpu").Select(r => r.GetProperty("row").GetString());
        Assert.That(rows, Is.EqualTo(KernelTable.Default.Rows.Select(r => r.Name)));
        IsPlain(PerfProcess.Run("list").Expect(PerfProcess.Ok).Output);
    }

    [TestCase("flat_gemm", "--n", "64", "--k", "64", "--m", "4")]
    [TestCase("decode_attention", "--q-heads", "8", "--kv-heads", "2", "--head-dim", "64", "--kv-len", "100")]
    public void ExplainSaysOfEveryRowWhetherItTakesTheProblem(string op, params string[] shape)
    {
        JsonElement said = PerfProcess.Run(["explain", op, .. shape, "--json"]).Expect(PerfProcess.Ok).Json()[0].GetProperty("said");
        JsonElement[] rows = [.. said.GetProperty("rows").EnumerateArray()];
        Assert.That(rows.Select(r => r.GetProperty("row").GetString()), Is.EqualTo(KernelTable.Default.Rows.Where(r => r.Name.StartsWith(op + "/", StringComparison.Ordinal)).Select(r => r.Name)));
        foreach (JsonElement row in rows)
            Assert.That(row.GetProperty("accepts").GetBoolean() ? row.GetProperty("model_us").GetDouble() > 0 : row.GetProperty("refusal").GetString()!.Length > 0, row.ToString());
        Assert.That(rows.Count(r => r.GetProperty("chosen").GetBoolean()), Is.EqualTo(1));
        Assert.That(said.GetProperty("choices").GetArrayLength(), Is.Positive);
    }

    /// <summary>8 MiB of weights: of memory, or of the L3.</summary>
    [Test]
    public void ExplainOfWarmWeightsReadsThemFromACache()
    {
        if (Device.Cpu.CacheBytes[2] <= 9 << 20 || Device.Cpu.CacheBytes[1] * Device.Cpu.Threads >= 8 << 20) Assert.Ignore("8 MiB are in the L2, or more than the L3 has");
        double[] Model(string cache) => [.. PerfProcess.Run("explain", "flat_gemm", "--n", "1024", "--k", "2048", "--weights", "f32", "--m", "1", "--cache", cache, "--json").Expect(PerfProcess.Ok).Json()[0]
            .GetProperty("said").GetProperty("rows").EnumerateArray().Where(r => r.GetProperty("accepts").GetBoolean()).Select(r => r.GetProperty("model_us").GetDouble())];
        double[] cold = Model("cold"), warm = Model("warm");
        Assert.That(warm, Has.Length.EqualTo(cold.Length));
        Assert.That(warm.Min(), Is.LessThan(0.9 * cold.Min()));
    }

    /// <summary>The results say so; and without the native library, whose threads alone can be tied, that it cannot be done.</summary>
    [Test]
    public void ThePoolIsPinnedOrTheReasonSaid()
    {
        string[] bench = ["bench", "flat_gemm", .. s_dense, "--seconds", "0.01", "--cache", "warm", "--pin", "--json"];
        PerfProcess without = PerfProcess.Run([("KERNELS_NATIVE", "/nosuch")], bench).Expect(PerfProcess.Usage);
        Assert.That(without.Error, Does.Contain("pin: false: managed threads"));
        if (KernelTable.Default.Problem is null) Assert.That(PerfProcess.Run(bench).Expect(PerfProcess.Ok).Json()[0].GetProperty("pinned").GetBoolean(), Is.True);
    }

    [TestCase("sparse_linear", "--n", "64", "--k", "64", "--density", "0.25")]
    [TestCase("spgemm", "--matrix", "rmat:6:4")]
    public void ExplainNamesTheChoice(string op, params string[] shape)
    {
        JsonElement said = PerfProcess.Run(["explain", op, .. shape, "--json"]).Expect(PerfProcess.Ok).Json()[0];
        Assert.That(said.GetProperty("op").GetString(), Is.EqualTo(op));
        IsPlain(PerfProcess.Run(["explain", op, .. shape]).Expect(PerfProcess.Ok).Output);
    }

    /// <summary>Without an operation all are checked; and what managed rows do on machines with narrower vectors, ARM among them, is checked on this one.</summary>
    [TestCase(256, "DOTNET_EnableAVX512")]
    [TestCase(128, "DOTNET_EnableAVX512", "DOTNET_EnableAVX2")]
    public void CheckHoldsTheManagedRowsOfAllOperationsToTheOracleAtEveryWidth(int most, params string[] off)
    {
        int here = Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : 128;
        PerfProcess check = PerfProcess.Run([.. off.Select(name => (name, "0"))], "check", "--row", "managed", "--json").Expect(PerfProcess.Ok);
        Assert.That(check.Error, Does.Contain($"flat_gemm/managed, vectors of {Math.Min(here, most)} bits"));
        JsonElement[] results = [.. check.Json().EnumerateArray()];
        Assert.That(results.Select(r => r.GetProperty("row").GetString()).Distinct(), Is.EquivalentTo(
            new[] { "flat_gemm/managed", "decode_attention/managed", "spgemm/managed", "sparse_linear/managed" }));
        Assert.That(results.All(r => r.GetProperty("faults").GetArrayLength() == 0));
        Assert.That(results.Where(r => r.GetProperty("row").GetString() == "decode_attention/managed").Select(r => r.GetProperty("figures").GetProperty("worst_of_twice_plain").GetDouble()),
            Is.Not.Empty.And.All.GreaterThan(0).And.All.LessThanOrEqualTo(1), "error against float64 beside that of a plain reference");
    }

    [Test]
    public void ResultsHaveTheirFieldsAndTheReportIsDrawnFromThem()
    {
        using var scratch = new Tuning.Scratch();
        string results = scratch["compare.json"], page = scratch["report.html"];
        PerfProcess bench = PerfProcess.Run(["bench", "flat_gemm", .. s_dense, "--threads", "1", "--seconds", "0.01", "--json", results]).Expect(PerfProcess.Ok);
        IsPlain(bench.Output);
        Assert.That(bench.Output, Does.Contain("cold, but only"), "4096 copies of 16 KiB are no GiB");
        using (JsonDocument cold = JsonDocument.Parse(File.ReadAllText(results)))
        {
            Assert.That(cold.RootElement[0].EnumerateObject().Select(p => p.Name), Is.SupersetOf(s_fields));
            Assert.That(cold.RootElement[0].GetProperty("peer").ValueKind, Is.EqualTo(JsonValueKind.Null));
            Assert.That(cold.RootElement[0].GetProperty("rotated_bytes").GetInt64(), Is.EqualTo(4096 * 64 * 64 * 4));
        }

        PerfProcess compare = PerfProcess.Run(["compare", "flat_gemm", .. s_dense, "--threads", "1", "--cache", "warm", "--seconds", "0.01", "--json", results]).Expect(PerfProcess.Ok);
        IsPlain(compare.Output);
        using JsonDocument document = JsonDocument.Parse(File.ReadAllText(results));
        foreach (JsonElement cell in document.RootElement.EnumerateArray())
        {
            Assert.That(cell.EnumerateObject().Select(p => p.Name), Is.SupersetOf(s_fields));
            Assert.That(cell.GetProperty("ratio").GetDouble(), Is.EqualTo(cell.GetProperty("peer_median_us").GetDouble() / cell.GetProperty("median_us").GetDouble()).Within(1e-6).Percent);
            Assert.That(cell.GetProperty("median_us").GetDouble(), Is.InRange(cell.GetProperty("ci_low_us").GetDouble(), cell.GetProperty("ci_high_us").GetDouble()));
        }
        JsonElement report = PerfProcess.Run("report", results, "--out", page, "--no-limits", "--db", scratch["none"], "--json").Expect(PerfProcess.Ok).Json();
        Assert.That(report.GetProperty("results").GetInt32(), Is.EqualTo(document.RootElement.GetArrayLength()));
        Assert.That(File.ReadAllText(page), Does.Contain("<svg").And.Contain("64 x 64"));
    }

    /// <summary>--rows has the four dataflows of the softmax in one table, named, whatever a plan of these options may choose.</summary>
    [Test]
    public void TheFourDataflowsAreOneTable()
    {
        JsonElement[] cells = [.. PerfProcess.Run("bench", "decode_attention", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "64", "--batch", "2", "--q-len", "1", "--kv-len", "300",
            "--rows", "--cache", "warm", "--seconds", "0.01", "--json").Expect(PerfProcess.Ok).Json().EnumerateArray()];
        foreach (var row in cells.GroupBy(c => c.GetProperty("row").GetString()!.Split('[')[0]))
            Assert.That(row.Select(c => c.GetProperty("softmax").GetString()).Distinct(), Is.EquivalentTo(new[] { "sync", "lazy", "unified", "bounded" }), row.Key);
        foreach (JsonElement cell in cells)
            Assert.That(cell.GetProperty("recomputed_rows").ValueKind, Is.EqualTo(cell.GetProperty("softmax").GetString() is "unified" or "bounded" ? JsonValueKind.Number : JsonValueKind.Null), cell.ToString());
    }

    /// <summary>A ragged batch is said to be one and counts the bytes of its own lengths; rows done again are counted where there may be any.</summary>
    [Test]
    public void DecodeAttentionIsTimedRaggedInEitherLayout()
    {
        using var scratch = new Tuning.Scratch();
        string results = scratch["bench.json"];
        string[] shape = ["decode_attention", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "64", "--batch", "3", "--q-len", "1", "--kv-len", "200"];
        string[] times = ["--threads", "1", "--cache", "warm", "--seconds", "0.01", "--db", scratch["none"], "--json", results];
        JsonElement Cell(params string[] more)
        {
            IsPlain(PerfProcess.Run(["bench", .. shape, .. more, .. times]).Expect(PerfProcess.Ok).Output);
            using JsonDocument document = JsonDocument.Parse(File.ReadAllText(results));
            return document.RootElement.EnumerateArray().Single().Clone();
        }
        const double Token = 2 * (2 * 64 + 8);
        JsonElement ragged = Cell("--kv", "e4m3", "--kv-scales", "--layout", "HND", "--ragged", "--softmax", "Unified");
        Assert.That((ragged.GetProperty("ragged").GetInt32(), ragged.GetProperty("hnd").GetInt32(), ragged.GetProperty("recomputed_rows").GetInt64()), Is.EqualTo((1, 1, 0)));
        Assert.That(ragged.GetProperty("dtypes").GetString(), Is.EqualTo("bf16 x e4m3 scaled -> bf16"));
        Assert.That(ragged.GetProperty("gbps").GetDouble() * ragged.GetProperty("median_us").GetDouble() * 1e3, Is.GreaterThan((200 + 2 * 12) * Token).And.LessThan(3 * 200 * Token));
        JsonElement even = Cell("--kv", "int8", "--query", "f32", "--softmax", "Sync");
        Assert.That(even.TryGetProperty("ragged", out _) || even.TryGetProperty("hnd", out _), Is.False);
        Assert.That(even.GetProperty("recomputed_rows").ValueKind, Is.EqualTo(JsonValueKind.Null));
        Assert.That(even.GetProperty("gbps").GetDouble() * even.GetProperty("median_us").GetDouble() * 1e3, Is.EqualTo(3 * 200 * Token).Within(1e-6).Percent);
        foreach (string[] wrong in (string[][])[["explain", .. shape, "--ragged"], ["bench", .. shape, "--kv-scales"]])
            Assert.That(PerfProcess.Run(wrong).Expect(PerfProcess.Usage).Error, Does.Contain("perf: --"));
    }

    [Test]
    public void TheDatabaseIsListedTakenOutAndInComparedAndTimedAgain()
    {
        using var scratch = new Tuning.Scratch();
        string db = scratch["db"], other = scratch["other"], document = scratch["export.json"];
        PerfProcess Db(string verb, params string[] more) => PerfProcess.Run(["db", verb, .. more, "--db", db]);
        Assert.That(PerfProcess.Run(["tune", "flat_gemm", .. s_dense, "--cache", "warm", "--budget", "600", "--db", db]).Expect(PerfProcess.Ok).Output, Does.Contain("warm cache"));

        Assert.That(Db("list", "64", "--json").Expect(PerfProcess.Ok).Json().EnumerateArray().Count(e => e.GetProperty("source").GetString() == "user"), Is.EqualTo(1));
        IsPlain(Db("show", "n=64,").Expect(PerfProcess.Ok).Output);
        JsonElement export = Db("export", document, "--json").Expect(PerfProcess.Ok).Json();
        Assert.That(export.GetProperty("written").GetInt32(), Is.EqualTo(1));
        JsonElement import = PerfProcess.Run("db", "import", document, "--db", other, "--json").Expect(PerfProcess.Ok).Json();
        Assert.That(import.GetProperty("written").GetInt32(), Is.EqualTo(1));
        Assert.That(Db("diff", other, "--json").Expect(PerfProcess.Ok).Json().GetArrayLength(), Is.Zero);
        Assert.That(Db("diff", scratch["none.json"]).Code, Is.EqualTo(PerfProcess.Usage));
        // Times again, so whether the choice would change is the machine's affair.
        Assert.That(Db("verify", "n=64,", "--budget", "1").Code, Is.AnyOf(PerfProcess.Ok, PerfProcess.Bad));

        JsonElement rows = PerfProcess.Run(["explain", "flat_gemm", .. s_dense, "--cache", "warm", "--db", db, "--json"]).Expect(PerfProcess.Ok).Json()[0].GetProperty("said").GetProperty("rows");
        JsonElement chosen = rows.EnumerateArray().Single(r => r.GetProperty("chosen").GetBoolean());
        Assert.That(chosen.GetProperty("tuned_us").GetDouble(), Is.Positive);
        Assert.That(chosen.GetProperty("tuned_at").GetInt32(), Is.EqualTo(4));

        File.WriteAllText(document, "{");
        Assert.That(PerfProcess.Run("db", "import", document, "--db", other).Expect(PerfProcess.Bad).Output, Does.Contain("refused"));
    }
}
