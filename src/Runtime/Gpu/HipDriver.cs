using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Kernels.Interop;
using Kernels.Interop.Hip;
using static Kernels.Interop.Hip.HipApi;

namespace Kernels;

/// <summary>An AMD GPU through HIP's module API. Its context is HIP's own: a device is current to a thread.</summary>
internal sealed unsafe class HipDriver : GpuDriver
{
    private const int LowestVersion = 50200000;  // of the runtime: major * 10^7 + minor * 10^5 + patch

    private HipDriver(int ordinal, int version)
    {
        Ordinal = ordinal;
        Limits = ReadLimits(ordinal, version);
    }

    public override DeviceKind Kind => DeviceKind.Hip;

    public override int Ordinal { get; }

    public override GpuLimits Limits { get; }

    /// <summary>Devices that the driver has. 0 with a reason where there is no driver, or none that can be used.</summary>
    public static int Count(out string reason)
    {
        if (!TryInit(out _, out reason)) return 0;
        int count = 0, result = hipGetDeviceCount(&count);
        reason = result != 0 ? Sentence("hipGetDeviceCount", result) : count == 0 ? "the AMD driver has no device" : "";
        return result == 0 ? count : 0;
    }

    public static HipDriver? TryOpen(int ordinal, out string reason)
    {
        int count = Count(out reason);
        if (count == 0) return null;
        if (ordinal < 0 || ordinal >= count)
        {
            reason = string.Create(CultureInfo.InvariantCulture, $"there is no HIP device {ordinal}, only {count}");
            return null;
        }
        _ = TryInit(out int version, out _);
        return new HipDriver(ordinal, version);
    }

    private static bool TryInit(out int version, out string reason)
    {
        DriverLibrary.Register();
        version = 0;
        int found = 0, result;
        try
        {
            result = hipInit(0);
            if (result == 0) result = hipRuntimeGetVersion(&found);
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException or BadImageFormatException)
        {
            reason = $"no AMD driver: {string.Join(", ", DriverLibrary.Candidates(DriverLibrary.Hip))} cannot be loaded"
                + (e is DllNotFoundException ? "" : $" ({e.Message})");
            return false;
        }
        version = found;
        reason = result != 0 ? Sentence("hipInit", result)
            : version < LowestVersion ? $"the AMD driver is too old: it is of HIP {Version(version)}, and {Version(LowestVersion)} is needed"
            : "";
        return reason.Length == 0;
    }

    private static string Version(int version) => string.Create(CultureInfo.InvariantCulture, $"{version / 10000000}.{version / 100000 % 100}");

    private static GpuLimits ReadLimits(int device, int version)
    {
        byte* name = stackalloc byte[256];
        name[0] = 0;
        _ = hipDeviceGetName(name, 255, device);
        nuint memory = 0;
        _ = hipDeviceTotalMem(&memory, device);
        int Of(HipDeviceAttribute attribute)
        {
            int value = 0;
            return hipDeviceGetAttribute(&value, attribute, device) == 0 ? value : 0;
        }
        return new GpuLimits
        {
            Name = Marshal.PtrToStringUTF8((nint)name) is { Length: > 0 } text ? text : "AMD GPU",
            Architecture = Architecture(device),
            Driver = $"HIP {Version(version)}",
            Multiprocessors = Of(HipDeviceAttribute.MultiprocessorCount),
            WaveSize = Of(HipDeviceAttribute.WarpSize),
            ThreadsPerBlock = Of(HipDeviceAttribute.MaxThreadsPerBlock),
            SharedBytesPerBlock = Of(HipDeviceAttribute.MaxSharedMemoryPerBlock),
            SharedBytesPerMultiprocessor = Of(HipDeviceAttribute.SharedMemPerMultiprocessor),
            L2Bytes = Of(HipDeviceAttribute.L2CacheSize),
            MemoryBytes = (long)memory,
            MemoryRate = 2e3 * Of(HipDeviceAttribute.MemoryClockRate) * Of(HipDeviceAttribute.MemoryBusWidth) / 8,
            Cooperative = Of(HipDeviceAttribute.CooperativeLaunch) != 0,
            Pools = Of(HipDeviceAttribute.MemoryPoolsSupported) != 0,
        };
    }

    /// <summary>
    /// gfx942 and the like, without ":sramecc+:xnack-". The struct that holds it changed with ROCm 6, so it is looked for by its
    /// text: no other field of it is.
    /// </summary>
    private static string Architecture(int device)
    {
        const int Room = 8192;  // the struct has 1472 bytes in ROCm 6 and 7, 792 in ROCm 5
        byte* properties = stackalloc byte[Room];
        NativeMemory.Clear(properties, Room);
        int result;
        try
        {
            result = hipGetDevicePropertiesR0600(properties, device);
        }
        catch (EntryPointNotFoundException)
        {
            result = hipGetDeviceProperties(properties, device);
        }
        var all = new ReadOnlySpan<byte>(properties + 256, Room - 256);  // the marketing name comes first
        int at = result == 0 ? all.IndexOf("gfx"u8) : -1;
        if (at < 0) return "unknown architecture";
        ReadOnlySpan<byte> text = all[at..];
        int end = text.IndexOfAny((byte)0, (byte)':');
        return Encoding.UTF8.GetString(text[..Math.Max(end, 0)]);
    }

    /// <summary>Makes the device current, where it is not, and puts back what was.</summary>
    private readonly ref struct Current
    {
        private readonly int _before = -1;

        public Current(HipDriver driver)
        {
            int now = 0;
            driver.Check(hipGetDevice(&now), nameof(hipGetDevice));
            if (now == driver.Ordinal) return;
            driver.Check(hipSetDevice(driver.Ordinal), nameof(hipSetDevice));
            _before = now;
        }

        public void Dispose()
        {
            if (_before >= 0) _ = hipSetDevice(_before);
        }
    }

    public override nint Allocate(long bytes)
    {
        RequireSound();
        using var current = new Current(this);
        Sweep();
        nint address = 0;
        Check(hipMalloc(&address, (nuint)bytes), nameof(hipMalloc), bytes);
        return address;
    }

    protected override nint CreatePool()
    {
        var properties = new HipMemPoolProps { AllocType = 1, LocationType = 1, LocationId = Ordinal };
        nint pool = 0;
        Check(hipMemPoolCreate(&pool, &properties), nameof(hipMemPoolCreate));
        ulong keep = ulong.MaxValue;
        Check(hipMemPoolSetAttribute(pool, HipMemPoolAttribute.ReleaseThreshold, &keep), nameof(hipMemPoolSetAttribute));
        return pool;
    }

    public override nint Allocate(long bytes, nint stream)
    {
        RequireSound();
        if (!Limits.Pools) throw NoPools(bytes);
        using var current = new Current(this);
        nint address = 0;
        Check(hipMallocFromPoolAsync(&address, (nuint)bytes, Pool(), stream), nameof(hipMallocFromPoolAsync), bytes);
        return address;
    }

    public override void Free(nint address, nint stream)
    {
        using var current = new Current(this);
        Check(hipFreeAsync(address, stream), nameof(hipFreeAsync));
    }

    public override void Copy(GpuCopy direction, nint to, nint from, long bytes, nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(direction switch
        {
            GpuCopy.ToDevice => hipMemcpyHtoDAsync(to, (void*)from, (nuint)bytes, stream),
            GpuCopy.ToHost => hipMemcpyDtoHAsync((void*)to, from, (nuint)bytes, stream),
            _ => hipMemcpyDtoDAsync(to, from, (nuint)bytes, stream),
        }, "hipMemcpyAsync", direction);
    }

    public override nint AllocateHost(long bytes)
    {
        RequireSound();
        using var current = new Current(this);
        Sweep();
        void* address = null;
        Check(hipHostMalloc(&address, (nuint)bytes, HipHostMallocFlags.Portable), nameof(hipHostMalloc), bytes);
        return (nint)address;
    }

    public override void Fill(nint address, uint value, int width, long bytes, nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        var count = (nuint)(bytes / width);
        Check(width switch
        {
            1 => hipMemsetD8Async(address, (byte)value, count, stream),
            2 => hipMemsetD16Async(address, (ushort)value, count, stream),
            _ => hipMemsetD32Async(address, (int)value, count, stream),
        }, "hipMemsetAsync");
    }

    public override nint CreateStream()
    {
        RequireSound();
        using var current = new Current(this);
        nint stream = 0;
        Check(hipStreamCreateWithFlags(&stream, 0), nameof(hipStreamCreateWithFlags));
        return stream;
    }

    public override void Synchronize(nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(hipStreamSynchronize(stream), nameof(hipStreamSynchronize));
    }

    public override nint CreateEvent()
    {
        RequireSound();
        using var current = new Current(this);
        nint made = 0;
        Check(hipEventCreateWithFlags(&made, 0), nameof(hipEventCreateWithFlags));
        return made;
    }

    public override void Record(nint ev, nint stream)
    {
        using var current = new Current(this);
        Check(hipEventRecord(ev, stream), nameof(hipEventRecord));
    }

    public override void Wait(nint stream, nint ev)
    {
        using var current = new Current(this);
        Check(hipStreamWaitEvent(stream, ev, 0), nameof(hipStreamWaitEvent));
    }

    public override void SynchronizeEvent(nint ev)
    {
        RequireSound();
        using var current = new Current(this);
        Check(hipEventSynchronize(ev), nameof(hipEventSynchronize));
    }

    public override double Elapsed(nint start, nint end)
    {
        using var current = new Current(this);
        float milliseconds = 0;
        Check(hipEventElapsedTime(&milliseconds, start, end), nameof(hipEventElapsedTime));
        return milliseconds;
    }

    public override void BeginCapture(nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(hipStreamBeginCapture(stream, HipStreamCaptureMode.Relaxed), nameof(hipStreamBeginCapture));
    }

    public override nint EndCapture(nint stream)
    {
        using var current = new Current(this);
        nint graph = 0, exec = 0;
        Check(hipStreamEndCapture(stream, &graph), nameof(hipStreamEndCapture));
        int result = hipGraphInstantiate(&exec, graph, null, null, 0);
        _ = hipGraphDestroy(graph);
        Check(result, nameof(hipGraphInstantiate));
        return exec;
    }

    public override void LaunchGraph(nint graph, nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(hipGraphLaunch(graph, stream), nameof(hipGraphLaunch));
    }

    protected override nint LoadModule(string file)
    {
        RequireSound();
        Image image = FindImage(file);
        nint module = 0;
        using var current = new Current(this);
        fixed (byte* at = image.Load()) Check(hipModuleLoadData(&module, at), nameof(hipModuleLoadData), image.Name);
        return module;
    }

    public override nint Function(nint module, string name)
    {
        using var current = new Current(this);
        nint function = 0;
        fixed (byte* at = Encoding.UTF8.GetBytes(name + '\0')) Check(hipModuleGetFunction(&function, module, at), nameof(hipModuleGetFunction), name);
        return function;
    }

    public override GpuKernelFacts Facts(nint function)
    {
        using var current = new Current(this);
        int Of(HipFunctionAttribute attribute)
        {
            int value = 0;
            Check(hipFuncGetAttribute(&value, attribute, function), nameof(hipFuncGetAttribute));
            return value;
        }
        return new GpuKernelFacts(Of(HipFunctionAttribute.NumRegs), Of(HipFunctionAttribute.SharedSizeBytes),
            Of(HipFunctionAttribute.LocalSizeBytes), Of(HipFunctionAttribute.MaxThreadsPerBlock));
    }

    /// <summary>LDS is there for the asking.</summary>
    public override void GrantShared(nint function, int bytes)
    {
    }

    public override void Launch(nint function, in GpuGrid grid, nint stream, void* args, int argsBytes)
    {
        RequireSound();
        if (grid.Cluster > 1) throw new KernelsException(Status.Unsupported, Limits.Name, "blocks of AMD GPUs form no clusters");
        using var current = new Current(this);
        void* parameter = args;
        Check(grid.Cooperative
            ? hipModuleLaunchCooperativeKernel(function, (uint)grid.X, (uint)grid.Y, (uint)grid.Z, (uint)grid.BlockX, (uint)grid.BlockY, 1,
                (uint)grid.SharedBytes, stream, &parameter)
            : hipModuleLaunchKernel(function, (uint)grid.X, (uint)grid.Y, (uint)grid.Z, (uint)grid.BlockX, (uint)grid.BlockY, 1,
                (uint)grid.SharedBytes, stream, &parameter, null), "hipModuleLaunchKernel", grid);
    }

    protected override void Destroy(GpuObject kind, nint handle)
    {
        if (Fault is not null) return;
        using var current = new Current(this);
        Check(kind switch
        {
            GpuObject.Memory => hipFree(handle),
            GpuObject.HostMemory => hipHostFree((void*)handle),
            GpuObject.Stream => hipStreamDestroy(handle),
            GpuObject.Event => hipEventDestroy(handle),
            GpuObject.Graph => hipGraphExecDestroy(handle),
            GpuObject.Pool => hipMemPoolDestroy(handle),
            _ => hipModuleUnload(handle),
        }, "destroy", kind);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Check(int result, string call)
    {
        if (result != 0) throw Failed(result, call);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Check<T>(int result, string call, T detail)
    {
        if (result != 0) throw Failed(result, $"{call}, {detail}");
    }

    private KernelsException Failed(int result, string call)
    {
        Status status = result switch
        {
            2 => Status.NoMemory,                                     // hipErrorOutOfMemory
            1 or 9 => Status.Invalid,                                 // hipErrorInvalidValue, hipErrorInvalidConfiguration
            98 or 200 or 209 or 701 or 720 or 801 => Status.Unsupported,  // no function or binary for the GPU, too large a launch
            _ => Status.Device,
        };
        DeviceFailure failure = result switch
        {
            214 or 700 or 702 or 709 or 710 or 719 or 999 => DeviceFailure.Lost,  // ECC, illegal address, timeout, assert, launch failure, unknown: the queue is gone
            98 or 200 or 209 => DeviceFailure.WrongImage,
            701 or 720 => DeviceFailure.TooLarge,
            _ => DeviceFailure.Call,
        };
        string sentence = Text(hipGetErrorString(result)) + (result is 200 or 209 ? $"; the image is for another architecture than {Limits.Architecture}" : "");
        return Failure(status, call, result, Text(hipGetErrorName(result)), sentence, failure);
    }

    private static string Text(byte* utf8) => Marshal.PtrToStringUTF8((nint)utf8) ?? "unknown error";

    private static string Sentence(string call, int result) =>
        string.Create(CultureInfo.InvariantCulture, $"{call}: {Text(hipGetErrorName(result))} ({result}), {Text(hipGetErrorString(result))}");
}
