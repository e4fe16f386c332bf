namespace Kernels.Tests.SpGemm;

/// <summary>Matrices in memory of the caller's.</summary>
[TestFixture]
public sealed class WrappedTests
{
    private static readonly long[] s_offsets = [0, 2, 3, 4];
    private static readonly int[] s_columns = [0, 2, 1, 0];

    [Test]
    public void AProductFollowsTheCallersValuesAndLeavesItsMemory()
    {
        using Buffer<long> offsets = Buffer<long>.Of(s_offsets), wide = Buffer<long>.Of(Array.ConvertAll(s_columns, c => (long)c));
        using Buffer<int> columns = Buffer<int>.Of(s_columns);
        using Buffer<double> values = Buffer<double>.Of([1.0, 2, 3, 4]);
        foreach (CsrMatrix<double> a in new[] { CsrMatrix.Wrap(3, 3, offsets, columns, values), CsrMatrix.Wrap(3, 3, offsets, wide, values) })
        {
            values.Span[0] = 1;
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a);
            using CsrMatrix<double> c = plan.Product(), transposed = a.Transpose();
            Assert.That(c.Values.ToArray(), Is.EqualTo(new double[] { 9, 2, 9, 4, 8 }));
            Assert.That(transposed.Values.ToArray(), Is.EqualTo(new double[] { 1, 4, 3, 2 }));
            values.Span[0] = 10;
            plan.Numeric(c);
            Assert.That(c.Values.ToArray(), Is.EqualTo(new double[] { 108, 20, 9, 40, 8 }));
            a.Dispose();
            Assert.That((offsets.Span[3], values.Span[3]), Is.EqualTo((4, 4)));
        }
    }

    [Test]
    public void APatternHasNoValues()
    {
        using Buffer<long> offsets = Buffer<long>.Of(s_offsets);
        using Buffer<int> columns = Buffer<int>.Of(s_columns);
        using CsrMatrix<float> a = CsrMatrix.Wrap<float>(3, 3, offsets, columns, null), c = Kernels.SpGemm.Multiply(a, a, new SpGemmOptions { StructureOnly = true });
        Assert.That((a.HasValues, a.NonZeros, c.HasValues, c.NonZeros), Is.EqualTo((false, 4, false, 5)));
    }

    [Test]
    public void WhatIsWrongIsNamed()
    {
        using Buffer<long> offsets = Buffer<long>.Of(s_offsets), down = Buffer<long>.Of([0L, 3, 2, 4]);
        using Buffer<int> columns = Buffer<int>.Of(s_columns), twice = Buffer<int>.Of([0, 0, 1, 0]);
        using Buffer<double> few = Buffer<double>.Of([1.0]);
        string? Refused(Buffer<long> o, Buffer<int> c, Buffer<double>? v) => Assert.Throws<KernelsException>(() => CsrMatrix.Wrap(3, 3, o, c, v))!.Argument;
        Assert.That((Refused(down, columns, null), Refused(offsets, twice, null), Refused(offsets, columns, few)), Is.EqualTo(("offsets", "columnIndices", "values")));
        Assert.That(() => CsrMatrix.Wrap<double>(3, 3, null!, columns, null), Throws.ArgumentNullException);
        Assert.That(() => CsrMatrix.Wrap<double>(3, 3, offsets, (Buffer<long>)null!, null), Throws.ArgumentNullException);
        CsrMatrix<double> a = CsrMatrix.Wrap<double>(3, 3, offsets, columns, null);
        columns.Dispose();
        Assert.That(Assert.Throws<KernelsException>(() => a.Transpose())!.Message, Does.Contain("disposed"));
    }
}
