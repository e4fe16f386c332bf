using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// merge_states/gpu: results over disjoint keys joined by their lse, by merge_states_gpu.h. Of the problem q_type is the type of the
/// parts and out_type that of the result; batch counts rows. Args are a <see cref="KnMergeStates"/>.
/// </summary>
internal sealed unsafe class MergeStatesGpu : GpuRow
{
    private const string File = "merge_states_gpu";
    private readonly GpuKernel _merge;

    public MergeStatesGpu(GpuDriver gpu) : base(gpu, "merge_states/gpu", File, File) => _merge = Kernel(File);

    public override KnOp Op => KnOp.MergeStates;

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        ref readonly KnDecodeAttentionProblem p = ref *(KnDecodeAttentionProblem*)problem;
        why = Takes(p.QType) && Takes(p.OutType) ? null : "parts and result of f32, bf16 or f16";
        return why is null;

        static bool Takes(int type) => type is (int)DType.Float32 or (int)DType.BFloat16 or (int)DType.Float16;
    }

    public override long Workspace(void* problem, in KnLaunch launch) => 0;

    protected override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        int rows = ((KnDecodeAttentionProblem*)problem)->Batch;
        if (rows > 0) _merge.Launch(new GpuGrid(rows, 1, 1, 128), stream, *(KnMergeStates*)args);
    }
}
