namespace Kernels.Tests.SpGemm;

/// <summary>NaN and infinity of A and B reach the entries that their products fall on, and no others; the tropical semirings pass NaN over.</summary>
[TestFixture]
public sealed class NonFinite
{
    private static IEnumerable<string> Rows() => Device.Cpu.Table.Of(Kernels.Interop.Native.KnOp.SpGemm).Where(r => Device.Cpu.Table.Runs(r, out _)).Select(r => r.Name);

    [Test]
    public void ReachesItsEntriesAndNoOthers([ValueSource(nameof(Rows))] string row, [Values(double.NaN, double.PositiveInfinity, double.NegativeInfinity)] double value, [Values] bool inB)
    {
        // Rows short and long, so that every accumulator meets one.
        foreach (SparseStructure s in (SparseStructure[])[SpGemmMatrices.Rmat(8, 6, 3), SpGemmMatrices.Uniform(120, 120, 40, 4), SpGemmMatrices.PowerLaw(400, 4, 5), SpGemmMatrices.Laplace2D(12)])
        {
            var options = new SpGemmOptions { Row = row };
            using CsrMatrix<double> a = SpGemmTests.Of(s, i => 1.0 + i % 5), b = SpGemmTests.Of(s, i => 1.0 + i % 3);
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, b, options);
            using CsrMatrix<double> clean = plan.Product();
            int at = (int)(s.NonZeros / 2);
            (inB ? b : a).Values[at] = value;
            using CsrMatrix<double> spoilt = plan.Product();
            Assert.That(spoilt.ColumnIndices.SequenceEqual(clean.ColumnIndices));
            int k = s.Indices[at], from = 0;
            while (s.Offsets[from + 1] <= at) from++;
            int reached = 0;
            for (int i = 0; i < clean.Rows; i++)
                for (int j = (int)clean.RowOffsets[i]; j < clean.RowOffsets[i + 1]; j++)
                {
                    int column = clean.ColumnIndices[j];
                    bool spoils = inB ? column == k && Has(s, i, from) : i == from && Has(s, k, column);
                    if (spoils) reached++;
                    Assert.That(spoilt.Values[j], Is.EqualTo(spoils ? value : clean.Values[j]), $"[{i}, {column}] of {s.Rows} rows");
                }
            Assert.That(reached, Is.Positive);
        }
    }

    private static bool Has(SparseStructure s, int row, int column) => Array.BinarySearch(s.Indices, (int)s.Offsets[row], (int)(s.Offsets[row + 1] - s.Offsets[row]), column) >= 0;

    [Test]
    public void TropicalSemiringsPassNaNOver([ValueSource(nameof(Rows))] string row, [Values(Semiring.MinPlus, Semiring.MaxPlus)] Semiring semiring)
    {
        using CsrMatrix<double> a = CsrMatrix.Create<double>(1, 3, [0, 3], (int[])[0, 1, 2], [double.NaN, 5, 7]), b = CsrMatrix.Create<double>(3, 2, [0, 1, 2, 4], (int[])[0, 0, 0, 1], [1, 1, 1, double.NaN]);
        using CsrMatrix<double> c = Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { Row = row, Semiring = semiring });
        Assert.That(c.ColumnIndices.ToArray(), Is.EqualTo(new[] { 0, 1 }));
        Assert.That(c.Values[0], Is.EqualTo(semiring == Semiring.MinPlus ? 6 : 8));
        Assert.That(c.Values[1], Is.EqualTo(semiring == Semiring.MinPlus ? double.PositiveInfinity : double.NegativeInfinity), "no product but NaN leaves the zero");
    }
}
