using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A trial of a row of a GPU: the operands go there for one call and what it wrote comes back.</summary>
internal sealed unsafe partial class SpGemmTrial
{
    private KnStatus RunOnDevice(GpuRow row, in KnLaunch launch, KnSpgemmArgs args)
    {
        using var there = new DeviceCopies(row.Gpu);
        var outputs = new List<(GuardedMemory Here, nint There)>();
        long from = args.COffsets == null ? 0 : args.COffsets - (long*)_offsets.At;
        args.A = Put(there, args.A);
        args.B = Put(there, args.B);
        args.Mask = Put(there, args.Mask);
        args.D = Put(there, args.D);
        args.Products = (long*)Output(Memory(args.Products));
        args.Most = (long*)Output(Memory(args.Most));
        args.RowsDone = (long*)Output(Memory(args.RowsDone));
        args.COffsets = args.COffsets == null ? null : (long*)Output(_offsets) + from;
        args.CColumns = args.CColumns == null ? null : (void*)Output(_columns);
        args.CValues = args.CValues == null ? null : (void*)Output(_values);
        args.Workspace = there.Scratch(args.WorkspaceBytes);
        KnStatus status = row.Run(_problem, launch, &args, 0);
        if (status != KnStatus.Ok) return status;
        foreach ((GuardedMemory here, nint at) in outputs) there.Back(here.At, here.Bytes, (void*)at);
        return status;

        byte* Output(GuardedMemory memory)
        {
            byte* at = there.Put(memory.At, memory.Bytes);
            outputs.Add((memory, (nint)at));
            return at;
        }
    }

    private KnCsr Put(DeviceCopies there, in KnCsr x) => new() { Offsets = (long*)Put(there, x.Offsets), Columns = Put(there, x.Columns), Values = Put(there, x.Values) };

    private byte* Put(DeviceCopies there, void* at) => at == null ? null : there.Put(at, Memory(at).Bytes);

    private GuardedMemory Memory(void* at) => _owned.First(m => m.At == at);
}
