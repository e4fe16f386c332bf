using Kernels.Interop.Cuda;

namespace Kernels.Tests.Gpu;

/// <summary>CudaDriver on tests/Native/cuda_stub.cpp, run by <see cref="DriverStubs"/>. Each begins with a driver that nobody has called.</summary>
internal static unsafe class CudaScenarios
{
    private static readonly DriverStub s_stub = new("libcuda.so.1", new() { ["cuCtxPushCurrent_v2"] = "", ["cuCtxPopCurrent_v2"] = "" });

    private static Device Open()
    {
        Assert.That(Device.TryGetCuda(0, out Device? device, out string? reason), reason);
        s_stub.Calls();
        return device!;
    }

    public static void TheDeviceIsRead()
    {
        Assert.That(Device.TryGetCuda(0, out Device? device, out _));
        GpuLimits limits = device!.Gpu!.Limits;
        Assert.That(s_stub.Calls(), Has.One.EqualTo("cuDevicePrimaryCtxRetain 0"));
        Assert.That((limits.Name, limits.Architecture, limits.Driver), Is.EqualTo(("Stub GPU", "sm_90", "CUDA 12.4")));
        // The stub tells an attribute's number, of cuda.h, and 1000.
        Assert.That((limits.Multiprocessors, limits.ThreadsPerBlock, limits.SharedBytesPerBlock, limits.SharedBytesPerMultiprocessor), Is.EqualTo((1016, 1001, 1097, 1081)));
        Assert.That((limits.WaveSize, limits.L2Bytes, limits.MemoryBytes), Is.EqualTo((32, 50L << 20, 1L << 36)));
        Assert.That(limits.MemoryRate, Is.EqualTo(2e3 * 1036 * 1037 / 8));
        Assert.That(limits.Cooperative && limits.Clusters && limits.TensorMaps && limits.Pools);
        Assert.That(Device.TryGetCuda(1, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("only 1"));
        nint current = -1;
        CudaApi.cuCtxGetCurrent(&current);
        Assert.That(current, Is.EqualTo((nint)0), "as it was");
    }

    public static void MemoryStreamsEventsGraphs() => s_stub.MemoryStreamsEventsGraphs(Open());

    public static void WhatIsEnqueued() => s_stub.WhatIsEnqueued(Open());

    public static void NoMemory() => s_stub.NoMemory(Own());

    public static void Launches()
    {
        GpuDriver gpu = Open().Gpu!;
        int argument = 4711;
        gpu.Launch(5, new GpuGrid(1, 2, 3, 32, 4, SharedBytes: 600), 7, &argument, 4);
        gpu.Launch(5, new GpuGrid(1, 2, 3, 32, 4, SharedBytes: 600, Cooperative: true), 7, &argument, 4);
        gpu.Launch(5, new GpuGrid(8, 2, 3, 32, 4, SharedBytes: 600, Cluster: 2), 7, &argument, 4);
        gpu.Launch(5, new GpuGrid(8, 2, 3, 32, 4, SharedBytes: 600, Cooperative: true, Cluster: 4), 7, &argument, 4);
        Assert.That(s_stub.Calls(), Is.EqualTo(new[]
        {
            "cuLaunchKernel 1 2 3 32 4 1 600 7 4711 0",
            "cuLaunchKernelEx 1 2 3 32 4 1 600 7 4711 0 2:1",
            "cuLaunchKernelEx 8 2 3 32 4 1 600 7 4711 0 4:2,1,1",
            "cuLaunchKernelEx 8 2 3 32 4 1 600 7 4711 0 2:1 4:4,1,1",
        }));
        gpu.GrantShared(5, 100_000);
        Assert.That(gpu.Facts(5), Is.EqualTo(new GpuKernelFacts(4, 1, 3, 0)), "the numbers of the attributes");
        Assert.That(s_stub.Calls()[0], Is.EqualTo("cuFuncSetAttribute 8 100000"));
    }

    public static void TensorMaps()
    {
        GpuDriver gpu = Open().Gpu!;
        byte* room = stackalloc byte[128 + 8];  // at any address: the driver's copy is aligned
        for (int i = 0; i < 4; i++)
        {
            gpu.EncodeTensor(new GpuTensor(0x1000, DType.BFloat16, (64, 300, 2), (128, 38400), (64, 128, 1)), (CUtensorMap*)(room + i % 2 * 8));
            Assert.That(room[i % 2 * 8 + 127], Is.EqualTo(0x5c));
        }
        // bf16 9; 128-byte swizzle 3; promotion to 256 bytes 3; zeros outside 0
        Assert.That(s_stub.Calls(), Is.EqualTo(Enumerable.Repeat("cuTensorMapEncodeTiled 0 9 3 4096 64 300 2 128 38400 64 128 1 1 1 1 0 3 3 0", 4)));
    }

    public static void ErrorsAreToldApart() => s_stub.ErrorsAreToldApart(Own(),
    [
        (1, Status.Invalid, DeviceFailure.Call), (2, Status.NoMemory, DeviceFailure.Call), (200, Status.Unsupported, DeviceFailure.WrongImage), (209, Status.Unsupported, DeviceFailure.WrongImage),
        (218, Status.Unsupported, DeviceFailure.WrongImage), (222, Status.Unsupported, DeviceFailure.OldDriver), (400, Status.Device, DeviceFailure.Call), (701, Status.Unsupported, DeviceFailure.TooLarge),
        (720, Status.Unsupported, DeviceFailure.TooLarge), (901, Status.Device, DeviceFailure.Call),
    ]);

    public static void ALostContextIsTheDevicesEnd() => s_stub.ALostDeviceEnds(Own, [214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999]);

    /// <summary>A library that has the driver's name and not its functions.</summary>
    public static void AForeignLibraryIsNoDriver()
    {
        Assert.That(Device.TryGetCuda(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.StartWith("no NVIDIA driver: libcuda.so.1 cannot be loaded").And.Contain("cuInit"));
        KernelsException e = DriverStub.Throws(() => Device.FromCudaContext(1));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Device, DeviceFailure.NoDriver)));
    }

    public static void DriversThatAreTooOld()
    {
        s_stub.Version(11030);
        Assert.That(Device.TryGetCuda(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("too old").And.Contain("11.3").And.Contain("11.4"));
        KernelsException e = DriverStub.Throws(() => Device.FromCudaContext(1));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Device, DeviceFailure.OldDriver)));

        s_stub.Version(11070);
        GpuDriver gpu = Own().Gpu!;
        Assert.That(gpu.Limits.Clusters || gpu.Limits.TensorMaps, Is.False);
        int argument = 0;
        s_stub.Calls();
        void* at = &argument;
        e = DriverStub.Throws(() => gpu.Launch(5, new GpuGrid(1, 1, 1, 32, Cooperative: true), 0, at, 4));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Unsupported, DeviceFailure.OldDriver)));
        Assert.That(s_stub.Calls(), Is.Empty);
    }

    public static void ContextsOfNobody()
    {
        s_stub.Plan("cuCtxPushCurrent_v2", 201, 1);
        KernelsException e = DriverStub.Throws(() => Device.FromCudaContext(1));
        Assert.That((e.Argument, e.DriverCode, e.DeviceFailure), Is.EqualTo(("context", 201, DeviceFailure.Call)));
        s_stub.Plan("cuInit", 100);
        e = DriverStub.Throws(() => Device.FromCudaContext(1));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((100, DeviceFailure.NoDriver)));
        s_stub.Plan("cuInit", 803);
        e = DriverStub.Throws(() => Device.FromCudaContext(1));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((803, DeviceFailure.Call)));
        Assert.That(Device.TryGetCuda(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("803"));
    }

    public static void AModuleIsTriedAgainAndUnloaded()
    {
        Device device = Own();
        s_stub.Calls();
        s_stub.Plan("cuModuleLoadDataEx", 2, 1);
        KernelsException e = DriverStub.Throws(() => device.Gpu!.Module("flat_gemm_gpu"));
        Assert.That((e.Status, e.DriverCode), Is.EqualTo((Status.NoMemory, 2)));
        Assert.That(e.Message, Does.Contain("flat_gemm_gpu.sm_80").And.Contain("sm_90").And.Contain("the assembler's words"));
        nint module = device.Gpu!.Module("flat_gemm_gpu");
        Assert.That(device.Gpu.Module("flat_gemm_gpu"), Is.EqualTo(module));
        // Options 5 and 6: the log of errors and its size.
        Assert.That(s_stub.Calls(), Is.EqualTo(Enumerable.Repeat("cuModuleLoadDataEx // 2 5 6 8192", 2)));
        device.Gpu.Free(device.Gpu.Allocate(16, 0), 0);
        s_stub.Calls();
        device.Dispose();
        device.Dispose();
        Assert.That(s_stub.Calls(), Is.EqualTo(new[] { $"cuModuleUnload {module}", $"cuMemPoolDestroy {module + 1}" }));
        Assert.That(DriverStub.Throws(() => Buffer<int>.Allocate(device, 1)).Status, Is.EqualTo(Status.Invalid));
        e = DriverStub.Throws(() => Own().Gpu!.Module("nothing_gpu"));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Unsupported, DeviceFailure.WrongImage)));
    }

    /// <summary>A layer from its image to its launch, by the row that is chosen.</summary>
    public static void APlanLaunchesItsModule()
    {
        Device device = Open();
        var layer = new FlatGemmOptions { N = 64, K = 64, MaxM = 2, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32 };
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create<float>(layer, new float[64, 64], device: device);
        using Buffer<float> x = Buffer<float>.Allocate(device, 128), y = Buffer<float>.Allocate(device, 128);
        s_stub.Calls();
        plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64));
        string[] calls = s_stub.Calls();
        Assert.That(calls.Select(c => c.Split(' ')[0]).Distinct(), Is.SupersetOf(new[] { "cuModuleLoadDataEx", "cuModuleGetFunction", "cuLaunchKernel" }));
        plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64));
        Assert.That(s_stub.Calls(), Has.None.StartsWith("cuModule"), "found once");
        s_stub.Plan("cuLaunchKernel", 701, 1);
        KernelsException e = DriverStub.Throws(() => plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64)));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((701, DeviceFailure.TooLarge)), "through the row");
    }

    /// <summary>Events of the stub are 1.5 ms apart, which is enough for one round.</summary>
    public static void APeakByItsModule()
    {
        Device device = Open();
        DevicePeak peak = DevicePeak.Of(device.Gpu!, "bf16")!;
        Assert.That(peak.Name, Is.EqualTo("peak_sm90_bf16"));
        Assert.That(peak.Rate(device), Is.EqualTo(4 * 1016 * peak.Operations / 1.5e-3).Within(1e-6).Percent);
        string[] calls = s_stub.Calls();
        Assert.That(calls, Has.Some.StartsWith("cuModuleGetFunction peak_sm90_bf16").And.Some.StartsWith("cuLaunchKernel 4064 1 1 128 1 1 25600 "));
        Assert.That(calls.Where(c => c.StartsWith("cuFuncSetAttribute", StringComparison.Ordinal)), Is.Empty, "below what every kernel may have");
        Assert.That(DevicePeak.Of(device.Gpu!, "f32")!.Name, Is.EqualTo("peak_gpu_f32"));
    }

    /// <summary>A context of its own.</summary>
    private static Device Own() => Device.FromCudaContext(0x77);
}
