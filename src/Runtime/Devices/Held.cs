using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Kernels;

/// <summary>Buffers that must outlive a call: each counts one more use until Dispose. At most twenty, held in place.</summary>
internal ref struct Held
{
    [InlineArray(20)]
    private struct Slots
    {
        private SafeHandle? _first;
    }

    private Slots _slots;
    private int _count;

    /// <exception cref="KernelsException">The buffer was disposed; <paramref name="argument"/> is blamed.</exception>
    public void Add(SafeHandle? handle, string argument)
    {
        if (handle is null) return;
        try
        {
            bool held = false;
            handle.DangerousAddRef(ref held);
        }
        catch (ObjectDisposedException)
        {
            throw new KernelsException(Status.Invalid, argument, argument == "plan" ? "a plan, and what it plans over, that were not disposed" : "one that was not disposed");
        }
        _slots[_count++] = handle;
    }

    public void Dispose()
    {
        while (_count > 0) _slots[--_count]!.DangerousRelease();
    }
}
