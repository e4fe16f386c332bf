using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>The schedule of values alone: the same bits, only where it may be, and made when it is said to be.</summary>
[TestFixture]
public sealed class ScheduleTests
{
    private static IEnumerable<string> Rows => Tables.Runnable(KnOp.SpGemm).Select(r => r.Name);

    private static SpGemmOptions On(string row) => new() { Row = row };

    private static CsrMatrix<double> Rmat => SpGemmTests.Of(SpGemmMatrices.Rmat(9, 12, 31), i => 1 + i % 97 / 97.0);

    private static void AssertValues(CsrMatrix<double> c, CsrMatrix<double> expected) => Assert.That(c.Values.SequenceEqual(expected.Values), "bits of a product anew");

    [TestCaseSource(nameof(Rows))]
    public void FollowsNewValues(string row)
    {
        using CsrMatrix<double> a = Rmat;
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, On(row));
        using CsrMatrix<double> c = plan.Symbolic();
        Assert.That(plan.ScheduleBytes, Is.Zero);
        Assert.That(plan.Schedule(c) && plan.Schedule(c));
        Assert.That(plan.ScheduleBytes, Is.InRange(plan.Products, 10 * plan.Products));
        for (int round = 0; round < 3; round++)
        {
            for (int j = 0; j < a.Values.Length; j++) a.Values[j] = Math.Sin(j + round);
            c.Values.Fill(double.NaN);
            plan.Numeric(c);
            using CsrMatrix<double> expected = plan.Product();
            AssertValues(c, expected);
        }
    }

    [TestCaseSource(nameof(Rows))]
    public void IsMadeByTheEighthCallButOfTheManagedRow(string row)
    {
        using CsrMatrix<double> a = Rmat;
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, On(row));
        using CsrMatrix<double> c = plan.Product(), expected = plan.Product();
        for (int call = 1; call <= 9; call++)
        {
            plan.Numeric(c);
            Assert.That(plan.ScheduleBytes > 0, Is.EqualTo(call >= 8 && row != "spgemm/managed"), $"call {call}");
            AssertValues(c, expected);
        }
    }

    [TestCaseSource(nameof(Rows)), NonParallelizable]
    public void KeepsToItsLimitAndTheBudget(string row)
    {
        using CsrMatrix<double> a = Rmat;
        using SpGemmPlan<double> free = SpGemmPlan<double>.Create(a, a, On(row));
        using CsrMatrix<double> c = free.Product();
        Assert.That(free.Schedule(c));
        long bytes = free.ScheduleBytes, all = free.Choice.WorkspaceBytes + c.NonZeros * 12 + (a.Rows + 2) * 8 + bytes;
        foreach ((SpGemmOptions options, bool fits) in new[]
                 {
                     (On(row) with { ScheduleLimit = bytes }, true), (On(row) with { ScheduleLimit = bytes - 1 }, false), (On(row) with { ScheduleLimit = 0 }, false),
                     (On(row) with { Dataflow = free.Choice.Dataflow, MemoryBudget = all }, true), (On(row) with { Dataflow = free.Choice.Dataflow, MemoryBudget = all - 1 }, false),
                     (On(row) with { Dataflow = free.Choice.Dataflow, MemoryBudget = all, ScheduleLimit = bytes - 1 }, false),
                 })
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, options);
            using CsrMatrix<double> own = plan.Product();
            long before = PooledMemory.Asked;
            PooledMemory.MostAsked = before;
            Assert.That(plan.Schedule(own), Is.EqualTo(fits), $"{options}");
            for (int i = 0; i < 10; i++) plan.Numeric(own);
            long limit = Math.Min(options.ScheduleLimit ?? bytes, options.MemoryBudget == 0 ? bytes : options.MemoryBudget - (all - bytes));
            Assert.That(PooledMemory.MostAsked - before, Is.AtMost(plan.Choice.WorkspaceBytes + limit), $"{options}");
            Assert.That(plan.ScheduleBytes, Is.EqualTo(fits ? bytes : 0), $"{options}");
            AssertValues(own, c);
        }
        Assert.That(() => SpGemmPlan<double>.Create(a, a, On(row) with { ScheduleLimit = -1 }), Throws.TypeOf<KernelsException>().With.Message.Contains("ScheduleLimit"));
    }

    /// <summary>A row of A with more entries than a term can name, and a block with more terms than can be counted: both go without, and others beside them with.</summary>
    [TestCaseSource(nameof(Rows))]
    public void RowsThatDoNotFitGoWithout(string row)
    {
        const int Long = 70_000, Many = 12_000;
        // Rows of A: one of 70000 entries, one of three, one of 12000; rows of B have 8 columns backwards, so that each product is a term.
        int[] columns = [.. Enumerable.Range(0, Long), 1, 5, 9, .. Enumerable.Range(0, Many)];
        using CsrMatrix<double> a = CsrMatrix.Create<double>(3, Long, [0, Long, Long + 3, Long + 3 + Many], columns, [.. columns.Select((k, j) => 1 + (k + j) % 31 / 31.0)]);
        using CsrMatrix<double> left = CsrMatrix.Create<double>(Long, 8, [.. Enumerable.Range(0, Long + 1).Select(i => 8L * i)], Enumerable.Range(0, 8 * Long).Select(j => j % 8).ToArray(),
            [.. Enumerable.Range(0, 8 * Long).Select(j => j % 89 / 89.0)]);
        using CsrMatrix<double> one = CsrMatrix.Create<double>(8, 8, [0, 1, 2, 3, 4, 5, 6, 7, 8], (int[])[0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1, 1]);
        using CsrMatrix<double> b = Kernels.SpGemm.Multiply(left, one, new SpGemmOptions { Sorted = false });
        SpGemmTests.Turn(b);
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, b, On(row));
        using CsrMatrix<double> c = plan.Product(), expected = plan.Product();
        Assert.That(plan.Schedule(c));
        // Offsets, counts, and the terms of the short row alone.
        Assert.That(plan.ScheduleBytes, Is.EqualTo(4 * 8 + (24 / 8 + 4) * 2 + 3 * 8 * 8));
        c.Values.Fill(double.NaN);
        plan.Numeric(c);
        AssertValues(c, expected);
    }

    /// <summary>A valued mask whose zeros have moved breaks the contract, and no memory.</summary>
    [TestCaseSource(nameof(Rows))]
    public unsafe void AMaskThatChangedWritesNothingElsewhere(string name)
    {
        Row row = Tables.Find(name, KnOp.SpGemm);
        SparseStructure s = SpGemmMatrices.Rmat(8, 12, 31);
        using var trial = new SpGemmTrial(new SpGemmCase("mask", s, s, DType.Float64, 4, Semiring.PlusTimes, KnSpgemmFlags.Mask | KnSpgemmFlags.Valued), 5);
        Assert.That(trial.Analyse(row, row.DefaultLaunch(2)) ?? trial.Check(row, row.DefaultLaunch(2)), Is.Null);
        byte[] before = trial.Values.ToArray();
        for (long j = 0; j < trial.Args.Mask.Offsets[s.Rows]; j++) ((double*)trial.Args.Mask.Values)[j] = j % 3;
        Assert.That(trial.Scheduled(row, row.DefaultLaunch(2)), Is.Null);
        Assert.That(trial.Values.SequenceEqual(before), Is.False, "another mask");
    }

    [TestCaseSource(nameof(Rows))]
    public void CallsAtTheSameTimeShareOne(string row)
    {
        using CsrMatrix<double> a = Rmat;
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, On(row) with { Threads = 1 });
        using CsrMatrix<double> expected = plan.Product();
        Parallel.For(0, 8, i =>
        {
            using CsrMatrix<double> own = plan.Symbolic();
            for (int call = 0; call < 5; call++)
            {
                if (call == i % 3) Assert.That(plan.Schedule(own));
                plan.Numeric(own);
                AssertValues(own, expected);
            }
        });
    }

    [Test]
    public void AUsersSemiringHasOne()
    {
        using CsrMatrix<double> a = Rmat;
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create<Bottleneck>(a, a);
        using CsrMatrix<double> c = plan.Symbolic(), expected = plan.Product();
        Assert.That(plan.Schedule(c));
        plan.Numeric(c);
        AssertValues(c, expected);
    }

    private readonly struct Bottleneck : ISemiring<double>
    {
        public static double Zero => double.NegativeInfinity;

        public static double Add(double sum, double product) => Math.Max(sum, product);

        public static double Multiply(double a, double b) => Math.Min(a, b);
    }
}
