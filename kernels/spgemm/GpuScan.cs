using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Prefix sums of words in a GPU's memory, tile by tile (spgemm_gpu.h).</summary>
internal sealed unsafe class GpuScan(GpuDriver gpu)
{
    private const int Tile = 2048, Threads = 256;  // KN_SPGEMM_GPU_TILE
    private readonly GpuKernel _tiles = new(gpu, "spgemm_gpu", "spgemm_gpu_scan_tiles"), _sums = new(gpu, "spgemm_gpu", "spgemm_gpu_scan_sums"),
        _add = new(gpu, "spgemm_gpu", "spgemm_gpu_scan_add");

    /// <summary>Bytes of the sums of tiles.</summary>
    public static long Bytes(long count) => Tiles(count) * sizeof(long);

    private static long Tiles(long count) => (count + Tile - 1) / Tile;

    /// <summary>values[i] becomes values[0] + ... + values[i], for i from 1 to <paramref name="count"/>.</summary>
    public void Run(long* values, long count, long* tileSums, nint stream)
    {
        if (count == 0) return;
        var args = new KnSpgemmGpu { Scan = values, ScanCount = count, TileSums = tileSums };
        var grid = new GpuGrid((int)Tiles(count), 1, 1, Threads);
        _tiles.Launch(grid, stream, args);
        _sums.Launch(grid with { X = 1 }, stream, args);
        _add.Launch(grid, stream, args);
    }
}
