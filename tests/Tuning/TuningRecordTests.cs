using System.Text;
using Kernels.Tuning;
using NUnit.Framework;
using static Kernels.Tests.Tuning.Sample;

namespace Kernels.Tests.Tuning;

public class TuningRecordTests
{
    private static TuningEntry Parse(byte[] json) => TuningRecord.Parse("test", TuningSource.User, json);

    private static byte[] Replace(byte[] json, string from, string to)
    {
        string text = Encoding.UTF8.GetString(json);
        Assert.That(text, Does.Contain(from));
        return Encoding.UTF8.GetBytes(text.Replace(from, to));
    }

    [Test]
    public void ARecordReadsBack()
    {
        TuningRecord record = Record();
        byte[] json = record.ToJson();
        TuningEntry back = Parse(json);
        Assert.That(back.Reason, Is.Empty);
        Assert.That(back.Record!.ToJson(), Is.EqualTo(json));
        Assert.That(back.Record.Key, Is.EqualTo(record.Key));
        Assert.That(back.Record.Intervals, Is.EqualTo(record.Intervals));
        Assert.That(back.Record.Evidence[2].Result.Timings[1].Samples, Is.EqualTo(record.Evidence[2].Result.Timings[1].Samples));
    }

    [Test]
    public void TheExampleHasThreeIntervals() =>
        Assert.That(Record().Intervals.Select(i => (i.From, i.Dataflow)), Is.EqualTo(new[] { (1, Gemv), (4, Flat), (64, Block) }));

    [TestCase("\"schema\":1", "\"schema\":2", TuningMiss.Foreign)]
    [TestCase("\"schema\":1", "\"schema\":1e99", TuningMiss.Foreign)]
    [TestCase("\"schema\":1", "\"schema\":\"1\"", TuningMiss.Corrupt)]
    [TestCase("\"schema\":1,", "", TuningMiss.Corrupt)]
    [TestCase("\"operation\":\"flat_gemm\"", "\"operation\":null", TuningMiss.Corrupt)]
    [TestCase("\"n\":\"4096\"", "\"n\":null", TuningMiss.Corrupt)]
    [TestCase("\"device\":{", "\"device\":null,\"d\":{", TuningMiss.Corrupt)]
    [TestCase("\"cores\":56,", "", TuningMiss.Corrupt)]
    [TestCase("\"cores\":56", "\"cores\":56.5", TuningMiss.Corrupt)]
    [TestCase("\"cache\":\"Cold\"", "\"cache\":\"Tepid\"", TuningMiss.Corrupt)]
    [TestCase("\"intervals\":[", "\"intervals\":[null,", TuningMiss.Corrupt)]
    [TestCase("\"intervals\":[", "\"intervals\":[{\"from\":70,\"to\":60,\"dataflow\":\"a[]\",\"sure_before\":null},", TuningMiss.Corrupt)]
    [TestCase("\"evidence\":[", "\"evidence\":[null,", TuningMiss.Corrupt)]
    [TestCase("\"rematches\":[", "\"rematches\":[null,", TuningMiss.Corrupt)]
    [TestCase("\"timings\":[", "\"timings\":[null,", TuningMiss.Corrupt)]
    [TestCase("\"samples\":[", "\"samples\":[-1,", TuningMiss.Corrupt)]
    [TestCase("\"samples\":[", "\"samples\":[1e999,", TuningMiss.Corrupt)]
    [TestCase("\"winner\":1", "\"winner\":3", TuningMiss.Corrupt)]
    [TestCase("\"candidate\":1", "\"candidate\":-2", TuningMiss.Corrupt)]
    [TestCase("flat_gemm/avx512_gemv[2]@8", "flat gemm", TuningMiss.Corrupt)]
    [TestCase("flat_gemm/avx512_gemv[2]@8", "\\ud800", TuningMiss.Corrupt)]
    [TestCase("Xeon 8480C", "\\ud800", TuningMiss.Corrupt)]
    public void ABrokenRecordIsAMiss(string from, string to, object kind)
    {
        TuningEntry entry = Parse(Replace(Record().ToJson(), from, to));
        Assert.That(entry.Record, Is.Null);
        Assert.That(entry.Kind, Is.EqualTo(kind));
        Assert.That(entry.Reason, Is.Not.Empty);
    }

    [TestCase("")]
    [TestCase("null")]
    [TestCase("[]")]
    [TestCase("{}")]
    [TestCase("\0\0\0\0")]
    [TestCase("{\"schema\":1}")]
    public void WhatIsNoRecordIsAMiss(string json) => Assert.That(Parse(Encoding.UTF8.GetBytes(json)).Kind, Is.EqualTo(TuningMiss.Corrupt));

    [Test]
    public void DeepNestingIsAMiss() =>
        Assert.That(Parse(Encoding.UTF8.GetBytes(new string('[', 100_000))).Kind, Is.EqualTo(TuningMiss.Corrupt));

    [Test]
    public void ACorruptedRecordIsAMissOrASoundRecord()
    {
        const int Seed = 20261122;
        TestContext.Out.WriteLine($"seed {Seed}");
        var random = new Random(Seed);
        byte[] json = Record().ToJson();
        int misses = 0;
        for (int trial = 0; trial < 4000; trial++)
        {
            byte[] broken = Corrupt(json, random);
            long before = GC.GetAllocatedBytesForCurrentThread();
            TuningEntry entry = Parse(broken);
            Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.LessThan(64 * json.Length + (1 << 20)), $"trial {trial}");
            if (entry.Record is TuningRecord record)
                Assert.That(record.Check() is null && Parse(record.ToJson()).Record is not null && Replay.Of(record).Points.Length == record.Evidence.Length, $"trial {trial}");
            else
                Assert.That(entry.Kind, Is.AnyOf(TuningMiss.Corrupt, TuningMiss.Foreign), $"trial {trial}");
            misses += entry.Record is null ? 1 : 0;
        }
        TestContext.Out.WriteLine($"{misses} misses");
        Assert.That(misses, Is.InRange(400, 3999));
    }

    private static byte[] Corrupt(byte[] json, Random random)
    {
        byte[] broken = [.. json];
        switch (random.Next(4))
        {
            case 0:
                return broken[..random.Next(broken.Length)];
            case 1:
                int at = random.Next(broken.Length), length = random.Next(1, 40);
                return [.. broken[..at], .. broken[Math.Min(broken.Length, at + length)..]];
            default:
                for (int flips = random.Next(1, 8); flips > 0; flips--)
                    broken[random.Next(broken.Length)] ^= (byte)(1 << random.Next(8));
                return broken;
        }
    }
}
