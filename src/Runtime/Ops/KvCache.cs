using System.Runtime.InteropServices;
using CommunityToolkit.HighPerformance;

namespace Kernels;

/// <summary>Order of a page in memory, the last dimension fastest.</summary>
public enum KvLayout
{
    /// <summary>[token, head, element].</summary>
    Nhd = 0,
    /// <summary>[head, token, element].</summary>
    Hnd = 1,
}

/// <summary>
/// Keys and values of many sequences in pages of the caller's memory or of its own: k [page, token, head, HeadDim] and
/// v [page, token, head, VHeadDim] by strides, with a scale per token and head where they are quantised, and where asked an upper
/// bound of each page's key norms. A contiguous cache is one page per sequence. Nothing is copied or hidden: the views are the
/// memory.
/// </summary>
/// <typeparam name="T">float, BFloat16, Half, sbyte or Float8E4M3.</typeparam>
public sealed unsafe partial class KvCache<T> : IDisposable where T : unmanaged
{
    private readonly SafeHandle[] _memory;
    private readonly AttentionDoor? _door;  // of a GPU
    private readonly bool _owner;

    private KvCache(TensorView<T> k, TensorView<T> v, TensorView<float>? kScales, TensorView<float>? vScales, Buffer<float>? keyNorms, bool owner)
    {
        (K, V, KScales, VScales, KeyNorms, _owner) = (k, v, kScales, vScales, keyNorms, owner);
        Pages = k.Shape(0);
        PageSize = (int)k.Shape(1);
        KvHeads = (int)k.Shape(2);
        HeadDim = (int)k.Shape(3);
        VHeadDim = (int)v.Shape(3);
        Device = k.Buffer.Device;
        if (Device.Gpu is not null) _door = new AttentionDoor(Device);
        _memory = [.. new SafeHandle?[] { k.Buffer, v.Buffer, kScales?.Buffer, vScales?.Buffer, keyNorms }.OfType<SafeHandle>().Distinct()];
    }

    /// <summary>Where it is.</summary>
    public Device Device { get; }

    /// <summary>Keys, [Pages, PageSize, KvHeads, HeadDim].</summary>
    public TensorView<T> K { get; }

    /// <summary>Values, [Pages, PageSize, KvHeads, VHeadDim].</summary>
    public TensorView<T> V { get; }

    /// <summary>Scales of the keys, [Pages, PageSize, KvHeads]: key = stored * scale.</summary>
    public TensorView<float>? KScales { get; }

    /// <summary>Scales of the values, with the strides of <see cref="KScales"/>.</summary>
    public TensorView<float>? VScales { get; }

    /// <summary>[Pages, KvHeads]: at least the largest 2-norm of the page's keys, scales included.</summary>
    public Buffer<float>? KeyNorms { get; }

    /// <summary>Pages there are.</summary>
    public long Pages { get; }

    /// <summary>Tokens of a page; in a contiguous cache the most of a sequence.</summary>
    public int PageSize { get; }

    /// <summary>Heads.</summary>
    public int KvHeads { get; }

    /// <summary>Elements of a key.</summary>
    public int HeadDim { get; }

    /// <summary>Elements of a value.</summary>
    public int VHeadDim { get; }

    /// <summary>A cache in memory of its own, zeroed.</summary>
    /// <param name="pages">Pages.</param>
    /// <param name="pageSize">Tokens of a page, any number.</param>
    /// <param name="kvHeads">Heads.</param>
    /// <param name="headDim">Elements of a key, a multiple of 8.</param>
    /// <param name="vHeadDim">Elements of a value; 0 is headDim.</param>
    /// <param name="layout">Order within a page.</param>
    /// <param name="scales">Whether there are scales; an s8 cache always has them, and only e4m3 may choose.</param>
    /// <param name="keyNorms">Whether bounds of the key norms are kept.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">A shape that breaks a rule, or no memory.</exception>
    public static KvCache<T> Allocate(int pages, int pageSize, int kvHeads, int headDim, int vHeadDim = 0, KvLayout layout = KvLayout.Nhd,
        bool scales = false, bool keyNorms = false, Device? device = null)
    {
        KernelsException.Require(pages >= 0, nameof(pages), $"0 <= pages, not {pages}");
        KernelsException.Require(pageSize is >= 1 and <= 1 << 28, nameof(pageSize), $"1 <= pageSize <= 2^28, not {pageSize}");
        scales |= typeof(T) == typeof(sbyte);
        int vDim = vHeadDim == 0 ? headDim : vHeadDim;
        CheckDims(kvHeads, headDim, vDim);
        long tokens = (long)pages * pageSize;
        KernelsException.Require(tokens <= 1L << 40, nameof(pages), $"at most 2^40 tokens in all, not {pages} x {pageSize}");
        long slots = tokens * kvHeads;
        device ??= Device.Cpu;
        TensorView<float>? Scales() => scales ? View(Zeros<float>(device, slots), pages, pageSize, kvHeads, 1, layout, 3) : null;
        return Checked(View(Zeros<T>(device, slots * headDim), pages, pageSize, kvHeads, headDim, layout),
            View(Zeros<T>(device, slots * vDim), pages, pageSize, kvHeads, vDim, layout), Scales(), Scales(),
            keyNorms ? Zeros<float>(device, (long)pages * kvHeads) : null, owner: true);
    }

    private static Buffer<TElement> Zeros<TElement>(Device device, long length) where TElement : unmanaged
    {
        Buffer<TElement> buffer = Buffer<TElement>.Allocate(device, length);  // of the host: zeros already
        if (device.Gpu is not { } gpu || length == 0) return buffer;
        gpu.Fill((nint)buffer.Pointer, 0, buffer.Bytes, 0);
        gpu.Synchronize(0);
        return buffer;
    }

    /// <summary>A cache over views of the caller's memory, which must stay as long as the cache is used.</summary>
    /// <param name="k">[pages, page_size, kv_heads, head_dim], the last dimension contiguous.</param>
    /// <param name="v">[pages, page_size, kv_heads, v_head_dim], the last dimension contiguous.</param>
    /// <param name="kScales">[pages, page_size, kv_heads]: needed for sbyte, allowed for Float8E4M3.</param>
    /// <param name="vScales">The same for v, with the same strides.</param>
    /// <param name="keyNorms">[pages, kv_heads] contiguous.</param>
    /// <exception cref="KernelsException">Shapes, strides or types that do not fit together.</exception>
    public static KvCache<T> Over(TensorView<T> k, TensorView<T> v, TensorView<float>? kScales = null, TensorView<float>? vScales = null, Buffer<float>? keyNorms = null) =>
        Checked(k, v, kScales, vScales, keyNorms, owner: false);

    /// <summary>The strided view of a page layout: [pages, page_size, kv_heads, dim] whatever the order in memory.</summary>
    /// <exception cref="KernelsException">A negative extent, or a buffer too short.</exception>
    public static TensorView<T> View(Buffer<T> buffer, int pages, int pageSize, int kvHeads, int dim, KvLayout layout) =>
        View(buffer, pages, pageSize, kvHeads, dim, layout, 4);

    private static TensorView<TElement> View<TElement>(Buffer<TElement> buffer, long pages, long pageSize, long heads, long dim, KvLayout layout, int rank)
        where TElement : unmanaged
    {
        KernelsException.Require(Enum.IsDefined(layout), nameof(layout), $"a value of the enumeration, not {(int)layout}");
        bool nhd = layout == KvLayout.Nhd;
        ReadOnlySpan<long> shape = [pages, pageSize, heads, dim], strides = [pageSize * heads * dim, nhd ? heads * dim : dim, nhd ? dim : pageSize * dim, 1];
        return new TensorView<TElement>(buffer, 0, shape[..rank], strides[..rank]);
    }

    private static KvCache<T> Checked(TensorView<T> k, TensorView<T> v, TensorView<float>? kScales, TensorView<float>? vScales, Buffer<float>? keyNorms, bool owner)
    {
        DType type = DTypes.Of<T>();
        Device device = k.Buffer.Device;
        KernelsException.Require(v.Buffer.Device.Shares(device), nameof(v), $"memory of {device} as k, not of {v.Buffer.Device}");
        KernelsException.Require(kScales?.Buffer.Device.Shares(device) != false, nameof(kScales), $"memory of {device} as k");
        KernelsException.Require(vScales?.Buffer.Device.Shares(device) != false, nameof(vScales), $"memory of {device} as k");
        KernelsException.Require(keyNorms?.Device.Shares(device) != false, nameof(keyNorms), $"memory of {device} as k");
        KernelsException.Require(k.Rank == 4 && k.Stride(3) == 1, nameof(k), "shape [pages, page_size, kv_heads, head_dim], the last dimension contiguous");
        KernelsException.Require(v.Rank == 4 && v.Stride(3) == 1, nameof(v), "shape [pages, page_size, kv_heads, v_head_dim], the last dimension contiguous");
        KernelsException.Require(k.Shape(1) is >= 1 and <= 1 << 28, nameof(k), $"1 <= page_size <= 2^28, not {k.Shape(1)}");
        CheckDims(k.Shape(2), k.Shape(3), v.Shape(3));
        KernelsException.Require(SameSlots(k, v), nameof(v), $"pages, tokens and heads of k, [{k.Shape(0)}, {k.Shape(1)}, {k.Shape(2)}]");
        KernelsException.Require(type != DType.Int8 || kScales is not null, nameof(kScales), "scales, which s8 needs");
        KernelsException.Require(kScales is null || type is DType.Int8 or DType.Float8E4M3, nameof(kScales), $"none for {type.Name()}");
        KernelsException.Require(kScales is null == vScales is null, nameof(vScales), "given where kScales are");
        if (kScales is { } ks && vScales is { } vs)
        {
            KernelsException.Require(ks.Rank == 3 && SameSlots(k, ks), nameof(kScales), $"shape [{k.Shape(0)}, {k.Shape(1)}, {k.Shape(2)}]");
            KernelsException.Require(vs.Rank == 3 && SameSlots(k, vs), nameof(vScales), $"shape [{k.Shape(0)}, {k.Shape(1)}, {k.Shape(2)}]");
            KernelsException.Require(ks.Stride(0) == vs.Stride(0) && ks.Stride(1) == vs.Stride(1) && ks.Stride(2) == vs.Stride(2), nameof(vScales), "the strides of kScales");
        }
        KernelsException.Require(keyNorms is null || keyNorms.Length >= k.Shape(0) * k.Shape(2), nameof(keyNorms), $"{k.Shape(0)} x {k.Shape(2)} values");
        return new KvCache<T>(k, v, kScales, vScales, keyNorms, owner);
    }

    private static void CheckDims(long heads, long headDim, long vHeadDim)
    {
        KernelsException.Require(heads is >= 1 and <= 1 << 16, "kvHeads", $"1 <= kvHeads <= 2^16, not {heads}");
        KernelsException.Require(headDim is >= 8 and <= 1024 && headDim % 8 == 0, "headDim", $"a multiple of 8 from 8 to 1024, not {headDim}");
        KernelsException.Require(vHeadDim is >= 8 and <= 1024 && vHeadDim % 8 == 0, "vHeadDim", $"a multiple of 8 from 8 to 1024, not {vHeadDim}");
    }

    private static bool SameSlots<TOther>(in TensorView<T> k, in TensorView<TOther> other) where TOther : unmanaged =>
        other.Shape(0) == k.Shape(0) && other.Shape(1) == k.Shape(1) && other.Shape(2) == k.Shape(2);

    /// <summary>Keeps the memory from being freed during a call.</summary>
    internal void Hold(ref Held held)
    {
        foreach (SafeHandle memory in _memory) held.Add(memory, "cache");
        held.Add(_door?.Report, "cache");
    }

    /// <summary>Frees the memory that <see cref="Allocate"/> made, once the calls that use it have returned.</summary>
    public void Dispose()
    {
        _door?.Dispose();
        if (!_owner) return;
        foreach (SafeHandle memory in _memory) memory.Dispose();
    }
}
