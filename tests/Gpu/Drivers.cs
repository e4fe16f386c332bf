using Kernels.Interop;

namespace Kernels.Tests.Gpu;

/// <summary>A machine with a driver, and one without: what is absent is an answer with a reason, and the CPU asks for nothing.</summary>
[TestFixture]
public sealed class Drivers
{
    private delegate bool TryGet(int ordinal, out Device? device, out string? reason);

    private static IEnumerable<TestCaseData> Kinds()
    {
        yield return new TestCaseData((TryGet)Device.TryGetCuda, DeviceKind.Cuda).SetArgDisplayNames("cuda");
        yield return new TestCaseData((TryGet)Device.TryGetHip, DeviceKind.Hip).SetArgDisplayNames("hip");
    }

    [TestCaseSource(nameof(Kinds))]
    public void ADeviceOrAReason(Delegate get, DeviceKind kind)
    {
        bool found = ((TryGet)get)(0, out Device? device, out string? reason);
        TestContext.Progress.WriteLine($"  {kind} 0: {(found ? device!.ToString() : reason)}");
        Assert.That(found, Is.EqualTo(device is not null));
        Assert.That(reason is null, Is.EqualTo(found));
        if (found) Assert.That(device!.Kind, Is.EqualTo(kind));
        else Assert.That(reason, Is.Not.Empty);
    }

    [TestCaseSource(nameof(Kinds))]
    public void AnOrdinalThatIsNotThere(Delegate get, DeviceKind kind)
    {
        Assert.That(((TryGet)get)(1000, out Device? device, out string? reason), Is.False);
        Assert.That(device, Is.Null);
        Assert.That(reason, Does.Contain("1000").Or.Contain("driver"));
        Assert.That(((TryGet)get)(-1, out _, out reason), Is.False, kind.ToString());
    }

    [Test]
    public void GpusAreThoseThatCanBeHad() => Assert.That(Device.Gpus.Any(d => d.Kind == DeviceKind.Cuda), Is.EqualTo(Device.TryGetCuda(0, out _, out _)));

    [Test]
    public void AContextOfNobodyIsRefused()
    {
        Assert.That(Assert.Throws<KernelsException>(() => Device.FromCudaContext(0))!.Status, Is.EqualTo(Status.Invalid));
        if (Device.TryGetCuda(0, out _, out _)) return;
        var e = Assert.Throws<KernelsException>(() => Device.FromCudaContext(1))!;
        Assert.That(e.Status, Is.EqualTo(Status.Device));
        Assert.That(e.Message, Does.Contain(DriverLibrary.Candidates(DriverLibrary.Cuda)[0]).Or.Contain("driver"));
    }

    /// <summary>Nothing links cuBLAS: where no file of its names is found, the first call says so.</summary>
    [Test]
    public unsafe void CublasIsLoadedWhereItIsCalled()
    {
        string[] names = DriverLibrary.Candidates(DriverLibrary.Cublas);
        Assert.That(names, Has.Some.Contain("12").And.Some.Contain("13"));
        DriverLibrary.Register();
        bool there = names.Any(n => System.Runtime.InteropServices.NativeLibrary.TryLoad(n, out _));
        if (!there) Assert.That(Create, Throws.TypeOf<DllNotFoundException>());
        else Assert.That(Create(), Device.TryGetCuda(0, out _, out _) ? Is.Zero : Is.Not.Zero);

        static int Create()
        {
            nint handle;
            return Kernels.Interop.Cuda.CublasApi.cublasCreate_v2(&handle);
        }
    }

    [Test]
    public void TheCpuHasNoStreams()
    {
        Assert.That(Device.Cpu.Kind, Is.EqualTo(DeviceKind.Cpu));
        Assert.That(Device.Cpu.Fault, Is.Null);
        Assert.That(Assert.Throws<KernelsException>(() => Device.Cpu.CreateStream())!.Status, Is.EqualTo(Status.Invalid));
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.Stream.FromHandle(Device.Cpu, 1))!.Status, Is.EqualTo(Status.Invalid));
    }

    /// <summary>The caller's context is current after every call as it was before.</summary>
    [Test]
    public unsafe void TheCurrentContextIsTheCallers()
    {
        if (!Device.TryGetCuda(0, out Device? device, out string? reason)) Assert.Ignore(reason!);
        nint before = -1, after = -1;
        Kernels.Interop.Cuda.CudaApi.cuCtxGetCurrent(&before);
        using (Buffer<int> buffer = Buffer<int>.Of(device!, [1, 2, 3])) buffer.CopyTo(new int[3]);
        Kernels.Interop.Cuda.CudaApi.cuCtxGetCurrent(&after);
        Assert.That(after, Is.EqualTo(before));
    }
}

/// <summary>Which image a device takes.</summary>
[TestFixture]
public sealed class ImageTests
{
    [OneTimeSetUp]
    public void NeedsImages()
    {
        if (Images.All.Count == 0) Assert.Ignore("this build holds no device images: no clang 16 or newer was found");
    }

    [TestCase(DeviceKind.Cuda, "sm_80", "flat_gemm_gpu.sm_80.")]
    [TestCase(DeviceKind.Cuda, "sm_90", "flat_gemm_gpu.sm_80.")]
    [TestCase(DeviceKind.Cuda, "sm_120", "flat_gemm_gpu.sm_80.")]
    [TestCase(DeviceKind.Hip, "gfx942", "flat_gemm_gpu.gfx942.co")]
    [TestCase(DeviceKind.Hip, "gfx90a", "flat_gemm_gpu.gfx90a.co")]
    [TestCase(DeviceKind.Hip, "gfx1100", "flat_gemm_gpu.gfx1100.co")]
    public void TheNearestIsTaken(DeviceKind kind, string architecture, string expected)
    {
        Assert.That(Images.TryFind("flat_gemm_gpu", kind, architecture, out Image? image, out string name), name);
        Assert.That(image!.Name, Does.StartWith(expected));
        byte[] bytes = image.Load();
        Assert.That(bytes, Has.Length.EqualTo(image.Bytes + 1));
        Assert.That(bytes[^1], Is.Zero);
        if (image.Form == "ptx") Assert.That(System.Text.Encoding.ASCII.GetString(bytes), Does.Contain(".entry flat_gemm_gpu_reduce"));
        else Assert.That(bytes[..4], Is.EqualTo(new byte[] { 0x7f, (byte)'E', (byte)'L', (byte)'F' }));
    }

    [TestCase(DeviceKind.Cuda, "sm_75")]
    [TestCase(DeviceKind.Hip, "gfx906")]
    [TestCase(DeviceKind.Hip, "unknown architecture")]
    public void AWrongArchitectureSaysWhichThereAre(DeviceKind kind, string architecture)
    {
        Assert.That(Images.TryFind("flat_gemm_gpu", kind, architecture, out _, out string reason), Is.False);
        Assert.That(reason, Does.Contain(architecture).And.Contain("sm_80").And.Contain("gfx942"));
    }

    [Test]
    public void AFileWithoutImages()
    {
        Assert.That(Images.TryFind("nothing_gpu", DeviceKind.Cuda, "sm_90", out _, out string reason), Is.False);
        Assert.That(reason, Does.Contain("nothing_gpu"));
    }
}
