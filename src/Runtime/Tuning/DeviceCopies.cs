namespace Kernels.Tuning;

/// <summary>
/// Guarded memory on a GPU for one call. The simulated device checks every access, so there memory ends where it ends; elsewhere
/// the bands go along and come back.
/// </summary>
internal sealed unsafe class DeviceCopies(GpuDriver gpu) : IDisposable
{
    private readonly long _band = gpu.Kind == DeviceKind.Simulated ? 0 : GuardedMemory.Band;
    private readonly List<nint> _memory = [];
    private readonly Dictionary<nint, nint> _kept = [];
    private (nint At, long Bytes) _scratch;

    /// <summary>A copy of guarded memory at <paramref name="from"/>.</summary>
    public byte* Put(void* from, long bytes)
    {
        byte* to = Allocate(bytes + 2 * _band);
        if (bytes + 2 * _band > 0) gpu.Copy(GpuCopy.ToDevice, (nint)to, (nint)((byte*)from - _band), bytes + 2 * _band, 0);
        gpu.Synchronize(0);
        return to + _band;
    }

    /// <summary>The copy of guarded memory that was made when it was first asked for.</summary>
    public byte* Keep(void* from, long bytes)
    {
        if (!_kept.TryGetValue((nint)from, out nint to)) _kept.Add((nint)from, to = (nint)Put(from, bytes));
        return (byte*)to;
    }

    /// <summary>Makes a kept copy what the guarded memory now is.</summary>
    public void Renew(void* from, long bytes)
    {
        gpu.Copy(GpuCopy.ToDevice, (nint)(Keep(from, bytes) - _band), (nint)((byte*)from - _band), bytes + 2 * _band, 0);
        gpu.Synchronize(0);
    }

    /// <summary>One scratch for all calls that take turns.</summary>
    public byte* KeepScratch(long bytes)
    {
        if (_scratch.Bytes < bytes) _scratch = ((nint)Scratch(bytes), bytes);
        return (byte*)_scratch.At;
    }

    /// <summary>Memory that nothing has been written to; NaN where that is not noticed otherwise.</summary>
    public byte* Scratch(long bytes)
    {
        byte* at = Allocate(bytes);
        if (_band > 0 && bytes > 0) gpu.Fill((nint)at, 0xff, bytes, 0);
        return at;
    }

    /// <summary>Waits for the call and brings what <see cref="Put"/> took there back, with its bands.</summary>
    public void Back(byte* to, long bytes, void* from)
    {
        if (bytes + 2 * _band > 0) gpu.Copy(GpuCopy.ToHost, (nint)(to - _band), (nint)((byte*)from - _band), bytes + 2 * _band, 0);
        gpu.Synchronize(0);
    }

    private byte* Allocate(long bytes)
    {
        nint at = gpu.Allocate(Math.Max(bytes, 1));
        _memory.Add(at);
        return (byte*)at;
    }

    public void Dispose()
    {
        foreach (nint at in _memory) gpu.TryRelease(GpuObject.Memory, at, now: true);
    }
}
