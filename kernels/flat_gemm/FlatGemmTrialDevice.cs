using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A trial of a row of a GPU: the operands go there for one call and what it wrote comes back, so that Check sees it.</summary>
internal unsafe partial class FlatGemmTrial
{
    private KnStatus RunOnDevice(GpuRow row, in KnLaunch launch, KnFlatGemmArgs args, Call call)
    {
        using var there = new DeviceCopies(row.Gpu);
        byte* y = (byte*)args.Y;
        bool inPlace = args.Residual == args.Y;
        args.X = Put(there, args.X);
        args.XScales = (float*)Put(there, args.XScales);
        args.W = Put(there, args.W);
        args.Packed = Put(there, args.Packed);
        args.Scales = (float*)Put(there, args.Scales);
        args.Zeros = (byte*)Put(there, args.Zeros);
        args.Bias = (float*)Put(there, args.Bias);
        args.Y = Put(there, args.Y);
        args.Residual = inPlace ? args.Y : Put(there, args.Residual);
        args.Workspace = there.Scratch(call.WorkspaceBytes);
        KnStatus status = RunRow(row, launch, args, there);
        if (status == KnStatus.Ok) there.Back(y, _y.Bytes, args.Y);
        return status;
    }

    private protected byte* Put(DeviceCopies there, void* at)
    {
        if (at == null) return null;
        foreach (GuardedMemory memory in _owned)
            if (memory.At == at) return there.Put(at, memory.Bytes);
        throw new InvalidOperationException("an operand that is no trial's");
    }
}
