using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// The closed-form cost of flat GEMM, which chooses where nothing was measured and ranks candidates where something will be:
/// weights over the bandwidth of the level they lie in against operations over rate, whichever is longer, plus what a call costs. Rates of AVX-512 and of
/// memory are those that Zen 5 showed (docs/performance.md), those of caches lie below what it reads at (2026-11-28: 256 and 115 GB/s a
/// core). What counts is that their ratios order the rows of one machine rightly.
/// </summary>
internal static class FlatGemmModel
{
    private const double CallSeconds = 1e-6, TaskSeconds = 2e-7;

    /// <summary>Bytes a second from memory: a core alone cannot draw what the socket has.</summary>
    private static double MemoryRate(int threads) => Math.Min(28e9 * threads, 250e9);

    /// <summary>From the L2 of each thread's core.</summary>
    private static double L2Rate(int threads) => 60e9 * threads;

    /// <summary>From the L3 that they share.</summary>
    private static double L3Rate(int threads) => 40e9 * threads;

    /// <summary>
    /// Seconds to read so many bytes of operands from where they lie: in the threads' L2 if that has room for them; else cold in memory, and warm in
    /// the L3 if that has.
    /// </summary>
    public static double ReadSeconds(double bytes, int threads, Device device, CacheState cache = CacheState.Cold)
    {
        double rate = MemoryRate(threads);
        if (bytes < (double)threads * device.CacheBytes[1]) rate = L2Rate(threads);
        else if (cache == CacheState.Warm && bytes < device.CacheBytes[2]) rate = Math.Max(rate, L3Rate(threads));
        return bytes / rate;
    }

    /// <summary>Operations a second of one core, at m large enough, by what the row multiplies with.</summary>
    public static double Rate(Row row, in KnFlatGemmProblem p)
    {
        bool integer = (DType)p.XType == DType.Int8 || ((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) != 0;
        return row.Target switch
        {
            "amx" => integer ? 3.0e12 : 1.5e12,
            "avx512bf16" => 425e9,
            "avx512" => integer ? 1200e9 : 255e9,
            // Zen 3 beside a busy neighbour (2026-11-29); what widening costs is in it.
            _ => (DType)p.WType switch { DType.Float32 or DType.BFloat16 => 45e9, DType.Int8 => 50e9, _ => 18e9 },
        };
    }

    /// <summary>The part of the rate of memory that a row draws: machines with managed rows alone, AVX2, showed 11 GB/s a core (Zen 3, 2026-11-29).</summary>
    public static double Draws(Row row) => row.Target == "managed" ? 0.4 : 1;

    /// <summary>Part of the rate a launch reaches: rows that fill the register tile, blocks that fill the cache.</summary>
    private static double Efficiency(Row row, in KnLaunch launch, int m, long cacheBytes, in KnFlatGemmProblem p)
    {
        string variant = row.Name[(row.Name.IndexOf('_', row.Name.IndexOf('/')) + 1)..];
        // With many rows weights are widened once for all of them, whatever they are.
        if (row.Target == "managed") return m < FlatGemmManagedPlan.WidenFrom(p.WType) ? 1 : 50e9 / Rate(row, p);
        if (row.Target == "amx")
        {
            double filled = m / (Math.Ceiling(m / 16.0) * 16);
            return filled * (variant == "block" ? 0.95 : 1) * XResidency(m, variant, p, cacheBytes);
        }
        double tiles = Tiles(row, launch, m, p);
        int panels = Panels(row, launch);
        // A tile of r rows by P panels needs some 6 dots in flight to hide their latency.
        double inFlight = Math.Min(1, m / tiles * panels / 6.0);
        return inFlight * (variant == "direct" ? 0.5 : 1) * XResidency(m, variant, p, cacheBytes);
    }

    private static int Panels(Row row, in KnLaunch launch) =>
        row.Parameters.IsEmpty ? 4 : launch.Param[0] == 0 ? row.Parameters[0].Values[0] : launch.Param[0];

    /// <summary>Passes over the weights of a step, by the tiles of flat_gemm_registers.h.</summary>
    private static double Tiles(Row row, in KnLaunch launch, int m, in KnFlatGemmProblem p)
    {
        bool decodes = row.Name.EndsWith("gemv", StringComparison.Ordinal) && Unpacks(row, p);
        int tile = Panels(row, launch) switch { 8 => decodes ? 2 : 3, 4 => decodes ? 4 : 6, 2 => decodes ? 8 : 12, _ => decodes ? 8 : 16 };
        return Math.Ceiling((double)m / tile);
    }

    /// <summary>A flat pass reads all of x once per step of panels: fine from L2, slow from beyond.</summary>
    private static double XResidency(int m, string variant, in KnFlatGemmProblem p, long cacheBytes) =>
        variant != "block" && (double)m * p.K * 2 > 0.5 * Math.Max(cacheBytes, 1 << 19) ? 0.6 : 1;

    /// <summary>Seconds of one call with m rows.</summary>
    public static double Seconds(Row row, in KnLaunch launch, in KnFlatGemmProblem p, int m, Device device, CacheState cache = CacheState.Cold)
    {
        if (row is FlatGemmGpu gpu) return gpu.Seconds(p, launch, m);
        int threads = Math.Max(1, Math.Min(launch.Threads == 0 ? device.Threads : launch.Threads, device.Threads));
        double columns = (double)p.N * (((KnGemmFlags)p.Flags & KnGemmFlags.Gated) != 0 ? 2 : 1);
        double bytes = columns * p.K * ((DType)p.WType).Bits() / 8 + (double)m * p.K * ((DType)p.XType).Bits() / 8;
        double memory = ReadSeconds(bytes, threads, device, cache) / Draws(row);
        double rate = Rate(row, p) * Efficiency(row, launch, m, device.CacheBytes[1], p);
        bool native = row.Target is "amx" or "avx512bf16" or "avx512", gemv = row.Name.EndsWith("gemv", StringComparison.Ordinal);
        // gemv decodes once for every tile of rows, flat and block once for all, through the cache.
        double unpack = native && Unpacks(row, p) ? columns * p.K * (gemv ? Tiles(row, launch, m, p) / ((DType)p.WType == DType.UInt4 ? 160e9 : 80e9) : 1 / 27e9) : 0;
        double compute = (2.0 * Math.Max(m, 1) * columns * p.K / rate + unpack) / threads;
        // One pass over the weights draws most from memory, of four panels for one row or with weights to decode, else of two; later passes of gemv
        // fetch again what the first one left in L2.
        bool four = m == 1 || Unpacks(row, p);
        double passes = Tiles(row, launch, m, p), streams = row.Target == "managed" ? 1 : !gemv ? 1.05
            : Panels(row, launch) switch { 1 => 1.1, 8 => 1.15, _ when passes > 1 => 1 + 0.05 * passes, 4 when !four => 1.05, _ => 1 };
        memory *= streams;
        // Blocks of k begin anew with memory.
        return Math.Max(memory, compute) + (gemv ? 0.1 : 0.2) * Math.Min(memory, compute) + CallSeconds + TaskSeconds * columns / 64 / threads;
    }

    private static bool Unpacks(Row row, in KnFlatGemmProblem p) => (DType)p.WType switch
    {
        DType.Float32 => false,
        DType.BFloat16 => row.Target == "avx512",
        DType.Int8 => (DType)p.XType == DType.BFloat16 && ((KnGemmFlags)p.Flags & KnGemmFlags.QuantizeX) == 0,
        _ => true,
    };
}
