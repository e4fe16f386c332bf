using FsCheck;
using FsCheck.Fluent;
using Kernels.Tuning;
using NUnit.Framework;

namespace Kernels.Tests.Tuning;

public class DataflowTests
{
    [Test]
    public void EqualityIsByValue()
    {
        var a = new Dataflow("flat_gemm/avx512_flat", 8, [4, 512]);
        var b = new Dataflow("flat_gemm/avx512_flat", 8, [4, 512]);
        Assert.That(a, Is.EqualTo(b));
        Assert.That(a.GetHashCode(), Is.EqualTo(b.GetHashCode()));
        Assert.That(a, Is.Not.EqualTo(new Dataflow("flat_gemm/avx512_flat", 8, [4, 256])));
        Assert.That(a, Is.Not.EqualTo(a.WithThreads(4)));
        Assert.That(a, Is.Not.EqualTo(new Dataflow("flat_gemm/avx512_gemv", 8, [4, 512])));
    }

    [Test]
    public void TextShowsNamesWhereTheRowGivesThem()
    {
        var dataflow = new Dataflow("flat_gemm/avx512_flat", 56, [4, 512]);
        Assert.That(dataflow.ToString(), Is.EqualTo("flat_gemm/avx512_flat[4,512]@56"));
        Assert.That(dataflow.WithThreads(0).ToString(["panels", "block_k"]), Is.EqualTo("flat_gemm/avx512_flat[panels=4,block_k=512]"));
        Assert.That(new Dataflow("a", 0, default).ToString(), Is.EqualTo("a[]"));
    }

    [Test]
    public void TextReadsBack() =>
        Prop.ForAll<int[], NonNegativeInt>((parameters, threads) =>
        {
            var dataflow = new Dataflow("op/target_variant", threads.Get, [.. parameters]);
            return Dataflow.TryParse(dataflow.ToString(), out Dataflow? back) && back == dataflow;
        }).Check(Config.QuickThrowOnFailure.WithMaxTest(500).WithReplay(17, 19));

    [Test]
    public void AnyTextIsReadOrRefused() =>
        Prop.ForAll<string>(text => !Dataflow.TryParse(text, out Dataflow? dataflow) || Dataflow.TryParse(dataflow.ToString(), out Dataflow? back) && back == dataflow)
            .Check(Config.QuickThrowOnFailure.WithMaxTest(2000).WithReplay(17, 21));

    [TestCase("")]
    [TestCase("[4]")]
    [TestCase("row[4")]
    [TestCase("row[4]x")]
    [TestCase("row[4,]")]
    [TestCase("row[a=4]")]
    [TestCase("row[4]@")]
    [TestCase("row[4]@-1")]
    [TestCase("ro w[4]")]
    [TestCase("row[99999999999]")]
    [TestCase(null)]
    public void BrokenTextIsRefused(string? text) => Assert.That(Dataflow.TryParse(text, out _), Is.False);

    [Test]
    public void ARowNameIsChecked()
    {
        Assert.That(() => new Dataflow("a[b", 0, []), Throws.ArgumentException);
        Assert.That(() => new Dataflow("a", -1, []), Throws.InstanceOf<ArgumentOutOfRangeException>());
    }
}
