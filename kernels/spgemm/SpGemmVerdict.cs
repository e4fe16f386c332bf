using System.Numerics;

namespace Kernels;

/// <summary>A matrix of the host held to the oracle, row by row: structure identical, values within their tolerances.</summary>
/// <param name="Fault">The first entry that is not the oracle's; null if all are.</param>
/// <param name="Fraction">The worst error as a part of its tolerance.</param>
/// <param name="Ulp">The worst error in units of the last place.</param>
/// <param name="Relative">The worst error relative to its value.</param>
internal readonly record struct SpGemmVerdict(string? Fault, double Fraction, double Ulp, double Relative)
{
    internal static unsafe SpGemmVerdict Of<T>(CsrMatrix<T> c, Func<long, SpGemmExpectedRow> expected) where T : unmanaged, INumber<T>
    {
        var worst = new SpGemmVerdict(null, 0, 0, 0);
        var order = new List<(long Column, double Value)>();
        for (long i = 0; i < c.Rows; i++)
        {
            SpGemmExpectedRow row = expected(i);
            order.Clear();
            for (long j = c.OffsetsAt[i]; j < c.OffsetsAt[i + 1]; j++) order.Add((c.ColumnAt(j), c.HasValues ? double.CreateChecked(c.ValuesAt[j]) : 0));
            if (!c.Sorted) order.Sort((x, y) => x.Column.CompareTo(y.Column));
            if (order.Count != row.Columns.Length) return worst with { Fault = $"row {i} has {order.Count} entries, not {row.Columns.Length}" };
            for (int j = 0; j < order.Count; j++)
            {
                (long column, double value) = order[j];
                if (column != row.Columns[j]) return worst with { Fault = $"[{i}, entry {j}] is column {column}, not {row.Columns[j]}" };
                if (!c.HasValues) continue;
                if (!(Math.Abs(value - row.Values[j]) <= row.Tolerances[j] || value.Equals(row.Values[j])))
                    return worst with { Fault = $"[{i}, {column}] is {value:r}, exact {row.Values[j]:r}, tolerance {row.Tolerances[j]:0.##e+0}" };
                worst = worst.With<T>(Math.Abs(value - row.Values[j]), Math.Abs(row.Values[j]), row.Tolerances[j]);
            }
        }
        return worst;
    }

    private SpGemmVerdict With<T>(double error, double size, double tolerance)
    {
        if (!(error > 0) || !double.IsFinite(error)) return this;
        double ulp = typeof(T) == typeof(float) ? MathF.BitIncrement((float)size) - (float)size : Math.BitIncrement(size) - size;
        return this with { Fraction = Math.Max(Fraction, error / tolerance), Ulp = Math.Max(Ulp, error / ulp), Relative = Math.Max(Relative, size > 0 ? error / size : 0) };
    }
}
