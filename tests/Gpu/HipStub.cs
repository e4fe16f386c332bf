using Kernels.Interop.Hip;

namespace Kernels.Tests.Gpu;

/// <summary>HipDriver on tests/Native/hip_stub.cpp, which has two devices, run by <see cref="DriverStubs"/>. Each begins with a driver that nobody has called.</summary>
internal static unsafe class HipScenarios
{
    private static readonly DriverStub s_stub = new("libamdhip64.so.6", new()
    {
        ["hipSetDevice"] = "",
        ["hipModuleLoadData"] = "cuModuleLoadData",
        ["hipModuleUnload"] = "cuModuleUnload",
        ["hipModuleGetFunction"] = "cuModuleGetFunction",
        ["hipMalloc"] = "cuMemAlloc_v2",
        ["hipFree"] = "cuMemFree_v2",
        ["hipHostMalloc"] = "cuMemHostAlloc",
        ["hipHostFree"] = "cuMemFreeHost",
        ["hipMemPoolCreate"] = "cuMemPoolCreate",
        ["hipMemPoolSetAttribute"] = "cuMemPoolSetAttribute",
        ["hipMemPoolDestroy"] = "cuMemPoolDestroy",
        ["hipMallocFromPoolAsync"] = "cuMemAllocFromPoolAsync",
        ["hipFreeAsync"] = "cuMemFreeAsync",
        ["hipMemcpyHtoDAsync"] = "cuMemcpyHtoDAsync_v2",
        ["hipMemcpyDtoHAsync"] = "cuMemcpyDtoHAsync_v2",
        ["hipMemcpyDtoDAsync"] = "cuMemcpyDtoDAsync_v2",
        ["hipMemsetD8Async"] = "cuMemsetD8Async",
        ["hipMemsetD16Async"] = "cuMemsetD16Async",
        ["hipMemsetD32Async"] = "cuMemsetD32Async",
        ["hipStreamCreateWithFlags"] = "cuStreamCreate",
        ["hipStreamDestroy"] = "cuStreamDestroy_v2",
        ["hipStreamSynchronize"] = "cuStreamSynchronize",
        ["hipStreamWaitEvent"] = "cuStreamWaitEvent",
        ["hipEventCreateWithFlags"] = "cuEventCreate",
        ["hipEventDestroy"] = "cuEventDestroy_v2",
        ["hipEventRecord"] = "cuEventRecord",
        ["hipEventSynchronize"] = "cuEventSynchronize",
        ["hipEventElapsedTime"] = "cuEventElapsedTime",
        ["hipStreamBeginCapture"] = "cuStreamBeginCapture_v2",
        ["hipStreamEndCapture"] = "cuStreamEndCapture",
        ["hipGraphInstantiate"] = "cuGraphInstantiateWithFlags",
        ["hipGraphDestroy"] = "cuGraphDestroy",
        ["hipGraphLaunch"] = "cuGraphLaunch",
        ["hipGraphExecDestroy"] = "cuGraphExecDestroy",
    });

    /// <summary>Device 1, which is not current.</summary>
    private static Device Open()
    {
        Assert.That(Device.TryGetHip(1, out Device? device, out string? reason), reason);
        s_stub.Calls();
        return device!;
    }

    /// <summary>A driver of its own, since a lost one stays lost.</summary>
    private static Device Own() => new(HipDriver.TryOpen(1, out _)!, own: true);

    public static void TheDeviceIsRead()
    {
        Assert.That(Device.TryGetHip(0, out Device? device, out string? why), why);
        GpuLimits limits = device!.Gpu!.Limits;
        Assert.That((limits.Name, limits.Architecture, limits.Driver), Is.EqualTo(("Stub gfx GPU", "gfx942", "HIP 6.2")));
        // The stub tells an attribute's number, of hip_runtime_api.h, and 1000.
        Assert.That((limits.Multiprocessors, limits.ThreadsPerBlock, limits.SharedBytesPerBlock, limits.SharedBytesPerMultiprocessor), Is.EqualTo((1063, 1056, 1074, 1076)));
        Assert.That((limits.WaveSize, limits.L2Bytes, limits.MemoryBytes), Is.EqualTo((64, 0L, 1L << 37)), "0 where the driver does not say");
        Assert.That(limits.MemoryRate, Is.EqualTo(2e3 * 1060 * 1059 / 8));
        Assert.That(limits.Cooperative && limits.Pools);
        Assert.That(limits.Clusters || limits.TensorMaps, Is.False);
        Assert.That(Device.TryGetHip(1, out device, out _));
        Assert.That((device!.Model, device.Ordinal, device.Context), Is.EqualTo(("AMD GPU", 1, (nint)0)), "a driver that gives no name");
        Assert.That(Device.TryGetHip(2, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("only 2"));
        Assert.That(Device.Gpus.Where(d => d.Kind == DeviceKind.Hip).Select(d => d.Ordinal), Is.EqualTo(new[] { 0, 1 }));
        s_stub.Architecture("gfx1100");
        Assert.That(Own().Gpu!.Limits.Architecture, Is.EqualTo("gfx1100"));
        s_stub.Architecture("");
        Assert.That(Own().Gpu!.Limits.Architecture, Is.EqualTo("unknown architecture"));
    }

    /// <summary>ROCm 5 has another struct of properties, and another entry point for it.</summary>
    public static void TheDeviceOfRocm5IsRead()
    {
        Assert.That(Device.TryGetHip(0, out Device? device, out string? why), why);
        Assert.That((device!.Gpu!.Limits.Architecture, device.NativeLibrary), Is.EqualTo(("gfx942", "HIP 5.2")));
    }

    public static void AForeignLibraryIsNoDriver()
    {
        Assert.That(Device.TryGetHip(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.StartWith("no AMD driver: ").And.Contain("cannot be loaded").And.Contain("hipInit"));
        Assert.That(Device.Gpus.Where(d => d.Kind == DeviceKind.Hip), Is.Empty);
    }

    public static void MemoryStreamsEventsGraphs() => s_stub.MemoryStreamsEventsGraphs(Open());

    public static void WhatIsEnqueued() => s_stub.WhatIsEnqueued(Open());

    public static void NoMemory() => s_stub.NoMemory(Own());

    /// <summary>The caller's device is current after every call, also after one that fails.</summary>
    public static void TheCurrentDeviceIsTheCallers()
    {
        using Device device = Own();
        int current = -1;
        Buffer<int>.Allocate(device, 4).Dispose();
        HipApi.hipGetDevice(&current);
        Assert.That(current, Is.Zero);
        s_stub.Plan("cuMemAlloc_v2", 2, 1);
        DriverStub.Throws(() => Buffer<int>.Allocate(device, 4));
        HipApi.hipGetDevice(&current);
        Assert.That(current, Is.Zero);
        s_stub.Plan("hipSetDevice", 101, 1);
        KernelsException e = DriverStub.Throws(() => Buffer<int>.Allocate(device, 4));
        Assert.That((e.Status, e.DriverCode), Is.EqualTo((Status.Device, 101)));
    }

    /// <summary>Memory and streams of another GPU are refused before the driver is asked.</summary>
    public static void OtherDevicesAreRefused()
    {
        Device device = Open();
        Assert.That(Device.TryGetHip(0, out Device? other, out _));
        using Kernels.Stream stream = other!.CreateStream();
        using Buffer<int> here = Buffer<int>.Of(device, [1, 2]), there = Buffer<int>.Of(other, [3, 4]);
        s_stub.Calls();
        foreach ((string argument, Action call) in new (string, Action)[]
            {
                ("source", () => here.EnqueueCopyFrom(there)), ("stream", () => here.Clear(stream)), ("stream", () => here.CopyFrom([1], 0, stream)), ("stream", () => here.EnqueueCopyFrom(here, 1, 0, 1, stream)),
            })
            Assert.That(DriverStub.Throws(call).Argument, Is.EqualTo(argument));
        Assert.That(s_stub.Calls(), Is.Empty);
    }

    public static void Launches()
    {
        GpuDriver gpu = Open().Gpu!;
        int argument = 4711;
        void* at = &argument;
        gpu.Launch(5, new GpuGrid(1, 2, 3, 32, 4, SharedBytes: 600), 7, at, 4);
        gpu.GrantShared(5, 60_000);
        gpu.Launch(5, new GpuGrid(1, 2, 3, 32, 4, SharedBytes: 600, Cooperative: true), 7, at, 4);
        Assert.That(s_stub.Calls(), Is.EqualTo(new[] { "hipModuleLaunchKernel 1 2 3 32 4 1 600 7 4711 0", "hipModuleLaunchCooperativeKernel 1 2 3 32 4 1 600 7 4711" }));
        Assert.That(gpu.Facts(5), Is.EqualTo(new GpuKernelFacts(4, 1, 3, 0)), "the numbers of the attributes");
        s_stub.Calls();
        KernelsException e = DriverStub.Throws(() => gpu.Launch(5, new GpuGrid(8, 2, 3, 32, Cluster: 2), 7, at, 4));
        Assert.That((e.Status, s_stub.Calls().Length), Is.EqualTo((Status.Unsupported, 0)));
        s_stub.Plan("hipModuleLaunchCooperativeKernel", 720, 1);
        e = DriverStub.Throws(() => gpu.Launch(5, new GpuGrid(1 << 20, 1, 1, 32, Cooperative: true), 7, at, 4));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Unsupported, DeviceFailure.TooLarge)));
    }

    public static void ErrorsAreToldApart() => s_stub.ErrorsAreToldApart(Own(),
    [
        (1, Status.Invalid, DeviceFailure.Call), (2, Status.NoMemory, DeviceFailure.Call), (9, Status.Invalid, DeviceFailure.Call), (98, Status.Unsupported, DeviceFailure.WrongImage),
        (200, Status.Unsupported, DeviceFailure.WrongImage), (209, Status.Unsupported, DeviceFailure.WrongImage), (400, Status.Device, DeviceFailure.Call),
        (701, Status.Unsupported, DeviceFailure.TooLarge), (720, Status.Unsupported, DeviceFailure.TooLarge), (801, Status.Unsupported, DeviceFailure.Call),
    ]);

    public static void ALostDeviceEnds() => s_stub.ALostDeviceEnds(Own, [214, 700, 702, 709, 710, 719, 999]);

    public static void DriversThatAreTooOldOrFail()
    {
        s_stub.Version(50100000);
        Assert.That(Device.TryGetHip(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("too old").And.Contain("5.1").And.Contain("5.2"));
        s_stub.Version(60200000);
        s_stub.Plan("hipInit", 100, 1);
        Assert.That(Device.TryGetHip(0, out _, out reason), Is.False);
        Assert.That(reason, Does.Contain("(100)").And.Contain("words of the stub"));
        s_stub.Plan("hipGetDeviceCount", 35, 1);
        Assert.That(Device.TryGetHip(0, out _, out reason), Is.False);
        Assert.That(reason, Does.Contain("hipGetDeviceCount").And.Contain("(35)"));
        Assert.That(Device.TryGetHip(0, out _, out reason), reason);
    }

    public static void AModuleIsTriedAgainAndUnloaded()
    {
        Device device = Own();
        s_stub.Calls();
        s_stub.Plan("cuModuleLoadData", 209, 1);
        KernelsException e = DriverStub.Throws(() => device.Gpu!.Module("flat_gemm_gpu"));
        Assert.That((e.Status, e.DriverCode, e.DeviceFailure), Is.EqualTo((Status.Unsupported, 209, DeviceFailure.WrongImage)));
        Assert.That(e.Message, Does.Contain("flat_gemm_gpu.gfx942.co").And.Contain("another architecture"));
        nint module = device.Gpu!.Module("flat_gemm_gpu");
        Assert.That(device.Gpu.Module("flat_gemm_gpu"), Is.EqualTo(module));
        Assert.That(s_stub.Calls(), Is.EqualTo(Enumerable.Repeat("cuModuleLoadData ELF", 2)));
        device.Gpu.Free(device.Gpu.Allocate(16, 0), 0);
        s_stub.Calls();
        device.Dispose();
        Assert.That(s_stub.Calls(), Is.EqualTo(new[] { $"cuModuleUnload {module}", $"cuMemPoolDestroy {module + 1}" }));
        s_stub.Architecture("gfx906");
        e = DriverStub.Throws(() => Own().Gpu!.Module("flat_gemm_gpu"));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Unsupported, DeviceFailure.WrongImage)));
        Assert.That(e.Message, Does.Contain("gfx906").And.Contain("gfx942"));
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
        Assert.That(s_stub.Calls().Select(c => c.Split(' ')[0]).Distinct(), Is.SupersetOf(new[] { "cuModuleLoadData", "cuModuleGetFunction", "hipModuleLaunchKernel" }));
        s_stub.Plan("hipModuleLaunchKernel", 719, 1);
        KernelsException e = DriverStub.Throws(() => plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64)));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((719, DeviceFailure.Lost)), "through the row");
        Assert.That(device.Fault, Does.Contain("(719)"));
    }
}
