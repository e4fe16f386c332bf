using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// The closed-form cost of spgemm: the accumulator that a launch gives each sampled row, times what a product costs there. It ranks the
/// launches that a tuner tries; nothing is chosen by it alone. Which accumulator a row gets is that of spgemm_row.h and spgemm_short.h.
/// </summary>
internal static class SpGemmModel
{
    // kShort and kShortColumns of spgemm_operands.h: such rows are computed alike by every launch.
    private const long ShortProducts = 64, ShortColumns = 1 << 26;
    // Of spgemm_blocks.h and the driver's sample.
    private const long BlockSpan = 128, LeastFill = 2;
    private const double Slots = 1 << 16;  // kHash of spgemm_rows.h
    private const double CallSeconds = 2e-6, SlotSeconds = 1e-6, Managed = 3e-9;

    public static double Seconds(Row row, in KnLaunch launch, in KnSpgemmProblem p, SpGemmSample sample, Device device)
    {
        if (row is SpGemmGpu gpu) return gpu.Seconds(p, launch);
        int threads = Math.Max(1, Math.Min(launch.Threads == 0 ? device.Threads : launch.Threads, device.Threads));
        if (row.Parameters.IsEmpty) return CallSeconds + p.Products * Managed / threads;
        double products = 0, cost = 0;
        bool blocks = InBlocks(row, launch, p, sample);
        foreach (SpGemmSampledRow r in sample.Sampled) (products, cost) = (products + r.Products, cost + RowNanoseconds(row, launch, r, p, device, blocks));
        double window = row.Value(launch, "window"), slots = p.Products / window + 1;
        double buffer = (window + Math.Min(p.Most, p.N)) * (p.IndexBytes + ((DType)p.Type).Bits() / 8.0);
        double each = products > 0 ? cost / products + (buffer > Cache(device, 1, 1 << 20) ? 0.1 : 0) : 0;
        // A slot is one thread's: the last ones keep the others waiting.
        return CallSeconds + (p.Products * each * 1e-9 + slots * SlotSeconds) * Math.Ceiling(slots / threads) / slots;
    }

    private static double RowNanoseconds(Row row, in KnLaunch launch, in SpGemmSampledRow r, in KnSpgemmProblem p, Device device, bool blocks)
    {
        bool masked = SpGemmRules.Has(p, KnSpgemmFlags.Mask);
        if (!masked && r.Products <= ShortProducts && p.N <= ShortColumns) return r.Products * 2.5;
        if (blocks && r.Span <= BlockSpan * r.Products) return r.Blocks * 1.7 + r.Span / 512.0 + r.Entries * 0.3;
        double marks = r.Span / 64.0, scatter = Scatter(r.Span, p, device);
        if (masked || r.Span <= (long)row.Value(launch, "density") * r.Products) return r.Products * scatter + marks;
        if (r.Products <= row.Value(launch, "sort")) return r.Products * (1.5 + 0.12 * Math.Pow(Math.Log2(r.Products + 1), 2));
        double slots = row.Value(launch, "table") * r.Products;
        if (r.Span <= row.Value(launch, "cached") || slots > Slots) return r.Products * (scatter + 0.3) + Math.Min(marks, 8 * r.Entries);
        double reach = Reach(slots * (p.IndexBytes + ((DType)p.Type).Bits() / 8.0), device), load = r.Entries / slots;
        return r.Products * (2 + reach + 2 * load * load) + r.Entries * Math.Log2(r.Entries + 2);
    }

    /// <summary>Whether B is taken in blocks.</summary>
    private static bool InBlocks(Row row, in KnLaunch launch, in KnSpgemmProblem p, SpGemmSample sample) =>
        !SpGemmRules.Has(p, KnSpgemmFlags.Mask) && SpGemmRules.Has(p, KnSpgemmFlags.BSorted) && p.BNnz > 0 && p.Products / p.BNnz >= row.Value(launch, "blocks") &&
        sample.Fill >= LeastFill;

    /// <summary>A product into sums and marks that lie where their span has room: L1, L2, beyond.</summary>
    private static double Scatter(long span, in KnSpgemmProblem p, Device device) => Reach(span * (1 + ((DType)p.Type).Bits() / 8.0), device);

    private static double Reach(double bytes, Device device) => bytes <= Cache(device, 0, 48 << 10) ? 0.8 : bytes <= Cache(device, 1, 1 << 20) ? 1.5 : 4;

    /// <summary>Virtual machines may not tell the sizes of caches.</summary>
    private static double Cache(Device device, int level, int unknown) => device.CacheBytes.Length > level && device.CacheBytes[level] > 0 ? device.CacheBytes[level] : unknown;
}
