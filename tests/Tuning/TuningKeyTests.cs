using FsCheck;
using FsCheck.Fluent;
using Kernels.Tuning;
using NUnit.Framework;
using static Kernels.Tests.Tuning.Sample;

namespace Kernels.Tests.Tuning;

public class TuningKeyTests
{
    private static IEnumerable<TestCaseData> Changes()
    {
        TuningKey key = Key();
        (string, TuningKey)[] fixedFields =
        [
            ("operation", key with { Operation = "sparse_linear" }),
            ("build", key with { Build = "0.1.0+abd" }),
            ("cache", key with { Policy = key.Policy with { Cache = CacheState.Warm } }),
            ("call", key with { Policy = key.Policy with { Call = "graph" } }),
            ("architecture", key with { Device = key.Device with { Architecture = "x86_64" } }),
            ("model", key with { Device = key.Device with { Model = "Xeon 8480" } }),
            ("cores", key with { Device = key.Device with { Cores = 57 } }),
            ("threads", key with { Device = key.Device with { Threads = 28 } }),
            ("added", key with { Problem = key.Problem.Add("order", "row") }),
        ];
        foreach ((string name, TuningKey changed) in fixedFields)
            yield return new TestCaseData(changed).SetArgDisplayNames(name);
        foreach ((string name, string value) in key.Problem)
        {
            yield return new TestCaseData(key with { Problem = key.Problem.SetItem(name, value + "1") }).SetArgDisplayNames(name);
            yield return new TestCaseData(key with { Problem = key.Problem.Remove(name) }).SetArgDisplayNames($"without {name}");
            yield return new TestCaseData(key with { Problem = key.Problem.Remove(name).Add(name + "_", value) }).SetArgDisplayNames($"{name}_");
        }
    }

    [TestCaseSource(nameof(Changes))]
    public void KeysThatDifferInOneFieldShareNothing(object changed)
    {
        TuningKey a = Key(), b = (TuningKey)changed;
        Assert.That(b.Text, Is.Not.EqualTo(a.Text));
        Assert.That(b.FileName(), Is.Not.EqualTo(a.FileName()));
        Assert.That(b, Is.Not.EqualTo(a));
    }

    [Test]
    public void EveryFieldIsAmongTheChanges()
    {
        // A field that is added to a key must be added to its text, and here.
        string[] fields = [.. new[] { typeof(TuningKey), typeof(TuningDevice), typeof(TuningPolicy) }
            .SelectMany(t => t.GetProperties().Where(p => p.CanWrite).Select(p => $"{t.Name}.{p.Name}"))];
        Assert.That(fields, Is.EquivalentTo(new[]
        {
            "TuningKey.Operation", "TuningKey.Problem", "TuningKey.Device", "TuningKey.Build", "TuningKey.Policy",
            "TuningDevice.Architecture", "TuningDevice.Model", "TuningDevice.Cores", "TuningDevice.Threads",
            "TuningPolicy.Cache", "TuningPolicy.Call",
        }));
    }

    [Test]
    public void TheTextIsCanonical()
    {
        TuningKey key = Key();
        Assert.That(key.Text, Is.EqualTo(
            "flat_gemm|activation=none,flags=bias,group=0,k=4096,n=4096,w_type=s8,x_type=bf16,y_type=bf16|cache=cold|call=call"
            + "|architecture=x86_64+avx512|device=Xeon 8480C|cores=56|threads=56|build=0.1.0+abc"));
        TuningKey shuffled = TuningKey.Of(key.Operation, key.Device, key.Build, key.Policy, [.. key.Problem.Reverse().Select(v => (v.Key, (object)v.Value))]);
        Assert.That(shuffled, Is.EqualTo(key));
        Assert.That(shuffled.FileName(), Is.EqualTo(key.FileName()));
        Assert.That(key.FileName(), Does.Match("^flat_gemm-[0-9a-f]{32}$"));
    }

    [Test]
    public void WiderScopesForgetTheDeviceAndTheBuild()
    {
        TuningKey a = Key(), b = Key(build: "0.2.0"), c = Key(model: "Xeon 6980P", cores: 128, threads: 128);
        Assert.That(b.TextOf(KeyScope.Device), Is.EqualTo(a.TextOf(KeyScope.Device)));
        Assert.That(c.TextOf(KeyScope.Device), Is.Not.EqualTo(a.TextOf(KeyScope.Device)));
        Assert.That(c.TextOf(KeyScope.Architecture), Is.EqualTo(a.TextOf(KeyScope.Architecture)));
    }

    [Test]
    public void SeparatorsInsideValuesMakeNoTwoKeysAlike() =>
        Prop.ForAll(Words().Four().ToArbitrary(), Words().Four().ToArbitrary(), (a, b) =>
        {
            static TuningKey Of((string, string, string, string) w) => TuningKey.Of(
                w.Item1, new TuningDevice(w.Item2, w.Item3, 1, 1), w.Item4, new TuningPolicy(CacheState.Warm, w.Item2), (w.Item1 + w.Item3, w.Item4), ("z" + w.Item2, w.Item3));
            return (Of(a).Text == Of(b).Text) == (a == b) && (Of(a).FileName() == Of(b).FileName()) == (a == b);
        }).Check(Config.QuickThrowOnFailure.WithMaxTest(2000).WithReplay(41, 43));

    [Test]
    public void AnEscapeInsideAValueIsNotTheCharacterItStandsFor() =>
        Assert.That(Key(build: "a\\u007cb").Text, Is.Not.EqualTo(Key(build: "a|b").Text));

    private static Gen<string> Words() => Gen.ArrayOf(Gen.Elements('a', '|', ',', '=', '\\', 'u', '\n', 'b')).Select(c => new string(c)).Resize(4);
}
