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
        args.X = Keep(args.X);
        args.XScales = (float*)Keep(args.XScales);
        args.W = Keep(args.W);
        args.Packed = Keep(args.Packed);
        args.Scales = (float*)Keep(args.Scales);
        args.Zeros = (byte*)Keep(args.Zeros);
        args.Bias = (float*)Keep(args.Bias);
        args.Y = Keep(args.Y);
        args.Residual = Keep(args.Residual);
        args.Workspace = _there.KeepScratch(args.WorkspaceBytes);
        return row.Run(_problem, launch, &args, stream);
    }

    /// <summary>Brings y of the last <see cref="RunThere"/> back, so that Check sees it.</summary>
    public void Fetch() => _there!.Back(_y.At, _y.Bytes, _there.Keep(_y.At, _y.Bytes));

    /// <summary>Poisons y there too.</summary>
    public void PoisonThere()
    {
        Poison();
        _there!.Renew(_y.At, _y.Bytes);
    }

    private byte* Keep(void* at) => at == null ? null : _there!.Keep(at, BytesOf(at));

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

    private protected byte* Put(DeviceCopies there, void* at) => at == null ? null : there.Put(at, BytesOf(at));
}
