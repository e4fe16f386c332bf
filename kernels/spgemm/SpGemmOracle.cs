namespace Kernels;

/// <summary>A sparse operand of the oracle: any structure, values in float64 as the kernel's type holds them.</summary>
internal sealed record SpGemmOperand(SparseStructure Structure, double[] Values);

/// <summary>A row of C as the oracle has it: columns ascending, the exact value, and how far a right answer may be from it.</summary>
internal sealed record SpGemmExpectedRow(long[] Columns, double[] Values, double[] Tolerances);

/// <summary>
/// C = D (+) A . B in float64 by plain loops over a map of columns.
/// Tolerance of plus-times: t products, each rounded once and then in at most t additions, and d in as many, are off by at most
/// (t + 1) u sum|products| to first order (Higham 2002, lemma 3.1); the oracle's own sum likewise with the u of float64; a term
/// for underflow. Of min-plus and max-plus: one rounding. Booleans and counts are exact.
/// </summary>
internal static class SpGemmOracle
{
    internal static SpGemmExpectedRow[] Product(SpGemmOperand a, SpGemmOperand b, SpGemmOperand? d, SparseStructure? mask, bool complement,
        Semiring semiring, DType type)
    {
        var rows = new SpGemmExpectedRow[a.Structure.Rows];
        for (long i = 0; i < rows.Length; i++) rows[i] = Row(i, a, b, d, mask, complement, semiring, type);
        return rows;
    }

    internal static SpGemmExpectedRow Row(long i, SpGemmOperand a, SpGemmOperand b, SpGemmOperand? d, SparseStructure? mask, bool complement, Semiring semiring, DType type)
    {
        HashSet<int>? masked = mask is null ? null : [.. mask.Indices[(int)mask.Offsets[i]..(int)mask.Offsets[i + 1]]];
        var row = new SortedDictionary<int, Entry>();
        void Add(int c, double value)
        {
            Entry e = row.GetValueOrDefault(c, new Entry(Zero(semiring), 0, 0, true));
            row[c] = new Entry(Sum(semiring, e.Sum, value), e.Size + Math.Abs(value), e.Terms + 1, e.Whole && value == Math.Floor(value));
        }
        if (d is not null)
            for (long j = d.Structure.Offsets[i]; j < d.Structure.Offsets[i + 1]; j++) Add(d.Structure.Indices[j], d.Values[j]);
        for (long e = a.Structure.Offsets[i]; e < a.Structure.Offsets[i + 1]; e++)
        {
            long k = a.Structure.Indices[e];
            for (long j = b.Structure.Offsets[k]; j < b.Structure.Offsets[k + 1]; j++)
                if (masked is null || masked.Contains(b.Structure.Indices[j]) != complement)
                    Add(b.Structure.Indices[j], Product(semiring, a.Values[e], b.Values[j]));
        }
        return new SpGemmExpectedRow([.. row.Keys.Select(c => (long)c)], [.. row.Values.Select(e => e.Sum)], [.. row.Values.Select(e => Tolerance(e, semiring, type))]);
    }

    private readonly record struct Entry(double Sum, double Size, int Terms, bool Whole);

    private static double Tolerance(Entry e, Semiring semiring, DType type)
    {
        double u = type == DType.Float32 ? Math.ScaleB(1, -24) : Math.ScaleB(1, -53), tiny = type == DType.Float32 ? float.Epsilon : double.Epsilon;
        return semiring switch
        {
            Semiring.PlusTimes => (e.Terms + 1) * (u + Math.ScaleB(1, -53)) * e.Size + e.Terms * tiny,
            Semiring.MinPlus or Semiring.MaxPlus => u * Math.Abs(e.Sum) + tiny,
            // Counts are exact; an addend need not be a whole number.
            Semiring.PlusPair when !e.Whole => e.Terms * (u + Math.ScaleB(1, -53)) * e.Size,
            _ => 0,
        };
    }

    private static double Zero(Semiring semiring) => semiring switch
    {
        Semiring.MinPlus => double.PositiveInfinity,
        Semiring.MaxPlus => double.NegativeInfinity,
        _ => 0,
    };

    private static double Product(Semiring semiring, double a, double b) => semiring switch
    {
        Semiring.PlusTimes => a * b,
        Semiring.MinPlus or Semiring.MaxPlus => a + b,
        Semiring.OrAnd => a != 0 && b != 0 ? 1 : 0,
        _ => 1,
    };

    private static double Sum(Semiring semiring, double sum, double product) => semiring switch
    {
        Semiring.MinPlus => product < sum ? product : sum,
        Semiring.MaxPlus => product > sum ? product : sum,
        Semiring.OrAnd => sum != 0 || product != 0 ? 1 : 0,
        _ => sum + product,
    };
}
