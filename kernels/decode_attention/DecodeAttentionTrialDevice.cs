using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A trial of a row of a GPU: the operands go there for one call and what it wrote comes back, so that Check sees it.</summary>
internal sealed unsafe partial class DecodeAttentionTrial
{
    private DeviceCopies? _there;

    /// <summary>Enqueues a row that was prepared, maybe before others were, on operands that came there with their first call and stay: what is timed.</summary>
    public KnStatus TurnThere(GpuRow row, in KnLaunch launch, int copy, nint stream)
    {
        _there ??= new DeviceCopies(row.Gpu);
        KnDecodeAttentionArgs args = On(Call(copy), _there.Keep);
        args.WorkspaceBytes = _workspace.Bytes;
        args.Workspace = _there.KeepScratch(_workspace.Bytes);
        return row.Run(_problem, launch, &args, stream);
    }

    /// <summary>Brings what the last <see cref="TurnThere"/> wrote back, so that Check sees it.</summary>
    public void Fetch()
    {
        foreach (GuardedMemory written in (GuardedMemory[])[_out, _lse, _recomputed]) _there!.Back(written.At, written.Bytes, _there.Keep(written.At, written.Bytes));
    }

    /// <summary>Poisons there too what a call writes.</summary>
    public void PoisonThere()
    {
        Poison();
        foreach (GuardedMemory written in (GuardedMemory[])[_out, _lse, _recomputed]) _there!.Renew(written.At, written.Bytes);
    }

    private delegate byte* Copier(void* from, long bytes);

    private KnDecodeAttentionArgs On(KnDecodeAttentionArgs args, Copier copy)
    {
        args.QStart = (int*)Copied(args.QStart, copy);
        args.KvLens = (int*)Copied(args.KvLens, copy);
        args.KvLater = (int*)Copied(args.KvLater, copy);
        args.Pages = (int*)Copied(args.Pages, copy);
        args.Q = Copied(args.Q, copy);
        args.K = Copied(args.K, copy);
        args.V = Copied(args.V, copy);
        args.KScales = (float*)Copied(args.KScales, copy);
        args.VScales = (float*)Copied(args.VScales, copy);
        args.KeyNorms = (float*)Copied(args.KeyNorms, copy);
        args.Phi = (float*)Copied(args.Phi, copy);
        args.Alibi = (float*)Copied(args.Alibi, copy);
        args.Sinks = (float*)Copied(args.Sinks, copy);
        args.Tree = (uint*)Copied(args.Tree, copy);
        args.Out = Copied(args.Out, copy);
        args.Lse = (float*)Copied(args.Lse, copy);
        args.Recomputed = (long*)Copied(args.Recomputed, copy);
        return args;
    }

    /// <summary>A call whose arguments lie on a device.</summary>
    internal delegate KnStatus DeviceCall(KnDecodeAttentionArgs args);

    private KnStatus RunOnDevice(GpuRow row, in KnLaunch launch, KnDecodeAttentionArgs args)
    {
        KnLaunch l = launch;
        return RunThere(row.Gpu, args, a => row.Run(_problem, l, &a, 0));
    }

    /// <summary>Runs something else than a row, such as a plan, on the operands.</summary>
    internal KnStatus RunThere(GpuDriver gpu, DeviceCall call) => RunThere(gpu, _args, call);

    private KnStatus RunThere(GpuDriver gpu, KnDecodeAttentionArgs args, DeviceCall call)
    {
        using var there = new DeviceCopies(gpu);
        void* @out = args.Out, lse = args.Lse, recomputed = args.Recomputed;
        args = On(args, there.Put);
        args.Workspace = there.Scratch(args.WorkspaceBytes);
        KnStatus status = call(args);
        if (status != KnStatus.Ok) return status;
        there.Back((byte*)@out, _out.Bytes, args.Out);
        if (lse != null) there.Back((byte*)lse, _lse.Bytes, args.Lse);
        there.Back((byte*)recomputed, _recomputed.Bytes, args.Recomputed);
        return status;
    }

    private byte* Copied(void* at, Copier copy)
    {
        if (at == null) return null;
        foreach (GuardedMemory memory in _owned)
            if (memory.At == at) return copy(at, memory.Bytes);
        throw new InvalidOperationException("an operand that is no trial's");
    }
}
