using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.Gpu;

/// <summary>Timing and tuning on a device: graphs and eager launches, rotation past L2, and what of the simulated device is stored.</summary>
[TestFixture]
public sealed class DeviceTuning
{
    private static readonly FlatGemmOptions s_layer = new() { N = 48, K = 256, MaxM = 4, Weights = DType.BFloat16 };
    private static readonly DecodeAttentionOptions s_attention = new() { QHeads = 4, KvHeads = 2, HeadDim = 64, MaxKvLen = 300, PageSize = 16 };
    private string _directory = "";
    private TuningStore _store = null!;

    [SetUp]
    public void Open() => _store = new TuningStore(_directory = Directory.CreateTempSubdirectory("kernels-device-").FullName);

    [TearDown]
    public void Delete() => Directory.Delete(_directory, recursive: true);

    private static Device Fast() => Device.TryGetSimulated(out Device? device, out string? reason, check: false) ? device : throw new IgnoreException(reason);

    [Test]
    public void KeysDifferByPolicyAndOnTheCpuThereIsOne()
    {
        Device device = Simulated.Open("simt32");
        var there = new DecodeAttentionSelection(device, s_attention, false);
        string[] keys = [.. ((CacheState, bool)[])[(CacheState.Cold, false), (CacheState.Cold, true), (CacheState.Warm, false), (CacheState.Warm, true)] is var all ? all.Select(p => there.Key(p.Item1, p.Item2).Text) : []];
        Assert.That(keys, Is.Unique);
        Assert.That(there.Key(CacheState.Cold, true).Policy.Call, Is.EqualTo("eager"));
        Assert.That(there.Key(CacheState.Cold, false), Is.EqualTo(DecodeAttentionTuned.Key(device, s_attention, false, CacheState.Cold)), "a plan's is that of graphs");
        Assert.That(there.Keys(CacheState.Cold, false).Select(k => k.Policy.Call), Is.EqualTo((string[])["graph", "eager"]));
        Assert.That(there.Keys(CacheState.Cold, true).Select(k => k.Policy.Call), Is.EqualTo((string[])["eager", "graph"]));
        var here = new DecodeAttentionSelection(Device.Cpu, s_attention, false);
        Assert.That(here.Keys(CacheState.Cold, false).Select(k => k.Policy.Call), Is.EqualTo((string[])["call"]));
        Assert.That(here.Key(CacheState.Cold, true), Is.EqualTo(here.Key(CacheState.Cold, false)));
    }

    [Test]
    public void RotationPassesL2TwiceAndGoesRoundAllCopies()
    {
        Device device = Simulated.Open("simt32");
        long l2 = device.CacheBytes[1];
        Assert.That(l2, Is.Positive);
        foreach (long bytes in (long[])[1000, l2 / 3, l2, 10 * l2])
        {
            int copies = CallTimer.Copies(device, CacheState.Cold, bytes);
            Assert.That(copies * bytes, Is.GreaterThanOrEqualTo(2 * l2).And.LessThan(2 * l2 + bytes + 1));
            Assert.That(CallTimer.Copies(device, CacheState.Warm, bytes), Is.EqualTo(1));
        }
        foreach (bool eager in (bool[])[false, true])
        {
            var seen = new List<int>();
            using CallTimer timer = CallTimer.On(device, 5, CacheState.Cold, eager);
            var call = new TimedCall("call", seen.Add);
            Assert.That(timer.Sample(call), Is.Positive);
            Assert.That(seen.Take(5), Is.EquivalentTo(Enumerable.Range(0, 5)), "every copy is there before anything is timed");
            int[] timed = [.. seen.Skip(5)];
            Assert.That(timed, Has.Length.GreaterThanOrEqualTo(5));
            // The graph's calls begin a round of their own.
            int from = eager ? 1 : Array.IndexOf(timed, 0);
            for (int i = from + 1; i < timed.Length; i++) Assert.That(timed[i], Is.EqualTo((timed[i - 1] + 1) % 5), eager ? "eager" : "graph");
        }
    }

    /// <summary>What a graph's replays write has the bits of eager launches, copy by copy, and is right.</summary>
    [TestCase("flat_gemm/gpu")]
    [TestCase("flat_gemm/sm80")]
    public void ReplaysGiveTheBitsOfLaunches(string name)
    {
        Device device = Simulated.Open("simt32");
        var row = (GpuRow)device.Table.Of(KnOp.FlatGemm).First(r => r.Name == name);
        using var trial = new FlatGemmTrial(s_layer.Problem(3), Tables.Seed, copies: 2);
        KnLaunch launch = row.DefaultLaunch(0);
        Assert.That(trial.Prepare(row, launch, out _, out string error), error);
        byte[][] Bits(bool eager)
        {
            using CallTimer timer = CallTimer.On(device, 2, CacheState.Cold, eager);
            nint stream = ((DeviceTimer)timer).Stream.Handle;
            var call = new TimedCall(name, copy => Assert.That(trial.RunThere(row, launch, 3, copy, stream), Is.EqualTo(KnStatus.Ok), row.LastError));
            timer.Sample(call);
            trial.PoisonThere();
            timer.Sample(call);  // a replay alone: the graph was captured before
            trial.Fetch();
            FlatGemmVerdict verdict = trial.Check(3);
            Assert.That(verdict.Ok, verdict.ToString());
            return [.. Enumerable.Range(0, 3).Select(i => trial.Output(i).ToArray())];
        }
        Assert.That(Bits(eager: false), Is.EqualTo(Bits(eager: true)));
    }

    [TestCase("decode_attention/gpu")]
    [TestCase("decode_attention/sm80")]
    public void ReplaysOfAttentionGiveTheBitsOfLaunches(string name)
    {
        Device device = Simulated.Open("simt32");
        var row = (GpuRow)device.Table.Of(KnOp.DecodeAttention).First(r => r.Name == name);
        using var trial = new DecodeAttentionTrial(s_attention.Problem(150, phi: true), new DecodeAttentionData(Tables.Seed) { Copies = 2 });
        KnLaunch launch = row.DefaultLaunch(0);
        (launch.Param[0], launch.Param[1]) = ((int)KnSoftmax.Unified, 64);
        Assert.That(trial.Prepare(row, launch, out string error), error);
        byte[] Bits(bool eager)
        {
            using CallTimer timer = CallTimer.On(device, 2, CacheState.Cold, eager);
            nint stream = ((DeviceTimer)timer).Stream.Handle;
            var call = new TimedCall(name, copy => Assert.That(trial.TurnThere(row, launch, copy, stream), Is.EqualTo(KnStatus.Ok), row.LastError));
            timer.Sample(call);
            trial.PoisonThere();
            timer.Sample(call);
            trial.Fetch();
            DecodeAttentionVerdict verdict = trial.Check();
            Assert.That(verdict.Ok, verdict.ToString());
            return [.. Enumerable.Range(0, s_attention.QHeads).SelectMany(h => trial.Output(0, h).ToArray())];
        }
        Assert.That(Bits(eager: false), Is.EqualTo(Bits(eager: true)));
    }

    private static unsafe string? LayoutOf(Device device)
    {
        KnFlatGemmProblem problem = s_layer.Problem(s_layer.MaxM);
        return FlatGemmSelection.LayoutRow(device, s_layer).Layout(&problem);
    }

    [Test]
    public void ATuneOfTheSimulatedDeviceIsStoredOnlyOnRequestAndThenTaken()
    {
        Device device = Fast();
        string? layout = LayoutOf(device);
        var what = new FlatGemmTuning { Layer = s_layer, Grid = [1, 4], Budget = Tuning.Scratch.Ample, Candidates = 2 };
        ImmutableArray<Segment<KnFlatGemmProblem>> Choose() => FlatGemmSelection.Choose(device, s_layer, layout, _store);
        TuningResult unasked = FlatGemmTuner.Tune(device, _store, what with { Grid = [1] });
        Assert.That((unasked.Stored, unasked.Record is not null), Is.EqualTo((false, true)));
        Assert.That(unasked.Problem, Does.Contain("simulated"));
        Assert.That(Choose().All(s => s.Source == ChoiceSource.Modelled));

        TuningResult eager = FlatGemmTuner.Tune(device, _store, what with { Eager = true, KeepSimulated = true });
        Assert.That(eager.Stored, eager.Problem);
        AssertTaken(Choose(), eager.Record!, "eager");
        TuningResult graph = FlatGemmTuner.Tune(device, _store, what with { KeepSimulated = true });
        Assert.That(graph.Stored, graph.Problem);
        Assert.That(graph.Record!.Key, Is.Not.EqualTo(eager.Record!.Key));
        Assert.That(graph.Record.Notes["copies"], Is.EqualTo(CallTimer.Copies(device, CacheState.Cold, long.Parse(graph.Record.Notes["weight_bytes"], System.Globalization.CultureInfo.InvariantCulture)).ToString(System.Globalization.CultureInfo.InvariantCulture)));
        AssertTaken(Choose(), graph.Record, "graph");
        Assert.That(graph.Record.Evidence.SelectMany(e => e.Result.Timings).Select(t => t.Failure).Where(f => f is { Kind: FailureKind.WrongResult or FailureKind.Error }), Is.Empty);
    }

    private static void AssertTaken<TProblem>(ImmutableArray<Segment<TProblem>> chosen, TuningRecord record, string call) where TProblem : unmanaged
    {
        foreach (MInterval interval in record.Intervals)
        {
            Segment<TProblem> s = chosen.First(c => interval.To <= c.To);
            Assert.That((s.Source, s.Row.Dataflow(s.Launch)), Is.EqualTo((ChoiceSource.Tuned, interval.Dataflow)));
            Assert.That(s.Reason, Does.Contain($", {call}"));
        }
    }

    [Test]
    public void ATuneOfAttentionIsTakenByThePlansSelection()
    {
        Device device = Fast();
        var what = new DecodeAttentionTuning { Options = s_attention, Phi = true, Grid = [50, 300], Budget = Tuning.Scratch.Ample, Candidates = 4, KeepSimulated = true };
        TuningResult result = DecodeAttentionTuner.Tune(device, _store, what);
        Assert.That(result.Stored, result.Problem);
        Assert.That(result.Record!.Evidence.SelectMany(e => e.Result.Timings).Select(t => t.Failure).Where(f => f is { Kind: FailureKind.WrongResult or FailureKind.Error }), Is.Empty);
        AssertTaken(DecodeAttentionSelection.Choose(device, s_attention, true, _store), result.Record, "graph");
        Assert.That(DecodeAttentionSelection.Choose(device, s_attention with { BatchInvariant = true }, true, _store).All(s => s.Source == ChoiceSource.Modelled));
        Assert.That(DecodeAttentionSelection.Choose(Device.Cpu, s_attention, true, _store).All(s => s.Source == ChoiceSource.Modelled), "of another device");
    }
}
