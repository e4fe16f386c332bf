using CommunityToolkit.HighPerformance;

namespace Kernels.Tests;

/// <summary>A machine without the native library, or with one that cannot be used.</summary>
[TestFixture]
public sealed class WithoutNativeTests
{
    private static string? NoFile() => null;

    private static string? AbsentFile() => Path.Combine(TestContext.CurrentContext.WorkDirectory, "absent", KernelTable.LibraryName);

    private static string? NotALibrary() => typeof(Device).Assembly.Location;

    private static readonly Func<string?>[] s_paths = [NoFile, AbsentFile, NotALibrary];

    [TestCaseSource(nameof(s_paths))]
    public void TheManagedRowsWorkAndTheDeviceSaysWhy(Func<string?> path)
    {
        var device = new Device(KernelTable.Load(path()));
        Assert.That(device.NativeLibrary, Is.Null);
        Assert.That(device.NativeProblem, Is.Not.Empty);
        Assert.That(device.InstructionSets, Is.EqualTo("None"));
        var layer = new FlatGemmOptions { N = 3, K = 2, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, Bias = true };
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(layer, new ReadOnlySpan2D<float>([1, 2, 3, 4, 5, 6], 3, 2), [10, 20, 30], device: device);
        var y = new float[3];
        plan.Run<float, float>([1f, -1f], y);
        Assert.That(y, Is.EqualTo(new float[] { 9, 19, 29 }));
        Assert.That(plan.Choice(1).Dataflow.Row, Is.EqualTo("flat_gemm/managed"));
        var e = Assert.Throws<KernelsException>(() => Kernels.FlatGemm.Create(layer with { Bias = false, Row = "flat_gemm/avx512_flat" },
            new ReadOnlySpan2D<float>([1, 2, 3, 4, 5, 6], 3, 2), device: device))!;
        Assert.That(e.Status, Is.EqualTo(Status.Unsupported));
        Assert.That(e.Message, Does.Contain(device.NativeProblem!));
    }

    [Test]
    public void ThePoolOfTheManagedRowsIsResizedByTheSameRules()
    {
        var device = new Device(KernelTable.Load(null));
        try
        {
            foreach (int threads in new[] { 3, 1, 2 })
            {
                device.SetThreads(threads);
                Assert.That((device.Threads, ManagedPool.Workers(0), ManagedPool.Workers(100)), Is.EqualTo((threads, threads, 100)), "scratch for 100 is for 100, whatever the pool becomes meanwhile");
            }
            foreach (int wrong in new[] { -1, 1025 })
                Assert.That(() => device.SetThreads(wrong), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("count"));
            Assert.That(() => device.SetThreads(2, pin: true), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("pin"));
            Assert.That(device.Threads, Is.EqualTo(2), "what is refused changes nothing");
        }
        finally
        {
            device.SetThreads(0);
        }
        Assert.That(device.Threads, Is.EqualTo(Environment.ProcessorCount));
    }

    [Test]
    public void WeightsAreSavedAndLoadedAsTheyCame()
    {
        var device = new Device(KernelTable.Load(null));
        var layer = new FlatGemmOptions { N = 3, K = 32, Weights = DType.UInt4, Group = 32, ZeroPoints = true };
        byte[] w = [.. Enumerable.Range(0, 48).Select(i => (byte)(i * 37))], zeros = [1, 2, 3];
        var file = new MemoryStream();
        using FlatGemmWeights weights = FlatGemmWeights.Pack(layer, new ReadOnlySpan2D<byte>(w, 3, 16), [1f, 2f, 3f], zeros, device);
        Assert.That(weights.Layout, Is.Null);
        weights.Save(file);
        file.Position = 0;
        using FlatGemmWeights loaded = FlatGemmWeights.Load(layer, file, device);
        using Kernels.FlatGemm before = Kernels.FlatGemm.Create(layer, weights, device: device), after = Kernels.FlatGemm.Create(layer, loaded, device: device);
        BFloat16[] x = [.. Enumerable.Range(0, 32).Select(i => (BFloat16)(i - 15f))], expected = new BFloat16[3], y = new BFloat16[3];
        before.Run<BFloat16, BFloat16>(x, expected);
        after.Run<BFloat16, BFloat16>(x, y);
        Assert.That(y, Is.EqualTo(expected));
        file.Position = 0;
        // Another layout where a native row runs, else the same.
        using FlatGemmWeights here = FlatGemmWeights.Pack(layer, new ReadOnlySpan2D<byte>(w, 3, 16), [1f, 2f, 3f], zeros);
        if (here.Layout is not null) Assert.That(() => FlatGemmWeights.Load(layer, file), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("stream"), "another layout");
        else Assert.That(() => FlatGemmWeights.Load(layer, file).Dispose(), Throws.Nothing);
    }

    [Test]
    public void TheBuildNamesTheSourcesOfTheManagedRows()
    {
        string managed = KernelTable.Load(null).Build;
        Assert.That(managed, Does.Match("^managed-[0-9a-f]{12}$"));
        if (KernelTable.Default.Path is not null) Assert.That(KernelTable.Default.Build, Does.EndWith("+" + managed["managed-".Length..]));
    }
}
