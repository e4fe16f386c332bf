namespace Kernels.Tests.SpGemm;

/// <summary>What a product, and renewing its values, costs the garbage collector.</summary>
[TestFixture]
public sealed class NumericTests
{
    [Test]
    public void NumericAllocatesNothing([Values] bool native)
    {
        if (native && KernelTable.Default.Problem is { } problem) Assert.Ignore(problem);
        int[] diagonal = [.. Enumerable.Range(0, 50)];
        using CsrMatrix<double> a = CsrMatrix.FromCoo(50, 50, diagonal, diagonal, [.. diagonal.Select(i => i + 1.0)]);
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Row = native ? null : "spgemm/managed" });
        using CsrMatrix<double> c = plan.Symbolic();
        for (int i = 0; i < 50; i++) plan.Numeric(c);
        Assert.That(Allocations.Of(1000, () => plan.Numeric(c)), Is.Zero);
        Assert.That(c.Values[49], Is.EqualTo(2500));
        // Calls at the same time have scratch of their own.
        Parallel.For(0, 8, _ =>
        {
            using CsrMatrix<double> own = plan.Symbolic();
            for (int i = 0; i < 100; i++) plan.Numeric(own);
            Assert.That(own.Values[49], Is.EqualTo(2500));
        });
    }

    [Test]
    public void AProductAllocatesObjectsAlone()
    {
        if (KernelTable.Default.Problem is { } problem) Assert.Ignore(problem);
        int[] diagonal = [.. Enumerable.Range(0, 50)];
        using CsrMatrix<double> a = CsrMatrix.FromCoo(50, 50, diagonal, diagonal, [.. diagonal.Select(i => i + 1.0)]);
        for (int i = 0; i < 50; i++) Multiply();
        // A plan, a matrix and five blocks of memory: nothing that only says what was chosen.
        Assert.That(Allocations.Of(1000, Multiply), Is.LessThanOrEqualTo(1000 * 1024));

        void Multiply() => Kernels.SpGemm.Multiply(a, a).Dispose();
    }
}
