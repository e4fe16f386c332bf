using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A row of C as its accumulators see it.</summary>
/// <param name="Products">Products of the row.</param>
/// <param name="Span">From its first column to its last.</param>
/// <param name="Entries">Distinct columns, estimated from the products that were looked at.</param>
/// <param name="Blocks">Products as blocks of B, estimated likewise: entries of a row of B in one aligned register of columns are one.</param>
internal readonly record struct SpGemmSampledRow(long Products, long Span, double Entries, double Blocks);

/// <summary>
/// What of a product its thresholds depend on, each in powers: rows, products of a row, products that meet in an entry (by a sample of
/// rows), and the longest row over the average one. Products of one class share their tuned thresholds.
/// </summary>
internal readonly record struct SpGemmClass(int Log2Rows, int Log2PerRow, int Log2Ratio, int Log4Skew)
{
    public override string ToString() => $"2^{Log2Rows} rows of 2^{Log2PerRow} products, 2^{Log2Ratio} to an entry, the longest 4^{Log4Skew} of them";
}

/// <summary>A few rows of a product, spread evenly over its products, so that rows count by their work.</summary>
internal sealed unsafe class SpGemmSample
{
    private const int Rows = 16, Looked = 1024, Slots = 2048;

    /// <summary>The rows.</summary>
    public IReadOnlyList<SpGemmSampledRow> Sampled { get; }

    /// <summary>Products to an entry of C.</summary>
    public double Ratio { get; }

    /// <summary>Entries of B to a block, by their use.</summary>
    public double Fill { get; }

    public SpGemmClass Class { get; }

    /// <summary>Looks at operands of the host that ANALYSE has checked. Costs some 50 us whatever their size.</summary>
    public SpGemmSample(in KnSpgemmProblem p, in KnSpgemmArgs a) : this(p, Look(p, a)) { }

    /// <summary>Of operands on a GPU, which are not looked into: the class is one of any ratio.</summary>
    public SpGemmSample(in KnSpgemmProblem p) : this(p, []) { }

    private SpGemmSample(in KnSpgemmProblem p, IReadOnlyList<SpGemmSampledRow> sampled)
    {
        double average = Math.Max(1, p.Products / Math.Max(1.0, p.M)), entries = sampled.Sum(r => r.Entries), blocks = sampled.Sum(r => r.Blocks);
        Sampled = sampled;
        Ratio = entries > 0 ? sampled.Sum(r => (double)r.Products) / entries : 1;
        Fill = blocks > 0 ? sampled.Sum(r => (double)r.Products) / blocks : 1;
        Class = new SpGemmClass(Log2(p.M), Log2(average), Log2(Ratio), Log2(p.Most / average) / 2);
    }

    private static List<SpGemmSampledRow> Look(in KnSpgemmProblem p, in KnSpgemmArgs a)
    {
        var sampled = new List<SpGemmSampledRow>();
        Span<long> table = new long[Slots];
        for (int t = 0; t < Rows && p.Products > 0; t++)
        {
            SpGemmSampledRow row = Look(p, a, RowOf(p, a, (long)((Int128)p.Products * (2 * t + 1) / (2 * Rows))), table);
            if (row.Products > 0) sampled.Add(row);
        }
        return sampled;
    }

    private static int Log2(double x) => x < 2 ? 0 : (int)Math.Log2(x);

    /// <summary>The row that the product falls into.</summary>
    private static long RowOf(in KnSpgemmProblem p, in KnSpgemmArgs a, long product)
    {
        long low = 0, high = p.M - 1;
        while (low < high)
        {
            long middle = low + (high - low) / 2;
            if (a.Products[middle + 1] <= product) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    private static SpGemmSampledRow Look(in KnSpgemmProblem p, in KnSpgemmArgs a, long i, Span<long> table)
    {
        table.Fill(-1);
        long looked = 0, products = 0, low = long.MaxValue, high = -1, distinct = 0, blocks = 0, width = p.Type == (int)DType.Float64 ? 8 : 16;
        // Rows of B all over the span, since neighbours have more in common than others.
        long every = (a.Products[i + 1] - a.Products[i]) / Looked + 1;
        for (long e = a.A.Offsets[i]; e < a.A.Offsets[i + 1]; e++)
        {
            long k = SpGemmAnalysis.Column(a.A, p.IndexBytes, e), from = a.B.Offsets[k], to = a.B.Offsets[k + 1];
            products += to - from;
            if (from == to) continue;
            // Ends of an unsorted row are any columns: the span is then too short, as what was not looked at may leave it.
            (low, high) = (Math.Min(low, SpGemmAnalysis.Column(a.B, p.IndexBytes, from)), Math.Max(high, SpGemmAnalysis.Column(a.B, p.IndexBytes, to - 1)));
            if ((e - a.A.Offsets[i]) % every != 0) continue;
            for (long j = from, block = -1; j < to && looked < Looked; j++, looked++)
            {
                long column = SpGemmAnalysis.Column(a.B, p.IndexBytes, j);
                distinct += Insert(table, column);
                if (column / width != block) blocks++;
                block = column / width;
            }
        }
        long span = Math.Max(high - low + 1, 1);
        return new SpGemmSampledRow(products, span, looked == products ? distinct : Entries(distinct, looked, products, span), (double)blocks * products / Math.Max(looked, 1));
    }

    /// <summary>
    /// Entries of the whole row if its products fall on s columns evenly: s (1 - exp(-products / s)), with the s that explains what was seen.
    /// </summary>
    private static double Entries(double distinct, double looked, double products, double span)
    {
        double low = 1, high = span;
        for (int step = 0; step < 40; step++)
        {
            double s = Math.Sqrt(low * high);
            (low, high) = s * -double.ExpM1(-looked / s) < distinct ? (s, high) : (low, s);
        }
        return high * -double.ExpM1(-products / high);
    }

    /// <summary>1 where the column is new.</summary>
    private static int Insert(Span<long> table, long column)
    {
        int at = (int)(BitOperations.RotateLeft((ulong)column * 0x9e3779b97f4a7c15, 20) % Slots);
        while (table[at] >= 0 && table[at] != column) at = (at + 1) % Slots;
        if (table[at] == column) return 0;
        table[at] = column;
        return 1;
    }
}
