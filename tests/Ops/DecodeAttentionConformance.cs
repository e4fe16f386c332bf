using System.Reflection;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;
using Kernels.Tests.Gpu;

namespace Kernels.Tests.Ops;

/// <summary>
/// The public plan of decode attention on the CPU over the operation's cases, against the oracle: every type, mask, layout and softmax by
/// its choice or a forced row.
/// </summary>
[TestFixture]
public sealed unsafe class DecodeAttentionConformance
{
    /// <summary>Its choice, and the rows of this machine that take every case.</summary>
    private static readonly string?[] s_rows =
        [null, .. new[] { "decode_attention/avx512", "decode_attention/managed" }.Where(name => Tables.Runnable(KnOp.DecodeAttention).Any(r => r.Name == name))];

    private static DecodeAttentionCase[] Cases { get; } = [.. DecodeAttentionCases.Conformance(Tables.Seed)];

    private static IEnumerable<string> Kinds() => Cases.Select(c => DecodeAttentionCases.KindOf(c.Problem).ToString()).Distinct();

    [TestCaseSource(nameof(Kinds))]
    public void Matches(string kind)
    {
        int ran = 0;
        for (int i = 0; i < Cases.Length; i++)
        {
            if (DecodeAttentionCases.KindOf(Cases[i].Problem).ToString() != kind) continue;
            Try(i);
            ran++;
        }
        Assert.That(ran, Is.Positive);
    }

    private static void Try(int index)
    {
        DecodeAttentionCase one = Cases[index];
        using var trial = new DecodeAttentionTrial(one.Problem, one.Data);
        KnDecodeAttentionProblem p = one.Problem;
        DecodeAttentionOptions options = DecodeAttentionPlanConformance.Options(trial, index / s_rows.Length, s_rows[index % s_rows.Length]);
        string what = $"{options.Softmax} by {options.Row ?? "choice"}: {one}, seed {Tables.Seed}";
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(options, DecodeAttentionPlanConformance.Heads(trial.Args.Phi, p),
            DecodeAttentionPlanConformance.Heads(trial.Args.Alibi, p), DecodeAttentionPlanConformance.Heads(trial.Args.Sinks, p));
        Row managed = Tables.Find("decode_attention/managed", KnOp.DecodeAttention);
        Assert.That(trial.Prepare(managed, managed.DefaultLaunch(0), out string error), error);
        KnDecodeAttentionArgs args = trial.Call();
        MethodInfo run = typeof(DecodeAttentionConformance).GetMethod(nameof(Run), BindingFlags.NonPublic | BindingFlags.Static)!.MakeGenericMethod(
            DecodeAttentionPlanConformance.Of(p.QType), DecodeAttentionPlanConformance.Of(p.KvType), DecodeAttentionPlanConformance.Of(p.OutType));
        trial.Poison();
        run.Invoke(null, BindingFlags.DoNotWrapExceptions, null, [plan, trial, Pointer.Box(&args, typeof(KnDecodeAttentionArgs*))], null);
        DecodeAttentionVerdict verdict = trial.Check();
        Assert.That(verdict.Ok, $"{what}: {verdict}");
    }

    private static void Run<TQ, TKv, TOut>(Kernels.DecodeAttention plan, DecodeAttentionTrial trial, KnDecodeAttentionArgs* at)
        where TQ : unmanaged where TKv : unmanaged where TOut : unmanaged
    {
        KnDecodeAttentionProblem p = trial.Problem;
        KnDecodeAttentionArgs a = *at;
        int batch = trial.KvLens.Length;
        long tokens = trial.Tokens, inPage = p.PageSize == 0 ? Math.Max(1, trial.KvLens.ToArray().DefaultIfEmpty().Max()) : p.PageSize;
        using KvCache<TKv> cache = DecodeAttentionPlanConformance.Cache<TKv>(Device.Cpu, p, a, inPage);
        ReadOnlySpan2D<int> pages = p.PageSize == 0 || batch == 0 ? default : new ReadOnlySpan2D<int>(a.Pages, batch, checked((int)a.PagesLd), 0);
        var lse = new LogSumExp[tokens * p.QHeads];
        plan.Run(DecodeAttentionPlanConformance.View<TQ>(Device.Cpu, a.Q, [tokens, p.QHeads, p.HeadDim], [a.QToken, a.QHead, 1]), cache, trial.KvLens, pages,
            DecodeAttentionPlanConformance.View<TOut>(Device.Cpu, a.Out, [tokens, p.QHeads, p.VHeadDim], [a.OutToken, a.OutHead, 1]),
            a.Lse == null ? default : lse, a.QStart == null ? default : new ReadOnlySpan<int>(a.QStart, batch + 1), a.Tree == null ? default : new ReadOnlySpan<uint>(a.Tree, checked((int)tokens)),
            a.KvLater == null ? default : new ReadOnlySpan<int>(a.KvLater, batch));
        for (long i = 0; a.Lse != null && i < lse.Length; i++) a.Lse[i / p.QHeads * a.LseToken + i % p.QHeads] = lse[i].Nats;
    }
}
