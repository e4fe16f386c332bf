using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using Kernels.Interop.Cuda;

namespace Kernels.Tests.Gpu;

/// <summary>CudaDriver on a driver without a GPU, tests/Native/cuda_stub.cpp: each scenario in a process whose loader finds that one.</summary>
[TestFixture]
[Platform("Linux")]
public sealed class CudaStub
{
    private static readonly string s_directory = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../../build/stub"));

    private static IEnumerable<string> Scenarios => typeof(CudaScenarios).GetMethods(BindingFlags.Public | BindingFlags.Static).Select(m => m.Name);

    [TestCaseSource(nameof(Scenarios))]
    public void Holds(string scenario)
    {
        if (!Directory.Exists(s_directory)) Assert.Ignore($"{s_directory} was not built");
        if (Images.All.Count == 0 && scenario.Contains("Module", StringComparison.Ordinal)) Assert.Ignore("this build holds no device images: no clang 16 or newer was found");
        var start = new ProcessStartInfo("dotnet", [typeof(CudaStub).Assembly.Location, scenario]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["LD_LIBRARY_PATH"] = s_directory;
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd() + error.Result;
        process.WaitForExit();
        Assert.That(process.ExitCode, Is.Zero, output);
    }
}

/// <summary>What <see cref="CudaStub"/> runs. Each begins with a driver that nobody has called.</summary>
internal static unsafe class CudaScenarios
{
    private static readonly nint s_stub = NativeLibrary.Load("libcuda.so.1");

    private static void Plan(string call, int code, int times = int.MaxValue)
    {
        var fail = (delegate* unmanaged[Cdecl]<byte*, int, int, int>)NativeLibrary.GetExport(s_stub, "stub_fail");
        fixed (byte* name = Encoding.UTF8.GetBytes(call + '\0')) fail(name, code, times);
    }

    private static void Version(int version) => ((delegate* unmanaged[Cdecl]<int, int>)NativeLibrary.GetExport(s_stub, "stub_version"))(version);

    /// <summary>The calls since the last time, without those that only make the context current.</summary>
    private static string[] Calls()
    {
        byte[] text = new byte[1 << 16];
        fixed (byte* at = text) ((delegate* unmanaged[Cdecl]<byte*, int, int>)NativeLibrary.GetExport(s_stub, "stub_lines"))(at, text.Length);
        return [.. Encoding.UTF8.GetString(text).TrimEnd('\0').Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(l => !l.StartsWith("cuCtx", StringComparison.Ordinal))];
    }

    private static Device Open()
    {
        Assert.That(Device.TryGetCuda(0, out Device? device, out string? reason), reason);
        Calls();
        return device!;
    }

    private static KernelsException Throws(Action call) => Assert.Throws<KernelsException>(() => call())!;

    public static void TheDeviceIsRead()
    {
        Assert.That(Device.TryGetCuda(0, out Device? device, out _));
        GpuLimits limits = device!.Gpu!.Limits;
        Assert.That(Calls(), Has.One.EqualTo("cuDevicePrimaryCtxRetain 0"));
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

    public static void MemoryStreamsEventsGraphs()
    {
        Device device = Open();
        int[] back = new int[3];
        using (Buffer<int> buffer = Buffer<int>.Of(device, [1, 2, 3])) buffer.CopyTo(back);
        Assert.That(back, Is.EqualTo(new[] { 1, 2, 3 }));
        Assert.That(Calls(), Is.EqualTo(new[] { "cuMemAlloc_v2 12", "cuMemcpyHtoDAsync_v2 12 0", "cuStreamSynchronize 0", "cuMemcpyDtoHAsync_v2 12 0", "cuStreamSynchronize 0", "cuMemFree_v2" }));

        nint scratch = device.Gpu!.Allocate(64, 7);
        device.Gpu.Fill(scratch, 9, 64, 7);
        device.Gpu.Free(scratch, 7);
        Assert.That(Calls(), Is.EqualTo(new[] { "cuMemPoolCreate 1 0 1 0", $"cuMemPoolSetAttribute 4 {ulong.MaxValue}", "cuMemAllocFromPoolAsync 64 7", "cuMemsetD8Async 9 64 7", "cuMemFreeAsync 7" }));

        nint s, e, g;
        using (Kernels.Stream stream = device.CreateStream())
        using (Event start = Event.Create(device), end = Event.Create(device))
        using (Graph graph = stream.Capture(() => { }))
        {
            (s, e, g) = (stream.Handle, end.Handle, graph.Handle);
            start.Record();
            stream.Wait(start);
            graph.Launch(stream);
            end.Record(stream);
            end.Synchronize();
            Assert.That(end.MillisecondsSince(start), Is.EqualTo(1.5));
            Assert.That(Calls(), Is.EqualTo(new[]
            {
                "cuStreamCreate 0", "cuEventCreate 0", "cuEventCreate 0", $"cuStreamBeginCapture_v2 {s} 2", $"cuStreamEndCapture {s}", $"cuGraphInstantiateWithFlags {g - 1} 0", $"cuGraphDestroy {g - 1}",
                $"cuEventRecord {start.Handle} 0", $"cuStreamWaitEvent {s} {start.Handle} 0", $"cuGraphLaunch {g} {s}", $"cuEventRecord {e} {s}", $"cuEventSynchronize {e}", $"cuEventElapsedTime {start.Handle} {e}",
            }));
        }
        Assert.That(Calls().Select(c => c.Split(' ')[0]), Is.EqualTo(new[] { "cuGraphExecDestroy", "cuEventDestroy_v2", "cuEventDestroy_v2", "cuStreamDestroy_v2" }));

        // What is others' is used and left.
        using (Kernels.Stream stream = Kernels.Stream.FromHandle(device, 71))
        using (Event ev = Event.FromHandle(device, 72))
        using (Graph graph = Graph.FromHandle(device, 73))
        {
            ev.Record(stream);
            graph.Launch(stream);
        }
        Assert.That(Calls(), Is.EqualTo(new[] { "cuEventRecord 72 71", "cuGraphLaunch 73 71" }));
    }

    public static void Launches()
    {
        GpuDriver gpu = Open().Gpu!;
        int argument = 4711;
        gpu.Launch(5, new GpuGrid(1, 2, 3, 32, 4, SharedBytes: 600), 7, &argument, 4);
        gpu.Launch(5, new GpuGrid(1, 2, 3, 32, 4, SharedBytes: 600, Cooperative: true), 7, &argument, 4);
        gpu.Launch(5, new GpuGrid(8, 2, 3, 32, 4, SharedBytes: 600, Cluster: 2), 7, &argument, 4);
        gpu.Launch(5, new GpuGrid(8, 2, 3, 32, 4, SharedBytes: 600, Cooperative: true, Cluster: 4), 7, &argument, 4);
        Assert.That(Calls(), Is.EqualTo(new[]
        {
            "cuLaunchKernel 1 2 3 32 4 1 600 7 4711 0",
            "cuLaunchKernelEx 1 2 3 32 4 1 600 7 4711 0 2:1",
            "cuLaunchKernelEx 8 2 3 32 4 1 600 7 4711 0 4:2,1,1",
            "cuLaunchKernelEx 8 2 3 32 4 1 600 7 4711 0 2:1 4:4,1,1",
        }));
        gpu.GrantShared(5, 100_000);
        Assert.That(gpu.Facts(5), Is.EqualTo(new GpuKernelFacts(4, 1, 3, 0)), "the numbers of the attributes");
        Assert.That(Calls()[0], Is.EqualTo("cuFuncSetAttribute 8 100000"));
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
        Assert.That(Calls(), Is.EqualTo(Enumerable.Repeat("cuTensorMapEncodeTiled 0 9 3 4096 64 300 2 128 38400 64 128 1 1 1 1 0 3 3 0", 4)));
    }

    public static void ErrorsAreToldApart()
    {
        using Device device = Own();
        foreach ((int code, Status status, DeviceFailure failure) in new[]
            {
                (1, Status.Invalid, DeviceFailure.Call), (2, Status.NoMemory, DeviceFailure.Call), (200, Status.Unsupported, DeviceFailure.WrongImage), (209, Status.Unsupported, DeviceFailure.WrongImage),
                (218, Status.Unsupported, DeviceFailure.WrongImage), (222, Status.Unsupported, DeviceFailure.OldDriver), (400, Status.Device, DeviceFailure.Call), (701, Status.Unsupported, DeviceFailure.TooLarge),
                (720, Status.Unsupported, DeviceFailure.TooLarge), (901, Status.Device, DeviceFailure.Call),
            })
        {
            Plan("cuStreamSynchronize", code, 1);
            using Kernels.Stream stream = Kernels.Stream.FromHandle(device, 5);
            KernelsException e = Throws(stream.Synchronize);
            Assert.That((e.DriverCode, e.Status, e.DeviceFailure), Is.EqualTo((code, status, failure)));
            Assert.That(e.Message, Does.Contain("Stub GPU: cuStreamSynchronize: ").And.Contain($"({code}), ").And.Contain(code < 900 ? "words of the stub" : "no words"));
            Assert.That(device.Fault, Is.Null);
            stream.Synchronize();
        }
    }

    public static void ALostContextIsTheDevicesEnd()
    {
        foreach (int code in new[] { 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999 })
        {
            Device device = Own();
            Buffer<int> buffer = Buffer<int>.Allocate(device, 4);
            Plan("cuStreamSynchronize", code, 1);
            using Kernels.Stream stream = Kernels.Stream.FromHandle(device, 5);
            KernelsException first = Throws(stream.Synchronize), later = Throws(stream.Synchronize);
            foreach (KernelsException e in new[] { first, later }) Assert.That((e.DriverCode, e.Status, e.DeviceFailure), Is.EqualTo((code, Status.Device, DeviceFailure.Lost)));
            Assert.That(device.Fault, Does.Contain($"({code})"));
            Assert.That(later.Message, Does.Contain(device.Fault));
            Calls();
            Throws(() => Buffer<int>.Allocate(device, 4));
            buffer.Dispose();
            device.Dispose();
            Assert.That(Calls(), Is.Empty, "a lost context is asked for nothing more");
        }
    }

    public static void DriversThatAreTooOld()
    {
        Version(11030);
        Assert.That(Device.TryGetCuda(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("too old").And.Contain("11.3").And.Contain("11.4"));
        KernelsException e = Throws(() => Device.FromCudaContext(1));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Device, DeviceFailure.OldDriver)));

        Version(11070);
        GpuDriver gpu = Own().Gpu!;
        Assert.That(gpu.Limits.Clusters || gpu.Limits.TensorMaps, Is.False);
        int argument = 0;
        Calls();
        void* at = &argument;
        e = Throws(() => gpu.Launch(5, new GpuGrid(1, 1, 1, 32, Cooperative: true), 0, at, 4));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Unsupported, DeviceFailure.OldDriver)));
        Assert.That(Calls(), Is.Empty);
    }

    public static void ContextsOfNobody()
    {
        Plan("cuCtxPushCurrent_v2", 201, 1);
        KernelsException e = Throws(() => Device.FromCudaContext(1));
        Assert.That((e.Argument, e.DriverCode, e.DeviceFailure), Is.EqualTo(("context", 201, DeviceFailure.Call)));
        Plan("cuInit", 100);
        e = Throws(() => Device.FromCudaContext(1));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((100, DeviceFailure.NoDriver)));
        Plan("cuInit", 803);
        e = Throws(() => Device.FromCudaContext(1));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((803, DeviceFailure.Call)));
        Assert.That(Device.TryGetCuda(0, out _, out string? reason), Is.False);
        Assert.That(reason, Does.Contain("803"));
    }

    public static void AModuleIsTriedAgainAndUnloaded()
    {
        Device device = Own();
        Calls();
        Plan("cuModuleLoadDataEx", 2, 1);
        KernelsException e = Throws(() => device.Gpu!.Module("flat_gemm_gpu"));
        Assert.That((e.Status, e.DriverCode), Is.EqualTo((Status.NoMemory, 2)));
        Assert.That(e.Message, Does.Contain("flat_gemm_gpu.sm_80").And.Contain("sm_90").And.Contain("the assembler's words"));
        nint module = device.Gpu!.Module("flat_gemm_gpu");
        Assert.That(device.Gpu.Module("flat_gemm_gpu"), Is.EqualTo(module));
        // Options 5 and 6: the log of errors and its size.
        Assert.That(Calls(), Is.EqualTo(Enumerable.Repeat("cuModuleLoadDataEx // 2 5 6 8192", 2)));
        device.Gpu.Free(device.Gpu.Allocate(16, 0), 0);
        Calls();
        device.Dispose();
        device.Dispose();
        Assert.That(Calls(), Is.EqualTo(new[] { $"cuModuleUnload {module}", $"cuMemPoolDestroy {module + 1}" }));
        Assert.That(Throws(() => Buffer<int>.Allocate(device, 1)).Status, Is.EqualTo(Status.Invalid));
        e = Throws(() => Own().Gpu!.Module("nothing_gpu"));
        Assert.That((e.Status, e.DeviceFailure), Is.EqualTo((Status.Unsupported, DeviceFailure.WrongImage)));
    }

    /// <summary>A layer from its image to its launch, by the row that is chosen.</summary>
    public static void APlanLaunchesItsModule()
    {
        Device device = Open();
        var layer = new FlatGemmOptions { N = 64, K = 64, MaxM = 2, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32 };
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create<float>(layer, new float[64, 64], device: device);
        using Buffer<float> x = Buffer<float>.Allocate(device, 128), y = Buffer<float>.Allocate(device, 128);
        Calls();
        plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64));
        string[] calls = Calls();
        Assert.That(calls.Select(c => c.Split(' ')[0]).Distinct(), Is.SupersetOf(new[] { "cuModuleLoadDataEx", "cuModuleGetFunction", "cuLaunchKernel" }));
        plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64));
        Assert.That(Calls(), Has.None.StartsWith("cuModule"), "found once");
        Plan("cuLaunchKernel", 701, 1);
        KernelsException e = Throws(() => plan.Run(new TensorView<float>(x, 2, 64), new TensorView<float>(y, 2, 64)));
        Assert.That((e.DriverCode, e.DeviceFailure), Is.EqualTo((701, DeviceFailure.TooLarge)), "through the row");
    }

    /// <summary>A context of its own.</summary>
    private static Device Own() => Device.FromCudaContext(0x77);
}
