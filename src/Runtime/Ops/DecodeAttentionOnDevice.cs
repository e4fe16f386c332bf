using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Attention on a GPU.</summary>
public sealed unsafe partial class DecodeAttention
{
    /// <summary>
    /// Enqueues the attention on a GPU's stream, null for the default one. Nothing is waited for: what fails on the device shows when
    /// the stream is waited for. Lengths, pages and masks are read on the device when it comes to them, so that a captured graph follows them; a
    /// call that they make wrong writes nothing, and <see cref="ThrowIfRefused"/> says so. All views lie on the plan's device and
    /// stay until the call is done.
    /// </summary>
    /// <param name="q">[tokens, QHeads, HeadDim], the last dimension contiguous.</param>
    /// <param name="cache">Keys and values on the device, the new tokens' included.</param>
    /// <param name="kvLens">[batch]: tokens of each sequence in the cache; 0 is possible.</param>
    /// <param name="pages">[batch, columns] the pages of each sequence in order; null for a contiguous cache.</param>
    /// <param name="output">[tokens, QHeads, VHeadDim], the last dimension contiguous; overlaps nothing else. A token that sees no key gets 0.</param>
    /// <param name="stream">A stream of the plan's device.</param>
    /// <param name="lse">[tokens, QHeads], the last dimension contiguous, or null.</param>
    /// <param name="qStart">[batch + 1]: the new tokens of sequence b are qStart[b] to qStart[b + 1] - 1, at most MaxQLen; null: the same number each.</param>
    /// <param name="tree">[tokens], with <see cref="AttentionMask.Tree"/>: bit u says that the token sees new token u of its sequence.</param>
    /// <param name="longest">The most tokens that a sequence of this call, and of a graph that it is captured for, has in the cache: it sizes the grid and chooses the dataflow. 0: MaxKvLen.</param>
    /// <param name="trusted">
    /// Leaves out the check of what lies on the device, a small launch, for a call with the lengths, pages and masks of one that was checked,
    /// such as that of another layer. Wrong ones then read and write anywhere.
    /// </param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, 64-byte aligned, of no other call until this one is done; null: the driver's pool.</param>
    /// <param name="kvLater">[batch], where the call has but the first keys of a sequence: its tokens that follow them elsewhere, the new ones last. Null: none.</param>
    /// <exception cref="KernelsException">A shape, type, device or overlap that breaks a rule, or what the driver refuses.</exception>
    public void Run<TQ, TKv, TOut>(in TensorView<TQ> q, KvCache<TKv> cache, in TensorView<int> kvLens, TensorView<int>? pages, in TensorView<TOut> output, Stream? stream,
        TensorView<LogSumExp>? lse = null, TensorView<int>? qStart = null, TensorView<uint>? tree = null, int longest = 0, bool trusted = false, Buffer<byte>? workspace = null,
        TensorView<int>? kvLater = null)
        where TQ : unmanaged where TKv : unmanaged where TOut : unmanaged
    {
        _ = Device.RequireGpu();
        CheckTypes<TQ, TKv, TOut>();
        CheckCache(cache);
        long tokens = q.Rank == 3 ? q.Shape(0) : -1;
        CheckView(q, tokens, Options.HeadDim, nameof(q));
        CheckView(output, tokens, Options.ValueDim, nameof(output));
        int batch = CheckLists(tokens, kvLens, qStart, tree, lse, out int qLen);
        if (kvLater is { } following) DeviceViews.List(Device, following, nameof(kvLater), batch, batch);
        long room = Room(cache, batch, pages);
        longest = longest == 0 ? Options.MaxKvLen : longest;
        KernelsException.Require(longest >= 0 && longest <= Options.MaxKvLen, nameof(longest), $"0 to MaxKvLen = {Options.MaxKvLen}, not {longest}");
        KernelsException.Require(stream?.Device.Shares(Device) != false, nameof(stream), $"a stream of {Device}");
        CheckWorkspace(workspace);
        if (tokens == 0) return;
        var held = new Held();
        try
        {
            held.Add(q.Buffer, nameof(q));
            held.Add(output.Buffer, nameof(output));
            held.Add(stream, nameof(stream));
            held.Add(workspace, nameof(workspace));
            var args = new KnDecodeAttentionArgs
            {
                Size = (uint)sizeof(KnDecodeAttentionArgs),
                Batch = batch,
                Q = q.Pointer,
                QToken = q.Stride(0),
                QHead = q.Stride(1),
                Out = output.Pointer,
                OutToken = output.Stride(0),
                OutHead = output.Stride(1),
                Scale = Options.ScoreScale,
                QLen = qLen,
            };
            Bind(ref args, kvLens, pages, lse, qStart, tree, ref held);
            held.Add(kvLater?.Buffer, nameof(kvLater));
            args.KvLater = kvLater is { } later ? later.Pointer : null;
            Bind(ref args, cache, ref held);
            Enqueue(ref args, tokens, longest, room, stream?.Handle ?? 0, trusted, workspace);
        }
        finally
        {
            held.Dispose();
        }
    }

    /// <summary>
    /// Waits for the stream, null: for all of the device, and throws for the first call on a GPU since the last time whose lengths,
    /// pages or masks broke a rule. On the CPU Run has thrown already.
    /// </summary>
    /// <exception cref="KernelsException">What was wrong, and in which sequence.</exception>
    public void ThrowIfRefused(Stream? stream = null) => _door?.ThrowIfRefused(stream);

    /// <summary>Checks the shapes of the lists of a call, and gives its sequences and the most new tokens that one of them has.</summary>
    private int CheckLists(long tokens, in TensorView<int> kvLens, TensorView<int>? qStart, TensorView<uint>? tree, TensorView<LogSumExp>? lse, out int qLen)
    {
        int batch = DeviceViews.List(Device, kvLens, nameof(kvLens), Options.MaxBatch);
        if (qStart is { } starts) DeviceViews.List(Device, starts, nameof(qStart), batch + 1, batch + 1);
        KernelsException.Require(tokens <= (long)batch * Options.MaxQLen, "q", $"at most MaxQLen = {Options.MaxQLen} tokens for each of {batch} sequences, not {tokens}");
        qLen = qStart is not null ? Options.MaxQLen : DecodeAttentionRules.TokensEach(tokens, batch, []);
        bool masks = Options.Mask == AttentionMask.Tree;
        KernelsException.Require(tree is not null == masks, nameof(tree), $"{(masks ? tokens : 0)} masks, as the options say");
        if (tree is { } given) DeviceViews.List(Device, given, nameof(tree), tokens, tokens);
        if (lse is { } sums) KernelsException.Require(DeviceViews.Table(Device, sums, nameof(lse), tokens) == Options.QHeads, nameof(lse), $"{tokens} x {Options.QHeads} values");
        return batch;
    }

    private static void Bind(ref KnDecodeAttentionArgs args, in TensorView<int> kvLens, TensorView<int>? pages, TensorView<LogSumExp>? lse, TensorView<int>? qStart,
        TensorView<uint>? tree, ref Held held)
    {
        held.Add(kvLens.Buffer, nameof(kvLens));
        held.Add(pages?.Buffer, nameof(pages));
        held.Add(lse?.Buffer, nameof(lse));
        held.Add(qStart?.Buffer, nameof(qStart));
        held.Add(tree?.Buffer, nameof(tree));
        args.KvLens = kvLens.Pointer;
        args.Pages = pages is { } p ? p.Pointer : null;
        args.PagesLd = pages?.Stride(0) ?? 0;
        args.Lse = lse is { } l ? (float*)l.Pointer : null;
        args.LseToken = lse?.Stride(0) ?? 0;
        args.QStart = qStart is { } s ? s.Pointer : null;
        args.Tree = tree is { } t ? t.Pointer : null;
    }

    private void Bind<TKv>(ref KnDecodeAttentionArgs args, KvCache<TKv> cache, ref Held held) where TKv : unmanaged
    {
        cache.Hold(ref held);
        foreach (Buffer<float>? values in (ReadOnlySpan<Buffer<float>?>)[_phi, _alibi, _sinks]) held.Add(values, "plan");
        held.Add(_door!.Report, "plan");
        Bind(ref args, cache);
        BindHeads(ref args);
        args.Recomputed = _door.Report.Pointer;
    }

    /// <summary>The most tokens that the cache and the table hold of a sequence.</summary>
    private long Room<TKv>(KvCache<TKv> cache, int batch, TensorView<int>? pages) where TKv : unmanaged
    {
        bool paged = Options.PageSize > 0;
        KernelsException.Require(pages is not null == paged, nameof(pages), $"{(paged ? batch : 0)} rows, as the page size of the options says");
        KernelsException.Require(paged || batch <= cache.Pages, "kvLens", $"at most the {cache.Pages} sequences of the cache, not {batch}");
        return pages is { } table ? DeviceViews.Table(Device, table, nameof(pages), batch) * Options.PageSize : cache.PageSize;
    }

    private void Enqueue(ref KnDecodeAttentionArgs args, long tokens, int longest, long room, nint stream, bool trusted, Buffer<byte>? given)
    {
        int i = 0;
        while (_segments[i].To < longest) i++;
        ref readonly Segment<KnDecodeAttentionProblem> segment = ref _segments.ItemRef(i);
        KnDecodeAttentionProblem problem = segment.Problem;
        problem.KvLen = longest;
        GpuDriver gpu = Device.Gpu!;
        long checkedBytes = trusted ? 0 : AttentionDoor.Bytes(args.Batch), bytes = segment.Row.Workspace(&problem, segment.Launch);
        args.Workspace = given is null ? null : given.Pointer;
        if (!DecodeAttentionRules.CheckOverlapOnDevice(problem, args, tokens, checkedBytes + bytes, out string? argument, out string? rule)) throw new KernelsException(Status.Invalid, argument, $"requires {rule}");
        bool own = given is null && checkedBytes + bytes > 0;
        byte* workspace = given is not null ? given.Pointer : own ? (byte*)gpu.Allocate(checkedBytes + bytes, stream) : null;
        try
        {
            if (!trusted) Check(ref args, (int*)workspace, tokens, (int)Math.Min(longest, room), stream);
            args.Workspace = workspace + checkedBytes;
            args.WorkspaceBytes = bytes;
            Call(segment, &problem, ref args, stream);
        }
        finally
        {
            if (own && gpu.Fault is null) gpu.Free((nint)workspace, stream);
        }
    }

    private void Check(ref KnDecodeAttentionArgs args, int* kept, long tokens, int kvLen, nint stream)
    {
        _door!.Enqueue(new KnAttentionDoor
        {
            QStart = args.QStart,
            KvLens = args.KvLens,
            KvLater = args.KvLater,
            Pages = args.Pages,
            Tree = args.Tree,
            Checked = kept,
            PagesLd = args.PagesLd,
            PageCount = args.PageCount,
            Tokens = tokens,
            Batch = args.Batch,
            QLen = args.QLen,
            KvLen = kvLen,
            PageSize = Options.PageSize,
            Window = Options.Window,
        }, stream);
        args.QStart = kept;
    }
}
