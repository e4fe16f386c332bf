using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>spgemm in plain C#: takes every problem, runs on every machine. Last of its operation.</summary>
internal unsafe class SpGemmManaged : Row
{
    [ThreadStatic] private static string? t_argument;
    [ThreadStatic] private static string? t_rule;

    public override string Name => "spgemm/managed";

    public override KnOp Op => KnOp.SpGemm;

    public override string? Bits => "ordered";

    public override string LastError => t_argument is null ? t_rule ?? "" : $"{t_argument}: requires {t_rule}";

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        why = problem == null ? "problem != null"
            : launch.Size != sizeof(KnLaunch) ? "launch.Size == sizeof(KnLaunch)"
            : launch.Threads < 0 ? "launch.Threads >= 0"
            : ((ReadOnlySpan<int>)launch.Param).ContainsAnyExcept(0) ? "this row has no launch parameters"
            : null;
        return why is null && SpGemmRules.Valid(*(KnSpgemmProblem*)problem, out why);
    }

    public override long Workspace(void* problem, in KnLaunch launch)
    {
        var p = (KnSpgemmProblem*)problem;
        long workers = ManagedPool.Workers(launch.Threads);
        return p->Products == 0 ? 0 : workers * ScratchBytes(SlotsFor(p->Most, p->N), ValueBytes(*p)) + MostTasks(workers) * sizeof(long);
    }

    /// <summary>Eight tasks a worker, and what is left by dividing.</summary>
    private static long MostTasks(long workers) => 8 * workers + 4;

    private protected virtual int ValueBytes(in KnSpgemmProblem p) => (DType)p.Type switch { DType.Float64 => 8, DType.Float32 => 4, _ => 1 };

    /// <summary>A power of two that leaves half of a row's table free.</summary>
    internal static long SlotsFor(long products, long n) => (long)BitOperations.RoundUpToPowerOf2((ulong)Math.Max(2 * Math.Min(products, n), 4));

    private static long ScratchBytes(long slots, int valueBytes) => (slots * (3 * sizeof(long) + valueBytes) + 63) / 64 * 64;

    public override KnStatus Run(void* problem, in KnLaunch launch, void* args)
    {
        if (problem == null || args == null || Unsafe.IsNullRef(in launch)) return Fail(KnStatus.Invalid, null, "problem, launch, args: is null");
        if (!Accepts(problem, launch, out string? why)) return Fail(KnStatus.Unsupported, null, why!);
        var p = (KnSpgemmProblem*)problem;
        var a = (KnSpgemmArgs*)args;
        if (!SpGemmRules.Check(*p, *a, Workspace(problem, launch), false, out string? argument, out string? rule)) return Fail(KnStatus.Invalid, argument, rule!);
        if (a->Phase == (int)KnSpgemmPhase.Analyse)
            return SpGemmAnalysis.Run(p, a, out argument, out rule) ? KnStatus.Ok : Fail(KnStatus.Invalid, argument, rule!);
        if (p->Products == 0) Empty(a);
        else Compute(p, a, launch.Threads);
        return KnStatus.Ok;
    }

    private protected virtual void Compute(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads)
    {
        if (p->IndexBytes == 4) WithIndex<int>(p, a, threads);
        else WithIndex<long>(p, a, threads);
    }

    private static void WithIndex<TIndex>(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads) where TIndex : unmanaged
    {
        if (p->Type == (int)DType.Float64) WithValues<TIndex, double>(p, a, threads);
        else if (p->Type == (int)DType.Float32) WithValues<TIndex, float>(p, a, threads);
        else Run<TIndex, byte, NoValues>(p, a, threads, default);
    }

    private static void WithValues<TIndex, T>(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads)
        where TIndex : unmanaged where T : unmanaged, IFloatingPointIeee754<T>
    {
        switch ((Semiring)p->Semiring)
        {
            case Semiring.PlusTimes: Run<TIndex, T, PlusTimes<T>>(p, a, threads, default); break;
            case Semiring.MinPlus: Run<TIndex, T, MinPlus<T>>(p, a, threads, default); break;
            case Semiring.MaxPlus: Run<TIndex, T, MaxPlus<T>>(p, a, threads, default); break;
            case Semiring.OrAnd: Run<TIndex, T, OrAnd<T>>(p, a, threads, default); break;
            default: Run<TIndex, T, PlusPair<T>>(p, a, threads, default); break;
        }
    }

    /// <summary>
    /// The phases after ANALYSE with any values and operators, arguments checked. <paramref name="failure"/> keeps what a user's
    /// operators throw.
    /// </summary>
    internal static void Run<TIndex, T, TSemiring>(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads, GCHandle failure)
        where TIndex : unmanaged where T : unmanaged where TSemiring : struct, ISemiring<T>
    {
        long slots = SlotsFor(p->Most, p->N), workers = ManagedPool.Workers(threads);
        var call = new SpGemmManagedCall
        {
            Problem = p,
            Args = a,
            Slots = slots,
            ScratchBytes = ScratchBytes(slots, sizeof(T)),
            Workers = workers,
            PartEntries = (long*)((byte*)a->Workspace + workers * ScratchBytes(slots, sizeof(T))),
            // Eight tasks a worker even out what products do not tell.
            TaskProducts = Math.Max(SpGemmManagedCall.LeastTask, (a->Products[a->RowTo] - a->Products[a->RowFrom]) / (8 * workers)),
            Values = SpGemmRules.HasValues(*p),
            ReadsValues = SpGemmRules.ReadsValues(*p),
            Failure = failure,
        };
        SpGemmManagedKernel<TIndex, T, TSemiring>.Run(&call, threads);
    }

    private static void Empty(KnSpgemmArgs* a)
    {
        if (a->Phase == (int)KnSpgemmPhase.ScheduleSizes) NativeMemory.Clear(a->Schedule.Offsets, (nuint)(a->RowTo + 1) * sizeof(long));
        if (a->Phase >= (int)KnSpgemmPhase.Numeric) return;
        for (long i = a->RowFrom; i < a->RowTo; i++) a->COffsets[i + 1 - a->RowFrom] = a->COffsets[0];
        if (a->Phase == (int)KnSpgemmPhase.Product) *a->RowsDone = a->RowTo;
    }

    private static KnStatus Fail(KnStatus status, string? argument, string rule)
    {
        t_argument = argument;
        t_rule = rule;
        return status;
    }
}
