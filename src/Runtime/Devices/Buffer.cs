using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Host memory of <typeparamref name="T"/>, 64-byte aligned (2 MiB and asked to be in huge pages from 4 MiB on), zeroed by
/// the system. Owns its memory unless made by <see cref="FromPointer"/>. Dispose frees it once, however often it is called,
/// and not before the last call that uses it has returned.
/// </summary>
public sealed unsafe class Buffer<T> : SafeHandle where T : unmanaged
{
    private const long HugeFrom = 4 << 20, HugePage = 2 << 20;
    private readonly bool _owner;

    private Buffer(void* pointer, long length, bool owner) : base(0, true)
    {
        SetHandle((nint)pointer);
        Length = length;
        _owner = owner;
        if (owner && length > 0) GC.AddMemoryPressure(Bytes);
    }

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
        KernelsException.Require(length >= 0 && length <= long.MaxValue / sizeof(T), nameof(length), $"0 <= length, not {length}");
        long bytes = Math.Max(length * sizeof(T), 1);
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

    /// <summary>Allocates and copies <paramref name="values"/>.</summary>
    public static Buffer<T> Of(ReadOnlySpan<T> values)
    {
        Buffer<T> buffer = Allocate(values.Length);
        values.CopyTo(buffer.Span);
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

    /// <summary>The elements, of which a span can hold 2^31 - 1.</summary>
    /// <exception cref="KernelsException">The buffer was disposed or is too long for a span.</exception>
    public Span<T> Span
    {
        get
        {
            KernelsException.Require(Length <= int.MaxValue, nameof(Span), $"at most 2^31 - 1 elements, not {Length}");
            return new Span<T>(Pointer, (int)Length);
        }
    }

    /// <summary>The address of the first element.</summary>
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
    protected override bool ReleaseHandle()
    {
        if (!_owner) return true;
        NativeMemory.AlignedFree((void*)handle);
        if (Length > 0) GC.RemoveMemoryPressure(Bytes);
        return true;
    }
}
