using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>The verbs on a small sparse layer, each over a tuning database of its own.</summary>
[TestFixture, Parallelizable]
public sealed class SparseLinearCommands
{
    private static readonly string[] s_timed = ["--threads", "1", "--cache", "warm", "--seconds", "0.01"];

    /// <summary>64 outputs are 4 panels, 256 inputs 4 blocks: what a call counts as done is that of the active ones alone, and its result was held to the oracle.</summary>
    [TestCase(0.5, ", 0.5 of outputs and 1 of inputs active", "--active-outputs", "0.5")]
    [TestCase(0.25, ", 1 of outputs and 0.25 of inputs active", "--active-inputs", "0.25")]
    [TestCase(0.125, ", 0.5 of outputs and 0.25 of inputs active", "--active-outputs", "0.5", "--active-inputs", "0.25")]
    public void BenchCountsWhatIsActive(double part, string more, params string[] asked)
    {
        using var scratch = new Tuning.Scratch();
        JsonElement cell = PerfProcess.Run(["bench", "sparse_linear", "--n", "64", "--k", "256", "--weights", "f32", "--m", "4", .. asked, .. s_timed, "--db", scratch["none"], "--json"])
            .Expect(PerfProcess.Ok).Json().EnumerateArray().Single();
        Assert.That((cell.GetProperty("op").GetString(), cell.GetProperty("case").GetString()), Is.EqualTo(("sparse_linear", $"64 x 256 at 0.5{more}")));
        Assert.That(cell.GetProperty("row").GetString(), Does.StartWith("sparse_linear/"));
        Assert.That(cell.GetProperty("gflops").GetDouble() * cell.GetProperty("median_us").GetDouble() * 1e3, Is.EqualTo(part * 2 * 4 * 64 * 256).Within(1e-3));
    }

    [TestCase("bench", "--active-outputs", "1.5")]
    [TestCase("bench", "--active-inputs", "-0.1")]
    [TestCase("tune", "--active-inputs", "0.5")]
    [TestCase("explain", "--active-outputs", "0.5")]
    public void PartsThatAreNoneAreWrongUsage(string verb, string option, string part) =>
        Assert.That(PerfProcess.Run(verb, "sparse_linear", "--n", "64", "--k", "64", option, part).Expect(PerfProcess.Usage).Error, Does.Contain("perf: ").And.Contain(option));

    [Test]
    public void CompareIsWithTheDenseLayer()
    {
        using var scratch = new Tuning.Scratch();
        string[] compare = ["compare", "sparse_linear", "--n", "64", "--k", "128", "--weights", "f32", "--m", "4", .. s_timed, "--db", scratch["none"]];
        JsonElement cell = PerfProcess.Run([.. compare, "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray().Single();
        Assert.That((cell.GetProperty("case").GetString(), cell.GetProperty("peer").GetString()), Is.EqualTo(("64 x 128 at 0.5", "flat_gemm")));
        Assert.That(cell.GetProperty("ratio").GetDouble(), Is.Positive);
        Assert.That(PerfProcess.Run([.. compare, "--active-outputs", "0.5"]).Expect(PerfProcess.Missing).Output, Does.Contain("no peer takes active sets"));
    }

    /// <summary>The dataflows are one record, sparse or dense another; explain then has the times of both forms.</summary>
    [Test]
    public void TuneStoresRowsAndFormForExplain()
    {
        using var scratch = new Tuning.Scratch();
        string[] layer = ["sparse_linear", "--n", "64", "--k", "256", "--weights", "f32", "--m", "4", "--threads", "1", "--cache", "warm", "--db", scratch["db"]];
        JsonElement tuned = PerfProcess.Run(["tune", .. layer, "--budget", "600", "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray().Single();
        Assert.That(tuned.GetProperty("stored").GetBoolean(), Is.True, tuned.ToString());
        Assert.That(PerfProcess.Run("db", "list", "sparse_linear", "--db", scratch["db"], "--json").Expect(PerfProcess.Ok).Json().EnumerateArray().Count(e => e.GetProperty("source").GetString() == "user"), Is.EqualTo(2));
        JsonElement row = PerfProcess.Run(["explain", .. layer, "--json"]).Expect(PerfProcess.Ok).Json()[0].GetProperty("rows").EnumerateArray().Single();
        Assert.That((row.GetProperty("m").GetInt32(), row.GetProperty("source").GetString()), Is.EqualTo((4, "tuned")));
        Assert.That(tuned.GetProperty("intervals").EnumerateArray().Single().GetProperty("dataflow").GetString(), Does.StartWith(row.GetProperty("is_sparse").GetBoolean() ? "sparse_linear/" : "flat_gemm/"));
        Assert.That(row.GetProperty("sparse_tuned_us").GetDouble(), Is.Positive);
        Assert.That(row.GetProperty("dense_tuned_us").GetDouble(), Is.Positive);
    }

    /// <summary>The density at which the models cross is one of the layer's shape and m, whatever its own density, and says what is chosen.</summary>
    [Test]
    public void ExplainShowsWhereTheModelsCross()
    {
        using var scratch = new Tuning.Scratch();
        string[] explain = ["explain", "sparse_linear", "--n", "2048", "--k", "2048", "--density", "0.05,1", "--m", "1,64", "--db", scratch["none"]];
        JsonElement[] layers = [.. PerfProcess.Run([.. explain, "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray()];
        double[][] crossings = [.. layers.Select(l => l.GetProperty("rows").EnumerateArray().Select(r => r.GetProperty("crossover_density").GetDouble()).ToArray())];
        Assert.That(crossings, Has.Length.EqualTo(2).And.All.Length.EqualTo(2));
        Assert.That(crossings[0], Is.EqualTo(crossings[1]).And.All.InRange(0.0, 1.0));
        foreach ((JsonElement layer, double density) in layers.Zip((double[])[0.05, 1]))
            Assert.That(layer.GetProperty("rows")[0].GetProperty("is_sparse").GetBoolean(), Is.EqualTo(density <= crossings[0][0]), layer.ToString());
        Assert.That(PerfProcess.Run(explain).Expect(PerfProcess.Ok).Output, Does.Contain("dense from density").And.Contain("Of the m above: "));
    }
}
