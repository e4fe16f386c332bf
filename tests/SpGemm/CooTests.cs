namespace Kernels.Tests.SpGemm;

/// <summary>Matrices from entries in any order.</summary>
[TestFixture]
public sealed class CooTests
{
    [Test]
    public void AddsWhatIsTwice()
    {
        using CsrMatrix<double> x = CsrMatrix.FromCoo<double>(3, 4, [2, 0, 2, 2, 0], [1, 3, 0, 1, 3], [1, 2, 4, 8, 16]);
        Assert.That(x.RowOffsets.ToArray(), Is.EqualTo(new long[] { 0, 1, 1, 3 }));
        Assert.That(x.ColumnIndices.ToArray(), Is.EqualTo(new[] { 3, 0, 1 }));
        Assert.That(x.Values.ToArray(), Is.EqualTo(new double[] { 18, 4, 9 }));
    }

    /// <summary>No sum wraps round, nor on the way to one that would fit; a float goes to infinity.</summary>
    [Test]
    public void RefusesSumsThatOverflow()
    {
        SpGemmTests.Refused("values", "[1, 2] that Int32", () => CsrMatrix.FromCoo<int>(2, 3, [1, 0, 1, 1], (int[])[2, 0, 2, 2], [int.MaxValue, 5, 1, -1]));
        SpGemmTests.Refused("values", "[0, 1] that SByte", () => CsrMatrix.FromCoo<sbyte>(1, 1L << 39, [0, 0], (long[])[1, 1], [-100, -29]));
        using CsrMatrix<int> most = CsrMatrix.FromCoo<int>(1, 1, [0, 0, 0], (int[])[0, 0, 0], [int.MaxValue, -1, 1]);
        using CsrMatrix<double> infinite = CsrMatrix.FromCoo<double>(1, 1, [0, 0], (int[])[0, 0], [double.MaxValue, double.MaxValue]);
        Assert.That((most.Values[0], infinite.Values[0]), Is.EqualTo((int.MaxValue, double.PositiveInfinity)));
    }

    /// <summary>Columns beyond 32 bits; sums in the order in which entries come, which rounding shows.</summary>
    [Test]
    public void Of64BitsAddsInOrder()
    {
        const long Far = 1L << 39;
        long[] rows = [1, 0, 1, 1, 1], columns = [Far, 7, 5, Far, Far];
        using CsrMatrix<double> x = CsrMatrix.FromCoo<double>(2, Far + 1, rows, columns, [1e16, 3, 4, 1, 1]);
        Assert.That((x.IndexBits, x.NonZeros), Is.EqualTo((64, 3)));
        Assert.That(x.RowOffsets.ToArray(), Is.EqualTo(new long[] { 0, 1, 3 }));
        Assert.That(x.ColumnIndices64.ToArray(), Is.EqualTo(new[] { 7, 5, Far }));
        Assert.That(x.Values.ToArray(), Is.EqualTo(new[] { 3, 4, 1e16 + 1 + 1 }).And.Not.EqualTo(new[] { 3, 4, 1e16 + 2 }));
        SpGemmTests.Refused("columnIndices", "entry 1", () => CsrMatrix.FromCoo<double>(2, Far, [0, 1], (long[])[0, Far], [1, 1]));
        SpGemmTests.Refused("rowIndices", "entry 0", () => CsrMatrix.FromCoo<double>(2, 2, (long[])[-1, 1], [0, 1], [1, 1]));
        SpGemmTests.Refused("columns", "not", () => CsrMatrix.FromCoo<double>(2, (1L << 40) + 1, (long[])[], []));
    }
}
