namespace Kernels.Tests.SpGemm;

/// <summary>What a product reads stays until it is done, and what was disposed before is refused by name.</summary>
[TestFixture]
public sealed class Lifetime
{
    private const int N = 20000;  // large enough for the pool, which hands memory on

    private static CsrMatrix<double> Diagonal(double value) =>
        CsrMatrix.Create<double>(N, N, [.. Enumerable.Range(0, N + 1)], (int[])[.. Enumerable.Range(0, N)], [.. Enumerable.Repeat(value, N)]);

    private readonly struct Interrupted : ISemiring<double>
    {
        public static Action? Once;

        public static double Zero => 0;

        public static double Add(double sum, double product) => sum + product;

        public static double Multiply(double a, double b)
        {
            Interlocked.Exchange(ref Once, null)?.Invoke();
            return a * b;
        }
    }

    [Test]
    public void AnOperandThatIsDisposedDuringAProductIsReadToTheEnd([Values] bool numeric)
    {
        using CsrMatrix<double> a = Diagonal(2);
        CsrMatrix<double> b = Diagonal(3);
        var others = new List<CsrMatrix<double>>();
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create<Interrupted>(a, b);
        using CsrMatrix<double>? known = numeric ? plan.Symbolic() : null;
        Interrupted.Once = () =>
        {
            b.Dispose();
            for (int i = 0; i < 3; i++) others.Add(Diagonal(100));
        };
        if (known is not null) plan.Numeric(known);
        using CsrMatrix<double> c = known ?? plan.Product();
        Assert.That(Interrupted.Once, Is.Null);
        Assert.That(c.Values.IndexOfAnyExcept(6.0), Is.EqualTo(-1));
        foreach (CsrMatrix<double> other in others) other.Dispose();
    }

    [Test]
    public void WhatWasDisposedIsNamed()
    {
        static void Refused(string argument, Action call) => Assert.That(Assert.Throws<KernelsException>(call)!.Argument, Is.EqualTo(argument));
        using CsrMatrix<double> a = Diagonal(2);
        CsrMatrix<double> gone = Diagonal(3);
        gone.Dispose();
        Refused("a", () => Kernels.SpGemm.Multiply(gone, a));
        Refused("b", () => Kernels.SpGemm.Multiply(a, gone));
        Refused("mask", () => Kernels.SpGemm.Multiply(a, a, mask: gone));
        Refused("addend", () => Kernels.SpGemm.Multiply(a, a, addend: gone));
        var plan = SpGemmPlan<double>.Create(a, a);
        using CsrMatrix<double> c = plan.Symbolic();
        CsrMatrix<double> other = plan.Symbolic();
        other.Dispose();
        Refused("c", () => plan.Numeric(other));
        plan.Dispose();
        Refused("plan", () => plan.Numeric(c));
        Refused("plan", () => plan.Product());
    }
}
