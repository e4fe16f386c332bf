using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// kv_append/gpu: new tokens into the pages of a cache, by kv_append_gpu.h. The problem is that of the attention that follows,
/// with the type of the new tokens as q_type; args are a <see cref="KnKvAppend"/>, all of it on the device.
/// </summary>
internal sealed unsafe class KvAppendGpu : GpuRow
{
    private const string File = "kv_append_gpu";
    private const int HeadsOfBlock = 4, RestartThreads = 128;
    private readonly GpuKernel _append, _restart;

    public KvAppendGpu(GpuDriver gpu) : base(gpu, "kv_append/gpu", File, File) => (_append, _restart) = (Kernel(File), Kernel($"{File}_restart"));

    public override KnOp Op => KnOp.KvAppend;

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        ref readonly KnDecodeAttentionProblem p = ref *(KnDecodeAttentionProblem*)problem;
        why = p.QType is not ((int)DType.Float32 or (int)DType.BFloat16 or (int)DType.Float16) ? "new tokens of f32, bf16 or f16"
            : p.KvHeads is < 1 or > DecodeAttentionRules.MostHeads ? "1 <= p.KvHeads <= 2^16"
            : null;
        return why is null;
    }

    public override long Workspace(void* problem, in KnLaunch launch) => 0;

    protected override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnKvAppend a = ref *(KnKvAppend*)args;
        if (a.Tokens == 0) return;
        if (a.KeyNorms != null)
        {
            long blocks = ((long)a.Tokens * a.KvHeads + RestartThreads - 1) / RestartThreads;
            KernelsException.Require(blocks <= int.MaxValue, "k", $"tokens x KvHeads of at most 2^38, not {a.Tokens} x {a.KvHeads}");
            _restart.Launch(new GpuGrid((int)blocks, 1, 1, RestartThreads), stream, a);
        }
        _append.Launch(new GpuGrid(a.Tokens, (a.KvHeads + HeadsOfBlock - 1) / HeadsOfBlock, 1, HeadsOfBlock * Gpu.Limits.WaveSize), stream, a);
    }
}
