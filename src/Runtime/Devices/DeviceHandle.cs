using System.Runtime.InteropServices;

namespace Kernels;

/// <summary>
/// Something of a GPU's driver: a stream, an event, a graph. Dispose destroys it once; a finalizer leaves that to the device's
/// next allocation, because it must not wait for a device. What came from outside is never destroyed.
/// </summary>
public abstract class DeviceHandle : SafeHandle
{
    private readonly GpuObject _kind;
    private bool _disposing;

    private protected DeviceHandle(Device device, GpuObject kind, nint handle, bool owner) : base(0, owner)
    {
        (Device, _kind) = (device, kind);
        SetHandle(handle);
    }

    /// <summary>The device.</summary>
    public Device Device { get; }

    /// <summary>The driver's handle: CUstream, CUevent, CUgraphExec, or HIP's.</summary>
    /// <exception cref="KernelsException">It was disposed.</exception>
    public nint Handle => IsClosed ? throw new KernelsException(Status.Invalid, GetType().Name, "not disposed before its last use") : handle;

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    private protected GpuDriver Gpu => Device.Gpu!;

    /// <summary>A caller's handle on a GPU, as it is.</summary>
    private protected static nint Checked(Device device, nint handle)
    {
        ArgumentNullException.ThrowIfNull(device);
        _ = device.RequireGpu();
        KernelsException.Require(handle != 0, nameof(handle), "not null");
        return handle;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _disposing |= disposing;
        base.Dispose(disposing);
    }

    /// <summary>Ends one use, of memory in a stream's order; the last one, from a finalizer, leaves the handle to the device as well.</summary>
    internal void Release(bool disposing)
    {
        _disposing &= disposing;
        DangerousRelease();
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => Gpu.TryRelease(_kind, handle, _disposing);
}

/// <summary>
/// An order of work on a GPU. The default stream of a device, which null stands for wherever a stream is asked for, waits for
/// all others and they for it, as in CUDA.
/// </summary>
/// <remarks>With implicit usings the name is System.IO's as well: <c>using Stream = Kernels.Stream;</c>.</remarks>
public sealed class Stream : DeviceHandle
{
    internal Stream(Device device, nint handle, bool owner) : base(device, GpuObject.Stream, handle, owner)
    {
    }

    /// <summary>
    /// A stream of the caller's, a CUstream or hipStream_t of ManagedCuda, ILGPU, TorchSharp or an engine: used as it is, never
    /// destroyed. 0 is the default stream.
    /// </summary>
    public static Stream FromHandle(Device device, nint handle)
    {
        ArgumentNullException.ThrowIfNull(device);
        _ = device.RequireGpu();
        return new Stream(device, handle, owner: false);
    }

    /// <summary>Waits until everything enqueued so far is done.</summary>
    /// <exception cref="KernelsException">Something of it failed; <see cref="Device.Fault"/> then says whether the device is lost.</exception>
    public void Synchronize() => Gpu.Synchronize(Handle);

    /// <summary>What is enqueued from now on starts after <paramref name="ev"/>.</summary>
    public void Wait(Event ev)
    {
        ArgumentNullException.ThrowIfNull(ev);
        Gpu.Wait(Handle, ev.Handle);
    }

    /// <summary>
    /// Runs <paramref name="enqueue"/>, whose work on this stream is kept instead of done, and gives it as a graph. What it uses,
    /// memory and plans, must stay for as long as the graph is launched. Not for the default stream.
    /// </summary>
    /// <exception cref="KernelsException">Something that cannot be captured, such as waiting for the stream.</exception>
    public Graph Capture(Action enqueue)
    {
        ArgumentNullException.ThrowIfNull(enqueue);
        Gpu.BeginCapture(Handle);
        bool done = false;
        try
        {
            enqueue();
            done = true;
        }
        finally
        {
            // A capture that is given up must end too, or the stream stays useless; its own failure then hides no other.
            if (!done) Abandon();
        }
        return new Graph(Device, Gpu.EndCapture(Handle), owner: true);
    }

    private void Abandon()
    {
        try
        {
            Gpu.Release(GpuObject.Graph, Gpu.EndCapture(Handle), now: true);
        }
        catch (KernelsException)
        {
            // The driver has invalidated the capture already, for the reason that is on its way to the caller.
        }
    }
}

/// <summary>A point in a stream's work, with its time.</summary>
public sealed class Event : DeviceHandle
{
    private Event(Device device, nint handle, bool owner) : base(device, GpuObject.Event, handle, owner)
    {
    }

    /// <summary>An event of the caller's, a CUevent or hipEvent_t: used as it is, never destroyed. One made without a time has none.</summary>
    public static Event FromHandle(Device device, nint handle) => new(device, Checked(device, handle), owner: false);

    /// <summary>A new event.</summary>
    public static Event Create(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return new Event(device, device.RequireGpu().CreateEvent(), owner: true);
    }

    /// <summary>Puts the event behind everything enqueued so far on the stream, null for the default one.</summary>
    public void Record(Stream? stream = null) => Gpu.Record(Handle, stream?.Handle ?? 0);

    /// <summary>Waits for it.</summary>
    public void Synchronize() => Gpu.SynchronizeEvent(Handle);

    /// <summary>Milliseconds from <paramref name="start"/> to this event; both must have happened.</summary>
    public double MillisecondsSince(Event start)
    {
        ArgumentNullException.ThrowIfNull(start);
        return Gpu.Elapsed(start.Handle, Handle);
    }
}

/// <summary>Captured work of a stream, launched again as often as wanted at the cost of one call.</summary>
public sealed class Graph : DeviceHandle
{
    internal Graph(Device device, nint handle, bool owner) : base(device, GpuObject.Graph, handle, owner)
    {
    }

    /// <summary>An executable graph of the caller's, a CUgraphExec or hipGraphExec_t: used as it is, never destroyed.</summary>
    public static Graph FromHandle(Device device, nint handle) => new(device, Checked(device, handle), owner: false);

    /// <summary>Enqueues the work on the stream, null for the default one.</summary>
    public void Launch(Stream? stream = null) => Gpu.LaunchGraph(Handle, stream?.Handle ?? 0);
}
