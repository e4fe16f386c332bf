using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.Selection;

/// <summary>What plans of decode attention take from the store, from policy, and from the model.</summary>
[TestFixture]
public sealed class DecodeAttentionSelectionTests
{
    private static readonly DecodeAttentionOptions s_options = new() { QHeads = 32, KvHeads = 8, HeadDim = 128, MaxBatch = 2, MaxKvLen = 16384, PageSize = 16 };
    private string _directory = "";
    private TuningStore _store = null!;

    [SetUp]
    public void Open() => _store = new TuningStore(_directory = Directory.CreateTempSubdirectory("kernels-attention-").FullName);

    [TearDown]
    public void Delete() => Directory.Delete(_directory, recursive: true);

    private static ImmutableArray<Segment<KnDecodeAttentionProblem>> Choose(DecodeAttentionOptions options, bool phi = false, TuningStore? store = null) =>
        DecodeAttentionSelection.Choose(Device.Cpu, options, phi, store);

    private static SoftmaxDataflow SoftmaxOf(Segment<KnDecodeAttentionProblem> s) => (SoftmaxDataflow)s.Row.Value(s.Launch, DecodeAttentionSelection.Softmax);

    [Test]
    public void Every_kv_len_has_a_choice([Values(0, 1, 64, 65, 5000, 1 << 28)] int most, [Values] bool invariant)
    {
        int next = 0;
        foreach (Segment<KnDecodeAttentionProblem> s in Choose(s_options with { MaxKvLen = most, BatchInvariant = invariant }))
        {
            Assert.That((s.From, s.Source), Is.EqualTo((next, ChoiceSource.Modelled)));
            next = s.To + 1;
        }
        Assert.That(next, Is.EqualTo(most + 1));
    }

    [Test]
    public void Many_equal_sequences_are_not_split()
    {
        Segment<KnDecodeAttentionProblem> many = Choose(s_options with { MaxBatch = 64 })[^1];
        Assert.That(many.Row.Value(many.Launch, DecodeAttentionSelection.Split), Is.GreaterThanOrEqualTo(16384));
    }

    /// <summary>The model leaves the managed row to machines and problems that have no other.</summary>
    [Test]
    public void Managed_is_not_chosen_where_a_native_row_runs([Values(1, 4, 8, 32, 64)] int kvHeads, [Values(1, 2, 4, 8)] int group, [Values(1, 4)] int tokens, [Values(0, 1)] int threads)
    {
        KernelTable table = KernelTable.Default;
        if (!table.Of(KnOp.DecodeAttention).Any(r => r.Target != "managed" && table.Runs(r, out _))) Assert.Ignore("no native row of decode_attention runs here");
        foreach (DType kv in (DType[])[DType.BFloat16, DType.Int8, DType.Float8E4M3])
        {
            DecodeAttentionOptions options = s_options with { QHeads = kvHeads * group, KvHeads = kvHeads, MaxQLen = tokens, Threads = threads, Query = DType.BFloat16, Kv = kv, Output = DType.BFloat16 };
            foreach (Segment<KnDecodeAttentionProblem> s in Choose(options)) Assert.That(s.Row.Target, Is.Not.EqualTo("managed"), $"{kv}, kv_len {s.From}..{s.To}");
        }
    }

    /// <summary>A tile of AMX costs the same for one packed row as for 16.</summary>
    [Test]
    public void Tiles_are_taken_where_many_rows_are_packed()
    {
        if (Tables.Emulated is not { } table) { Assert.Ignore("no kn_cpu_emulated library"); return; }
        if (!table.Runs(table.Of(KnOp.DecodeAttention).First(r => r.Name == "decode_attention/amx"), out string? lacks)) Assert.Ignore(lacks!);
        string TargetOf(int group, int tokens, int threads = 1) => DecodeAttentionSelection.Choose(new Device(table),
            s_options with { QHeads = 8 * group, MaxQLen = tokens, Threads = threads, Query = DType.BFloat16, Kv = DType.BFloat16, Output = DType.BFloat16 }, false, null)[^1].Row.Target;
        Assert.That((TargetOf(1, 1), TargetOf(1, 1, 0)), Is.EqualTo(("avx512bf16", "avx512bf16")));
        Assert.That((TargetOf(16, 1), TargetOf(4, 4), TargetOf(8, 4), TargetOf(16, 2, 0)), Is.EqualTo(("amx", "amx", "amx", "amx")));
    }

    [Test]
    public void Bounded_is_taken_where_it_is_proved_and_unified_only_with_phi()
    {
        Assert.That(Choose(s_options with { SoftCap = 50 }).All(s => SoftmaxOf(s) == SoftmaxDataflow.Bounded));
        Assert.That(Choose(s_options with { SoftCap = 55, Alibi = true }).All(s => SoftmaxOf(s) == SoftmaxDataflow.Lazy), "one near key at the cap, and 2^28 far ones");
        Assert.That(Choose(s_options with { SoftCap = 51, Window = 9 }).All(s => SoftmaxOf(s) == SoftmaxDataflow.Bounded));
        Assert.That(Choose(s_options with { KeyNorms = true }).All(s => SoftmaxOf(s) == SoftmaxDataflow.Lazy), "norms may be loose");
        Assert.That(Choose(s_options with { SoftCap = 61 }).All(s => SoftmaxOf(s) is SoftmaxDataflow.Sync or SoftmaxDataflow.Lazy));
        Assert.That(Choose(s_options).All(s => SoftmaxOf(s) is SoftmaxDataflow.Sync or SoftmaxDataflow.Lazy));
        Assert.That(Choose(s_options with { Softmax = SoftmaxDataflow.Unified }, phi: true).All(s => SoftmaxOf(s) == SoftmaxDataflow.Unified));
        Assert.That(Choose(s_options with { Softmax = SoftmaxDataflow.Sync, SoftCap = 50 }).All(s => SoftmaxOf(s) == SoftmaxDataflow.Sync), "a named one is taken as it is");
    }

    /// <summary>Where nothing is proved the four dataflows are the tuner's to compare.</summary>
    [Test]
    public void The_tuner_may_take_every_softmax([Values] bool invariant)
    {
        var selection = new DecodeAttentionSelection(Device.Cpu, s_options with { KeyNorms = true, BatchInvariant = invariant }, phi: true);
        var all = selection.Rows.SelectMany(r => r.Launches(0).Where(l => selection.Accepts(r, 4096, l)).Select(l => (SoftmaxDataflow)r.Value(l, DecodeAttentionSelection.Softmax))).ToHashSet();
        SoftmaxDataflow[] expected = [SoftmaxDataflow.Sync, SoftmaxDataflow.Lazy, SoftmaxDataflow.Unified, SoftmaxDataflow.Bounded];
        Assert.That(all, Is.EquivalentTo(invariant ? expected[..3] : expected), "the norm of a page covers keys that a token does not see");
    }

    [Test]
    public void A_batch_invariant_choice_knows_neither_batch_nor_threads_nor_new_tokens()
    {
        DecodeAttentionOptions options = s_options with { BatchInvariant = true };
        Segment<KnDecodeAttentionProblem> one = Choose(options, store: _store).Single();
        Assert.That(one.Row.Bits, Is.Not.Null);
        foreach (DecodeAttentionOptions other in (DecodeAttentionOptions[])[options with { MaxBatch = 256 }, options with { Threads = 1 }, options with { MaxQLen = 8 }, options with { MaxKvLen = 1 << 20 }])
        {
            Segment<KnDecodeAttentionProblem> s = Choose(other, store: _store).Single();
            Assert.That(s.Row.Dataflow(s.Launch).WithThreads(0), Is.EqualTo(one.Row.Dataflow(one.Launch).WithThreads(0)), other.ToString());
        }
    }

    [Test]
    public void A_forced_row_is_the_only_one_and_its_refusal_an_error()
    {
        Assert.That(Choose(s_options with { Row = "decode_attention/managed" }).All(s => s.Row.Name == "decode_attention/managed" && s.Source == ChoiceSource.Forced));
        var e = Assert.Throws<KernelsException>(() => Choose(s_options with { Row = "decode_attention/none" }))!;
        Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Unsupported, "Row")));
    }

    [Test]
    public void What_is_stored_for_a_stretch_of_kv_len_is_taken_there()
    {
        Row row = new DecodeAttentionSelection(Device.Cpu, s_options, false).Rows[^1];
        Dataflow dataflow = row.Dataflow(row.Launches(0).First(l => row.Value(l, DecodeAttentionSelection.Softmax) == (int)KnSoftmax.Sync));
        TuningRecord record = TuningRecord.Pin(DecodeAttentionTuned.Key(Device.Cpu, s_options, false, CacheState.Cold), DateTimeOffset.UtcNow, dataflow)
            with
        { Intervals = [new MInterval(1000, 5000, dataflow, null)] };
        Assert.That(_store.TryWrite(record, out string reason), reason);
        Segment<KnDecodeAttentionProblem> tuned = Choose(s_options, store: _store).Single(s => s.Source == ChoiceSource.Tuned);
        Assert.That((tuned.From, tuned.To, tuned.Row.Dataflow(tuned.Launch)), Is.EqualTo((1000, 5000, dataflow)));
        Assert.That(Choose(s_options with { BatchInvariant = true }, store: _store).All(s => s.Source == ChoiceSource.Modelled));
        Assert.That(Choose(s_options with { Softmax = SoftmaxDataflow.Lazy }, store: _store).All(s => s.Source == ChoiceSource.Modelled), "another policy is another key");
    }

    [Test]
    public void Whatever_a_choice_depends_on_is_in_the_key()
    {
        DecodeAttentionOptions o = s_options;
        DecodeAttentionOptions[] all =
        [
            o, o with { QHeads = 64 }, o with { KvHeads = 4 }, o with { HeadDim = 64 }, o with { VHeadDim = 64 }, o with { MaxBatch = 3 }, o with { MaxQLen = 2 }, o with { PageSize = 32 },
            o with { Window = 9 }, o with { SoftCap = 50 }, o with { SoftCap = 100 }, o with { Alibi = true }, o with { Sinks = true }, o with { Mask = AttentionMask.Tree }, o with { Mask = AttentionMask.Full },
            o with { Query = DType.Float16 }, o with { Kv = DType.Int8 }, o with { Kv = DType.Float8E4M3 }, o with { Kv = DType.Float8E4M3, KvScales = true }, o with { Output = DType.Float32 },
            o with { KeyNorms = true }, o with { Softmax = SoftmaxDataflow.Sync }, o with { BatchInvariant = true },
        ];
        string[] keys = [.. all.Select(a => DecodeAttentionTuned.Key(Device.Cpu, a, false, CacheState.Cold).Text), DecodeAttentionTuned.Key(Device.Cpu, o, true, CacheState.Cold).Text, DecodeAttentionTuned.Key(Device.Cpu, o, false, CacheState.Warm).Text];
        Assert.That(keys, Is.Unique);
        Assert.That(DecodeAttentionTuned.Key(Device.Cpu, o with { MaxKvLen = 5, Scale = 2 }, false, CacheState.Cold).Text, Is.EqualTo(keys[0]), "the axis, and what no time depends on");
    }

    [Test]
    public void Tuning_stores_what_a_plan_then_takes_with_every_softmax_that_the_policy_allows()
    {
        DecodeAttentionOptions options = s_options with { QHeads = 4, KvHeads = 2, HeadDim = 64, MaxKvLen = 1000 };
        var what = new DecodeAttentionTuning { Options = options, Phi = true, Grid = [100, 1000], Cache = CacheState.Warm, Budget = Tuning.Scratch.Ample, Candidates = 5 };
        TuningResult result = DecodeAttentionTuner.Tune(Device.Cpu, _store, what);
        Assert.That(result.Stored, result.Problem);
        Assert.That(result.Record!.Evidence.Select(e => e.M), Is.EqualTo(what.Grid));
        Assert.That(result.Record.Evidence.SelectMany(e => e.Result.Timings).Select(t => t.Failure).Where(f => f is { Kind: FailureKind.WrongResult or FailureKind.Error }), Is.Empty);
        Assert.That(result.Record.Notes.Keys, Has.Some.StartsWith("predicted m=1000 "));
        Assert.That(Replay.Of(result.Record).IsSame);
        Assert.That(DecodeAttentionSelection.Choose(Device.Cpu, options, true, _store, CacheState.Warm)[^1].Source, Is.EqualTo(ChoiceSource.Tuned));
        Assert.That(Choose(options, true, _store).All(s => s.Source == ChoiceSource.Modelled), "policies are not mixed");
        Assert.That(() => DecodeAttentionTuner.Tune(Device.Cpu, _store, what with { Grid = [0] }), Throws.TypeOf<KernelsException>());
    }
}
