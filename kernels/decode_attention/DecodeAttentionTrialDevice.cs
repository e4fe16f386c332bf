using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A trial of a row of a GPU: the operands go there for one call and what it wrote comes back, so that Check sees it.</summary>
internal sealed unsafe partial class DecodeAttentionTrial
{
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
        args.QStart = (int*)Put(there, args.QStart);
        args.KvLens = (int*)Put(there, args.KvLens);
        args.Pages = (int*)Put(there, args.Pages);
        args.Q = Put(there, args.Q);
        args.K = Put(there, args.K);
        args.V = Put(there, args.V);
        args.KScales = (float*)Put(there, args.KScales);
        args.VScales = (float*)Put(there, args.VScales);
        args.KeyNorms = (float*)Put(there, args.KeyNorms);
        args.Phi = (float*)Put(there, args.Phi);
        args.Alibi = (float*)Put(there, args.Alibi);
        args.Sinks = (float*)Put(there, args.Sinks);
        args.Tree = (uint*)Put(there, args.Tree);
        args.Out = Put(there, args.Out);
        args.Lse = (float*)Put(there, args.Lse);
        args.Recomputed = (long*)Put(there, args.Recomputed);
        args.Workspace = there.Scratch(args.WorkspaceBytes);
        KnStatus status = call(args);
        if (status != KnStatus.Ok) return status;
        there.Back((byte*)@out, _out.Bytes, args.Out);
        if (lse != null) there.Back((byte*)lse, _lse.Bytes, args.Lse);
        there.Back((byte*)recomputed, _recomputed.Bytes, args.Recomputed);
        return status;
    }

    private byte* Put(DeviceCopies there, void* at)
    {
        if (at == null) return null;
        foreach (GuardedMemory memory in _owned)
            if (memory.At == at) return there.Put(at, memory.Bytes);
        throw new InvalidOperationException("an operand that is no trial's");
    }
}
