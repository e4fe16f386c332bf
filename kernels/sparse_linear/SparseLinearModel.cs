using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// The closed-form cost of sparse_linear: packed bytes over the bandwidth of memory against the dot products of all weights, for
/// none is skipped, and their expansion. Rates are those of FlatGemmModel, so that the two can be compared.
/// </summary>
internal static class SparseLinearModel
{
    private const double CallSeconds = 1e-6, TaskSeconds = 2e-7, Clock = 3.5e9;

    /// <summary>
    /// Cycles to expand one operand of a panel (load, mask, expand, count), and one of s8 that becomes several of another type. Zen 5 showed 0.8 of this,
    /// as it showed more than the model's rates of memory and of products: their ratios are what counts.
    /// </summary>
    private const double Expand = 2.5, ExpandDecoded = 5;

    public static double Seconds(Row row, in KnLaunch launch, in KnSparseLinearProblem p, int m, Device device, CacheState cache)
    {
        if (row is SparseLinearGpu gpu) return gpu.Seconds(p, launch, m);
        ref readonly KnFlatGemmProblem q = ref p.Layer;
        int threads = Math.Max(1, Math.Min(launch.Threads == 0 ? device.Threads : launch.Threads, device.Threads));
        var at = new SparsePanels(p);
        double operands = (double)at.Count * at.KPadded / at.Step;
        double bytes = p.Nnz * (double)at.Element + at.Count * at.KPadded * 2.0 + (double)m * q.K * ((DType)q.XType).Bits() / 8;
        double memory = FlatGemmModel.ReadSeconds(bytes, threads, device, cache) / FlatGemmModel.Draws(row);
        bool gemv = row.Name.EndsWith("gemv", StringComparison.Ordinal);
        int panels = launch.Param[0] == 0 ? 4 : launch.Param[0];
        // The tiles of sparse_linear_registers.h: each expands its weights anew.
        double passes = Math.Ceiling(m / (!gemv ? 256.0 : panels == 4 ? 6 : panels == 2 ? 8 : 16));
        bool decoded = (DType)q.WType == DType.Int8 && (DType)q.XType != DType.Int8 && ((KnGemmFlags)q.Flags & KnGemmFlags.QuantizeX) == 0;
        // flat writes what it expanded and reads it again for every tile of rows.
        double expand = operands * passes * (decoded ? ExpandDecoded : Expand) * (gemv ? 1 : 2) / Clock;
        // A chain of sums of one element takes 7 cycles a product, and one row has only as many of them as panels. One panel loads x for each product.
        double rate = FlatGemmModel.Rate(row, q) * Math.Min(gemv && panels == 1 ? 0.5 : 1, m / passes * panels / 14.0);
        double dots = 2.0 * Math.Max(m, 1) * at.Count * SparsePanels.Lanes * at.KPadded / rate;
        if (row.Target == "managed") (expand, dots) = Managed(q, m, (double)at.Count * at.KPadded);
        // gemv expands beside its products, but what s8 becomes takes their ports.
        bool beside = row.Target == "amx" || (gemv && !decoded);
        double apart = row.Target == "managed" ? 0.2 : beside ? 0.05 : 1;
        double compute = (Math.Max(expand, dots) + apart * Math.Min(expand, dots)) / threads;
        // Two streams for each of four panels draw less from memory than those of two or one, but for one thread with 4 rows and more, or where it draws them by way of L2.
        if (gemv && panels == 4 && ((m < 4 && !device.Table.FewL1Misses) || threads > 1)) memory *= 1.04;
        return Math.Max(memory, compute) + 0.1 * Math.Min(memory, compute) + CallSeconds + TaskSeconds * at.Count / 4 / threads;
    }

    /// <summary>Seconds of expanding and of products for so many k of 16 lanes, as Zen 3 showed them (2026-11-29): 2 ns a k, 3 of f16; a part of them side by side.</summary>
    private static (double Expand, double Dots) Managed(in KnFlatGemmProblem q, int m, double lanes)
    {
        double passes = m <= SparseLinearManagedPlan.ExpandFrom(q.WType) ? Math.Ceiling(m / 4.0) : 1.3 * Math.Ceiling(m / (double)SparseLinearManagedPlan.MaxRows);
        return (lanes * passes * ((DType)q.WType == DType.Float16 ? 3e-9 : 2e-9), 2.0 * Math.Max(m, 1) * SparsePanels.Lanes * lanes / 45e9);
    }
}
