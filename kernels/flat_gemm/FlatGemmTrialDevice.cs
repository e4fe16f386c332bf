using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A trial of a row of a GPU: the operands go there for one call and what it wrote comes back, so that Check sees it.</summary>
internal unsafe partial class FlatGemmTrial
{
    private DeviceCopies? _there;

    /// <summary>Enqueues a prepared row on operands that came there with their first call and stay: what is timed. Copies nothing and waits for nothing after it.</summary>
    public KnStatus RunThere(GpuRow row, in KnLaunch launch, int m, int copy, nint stream)
    {
        Call call = _last is { } last && Is(last, row, launch) ? last : Find(row, launch) ?? throw new InvalidOperationException($"{row.Name} is not prepared");
        _last = call;
        _there ??= new DeviceCopies(row.Gpu);
        KnFlatGemmArgs args = ArgsOf(call, m, copy);
        args = On(args, _there);
        args.Workspace = _there.KeepScratch(args.WorkspaceBytes);
        return RunRow(row, launch, args, _there, stream);
    }

    /// <summary>The operands there as they are, with a copy of the weights, for what is no row of ours.</summary>
    public KnFlatGemmArgs OperandsThere(GpuDriver gpu, int copy)
    {
        _there ??= new DeviceCopies(gpu);
        CopyWeights();
        KnFlatGemmArgs args = _args;
        if (copy > 0) args.W = _raw![copy - 1].At;
        return On(args, _there);
    }

    /// <summary>Brings y of the last <see cref="RunThere"/> back, so that Check sees it.</summary>
    public void Fetch() => _there!.Back(_y.At, _y.Bytes, _there.Keep(_y.At, _y.Bytes));

    /// <summary>Poisons y there too.</summary>
    public void PoisonThere()
    {
        Poison();
        _there!.Renew(_y.At, _y.Bytes);
    }

    /// <summary>A residual in place is y's own copy.</summary>
    private KnFlatGemmArgs On(KnFlatGemmArgs args, DeviceCopies there)
    {
        args.X = Keep(there, args.X);
        args.XScales = (float*)Keep(there, args.XScales);
        args.W = Keep(there, args.W);
        args.Packed = Keep(there, args.Packed);
        args.Scales = (float*)Keep(there, args.Scales);
        args.Zeros = (byte*)Keep(there, args.Zeros);
        args.Bias = (float*)Keep(there, args.Bias);
        args.Y = Keep(there, args.Y);
        args.Residual = Keep(there, args.Residual);
        return args;
    }

    private long BytesOf(void* at)
    {
        foreach (GuardedMemory memory in _owned)
            if (memory.At == at) return memory.Bytes;
        throw new InvalidOperationException("an operand that is no trial's");
    }

    private KnStatus RunOnDevice(GpuRow row, in KnLaunch launch, KnFlatGemmArgs args, Call call)
    {
        using var there = new DeviceCopies(row.Gpu);
        byte* y = (byte*)args.Y;
        args = On(args, there);
        args.Workspace = there.Scratch(call.WorkspaceBytes);
        KnStatus status = RunRow(row, launch, args, there);
        if (status == KnStatus.Ok) there.Back(y, _y.Bytes, args.Y);
        return status;
    }

    private protected byte* Keep(DeviceCopies there, void* at) => at == null ? null : there.Keep(at, BytesOf(at));
}
