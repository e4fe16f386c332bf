using System.Diagnostics.CodeAnalysis;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// sparse_linear in plain C#: takes every problem, runs on every machine, reads the packed layout of the native rows. A task is
/// a panel of 16 outputs (gated: two); blocks of 64 k are expanded to f32 and every row of x passes over them.
/// </summary>
internal sealed unsafe class SparseLinearManaged : Row
{
    [ThreadStatic] private static string? t_argument;
    [ThreadStatic] private static string? t_rule;

    public override string Name => "sparse_linear/managed";

    public override KnOp Op => KnOp.SparseLinear;

    public override string? Bits => "managed";

    public override string LastError => t_argument is null ? t_rule ?? "" : $"{t_argument}: requires {t_rule}";

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        why = problem == null ? "problem != null"
            : launch.Size != sizeof(KnLaunch) ? "launch.Size == sizeof(KnLaunch)"
            : ((ReadOnlySpan<int>)launch.Param).ContainsAnyExcept(0) ? "this row has no launch parameters"
            : null;
        return why is null && SparseLinearRules.Valid(*(KnSparseLinearProblem*)problem, out why);
    }

    public override string? Layout(void* problem) => LayoutOf(problem);

    /// <summary>One layout for all rows.</summary>
    internal static string LayoutOf(void* problem) => $"sparse16/{((DType)((KnSparseLinearProblem*)problem)->Layer.WType).Name()}";

    public override long PackedBytes(void* problem) => BytesOf(problem);

    internal static long BytesOf(void* problem) =>
        problem != null && SparseLinearRules.Valid(*(KnSparseLinearProblem*)problem, out _) ? new SparsePanels(*(KnSparseLinearProblem*)problem).Total : 0;

    public override KnStatus Prepack(void* problem, void* args) => Pack(problem, args, out string? argument, out string? rule) ? KnStatus.Ok : Fail(KnStatus.Invalid, argument, rule);

    /// <summary>Prepack in the memory of the host, for rows that have no other.</summary>
    internal static bool Pack(void* problem, void* args, out string? argument, [NotNullWhen(false)] out string? rule)
    {
        argument = null;
        rule = problem == null || args == null ? "problem, args: is null" : null;
        if (rule is not null) return false;
        var p = (KnSparseLinearProblem*)problem;
        var a = (KnSparseLinearArgs*)args;
        if (!SparseLinearRules.Valid(*p, out rule)) return false;
        KnFlatGemmArgs call = a->Call;
        argument = a->Size != sizeof(KnSparseLinearArgs) || call.Size != sizeof(KnFlatGemmArgs) ? "args"
            : call.Packed == null || call.PackedBytes < new SparsePanels(*p).Total || (nuint)call.Packed % 64 != 0 ? "packed"
            : call.W == null && p->Layer.K > 0 && p->Layer.N > 0 ? "w"
            : call.Ldw < p->Layer.K || call.Ldw > FlatGemmRules.Longest ? "ldw"
            : call.Scales == null && p->Layer.WType == (int)DType.Int8 && p->Layer.N > 0 ? "scales"
            : null;
        rule = argument is null ? null : "what the contract says";
        if (rule is not null) return false;
        long bytes = (long)p->Layer.K * new SparsePanels(*p).Element, stride = call.Ldw * new SparsePanels(*p).Element;
        var packing = new SparsePacking(*p, (row, to) => Buffer.MemoryCopy((byte*)call.W + row * stride, to, bytes, bytes));
        if (packing.Problem.Nnz != p->Nnz) (argument, rule) = ("w", "as many elements that are not 0 as problem.nnz");
        else if (!packing.Write((byte*)call.Packed, call.Scales)) (argument, rule) = ("w", SparsePacking.Unchanged);
        return rule is null;
    }

    public override long Workspace(void* problem, in KnLaunch launch) => SparseLinearManagedPlan.Workspace(*(KnSparseLinearProblem*)problem, launch.Threads);

    public override KnStatus Run(void* problem, in KnLaunch launch, void* args)
    {
        if (problem == null || args == null || Unsafe.IsNullRef(in launch))
            return Fail(KnStatus.Invalid, null, "problem, launch, args: is null");
        if (!Accepts(problem, launch, out string? why)) return Fail(KnStatus.Unsupported, null, why!);
        var p = (KnSparseLinearProblem*)problem;
        var a = (KnSparseLinearArgs*)args;
        if (!SparseLinearRules.Check(*p, *a, Workspace(problem, launch), false, out string? argument, out string? rule))
            return Fail(KnStatus.Invalid, argument, rule);
        if (a->Call.M == 0 || p->Layer.N == 0) return KnStatus.Ok;
        KnFlatGemmArgs call = a->Call;
        var plan = new SparseLinearManagedPlan(p, a, &call, launch.Threads);
        if (Vector512.IsHardwareAccelerated) Drive<Lanes512, Vector512<float>>(&plan, launch.Threads);
        else if (Vector256.IsHardwareAccelerated) Drive<Lanes256, Vector256<float>>(&plan, launch.Threads);
        else Drive<Lanes128, Vector128<float>>(&plan, launch.Threads);
        return KnStatus.Ok;
    }

    private static KnStatus Fail(KnStatus status, string? argument, string rule)
    {
        t_argument = argument;
        t_rule = rule;
        return status;
    }

    private static void Drive<L, V>(SparseLinearManagedPlan* plan, int threads) where L : struct, ILanes<V> where V : struct
    {
        FlatGemmManagedPlan* flat = &plan->Flat;
        long elements = (long)flat->Args->M * flat->Problem->K;
        if (!flat->InPlace) ManagedPool.Run(elements < 65536 ? 1 : threads, flat->Args->M, &FlatGemmManagedPlan.PrepareRow<L, V>, flat);
        ManagedPool.Run(threads, plan->MTasks * (plan->At.Count / plan->At.Pair), &Task<L, V>, plan);
    }

    private static void Task<L, V>(void* context, long index, int worker) where L : struct, ILanes<V> where V : struct
    {
        ref readonly SparseLinearManagedPlan plan = ref *(SparseLinearManagedPlan*)context;
        long row0 = index % plan.MTasks * SparseLinearManagedPlan.MaxRows, pair = index / plan.MTasks;
        int rows = (int)Math.Min(SparseLinearManagedPlan.MaxRows, plan.Flat.Args->M - row0);
        long column0 = pair * SparsePanels.Lanes, columns = Math.Min(SparsePanels.Lanes, plan.Flat.Problem->N - column0);
        byte* scratch = plan.Flat.Scratch + worker * SparseLinearManagedPlan.ScratchBytes;
        float* wide = (float*)scratch;
        double* totals = (double*)(scratch + SparseLinearManagedPlan.WideBytes);
        const long Up = SparseLinearManagedPlan.MaxRows * SparsePanels.Lanes;
        new Span<double>(totals, (int)Up * plan.At.Pair).Clear();
        if (plan.Computes(column0, columns))
            for (int half = 0; half < plan.At.Pair; half++)
                for (long block = 0; block < plan.At.Blocks; block++)
                {
                    if (!plan.Reads(block)) continue;
                    int length = plan.Expand(pair * plan.At.Pair + half, block, wide);
                    float* x = plan.Flat.X + row0 * plan.Flat.Ldx + block * SparsePanels.Block;
                    for (int r = 0; r < rows; r++) Add<L, V>(x + r * plan.Flat.Ldx, wide, length, totals + half * Up + r * SparsePanels.Lanes);
                }
        plan.Flat.WriteOut(totals, SparsePanels.Lanes, Up, row0, rows, column0, columns);
    }

    /// <summary>
    /// totals[lane] += sum over a block of x[k] wide[k][lane], one chain in f32 along k. At most 64 products of s8 by s8, each at most 2^14,
    /// are exact in it.
    /// </summary>
    private static void Add<L, V>(float* x, float* wide, int length, double* totals) where L : struct, ILanes<V> where V : struct
    {
        float* sums = stackalloc float[SparsePanels.Lanes];
        for (int lane = 0; lane < SparsePanels.Lanes; lane += L.Count)
        {
            V sum = L.Broadcast(0);
            for (int k = 0; k < length; k++) sum = L.MultiplyAdd(L.Broadcast(x[k]), L.Load(wide + k * SparsePanels.Lanes + lane), sum);
            L.Store(sum, sums + lane);
        }
        for (int lane = 0; lane < SparsePanels.Lanes; lane++) totals[lane] += sums[lane];
    }
}
