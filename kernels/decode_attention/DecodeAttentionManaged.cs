using System.Collections.Immutable;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// decode_attention in plain C#: takes every problem, runs on every machine. Last of its operation. A task is some KV heads of
/// one sequence over one split of its keys; keys and values are read where they lie, for up to four query rows at once. Splits begin at
/// multiples of their length, which is the launch's where the problem asks for invariant bits; else those of costly sequences are
/// shortened until no task is more than a small part of a worker's share. Costly tasks go out first.
/// </summary>
internal sealed unsafe class DecodeAttentionManaged : Row
{
    [ThreadStatic] private static string? t_argument;
    [ThreadStatic] private static string? t_rule;

    public override string Name => "decode_attention/managed";

    public override KnOp Op => KnOp.DecodeAttention;

    public override string? Bits => "managed";

    public override string LastError => t_argument is null ? t_rule ?? "" : $"{t_argument}: requires {t_rule}";

    public override ImmutableArray<RowParameter> Parameters { get; } =
    [
        new("softmax", [(int)KnSoftmax.Lazy, (int)KnSoftmax.Sync, (int)KnSoftmax.Unified, (int)KnSoftmax.Bounded]),
        new("split", [2048, 512, 1024, 4096, 8192, 16384, 65536, 1 << 28]),
    ];

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        why = problem == null ? "problem != null"
            : launch.Size != sizeof(KnLaunch) ? "launch.Size == sizeof(KnLaunch)"
            : launch.Threads is < 0 or > 1024 ? "launch.Threads >= 0 && launch.Threads <= 1024"
            : !Listed(launch) ? "launch params are listed"
            : null;
        return why is null && DecodeAttentionRules.Valid(*(KnDecodeAttentionProblem*)problem, out why)
            && DecodeAttentionRules.Offers(*(KnDecodeAttentionProblem*)problem, Softmax(launch), out why);
    }

    public override long Workspace(void* problem, in KnLaunch launch) =>
        DecodeAttentionManagedPlan.Workspace(*(KnDecodeAttentionProblem*)problem, Split(launch), launch.Threads);

    public override KnStatus Run(void* problem, in KnLaunch launch, void* args)
    {
        if (problem == null || args == null || Unsafe.IsNullRef(in launch))
            return Fail(KnStatus.Invalid, null, "problem, launch, args: is null");
        if (!Accepts(problem, launch, out string? why)) return Fail(KnStatus.Unsupported, null, why!);
        var p = (KnDecodeAttentionProblem*)problem;
        var a = (KnDecodeAttentionArgs*)args;
        if (!DecodeAttentionRules.Check(*p, *a, Workspace(problem, launch), out string? argument, out string? rule))
            return Fail(KnStatus.Invalid, argument, rule);
        if (a->Batch == 0 || (a->QStart != null ? a->QStart[a->Batch] : a->QLen) == 0) return KnStatus.Ok;
        var plan = new DecodeAttentionManagedPlan(p, a, Softmax(launch), Split(launch), launch.Threads);
        // These are constants to the JIT, which compiles one branch.
        if (Vector512.IsHardwareAccelerated) Drive<Lanes512, Vector512<float>>(&plan);
        else if (Vector256.IsHardwareAccelerated) Drive<Lanes256, Vector256<float>>(&plan);
        else Drive<Lanes128, Vector128<float>>(&plan);
        return KnStatus.Ok;
    }

    private bool Listed(in KnLaunch launch)
    {
        for (int i = 0; i < ((ReadOnlySpan<int>)launch.Param).Length; i++)
            if (launch.Param[i] != 0 && (i >= Parameters.Length || !Parameters[i].Values.Contains(launch.Param[i]))) return false;
        return true;
    }

    private static KnSoftmax Softmax(in KnLaunch launch) => launch.Param[0] == 0 ? KnSoftmax.Lazy : (KnSoftmax)launch.Param[0];

    private static int Split(in KnLaunch launch) => launch.Param[1] == 0 ? 2048 : launch.Param[1];

    private static KnStatus Fail(KnStatus status, string? argument, string rule)
    {
        t_argument = argument;
        t_rule = rule;
        return status;
    }

    private static void Drive<L, V>(DecodeAttentionManagedPlan* plan) where L : struct, ILanes<V> where V : struct
    {
        int threads = plan->Threads;
        ManagedPool.Run(threads, plan->Tokens, &DecodeAttentionManagedPlan.Prepare<L, V>, plan);
        ManagedPool.Run(threads, plan->Tasks, &DecodeAttentionManagedSplit<L, V>.Task, plan);
        ManagedPool.Run(threads, plan->Tokens, &DecodeAttentionManagedPlan.Combine<L, V>, plan);
        if (plan->Failures == 0) return;
        plan->Again();
        ManagedPool.Run(threads, plan->Tasks, &DecodeAttentionManagedSplit<L, V>.Task, plan);
        ManagedPool.Run(threads, plan->Tokens, &DecodeAttentionManagedPlan.Combine<L, V>, plan);
        if (plan->Args->Recomputed != null) Interlocked.Add(ref *plan->Args->Recomputed, plan->Failures);
    }
}
