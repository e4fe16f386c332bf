namespace Kernels.Tests.Gpu;

/// <summary>Plans of sparse products on a device, against the same on the CPU.</summary>
[TestFixture]
public sealed class SpGemmPlans
{
    private static IEnumerable<string> Devices => Simulated.Names;

    private static CsrMatrix<double> Matrix(int rows, int columns, int perRow, int seed)
    {
        var random = new Random(seed);
        var offsets = new long[rows + 1];
        var indices = new List<int>();
        for (int i = 0; i < rows; i++)
        {
            indices.AddRange(Enumerable.Range(0, perRow).Select(_ => random.Next(columns)).Distinct().Order());
            offsets[i + 1] = indices.Count;
        }
        return CsrMatrix.Create(rows, columns, offsets, indices.ToArray(), indices.Select(_ => random.NextDouble() - 0.5).ToArray());
    }

    private static void AssertSame(CsrMatrix<double> there, CsrMatrix<double> expected)
    {
        using CsrMatrix<double> here = there.CopyTo(Device.Cpu);
        Assert.That(here.RowOffsets.ToArray(), Is.EqualTo(expected.RowOffsets.ToArray()));
        Assert.That(here.ColumnIndices.ToArray(), Is.EqualTo(expected.ColumnIndices.ToArray()));
        Assert.That(here.Values.ToArray().Select(BitConverter.DoubleToInt64Bits), Is.EqualTo(expected.Values.ToArray().Select(BitConverter.DoubleToInt64Bits)));
    }

    [TestCaseSource(nameof(Devices))]
    public void ProductSymbolicNumericAndPieces(string name)
    {
        Device device = Simulated.Open(name);
        using CsrMatrix<double> a = Matrix(50, 60, 5, 1), b = Matrix(60, 70, 6, 2), mask = Matrix(50, 70, 20, 3), d = Matrix(50, 70, 3, 4);
        using CsrMatrix<double> at = a.CopyTo(device), bt = b.CopyTo(device), maskt = mask.CopyTo(device), dt = d.CopyTo(device);
        using CsrMatrix<double> expected = Kernels.SpGemm.Multiply(a, b, mask: mask, addend: d);
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(at, bt, mask: maskt, addend: dt);
        Assert.That(plan.Choice.Dataflow.Row, Is.EqualTo("spgemm/gpu"));
        using (CsrMatrix<double> c = plan.Product()) AssertSame(c, expected);
        using (CsrMatrix<double> c = plan.Symbolic())
        {
            plan.Numeric(c);
            AssertSame(c, expected);
        }
        using SpGemmPlan<double> small = SpGemmPlan<double>.Create(at, bt, new SpGemmOptions { MemoryBudget = plan.Choice.WorkspaceBytes + 4000 }, maskt, dt);
        int pieces = 0;
        long entries = 0;
        foreach (CsrMatrix<double> piece in small.Pieces())
            using (piece) (pieces, entries) = (pieces + 1, entries + piece.NonZeros);
        Assert.That(pieces, Is.GreaterThan(1));
        Assert.That(entries, Is.EqualTo(expected.NonZeros));
    }

    [TestCaseSource(nameof(Devices))]
    public void MatricesAreWhereThePlanIs(string name)
    {
        Device device = Simulated.Open(name);
        using CsrMatrix<double> a = Matrix(10, 10, 3, 1), there = a.CopyTo(device);
        Assert.That(there.Device, Is.SameAs(device));
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.SpGemm.Multiply(there, a))!.Argument, Is.EqualTo("b"));
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.SpGemm.Multiply(a, a, device: device))!.Argument, Is.EqualTo("a"));
        Assert.That(() => Kernels.SpGemm.Multiply<double, PlusTimes<double>>(there, there), Throws.TypeOf<KernelsException>());
        Assert.That(() => there.Values.Length, Throws.TypeOf<KernelsException>());
        Assert.That(() => there.Transpose(), Throws.TypeOf<KernelsException>());
        Assert.That(() => MatrixMarket.Write(new MemoryStream(), there), Throws.TypeOf<KernelsException>());
        using Buffer<long> offsets = Buffer<long>.Of(device, [0L, 0L]);
        using Buffer<int> columns = Buffer<int>.Of(device, [1]);
        Assert.That(() => CsrMatrix.Wrap<double>(1, 1, offsets, columns, null), Throws.TypeOf<KernelsException>());
        var wide = CsrMatrix.Create<double>(2, 2, [0L, 1, 2], [0L, 1L], [1.0, 2.0]);
        using CsrMatrix<double> widet = wide.CopyTo(device);
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.SpGemm.Multiply(widet, widet))!.Message, Does.Contain("IndexBytes"));
    }
}
