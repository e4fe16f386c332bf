using System.Collections.Concurrent;
using System.Globalization;
using Kernels.Interop.Cuda;

namespace Kernels;

/// <summary>What a GPU is and how much it takes. Rates and sizes that a driver does not tell are 0.</summary>
internal sealed record GpuLimits
{
    public required string Name { get; init; }

    /// <summary>sm_90, gfx942, simt32: what an image is compiled for.</summary>
    public required string Architecture { get; init; }

    /// <summary>The driver and its version, for people.</summary>
    public required string Driver { get; init; }

    public required int Multiprocessors { get; init; }

    /// <summary>Threads of a warp or wave.</summary>
    public required int WaveSize { get; init; }

    public required int ThreadsPerBlock { get; init; }

    /// <summary>Shared memory that one block may ask for, where that is more than the default with what must be asked.</summary>
    public required int SharedBytesPerBlock { get; init; }

    public int SharedBytesPerMultiprocessor { get; init; }

    public long L2Bytes { get; init; }

    public long MemoryBytes { get; init; }

    /// <summary>Bytes a second by clock and width of the bus.</summary>
    public double MemoryRate { get; init; }

    public bool Cooperative { get; init; }

    public bool Clusters { get; init; }

    /// <summary>Whether there are tensor copies and the driver makes maps for them.</summary>
    public bool TensorMaps { get; init; }

    /// <summary>Whether memory can be allocated in the order of a stream.</summary>
    public bool Pools { get; init; }
}

/// <summary>How a kernel is launched. Threads of a block are BlockX * BlockY; Cluster: blocks of a cluster along x.</summary>
internal readonly record struct GpuGrid(int X, int Y, int Z, int BlockX, int BlockY = 1, int SharedBytes = 0, bool Cooperative = false, int Cluster = 1);

/// <summary>
/// A tensor of elements of 8 or 16 bits whose boxes a kernel copies into shared memory in the 128-byte swizzle, zeros for what is outside.
/// Dimensions begin with the contiguous one; strides, in bytes, are those of the second and the third, each a multiple of the one
/// before. Address and strides are multiples of 16; the first side of a box is 128 bytes, the others up to 256 elements.
/// </summary>
internal readonly record struct GpuTensor(nint Address, DType Type, (long X, long Y, long Z) Shape, (long Y, long Z) Strides, (int X, int Y, int Z) Box);

/// <summary>Compiled facts of a kernel: registers of a thread, bytes of static shared memory, bytes of a thread's local memory (spills).</summary>
internal readonly record struct GpuKernelFacts(int Registers, int SharedBytes, int LocalBytes, int MaxThreads);

/// <summary>What a driver makes and destroys.</summary>
internal enum GpuObject { Memory, OrderedMemory, HostMemory, Stream, Event, Graph, Module, Pool }

internal enum GpuCopy { ToDevice, ToHost, OnDevice }

/// <summary>
/// One GPU, or the simulated one, in one context: everything above talks to a device through this. Addresses, streams and
/// modules are the driver's own, so that those of others can be passed. Stream 0 is the default stream. What fails throws
/// <see cref="KernelsException"/> with the driver's name for it; the caller's current context is left as it was.
/// </summary>
internal abstract unsafe class GpuDriver
{
    private readonly ConcurrentQueue<(GpuObject Kind, nint Handle, nint Stream)> _abandoned = new();
    private readonly Dictionary<string, nint> _modules = [];
    private nint _pool;
    private int _faultCode;
    private bool _closed;

    public abstract DeviceKind Kind { get; }

    /// <summary>The driver's number of the device.</summary>
    public abstract int Ordinal { get; }

    /// <summary>CUcontext; 0 where there is no such thing.</summary>
    public virtual nint Context => 0;

    public abstract GpuLimits Limits { get; }

    /// <summary>The failure after which nothing more can run here, or null.</summary>
    public string? Fault { get; private set; }

    public abstract nint Allocate(long bytes);

    /// <summary>Memory in the order of the stream: it exists for what is enqueued after this, and <see cref="Free"/> ends that in the same order.</summary>
    public abstract nint Allocate(long bytes, nint stream);

    public abstract void Free(nint address, nint stream);

    /// <summary>Memory of the host, not zeroed, that copies read and write where it lies while the host goes on.</summary>
    public abstract nint AllocateHost(long bytes);

    /// <summary>Enqueues a copy. Memory of the host must stay until the stream has been waited for.</summary>
    public abstract void Copy(GpuCopy direction, nint to, nint from, long bytes, nint stream);

    public void Fill(nint address, byte value, long bytes, nint stream) => Fill(address, value, 1, bytes, stream);

    /// <summary>Enqueues writing a value of <paramref name="width"/> bytes, 1, 2 or 4, over and over; address and bytes are multiples of the width.</summary>
    public abstract void Fill(nint address, uint value, int width, long bytes, nint stream);

    public abstract nint CreateStream();

    public abstract void Synchronize(nint stream);

    /// <summary>An event that keeps its time.</summary>
    public abstract nint CreateEvent();

    public abstract void Record(nint ev, nint stream);

    /// <summary>What is enqueued on the stream from now on starts after the event.</summary>
    public abstract void Wait(nint stream, nint ev);

    public abstract void SynchronizeEvent(nint ev);

    /// <summary>Milliseconds between two events that have happened.</summary>
    public abstract double Elapsed(nint start, nint end);

    public abstract void BeginCapture(nint stream);

    /// <summary>Ends a capture and gives the executable graph.</summary>
    public abstract nint EndCapture(nint stream);

    public abstract void LaunchGraph(nint graph, nint stream);

    /// <summary>Whether this device can load the kernels of a source file, one of which is named: the image that would be taken, or what is missing.</summary>
    public virtual bool HasImage(string file, string kernel, out string imageOrReason) => Images.TryFind(file, Kind, Limits.Architecture, out _, out imageOrReason);

    /// <summary>Loads the kernels of kernels/op/file.cu.</summary>
    protected abstract nint LoadModule(string file);

    public abstract nint Function(nint module, string name);

    public abstract GpuKernelFacts Facts(nint function);

    /// <summary>Lets a kernel ask for more shared memory than it gets unasked.</summary>
    public abstract void GrantShared(nint function, int bytes);

    /// <summary>Writes the map of a tensor for a kernel's argument; touches no memory of the device. Where <see cref="GpuLimits.TensorMaps"/>.</summary>
    public virtual void EncodeTensor(in GpuTensor tensor, CUtensorMap* map) => throw new KernelsException(Status.Unsupported, Limits.Name, "has no tensor maps");

    /// <summary>Launches a kernel whose only parameter is the struct at <paramref name="args"/>.</summary>
    public abstract void Launch(nint function, in GpuGrid grid, nint stream, void* args, int argsBytes);

    protected abstract void Destroy(GpuObject kind, nint handle);

    /// <summary>
    /// Destroys now, or, for a finalizer, which must not wait for a device, when this device is next asked for memory. The stream is
    /// that of <see cref="GpuObject.OrderedMemory"/>.
    /// </summary>
    public void Release(GpuObject kind, nint handle, bool now, nint stream = 0)
    {
        if (!now)
        {
            _abandoned.Enqueue((kind, handle, stream));
            return;
        }
        if (kind == GpuObject.Stream) Sweep();  // before the stream that memory waits for
        if (kind != GpuObject.OrderedMemory) Destroy(kind, handle);
        else if (Fault is null) Free(handle, stream);
    }

    /// <summary>
    /// The same for a Dispose, which must not throw: what an earlier launch did wrong may show here, and is then this device's fault.
    /// </summary>
    public bool TryRelease(GpuObject kind, nint handle, bool now, nint stream = 0)
    {
        try
        {
            Release(kind, handle, now, stream);
            return true;
        }
        catch (KernelsException)
        {
            return false;
        }
    }

    /// <summary>Destroys what finalizers left.</summary>
    protected void Sweep()
    {
        while (_abandoned.TryDequeue(out (GpuObject Kind, nint Handle, nint Stream) left)) Release(left.Kind, left.Handle, now: true, left.Stream);
    }

    /// <summary>The module of a source file, loaded on first use and kept until Close. A load that fails is tried again by the next call.</summary>
    public nint Module(string file)
    {
        lock (_modules)
        {
            if (!_modules.TryGetValue(file, out nint module)) _modules.Add(file, module = LoadModule(file));
            return module;
        }
    }

    /// <summary>The pool of stream-ordered memory, made on first use and kept until Close.</summary>
    protected nint Pool()
    {
        lock (_modules) return _pool != 0 ? _pool : _pool = CreatePool();
    }

    /// <summary>A pool of our own keeps what is freed; the default one's settings are the process's.</summary>
    protected virtual nint CreatePool() => 0;

    /// <summary>Unloads the modules and ends the pool, while the context still is; what else was made here may still be released.</summary>
    public void Close()
    {
        lock (_modules)
        {
            if (_closed) return;
            _closed = true;
            foreach (nint module in _modules.Values) TryRelease(GpuObject.Module, module, now: true);
            if (_pool != 0) TryRelease(GpuObject.Pool, _pool, now: true);
        }
    }

    protected Image FindImage(string file) => Images.TryFind(file, Kind, Limits.Architecture, out Image? image, out string reason)
        ? image
        : throw new KernelsException(Status.Unsupported, Limits.Name, reason) { DeviceFailure = DeviceFailure.WrongImage };

    protected KernelsException NoPools(long bytes) =>
        new(Status.Unsupported, "workspace", $"the caller's own, of {bytes} bytes: {Limits.Name} has no stream-ordered memory");

    /// <summary>Throws if an earlier failure, or Close, has ended this device.</summary>
    protected void RequireSound()
    {
        if (_closed) throw new KernelsException(Status.Invalid, "device", "not disposed before its last use");
        if (Fault is { } fault)
            throw new KernelsException(Status.Device, Limits.Name, $"is faulted since {fault}; only a new process or, of a caller's context, a new context runs on it again")
            {
                DriverCode = _faultCode,
                DeviceFailure = DeviceFailure.Lost,
            };
    }

    /// <summary>The exception for a driver's code. Lost: the context, and so the device for this process.</summary>
    protected KernelsException Failure(Status status, string call, int code, string name, string sentence, DeviceFailure failure)
    {
        string text = string.Create(CultureInfo.InvariantCulture, $"{call}: {name} ({code}), {sentence}");
        if (failure == DeviceFailure.Lost && Fault is null) (_faultCode, Fault) = (code, text);
        return new KernelsException(status, Limits.Name, text) { DriverCode = code, DeviceFailure = failure };
    }
}
