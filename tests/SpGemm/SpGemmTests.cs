using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>The public surface: products, plans, budgets, refusals.</summary>
[TestFixture]
public sealed class SpGemmTests
{
    /// <summary>Rows of <paramref name="c"/>, which says that it is not sorted, backwards: now it is not.</summary>
    internal static void Turn(CsrMatrix<double> c)
    {
        Assert.That(c.Sorted, Is.False);
        Span<int> columns = MemoryMarshal.CreateSpan(ref MemoryMarshal.GetReference(c.ColumnIndices), (int)c.NonZeros);
        for (int i = 0; i < c.Rows; i++)
        {
            Range row = (int)c.RowOffsets[i]..(int)c.RowOffsets[i + 1];
            columns[row].Reverse();
            c.Values[row].Reverse();
        }
    }

    /// <summary>A matrix of this structure, with a value for each entry by its number.</summary>
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

    /// <summary>What Is.EquivalentTo says, in time that does not grow with the square of the entries.</summary>
    private static void AssertSame<T>(Dictionary<(long, long), T> entries, Dictionary<(long, long), T> expected) =>
        Assert.That(entries.Count == expected.Count && entries.All(e => expected.TryGetValue(e.Key, out T? value) && value!.Equals(e.Value)), "the entries of the plain product");

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
        AssertSame(Entries(c), Plain(a, a));
        Assert.That(s.ColumnIndices.ToArray(), Is.EqualTo(c.ColumnIndices.ToArray()));
        foreach (int step in new[] { 1, 2 })
        {
            for (int j = 0; j < a.NonZeros; j++) a.Values[j] = (j * step) % 5 - 2;
            s.Values.Fill(double.NaN);
            plan.Numeric(s);
            AssertSame(Entries(s), Plain(a, a));
        }
    }

    /// <summary>Values go to places that are not looked up again: another structure, of the same shape and as many entries, is refused.</summary>
    [Test]
    public void NumericTakesTheMatricesOfItsPlanAlone([Values(true, false)] bool sorted)
    {
        var options = new SpGemmOptions { Sorted = sorted };
        using CsrMatrix<double> a = Of(Rmat, i => (double)(i % 7 - 3)), t = a.Transpose();
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, options), same = SpGemmPlan<double>.Create(a, a, options), other = SpGemmPlan<double>.Create(t, t, options);
        using CsrMatrix<double> c = plan.Product(), copy = c.CopyTo(Device.Cpu), theirs = other.Product(), equal = same.Symbolic();
        Assert.That((theirs.Rows, theirs.Columns, theirs.NonZeros), Is.EqualTo((c.Rows, c.Columns, c.NonZeros)), "nothing but the structure differs");
        foreach (CsrMatrix<double> foreign in (CsrMatrix<double>[])[theirs, equal, a])
        {
            double[] before = foreign.Values.ToArray();
            Refused("c", "of this plan", () => plan.Numeric(foreign));
            Assert.That(foreign.Values.SequenceEqual(before));
        }
        using SpGemmPlan<double> rows = SpGemmPlan<double>.Create(a, a, options with { MemoryBudget = plan.Choice.WorkspaceBytes + 40_000, Dataflow = plan.Choice.Dataflow });
        using CsrMatrix<double> piece = rows.Pieces().First();
        Assert.That(piece.Rows, Is.LessThan(a.Rows));
        Refused("c", $"[{a.Rows}, {a.Columns}]", () => rows.Numeric(piece));
        copy.Values.Fill(double.NaN);
        plan.Numeric(copy);
        Assert.That(copy.Values.SequenceEqual(c.Values));
    }

    [Test]
    public void ATransposeTimesTheMatrix()
    {
        using CsrMatrix<double> a = Of(SpGemmMatrices.Uniform(90, 70, 6, 18), i => (double)(i % 9)), t = a.Transpose(), back = t.Transpose(), c = Kernels.SpGemm.Multiply(t, a);
        AssertSame(Entries(t), Entries(a).ToDictionary(e => (e.Key.Item2, e.Key.Item1), e => e.Value));
        Assert.That(back.ColumnIndices.ToArray(), Is.EqualTo(a.ColumnIndices.ToArray()));
        AssertSame(Entries(c), Plain(t, a));
    }

    /// <summary>Entries enough for several workers, each of which counts and moves a part of the rows; so many columns that they go to parts of them first; and neighbours.</summary>
    [Test]
    public void ALargeTransposeIsTheSameForAnyThreads([Values(2500, 300_000, 0)] int width, [Values(true, false)] bool values, [Values(32, 64)] int indexBits)
    {
        SparseStructure s = width == 0 ? SpGemmMatrices.Laplace2D(520) : SpGemmMatrices.Uniform(4000, width, 30, 41), expected = SpGemmMatrices.Transpose(s);
        Assert.That(s.NonZeros, Is.GreaterThan(100_000));
        // A value says where its entry was.
        int[] rows = [.. Enumerable.Range(0, (int)s.Rows).SelectMany(i => Enumerable.Repeat(i, (int)(s.Offsets[i + 1] - s.Offsets[i])))];
        double[] places = values ? [.. rows.Select((row, j) => (double)(row * s.Columns + s.Indices[j]))] : [];
        using CsrMatrix<double> a = indexBits == 32 ? CsrMatrix.Create<double>(s.Rows, s.Columns, s.Offsets, s.Indices, places)
            : CsrMatrix.Create<double>(s.Rows, s.Columns, s.Offsets, Array.ConvertAll(s.Indices, c => (long)c), places);
        Assert.That(indexBits == 32 ? TranspositionByParts<int, double>.Pays(a) : TranspositionByParts<long, double>.Pays(a), Is.EqualTo(width == 300_000));
        try
        {
            foreach (int threads in (int[])[1, 2, 7])
            {
                Device.Cpu.SetThreads(threads);
                using CsrMatrix<double> t = a.Transpose();
                Assert.That((t.Rows, t.Columns, t.IndexBits, t.HasValues, t.Sorted), Is.EqualTo((s.Columns, s.Rows, indexBits, values, true)));
                Assert.That(t.RowOffsets.SequenceEqual(expected.Offsets), $"{threads} threads");
                long[] columns = indexBits == 32 ? Array.ConvertAll(t.ColumnIndices.ToArray(), c => (long)c) : t.ColumnIndices64.ToArray();
                Assert.That(columns.AsSpan().SequenceEqual(Array.ConvertAll(expected.Indices, c => (long)c)), $"{threads} threads");
                for (int i = 0; values && i < t.Rows; i++)
                    for (long j = t.RowOffsets[i]; j < t.RowOffsets[i + 1]; j++)
                        if (t.Values[(int)j] != columns[j] * s.Columns + i) Assert.Fail($"{threads} threads: [{i}, {columns[j]}] is {t.Values[(int)j]}");
            }
        }
        finally
        {
            Device.Cpu.SetThreads(0);
        }
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
    public void AUsersSemiringUnderAMaskWithAnAddend([Values(true, false)] bool complement, [Values(true, false)] bool sorted)
    {
        using CsrMatrix<int> a = Of(Rmat, i => i % 50), mask = Of(SpGemmMatrices.Uniform(a.Rows, a.Columns, 60, 7), i => 1), d = Of(SpGemmMatrices.Uniform(a.Rows, a.Columns, 3, 8), i => i % 70);
        using SpGemmPlan<int> plan = SpGemmPlan<int>.Create<MaxMin>(a, a, new SpGemmOptions { Complement = complement, Sorted = sorted }, mask, d);
        Dictionary<(long, long), int> At(CsrMatrix<int> x) => Enumerable.Range(0, (int)x.Rows).SelectMany(i => Enumerable.Range((int)x.RowOffsets[i], (int)(x.RowOffsets[i + 1] - x.RowOffsets[i])).Select(j => (i, j)))
            .ToDictionary(e => ((long)e.i, (long)x.ColumnIndices[e.j]), e => x.Values[e.j]);
        Dictionary<(long, long), int> Expected()
        {
            Dictionary<(long, long), int> sums = At(d), left = At(a);
            ILookup<long, (long Column, int Value)> right = left.ToLookup(e => e.Key.Item1, e => (e.Key.Item2, e.Value));
            HashSet<(long, long)> masked = [.. At(mask).Keys];
            foreach (((long i, long k), int x) in left)
                foreach ((long j, int y) in right[k])
                    if (masked.Contains((i, j)) != complement) sums[(i, j)] = Math.Max(sums.GetValueOrDefault((i, j), int.MinValue), Math.Min(x, y));
            return sums;
        }
        using CsrMatrix<int> c = plan.Product(), s = plan.Symbolic();
        AssertSame(At(c), Expected());
        for (int j = 0; j < a.NonZeros; j++) a.Values[j] = j * 7 % 41 - 20;
        for (int j = 0; j < d.NonZeros; j++) d.Values[j] = j % 30 - 15;
        s.Values.Fill(int.MaxValue);
        plan.Numeric(s);
        AssertSame(At(s), Expected());
        // The structure alone asks no operator.
        using SpGemmPlan<int> faulty = SpGemmPlan<int>.Create<Faulty>(a, a);
        using CsrMatrix<int> pattern = faulty.Symbolic();
        Assert.That(pattern.NonZeros, Is.GreaterThan(0));
        Assert.That(() => faulty.Numeric(pattern), Throws.TypeOf<KernelsException>().With.Message.Contains("this operator throws"));
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

    internal static void Refused(string argument, string rule, Action call)
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
        Refused("columnIndices", "as the last offset says", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[0], [1]));
        Refused("values", "2 values", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[0, 1], [1]));
        Refused("columnIndices", "not 2 in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[0, 2], [1, 1]));
        Refused("columnIndices", "not -5 in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 1], (long[])[-5], [1]));
        Refused("columnIndices", "twice in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 2], (int[])[1, 1], [1, 1]));
        Refused("columnIndices", "1 is before 0 in row 0", () => CsrMatrix.Create<double>(1, 2, [0, 2], (long[])[1, 0], [1, 1]));
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

    /// <summary>False where it is refused for the budget.</summary>
    private static bool Fits(Action call)
    {
        try
        {
            call();
            return true;
        }
        catch (KernelsException e) when ((e.Status, e.Argument) == (Status.NoMemory, "MemoryBudget"))
        {
            return false;
        }
    }

    /// <summary>What the pool was asked for, scratch and C together, never passes the budget; pieces make up C; and what a budget holds is not refused.</summary>
    [Test, NonParallelizable]
    public void MemoryStaysWithinTheBudget([Values(400_000, 2_000_000, 20_000_000)] long budget, [Values(1, 3)] int threads, [Values(true, false)] bool sorted)
    {
        SparseStructure s = SpGemmMatrices.Rmat(11, 8, 3);
        using CsrMatrix<double> a = Of(s, i => 1.0 + i % 7), whole = Kernels.SpGemm.Multiply(a, a);
        long longest = Enumerable.Range(0, (int)s.Rows).Max(i => whole.RowOffsets[i + 1] - whole.RowOffsets[i]) * 12, all = whole.NonZeros * 12 + (s.Rows + 2) * 8;
        foreach (Row row in Device.Cpu.Table.Of(KnOp.SpGemm).Where(r => Device.Cpu.Table.Runs(r, out _)))
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { MemoryBudget = budget, Threads = threads, Row = row.Name, Sorted = sorted });
            long left = budget - plan.Choice.WorkspaceBytes, before = PooledMemory.Asked, rows = 0;
            string where = $"{row.Name}, {plan.Choice}";
            PooledMemory.MostAsked = before;
            bool pieces = Fits(() =>
            {
                foreach (CsrMatrix<double> piece in plan.Pieces())
                    using (piece) rows += piece.Rows;
            });
            Assert.That(rows == s.Rows, Is.EqualTo(pieces), where);
            // Offsets of a piece are half of what scratch leaves at most, and 64 bytes at least.
            if (longest <= left / 2 - 64) Assert.That(pieces, where);
            if (longest > left - 64) Assert.That(pieces, Is.False, where);
            Assert.That(Fits(() => plan.Product().Dispose()), Is.EqualTo(all <= left), where);
            Assert.That(Fits(() =>
            {
                using CsrMatrix<double> c = plan.Symbolic();
                plan.Numeric(c);
            }), Is.EqualTo(all <= left), where);
            Assert.That(PooledMemory.MostAsked - before, Is.LessThanOrEqualTo(budget), where);
            // A budget below the scratch of a row is refused before anything is rented.
            Assert.That(PooledMemory.MostAsked > before, Is.EqualTo(left >= 64 + 12), where);
        }
    }

    /// <summary>A budget that holds the structure of C and half of its values: refused before the values are rented.</summary>
    [Test, NonParallelizable]
    public void SymbolicKeepsRoomForValues([Values(0.5, 1.0)] double values)
    {
        using CsrMatrix<double> a = Of(SpGemmMatrices.Rmat(11, 8, 3), i => 1.0 + i % 7);
        foreach (Row row in Device.Cpu.Table.Of(KnOp.SpGemm).Where(r => Device.Cpu.Table.Runs(r, out _)))
        {
            var options = new SpGemmOptions { Threads = 1, Row = row.Name };
            using SpGemmPlan<double> free = SpGemmPlan<double>.Create(a, a, options);
            using CsrMatrix<double> whole = free.Product();
            // The dataflow is forced, so that the budget does not change the scratch; 64 bytes are the word that says how far a call came.
            long budget = free.Choice.WorkspaceBytes + (a.Rows + 2) * sizeof(long) + whole.NonZeros * sizeof(int) + (long)(values * whole.NonZeros * sizeof(double));
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, options with { MemoryBudget = budget, Dataflow = free.Choice.Dataflow });
            long before = PooledMemory.Asked;
            PooledMemory.MostAsked = before;
            if (values < 1) Refused("MemoryBudget", "for all of C", () => plan.Symbolic().Dispose());
            else
            {
                using CsrMatrix<double> c = plan.Symbolic();
                plan.Numeric(c);
                Assert.That(c.Values.SequenceEqual(whole.Values), row.Name);
            }
            Assert.That(PooledMemory.MostAsked - before, Is.LessThanOrEqualTo(budget), $"{row.Name}, {plan.Choice}");
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
