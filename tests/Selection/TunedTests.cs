using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.Selection;

/// <summary>What plans take from the store, and what they leave to the model.</summary>
[TestFixture]
public sealed unsafe class TunedTests
{
    private static readonly FlatGemmOptions s_layer = new() { N = 256, K = 128, MaxM = 64, Weights = DType.BFloat16 };
    private string _directory = "";
    private TuningStore _store = null!;

    [SetUp]
    public void Open() => _store = new TuningStore(_directory = Directory.CreateTempSubdirectory("kernels-tuned-").FullName);

    [TearDown]
    public void Delete() => Directory.Delete(_directory, recursive: true);

    private static string? LayoutOf(FlatGemmOptions options)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return FlatGemmSelection.LayoutRow(Device.Cpu, options).Layout(&problem);
    }

    private static ImmutableArray<Segment<KnFlatGemmProblem>> Choose(FlatGemmOptions options, TuningStore store) =>
        FlatGemmSelection.Choose(Device.Cpu, options, LayoutOf(options), store);

    /// <summary>The last row that shares the layout, with the last of its launches: not what the model takes.</summary>
    private static Dataflow Unusual(FlatGemmOptions options)
    {
        Row row = FlatGemmSelection.Sharing(Device.Cpu, options, LayoutOf(options))[^1];
        return row.Dataflow(row.Launches(options.Threads).Last());
    }

    private void Store(Dataflow dataflow, int from, int to) => Store(s_layer, dataflow, from, to);

    private void Store(FlatGemmOptions options, Dataflow dataflow, int from, int to)
    {
        TuningKey key = FlatGemmTuned.Key(Device.Cpu, options, LayoutOf(options), CacheState.Cold);
        TuningRecord record = TuningRecord.Pin(key, DateTimeOffset.UtcNow, dataflow) with { Intervals = [new MInterval(from, to, dataflow, null)] };
        Assert.That(_store.TryWrite(record, out string reason), reason);
    }

    [Test]
    public void An_interval_is_taken_and_the_model_fills_what_it_leaves()
    {
        Dataflow dataflow = Unusual(s_layer);
        Store(dataflow, 5, 20);
        ImmutableArray<Segment<KnFlatGemmProblem>> segments = Choose(s_layer, _store);
        Assert.That(segments[0].From, Is.Zero);
        Assert.That(segments[^1].To, Is.EqualTo(s_layer.MaxM));
        for (int i = 1; i < segments.Length; i++) Assert.That(segments[i].From, Is.EqualTo(segments[i - 1].To + 1));
        Segment<KnFlatGemmProblem> tuned = segments.Single(s => s.Source == ChoiceSource.Tuned);
        Assert.That((tuned.From, tuned.To, tuned.Row.Dataflow(tuned.Launch)), Is.EqualTo((5, 20, dataflow)));
        Assert.That(tuned.Reason, Does.StartWith("tuned "));
    }

    [Test]
    public void The_choices_of_the_bare_product_serve_a_layer_with_an_epilogue()
    {
        Store(Unusual(s_layer), 1, 64);
        Assert.That(Choose(s_layer with { Bias = true, Activation = Activation.Relu }, _store).Single().Source, Is.EqualTo(ChoiceSource.Tuned));
        Assert.That(Choose(s_layer with { Gated = true, N = 128 }, _store).Single().Source, Is.EqualTo(ChoiceSource.Tuned));
    }

    [Test]
    public void A_batch_invariant_plan_never_asks_the_store()
    {
        Store(Unusual(s_layer), 1, 64);
        Assert.That(Choose(s_layer with { BatchInvariant = true }, _store).All(s => s.Source == ChoiceSource.Modelled));
    }

    [TestCase("flat_gemm/none_such[4,512]")]
    [TestCase("flat_gemm/managed[1,2,3]")]
    public void A_row_or_parameters_that_are_not_here_are_a_miss(string dataflow)
    {
        Assert.That(Dataflow.TryParse(dataflow, out Dataflow? foreign));
        Store(foreign!, 1, 64);
        Assert.That(Choose(s_layer, _store).All(s => s.Source == ChoiceSource.Modelled));
    }

    [Test]
    public void Another_dtype_shape_or_thread_bound_is_another_key()
    {
        Store(Unusual(s_layer), 1, 64);
        foreach (FlatGemmOptions other in (FlatGemmOptions[])[s_layer with { K = 160 }, s_layer with { Output = DType.Float32 }, s_layer with { Weights = DType.Float16 }])
            Assert.That(Choose(other, _store).All(s => s.Source == ChoiceSource.Modelled), other.ToString());
        if (Device.Cpu.Threads > 1) Assert.That(Choose(s_layer with { Threads = 1 }, _store).All(s => s.Source == ChoiceSource.Modelled));
    }

    [Test]
    public void A_pin_goes_before_what_was_measured_and_as_far_as_its_row_does()
    {
        Dataflow measured = Unusual(s_layer);
        Store(measured, 1, 64);
        Row first = FlatGemmSelection.Sharing(Device.Cpu, s_layer, LayoutOf(s_layer))[0];
        Dataflow pinned = first.Dataflow(first.DefaultLaunch(0));
        Assert.That(_store.TryPin(FlatGemmTuned.Key(Device.Cpu, s_layer, LayoutOf(s_layer), CacheState.Cold), pinned, DateTimeOffset.UtcNow, out string reason), reason);
        ImmutableArray<Segment<KnFlatGemmProblem>> segments = Choose(s_layer, _store);
        Assert.That(segments[0].Row.Dataflow(segments[0].Launch), Is.EqualTo(pinned));
        Assert.That(segments[0].Reason, Does.StartWith("pinned "));
        foreach (Segment<KnFlatGemmProblem> s in segments) Assert.That(FlatGemmSelection.Accepts(s.Row, s_layer, s.To, s.Launch));
    }

    /// <summary>A new instruction set in the key, or a renamed row, would leave the shipped tables unread in silence.</summary>
    [Test]
    public void Shipped_records_name_rows_of_the_table_and_are_found_on_their_machine()
    {
        TuningRecord[] shipped = [.. TuningStore.Embedded()];
        Assert.That(shipped, Is.Not.Empty);
        foreach (TuningRecord record in shipped)
        {
            foreach (MInterval interval in record.Intervals) Assert.That(KernelTable.Default.Rows.Select(r => r.Name), Has.Member(interval.Dataflow.Row), record.Key.Text);
            if (record.Key.Device.Model == Device.Cpu.Model) Assert.That(record.Key.Device.Architecture, Is.EqualTo(StoredChoices.DeviceOf(Device.Cpu, 0).Architecture), record.Key.Text);
        }
    }

    [Test]
    public void Tuning_stores_what_a_plan_then_takes_and_tuning_again_keeps_it()
    {
        var what = new FlatGemmTuning { Layer = s_layer, Grid = [1, 4, 16], Cache = CacheState.Warm, Budget = Tuning.Scratch.Ample, Candidates = 3 };
        TuningResult result = FlatGemmTuner.Tune(Device.Cpu, _store, what);
        Assert.That(result.Stored, result.Problem);
        Assert.That(result.Record!.Evidence.Select(e => e.M), Is.EqualTo(what.Grid));
        Assert.That(result.Record.Evidence.SelectMany(e => e.Result.Timings).Any(t => t.Failure is { Kind: FailureKind.WrongResult or FailureKind.Error }), Is.False);
        Assert.That(result.Record.Notes.Keys, Has.Some.StartsWith("predicted m=4 "));
        Assert.That(Replay.Of(result.Record).IsSame);
        ImmutableArray<Segment<KnFlatGemmProblem>> segments = FlatGemmSelection.Choose(Device.Cpu, s_layer, LayoutOf(s_layer), _store, CacheState.Warm);
        Assert.That(segments[0].Source, Is.EqualTo(ChoiceSource.Tuned));
        Assert.That(Choose(s_layer, _store).All(s => s.Source == ChoiceSource.Modelled), "policies are not mixed");
        var shipped = new TuningStore("", [result.Record with { Key = result.Record.Key with { Build = "another" } }]);
        Assert.That(FlatGemmSelection.Of(Device.Cpu, s_layer, LayoutOf(s_layer)).Measured(d => true, 3, shipped, CacheState.Warm)?.At, Is.EqualTo(4), "a shipped time, of the next measured m");
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        TuningResult nothing = FlatGemmTuner.Tune(Device.Cpu, _store, what with { Cancellation = cancelled.Token });
        Assert.That(nothing.Stored, Is.False);
        Assert.That(_store.Read(result.Record.Key).Record, Is.Not.Null, "what was measured before is kept");
    }
}
