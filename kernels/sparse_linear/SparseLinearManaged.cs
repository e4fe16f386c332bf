using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// sparse_linear in plain C#: takes every problem, runs on every machine, reads the packed layout of the native rows. A task is
/// a panel of 16 outputs (gated: two). Few rows of x take blocks of 64 k as they are expanded in registers, many from f32 in L1.
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
        // These are constants to the JIT, which compiles one branch. Expansion gains nothing from wider vectors without vpexpand.
        if (Avx2.IsSupported) Drive256(&plan, launch.Threads);
        else Drive128(&plan, launch.Threads);
        return KnStatus.Ok;
    }

    private static KnStatus Fail(KnStatus status, string? argument, string rule)
    {
        t_argument = argument;
        t_rule = rule;
        return status;
    }

    private static void Drive256(SparseLinearManagedPlan* plan, int threads)
    {
        plan->Table = SparseTables.Of((DType)plan->Flat.Problem->WType, true);
        Drive<Lanes256, Vector256<float>>(plan, threads, (DType)plan->Flat.Problem->WType switch
        {
            DType.Float32 => &Task<Lanes256, Vector256<float>, Words256>,
            DType.BFloat16 => &Task<Lanes256, Vector256<float>, Pairs256>,
            DType.Float16 => &Task<Lanes256, Vector256<float>, Halves256>,
            _ => &Task<Lanes256, Vector256<float>, Quads256>,
        });
    }

    private static void Drive128(SparseLinearManagedPlan* plan, int threads)
    {
        plan->Table = SparseTables.Of((DType)plan->Flat.Problem->WType, false);
        Drive<Lanes128, Vector128<float>>(plan, threads, (DType)plan->Flat.Problem->WType switch
        {
            DType.Float32 => &Task<Lanes128, Vector128<float>, Words128>,
            DType.BFloat16 => &Task<Lanes128, Vector128<float>, Pairs128>,
            DType.Float16 => &Task<Lanes128, Vector128<float>, Halves128>,
            _ => &Task<Lanes128, Vector128<float>, Quads128>,
        });
    }

    private static void Drive<L, V>(SparseLinearManagedPlan* plan, int threads, delegate*<void*, long, int, void> task)
        where L : struct, ILanes<V> where V : struct
    {
        FlatGemmManagedPlan* flat = &plan->Flat;
        long elements = (long)flat->Args->M * flat->Problem->K;
        if (!flat->InPlace) ManagedPool.Run(elements < 65536 ? 1 : threads, flat->Args->M, &FlatGemmManagedPlan.PrepareRow<L, V>, flat);
        ManagedPool.Run(threads, plan->MTasks * (plan->At.Count / plan->At.Pair), task, plan);
    }

    private static void Task<L, V, W>(void* context, long index, int worker)
        where L : struct, ILanes<V> where V : struct where W : struct, ISparseWeights<V>
    {
        ref readonly SparseLinearManagedPlan plan = ref *(SparseLinearManagedPlan*)context;
        long row0 = index % plan.MTasks * SparseLinearManagedPlan.MaxRows, pair = index / plan.MTasks;
        int rows = (int)Math.Min(SparseLinearManagedPlan.MaxRows, plan.Flat.Args->M - row0);
        long column0 = pair * SparsePanels.Lanes, columns = Math.Min(SparsePanels.Lanes, plan.Flat.Problem->N - column0);
        byte* scratch = plan.Flat.Scratch + worker * SparseLinearManagedPlan.ScratchBytes;
        double* totals = (double*)(scratch + SparseLinearManagedPlan.WideBytes + SparseLinearManagedPlan.SumsBytes);
        const long Up = SparseLinearManagedPlan.MaxRows * SparsePanels.Lanes;
        for (int half = 0; half < plan.At.Pair; half++) new Span<double>(totals + half * Up, rows * SparsePanels.Lanes).Clear();
        if (plan.Computes(column0, columns))
            for (int half = 0; half < plan.At.Pair; half++) Panel<L, V, W>(plan, pair * plan.At.Pair + half, row0, rows, (float*)scratch, totals + half * Up);
        plan.Flat.WriteOut(totals, SparsePanels.Lanes, Up, row0, rows, column0, columns);
    }

    private static void Panel<L, V, W>(in SparseLinearManagedPlan plan, long panel, long row0, int rows, float* wide, double* totals)
        where L : struct, ILanes<V> where V : struct where W : struct, ISparseWeights<V>
    {
        byte* packed = (byte*)plan.Flat.Args->Packed, bits = packed + plan.At.BitsAt + panel * plan.At.KPadded * 2, values = packed + plan.At.ValuesAt;
        long* offsets = (long*)packed + panel * plan.At.Blocks;
        float* sums = wide + SparsePanels.Block * SparsePanels.Lanes;
        var tile = new Span<float>(sums, rows * SparsePanels.Lanes);
        bool direct = rows <= SparseLinearManagedPlan.ExpandFrom(plan.Flat.Problem->WType);
        // Blocks that follow one another are one run of values.
        int most = direct && plan.Inputs == null ? SparseLinearManagedPlan.Chain : 1;
        long blocks = (plan.Flat.Problem->K + SparsePanels.Block - 1L) / SparsePanels.Block;
        for (long block = 0; block < blocks; block += most)
        {
            if (block % SparseLinearManagedPlan.Chain == 0) tile.Clear();
            long k = block * SparsePanels.Block;
            int length = (int)Math.Min(most * SparsePanels.Block, plan.Flat.Problem->K - k);
            float* x = plan.Flat.X + row0 * plan.Flat.Ldx + k;
            byte* first = values + offsets[block] * plan.At.Element;
            if (!plan.Reads(block)) { }
            else if (direct) Rows<L, V, W>(plan.Table, bits + 2 * k, first, length, x, (nint)plan.Flat.Ldx, rows, sums);
            else
            {
                SparseLinearTile<L, V, W>.Expand(plan.Table, bits + 2 * k, first, length, wide);
                Rows<L, V, ExpandedWeights<L, V>>(null, null, (byte*)wide, length, x, (nint)plan.Flat.Ldx, rows, sums);
            }
            long next = block + most;
            if (next >= blocks || next % SparseLinearManagedPlan.Chain == 0) AddTo(totals, sums, rows * SparsePanels.Lanes);
        }
    }

    private static void AddTo(double* totals, float* sums, int count)
    {
        for (int i = 0; i < count; i += 4)
        {
            Vector128<float> four = Vector128.Load(sums + i);
            (Vector128.Load(totals + i) + Vector128.WidenLower(four)).Store(totals + i);
            (Vector128.Load(totals + i + 2) + Vector128.WidenUpper(four)).Store(totals + i + 2);
        }
    }

    private static void Rows<L, V, W>(byte* table, byte* bits, byte* values, int length, float* x, nint ldx, int rows, float* sums)
        where L : struct, ILanes<V> where V : struct where W : struct, ISparseWeights<V>
    {
        for (; rows >= 4; rows -= 4, x += 4 * ldx, sums += 4 * SparsePanels.Lanes)
            SparseLinearTile<L, V, W>.Add<FourRows>(table, bits, values, length, x, ldx, sums);
        if (rows >= 2)
        {
            SparseLinearTile<L, V, W>.Add<TwoRows>(table, bits, values, length, x, ldx, sums);
            rows -= 2;
            x += 2 * ldx;
            sums += 2 * SparsePanels.Lanes;
        }
        if (rows > 0) SparseLinearTile<L, V, W>.Add<OneRow>(table, bits, values, length, x, ldx, sums);
    }
}
