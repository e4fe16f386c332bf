using Kernels.Interop.Native;
using Extent = Kernels.DecodeAttentionRules.Extent;

namespace Kernels;

/// <summary>Appending on a GPU.</summary>
public sealed unsafe partial class KvCache<T> where T : unmanaged
{
    /// <summary>
    /// Enqueues the same on a GPU's stream, null for the default one, with the same bits but for the bounds of the norms, which may
    /// be a step of float apart. Lengths and pages are read on the device when it comes to them, so that a captured graph follows
    /// them; a call that they make wrong writes nothing, and <see cref="ThrowIfRefused"/> says so.
    /// </summary>
    /// <param name="k">[tokens, KvHeads, HeadDim] on the cache's device, the last dimension contiguous.</param>
    /// <param name="v">[tokens, KvHeads, VHeadDim], the same.</param>
    /// <param name="kvLens">[batch]: tokens of each sequence, the new ones included.</param>
    /// <param name="pages">[batch, columns] the pages of each sequence in order; null for a contiguous cache.</param>
    /// <param name="stream">A stream of the cache's device.</param>
    /// <param name="qStart">[batch + 1]: the new tokens of sequence b are qStart[b] to qStart[b + 1] - 1; null: the same number each.</param>
    /// <param name="trusted">
    /// Leaves out the check of what lies on the device, a small launch, for a call with the lengths and pages of one that was checked, such as
    /// that of another layer. Wrong ones then write anywhere.
    /// </param>
    /// <exception cref="KernelsException">A shape, type, device or overlap with the cache that breaks a rule, or what the driver refuses.</exception>
    public void Append<TIn>(in TensorView<TIn> k, in TensorView<TIn> v, in TensorView<int> kvLens, TensorView<int>? pages, Stream? stream,
        TensorView<int>? qStart = null, bool trusted = false) where TIn : unmanaged
    {
        CheckTokens(k, v);
        long tokens = k.Shape(0);
        int batch = DeviceViews.List(Device, kvLens, nameof(kvLens), 1L << 20);
        if (qStart is { } starts) DeviceViews.List(Device, starts, nameof(qStart), batch + 1, batch + 1);
        else KernelsException.Require(batch == 0 ? tokens == 0 : tokens % batch == 0, nameof(kvLens), $"as many sequences as share {tokens} tokens evenly, or a qStart");
        KernelsException.Require(tokens <= int.MaxValue, nameof(k), $"at most 2^31 - 1 tokens, not {tokens}");
        KernelsException.Require(pages is not null || batch <= Pages, nameof(kvLens), $"at most the {Pages} sequences of the cache, not {batch}");
        long columns = pages is { } table ? DeviceViews.Table(Device, table, nameof(pages), batch) : 1;
        if (stream is not null) KernelsException.Require(stream.Device.Shares(Device), nameof(stream), $"a stream of {Device}, not of {stream.Device}");
        if (tokens == 0) return;
        var held = new Held();
        try
        {
            Hold(ref held);
            held.Add(k.Buffer, nameof(k));
            held.Add(v.Buffer, nameof(v));
            held.Add(kvLens.Buffer, nameof(kvLens));
            held.Add(pages?.Buffer, nameof(pages));
            held.Add(qStart?.Buffer, nameof(qStart));
            held.Add(stream, nameof(stream));
            CheckOutside(Tokens(k), nameof(k));
            CheckOutside(Tokens(v), nameof(v));
            CheckOutside(new Extent(kvLens.Pointer, (int)DType.Float32, batch, 1, 0), nameof(kvLens));
            if (pages is { } ids) CheckOutside(new Extent(ids.Pointer, (int)DType.Float32, columns, batch, ids.Stride(0)), nameof(pages));
            if (qStart is { } from) CheckOutside(new Extent(from.Pointer, (int)DType.Float32, batch + 1, 1, 0), nameof(qStart));
            var args = new KnKvAppend
            {
                QStart = qStart is { } s ? s.Pointer : null,
                KvLens = kvLens.Pointer,
                Pages = pages is { } p ? p.Pointer : null,
                PagesLd = pages?.Stride(0) ?? 0,
                K = k.Pointer,
                KToken = k.Stride(0),
                KHead = k.Stride(1),
                V = v.Pointer,
                VToken = v.Stride(0),
                VHead = v.Stride(1),
                Batch = batch,
                Tokens = (int)tokens,
                QLen = qStart is null ? (int)tokens / batch : (int)tokens,
                InType = (int)DTypes.Of<TIn>(),
            };
            Bind(ref args);
            Enqueue(args, (int)Math.Min(columns * PageSize, 1 << 28), stream?.Handle ?? 0, trusted);
        }
        finally
        {
            held.Dispose();
        }
    }

    /// <summary>
    /// Waits for the stream, null: for all of the device, and throws for the first <see cref="Append{TIn}(in TensorView{TIn}, in TensorView{TIn}, in TensorView{int}, TensorView{int}?, Stream?, TensorView{int}?, bool)"/>
    /// since the last time whose lengths or pages broke a rule. On the CPU Append has thrown already.
    /// </summary>
    /// <exception cref="KernelsException">What was wrong, and in which sequence.</exception>
    public void ThrowIfRefused(Stream? stream = null) => _door?.ThrowIfRefused(stream);

    private static Extent Tokens<TIn>(in TensorView<TIn> view) where TIn : unmanaged =>
        new(view.Pointer, (int)DTypes.Of<TIn>(), view.Shape(2), view.Shape(0), view.Stride(0), view.Shape(1), view.Stride(1));

    private void Bind(ref KnKvAppend args)
    {
        args.KCache = K.Pointer;
        (args.KCachePage, args.KCacheToken, args.KCacheHead) = (K.Stride(0), K.Stride(1), K.Stride(2));
        args.VCache = V.Pointer;
        (args.VCachePage, args.VCacheToken, args.VCacheHead) = (V.Stride(0), V.Stride(1), V.Stride(2));
        args.KeyNorms = KeyNorms is null ? null : KeyNorms.Pointer;
        (args.KvHeads, args.HeadDim, args.VHeadDim, args.PageSize, args.KvType) = (KvHeads, HeadDim, VHeadDim, PageSize, (int)DTypes.Of<T>());
        if (KScales is not { } k || VScales is not { } v) return;
        args.KScales = k.Pointer;
        args.VScales = v.Pointer;
        (args.ScalePage, args.ScaleToken, args.ScaleHead) = (k.Stride(0), k.Stride(1), k.Stride(2));
    }

    private void Enqueue(KnKvAppend args, int room, nint stream, bool trusted)
    {
        Row row = Device.Table.Only<KvAppendGpu>();
        var problem = new KnDecodeAttentionProblem { QType = args.InType, KvHeads = KvHeads };
        if (trusted)
        {
            Call(row, &problem, &args, stream);
            return;
        }
        GpuDriver gpu = Device.RequireGpu();
        nint scratch = gpu.Allocate(AttentionDoor.Bytes(args.Batch), stream);
        try
        {
            _door!.Enqueue(new KnAttentionDoor
            {
                QStart = args.QStart,
                KvLens = args.KvLens,
                Pages = args.Pages,
                PagesLd = args.PagesLd,
                PageCount = Pages,
                Checked = (int*)scratch,
                Tokens = args.Tokens,
                Batch = args.Batch,
                QLen = args.QLen,
                KvLen = room,
                PageSize = PageSize,
                Append = 1,
            }, stream);
            args.QStart = (int*)scratch;
            Call(row, &problem, &args, stream);
        }
        finally
        {
            if (gpu.Fault is null) gpu.Free(scratch, stream);
        }
    }

    private static void Call(Row row, KnDecodeAttentionProblem* problem, KnKvAppend* args, nint stream)
    {
        KnStatus status = row.Run(problem, default, args, stream);
        if (status != KnStatus.Ok) throw row.Failure(status);
    }
}
