using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// What calls over a cache on a GPU share: the check, by a kernel, of lengths, page ids and masks that lie there, and two words in
/// which the device reports: rows that were done again, and the first call that was refused.
/// </summary>
internal sealed unsafe class AttentionDoor(Device device) : IDisposable
{
    private const string File = "attention_door_gpu";
    private const int Threads = 256;
    private readonly GpuKernel _kernel = new(device.RequireGpu(), File, File);

    /// <summary>[recomputed, fault].</summary>
    public Buffer<long> Report { get; } = Buffer<long>.Of(device, [0L, 0L]);

    /// <summary>Bytes of what takes the place of q_start, so that what follows them is aligned.</summary>
    public static long Bytes(int batch) => (4L * (batch + 1) + 63) / 64 * 64;

    /// <summary>Enqueues the check in front of a call, which then takes door.Checked for its q_start.</summary>
    public void Enqueue(KnAttentionDoor door, nint stream)
    {
        door.Fault = (uint*)(Report.Pointer + 1);
        _kernel.Launch(new GpuGrid(1, 1, 1, Threads), stream, door);
    }

    /// <summary>Rows that were done again so far; waits for the device.</summary>
    public long Recomputed()
    {
        Span<long> word = stackalloc long[1];
        Report.CopyTo(word);
        return word[0];
    }

    /// <summary>Waits for the stream and throws for the first call that was refused since the last time.</summary>
    public void ThrowIfRefused(Stream? stream)
    {
        Span<long> word = stackalloc long[1];
        Report.CopyTo(word, 1, stream);
        if (word[0] == 0) return;
        Report.CopyFrom([0L], 1, stream);
        int sequence = (int)(word[0] & 0xffffff);
        (string argument, string rule) = (KnAttentionDoorFault)(word[0] >> 24) switch
        {
            KnAttentionDoorFault.QStart => ("qStart", "ascending from 0 to the number of tokens, by at most MaxQLen"),
            KnAttentionDoorFault.KvLens => ("kvLens", "0, or the new tokens of an append, to what the plan and the pages hold"),
            KnAttentionDoorFault.KvLater => ("kvLater", "0 to 2^28 less the kvLens"),
            KnAttentionDoorFault.Pages => ("pages", "ids of pages that the cache has"),
            _ => ("tree", "the token's own bit and no later one"),
        };
        throw new KernelsException(Status.Invalid, argument, $"{rule}; sequence {sequence} of a call that the device refused and that wrote nothing breaks it");
    }

    public void Dispose() => Report.Dispose();
}
