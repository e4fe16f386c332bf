using CommunityToolkit.HighPerformance;
using Kernels.Tuning;

namespace Kernels.Tests.SparseLinear;

/// <summary>Sparse or dense: the stored choice first, then the models; and the plan that holds either form.</summary>
[TestFixture]
public sealed class Forms
{
    private static readonly FlatGemmOptions s_layer = new() { N = 64, K = 128, MaxM = 8, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, Threads = 1 };

    private static float[] Fill(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.NextSingle() - 0.5f)];
    }

    /// <summary>The tuner times one dataflow of each form and the record says which; a choice made from that store is tuned and the same.</summary>
    [Test]
    public void TheTunerMeasuresBothFormsAndStoresTheChoice()
    {
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        TuningResult result = SparseLinearTuner.Tune(Device.Cpu, store, new SparseLinearTuning { Layer = s_layer, Density = 0.3, Grid = [1, 4], Cache = CacheState.Warm, Budget = Tuning.Scratch.Ample });
        Assert.That(result.Stored, result.Problem);
        foreach (Evidence e in result.Record!.Evidence)
            Assert.That(e.Candidates.Select(c => c.Row.Split('/')[0]), Is.EquivalentTo(new[] { "sparse_linear", "flat_gemm" }), $"m {e.M}");
        foreach (int m in (int[])[1, 4])
        {
            SparseLinearChoice choice = SparseLinearForms.Choose(Device.Cpu, s_layer, 0.3, m, store, CacheState.Warm);
            Assert.That(choice.Source, Is.EqualTo(ChoiceSource.Tuned));
            Assert.That(choice.IsSparse, Is.EqualTo(MIntervals.Find(result.Record.Intervals, m)!.Dataflow.Row.StartsWith("sparse_linear/", StringComparison.Ordinal)));
            (double? sparse, double? dense) = SparseLinearForms.Measured(Device.Cpu, s_layer, (long)(0.3 * 64 * 128), m, store, CacheState.Warm);
            Assert.That(sparse, Is.GreaterThan(0));
            Assert.That(dense, Is.GreaterThan(0));
        }
        Assert.That(SparseLinearForms.Choose(Device.Cpu, s_layer, 0.3, 1, store, CacheState.Cold).Source, Is.EqualTo(ChoiceSource.Modelled), "another policy is another key");
        Assert.That(SparseLinearForms.Choose(Device.Cpu, s_layer, 0.6, 1, store, CacheState.Warm).Source, Is.EqualTo(ChoiceSource.Modelled), "another density is another key");
        Assert.That(SparseLinearForms.Choose(Device.Cpu, s_layer, 0.3, 8, store, CacheState.Warm).Source, Is.EqualTo(ChoiceSource.Modelled), "m outside what was measured is the model's");
    }

    /// <summary>A record that says the opposite of the model is what counts.</summary>
    [Test]
    public void TheStoredFormGoesBeforeTheModel([Values(0.05, 0.95)] double density)
    {
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        SparseLinearChoice model = SparseLinearForms.Choose(Device.Cpu, s_layer, density, 2, store);
        Assert.That(model.IsSparse, Is.EqualTo(model.SparseSeconds <= model.DenseSeconds));
        TuningKey key = SparseLinearForms.Key(Device.Cpu, s_layer, (long)(density * 64 * 128), CacheState.Cold);
        Dataflow other = model.IsSparse ? model.Dense : model.Sparse;
        Assert.That(store.TryWrite(TuningRecord.Pin(key, DateTimeOffset.UnixEpoch, other), out string reason), reason);
        SparseLinearChoice tuned = SparseLinearForms.Choose(Device.Cpu, s_layer, density, 2, store);
        Assert.That(tuned.IsSparse, Is.Not.EqualTo(model.IsSparse), tuned.Reason);
        Assert.That(tuned.Source, Is.EqualTo(ChoiceSource.Tuned));
    }

    [Test]
    public void APrunedLayerIsTheDenseProductInEitherForm([Values(0.02, 1.0)] double density)
    {
        float[] w = Fill(64 * 128, 1), x = Fill(3 * 128, 2);
        Prune.Magnitude(new Span2D<float>(w, 64, 128), density);
        using PrunedLinear plan = PrunedLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 64, 128), 3);
        Assert.That(plan.Choice.Density, Is.EqualTo(density).Within(0.001));
        Assert.That(plan.WeightBytes, plan.Choice.IsSparse ? Is.LessThan(64 * 128 * 4) : Is.GreaterThanOrEqualTo(64 * 128 * 4));
        var y = new float[3, 64];
        plan.Run<float, float>(new ReadOnlySpan2D<float>(x, 3, 128), new Span2D<float>(y));
        for (int r = 0; r < 3; r++)
            for (int c = 0; c < 64; c++)
            {
                double exact = 0;
                for (int k = 0; k < 128; k++) exact += (double)x[r * 128 + k] * w[c * 128 + k];
                // k roundings of f32, each of a sum of at most k / 4.
                Assert.That(y[r, c], Is.EqualTo(exact).Within(128 / 4.0 * 128 * Math.Pow(2, -24)));
            }
    }

    /// <summary>Create is told of sets; then a call may bring them whatever the density, and without that none may.</summary>
    [Test]
    public void ActiveSetsMakeAPlanSparseAtAnyDensity([Values(0.02, 1.0)] double density)
    {
        float[] w = Fill(64 * 128, 1), x = Fill(3 * 128, 2);
        Prune.Magnitude(new Span2D<float>(w, 64, 128), density);
        using PrunedLinear plan = PrunedLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 64, 128), 3, activeSets: true), none = PrunedLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 64, 128), 3);
        using Kernels.SparseLinear sparse = Kernels.SparseLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 64, 128));
        Assert.That((plan.Choice.IsSparse, plan.Choice.Source), Is.EqualTo((true, ChoiceSource.Forced)), plan.Choice.Reason);
        ulong[] outputs = [0x8000_0000_0003_0001], inputs = [~0UL, 0xf0];
        float[,] y = new float[3, 64], expected = new float[3, 64], all = new float[3, 64];
        plan.Run<float, float>(new ReadOnlySpan2D<float>(x, 3, 128), new Span2D<float>(y), outputs: outputs, inputs: inputs);
        sparse.Run<float, float>(new ReadOnlySpan2D<float>(x, 3, 128), new Span2D<float>(expected), outputs: outputs, inputs: inputs);
        Assert.That(y, Is.EqualTo(expected));
        Assert.That(y.Cast<float>().Count(v => v != 0), Is.InRange(1, 3 * 4), "four outputs are active");
        plan.Run<float, float>(new ReadOnlySpan2D<float>(x, 3, 128), new Span2D<float>(all));
        Assert.That(all.Cast<float>().Count(v => v != 0), Is.GreaterThan(3 * 4), "without sets every output is active");
        var untouched = new float[3, 64];
        Assert.That(() => none.Run<float, float>(new ReadOnlySpan2D<float>(x, 3, 128), new Span2D<float>(untouched), outputs: outputs), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("outputs"));
        Assert.That(() => none.Run<float, float>(new ReadOnlySpan2D<float>(x, 3, 128), new Span2D<float>(untouched), inputs: inputs), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("inputs"));
        Assert.That(untouched.Cast<float>(), Is.All.Zero);
    }

    [Test]
    public void RefusesWhatHasNoForm()
    {
        float[] w = new float[64 * 128];
        Assert.That(() => PrunedLinear.Create(s_layer with { Row = "flat_gemm/managed" }, new ReadOnlySpan2D<float>(w, 64, 128), 1), Throws.TypeOf<KernelsException>());
        Assert.That(() => PrunedLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 64, 128), 9), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("m"));
        Assert.That(() => PrunedLinear.Create(s_layer, new ReadOnlySpan2D<float>(w, 32, 128), 1), Throws.TypeOf<KernelsException>());
    }
}
