using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Memory of <typeparamref name="T"/> on a device. Of the host: 64-byte aligned (2 MiB and asked to be in huge pages from 4 MiB
/// on), zeroed by the system. Of a GPU: as its driver allocates it, not zeroed, reached by copies. Owns its memory unless made
/// by FromPointer. Dispose frees it once, however often it is called, and not before the last call that uses it has returned;
/// memory of a GPU is freed when what is enqueued on the device is done, or in the order of the stream that it was allocated on.
/// </summary>
public sealed unsafe partial class Buffer<T> : SafeHandle where T : unmanaged
{
    private const long HugeFrom = 4 << 20, HugePage = 2 << 20;
    private readonly bool _owner;
    private readonly Device? _gpu;  // null: the host
    private readonly Device? _pinned;  // whose driver allocated this memory of the host
    private readonly Stream? _stream;  // in whose order this memory ends
    private bool _disposing;

    private Buffer(void* pointer, long length, bool owner, Device? gpu = null, Device? pinned = null, Stream? stream = null) : base(0, true)
    {
        SetHandle((nint)pointer);
        Length = length;
        _owner = owner;
        (_gpu, _pinned, _stream) = (gpu, pinned, stream);
        if (owner && gpu is null && length > 0) GC.AddMemoryPressure(Bytes);
    }

    /// <summary>Where the memory is.</summary>
    public Device Device => _gpu ?? Device.Cpu;

    /// <summary>Elements.</summary>
    public long Length { get; }

    /// <summary>Bytes.</summary>
    public long Bytes => Length * sizeof(T);

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Allocates <paramref name="length"/> elements.</summary>
    /// <exception cref="KernelsException">A negative length, or no memory.</exception>
    public static Buffer<T> Allocate(long length)
    {
        long bytes = BytesOf(length);
        bool huge = bytes >= HugeFrom;
        void* pointer;
        try
        {
            pointer = NativeMemory.AlignedAlloc((nuint)bytes, huge ? (nuint)HugePage : 64);
        }
        catch (OutOfMemoryException)
        {
            throw new KernelsException(Status.NoMemory, nameof(length), $"{bytes} bytes are not to be had");
        }
        // A hint: where it is refused the pages are small and everything works.
        if (huge && OperatingSystem.IsLinux()) _ = Memory.Madvise(pointer, (nuint)bytes, Memory.MadvHugepage);
        NativeMemory.Clear(pointer, (nuint)bytes);
        return new Buffer<T>(pointer, length, owner: true);
    }

    /// <summary>Allocates <paramref name="length"/> elements on <paramref name="device"/>.</summary>
    /// <exception cref="KernelsException">A negative length, or no memory.</exception>
    public static Buffer<T> Allocate(Device device, long length)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Gpu is not { } gpu) return Allocate(length);
        return new Buffer<T>((void*)gpu.Allocate(BytesOf(length)), length, owner: true, device);
    }

    /// <summary>Allocates and copies <paramref name="values"/>.</summary>
    public static Buffer<T> Of(ReadOnlySpan<T> values) => Of(Device.Cpu, values);

    /// <summary>Allocates on <paramref name="device"/> and copies <paramref name="values"/>.</summary>
    public static Buffer<T> Of(Device device, ReadOnlySpan<T> values)
    {
        Buffer<T> buffer = Allocate(device, values.Length);
        buffer.CopyFrom(values);
        return buffer;
    }

    /// <summary>
    /// Memory of the caller's: it is used as it is and never freed here. It must stay valid as long as the buffer is used.
    /// </summary>
    public static Buffer<T> FromPointer(nint pointer, long length)
    {
        KernelsException.Require(pointer != 0 || length == 0, nameof(pointer), "not null");
        KernelsException.Require(length >= 0, nameof(length), $"0 <= length, not {length}");
        return new Buffer<T>((void*)pointer, length, owner: false);
    }

    /// <summary>
    /// Memory of the caller's on <paramref name="device"/>: a CUdeviceptr or HIP's address, of ManagedCuda (DevicePointer.Pointer),
    /// ILGPU (NativePtr), TorchSharp or an engine. Used as it is and never freed here.
    /// </summary>
    public static Buffer<T> FromPointer(Device device, nint pointer, long length)
    {
        ArgumentNullException.ThrowIfNull(device);
        Buffer<T> host = FromPointer(pointer, length);
        return device.Gpu is null ? host : new Buffer<T>((void*)pointer, length, owner: false, device);
    }

    /// <summary>
    /// Copies <paramref name="values"/> to the elements from <paramref name="offset"/> on, behind what is enqueued on the stream
    /// (null: the default one), and returns when they are there.
    /// </summary>
    /// <exception cref="KernelsException">Elements outside of the buffer, a disposed buffer, a failing device.</exception>
    public void CopyFrom(ReadOnlySpan<T> values, long offset = 0, Stream? stream = null)
    {
        T* to = Range(offset, values.Length, nameof(values));
        fixed (T* from = values)
        {
            if (_gpu is null) values.CopyTo(new Span<T>(to, values.Length));
            else Copy(GpuCopy.ToDevice, to, from, (long)values.Length * sizeof(T), stream);
        }
        GC.KeepAlive(this);
    }

    /// <summary>Copies the elements from <paramref name="offset"/> on to <paramref name="values"/>; otherwise as <see cref="CopyFrom"/>.</summary>
    public void CopyTo(Span<T> values, long offset = 0, Stream? stream = null)
    {
        T* from = Range(offset, values.Length, nameof(values));
        fixed (T* to = values)
        {
            if (_gpu is null) new ReadOnlySpan<T>(from, values.Length).CopyTo(values);
            else Copy(GpuCopy.ToHost, to, from, (long)values.Length * sizeof(T), stream);
        }
        GC.KeepAlive(this);
    }

    /// <summary>Copies bytes of any memory, and waits for them.</summary>
    internal void Copy(GpuCopy direction, void* to, void* from, long bytes, Stream? stream = null)
    {
        GpuDriver gpu = _gpu!.Gpu!;
        nint handle = On(_gpu, stream);
        if (bytes == 0) return;
        gpu.Copy(direction, (nint)to, (nint)from, bytes, handle);
        gpu.Synchronize(handle);
        GC.KeepAlive(this);
    }

    private T* Range(long offset, long count, string name)
    {
        KernelsException.Require(offset >= 0 && count >= 0 && count <= Length - offset, name, $"elements inside the buffer of {Length}, not {count} from {offset} on");
        return Pointer + offset;
    }

    /// <summary>The elements, of which a span can hold 2^31 - 1. Valid while the buffer is referenced and not disposed.</summary>
    /// <exception cref="KernelsException">The buffer was disposed, is too long for a span, or is a GPU's.</exception>
    public Span<T> Span
    {
        get
        {
            if (_gpu is not null) throw new KernelsException(Status.Invalid, nameof(Span), $"memory of the host, not of {_gpu}: CopyTo brings it there");
            KernelsException.Require(Length <= int.MaxValue, nameof(Span), $"at most 2^31 - 1 elements, not {Length}");
            return new Span<T>(Pointer, (int)Length);
        }
    }

    /// <summary>The address of the first element, on the device.</summary>
    /// <exception cref="KernelsException">The buffer was disposed.</exception>
    public T* Pointer
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            if (IsClosed) Closed();
            return (T*)handle;
        }
    }

    private static void Closed() => throw new KernelsException(Status.Invalid, "buffer", "not disposed before its last use");

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _disposing |= disposing;
        base.Dispose(disposing);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        if (!_owner) return true;
        if (_gpu is null && Length > 0) GC.RemoveMemoryPressure(Bytes);
        if ((_gpu ?? _pinned)?.Gpu is { } gpu) return ReleaseTo(gpu);
        NativeMemory.AlignedFree((void*)handle);
        return true;
    }
}
