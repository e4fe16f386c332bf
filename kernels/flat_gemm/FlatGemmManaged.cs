using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// flat_gemm in plain C#: takes every problem, runs on every machine, reads weights as they are. Last of its operation. A task
/// is up to 96 rows by 64 columns; within it a block of 1024 k of four rows of w stays in L1 while all rows of x pass over it.
/// </summary>
internal sealed unsafe class FlatGemmManaged : Row
{
    private const long Small = 1 << 16;  // multiply-adds: 6 us at the 20 GFLOP/s of a core

    [ThreadStatic] private static string? t_argument;
    [ThreadStatic] private static string? t_rule;

    public override string Name => "flat_gemm/managed";

    public override KnOp Op => KnOp.FlatGemm;

    public override string? Bits => "managed";

    public override string LastError => t_argument is null ? t_rule ?? "" : $"{t_argument}: requires {t_rule}";

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        why = problem == null ? "problem != null"
            : launch.Size != sizeof(KnLaunch) ? "launch.Size == sizeof(KnLaunch)"
            : ((ReadOnlySpan<int>)launch.Param).ContainsAnyExcept(0) ? "this row has no launch parameters"
            : null;
        return why is null && FlatGemmRules.Valid(*(KnFlatGemmProblem*)problem, out why);
    }

    public override long Workspace(void* problem, in KnLaunch launch) =>
        FlatGemmManagedPlan.Workspace(*(KnFlatGemmProblem*)problem, launch.Threads);

    public override KnStatus Run(void* problem, in KnLaunch launch, void* args)
    {
        if (problem == null || args == null || Unsafe.IsNullRef(in launch))
            return Fail(KnStatus.Invalid, null, "problem, launch, args: is null");
        if (!Accepts(problem, launch, out string? why)) return Fail(KnStatus.Unsupported, null, why!);
        var p = (KnFlatGemmProblem*)problem;
        var a = (KnFlatGemmArgs*)args;
        if (!FlatGemmRules.Check(*p, *a, -1, Workspace(problem, launch), out string? argument, out string? rule))
            return Fail(KnStatus.Invalid, argument, rule);
        if (a->M == 0 || p->N == 0) return KnStatus.Ok;
        var plan = new FlatGemmManagedPlan(p, a, launch.Threads, FlatGemmManagedPlan.Interleaves(*p));
        // These are constants to the JIT, which compiles one branch.
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

    private static void Drive<L, V>(FlatGemmManagedPlan* plan, int threads) where L : struct, ILanes<V> where V : struct
    {
        if (!plan->InPlace)
        {
            // Converting a few rows costs less than waking a thread.
            long elements = (long)plan->Args->M * plan->Problem->K;
            ManagedPool.Run(elements < 65536 ? 1 : threads, plan->Args->M, &FlatGemmManagedPlan.PrepareRow<L, V>, plan);
        }
        delegate*<void*, long, int, void> task = (DType)plan->Problem->WType switch
        {
            DType.Float32 => &Task<L, V, Float32Weights>,
            DType.BFloat16 => &Task<L, V, BFloat16Weights>,
            DType.Float16 => &Task<L, V, HalfWeights>,
            DType.Int8 => &Task<L, V, Int8Weights>,
            _ => &Task<L, V, UInt4Weights>,
        };
        // A few microseconds of work are done before another thread is awake.
        bool small = (long)plan->Args->M * plan->Problem->N * (plan->Gated ? 2 : 1) * plan->Problem->K < Small;
        ManagedPool.Run(small ? 1 : threads, plan->MTasks * plan->NTasks, task, plan);
    }

    // Tasks of the same columns follow one another, so that the second one finds its weights in the shared cache.
    private static void Task<L, V, W>(void* context, long index, int worker)
        where L : struct, ILanes<V> where V : struct where W : struct, IWeights
    {
        ref readonly FlatGemmManagedPlan plan = ref *(FlatGemmManagedPlan*)context;
        ref readonly KnFlatGemmProblem p = ref *plan.Problem;
        long row0 = index % plan.MTasks * plan.BlockM, rows = Math.Min(plan.BlockM, plan.Args->M - row0);
        long column0 = index / plan.MTasks * plan.BlockN, columns = Math.Min(plan.BlockN, p.N - column0);
        long ld = plan.BlockN, up = plan.BlockM * ld;
        double* totals = (double*)(plan.Scratch + worker * plan.ScratchBytes);
        new Span<double>(totals, (int)(plan.Gated ? 2 * up : up)).Clear();
        var tile = new TaskTile { Row = row0, Rows = rows, Column = column0, Totals = totals, Wide = (float*)((byte*)totals + plan.ScratchBytes - FlatGemmManagedPlan.WideBytes) };
        // Where x stays in L2, rows of w are read to their ends: a stream that stops after a block draws half of what memory has.
        bool whole = rows * p.K <= FlatGemmManagedPlan.WholeRowsUpTo;
        int step = whole ? Math.Max(p.K, 1) : FlatGemmManagedPlan.BlockK;
        for (long k0 = 0; k0 < p.K; k0 += step)
            for (long part = 0; part < (plan.Gated ? 2 : 1); part++)
                for (long j = 0; j < columns; j += 4)
                    for (long k = k0, end = Math.Min(k0 + step, p.K); k < end; k += FlatGemmManagedPlan.BlockK)
                        Block<L, V, W>(plan, tile, part, j, (int)k, (int)k0, (int)end);
        plan.WriteOut(totals, ld, up, row0, rows, column0, columns);
    }

    private struct TaskTile
    {
        public long Row, Rows, Column;
        public double* Totals;
        public float* Wide;
    }

    /// <summary>All rows of a task times a block of k of four columns.</summary>
    private static void Block<L, V, W>(in FlatGemmManagedPlan plan, in TaskTile tile, long part, long j, int k0, int k00, int k1)
        where L : struct, ILanes<V> where V : struct where W : struct, IWeights
    {
        const int StepBytes = 2 * 16 * 4;  // the longest step of a row of w: two of the widest vectors of f32
        byte* ends = stackalloc byte[4 * StepBytes];
        ref readonly KnFlatGemmProblem p = ref *plan.Problem;
        int length = Math.Min(p.K - k0, FlatGemmManagedPlan.BlockK);
        float* x = plan.X + tile.Row * plan.Ldx + k0;
        double* to = tile.Totals + part * plan.BlockM * plan.BlockN + j;
        ColumnsOf<L, V, W>(plan, part * p.N, tile.Column + j, k0, length, ends, out FlatGemmManagedTile<L, V, W>.Columns c);
        c.NextStep = W.Offset(2 * L.Count);
        c.NextLd = W.Offset((nint)plan.Args->Ldw);
        c.Next = c.W0 + (k0 + length < k1 ? W.Offset(length) : 4 * c.NextLd - W.Offset(k0 - k00));
        if (tile.Rows < FlatGemmManagedPlan.WidenFrom(p.WType))
        {
            MultiplyRows(c, x, (nint)plan.Ldx, tile.Rows, to, (nint)plan.BlockN);
            return;
        }
        FlatGemmManagedTile<L, V, W>.Widen(c, tile.Wide, FlatGemmManagedPlan.BlockK);
        MultiplyRows(WideColumns<L, V>(tile.Wide, c.Padded, c.Next, c.NextLd, c.NextStep), x, (nint)plan.Ldx, tile.Rows, to, (nint)plan.BlockN);
    }

    private static void MultiplyRows<L, V, W>(in FlatGemmManagedTile<L, V, W>.Columns c, float* x, nint ldx, long rows, double* totals, nint ld)
        where L : struct, ILanes<V> where V : struct where W : struct, IWeights
    {
        long r = 0, pass = 0, passes = L.FourRows ? rows / 4 + rows % 4 / 2 : rows / 2;
        for (int step = L.FourRows ? 4 : 2; r + 2 <= rows; r += step, pass++)
        {
            if (r + step > rows) step = 2;
            var ahead = new FlatGemmManagedTile<L, V, W>.Ahead(c, pass, passes);
            if (L.FourRows && step == 4)
            {
                if (pass < 4) FlatGemmManagedTile<L, V, W>.FourRows<Fetches>(c, ahead, x + r * ldx, ldx, totals + r * ld, ld);
                else FlatGemmManagedTile<L, V, W>.FourRows<FetchesNothing>(c, ahead, x + r * ldx, ldx, totals + r * ld, ld);
            }
            else if (pass < 4) FlatGemmManagedTile<L, V, W>.Two<Fetches>(c, ahead, x + r * ldx, ldx, totals + r * ld, ld);
            else FlatGemmManagedTile<L, V, W>.Two<FetchesNothing>(c, ahead, x + r * ldx, ldx, totals + r * ld, ld);
        }
        if (r < rows) FlatGemmManagedTile<L, V, W>.One(c, x + r * ldx, totals + r * ld);
    }

    private static FlatGemmManagedTile<L, V, Float32Weights>.Columns WideColumns<L, V>(float* wide, nint length, byte* next, nint nextLd, nint nextStep)
        where L : struct, ILanes<V> where V : struct => new()
        {
            W0 = (byte*)wide,
            W1 = (byte*)(wide + FlatGemmManagedPlan.BlockK),
            W2 = (byte*)(wide + 2 * FlatGemmManagedPlan.BlockK),
            W3 = (byte*)(wide + 3 * FlatGemmManagedPlan.BlockK),
            Full = length,
            Padded = length,
            Next = next,
            NextLd = nextLd,
            NextStep = nextStep,
        };

    // Where fewer than four columns are left, the last one stands in for the others; their totals are not read.
    private static void ColumnsOf<L, V, W>(in FlatGemmManagedPlan plan, long first, long column, int k0, int length, byte* ends,
        out FlatGemmManagedTile<L, V, W>.Columns c)
        where L : struct, ILanes<V> where V : struct where W : struct, IWeights
    {
        ref readonly KnFlatGemmProblem p = ref *plan.Problem;
        ref readonly KnFlatGemmArgs a = ref *plan.Args;
        Unsafe.SkipInit(out c);
        int step = 2 * L.Count, full = length / step * step;
        c.Full = full;
        c.Padded = full == length ? full : full + step;
        byte** w = &((FlatGemmManagedTile<L, V, W>.Columns*)Unsafe.AsPointer(ref c))->W0;
        byte** end = w + 4;
        long groups = p.Group == 0 ? 0 : ((long)p.K + p.Group - 1) / p.Group;
        for (int i = 0; i < 4; i++)
        {
            long row = first + Math.Min(column + i, p.N - 1);
            w[i] = (byte*)a.W + W.Offset((nint)(row * a.Ldw)) + W.Offset(k0);
            if (full == length) continue;
            nint bytes = W.Offset(step), left = W.Offset(length - full + (W.Scaled ? 1 : 0));
            byte* copy = ends + i * bytes;
            new Span<byte>(copy, (int)bytes).Clear();
            Buffer.MemoryCopy(w[i] + W.Offset(full), copy, bytes, left);
            end[i] = copy - W.Offset(full);
        }
        if (!W.Scaled) return;
        c.Group = p.Group;
        c.Zeros = (p.Flags & (int)KnGemmFlags.Zeros) != 0;
        float** scale = (float**)(w + 8);
        byte** zero = w + 12;
        for (int i = 0; i < 4; i++)
        {
            long at = (first + Math.Min(column + i, p.N - 1)) * groups + k0 / p.Group;
            scale[i] = a.Scales + at;
            zero[i] = a.Zeros + at;
        }
    }
}
