using System.Collections.Immutable;
using Kernels.Interop.Cuda;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// flat_gemm/sm90: wgmma on tiles that tensor copies bring, persistent. Compute capability 9.0 exactly: its instructions are of
/// sm_90a. The tensor maps are part of the kernel's argument and made for each call, without an allocation: x changes with it, and a
/// row keeps nothing of a plan.
/// </summary>
internal sealed unsafe class FlatGemmSm90(GpuDriver gpu) : FlatGemmGpu(gpu, "flat_gemm/sm90", "flat_gemm_sm90", "flat_gemm_sm90_bf16_bf16_m8")
{
    // flat_gemm_gpu.h: bytes of a row of a tile, of what is not stages, of all stages.
    private const int RowBytes = 128, Unstaged = 21504, MostStaged = 208896;
    private const int Align = 16, MostNarrowRows = 64;
    private const long LongestStride = 1L << 40;

    protected override ImmutableArray<(DType W, DType X)> Kinds => s_kinds;

    private static readonly ImmutableArray<(DType W, DType X)> s_kinds =
    [
        (DType.BFloat16, DType.BFloat16), (DType.Float16, DType.Float16), (DType.Int8, DType.Int8), (DType.Int8, DType.BFloat16), (DType.UInt4, DType.BFloat16),
    ];

    protected override ImmutableArray<Tile> Tiles => s_tiles;

    private static readonly ImmutableArray<Tile> s_tiles = [new(8, 128), new(16, 128), new(32, 128), new(64, 128), new(128, 128), new(256, 128)];

    public override string? Lacks => base.Lacks ?? (Gpu.Limits.TensorMaps ? null : "tensor maps, which a driver of CUDA 12.0 makes");

    protected override int BlocksPerMultiprocessor => 1;

    protected override int ThreadsPerBlock => 384;

    protected override double RatePerClock(bool integer) => integer ? 3072 : 1536;

    protected override int KGranule(in KnFlatGemmProblem p) => Align * 8 / ((DType)p.WType).Bits();

    /// <summary>Weights that are decoded in registers have tiles of up to 64 rows: those of more take two or four.</summary>
    private static int RowsOf(Tile tile, bool decoded) => decoded ? Math.Min(tile.Rows, MostNarrowRows) : tile.Rows;

    /// <summary>Blocks take tiles in turn, and a few tiles more than blocks cost a whole turn more: what counts is turns of what length.</summary>
    protected override int SplitsToFill(int tiles, int most)
    {
        const double Sums = 0.03;  // of a split, written and read again: 32 rows of 8 bytes against 4096 of k in 2
        (int best, double least) = (1, double.PositiveInfinity);
        for (int splits = 1; splits <= most; splits++)
        {
            double turns = Math.Ceiling(tiles * (double)splits / Gpu.Limits.Multiprocessors), time = turns / splits * (1 + Sums * (splits - 1));
            if (time < least) (best, least) = (splits, time);
        }
        return best;
    }

    protected override string KernelName(string w, string x, Tile tile) => $"flat_gemm_sm90_{w}_{x}_m{RowsOf(tile, w != x)}";

    protected override int SharedBytes(DType w, DType x, Tile tile)
    {
        int stage = RowBytes * (tile.Columns + (tile.Rows * x.Bits() / w.Bits()));
        return Unstaged + MostStaged / stage * stage;
    }

    protected override void Multiply(GpuKernel kernel, in KnFlatGemmGpu k, Tile tile, int columns, nint stream)
    {
        var args = new KnFlatGemmSm90 { Call = k };
        (DType w, DType x) = ((DType)k.WType, (DType)k.XType);
        tile = tile with { Rows = RowsOf(tile, w != x) };
        int parts = columns / k.N, pairs = parts == 1 ? tile.Columns : 8;  // gated: rows of gate and up alternate by 8
        args.XMapped = Map(&args.XMap, x, k.X, k.K, k.M, 1, k.Ldx, tile.Rows);
        args.WMapped = Map(&args.WMap, w, k.W, k.K, k.N, parts, k.Ldw, pairs);
        long tiles = (k.M + (long)tile.Rows - 1) / tile.Rows * ((columns + (long)tile.Columns - 1) / tile.Columns) * k.Splits;
        var grid = new GpuGrid((int)Math.Min(tiles, Gpu.Limits.Multiprocessors), 1, 1, ThreadsPerBlock, SharedBytes: SharedBytes(w, x, tile));
        kernel.Launch(grid, stream, args);
    }

    /// <summary>The map of [parts, rows, k], boxes of [parts, box, 128 bytes]; u4 as bytes. 0: none, for an operand that no tensor copy can read.</summary>
    private int Map(CUtensorMap* map, DType type, void* at, int k, int rows, int parts, long ld, int box)
    {
        int bits = type.Bits();
        long stride = ld * bits / 8, part = stride * rows;
        if (k == 0 || (nint)at % Align != 0 || stride % Align != 0 || part >= LongestStride) return 0;
        DType stored = bits < 8 ? DType.Int8 : type;
        long wide = (long)k * bits / stored.Bits();
        Gpu.EncodeTensor(new GpuTensor((nint)at, stored, (wide, rows, parts), (stride, part), (RowBytes * 8 / stored.Bits(), box, parts)), map);
        return 1;
    }
}
