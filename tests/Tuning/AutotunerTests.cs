using System.Collections.Immutable;
using CommunityToolkit.HighPerformance;

namespace Kernels.Tests.Tuning;

/// <summary>The tuner as a program that links the library has it: what it stores, plans take.</summary>
[TestFixture]
public sealed class AutotunerTests
{
    private sealed class Reports : IProgress<TuningProgress>
    {
        public List<TuningProgress> Seen { get; } = [];

        public void Report(TuningProgress value) => Seen.Add(value);
    }

    private static FlatGemmOptions Layer(Scratch scratch) =>
        new() { N = 96, K = 64, MaxM = 16, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, Cache = CacheState.Warm, TuningDirectory = scratch.Path };

    private static ImmutableArray<Choice> Plan(FlatGemmOptions layer)
    {
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create<float>(layer, new float[layer.N * layer.K].AsSpan2D(layer.N, layer.K));
        return plan.Choices;
    }

    /// <summary>What <see cref="Autotuner.DefaultDirectory"/> is where there is no home.</summary>
    [Test]
    public void AnEmptyDirectoryIsNone()
    {
        FlatGemmOptions layer = new() { N = 96, K = 64, MaxM = 4, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, TuningDirectory = "" };
        Assert.That(Plan(layer), Is.Not.Empty);
        TunedChoices tuned = Autotuner.Tune(layer, Scratch.Ample, [1]);
        Assert.That((tuned.Stored, tuned.Problem), Is.EqualTo((false, "no cache directory")));
    }

    [Test]
    public void ALayerThatIsTunedIsFoundByPlansOfItsPolicyAndDirectoryAlone()
    {
        using var scratch = new Scratch();
        FlatGemmOptions layer = Layer(scratch);
        var reports = new Reports();
        TunedChoices tuned = Autotuner.Tune(layer, Scratch.Ample, [1, 16], reports);
        Assert.That(tuned.Stored, tuned.Problem);
        Assert.That(tuned.Points.Select(p => p.At), Is.EqualTo(new[] { 1, 16 }));
        Assert.That(tuned.Intervals[^1].To, Is.EqualTo(16));
        foreach (TunedPoint point in tuned.Points)
        {
            TunedCandidate won = point.Candidates.Single(c => c.Won);
            Assert.That(won.Failure, Is.Null);
            Assert.That(won.Seconds, Is.Positive.And.InRange(won.Low, won.High));
            Assert.That(won.Samples, Is.AtLeast(6));
        }
        Assert.That(reports.Seen, Is.EqualTo(new[] { new TuningProgress(1, 0, 2), new TuningProgress(16, 1, 2) }));

        Assert.That(Plan(layer).Select(c => (c.Source, c.Dataflow.Row)), Is.EqualTo(tuned.Intervals.Select(i => (ChoiceSource.Tuned, i.Dataflow.Row))));
        Assert.That(Plan(layer with { Cache = CacheState.Cold }).All(c => c.Source == ChoiceSource.Modelled), "a warm choice is not asked for");
        Assert.That(Plan(layer with { TuningDirectory = scratch["other"] }).All(c => c.Source == ChoiceSource.Modelled), "another database");

        RowExplanation chosen = Autotuner.Explain(layer, 10).Single(r => r.IsChosen);
        TunedCandidate[] at = [.. tuned.Points[1].Candidates.Where(c => c.Dataflow.Row == chosen.Row && c.Samples > 0)];
        Assert.That((chosen.TunedAt, chosen.TunedSeconds), Is.EqualTo((16, at.Min(c => c.Seconds))), "of the measured m the first that is not below 10");
    }

    [Test]
    public void ExplainNamesTheConditionOfEveryRowThatRefuses()
    {
        using var scratch = new Scratch();
        FlatGemmOptions layer = Layer(scratch);
        ImmutableArray<RowExplanation> rows = Autotuner.Explain(layer, 4);
        Assert.That(rows.Select(r => r.Row), Is.EqualTo(KernelTable.Default.Of(Kernels.Interop.Native.KnOp.FlatGemm).Select(r => r.Name)));
        Assert.That(rows.Count(r => r.IsChosen), Is.EqualTo(1));
        foreach (RowExplanation row in rows)
        {
            Assert.That(row.Accepts || row.Refusal is { Length: > 0 }, row.ToString());
            Assert.That(row.ModelSeconds is > 0, Is.EqualTo(row.Accepts), row.ToString());
        }
        Assert.That(rows[^1].Row, Is.EqualTo("flat_gemm/managed"));
        Assert.That(rows[^1].Accepts);
        var attention = new DecodeAttentionOptions { QHeads = 4, KvHeads = 2, HeadDim = 64, MaxKvLen = 256, TuningDirectory = scratch.Path };
        Assert.That(Autotuner.Explain(attention, 100).Count(r => r.IsChosen), Is.EqualTo(1));
        Assert.That(Autotuner.Explain(layer, 0.25, 4).Count(r => r.IsChosen), Is.EqualTo(1));
        Assert.That(() => Autotuner.Explain(layer, 17), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("m"));
    }

    [Test]
    public void AttentionAndSparseLayersAreTunedToo()
    {
        using var scratch = new Scratch();
        var attention = new DecodeAttentionOptions { QHeads = 2, KvHeads = 1, HeadDim = 32, MaxKvLen = 64, Cache = CacheState.Warm, TuningDirectory = scratch.Path };
        TunedChoices tuned = Autotuner.Tune(attention, Scratch.Ample);
        Assert.That(tuned.Stored, tuned.Problem);
        using (Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(attention))
            Assert.That(plan.Choice(64).Source, Is.EqualTo(ChoiceSource.Tuned));
        using (Kernels.DecodeAttention plan = Kernels.DecodeAttention.Create(attention with { Cache = CacheState.Cold }))
            Assert.That(plan.Choices.All(c => c.Source == ChoiceSource.Modelled));

        FlatGemmOptions layer = Layer(scratch);
        TunedChoices forms = Autotuner.Tune(layer, 0.25, Scratch.Ample, [4]);
        Assert.That(forms.Stored, forms.Problem);
        Assert.That(Kernels.SparseLinear.Choose(layer, 0.25, 4).Source, Is.EqualTo(ChoiceSource.Tuned));
        Assert.That(Kernels.SparseLinear.Choose(layer with { Cache = CacheState.Cold }, 0.25, 4).Source, Is.EqualTo(ChoiceSource.Modelled));
    }

    [Test]
    public void WhatPlansWouldNotTakeIsNotTuned()
    {
        using var scratch = new Scratch();
        FlatGemmOptions layer = Layer(scratch);
        foreach (FlatGemmOptions wrong in (FlatGemmOptions[])[layer with { Row = "flat_gemm/managed" }, layer with { BatchInvariant = true }, layer with { MaxM = 0 }])
            Assert.That(() => Autotuner.Tune(wrong, Scratch.Ample), Throws.TypeOf<KernelsException>().With.Property("Status").EqualTo(Status.Invalid));
        Assert.That(() => Autotuner.Tune(layer, TimeSpan.Zero), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("budget"));
        Assert.That(() => Autotuner.Tune(layer, Scratch.Ample, m: [1, layer.MaxM + 1]), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("m"));
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        TunedChoices nothing = Autotuner.Tune(layer, Scratch.Ample, cancellation: cancelled.Token);
        Assert.That((nothing.Stored, nothing.Problem.Length > 0, nothing.Points.Length), Is.EqualTo((false, true, 0)));
        Assert.That(Directory.GetFileSystemEntries(scratch.Path), Is.Empty);
    }
}
