using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>perf tune of attention, over a tuning database of its own.</summary>
[TestFixture, Parallelizable]
public sealed class DecodeAttentionCommands
{
    /// <summary>The budget ends nothing, however busy the machine is: the tournament of so small a problem ends by its samples.</summary>
    [Test]
    public void TuneStoresARecordThatExplainFinds()
    {
        using var scratch = new Tuning.Scratch();
        string[] shape = ["decode_attention", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "64", "--batch", "1", "--q-len", "1", "--kv-len", "100", "--cache", "warm", "--db", scratch["db"]];
        JsonElement tuned = PerfProcess.Run(["tune", .. shape, "--budget", "60", "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray().Single();
        Assert.That((tuned.GetProperty("op").GetString(), tuned.GetProperty("stored").GetBoolean()), Is.EqualTo(("decode_attention", true)), tuned.ToString());
        Assert.That(tuned.GetProperty("intervals").GetArrayLength(), Is.Positive);

        JsonElement stored = PerfProcess.Run("db", "list", "--db", scratch["db"], "--json").Expect(PerfProcess.Ok).Json().EnumerateArray().Single(e => e.GetProperty("source").GetString() == "user");
        Assert.That(stored.GetProperty("key").GetString(), Does.StartWith("decode_attention|").And.Contain("head_dim=64").And.Contain("|cache=warm|"));

        JsonElement said = PerfProcess.Run(["explain", .. shape, "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray().Single().GetProperty("said");
        JsonElement chosen = said.GetProperty("rows").EnumerateArray().Single(r => r.GetProperty("chosen").GetBoolean());
        Assert.That(chosen.GetProperty("tuned_us").GetDouble(), Is.Positive);
        Assert.That(chosen.GetProperty("tuned_at").GetInt32(), Is.EqualTo(100));
    }

    private static readonly string[] s_unified = ["decode_attention", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "64", "--batch", "2", "--q-len", "1", "--kv-len", "100", "--softmax", "unified", "--threads", "1", "--cache", "warm"];

    /// <summary>Every row of 2 sequences and 4 heads is done again for a phi far above its scores, none for one that fits.</summary>
    [TestCase("200", 8)]
    [TestCase("2", 0)]
    public void BenchCountsTheRowsThatPhiDoesNotFit(string phi, long again)
    {
        JsonElement cell = PerfProcess.Run(["bench", .. s_unified, "--phi", phi, "--seconds", "0.01", "--json"]).Expect(PerfProcess.Ok).Json().EnumerateArray().Single();
        Assert.That((cell.GetProperty("softmax").GetString(), cell.GetProperty("recomputed_rows").GetInt64()), Is.EqualTo(("unified", again)), cell.ToString());
    }

    [TestCase("tune", "--phi", "5")]
    [TestCase("bench", "--phi", "NaN")]
    [TestCase("bench", "--phi", "5", "--no-phi")]
    public void APhiThatIsNoneIsWrongUsage(string verb, params string[] more) =>
        Assert.That(PerfProcess.Run([verb, .. s_unified, .. more]).Expect(PerfProcess.Usage).Error, Does.Contain("--phi"));
}
