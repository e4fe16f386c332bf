using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Kernels.Interop.Cuda;
using static Kernels.Interop.Cuda.CudaApi;

namespace Kernels;

/// <summary>An NVIDIA GPU through the CUDA driver API, in its primary context or in a caller's.</summary>
internal sealed unsafe partial class CudaDriver : GpuDriver
{
    private const int JitLogBytes = 8192;
    private readonly int _device;
    private readonly int _version;

    private CudaDriver(int device, nint context, int version)
    {
        (_device, Context, _version) = (device, context, version);
        Limits = ReadLimits(device, version);
    }

    public override DeviceKind Kind => DeviceKind.Cuda;

    public override int Ordinal => _device;

    public override nint Context { get; }

    public override GpuLimits Limits { get; }

    /// <summary>Makes the context current, where it is not, and puts back what was.</summary>
    private readonly ref struct Current
    {
        private readonly bool _pushed;

        public Current(CudaDriver driver)
        {
            nint now = 0;
            if (cuCtxGetCurrent(&now) == CUresult.SUCCESS && now == driver.Context) return;
            driver.Check(cuCtxPushCurrent_v2(driver.Context), nameof(cuCtxPushCurrent_v2));
            _pushed = true;
        }

        public void Dispose()
        {
            nint popped;
            if (_pushed) _ = cuCtxPopCurrent_v2(&popped);
        }
    }

    public override nint Allocate(long bytes)
    {
        RequireSound();
        using var current = new Current(this);
        Sweep();
        nint address = 0;
        Check(cuMemAlloc_v2(&address, (nuint)bytes), nameof(cuMemAlloc_v2), bytes);
        return address;
    }

    protected override nint CreatePool()
    {
        var properties = new CUmemPoolProps { AllocType = 1, LocationType = 1, LocationId = _device };
        nint pool = 0;
        Check(cuMemPoolCreate(&pool, &properties), nameof(cuMemPoolCreate));
        ulong keep = ulong.MaxValue;
        Check(cuMemPoolSetAttribute(pool, CUmemPool_attribute.RELEASE_THRESHOLD, &keep), nameof(cuMemPoolSetAttribute));
        return pool;
    }

    public override nint Allocate(long bytes, nint stream)
    {
        RequireSound();
        if (!Limits.Pools) throw NoPools(bytes);
        using var current = new Current(this);
        nint address = 0;
        Check(cuMemAllocFromPoolAsync(&address, (nuint)bytes, Pool(), stream), nameof(cuMemAllocFromPoolAsync), bytes);
        return address;
    }

    public override void Free(nint address, nint stream)
    {
        using var current = new Current(this);
        Check(cuMemFreeAsync(address, stream), nameof(cuMemFreeAsync));
    }

    public override void Copy(GpuCopy direction, nint to, nint from, long bytes, nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(direction switch
        {
            GpuCopy.ToDevice => cuMemcpyHtoDAsync_v2(to, (void*)from, (nuint)bytes, stream),
            GpuCopy.ToHost => cuMemcpyDtoHAsync_v2((void*)to, from, (nuint)bytes, stream),
            _ => cuMemcpyDtoDAsync_v2(to, from, (nuint)bytes, stream),
        }, "cuMemcpyAsync", direction);
    }

    public override nint AllocateHost(long bytes)
    {
        RequireSound();
        using var current = new Current(this);
        Sweep();
        void* address = null;
        Check(cuMemHostAlloc(&address, (nuint)bytes, CUmemHostAlloc_flags.PORTABLE), nameof(cuMemHostAlloc), bytes);
        return (nint)address;
    }

    public override void Fill(nint address, uint value, int width, long bytes, nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        var count = (nuint)(bytes / width);
        Check(width switch
        {
            1 => cuMemsetD8Async(address, (byte)value, count, stream),
            2 => cuMemsetD16Async(address, (ushort)value, count, stream),
            _ => cuMemsetD32Async(address, value, count, stream),
        }, "cuMemsetAsync");
    }

    public override nint CreateStream()
    {
        RequireSound();
        using var current = new Current(this);
        nint stream = 0;
        Check(cuStreamCreate(&stream, 0), nameof(cuStreamCreate));
        return stream;
    }

    public override void Synchronize(nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(cuStreamSynchronize(stream), nameof(cuStreamSynchronize));
    }

    public override nint CreateEvent()
    {
        RequireSound();
        using var current = new Current(this);
        nint made = 0;
        Check(cuEventCreate(&made, 0), nameof(cuEventCreate));
        return made;
    }

    public override void Record(nint ev, nint stream)
    {
        using var current = new Current(this);
        Check(cuEventRecord(ev, stream), nameof(cuEventRecord));
    }

    public override void Wait(nint stream, nint ev)
    {
        using var current = new Current(this);
        Check(cuStreamWaitEvent(stream, ev, 0), nameof(cuStreamWaitEvent));
    }

    public override void SynchronizeEvent(nint ev)
    {
        RequireSound();
        using var current = new Current(this);
        Check(cuEventSynchronize(ev), nameof(cuEventSynchronize));
    }

    public override double Elapsed(nint start, nint end)
    {
        using var current = new Current(this);
        float milliseconds = 0;
        Check(cuEventElapsedTime(&milliseconds, start, end), nameof(cuEventElapsedTime));
        return milliseconds;
    }

    public override void BeginCapture(nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        // Relaxed: what other threads allocate meanwhile is their own affair.
        Check(cuStreamBeginCapture_v2(stream, CUstreamCaptureMode.RELAXED), nameof(cuStreamBeginCapture_v2));
    }

    public override nint EndCapture(nint stream)
    {
        using var current = new Current(this);
        nint graph = 0, exec = 0;
        Check(cuStreamEndCapture(stream, &graph), nameof(cuStreamEndCapture));
        CUresult result = cuGraphInstantiateWithFlags(&exec, graph, 0);
        _ = cuGraphDestroy(graph);
        Check(result, nameof(cuGraphInstantiateWithFlags));
        return exec;
    }

    public override void LaunchGraph(nint graph, nint stream)
    {
        RequireSound();
        using var current = new Current(this);
        Check(cuGraphLaunch(graph, stream), nameof(cuGraphLaunch));
    }

    protected override nint LoadModule(string file)
    {
        RequireSound();
        Image image = FindImage(file);
        byte* log = stackalloc byte[JitLogBytes];
        log[0] = 0;
        CUjit_option* options = stackalloc CUjit_option[2] { CUjit_option.ERROR_LOG_BUFFER, CUjit_option.ERROR_LOG_BUFFER_SIZE_BYTES };
        void** values = stackalloc void*[2] { log, (void*)JitLogBytes };
        nint module = 0;
        using var current = new Current(this);
        fixed (byte* at = image.Load())
        {
            CUresult result = cuModuleLoadDataEx(&module, at, 2, options, values);
            if (result != CUresult.SUCCESS) throw Failed(result, $"cuModuleLoadDataEx of {image.Name} on {Limits.Architecture}{JitLog(log)}");
        }
        return module;
    }

    private static string JitLog(byte* log) => log[0] == 0 ? "" : ": " + Marshal.PtrToStringUTF8((nint)log)!.Trim();

    public override nint Function(nint module, string name)
    {
        using var current = new Current(this);
        nint function = 0;
        fixed (byte* at = Encoding.UTF8.GetBytes(name + '\0')) Check(cuModuleGetFunction(&function, module, at), nameof(cuModuleGetFunction), name);
        return function;
    }

    public override GpuKernelFacts Facts(nint function)
    {
        using var current = new Current(this);
        int Of(CUfunction_attribute attribute)
        {
            int value = 0;
            Check(cuFuncGetAttribute(&value, attribute, function), nameof(cuFuncGetAttribute));
            return value;
        }
        return new GpuKernelFacts(Of(CUfunction_attribute.NUM_REGS), Of(CUfunction_attribute.SHARED_SIZE_BYTES),
            Of(CUfunction_attribute.LOCAL_SIZE_BYTES), Of(CUfunction_attribute.MAX_THREADS_PER_BLOCK));
    }

    public override void GrantShared(nint function, int bytes)
    {
        using var current = new Current(this);
        Check(cuFuncSetAttribute(function, CUfunction_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes), "cuFuncSetAttribute of shared memory", bytes);
    }

    public override void EncodeTensor(in GpuTensor tensor, CUtensorMap* map)
    {
        const int MapAlign = 64;
        using var current = new Current(this);
        byte* room = stackalloc byte[sizeof(CUtensorMap) + MapAlign];
        var aligned = (CUtensorMap*)(((nint)room + MapAlign - 1) & -MapAlign);
        GpuTensor t = tensor;
        uint* one = stackalloc uint[3] { 1, 1, 1 };
        ulong* shape = stackalloc ulong[3] { (ulong)t.Shape.X, (ulong)t.Shape.Y, (ulong)t.Shape.Z };
        ulong* strides = stackalloc ulong[2] { (ulong)t.Strides.Y, (ulong)t.Strides.Z };
        uint* box = stackalloc uint[3] { (uint)t.Box.X, (uint)t.Box.Y, (uint)t.Box.Z };
        CUtensorMapDataType type = t.Type switch { DType.Int8 => CUtensorMapDataType.UINT8, DType.BFloat16 => CUtensorMapDataType.BFLOAT16, _ => CUtensorMapDataType.FLOAT16 };
        Check(cuTensorMapEncodeTiled(aligned, type, 3, t.Address, shape, strides, box, one, CUtensorMapInterleave.NONE, CUtensorMapSwizzle.B128,
            CUtensorMapL2promotion.B256, CUtensorMapFloatOOBfill.NONE), nameof(cuTensorMapEncodeTiled), tensor);
        *map = *aligned;
    }

    public override void Launch(nint function, in GpuGrid grid, nint stream, void* args, int argsBytes)
    {
        RequireSound();
        using var current = new Current(this);
        void* parameter = args;
        if (!grid.Cooperative && grid.Cluster == 1)
        {
            Check(cuLaunchKernel(function, (uint)grid.X, (uint)grid.Y, (uint)grid.Z, (uint)grid.BlockX, (uint)grid.BlockY, 1,
                (uint)grid.SharedBytes, stream, &parameter, null), nameof(cuLaunchKernel), grid);
            return;
        }
        if (_version < LaunchExVersion)
            throw new KernelsException(Status.Unsupported, Limits.Name, $"the driver is too old: cooperative and cluster launches need CUDA {Version(LaunchExVersion)}, this is {Limits.Driver}") { DeviceFailure = DeviceFailure.OldDriver };
        CUlaunchAttribute* attributes = stackalloc CUlaunchAttribute[2];
        uint count = 0;
        if (grid.Cooperative) attributes[count++] = new CUlaunchAttribute { Id = CUlaunchAttributeID.COOPERATIVE, Flag = 1 };
        if (grid.Cluster > 1)
            attributes[count++] = new CUlaunchAttribute { Id = CUlaunchAttributeID.CLUSTER_DIMENSION, ClusterX = (uint)grid.Cluster, ClusterY = 1, ClusterZ = 1 };
        var config = new CUlaunchConfig
        {
            GridX = (uint)grid.X,
            GridY = (uint)grid.Y,
            GridZ = (uint)grid.Z,
            BlockX = (uint)grid.BlockX,
            BlockY = (uint)grid.BlockY,
            BlockZ = 1,
            SharedMemBytes = (uint)grid.SharedBytes,
            Stream = stream,
            Attrs = attributes,
            NumAttrs = count,
        };
        Check(cuLaunchKernelEx(&config, function, &parameter, null), nameof(cuLaunchKernelEx), grid);
    }

    protected override void Destroy(GpuObject kind, nint handle)
    {
        if (Fault is not null) return;  // it went with its context
        using var current = new Current(this);
        Check(kind switch
        {
            GpuObject.Memory => cuMemFree_v2(handle),
            GpuObject.HostMemory => cuMemFreeHost((void*)handle),
            GpuObject.Stream => cuStreamDestroy_v2(handle),
            GpuObject.Event => cuEventDestroy_v2(handle),
            GpuObject.Graph => cuGraphExecDestroy(handle),
            GpuObject.Pool => cuMemPoolDestroy(handle),
            _ => cuModuleUnload(handle),
        }, "destroy", kind);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Check(CUresult result, string call)
    {
        if (result != CUresult.SUCCESS) throw Failed(result, call);
    }

    /// <summary>The detail is put into words on the failing path only.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Check<T>(CUresult result, string call, T detail)
    {
        if (result != CUresult.SUCCESS) throw Failed(result, $"{call}, {detail}");
    }

    private KernelsException Failed(CUresult result, string call)
    {
        Status status = result switch
        {
            CUresult.OUT_OF_MEMORY => Status.NoMemory,
            CUresult.INVALID_VALUE => Status.Invalid,
            CUresult.INVALID_IMAGE or CUresult.NO_BINARY_FOR_GPU or CUresult.INVALID_PTX or CUresult.UNSUPPORTED_PTX_VERSION
                or CUresult.JIT_COMPILER_NOT_FOUND or CUresult.NOT_SUPPORTED or CUresult.COOPERATIVE_LAUNCH_TOO_LARGE or CUresult.LAUNCH_OUT_OF_RESOURCES => Status.Unsupported,
            _ => Status.Device,
        };
        DeviceFailure failure = result switch
        {
            // After these the context answers every call with the same error.
            CUresult.ECC_UNCORRECTABLE or CUresult.ILLEGAL_ADDRESS or CUresult.LAUNCH_TIMEOUT or CUresult.CONTEXT_IS_DESTROYED or CUresult.ASSERT
                or (>= CUresult.HARDWARE_STACK_ERROR and <= CUresult.LAUNCH_FAILED) or CUresult.UNKNOWN => DeviceFailure.Lost,
            CUresult.UNSUPPORTED_PTX_VERSION => DeviceFailure.OldDriver,
            CUresult.INVALID_IMAGE or CUresult.NO_BINARY_FOR_GPU or CUresult.INVALID_PTX => DeviceFailure.WrongImage,
            CUresult.COOPERATIVE_LAUNCH_TOO_LARGE or CUresult.LAUNCH_OUT_OF_RESOURCES => DeviceFailure.TooLarge,
            _ => DeviceFailure.Call,
        };
        string sentence = Text(result, out string name) + result switch
        {
            CUresult.UNSUPPORTED_PTX_VERSION => $"; the driver is too old for this image ({Limits.Driver})",
            CUresult.NO_BINARY_FOR_GPU or CUresult.INVALID_IMAGE => $"; the image is for another architecture than {Limits.Architecture}",
            _ => "",
        };
        return Failure(status, call, (int)result, name, sentence, failure);
    }

    private static string Text(CUresult result, out string name)
    {
        byte* at = null, sentence = null;
        _ = cuGetErrorName(result, &at);
        _ = cuGetErrorString(result, &sentence);
        name = Marshal.PtrToStringUTF8((nint)at) ?? "unknown error";
        return Marshal.PtrToStringUTF8((nint)sentence) ?? "which this driver has no words for";
    }

    private static string Sentence(string call, CUresult result)
    {
        string text = Text(result, out string name);
        return string.Create(CultureInfo.InvariantCulture, $"{call}: {name} ({(int)result}), {text}");
    }
}
