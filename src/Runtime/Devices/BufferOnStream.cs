using System.Runtime.InteropServices;

namespace Kernels;

/// <summary>What is enqueued: memory in the order of a stream, and fills and copies that the host does not wait for.</summary>
public sealed unsafe partial class Buffer<T>
{
    /// <summary>
    /// Allocates <paramref name="length"/> elements on the stream's device, in the stream's order: for what is enqueued there from
    /// now on, and after events of it elsewhere. Dispose ends the memory in the same order and waits for nothing; the stream
    /// is destroyed after the last of its buffers. Part of a graph where the stream is being captured.
    /// </summary>
    /// <exception cref="KernelsException">A negative length, no memory, a disposed stream, or a device without such memory.</exception>
    public static Buffer<T> Allocate(Stream stream, long length)
    {
        ArgumentNullException.ThrowIfNull(stream);
        nint order = stream.Handle;
        GpuDriver gpu = stream.Device.Gpu!;
        long bytes = BytesOf(length);
        if (!gpu.Limits.Pools) throw new KernelsException(Status.Unsupported, nameof(stream), $"of a device with stream-ordered memory, which {stream.Device} has not");
        bool held = false;
        stream.DangerousAddRef(ref held);
        try
        {
            return new Buffer<T>((void*)gpu.Allocate(bytes, order), length, owner: true, stream.Device, stream: stream);
        }
        catch (KernelsException)
        {
            stream.DangerousRelease();
            throw;
        }
    }

    /// <summary>
    /// Allocates <paramref name="length"/> elements of the host's memory, zeroed, that <paramref name="device"/> copies from and to where they lie
    /// (page-locked): what <see cref="EnqueueCopyFrom"/> needs to return before the copy is done. Dispose it after the stream has been
    /// waited for. Of the CPU: as Allocate.
    /// </summary>
    /// <exception cref="KernelsException">A negative length, no memory, or a lost device.</exception>
    public static Buffer<T> AllocatePinned(Device device, long length)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Gpu is not { } gpu) return Allocate(length);
        long bytes = BytesOf(length);
        void* pointer = (void*)gpu.AllocateHost(bytes);
        NativeMemory.Clear(pointer, (nuint)bytes);
        return new Buffer<T>(pointer, length, owner: true, pinned: device);
    }

    /// <summary>
    /// Copies <paramref name="count"/> elements of <paramref name="source"/>, from <paramref name="sourceOffset"/> on, to those from
    /// <paramref name="offset"/> on, behind what is enqueued on the stream, and returns: within a GPU's memory, or between it and
    /// the host's, which must stay, and stay as it is, until the stream has been waited for. The host goes on during the copy if its memory
    /// is of <see cref="AllocatePinned"/>. Between two buffers of the host it is done at once.
    /// </summary>
    /// <param name="source">Memory of the host or of this buffer's GPU; its elements do not overlap the target's.</param>
    /// <param name="offset">First element here.</param>
    /// <param name="sourceOffset">First element of the source.</param>
    /// <param name="count">Elements; null: all of the source from <paramref name="sourceOffset"/> on.</param>
    /// <param name="stream">A stream of the GPU; null: its default one.</param>
    /// <exception cref="KernelsException">Elements outside of a buffer, or in both; another device; a disposed buffer; a failing device.</exception>
    public void EnqueueCopyFrom(Buffer<T> source, long offset = 0, long sourceOffset = 0, long? count = null, Stream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        long elements = count ?? source.Length - sourceOffset, bytes = elements * sizeof(T);
        T* from = source.Range(sourceOffset, elements, nameof(source)), to = Range(offset, elements, nameof(source));
        KernelsException.Require(from + elements <= to || to + elements <= from, nameof(source), "elements that are none of the target's");
        Device device = _gpu ?? source._gpu ?? Device.Cpu;
        KernelsException.Require(source._gpu?.Shares(device) != false, nameof(source), $"memory of {device} or of the host, not of {source.Device}");
        nint order = On(device, stream);
        if (elements == 0) return;
        if (device.Gpu is { } gpu) gpu.Copy(_gpu is null ? GpuCopy.ToHost : source._gpu is null ? GpuCopy.ToDevice : GpuCopy.OnDevice, (nint)to, (nint)from, bytes, order);
        else System.Buffer.MemoryCopy(from, to, bytes, bytes);
        GC.KeepAlive(this);
        GC.KeepAlive(source);
    }

    /// <summary>Makes every byte 0; otherwise as <see cref="Fill"/>.</summary>
    public void Clear(Stream? stream = null) => Fill(default, stream: stream);

    /// <summary>
    /// Makes <paramref name="count"/> elements from <paramref name="offset"/> on, null: all that follow, equal to <paramref name="value"/>: on a GPU behind what
    /// is enqueued on the stream, null for the default one, without waiting; of the host at once. A GPU takes values that repeat the same 1, 2 or
    /// 4 bytes: all of types of those sizes, and 0.
    /// </summary>
    /// <exception cref="KernelsException">Elements outside of the buffer, a value that no GPU fills with, a stream of another device, a disposed buffer, a failing device.</exception>
    public void Fill(T value, long offset = 0, long? count = null, Stream? stream = null)
    {
        long elements = count ?? Length - offset;
        T* at = Range(offset, elements, nameof(count));
        nint order = On(Device, stream);
        if (_gpu is null)
        {
            for (; elements > 0; elements -= int.MaxValue, at += int.MaxValue) new Span<T>(at, (int)Math.Min(elements, int.MaxValue)).Fill(value);
            return;
        }
        var bytes = new ReadOnlySpan<byte>(&value, sizeof(T));
        int width = 1;
        // Bytes repeat every so many if they are those behind them.
        while (width <= 4 && (bytes.Length % width != 0 || !bytes[width..].SequenceEqual(bytes[..^width]))) width *= 2;
        if (width > 4) throw new KernelsException(Status.Unsupported, nameof(value), $"one that repeats the same 1, 2 or 4 bytes, on {_gpu}");
        uint pattern = 0;
        bytes[..width].CopyTo(new Span<byte>(&pattern, sizeof(uint)));
        if (elements > 0) _gpu.Gpu!.Fill((nint)at, pattern, width, elements * sizeof(T), order);
        GC.KeepAlive(this);
    }

    private static long BytesOf(long length)
    {
        KernelsException.Require(length >= 0 && length <= long.MaxValue / sizeof(T), nameof(length), $"0 <= length, not {length}");
        return Math.Max(length * sizeof(T), 1);
    }

    /// <summary>The handle of a stream, null for the default one, that must be the device's.</summary>
    private static nint On(Device device, Stream? stream)
    {
        if (stream is null) return 0;
        KernelsException.Require(stream.Device.Shares(device), nameof(stream), $"a stream of {device}, not of {stream.Device}");
        return stream.Handle;
    }

    private bool ReleaseTo(GpuDriver gpu)
    {
        if (_stream is null) return gpu.TryRelease(_pinned is null ? GpuObject.Memory : GpuObject.HostMemory, handle, _disposing);
        bool released = gpu.TryRelease(GpuObject.OrderedMemory, handle, _disposing, _stream.Handle);
        _stream.Release(_disposing);
        return released;
    }
}
