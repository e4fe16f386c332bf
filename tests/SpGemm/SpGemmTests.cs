using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>The public surface: products, plans, budgets, refusals.</summary>
[TestFixture]
public sealed class SpGemmTests
{
    /// <summary>A matrix of this structure with small whole numbers, whose sums are exact.</summary>
    internal static CsrMatrix<T> Of<T>(SparseStructure s, Func<int, T> value) where T : unmanaged =>
        CsrMatrix.Create<T>(s.Rows, s.Columns, s.Offsets, s.Indices, [.. Enumerable.Range(0, (int)s.NonZeros).Select(value)]);

    private static Dictionary<(long, long), double> Entries(CsrMatrix<double> x)
    {
        var entries = new Dictionary<(long, long), double>();
        for (int i = 0; i < x.Rows; i++)
            for (long j = x.RowOffsets[i]; j < x.RowOffsets[i + 1]; j++) entries.Add((i, x.ColumnIndices[(int)j]), x.Values[(int)j]);
        return entries;
    }

    private static Dictionary<(long, long), double> Plain(CsrMatrix<double> a, CsrMatrix<double> b)
    {
        var sums = new Dictionary<(long, long), double>();
        foreach (((long i, long k), double x) in Entries(a))
            for (long j = b.RowOffsets[(int)k]; j < b.RowOffsets[(int)k + 1]; j++)
                sums[(i, b.ColumnIndices[(int)j])] = sums.GetValueOrDefault((i, b.ColumnIndices[(int)j])) + x * b.Values[(int)j];
        return sums;
    }

    private static SparseStructure Rmat => SpGemmMatrices.Rmat(8, 6, 3);

    [Test]
    public void TwoByTwo()
    {
        using CsrMatrix<double> a = CsrMatrix.Create<double>(2, 2, [0, 2, 3], (int[])[0, 1, 1], [1, 2, 3]);
        using CsrMatrix<double> c = Kernels.SpGemm.Multiply(a, a);
        Assert.That(c.RowOffsets.ToArray(), Is.EqualTo(new long[] { 0, 2, 3 }));
        Assert.That(c.ColumnIndices.ToArray(), Is.EqualTo(new[] { 0, 1, 1 }));
        Assert.That(c.Values.ToArray(), Is.EqualTo(new double[] { 1, 8, 9 }));
    }

    [Test]
    public void AProductIsThePlainOneAndNumericFollowsTheValues()
    {
        using CsrMatrix<double> a = Of(Rmat, i => (double)(i % 7 - 3));
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a);
        using CsrMatrix<double> c = plan.Product(), s = plan.Symbolic();
        Assert.That(Entries(c), Is.EquivalentTo(Plain(a, a)));
        Assert.That(s.ColumnIndices.ToArray(), Is.EqualTo(c.ColumnIndices.ToArray()));
        foreach (int step in new[] { 1, 2 })
        {
            for (int j = 0; j < a.NonZeros; j++) a.Values[j] = (j * step) % 5 - 2;
            s.Values.Fill(double.NaN);
            plan.Numeric(s);
            Assert.That(Entries(s), Is.EquivalentTo(Plain(a, a)));
        }
    }

    [Test]
    public void ATransposeTimesTheMatrix()
    {
        using CsrMatrix<double> a = Of(SpGemmMatrices.Uniform(90, 70, 6, 18), i => (double)(i % 9)), t = a.Transpose(), back = t.Transpose(), c = Kernels.SpGemm.Multiply(t, a);
        Assert.That(Entries(t), Is.EquivalentTo(Entries(a).ToDictionary(e => (e.Key.Item2, e.Key.Item1), e => e.Value)));
        Assert.That(back.ColumnIndices.ToArray(), Is.EqualTo(a.ColumnIndices.ToArray()));
        Assert.That(Entries(c), Is.EquivalentTo(Plain(t, a)));
    }

    /// <summary>A semiring of a test's own: the most significant route.</summary>
    private readonly struct MaxMin : ISemiring<int>
    {
        public static int Zero => int.MinValue;

        public static int Add(int sum, int product) => Math.Max(sum, product);

        public static int Multiply(int a, int b) => Math.Min(a, b);
    }

    private readonly struct Faulty : ISemiring<int>
    {
        public static int Zero => 0;

        public static int Add(int sum, int product) => throw new InvalidOperationException("this operator throws");

        public static int Multiply(int a, int b) => 0;
    }

    [Test]
    public void AUsersSemiring()
    {
        using CsrMatrix<int> a = Of(Rmat, i => i % 50);
        using CsrMatrix<int> c = Kernels.SpGemm.Multiply<int, MaxMin>(a, a);
        var expected = new SortedDictionary<(long, long), int>();
        for (int i = 0; i < a.Rows; i++)
            for (long e = a.RowOffsets[i]; e < a.RowOffsets[i + 1]; e++)
                for (long j = a.RowOffsets[a.ColumnIndices[(int)e]]; j < a.RowOffsets[a.ColumnIndices[(int)e] + 1]; j++)
                    expected[(i, a.ColumnIndices[(int)j])] = Math.Max(expected.GetValueOrDefault((i, a.ColumnIndices[(int)j]), int.MinValue), Math.Min(a.Values[(int)e], a.Values[(int)j]));
        Assert.That(c.Values.ToArray(), Is.EqualTo(expected.Values));
        var thrown = Assert.Throws<KernelsException>(() => Kernels.SpGemm.Multiply<int, Faulty>(a, a))!;
        Assert.That(thrown.Message, Does.Contain("this operator throws"));
    }

    [Test]
    public void PiecesAreTheProductAndKeepToTheBudget()
    {
        using CsrMatrix<double> a = Of(Rmat, i => (double)(i % 7 - 3));
        using CsrMatrix<double> whole = Kernels.SpGemm.Multiply(a, a);
        foreach (string? row in (string?[])[null, "spgemm/managed"])
        {
            long scratch = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Row = row, Threads = 1, MemoryBudget = 1 }).Choice.WorkspaceBytes;
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Row = row, Threads = 1, MemoryBudget = scratch + 40_000 });
            Assert.That(plan.Choice.WorkspaceBytes, Is.LessThanOrEqualTo(scratch + 40_000));
            long at = 0, entry = 0;
            int pieces = 0;
            foreach (CsrMatrix<double> piece in plan.Pieces())
            {
                using (piece)
                {
                    Assert.That(plan.Choice.WorkspaceBytes + piece.NonZeros * 12 + piece.RowOffsets.Length * 8, Is.LessThanOrEqualTo(scratch + 40_000));
                    Assert.That(piece.ColumnIndices.SequenceEqual(whole.ColumnIndices.Slice((int)entry, (int)piece.NonZeros)));
                    Assert.That(piece.Values.SequenceEqual(whole.Values.Slice((int)entry, (int)piece.NonZeros)));
                    (at, entry, pieces) = (at + piece.Rows, entry + piece.NonZeros, pieces + 1);
                }
            }
            Assert.That((at, entry), Is.EqualTo((whole.Rows, whole.NonZeros)));
            Assert.That(pieces, Is.GreaterThan(3));
            var e = Assert.Throws<KernelsException>(() => plan.Product())!;
            Assert.That((e.Status, e.Argument), Is.EqualTo((Status.NoMemory, "MemoryBudget")));
            using SpGemmPlan<double> small = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Row = row, Threads = 1, MemoryBudget = scratch + 100 });
            Assert.That(() => small.Pieces().Count(), Throws.TypeOf<KernelsException>().With.Message.Contains("MemoryBudget"));
        }
    }

    private static void Refused(string argument, string rule, Action call)
    {
        var e = Assert.Throws<KernelsException>(() => call())!;
        Assert.That(e.Argument, Is.EqualTo(argument), e.Message);
        Assert.That(e.Message, Does.Contain(rule));
    }

    [Test]
    public void ABadMatrixIsRefusedByName()
    {
        Refused("rows", "-1", () => CsrMatrix.Create<double>(-1, 2, [0], (int[])[], []));
        Refused("offsets", "3 offsets", () => CsrMatrix.Create<double>(2, 2, [0, 1], (int[])[0], [1]));
        Refused("offsets", "begin with 0", () => CsrMatrix.Create<double>(1, 2, [1, 1], (int[])[0], [1]));
        Refused("offsets", "row 1 begins at 2", () => CsrMatrix.Create<double>(2, 2, [0, 2, 1], (int[])[0, 1], [1, 2]));
        Refused("indices", "as the last offset says", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[0], [1]));
        Refused("values", "2 values", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[0, 1], [1]));
        Refused("indices", "not 2 in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[0, 2], [1, 1]));
        Refused("indices", "not -5 in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 1], (long[])[-5], [1]));
        Refused("indices", "twice in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[1, 1], [1, 1]));
        Refused("indices", "1 is before 0 in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 2], (long[])[1, 0], [1, 1]));
        Refused("columnIndices", "entry 1", () => CsrMatrix.FromCoo<double>(2, 2, [0, 1], [0, 2], [1, 1]));
        Refused("rowIndices", "entry 0", () => CsrMatrix.FromCoo<double>(2, 2, [-1, 1], [0, 1], [1, 1]));
        Refused("values", "2 values", () => CsrMatrix.FromCoo<double>(2, 2, [0, 1], [0, 1], [1]));
        Assert.That(CsrMatrix.Create<float>(0, 7, [0], (int[])[], []).NonZeros, Is.Zero);
    }

    [Test]
    public void ABadProductIsRefusedByName()
    {
        using CsrMatrix<double> a = Of(SpGemmMatrices.Uniform(4, 5, 2, 1), i => (double)i), pattern = CsrMatrix.Create<double>(5, 4, [0, 1, 1, 1, 1, 1], (int[])[0]);
        using CsrMatrix<double> wide = CsrMatrix.Create<double>(5, 4, [0, 1, 1, 1, 1, 1], (long[])[0], [1]), b = a.Transpose();
        Refused("b", "5 rows", () => Kernels.SpGemm.Multiply(a, a));
        Refused("b", "32 bits", () => Kernels.SpGemm.Multiply(a, wide));
        Refused("b", "values", () => Kernels.SpGemm.Multiply(a, pattern));
        Refused("mask", "[4, 4]", () => Kernels.SpGemm.Multiply(a, b, mask: a));
        Refused("Complement", "a mask", () => Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { Complement = true }));
        Refused("Row", "spgemm/nonsense", () => Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { Row = "spgemm/nonsense" }));
        Refused("MemoryBudget", "-1", () => Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { MemoryBudget = -1 }));
        using CsrMatrix<int> whole = Of(SpGemmMatrices.Identity(3), i => i);
        Refused("T", "type argument", () => Kernels.SpGemm.Multiply(whole, whole));
        using CsrMatrix<double> counts = Kernels.SpGemm.Multiply(pattern, a, new SpGemmOptions { Semiring = Semiring.PlusPair });
        Assert.That(counts.Values.ToArray(), Is.All.EqualTo(1.0));
    }

    [Test]
    public void CooAddsWhatIsTwice()
    {
        using CsrMatrix<double> x = CsrMatrix.FromCoo<double>(3, 4, [2, 0, 2, 2, 0], [1, 3, 0, 1, 3], [1, 2, 4, 8, 16]);
        Assert.That(x.RowOffsets.ToArray(), Is.EqualTo(new long[] { 0, 1, 1, 3 }));
        Assert.That(x.ColumnIndices.ToArray(), Is.EqualTo(new[] { 3, 0, 1 }));
        Assert.That(x.Values.ToArray(), Is.EqualTo(new double[] { 18, 4, 9 }));
    }

    /// <summary>What the pool was asked for between pieces, scratch and C together, never passes the budget; and pieces make up C.</summary>
    [Test, NonParallelizable]
    public void MemoryStaysWithinTheBudget([Values(400_000, 2_000_000, 20_000_000)] long budget, [Values(1, 3)] int threads, [Values(true, false)] bool sorted)
    {
        SparseStructure s = SpGemmMatrices.Rmat(11, 8, 3);
        using CsrMatrix<double> a = Of(s, i => 1.0 + i % 7);
        foreach (Row row in Device.Cpu.Table.Of(KnOp.SpGemm).Where(r => Device.Cpu.Table.Runs(r, out _)))
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { MemoryBudget = budget, Threads = threads, Row = row.Name, Sorted = sorted });
            long before = PooledMemory.Asked, rows = 0;
            PooledMemory.MostAsked = before;
            try
            {
                foreach (CsrMatrix<double> piece in plan.Pieces())
                    using (piece) rows += piece.Rows;
                Assert.That(rows, Is.EqualTo(s.Rows), row.Name);
            }
            catch (KernelsException e) when (e.Status == Status.NoMemory)
            {
                Assert.That(budget, Is.LessThan(20_000_000), $"{row.Name}: {e.Message}");
            }
            try
            {
                plan.Product().Dispose();
            }
            catch (KernelsException e) when (e.Status == Status.NoMemory)
            {
                Assert.That(budget, Is.LessThan(20_000_000), $"{row.Name}: {e.Message}");
            }
            Assert.That(PooledMemory.MostAsked - before, Is.LessThanOrEqualTo(budget), $"{row.Name}, {plan.Choice}");
            // A budget below the scratch of a row is refused before anything is rented.
            if (budget >= 2_000_000) Assert.That(PooledMemory.MostAsked, Is.GreaterThan(before), "something was measured");
        }
    }

    [Test]
    public void AValuedMaskCountsWhatIsNotZero([Values(true, false)] bool complement)
    {
        using CsrMatrix<double> a = CsrMatrix.Create<double>(2, 3, [0, 2, 3], (int[])[0, 2, 1], [1, 2, 3]), b = CsrMatrix.Create<double>(3, 2, [0, 2, 3, 5], (int[])[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]);
        using CsrMatrix<double> mask = CsrMatrix.Create<double>(2, 2, [0, 2, 3], (int[])[0, 1, 1], [0, double.NaN, -0.0]);
        var options = new SpGemmOptions { ValuedMask = true, Complement = complement };
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, b, options, mask);
        using CsrMatrix<double> c = plan.Product(), symbolic = plan.Symbolic();
        plan.Numeric(symbolic);
        foreach (CsrMatrix<double> x in (CsrMatrix<double>[])[c, symbolic])
            Assert.That(Entries(x), Is.EquivalentTo(complement ? new Dictionary<(long, long), double> { [(0, 0)] = 3, [(1, 1)] = 3 } : new() { [(0, 1)] = 3 }));
        Assert.That(() => Kernels.SpGemm.Multiply(a, b, options), Throws.TypeOf<KernelsException>());
        Assert.That(() => Kernels.SpGemm.Multiply(a, b, options with { StructureOnly = true }, mask), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("ValuedMask"));
    }
}
