using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.SpGemm;

/// <summary>Thresholds are parameters of a plan: forced and checked, or stored for the class of its operands.</summary>
[TestFixture]
public sealed class Thresholds
{
    // Products enough for the store to be asked.
    private static readonly SparseStructure s_graph = SpGemmMatrices.Rmat(11, 16, 1), s_blocks = SpGemmMatrices.Banded(1500, 3, 5, 1);

    private static CsrMatrix<double> Matrix(SparseStructure s) =>
        CsrMatrix.Create<double>(s.Rows, s.Columns, s.Offsets, s.Indices, [.. Enumerable.Range(0, (int)s.NonZeros).Select(i => 1 + i % 89 / 89.0)]);

    private static Row Avx512 => Device.Cpu.Table.Of(KnOp.SpGemm).FirstOrDefault(r => r.Name == "spgemm/avx512" && Device.Cpu.Table.Runs(r, out _)) ?? throw new IgnoreException("no AVX-512 here");

    [Test]
    public void AClassSaysHowRowsAreAndHowProductsMeet()
    {
        using CsrMatrix<double> graph = Matrix(s_graph), blocks = Matrix(s_blocks), identity = Matrix(SpGemmMatrices.Identity(4096));
        using SpGemmPlan<double> g = SpGemmPlan<double>.Create(graph, graph), b = SpGemmPlan<double>.Create(blocks, blocks), one = SpGemmPlan<double>.Create(identity, identity);
        Assert.That(one.Sample().Class, Is.EqualTo(new SpGemmClass(12, 0, 0, 0)));
        using CsrMatrix<double> c = b.Product();
        // Every node of the band is a block like the others: the sample finds the ratio itself.
        Assert.That(b.Sample().Ratio, Is.EqualTo((double)b.Products / c.NonZeros).Within(20).Percent);
        Assert.That(b.Sample().Class.Log4Skew, Is.Zero);
        Assert.That(g.Sample().Class.Log4Skew, Is.GreaterThan(0), "a graph by powers has rows far above the average");
        Assert.That(g.Sample().Class.Log2PerRow, Is.EqualTo((int)Math.Log2((double)g.Products / s_graph.Rows)));
    }

    /// <summary>A small product of the managed row keeps to the caller, whom others would not be awake to help; one that is named runs as told.</summary>
    [TestCase(8, null, 1)]
    [TestCase(8, "spgemm/managed", 3)]
    [TestCase(100, null, 3)]
    public void TheManagedRowSharesWhatIsWorthIt(int side, string? row, int threads)
    {
        using CsrMatrix<double> a = Matrix(SpGemmMatrices.Laplace2D(side));
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Threads = 3, Row = row }, device: new Device(KernelTable.Load(null)));
        Assert.That(plan.Choice.Dataflow.Threads, Is.EqualTo(threads), plan.Choice.Reason);
        using CsrMatrix<double> expected = Kernels.SpGemm.Multiply(a, a), c = plan.Product();
        Assert.That(c.ColumnIndices.SequenceEqual(expected.ColumnIndices) && c.Values.SequenceEqual(expected.Values));
    }

    [Test]
    public void ForcedThresholdsAreHeldToTheRow()
    {
        Row row = Avx512;
        using CsrMatrix<double> a = Matrix(s_graph);
        using CsrMatrix<double> expected = Kernels.SpGemm.Multiply(a, a);
        foreach (KnLaunch launch in row.Launches(2).Where((_, i) => i % 331 == 0))
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Dataflow = row.Dataflow(launch), Threads = 2 });
            Assert.That(plan.Choice.Dataflow, Is.EqualTo(row.Dataflow(launch)));
            Assert.That(plan.Choice.Source, Is.EqualTo(ChoiceSource.Forced));
            using CsrMatrix<double> c = plan.Product();
            Assert.That(c.ColumnIndices.SequenceEqual(expected.ColumnIndices) && c.Values.SequenceEqual(expected.Values), $"{plan.Choice.Dataflow}");
        }
        KnLaunch bad = row.DefaultLaunch(0);
        bad.Param[1] = 1000;
        Assert.That(() => SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Dataflow = row.Dataflow(bad) }), Throws.TypeOf<KernelsException>().With.Property("Status").EqualTo(Status.Unsupported));
        Assert.That(() => SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Dataflow = new Dataflow(row.Name, 0, [1]) }), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("Dataflow"));
        Assert.That(() => SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Dataflow = row.Dataflow(row.DefaultLaunch(0)), Row = "spgemm/managed" }), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("Dataflow"));
    }

    /// <summary>Rows of 2000 products over a million columns are hashed: the size of the table is then worth timing, and changes no bit.</summary>
    [Test]
    public void ATablesSizeIsTimedWhereRowsAreHashed()
    {
        Row row = Avx512;
        using CsrMatrix<double> a = Matrix(SpGemmMatrices.Uniform(200, 2000, 50, 3)), b = Matrix(SpGemmMatrices.Uniform(2000, 1_000_000, 40, 4)), narrow = Matrix(SpGemmMatrices.Uniform(2000, 3000, 40, 5));
        int[] Timed(CsrMatrix<double> right)
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, right);
            var thresholds = new SpGemmThresholds(Device.Cpu, 0, plan.Problem, plan.Sample(), distinct: true);
            return [.. row.Launches(0).Where(l => thresholds.Accepts(row, SpGemmThresholds.Memory, l)).Select(l => row.Value(l, "table")).Distinct().Order()];
        }
        Assert.That(Timed(b), Is.EqualTo(new[] { 1, 2, 4 }));
        Assert.That(Timed(narrow), Is.EqualTo(new[] { 2 }), "where no row is hashed, the default alone");
        using CsrMatrix<double> expected = Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { Row = "spgemm/managed" });
        foreach (int table in (int[])[1, 2, 4])
        {
            KnLaunch launch = row.DefaultLaunch(0);
            launch.Param[row.IndexOf("table")] = table;
            using CsrMatrix<double> c = Kernels.SpGemm.Multiply(a, b, new SpGemmOptions { Dataflow = row.Dataflow(launch) });
            Assert.That(SpGemmSame.As(expected, c), $"{row.Dataflow(launch)}");
        }
    }

    /// <summary>A node's columns lie together in a band and anywhere in a random matrix: blocks are worth timing there, and change no bit.</summary>
    [Test]
    public void BlocksAreTimedWhereBFillsThem()
    {
        Row row = Avx512;
        foreach ((SparseStructure structure, double fill, int[] timed) in ((SparseStructure, double, int[])[])[(s_blocks, 4.4, [8, 1 << 30]), (SpGemmMatrices.Uniform(4096, 4096, 20, 9), 1.05, [8])])
        {
            using CsrMatrix<double> a = Matrix(structure);
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a);
            var thresholds = new SpGemmThresholds(Device.Cpu, 0, plan.Problem, plan.Sample(), distinct: true);
            Assert.That(plan.Sample().Fill, Is.EqualTo(fill).Within(15).Percent);
            Assert.That(row.Launches(0).Where(l => thresholds.Accepts(row, SpGemmThresholds.Memory, l)).Select(l => row.Value(l, "blocks")).Distinct().Order(), Is.EqualTo(timed));
            using CsrMatrix<double> expected = Kernels.SpGemm.Multiply(a, a, new SpGemmOptions { Row = "spgemm/managed" });
            foreach (int blocks in (int[])[2, 8, 1 << 30])
            {
                KnLaunch launch = row.DefaultLaunch(0);
                launch.Param[row.IndexOf("blocks")] = blocks;
                using CsrMatrix<double> c = Kernels.SpGemm.Multiply(a, a, new SpGemmOptions { Dataflow = row.Dataflow(launch) });
                Assert.That(SpGemmSame.As(expected, c), $"{row.Dataflow(launch)}");
            }
        }
    }

    [Test]
    public void WhatIsStoredHoldsForTheClassAndNoOther()
    {
        Row row = Avx512;
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        var options = new SpGemmOptions { Store = store };
        KnLaunch launch = row.DefaultLaunch(0);
        launch.Param[0] = 131072;
        launch.Param[2] = 16;
        using CsrMatrix<double> graph = Matrix(s_graph), blocks = Matrix(s_blocks), small = Matrix(SpGemmMatrices.Rmat(7, 8, 1));
        foreach (CsrMatrix<double> x in (CsrMatrix<double>[])[graph, small])
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(x, x, options);
            Assert.That(plan.Choice.Source, Is.EqualTo(ChoiceSource.Modelled));
            TuningKey key = new SpGemmThresholds(Device.Cpu, 0, plan.Problem, plan.Sample()).Key(CacheState.Cold);
            Assert.That(store.TryWrite(TuningRecord.Pin(key, DateTimeOffset.UnixEpoch, row.Dataflow(launch)), out string reason), reason);
        }
        using SpGemmPlan<double> tuned = SpGemmPlan<double>.Create(graph, graph, options), other = SpGemmPlan<double>.Create(blocks, blocks, options),
            few = SpGemmPlan<double>.Create(small, small, options), single = SpGemmPlan<double>.Create(graph, graph, options with { Threads = 1 });
        Assert.That((tuned.Choice.Source, tuned.Choice.Dataflow.WithThreads(0)), Is.EqualTo((ChoiceSource.Tuned, row.Dataflow(launch))));
        Assert.That(other.Choice.Source, Is.EqualTo(ChoiceSource.Modelled), "another class");
        Assert.That(few.Choice.Source, Is.EqualTo(ChoiceSource.Modelled), "a small product does not ask");
        Assert.That(single.Choice.Source, Is.EqualTo(Device.Cpu.Threads == 1 ? ChoiceSource.Tuned : ChoiceSource.Modelled), "other threads are another key");
        using SpGemmPlan<double> budget = SpGemmPlan<double>.Create(graph, graph, options with { MemoryBudget = 8 << 20 });
        Assert.That(budget.Choice.WorkspaceBytes, Is.LessThanOrEqualTo(tuned.Choice.WorkspaceBytes));
    }

    /// <summary>What a program is told of a product is what its plan will run, with the times of the record that the choice comes from.</summary>
    [Test]
    public void ExplainIsWhatAPlanRuns()
    {
        Row row = Avx512;
        using var directory = new Tuning.Scratch();
        var options = new SpGemmOptions { Threads = 1, TuningDirectory = directory.Path };
        using CsrMatrix<double> a = Matrix(s_blocks);
        RowExplanation[] before = [.. Autotuner.Explain(a, a, options)];
        Assert.That(before.Select(r => r.Row), Is.EqualTo(Device.Cpu.Table.Of(KnOp.SpGemm).Select(r => r.Name)));
        Assert.That(before.Single(r => r.IsChosen).Row, Is.EqualTo(row.Name));
        Assert.That(before.All(r => r.TunedSeconds is null && r.ModelSeconds > 0));
        TunedChoices tuned = Autotuner.Tune(a, a, Tuning.Scratch.Ample, options);
        Assert.That(tuned.Stored, tuned.Problem);
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, options);
        RowExplanation chosen = Autotuner.Explain(a, a, options).Single(r => r.IsChosen);
        Assert.That((chosen.Dataflow, chosen.TunedAt), Is.EqualTo((plan.Choice.Dataflow, 2)));
        Assert.That(chosen.TunedSeconds, Is.EqualTo(tuned.Points.Single().Candidates.Where(c => c.Dataflow.Row == chosen.Row && c.Samples > 0).Min(c => c.Seconds)));
        using CsrMatrix<byte> entries = CsrMatrix.Create<byte>(a.Rows, a.Columns, a.RowOffsets, a.ColumnIndices), mask = CsrMatrix.Create<byte>(1, 1L << 30, [0, 1], (int[])[5], [1]);
        TunedChoices masked = Autotuner.Tune(a, a, Tuning.Scratch.Ample, options, entries, a);
        Assert.That(masked.Stored, masked.Problem);
        using SpGemmPlan<double> like = SpGemmPlan<double>.Create(a, a, options, entries, a), unlike = SpGemmPlan<double>.Create(a, a, options, entries);
        Assert.That((like.Choice.Source, unlike.Choice.Source), Is.EqualTo((ChoiceSource.Tuned, ChoiceSource.Modelled)));
        using CsrMatrix<double> wide = CsrMatrix.Create<double>(1, 1L << 30, [0, 1], (int[])[5], [1]), one = CsrMatrix.Create<double>(1, 1, [0, 1], (int[])[0], [1]);
        RowExplanation refused = Autotuner.Explain(one, wide, options, mask).Single(r => r.Row == row.Name);
        Assert.That((refused.Accepts, refused.Refusal), Is.EqualTo((false, "p.n <= kMaskedSpan || !(p.flags & KN_SPGEMM_MASK) does not hold")));
    }

    [Test]
    public void TheTunerHoldsCandidatesToTheManagedRowAndStores()
    {
        _ = Avx512;
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        var options = new SpGemmOptions { Threads = 1, Store = store };
        using CsrMatrix<double> a = Matrix(s_blocks);
        TuningResult result = SpGemmTuner<double>.Tune(Device.Cpu, store, new SpGemmTuning { Options = options, Grid = [2], Budget = Tuning.Scratch.Ample }, a, a);
        Assert.That(result.Stored, result.Problem);
        Assert.That(result.Record!.Evidence.Single().Candidates, Has.Length.GreaterThan(1));
        using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, options);
        Assert.That((plan.Choice.Source, plan.Choice.Dataflow), Is.EqualTo((ChoiceSource.Tuned, result.Record.Intervals.Single().Dataflow)));
        Assert.That(() => SpGemmTuner<double>.Tune(Device.Cpu, store, new SpGemmTuning { Options = options, Grid = [3] }, a, a), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("reuse"));
    }
}
