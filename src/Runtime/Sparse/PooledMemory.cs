using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Native memory that goes back to a pool: a page that is touched for the first time costs as much as thousands of products.
/// Not zeroed. Large blocks are asked to be in huge pages. Blocks are found again by size, the smallest that fits; what the pool
/// keeps beyond its limit is freed. Memory of a GPU is not pooled, and read and written here word by word, behind all that runs.
/// </summary>
internal sealed unsafe class PooledMemory : SafeHandle
{
    /// <summary>Bytes of the smallest block.</summary>
    public const long Least = 64;

    private const long PooledFrom = 64 << 10, HugeFrom = 4 << 20, HugePage = 2 << 20;
    private static readonly Lock s_gate = new();
    private static readonly List<(nint At, long Bytes, long Used)> s_idle = [];
    private static long s_kept, s_asked, s_mostAsked;

    private readonly Device? _gpu;
    private readonly long _asked;
    private bool _disposing;

    private PooledMemory(nint at, long bytes, long used, long asked, Device? gpu = null) : base(0, true)
    {
        SetHandle(at);
        (_gpu, _asked) = (gpu, asked);
        Bytes = bytes;
        Used = used;
        long now = Interlocked.Add(ref s_asked, asked), most = Volatile.Read(ref s_mostAsked);
        while (now > most && Interlocked.CompareExchange(ref s_mostAsked, now, most) is var seen && seen != most) most = seen;
    }

    /// <summary>Where it is.</summary>
    public Device Device => _gpu ?? Device.Cpu;

    public long Bytes { get; }

    /// <summary>Bytes that were written at some time: what is beyond was only reserved and costs nothing.</summary>
    public long Used { get; private set; }

    public override bool IsInvalid => handle == 0;

    /// <summary>Bytes of memory that this process may use.</summary>
    public static long Available { get; } = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;

    /// <summary>Bytes that the pool keeps at most; a quarter of the memory that this process may use by default.</summary>
    public static long Limit { get; set; } = Available / 4;

    /// <summary>Bytes that the pool keeps now.</summary>
    public static long Kept
    {
        get { lock (s_gate) return s_kept; }
    }

    /// <summary>Bytes that were asked for and not given back, of every device: what budgets are about. Blocks may be larger, in pages that are never written.</summary>
    public static long Asked => Volatile.Read(ref s_asked);

    /// <summary>The most of them at a time since it was set.</summary>
    public static long MostAsked
    {
        get => Volatile.Read(ref s_mostAsked);
        set => Volatile.Write(ref s_mostAsked, value);
    }

    public byte* At => IsClosed ? throw new KernelsException(Status.Invalid, "matrix", "not disposed before its last use") : (byte*)handle;

    /// <summary>Memory on a device; of the host when null.</summary>
    public static PooledMemory Rent(long bytes, string what, Device? device = null)
    {
        long asked = bytes = Math.Max(bytes, Least);
        if (device?.Gpu is { } gpu) return new PooledMemory(gpu.Allocate(bytes), bytes, 0, asked, device);
        if (bytes >= PooledFrom)
        {
            // Steps of an eighth: a block serves the next product of about its size, too.
            long step = (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)bytes) / 16;
            bytes = (bytes + step - 1) / step * step;
        }
        if (Find(bytes, asked) is { } found) return found;
        bool huge = bytes >= HugeFrom;
        void* at;
        try
        {
            at = NativeMemory.AlignedAlloc((nuint)bytes, huge ? (nuint)HugePage : 64);
        }
        catch (OutOfMemoryException)
        {
            throw new KernelsException(Status.NoMemory, what, $"{bytes} bytes are not to be had");
        }
        // A hint: where it is refused the pages are small and everything works.
        if (huge && OperatingSystem.IsLinux()) _ = Memory.Madvise(at, (nuint)bytes, Memory.MadvHugepage);
        return new PooledMemory((nint)at, bytes, 0, asked);
    }

    private static PooledMemory? Find(long bytes, long asked)
    {
        if (bytes < PooledFrom) return null;
        lock (s_gate)
        {
            int best = -1;
            for (int i = 0; i < s_idle.Count; i++)
                if (s_idle[i].Bytes >= bytes && s_idle[i].Bytes <= 4 * bytes && (best < 0 || s_idle[i].Bytes < s_idle[best].Bytes)) best = i;
            if (best < 0) return null;
            (nint at, long size, long used) = s_idle[best];
            s_idle.RemoveAt(best);
            s_kept -= used;
            return new PooledMemory(at, size, used, asked);
        }
    }

    /// <summary>Word <paramref name="index"/>.</summary>
    public long this[long index]
    {
        get
        {
            long value = 0;
            if (_gpu is null) value = ((long*)At)[index];
            else Copy(GpuCopy.ToHost, (nint)(&value), (nint)((long*)At + index), sizeof(long));
            return value;
        }
        set
        {
            if (_gpu is null) ((long*)At)[index] = value;
            else Copy(GpuCopy.ToDevice, (nint)((long*)At + index), (nint)(&value), sizeof(long));
        }
    }

    /// <summary>Bytes of memory on one device in a new block on another; one of the two is the host, or both are one.</summary>
    public static PooledMemory CopyOf(void* from, long bytes, Device where, Device device, string what)
    {
        PooledMemory copy = Rent(bytes, what, device);
        copy.Touch(bytes);
        if (bytes == 0) return copy;
        if (device.Gpu is null && where.Gpu is null) Buffer.MemoryCopy(from, copy.At, bytes, bytes);
        else Copy(device.Gpu ?? where.Gpu!, device.Gpu is null ? GpuCopy.ToHost : where.Gpu is null ? GpuCopy.ToDevice : GpuCopy.OnDevice, (nint)copy.At, (nint)from, bytes);
        return copy;
    }

    private void Copy(GpuCopy direction, nint to, nint from, long bytes) => Copy(_gpu!.Gpu!, direction, to, from, bytes);

    private static void Copy(GpuDriver gpu, GpuCopy direction, nint to, nint from, long bytes)
    {
        gpu.Copy(direction, to, from, bytes, 0);
        gpu.Synchronize(0);
    }

    protected override void Dispose(bool disposing)
    {
        _disposing |= disposing;
        base.Dispose(disposing);
    }

    /// <summary>Tells how far the block was written.</summary>
    public void Touch(long bytes) => Used = Math.Max(Used, Math.Min(bytes, Bytes));

    /// <summary>Frees what the pool keeps.</summary>
    public static void Trim()
    {
        lock (s_gate)
        {
            foreach ((nint at, _, _) in s_idle) NativeMemory.AlignedFree((void*)at);
            s_idle.Clear();
            s_kept = 0;
        }
    }

    protected override bool ReleaseHandle()
    {
        Interlocked.Add(ref s_asked, -_asked);
        if (_gpu is not null) return _gpu.Gpu!.TryRelease(GpuObject.Memory, handle, _disposing);
        lock (s_gate)
        {
            if (Bytes >= PooledFrom && s_kept + Used <= Limit && s_idle.Count < 64)
            {
                s_idle.Add((handle, Bytes, Used));
                s_kept += Used;
                return true;
            }
        }
        NativeMemory.AlignedFree((void*)handle);
        return true;
    }
}
