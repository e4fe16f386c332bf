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
}
