using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>Masks on either side of what rows have code of their own for: see spgemm_masked.h.</summary>
[TestFixture]
public sealed class Masks
{
    private static readonly int[] s_lengths = [0, 1, 2, 100, 246, 247, 248, 249, 600];

    /// <summary>Entries in a row of A and of B: one row of B, few products, many, and enough to a register of columns for B in blocks.</summary>
    private static readonly (int A, int B)[] s_products = [(1, 90), (2, 25), (12, 90), (40, 300)];

    /// <summary>Against a product without a mask, of which the mask's entries are picked or left out: in order and not, all that count and some 0.</summary>
    [Test]
    public void RowsOfAnyLength([Values] bool complement, [Values] bool valued, [Values] bool sorted, [Values(1, 3)] int threads, [Values(Semiring.PlusTimes, Semiring.MinPlus, Semiring.OrAnd)] Semiring semiring,
        [ValueSource(nameof(s_products))] (int A, int B) entries)
    {
        int rows = s_lengths.Length;
        using CsrMatrix<double> a = SpGemmTests.Of(SpGemmMatrices.Uniform(rows, 40, entries.A, 51), i => 1 + i % 89 / 89.0);
        using CsrMatrix<double> b = SpGemmTests.Of(SpGemmMatrices.Uniform(40, 600, entries.B, 52), i => 1 - i % 7 / 3.0);
        using CsrMatrix<double> ordered = Mask(600), identity = Identity(rows);
        using CsrMatrix<double> mask = Kernels.SpGemm.Multiply(identity, ordered, new SpGemmOptions { Sorted = sorted });
        if (!sorted) SpGemmTests.Turn(mask);
        Assert.That(mask.NonZeros, Is.EqualTo(s_lengths.Sum()));
        var options = new SpGemmOptions { Semiring = semiring, Threads = threads };
        using CsrMatrix<double> all = Kernels.SpGemm.Multiply(a, b, options with { Row = "spgemm/managed" });
        using CsrMatrix<double> expected = Picked(all, ordered, valued, complement);
        foreach (Row row in Device.Cpu.Table.Of(KnOp.SpGemm).Where(r => Device.Cpu.Table.Runs(r, out _)))
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, b, options with { Row = row.Name, ValuedMask = valued, Complement = complement }, mask);
            using CsrMatrix<double> c = plan.Product(), known = plan.Symbolic();
            Assert.That(SpGemmSame.As(expected, c), row.Name);
            known.Values.Fill(double.NaN);
            plan.Numeric(known);
            Assert.That(SpGemmSame.As(expected, known), $"{row.Name}: the numeric phase");
        }
    }

    private static CsrMatrix<double> Identity(int n) =>
        CsrMatrix.Create<double>(n, n, [.. Enumerable.Range(0, n + 1).Select(i => (long)i)], (int[])[.. Enumerable.Range(0, n)], [.. Enumerable.Repeat(1.0, n)]);

    // Columns of a row are spread evenly; every third value is 0.
    private static CsrMatrix<double> Mask(int columns)
    {
        long[] offsets = [0, .. s_lengths.Select((_, i) => (long)s_lengths[..(i + 1)].Sum())];
        int[] indices = [.. s_lengths.SelectMany(n => Enumerable.Range(0, n).Select(j => (int)((long)j * columns / n)))];
        return CsrMatrix.Create<double>(s_lengths.Length, columns, offsets, indices, [.. Enumerable.Range(0, indices.Length).Select(i => i % 3 == 0 ? 0 : 1.0 + i)]);
    }

    private static CsrMatrix<double> Picked(CsrMatrix<double> all, CsrMatrix<double> mask, bool valued, bool complement)
    {
        var offsets = new List<long> { 0 };
        var columns = new List<int>();
        var values = new List<double>();
        for (int i = 0; i < all.Rows; i++)
        {
            Range row = (int)mask.RowOffsets[i]..(int)mask.RowOffsets[i + 1];
            HashSet<int> wanted = [.. mask.ColumnIndices[row].ToArray().Where((_, j) => !valued || mask.Values[row.Start.Value + j] != 0)];
            for (int j = (int)all.RowOffsets[i]; j < all.RowOffsets[i + 1]; j++)
            {
                if (wanted.Contains(all.ColumnIndices[j]) == complement) continue;
                columns.Add(all.ColumnIndices[j]);
                values.Add(all.Values[j]);
            }
            offsets.Add(columns.Count);
        }
        return CsrMatrix.Create<double>(all.Rows, all.Columns, offsets.ToArray(), columns.ToArray(), values.ToArray());
    }
}
