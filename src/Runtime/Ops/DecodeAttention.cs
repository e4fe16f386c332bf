using System.Collections.Immutable;
using System.Runtime.CompilerServices;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What a plan runs for calls whose longest sequence has <paramref name="KvFrom"/> to <paramref name="KvTo"/> tokens, and why.</summary>
/// <param name="KvFrom">Fewest tokens in the cache.</param>
/// <param name="KvTo">Most tokens in the cache.</param>
/// <param name="Dataflow">Row and launch parameters.</param>
/// <param name="Softmax">Reference of the softmax; Auto where the row has one way only.</param>
/// <param name="Split">Tokens of a split of a sequence, 0 where the row never splits. A CPU shortens those of costly sequences, unless the plan is batch-invariant.</param>
/// <param name="Source">Where the choice comes from.</param>
/// <param name="Reason">The same in words.</param>
/// <param name="WorkspaceBytes">Scratch of one call.</param>
public sealed record DecodeAttentionChoice(int KvFrom, int KvTo, Dataflow Dataflow, SoftmaxDataflow Softmax, int Split, ChoiceSource Source,
    string Reason, long WorkspaceBytes);

/// <summary>
/// Attention of a few new tokens per sequence over a cache: see <see cref="DecodeAttentionOptions"/> for the formula. Create
/// chooses row, softmax and split for every length and sizes the workspace once; Run checks and calls, with no allocation and no
/// lock. Any number of threads may run one plan at a time. Split-KV after Flash-Decoding; the fixed reference of the softmax after
/// FlashDecoding++ (arXiv 2311.01282), section 3, with a range check per row and a recompute of the rows that fail it.
/// </summary>
public sealed unsafe partial class DecodeAttention : IDisposable
{
    private readonly ImmutableArray<Segment<KnDecodeAttentionProblem>> _segments;
    private readonly Buffer<float>? _phi, _alibi, _sinks;
    private readonly Workspaces? _workspaces;  // of the CPU
    private readonly AttentionDoor? _door;  // of a GPU
    private long _recomputed;

    private DecodeAttention(DecodeAttentionOptions options, Device device, ImmutableArray<Segment<KnDecodeAttentionProblem>> segments, Buffer<float>? phi, Buffer<float>? alibi, Buffer<float>? sinks)
    {
        (Options, Device, _segments, _phi, _alibi, _sinks) = (options, device, segments, phi, alibi, sinks);
        WorkspaceBytes = segments.Max(s => s.Workspace);
        if (device.Gpu is null) _workspaces = new Workspaces(WorkspaceBytes);
        else (_door, WorkspaceBytes) = (new AttentionDoor(device), WorkspaceBytes + AttentionDoor.Bytes(options.MaxBatch));
    }

    /// <summary>Where it runs.</summary>
    public Device Device { get; }

    /// <summary>What was planned for.</summary>
    public DecodeAttentionOptions Options { get; }

    /// <summary>
    /// Bytes of scratch one call uses, exactly. On the CPU a plan keeps one such buffer, and one more for each concurrent caller that brings none; on a
    /// GPU a few bytes a sequence beside what <see cref="Choices"/> say hold what was checked.
    /// </summary>
    public long WorkspaceBytes { get; }

    /// <summary>
    /// Rows (new token, head) that all calls so far had to do again because a fixed reference did not fit. Where it keeps growing,
    /// calibrate phi again or plan with <see cref="SoftmaxDataflow.Lazy"/>. A GPU counts on the device: asking waits for all of its streams.
    /// </summary>
    public long RecomputedRows => _door?.Recomputed() ?? Volatile.Read(ref _recomputed);

    /// <summary>What runs, in order of the longest sequence of a call.</summary>
    public ImmutableArray<DecodeAttentionChoice> Choices => [.. _segments.Select(s => new DecodeAttentionChoice(s.From, s.To,
        s.Row.Dataflow(s.Launch).WithThreads(Options.Threads), (SoftmaxDataflow)s.Row.Value(s.Launch, DecodeAttentionSelection.Softmax),
        s.Row.Value(s.Launch, DecodeAttentionSelection.Split), s.Source, s.Reason, s.Workspace))];

    /// <summary>What runs for calls whose longest sequence has <paramref name="kvLen"/> tokens.</summary>
    /// <exception cref="KernelsException">Below 0 or beyond MaxKvLen.</exception>
    public DecodeAttentionChoice Choice(int kvLen)
    {
        KernelsException.Require(kvLen >= 0 && kvLen <= Options.MaxKvLen, nameof(kvLen), $"0 to MaxKvLen = {Options.MaxKvLen}, not {kvLen}");
        return Choices.First(c => kvLen <= c.KvTo);
    }

    /// <summary>Plans.</summary>
    /// <param name="options">Shapes, types and what is added to the scores.</param>
    /// <param name="phi">[QHeads] in nats, finite: makes <see cref="SoftmaxDataflow.Unified"/> possible. See <see cref="SoftmaxCalibration"/>. Or empty.</param>
    /// <param name="alibi">[QHeads] slopes, finite and at least 0, when the options say so.</param>
    /// <param name="sinks">[QHeads] logits below infinity, when the options say so.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">A property or value that breaks a rule, or a forced row that cannot run.</exception>
    public static DecodeAttention Create(DecodeAttentionOptions options, ReadOnlySpan<float> phi = default, ReadOnlySpan<float> alibi = default,
        ReadOnlySpan<float> sinks = default, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        device ??= Device.Cpu;
        options.Check();
        KernelsException.Require(phi.Length == 0 || phi.Length == options.QHeads, nameof(phi), $"none or {options.QHeads} values, not {phi.Length}");
        KernelsException.Require(alibi.Length == (options.Alibi ? options.QHeads : 0), nameof(alibi), $"{(options.Alibi ? options.QHeads : 0)} values, not {alibi.Length}");
        KernelsException.Require(sinks.Length == (options.Sinks ? options.QHeads : 0), nameof(sinks), $"{(options.Sinks ? options.QHeads : 0)} values, not {sinks.Length}");
        foreach (float value in phi) KernelsException.Require(float.IsFinite(value), nameof(phi), $"finite values, not {value}");
        foreach (float value in alibi) KernelsException.Require(float.IsFinite(value) && value >= 0, nameof(alibi), $"finite slopes of at least 0, not {value}");
        foreach (float value in sinks) KernelsException.Require(value < float.PositiveInfinity, nameof(sinks), $"logits below infinity, not {value}");
        ImmutableArray<Segment<KnDecodeAttentionProblem>> segments = DecodeAttentionSelection.Choose(device, options, phi.Length > 0, TuningStore.In(options.TuningDirectory), options.Cache);
        return new DecodeAttention(options, device, [.. segments.Select(s => s.Sized(device))], Kept(device, phi), Kept(device, alibi), Kept(device, sinks));
    }

    private static Buffer<float>? Kept(Device device, ReadOnlySpan<float> values) => values.Length == 0 ? null : Buffer<float>.Of(device, values);

    /// <summary>Attends, in contiguous host memory.</summary>
    /// <param name="q">[tokens, QHeads, HeadDim].</param>
    /// <param name="cache">Keys and values, the new tokens' included: <see cref="KvCache{T}.Append{TIn}(ReadOnlySpan{TIn}, ReadOnlySpan{TIn}, ReadOnlySpan{int}, ReadOnlySpan2D{int}, ReadOnlySpan{int})"/> comes first.</param>
    /// <param name="kvLens">[batch]: tokens of each sequence in the cache; 0 is possible.</param>
    /// <param name="pages">[batch, columns] the pages of each sequence in order; empty for a contiguous cache.</param>
    /// <param name="output">[tokens, QHeads, VHeadDim]; overlaps nothing else. A token that sees no key gets 0.</param>
    /// <param name="lse">[tokens, QHeads], or empty.</param>
    /// <param name="qStart">[batch + 1]: the new tokens of sequence b are qStart[b] to qStart[b + 1] - 1, at most MaxQLen; empty: the same number each.</param>
    /// <param name="tree">[tokens], with <see cref="AttentionMask.Tree"/>: bit u says that the token sees new token u of its sequence; its own bit is set and no later one.</param>
    /// <param name="kvLater">
    /// [batch], where a call has but the first keys of a sequence: its tokens that follow them elsewhere, the new ones last, so that masks and slopes
    /// know how far the new tokens are. A call over the last keys needs none. Empty: none follow.
    /// </param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, 64-byte aligned, of no other call until this one returns; null: the plan's own.</param>
    /// <exception cref="KernelsException">A shape, type, length, page or overlap that breaks a rule; the output is then untouched.</exception>
    public void Run<TQ, TKv, TOut>(ReadOnlySpan<TQ> q, KvCache<TKv> cache, ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages, Span<TOut> output,
        Span<LogSumExp> lse = default, ReadOnlySpan<int> qStart = default, ReadOnlySpan<uint> tree = default, ReadOnlySpan<int> kvLater = default,
        Buffer<byte>? workspace = null)
        where TQ : unmanaged where TKv : unmanaged where TOut : unmanaged
    {
        RequireHost(nameof(q));
        CheckTypes<TQ, TKv, TOut>();
        long qRow = (long)Options.QHeads * Options.HeadDim, outRow = (long)Options.QHeads * Options.ValueDim, tokens = q.Length / qRow;
        KernelsException.Require(q.Length == tokens * qRow, nameof(q), $"a multiple of {Options.QHeads} x {Options.HeadDim} elements, not {q.Length}");
        KernelsException.Require(output.Length == tokens * outRow, nameof(output), $"{tokens} x {Options.QHeads} x {Options.ValueDim} elements, not {output.Length}");
        fixed (TQ* pq = q)
        fixed (TOut* po = output)
        {
            var args = new KnDecodeAttentionArgs { Q = pq, QToken = qRow, QHead = Options.HeadDim, Out = po, OutToken = outRow, OutHead = Options.ValueDim };
            Run(ref args, tokens, cache, kvLens, pages, lse, qStart, tree, kvLater, workspace);
        }
    }

    /// <summary>Attends, on views of buffers of the host.</summary>
    /// <param name="q">[tokens, QHeads, HeadDim], the last dimension contiguous.</param>
    /// <param name="output">[tokens, QHeads, VHeadDim], the last dimension contiguous.</param>
    /// <param name="cache">As above.</param>
    /// <param name="kvLens">As above.</param>
    /// <param name="pages">As above.</param>
    /// <param name="lse">As above.</param>
    /// <param name="qStart">As above.</param>
    /// <param name="tree">As above.</param>
    /// <param name="kvLater">As above.</param>
    /// <param name="workspace">As above.</param>
    /// <inheritdoc cref="Run{TQ, TKv, TOut}(ReadOnlySpan{TQ}, KvCache{TKv}, ReadOnlySpan{int}, ReadOnlySpan2D{int}, Span{TOut}, Span{LogSumExp}, ReadOnlySpan{int}, ReadOnlySpan{uint}, ReadOnlySpan{int}, Buffer{byte}?)"/>
    public void Run<TQ, TKv, TOut>(in TensorView<TQ> q, KvCache<TKv> cache, ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages, in TensorView<TOut> output,
        Span<LogSumExp> lse = default, ReadOnlySpan<int> qStart = default, ReadOnlySpan<uint> tree = default, ReadOnlySpan<int> kvLater = default,
        Buffer<byte>? workspace = null)
        where TQ : unmanaged where TKv : unmanaged where TOut : unmanaged
    {
        RequireHost(nameof(kvLens));
        CheckTypes<TQ, TKv, TOut>();
        long tokens = q.Rank == 3 ? q.Shape(0) : -1;
        CheckView(q, tokens, Options.HeadDim, nameof(q));
        CheckView(output, tokens, Options.ValueDim, nameof(output));
        var held = new Held();
        try
        {
            held.Add(q.Buffer, nameof(q));
            held.Add(output.Buffer, nameof(output));
            var args = new KnDecodeAttentionArgs { Q = q.Pointer, QToken = q.Stride(0), QHead = q.Stride(1), Out = output.Pointer, OutToken = output.Stride(0), OutHead = output.Stride(1) };
            Run(ref args, tokens, cache, kvLens, pages, lse, qStart, tree, kvLater, workspace);
        }
        finally
        {
            held.Dispose();
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void CheckTypes<TQ, TKv, TOut>() where TQ : unmanaged where TKv : unmanaged where TOut : unmanaged
    {
        if (DTypes.Of<TQ>() != Options.Query || DTypes.Of<TKv>() != Options.Kv || DTypes.Of<TOut>() != Options.Output)
            WrongTypes(DTypes.Of<TQ>(), DTypes.Of<TKv>(), DTypes.Of<TOut>());
    }

    private void WrongTypes(DType q, DType kv, DType output) =>
        throw new KernelsException(Status.Invalid, q != Options.Query ? "q" : kv != Options.Kv ? "cache" : "output",
            $"q of {Options.Query.Name()}, cache of {Options.Kv.Name()} and output of {Options.Output.Name()}, not {q.Name()}, {kv.Name()} and {output.Name()}");

    private void CheckView<T>(in TensorView<T> view, long tokens, int dim, string name) where T : unmanaged
    {
        KernelsException.Require(view.Rank == 3 && view.Stride(2) == 1 && view.Shape(0) == tokens && view.Shape(1) == Options.QHeads && view.Shape(2) == dim,
            name, $"shape [{(tokens < 0 ? "tokens" : $"{tokens}")}, {Options.QHeads}, {dim}], the last dimension contiguous");
        KernelsException.Require(view.Buffer.Device.Shares(Device), name, $"a buffer on {Device}, not on {view.Buffer.Device}");
    }

    /// <summary>Checks how a call's tokens are shared, and gives how many each sequence has without a qStart.</summary>
    private int TokensEach(long tokens, ReadOnlySpan<int> kvLens, ReadOnlySpan<int> qStart)
    {
        KernelsException.Require(kvLens.Length <= Options.MaxBatch, nameof(kvLens), $"at most MaxBatch = {Options.MaxBatch} sequences, not {kvLens.Length}");
        int each = DecodeAttentionRules.TokensEach(tokens, kvLens.Length, qStart);
        KernelsException.Require(each <= Options.MaxQLen, "q", $"at most MaxQLen = {Options.MaxQLen} tokens for each of {kvLens.Length} sequences, not {tokens}");
        for (int b = 0; b + 1 < qStart.Length; b++)
            KernelsException.Require(qStart[b + 1] - qStart[b] <= Options.MaxQLen, nameof(qStart), $"at most MaxQLen = {Options.MaxQLen} tokens each, not {qStart[b]} to {qStart[b + 1]}");
        return each;
    }

    /// <summary>Checks lengths and tables, and gives the longest sequence.</summary>
    private int Longest<TKv>(KvCache<TKv> cache, ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages) where TKv : unmanaged
    {
        int longest = 0;
        foreach (int length in kvLens)
        {
            KernelsException.Require(length >= 0 && length <= Options.MaxKvLen, nameof(kvLens), $"0 to MaxKvLen = {Options.MaxKvLen}, not {length}");
            longest = Math.Max(longest, length);
        }
        bool paged = Options.PageSize > 0;
        KernelsException.Require(paged ? pages.Height == kvLens.Length || longest == 0 : pages.Length == 0, nameof(pages), $"{(paged ? kvLens.Length : 0)} rows, not {pages.Height}");
        KernelsException.Require(paged || kvLens.Length <= cache.Pages, nameof(kvLens), $"at most the {cache.Pages} sequences of the cache, not {kvLens.Length}");
        long room = paged ? (long)pages.Width * Options.PageSize : cache.PageSize;
        KernelsException.Require(longest <= room, nameof(kvLens), $"at most the {room} tokens that {(paged ? "a row of pages covers" : "the cache holds")}, not {longest}");
        return longest;
    }

    private static void CheckLater(ReadOnlySpan<int> kvLens, ReadOnlySpan<int> kvLater)
    {
        KernelsException.Require(kvLater.Length == 0 || kvLater.Length == kvLens.Length, nameof(kvLater), $"none or {kvLens.Length} values, not {kvLater.Length}");
        for (int b = 0; b < kvLater.Length; b++)
            KernelsException.Require(kvLater[b] >= 0 && kvLater[b] <= (1 << 28) - kvLens[b], nameof(kvLater), $"0 to 2^28 less the kvLens, {(1 << 28) - kvLens[b]}, not {kvLater[b]}");
    }

    private void CheckCache<TKv>(KvCache<TKv> cache) where TKv : unmanaged
    {
        ArgumentNullException.ThrowIfNull(cache);
        KernelsException.Require(cache.KvHeads == Options.KvHeads, nameof(cache), $"KvHeads = {Options.KvHeads} heads, not {cache.KvHeads}");
        KernelsException.Require(cache.HeadDim == Options.HeadDim && cache.VHeadDim == Options.ValueDim, nameof(cache), $"keys of {Options.HeadDim} and values of {Options.ValueDim} elements, not {cache.HeadDim} and {cache.VHeadDim}");
        KernelsException.Require(Options.PageSize == 0 || cache.PageSize == Options.PageSize, nameof(cache), $"pages of {Options.PageSize} tokens, not {cache.PageSize}");
        KernelsException.Require(Options.Scaled == cache.KScales is not null, nameof(cache), Options.Scaled ? "scales, as the options say" : "no scales, as the options say");
        KernelsException.Require(!Options.KeyNorms || cache.KeyNorms is not null, nameof(cache), "key norms, as the options say");
        KernelsException.Require(cache.Device.Shares(Device), nameof(cache), $"a cache on {Device}, not on {cache.Device}");
    }

    private void CheckWorkspace(Buffer<byte>? workspace)
    {
        if (workspace is not null)
            KernelsException.Require(workspace.Device.Shares(Device) && workspace.Bytes >= WorkspaceBytes, nameof(workspace), $"{WorkspaceBytes} bytes on {Device}, not {workspace.Bytes} on {workspace.Device}");
    }

    private void RequireHost(string argument)
    {
        if (Device.Gpu is not null) throw new KernelsException(Status.Invalid, argument, $"views of buffers on {Device}: this overload takes memory of the host, and no copy is hidden");
    }

    private void Run<TKv>(ref KnDecodeAttentionArgs args, long tokens, KvCache<TKv> cache, ReadOnlySpan<int> kvLens, ReadOnlySpan2D<int> pages,
        Span<LogSumExp> lse, ReadOnlySpan<int> qStart, ReadOnlySpan<uint> tree, ReadOnlySpan<int> kvLater, Buffer<byte>? workspace) where TKv : unmanaged
    {
        CheckCache(cache);
        args.QLen = TokensEach(tokens, kvLens, qStart);
        int longest = Longest(cache, kvLens, pages);
        KernelsException.Require(lse.Length == 0 || lse.Length == tokens * Options.QHeads, nameof(lse), $"none or {tokens} x {Options.QHeads} values, not {lse.Length}");
        bool masks = Options.Mask == AttentionMask.Tree;
        KernelsException.Require(tree.Length == (masks ? tokens : 0), nameof(tree), $"{(masks ? tokens : 0)} masks, not {tree.Length}");
        CheckLater(kvLens, kvLater);
        CheckWorkspace(workspace);
        if (tokens == 0) return;
        var held = new Held();
        try
        {
            cache.Hold(ref held);
            held.Add(workspace, nameof(workspace));
            held.Add(_phi, "plan");
            held.Add(_alibi, "plan");
            held.Add(_sinks, "plan");
            fixed (int* lengths = kvLens, later = kvLater)
            fixed (int* table = pages)
            fixed (int* start = qStart)
            fixed (uint* mask = tree)
            fixed (LogSumExp* sums = lse)
            {
                args.Size = (uint)sizeof(KnDecodeAttentionArgs);
                args.Batch = kvLens.Length;
                args.QStart = start;
                args.KvLens = lengths;
                args.KvLater = later;
                args.Pages = table;
                args.PagesLd = pages.Stride();
                args.Tree = mask;
                args.Lse = (float*)sums;
                args.LseToken = Options.QHeads;
                args.Scale = Options.ScoreScale;
                Bind(ref args, cache);
                Run(ref args, longest, workspace);
            }
        }
        finally
        {
            held.Dispose();
        }
    }

    private static void Bind<TKv>(ref KnDecodeAttentionArgs args, KvCache<TKv> cache) where TKv : unmanaged
    {
        args.PageCount = cache.Pages;
        args.K = cache.K.Pointer;
        (args.KPage, args.KToken, args.KHead) = (cache.K.Stride(0), cache.K.Stride(1), cache.K.Stride(2));
        args.V = cache.V.Pointer;
        (args.VPage, args.VToken, args.VHead) = (cache.V.Stride(0), cache.V.Stride(1), cache.V.Stride(2));
        args.KeyNorms = cache.KeyNorms is null ? null : cache.KeyNorms.Pointer;
        if (cache.KScales is not { } k || cache.VScales is not { } v) return;
        args.KScales = k.Pointer;
        args.VScales = v.Pointer;
        (args.ScalePage, args.ScaleToken, args.ScaleHead) = (k.Stride(0), k.Stride(1), k.Stride(2));
    }

    private void BindHeads(ref KnDecodeAttentionArgs args)
    {
        args.Phi = _phi is null ? null : _phi.Pointer;
        args.Alibi = _alibi is null ? null : _alibi.Pointer;
        args.Sinks = _sinks is null ? null : _sinks.Pointer;
    }

    private void Run(ref KnDecodeAttentionArgs args, int longest, Buffer<byte>? given)
    {
        int i = 0;
        while (_segments[i].To < longest) i++;
        ref readonly Segment<KnDecodeAttentionProblem> segment = ref _segments.ItemRef(i);
        Workspaces.Slot? own = given is null ? _workspaces!.Take() : null;
        Buffer<byte> workspace = given ?? own!.Buffer;
        if (given is not null) _workspaces!.ThrowIfDisposed();
        long recomputed = 0;
        try
        {
            BindHeads(ref args);
            args.Recomputed = &recomputed;
            args.Workspace = workspace.Pointer;
            args.WorkspaceBytes = workspace.Bytes;
            KnDecodeAttentionProblem problem = segment.Problem;
            try
            {
                Call(segment, &problem, ref args, 0);
            }
            catch (KernelsException e) when (e.Argument == "pages" && DecodeAttentionRules.WrongPage(problem, args) is { } wrong)
            {
                throw new KernelsException(e.Status, "pages", $"ids below {args.PageCount}, not {wrong.Id} of sequence {wrong.Sequence}");
            }
            if (recomputed > 0) Interlocked.Add(ref _recomputed, recomputed);
        }
        finally
        {
            if (own is not null) _workspaces!.Return(own);
        }
    }

    private static void Call(in Segment<KnDecodeAttentionProblem> segment, KnDecodeAttentionProblem* problem, ref KnDecodeAttentionArgs args, nint stream)
    {
        fixed (KnDecodeAttentionArgs* at = &args)
        {
            KnStatus status = segment.Row.Run(problem, segment.Launch, at, stream);
            if (status != KnStatus.Ok) throw segment.Row.Failure(status);
        }
    }

    /// <summary>Frees what the plan holds, once the calls that run have returned.</summary>
    public void Dispose()
    {
        _workspaces?.Dispose();
        _door?.Dispose();
        _phi?.Dispose();
        _alibi?.Dispose();
        _sinks?.Dispose();
    }
}
