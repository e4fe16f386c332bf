using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>Rows with the same tag of bits give the same bits, whatever threads, windows, accumulators and rows.</summary>
[TestFixture]
public sealed class Invariance
{
    private static readonly (string Name, SparseStructure A)[] s_matrices =
    [
        ("rmat", SpGemmMatrices.Rmat(9, 12, 31)), ("power law", SpGemmMatrices.PowerLaw(1500, 5, 32)), ("banded", SpGemmMatrices.Banded(150, 3, 4, 33)),
        ("uniform", SpGemmMatrices.Uniform(3000, 3000, 7, 34)),
    ];

    private static IEnumerable<TestCaseData> RowsByMatrix()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.SpGemm))
            foreach ((string matrix, _) in s_matrices)
                foreach (Semiring semiring in (Semiring[])[Semiring.PlusTimes, Semiring.MinPlus])
                    yield return new TestCaseData(name, matrix, semiring);
    }

    [TestCaseSource(nameof(RowsByMatrix))]
    public void BitsDependOnTheOperandsAlone(string name, string matrix, Semiring semiring)
    {
        Row row = Tables.Find(name, KnOp.SpGemm), managed = KernelTable.Default.Of(KnOp.SpGemm).Last();
        SparseStructure a = s_matrices.First(m => m.Name == matrix).A;
        foreach (DType type in (DType[])[DType.Float64, DType.Float32])
        {
            using var trial = new SpGemmTrial(new SpGemmCase(matrix, a, a, type, 4, semiring, KnSpgemmFlags.None), 77);
            Assert.That(trial.Analyse(managed, managed.DefaultLaunch(1)), Is.Null);
            Assert.That(trial.Check(managed, managed.DefaultLaunch(1)), Is.Null);
            byte[] bits = trial.Values.ToArray();
            Assert.That(row.Bits, Is.EqualTo(managed.Bits));
            try
            {
                KnLaunch[] all = [.. row.Launches(0)];
                foreach (int threads in (int[])[1, 2, 7])
                {
                    Device.Cpu.SetThreads(threads);
                    // Every 107th launch, the default first: all values of every parameter are among them.
                    for (int i = 0; i < all.Length; i += 107)
                    {
                        KnLaunch launch = all[i];
                        launch.Threads = threads;
                        Assert.That(trial.Check(row, launch), Is.Null, $"{row.Dataflow(launch)}");
                        Assert.That(trial.Values.SequenceEqual(bits), $"{row.Dataflow(launch)}, {trial.Case}: other bits than managed");
                    }
                }
            }
            finally
            {
                Device.Cpu.SetThreads(0);
            }
        }
    }

    private static readonly KnSpgemmFlags[] s_flags =
    [
        KnSpgemmFlags.None, KnSpgemmFlags.Mask, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement | KnSpgemmFlags.Accumulate, KnSpgemmFlags.Accumulate, KnSpgemmFlags.Unsorted,
        KnSpgemmFlags.Mask | KnSpgemmFlags.Valued | KnSpgemmFlags.Accumulate | KnSpgemmFlags.Unsorted,
    ];

    private static IEnumerable<TestCaseData> RowsByRequest()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.SpGemm))
            foreach (KnSpgemmFlags flags in s_flags)
                foreach (int indexBytes in (int[])[4, 8])
                    yield return new TestCaseData(name, flags, indexBytes);
    }

    /// <summary>
    /// Every semiring and the structure alone, whatever is asked of them, over 1, 2 and 7 threads. Sorted, columns and values are the managed row's; unsorted,
    /// those of one thread, for the order is the dataflow's own.
    /// </summary>
    [TestCaseSource(nameof(RowsByRequest))]
    public void BitsDependOnWhatIsAskedAlone(string name, object asked, int indexBytes)
    {
        var flags = (KnSpgemmFlags)asked;
        Row row = Tables.Find(name, KnOp.SpGemm), managed = KernelTable.Default.Of(KnOp.SpGemm).Last();
        bool unsorted = flags.HasFlag(KnSpgemmFlags.Unsorted);
        KnLaunch[] all = [.. row.Launches(0)];
        foreach ((string matrix, SparseStructure a) in (IEnumerable<(string, SparseStructure)>)[s_matrices[0], s_matrices[1], s_matrices[3]])
            foreach ((Semiring semiring, DType type) in Enum.GetValues<Semiring>().Select(s => (s, (DType)((int)s % 2 == 0 ? DType.Float64 : DType.Float32))).Append((Semiring.PlusTimes, DType.None)))
            {
                if (type == DType.None && flags.HasFlag(KnSpgemmFlags.Valued)) continue;
                using var trial = new SpGemmTrial(new SpGemmCase(matrix, a, a, type, indexBytes, semiring, flags), 78);
                Assert.That(trial.Analyse(managed, managed.DefaultLaunch(1)), Is.Null);
                Assert.That(trial.Check(managed, managed.DefaultLaunch(1)), Is.Null);
                byte[] columns = trial.Columns.ToArray(), values = trial.Values.ToArray();
                for (int i = 0; i < all.Length; i += 613)
                    try
                    {
                        foreach (int threads in (int[])[1, 2, 7])
                        {
                            Device.Cpu.SetThreads(threads);
                            KnLaunch launch = all[i] with { Threads = threads };
                            string what = $"{row.Dataflow(launch)}, {trial.Case}";
                            Assert.That(trial.Check(row, launch), Is.Null, what);
                            if (unsorted && threads == 1) (columns, values) = (trial.Columns.ToArray(), trial.Values.ToArray());
                            Assert.That(trial.Columns.SequenceEqual(columns) && trial.Values.SequenceEqual(values), $"{what}: other bits");
                        }
                    }
                    finally
                    {
                        Device.Cpu.SetThreads(0);
                    }
            }
    }

    private static IEnumerable<string> Names => Tables.Runnable(KnOp.SpGemm).Select(r => r.Name);

    private static IEnumerable<TestCaseData> RowsByWidth() => Names.SelectMany(n => new[] { new TestCaseData(n, false), new TestCaseData(n, true) });

    /// <summary>A row of 10^4 to 10^5 products, shared by workers, over a B whose rows are in no order; C sorted or not, whole or its values alone. Wide rows are hashed.</summary>
    [TestCaseSource(nameof(RowsByWidth))]
    public void ALongRowOverAnUnsortedBIsTheSameForAnyThreads(string name, bool wide)
    {
        Row row = Tables.Find(name, KnOp.SpGemm);
        using CsrMatrix<double> a = SpGemmTests.Of(SpGemmMatrices.PowerLaw(2000, 6, 35), i => 1 + i % 89 / 89.0);
        using CsrMatrix<double> left = wide ? SpGemmTests.Of(SpGemmMatrices.Uniform(2000, 2000, 3, 36), i => 1 + i % 7 / 7.0) : a.CopyTo(Device.Cpu);
        using CsrMatrix<double> right = wide ? SpGemmTests.Of(SpGemmMatrices.Uniform(2000, 1_000_000, 4, 37), i => 1 + i % 9 / 9.0) : a.CopyTo(Device.Cpu);
        using CsrMatrix<double> b = Kernels.SpGemm.Multiply(left, right, new SpGemmOptions { Sorted = false, Row = "spgemm/managed" });
        SpGemmTests.Turn(b);
        using CsrMatrix<double> t = b.Transpose(), sorted = t.Transpose();
        Assert.That((b.Sorted, b.ColumnIndices.SequenceEqual(sorted.ColumnIndices)), Is.EqualTo((false, false)));
        foreach ((bool masked, bool complement, bool added) in ((bool, bool, bool)[])[(false, false, false), (true, false, true), (true, true, false)])
        {
            CsrMatrix<double>? mask = masked ? sorted : null, addend = added ? b : null;
            var options = new SpGemmOptions { Complement = complement };
            using CsrMatrix<double> expected = Kernels.SpGemm.Multiply(a, sorted, options with { Row = "spgemm/managed", Threads = 1 }, mask, addend);
            // The default window and the shortest.
            foreach (KnLaunch launch in row.Parameters.IsEmpty ? [row.DefaultLaunch(0)] : (KnLaunch[])[row.DefaultLaunch(0), row.Launches(0).ElementAt(3)])
                foreach (bool inOrder in (bool[])[true, false])
                    SameForAnyThreads(a, b, options with { Dataflow = row.Dataflow(launch), Sorted = inOrder }, mask, addend, expected);
        }
    }

    private static void SameForAnyThreads(CsrMatrix<double> a, CsrMatrix<double> b, SpGemmOptions options, CsrMatrix<double>? mask, CsrMatrix<double>? addend, CsrMatrix<double> expected)
    {
        int[] order = [];
        foreach (int threads in (int[])[1, 2, 7])
            try
            {
                Device.Cpu.SetThreads(threads);
                using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, b, options, mask, addend);
                Assert.That(plan.MostProducts, Is.GreaterThan(20_000));
                using CsrMatrix<double> c = plan.Product(), known = plan.Symbolic();
                string what = $"{options}, {threads} threads";
                Assert.That(SpGemmSame.As(expected, c), what);
                Assert.That(order.Length == 0 || c.ColumnIndices.SequenceEqual(order), $"{what}: another order");
                order = c.ColumnIndices.ToArray();
                known.Values.Fill(double.NaN);
                plan.Numeric(known);
                Assert.That(SpGemmSame.As(expected, known), $"{what}: the numeric phase");
                known.Values.Fill(double.NaN);
                Assert.That(plan.Schedule(known), what);
                plan.Numeric(known);
                Assert.That(SpGemmSame.As(expected, known), $"{what}: the numeric phase with a schedule");
            }
            finally
            {
                Device.Cpu.SetThreads(0);
            }
    }

    /// <summary>The parts of a long row are ranges of columns without gaps, one to a slot, of those before the one in which it ends.</summary>
    [Test]
    public unsafe void TheManagedRowSharesALongRow([Values(1, 2, 7)] int workers)
    {
        const long W = SpGemmManagedCall.Window;
        long[] products = [0, W / 2, W / 2, 20 * W, 20 * W + 5, 21 * W], entries = [0, 1, 1, 1000, 1001, 1002];
        fixed (long* at = products, offsets = entries)
        {
            var problem = new KnSpgemmProblem { M = 5, N = 1000, Products = 21 * W, Most = 20 * W, IndexBytes = 4, Flags = (int)KnSpgemmFlags.BSorted };
            var args = new KnSpgemmArgs { Products = at, RowTo = 5, A = new KnCsr { Offsets = offsets } };
            var call = new SpGemmManagedCall(&problem, &args, workers, sizeof(double));
            long parts = workers == 1 ? 1 : 19;
            Assert.That(Enumerable.Range(0, 5).Select(i => call.Parts(i)), Is.EqualTo(new[] { 1, 1, parts, 1, 1 }));
            var seen = new List<long> { 0 };
            for (long slot = 0; slot < call.Slots; slot++)
                if (call.ShareOf(slot) is { Split: 2 } share)
                {
                    seen.Add(slot - call.SlotOf(2));
                    Assert.That(share.SplitEnds, Is.EqualTo(seen.Count == parts));
                }
            Assert.That(seen, Is.EqualTo(Enumerable.Range(0, (int)parts).Select(p => (long)p)));
            Assert.That((call.PartOf(2, 0).Low, call.PartOf(2, parts - 1).High), Is.EqualTo((0, 1000)));
            for (int p = 1; p < parts; p++) Assert.That(call.PartOf(2, p).Low, Is.EqualTo(call.PartOf(2, p - 1).High));
        }
    }

    /// <summary>Counts that hold for a matrix whatever computes its product (reference, section 7).</summary>
    [Test]
    public void CountsOfTheLaplacians()
    {
        foreach ((SparseStructure s, long entries, long products, long nonZeros, int longest) in new[]
            { (SpGemmMatrices.Laplace3D(20), 53_600L, 361_280L, 183_440L, 25), (SpGemmMatrices.Laplace2D(100), 49_600L, 246_408L, 128_004L, 13) })
        {
            using CsrMatrix<double> a = SpGemmTests.Of(s, _ => 1.0);
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a);
            using CsrMatrix<double> c = plan.Product();
            Assert.That((a.NonZeros, plan.Products, c.NonZeros), Is.EqualTo((entries, products, nonZeros)));
            long[] offsets = c.RowOffsets.ToArray();
            Assert.That(Enumerable.Range(0, (int)c.Rows).Max(i => offsets[i + 1] - offsets[i]), Is.EqualTo(longest));
            Assert.That(c.Values.ToArray().Sum(), Is.EqualTo((double)products));
        }
    }

    [Test]
    public void NotANumberAndInfinityReachTheirRows()
    {
        using CsrMatrix<double> a = SpGemmTests.Of(SpGemmMatrices.Rmat(8, 8, 5), i => i == 40 ? double.NaN : i == 80 ? double.PositiveInfinity : 1.0);
        using CsrMatrix<double> managed = Kernels.SpGemm.Multiply(a, a, new SpGemmOptions { Row = "spgemm/managed" }), c = Kernels.SpGemm.Multiply(a, a);
        Assert.That(c.Values.ToArray().Any(double.IsNaN) && c.Values.ToArray().Any(double.IsPositiveInfinity));
        Assert.That(c.Values.ToArray(), Is.EqualTo(managed.Values.ToArray()));
    }

    /// <summary>A row of C that is longer than any dense accumulator, and columns of 64 bits beyond 2^32.</summary>
    [Test]
    public void ColumnsBeyond32Bits()
    {
        const long Far = 1L << 39;
        long[] offsets = [.. Enumerable.Range(0, 101).Select(i => i * 100L)], columns = [.. Enumerable.Range(0, 10_000).Select(i => i % 100 * (Far / 128) + i / 100)];
        using CsrMatrix<double> b = CsrMatrix.Create<double>(100, Far, offsets, columns, [.. Enumerable.Range(0, 10_000).Select(i => (double)(i % 13))]);
        using CsrMatrix<double> a = CsrMatrix.Create<double>(2, 100, [0, 100, 101], (long[])[.. Enumerable.Range(0, 100).Select(i => (long)i), 5], [.. Enumerable.Range(0, 101).Select(i => (double)i)]);
        using CsrMatrix<double> c = Kernels.SpGemm.Multiply(a, b), managed = Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { Row = "spgemm/managed" });
        Assert.That(c.RowOffsets.ToArray(), Is.EqualTo(new long[] { 0, 10_000, 10_100 }));
        Assert.That(c.ColumnIndices64.ToArray(), Is.EqualTo(managed.ColumnIndices64.ToArray()));
        Assert.That(c.Values.ToArray(), Is.EqualTo(managed.Values.ToArray()));
    }
}
