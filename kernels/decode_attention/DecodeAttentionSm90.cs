using Kernels.Interop.Cuda;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// decode_attention/sm90: wgmma for 8, 16 or 32 packed rows of a kv head, on pages that tensor copies bring. Compute capability 9.0
/// exactly: its instructions are of sm_90a. The tensor maps are part of the kernel's argument and made for each call, without an
/// allocation, as those of <see cref="FlatGemmSm90"/>.
/// </summary>
internal sealed unsafe class DecodeAttentionSm90(GpuDriver gpu) : DecodeAttentionGpu(gpu, "decode_attention/sm90", "decode_attention_sm90", "decode_attention_sm90_bf16_d64_r8")
{
    // decode_attention_gpu.h: keys and elements of a tile, and the shared memory of a block that has half a multiprocessor, or all of it.
    private const int TileKeys = 64, TileBytes = 128, MostRows = 32, Half = 112640, Whole = 229376;
    private const int Threads = 160, Align = 16;
    private const long LongestStride = 1L << 40;

    private readonly Dictionary<(int, int, int), GpuKernel> _kernels = [];

    public override string? Lacks => base.Lacks ?? (Gpu.Limits.TensorMaps ? null : "tensor maps, which a driver of CUDA 12.0 makes");

    protected override string? Refuses(in KnDecodeAttentionProblem p, KnSoftmax softmax) =>
        p.KvType != p.QType || p.QType is not ((int)DType.BFloat16 or (int)DType.Float16) ? "q, k and v all bf16 or all f16"
        : Math.Max(p.HeadDim, p.VHeadDim) > 256 ? "p.HeadDim <= 256 && p.VHeadDim <= 256"
        : p.PageSize % TileKeys != 0 && p.PageSize is not (8 or 16 or 32) ? "pages of 8, 16, 32 or a multiple of 64 tokens, or none"
        : p.KvType == (int)DType.Float16 && softmax is not (KnSoftmax.Sync or KnSoftmax.Lazy) ? "sync or lazy for f16 values, which have no range for a fixed reference"
        : null;

    /// <summary>64 keys by 16 of k take 16 clocks to read from shared memory, which up to 32 rows do not exceed; V is multiplied twice.</summary>
    protected override double RatePerClock(int rows) => 64 * rows / 1.5;

    protected override (GpuKernel Kernel, int Rows, int Threads, int SharedBytes) Choose(in KnDecodeAttentionProblem p, KnSoftmax softmax)
    {
        int head = HeadOf(p), packed = p.QHeads / p.KvHeads * p.QLen, rows = packed <= 8 ? 8 : packed <= 16 ? 16 : MostRows;
        int others = 1024 + rows * (2 * head + 2 * TileBytes), slot = head * TileBytes, shared = others + ((head <= 128 ? Half : Whole) - others) / slot * slot;
        lock (_kernels)
        {
            if (!_kernels.TryGetValue((p.QType, head, rows), out GpuKernel? kernel))
                _kernels.Add((p.QType, head, rows), kernel = Kernel($"decode_attention_sm90_{NameOf(p.QType)}_d{head}_r{rows}"));
            return (kernel, rows, Threads, shared);
        }
    }

    protected override void Attend(GpuKernel kernel, in GpuGrid grid, nint stream, in KnDecodeAttentionProblem p, in KnDecodeAttentionArgs a, in KnDecodeAttentionGpu k)
    {
        var args = new KnDecodeAttentionSm90 { Call = k, Box = p.PageSize == 0 ? TileKeys : Math.Min(p.PageSize, TileKeys) };
        args.K = new() { At = a.K, Page = a.KPage, Token = a.KToken, Head = a.KHead, Dims = p.HeadDim };
        args.V = new() { At = a.V, Page = a.VPage, Token = a.VToken, Head = a.VHead, Dims = p.VHeadDim };
        Map(ref args.K, p, a.PageCount, args.Box);
        Map(ref args.V, p, a.PageCount, args.Box);
        kernel.Launch(grid, stream, args);
    }

    private void Map(ref KnDecodeAttentionCache c, in KnDecodeAttentionProblem p, long pages, int box)
    {
        if (Tensor(ref c, p, pages, box) is not { } tensor) return;
        fixed (CUtensorMap* map = &c.Map) Gpu.EncodeTensor(tensor, map);
    }

    /// <summary>
    /// The tensor of which a tensor copy brings 64 elements of `box` tokens, and in <paramref name="c"/> how it is read; null: no map can describe the cache.
    /// Pages and heads are one dimension, of a stride that divides both of theirs; the driver wants each stride to be a multiple of the one before.
    /// </summary>
    internal static GpuTensor? Tensor(ref KnDecodeAttentionCache c, in KnDecodeAttentionProblem p, long pages, int box)
    {
        long tokens = p.PageSize == 0 ? p.KvLen : p.PageSize, page = pages > 1 ? c.Page : 0, head = p.KvHeads > 1 ? c.Head : 0, step = Divisor(page, head);
        if (step == 0) step = c.Token;
        long bytes = sizeof(short) * step, tokenBytes = sizeof(short) * c.Token;
        if (pages == 0 || tokens == 0 || step == 0 || c.Token == 0 || (nint)c.At % Align != 0 || bytes % Align != 0 || tokenBytes % Align != 0) return null;
        long steps = (page / step * (pages - 1)) + (head / step * (p.KvHeads - 1)) + 1;
        if (steps > int.MaxValue || bytes >= LongestStride || tokenBytes >= LongestStride) return null;
        c.Mapped = step % c.Token == 0 ? KnCacheMap.TokensSecond : c.Token % step == 0 ? KnCacheMap.TokensThird : KnCacheMap.None;
        (c.PageStep, c.HeadStep) = ((int)(page / step), (int)(head / step));
        const int Row = TileBytes / sizeof(short);
        return c.Mapped switch
        {
            KnCacheMap.TokensSecond => new((nint)c.At, (DType)p.KvType, (c.Dims, tokens, steps), (tokenBytes, bytes), (Row, box, 1)),
            KnCacheMap.TokensThird => new((nint)c.At, (DType)p.KvType, (c.Dims, steps, tokens), (bytes, tokenBytes), (Row, 1, box)),
            _ => null,
        };
    }

    private static long Divisor(long a, long b)
    {
        while (b != 0) (a, b) = (b, a % b);
        return a;
    }
}
