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
}
