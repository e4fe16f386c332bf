namespace Kernels;

/// <summary>
/// Scratch of the calls of one plan on the CPU: a caller takes a buffer that no other holds, and one that finds none adds one. They are
/// kept, so that there are as many as callers at the same time, and a call allocates nothing. No locks: the list only grows.
/// </summary>
internal sealed class Workspaces(long bytes) : IDisposable
{
    /// <summary>A buffer, and whether a call has it.</summary>
    internal sealed class Slot(long bytes)
    {
        public readonly Buffer<byte> Buffer = Buffer<byte>.Allocate(bytes);
        public Slot? Next;
        private int _taken = 1;

        public bool TryTake() => Volatile.Read(ref _taken) == 0 && Interlocked.Exchange(ref _taken, 1) == 0;

        public void Return() => Interlocked.Exchange(ref _taken, 0);
    }

    private Slot _first = Returned(new Slot(bytes));
    private volatile bool _disposed;

    private static Slot Returned(Slot slot)
    {
        slot.Return();
        return slot;
    }

    /// <summary>Buffers there are.</summary>
    internal int Count
    {
        get
        {
            int count = 0;
            for (Slot? s = Volatile.Read(ref _first); s is not null; s = s.Next) count++;
            return count;
        }
    }

    /// <exception cref="KernelsException">The plan was disposed.</exception>
    public void ThrowIfDisposed() => KernelsException.Require(!_disposed, "plan", "a plan that was not disposed");

    /// <inheritdoc cref="ThrowIfDisposed"/>
    public Slot Take()
    {
        ThrowIfDisposed();
        for (Slot? s = Volatile.Read(ref _first); s is not null; s = s.Next)
            if (s.TryTake()) return s;
        var added = new Slot(bytes);
        do added.Next = Volatile.Read(ref _first);
        while (Interlocked.CompareExchange(ref _first, added, added.Next) != added.Next);
        return added;
    }

    public void Return(Slot slot)
    {
        slot.Return();
        if (_disposed && slot.TryTake()) slot.Buffer.Dispose();
    }

    /// <summary>Frees what no call has; the others are freed as they return.</summary>
    public void Dispose()
    {
        _disposed = true;
        Interlocked.MemoryBarrier();
        for (Slot? s = Volatile.Read(ref _first); s is not null; s = s.Next)
            if (s.TryTake()) s.Buffer.Dispose();
    }
}
