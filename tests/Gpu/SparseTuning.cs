using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.Gpu;

/// <summary>Tuning of sparse layers and products on a device: what is timed is right, what is stored is taken, and where it is not.</summary>
[TestFixture]
public sealed class SparseTuning
{
    private static readonly FlatGemmOptions s_layer = new() { N = 40, K = 192, MaxM = 3, Weights = DType.BFloat16 };
    private const double Density = 0.5;

    private static Device Fast() => Device.TryGetSimulated(out Device? device, out string? reason, check: false) ? device : throw new IgnoreException(reason);

    /// <summary>Sets of active inputs and outputs go to the device with the operands.</summary>
    [Test]
    public void ReplaysOfASparseLayerGiveTheBitsOfLaunches([Values] bool sets)
    {
        Device device = Simulated.Open("simt32");
        var row = (GpuRow)device.Table.Of(KnOp.SparseLinear).First(r => r.Name == "sparse_linear/gpu");
        using var trial = new SparseLinearTrial(s_layer.Problem(3), Tables.Seed, Density, sets: sets ? KnSparseSets.Inputs | KnSparseSets.Outputs : KnSparseSets.None, copies: 2);
        KnLaunch launch = row.DefaultLaunch(0);
        Assert.That(trial.Prepare(row, launch, out _, out string error), error);
        byte[][] Bits(bool eager)
        {
            using CallTimer timer = CallTimer.On(device, 2, CacheState.Cold, eager);
            nint stream = ((DeviceTimer)timer).Stream.Handle;
            var call = new TimedCall(row.Name, copy => Assert.That(trial.RunThere(row, launch, 3, copy, stream), Is.EqualTo(KnStatus.Ok), row.LastError));
            timer.Sample(call);
            trial.PoisonThere();
            timer.Sample(call);
            trial.Fetch();
            FlatGemmVerdict verdict = trial.Check(3);
            Assert.That(verdict.Ok, verdict.ToString());
            return [.. Enumerable.Range(0, 3).Select(i => trial.Output(i).ToArray())];
        }
        Assert.That(Bits(eager: false), Is.EqualTo(Bits(eager: true)));
    }

    [Test]
    public void ASparseLayerIsStoredOnRequestWithItsFormAndThenTaken()
    {
        Device device = Fast();
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        long nnz = new SparseLinearTrial(s_layer.Problem(3), 20231102, Density) is var trial ? trial.Sparse.Nnz : 0;
        trial.Dispose();
        var what = new SparseLinearTuning { Layer = s_layer, Density = Density, Grid = [1, 3], Budget = Tuning.Scratch.Ample, Candidates = 3 };
        Segment<KnSparseLinearProblem> Chosen() => SparseLinearSelection.Choose(device, s_layer, nnz, KnSparseSets.None, store)[^1];
        TuningResult unasked = SparseLinearTuner.Tune(device, store, what);
        Assert.That((unasked.Stored, unasked.Record is not null), Is.EqualTo((false, true)), unasked.Problem);
        Assert.That(unasked.Problem, Does.Contain("simulated"));
        Assert.That(Chosen().Source, Is.EqualTo(ChoiceSource.Modelled));

        TuningResult kept = SparseLinearTuner.Tune(device, store, what with { KeepSimulated = true, Eager = true });
        Assert.That(kept.Stored, kept.Problem);
        Assert.That(kept.Record!.Key.Policy.Call, Is.EqualTo("eager"));
        Assert.That(kept.Record.Evidence.SelectMany(e => e.Result.Timings).Select(t => t.Failure).Where(f => f is { Kind: FailureKind.WrongResult or FailureKind.Error }), Is.Empty);
        Assert.That(Chosen().Source, Is.EqualTo(ChoiceSource.Tuned));
        Assert.That(Chosen().Reason, Does.Contain("eager"));
        SparseLinearChoice form = SparseLinearForms.Choose(device, s_layer, (double)nnz / (40 * 192), 3, store);
        Assert.That(form.Source, Is.EqualTo(ChoiceSource.Tuned));
        (double? sparse, double? dense) = SparseLinearForms.Measured(device, s_layer, nnz, 3, store, CacheState.Cold);
        Assert.That(sparse ?? dense, Is.Not.Null, "explain finds what was measured eagerly");
        Assert.That(SparseLinearSelection.Choose(Device.Cpu, s_layer, nnz, KnSparseSets.None, store)[^1].Source, Is.EqualTo(ChoiceSource.Modelled), "of another device");
    }

    private static CsrMatrix<double> Matrix(SparseStructure s) => CsrMatrix.Create<double>(s.Rows, s.Columns, s.Offsets, s.Indices, new double[s.NonZeros]);

    /// <summary>The class of operands that are there has no ratio; what is stored for it is taken as on the CPU.</summary>
    [Test]
    public void AStoredNumberOfTablesIsTakenByAPlanOnTheDevice()
    {
        Device device = Fast();
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        using CsrMatrix<double> a = Matrix(SpGemmMatrices.Rmat(12, 16, 1)), there = a.CopyTo(device);
        var options = new SpGemmOptions { Store = store };
        Row row = device.Table.Of(KnOp.SpGemm).First();
        using SpGemmPlan<double> modelled = SpGemmPlan<double>.Create(there, there, options), here = SpGemmPlan<double>.Create(a, a, options);
        Assert.That(modelled.Choice.Source, Is.EqualTo(ChoiceSource.Modelled));
        Assert.That(modelled.Sample().Class, Is.EqualTo(here.Sample().Class with { Log2Ratio = 0 }));
        var thresholds = new SpGemmThresholds(device, 0, modelled.Problem, modelled.Sample(), distinct: true);
        KnLaunch[] launches = [.. row.Launches(0).Where(l => thresholds.Accepts(row, SpGemmThresholds.Memory, l))];
        Assert.That(launches, Has.Length.GreaterThan(1), "rows longer than shared memory holds: the number of tables counts");
        Assert.That(thresholds.Seconds(row, launches[^1], 2), Is.LessThan(thresholds.Seconds(row, row.Launches(0).First(l => l.Param[0] == 1), 2)), "more tables, more rows at once");
        Assert.That(store.TryWrite(TuningRecord.Pin(thresholds.Key(CacheState.Cold, eager: true), DateTimeOffset.UnixEpoch, row.Dataflow(launches[^1])), out string reason), reason);
        using SpGemmPlan<double> tuned = SpGemmPlan<double>.Create(there, there, options), cpu = SpGemmPlan<double>.Create(a, a, options);
        Assert.That((tuned.Choice.Source, tuned.Choice.Dataflow.WithThreads(0)), Is.EqualTo((ChoiceSource.Tuned, row.Dataflow(launches[^1]))));
        Assert.That(cpu.Choice.Source, Is.EqualTo(ChoiceSource.Modelled), "of another device");
    }

    [Test]
    public void ThresholdsOfAProductOnADeviceAreMeasuredEagerly()
    {
        Device device = Fast();
        using var directory = new Tuning.Scratch();
        var store = new TuningStore(directory.Path, []);
        var what = new SpGemmTuning { Options = new SpGemmOptions { Store = store }, Grid = [SpGemmThresholds.Memory], Budget = Tuning.Scratch.Ample };
        using CsrMatrix<double> small = Matrix(SpGemmMatrices.Rmat(7, 8, 1));
        Assert.That(Assert.Throws<KernelsException>(() => SpGemmTuner<double>.Tune(device, store, what, small, small))!.Argument, Is.EqualTo("a"));
        TuningResult result = SpGemmTuner<double>.Tune(device, store, what with { LeastProducts = 0 }, small, small);
        Assert.That(result.Problem, Does.Contain("simulated"));
        Assert.That((result.Stored, result.Record!.Key.Policy.Call), Is.EqualTo((false, "eager")));
        Assert.That(result.Record.Evidence.Single().Result.Timings.Select(t => t.Failure).Where(f => f is { Kind: FailureKind.WrongResult or FailureKind.Error }), Is.Empty);
    }
}
