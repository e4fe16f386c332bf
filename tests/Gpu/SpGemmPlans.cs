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
            Assert.That((plan.Schedule(c), plan.ScheduleBytes), Is.EqualTo((false, 0L)), "rows of a GPU keep no schedule");
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
        Assert.That(() => MatrixMarket.Write(new MemoryStream(), there), Throws.TypeOf<KernelsException>());
        using Buffer<long> offsets = Buffer<long>.Of(device, [0L, 0L]);
        using Buffer<int> columns = Buffer<int>.Of(device, [1]);
        Assert.That(() => CsrMatrix.Wrap<double>(1, 1, offsets, columns, null), Throws.TypeOf<KernelsException>());
    }

    /// <summary>The rows of the result are those of the host's transposition, bit for bit, whatever the order in which entries came to them.</summary>
    [Test]
    public void TransposesAreTheHosts([ValueSource(nameof(Devices))] string name)
    {
        Device device = Simulated.Open(name);
        // Columns of the result by a wave; by a block near and, of more than 2048 entries, in the device's memory.
        var matrices = SpGemmCases.Matrices.Select(m => m.A).Append(SpGemmMatrices.Uniform(1500, 3, 2, 1)).Append(SpGemmMatrices.Uniform(5000, 2, 3, 2));
        foreach (SparseStructure s in matrices)
        {
            Same<double>(device, s, 0.5, 32);
            Same<Int128>(device, s, -3, 64);
            Same<byte>(device, s, 7, 32);
            Same<float>(device, s, null, 64);
        }
        static void Same<T>(Device device, SparseStructure s, T? first, int bits) where T : unmanaged, System.Numerics.INumberBase<T>
        {
            T[]? values = first is { } f ? [.. Enumerable.Range(0, (int)s.NonZeros).Select(j => f * T.CreateTruncating(j + 1))] : null;
            using CsrMatrix<T> a = bits == 32 ? CsrMatrix.Create<T>(s.Rows, s.Columns, s.Offsets, s.Indices, values)
                : CsrMatrix.Create<T>(s.Rows, s.Columns, s.Offsets, Array.ConvertAll(s.Indices, c => (long)c), values);
            using CsrMatrix<T> there = a.CopyTo(device), transposed = there.Transpose(), here = transposed.CopyTo(Device.Cpu), expected = a.Transpose();
            Assert.That(transposed.Device, Is.SameAs(device));
            Assert.That((here.Rows, here.Columns, here.NonZeros, here.Sorted, here.HasValues), Is.EqualTo((a.Columns, a.Rows, a.NonZeros, true, a.HasValues)));
            Assert.That(here.RowOffsets.SequenceEqual(expected.RowOffsets));
            Assert.That(bits == 32 ? here.ColumnIndices.SequenceEqual(expected.ColumnIndices) : here.ColumnIndices64.SequenceEqual(expected.ColumnIndices64));
            Assert.That(here.Values.SequenceEqual(expected.Values));
            Assert.That(device.Fault, Is.Null);
        }
    }

    /// <summary>Rows in no order of columns come out in the order of rows.</summary>
    [TestCaseSource(nameof(Devices))]
    public void WhatIsUnsortedIsTransposedToo(string name)
    {
        Device device = Simulated.Open(name);
        using CsrMatrix<double> a = Matrix(60, 60, 6, 1), c = Kernels.SpGemm.Multiply(a, a, new SpGemmOptions { Sorted = false }), there = c.CopyTo(device);
        Assert.That(there.Sorted, Is.False);
        using CsrMatrix<double> transposed = there.Transpose(), expected = c.Transpose();
        AssertSame(transposed, expected);
    }

    [TestCaseSource(nameof(Devices))]
    public void ColumnsOf64Bits(string name)
    {
        Device device = Simulated.Open(name);
        using CsrMatrix<double> narrow = Matrix(30, 30, 4, 1), square = Kernels.SpGemm.Multiply(narrow, narrow);
        using CsrMatrix<double> a = CsrMatrix.Create<double>(30, 30, narrow.RowOffsets, Array.ConvertAll(narrow.ColumnIndices.ToArray(), c => (long)c), narrow.Values);
        using CsrMatrix<double> there = a.CopyTo(device), mixed = narrow.CopyTo(device);
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.SpGemm.Multiply(there, mixed))!.Message, Does.Contain("64 bits"));
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(there, there);
        foreach (CsrMatrix<double> c in new[] { plan.Product(), plan.Symbolic() })
            using (c)
            {
                plan.Numeric(c);
                using CsrMatrix<double> here = c.CopyTo(Device.Cpu);
                Assert.That(here.ColumnIndices64.ToArray(), Is.EqualTo(square.ColumnIndices.ToArray().Select(x => (long)x)));
                Assert.That(here.Values.SequenceEqual(square.Values));
            }
    }
}
