using System.Reflection;
using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>
/// The plan of decode attention on a device over the operation's cases, against the oracle: its check of what lies there, its choice or a
/// forced row, every softmax, its workspace. As <see cref="DecodeAttentionConformance"/> otherwise.
/// </summary>
[TestFixture, Parallelizable]
public sealed unsafe class DecodeAttentionPlanConformance
{
    private static readonly SortedDictionary<string, (int Ran, int Unchecked)> s_tallies = [];

    private static DecodeAttentionCase[] Cases { get; } = [.. DecodeAttentionCases.Conformance(Tables.Seed)];

    private static IEnumerable<TestCaseData> Kinds()
    {
        foreach (string device in Simulated.Names)
            foreach (string kind in Cases.Select(c => DecodeAttentionCases.KindOf(c.Problem).ToString()).Distinct())
                yield return new TestCaseData(device, kind).SetArgDisplayNames(device, kind);
    }

    [TestCaseSource(nameof(Kinds))]
    public void Matches(string name, string kind)
    {
        Device device = Simulated.Open(name);
        Lazy<Device> heavy = new(() => device.Kind == DeviceKind.Simulated ? Simulated.Open(name, check: false) : device);
        (int ran, int without) = (0, 0);
        for (int i = 0; i < Cases.Length; i++)
        {
            if (DecodeAttentionCases.KindOf(Cases[i].Problem).ToString() != kind) continue;
            bool light = DecodeAttentionConformance.Work(Cases[i].Problem) <= RowUnderTest.MostChecked;
            Try(light ? device : heavy.Value, i);
            (ran, without) = (ran + 1, without + (light ? 0 : 1));
        }
        Assert.That(ran, Is.GreaterThan(without), "some run checked");
        (int r, int w) = s_tallies.GetValueOrDefault(name);
        s_tallies[name] = (r + ran, w + without);
    }

    private static void Try(Device device, int index)
    {
        DecodeAttentionCase one = Cases[index];
        using var trial = new DecodeAttentionTrial(one.Problem, one.Data);
        DecodeAttentionOptions options = Options(trial, index, index % 3 == 0 ? "decode_attention/gpu" : null);
        string what = $"{options.Softmax} by {options.Row ?? "choice"}: {one}, seed {Tables.Seed}";
        KnDecodeAttentionProblem p = one.Problem;
        using Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(options, Heads(trial.Args.Phi, p), Heads(trial.Args.Alibi, p), Heads(trial.Args.Sinks, p), device);
        MethodInfo run = typeof(DecodeAttentionPlanConformance).GetMethod(nameof(Run), BindingFlags.NonPublic | BindingFlags.Static)!
            .MakeGenericMethod(Of(p.QType), Of(p.KvType), Of(p.OutType));
        KnStatus status = trial.RunThere(device.Gpu!, args =>
        {
            run.Invoke(null, BindingFlags.DoNotWrapExceptions, null, [plan, trial, Pointer.Box(&args, typeof(KnDecodeAttentionArgs*)), index], null);
            plan.ThrowIfRefused();
            return KnStatus.Ok;
        });
        Assert.That(status, Is.EqualTo(KnStatus.Ok), what);
        DecodeAttentionVerdict verdict = trial.Check();
        Assert.That(verdict.Ok, $"{what}: {verdict}");
    }

    internal static DecodeAttentionOptions Options(DecodeAttentionTrial trial, int index, string? row)
    {
        ref readonly KnDecodeAttentionProblem p = ref trial.Problem;
        var flags = (KnAttentionFlags)p.Flags;
        SoftmaxDataflow[] possible = [SoftmaxDataflow.Auto, SoftmaxDataflow.Sync, SoftmaxDataflow.Lazy, .. (flags & KnAttentionFlags.Phi) != 0 ? (ReadOnlySpan<SoftmaxDataflow>)[SoftmaxDataflow.Unified] : [],
            .. (flags & KnAttentionFlags.Norms) != 0 || p.Softcap is > 0 and <= 60 ? (ReadOnlySpan<SoftmaxDataflow>)[SoftmaxDataflow.Bounded] : []];
        return new DecodeAttentionOptions
        {
            QHeads = p.QHeads,
            KvHeads = p.KvHeads,
            HeadDim = p.HeadDim,
            VHeadDim = p.VHeadDim,
            MaxBatch = p.Batch,
            MaxQLen = p.QLen,
            MaxKvLen = p.KvLen,
            PageSize = p.PageSize,
            Window = p.Window,
            SoftCap = p.Softcap,
            Scale = trial.Args.Scale,
            Alibi = (flags & KnAttentionFlags.Alibi) != 0,
            Sinks = (flags & KnAttentionFlags.Sinks) != 0,
            Mask = (flags & KnAttentionFlags.Tree) != 0 ? AttentionMask.Tree : (flags & KnAttentionFlags.Full) != 0 ? AttentionMask.Full : AttentionMask.Causal,
            Query = (DType)p.QType,
            Kv = (DType)p.KvType,
            Output = (DType)p.OutType,
            KvScales = (flags & KnAttentionFlags.Scales) != 0,
            KeyNorms = (flags & KnAttentionFlags.Norms) != 0,
            Softmax = possible[index % possible.Length],
            Row = row,
        };
    }

    internal static ReadOnlySpan<float> Heads(float* values, in KnDecodeAttentionProblem p) => values == null ? default : new ReadOnlySpan<float>(values, p.QHeads);

    internal static Type Of(int type) => (DType)type switch
    {
        DType.Float32 => typeof(float),
        DType.BFloat16 => typeof(BFloat16),
        DType.Float16 => typeof(Half),
        DType.Int8 => typeof(sbyte),
        _ => typeof(Float8E4M3),
    };

    private static void Run<TQ, TKv, TOut>(Kernels.DecodeAttention plan, DecodeAttentionTrial trial, KnDecodeAttentionArgs* at, int index) where TQ : unmanaged where TKv : unmanaged where TOut : unmanaged
    {
        KnDecodeAttentionProblem p = trial.Problem;
        KnDecodeAttentionArgs a = *at;
        Device device = plan.Device;
        long tokens = trial.Tokens, columns = p.PageSize == 0 ? 0 : a.PagesLd, inPage = p.PageSize == 0 ? Math.Max(1, trial.KvLens.ToArray().DefaultIfEmpty().Max()) : p.PageSize;
        using KvCache<TKv> cache = Cache<TKv>(device, p, a, inPage);
        using Kernels.Stream stream = device.CreateStream();
        int longest = index % 2 == 0 ? 0 : trial.KvLens.ToArray().DefaultIfEmpty().Max();
        using Buffer<byte>? workspace = index % 4 == 1 ? Buffer<byte>.Allocate(device, plan.WorkspaceBytes) : null;
        plan.Run(View<TQ>(device, a.Q, [tokens, p.QHeads, p.HeadDim], [a.QToken, a.QHead, 1]), cache, View<int>(device, a.KvLens, [trial.KvLens.Length], [1]),
            p.PageSize == 0 ? null : View<int>(device, a.Pages, [trial.KvLens.Length, columns], [columns, 1]), View<TOut>(device, a.Out, [tokens, p.QHeads, p.VHeadDim], [a.OutToken, a.OutHead, 1]),
            index % 5 == 0 ? null : stream, a.Lse == null ? null : View<LogSumExp>(device, a.Lse, [tokens, p.QHeads], [a.LseToken, 1]),
            a.QStart == null ? null : View<int>(device, a.QStart, [trial.KvLens.Length + 1], [1]), a.Tree == null ? null : View<uint>(device, a.Tree, [tokens], [1]), longest, workspace: workspace,
            kvLater: a.KvLater == null ? null : View<int>(device, a.KvLater, [trial.KvLens.Length], [1]));
        stream.Synchronize();
    }

    /// <summary>The cache that the arguments point to, which has so many tokens a page.</summary>
    internal static KvCache<T> Cache<T>(Device device, in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, long inPage) where T : unmanaged
    {
        long pages = a.PageCount, heads = p.KvHeads;
        long[] scales = [a.ScalePage, a.ScaleToken, a.ScaleHead];
        TensorView<float>? Scales(float* from) => from == null ? null : View<float>(device, from, [pages, inPage, heads], scales);
        return KvCache<T>.Over(View<T>(device, a.K, [pages, inPage, heads, p.HeadDim], [a.KPage, a.KToken, a.KHead, 1]),
            View<T>(device, a.V, [pages, inPage, heads, p.VHeadDim], [a.VPage, a.VToken, a.VHead, 1]), Scales(a.KScales), Scales(a.VScales),
            a.KeyNorms == null ? null : Buffer<float>.FromPointer(device, (nint)a.KeyNorms, pages * heads));
    }

    /// <summary>A view of memory there that ends with its last element.</summary>
    internal static TensorView<T> View<T>(Device device, void* at, ReadOnlySpan<long> shape, ReadOnlySpan<long> strides) where T : unmanaged
    {
        long length = 1;
        for (int i = 0; i < shape.Length; i++) length = shape[i] == 0 ? 0 : length == 0 ? 0 : length + (shape[i] - 1) * strides[i];
        return new TensorView<T>(Buffer<T>.FromPointer(device, (nint)at, at == null ? 0 : length), 0, shape, strides);
    }

    [OneTimeTearDown]
    public void Summarise()
    {
        foreach ((string name, (int ran, int without)) in s_tallies) TestContext.Progress.WriteLine($"  plans of decode_attention on {name}: {ran} cases, {without} of them unchecked where simulated");
    }
}
