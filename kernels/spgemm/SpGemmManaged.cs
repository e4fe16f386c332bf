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
        return p->Products == 0 ? 0 : new SpGemmManagedCall(p, null, launch.Threads, ValueBytes(*p)).Workspace;
    }

    private protected virtual int ValueBytes(in KnSpgemmProblem p) => (DType)p.Type switch { DType.Float64 => 8, DType.Float32 => 4, _ => 1 };

    /// <summary>A power of two that leaves half of a row's table free.</summary>
    internal static long SlotsFor(long products, long n) => (long)BitOperations.RoundUpToPowerOf2((ulong)Math.Max(2 * Math.Min(products, n), 4));

    public override KnStatus Run(void* problem, in KnLaunch launch, void* args)
    {
        if (problem == null || args == null || Unsafe.IsNullRef(in launch)) return Fail(KnStatus.Invalid, null, "problem, launch, args: is null");
        if (!Accepts(problem, launch, out string? why)) return Fail(KnStatus.Unsupported, null, why!);
        var p = (KnSpgemmProblem*)problem;
        var a = (KnSpgemmArgs*)args;
        if (!SpGemmRules.Check(*p, *a, Workspace(problem, launch), false, out string? argument, out string? rule)) return Fail(KnStatus.Invalid, argument, rule!);
        if (a->Phase == (int)KnSpgemmPhase.Analyse)
            return SpGemmAnalysis.Run(p, a, launch.Threads, out argument, out rule) ? KnStatus.Ok : Fail(KnStatus.Invalid, argument, rule!);
        if (p->Products == 0) Empty(a);
        else Compute(p, a, launch.Threads);
        return KnStatus.Ok;
    }

    private protected virtual void Compute(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads)
    {
        if (p->IndexBytes == 4) WithIndex<int>(p, a, threads);
        else WithIndex<long>(p, a, threads);
    }

    /// <summary>Sizes do not depend on values, but for those of a mask.</summary>
    private protected static bool OnlyStructure(in KnSpgemmProblem p, in KnSpgemmArgs a) =>
        !SpGemmRules.HasValues(p) || (a.Phase == (int)KnSpgemmPhase.Symbolic && !SpGemmRules.Has(p, KnSpgemmFlags.Valued));

    private static void WithIndex<TIndex>(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads) where TIndex : unmanaged
    {
        if (OnlyStructure(*p, *a)) Run<TIndex, byte, NoValues>(p, a, threads, default);
        else if (p->Type == (int)DType.Float64) WithValues<TIndex, double>(p, a, threads);
        else WithValues<TIndex, float>(p, a, threads);
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
        var call = new SpGemmManagedCall(p, a, threads, sizeof(T)) { Failure = failure };
        SpGemmManagedKernel<TIndex, T, TSemiring>.Run(&call);
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
