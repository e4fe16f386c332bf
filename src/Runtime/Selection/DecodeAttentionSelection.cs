using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// Chooses the dataflow of decode attention for every kv_len: the forced row, else what was tuned, else the model; the softmax by
/// policy. A batch-invariant plan has one dataflow that shape and types alone decide.
/// </summary>
internal sealed unsafe class DecodeAttentionSelection : Selection<KnDecodeAttentionProblem>
{
    /// <summary>Launch parameters, by the names that rows give them.</summary>
    internal const string Softmax = "softmax", Split = "split", Heads = "heads";

    /// <summary>Tokens of a split in batch-invariant plans: few enough to fill 8 workers from 4K tokens of one head on.</summary>
    internal const int InvariantSplit = 512;

    private readonly DecodeAttentionOptions _options;
    private readonly bool _phi;
    private readonly SoftmaxDataflow _softmax;

    internal DecodeAttentionSelection(Device device, DecodeAttentionOptions options, bool phi) : base(device, options.MaxKvLen, options.Threads)
    {
        (_options, _phi) = (options, phi);
        Rows = options.Row is { } name
            ? [device.Table.Named(KnOp.DecodeAttention, name, nameof(options.Row))]
            : [.. device.Table.Of(KnOp.DecodeAttention).Where(r => device.Table.Runs(r, out _))];
        // With neither a rescale nor a row that is done again Bounded is the least work: where that is proved nothing else is asked.
        _softmax = options.Softmax == SoftmaxDataflow.Auto && options.CapProves && Rows.Any(r => r.Launches(Threads).Any(l => Takes(r, l, SoftmaxDataflow.Bounded)))
            ? SoftmaxDataflow.Bounded
            : options.Softmax;
    }

    public override string Axis => "kv_len";

    public override IReadOnlyList<Row> Rows { get; }

    public override ImmutableArray<int> Grid => ModelGrid;

    internal static readonly ImmutableArray<int> ModelGrid =
        [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576];

    public override KnDecodeAttentionProblem Problem(int at) => _options.Problem(at, _phi);

    /// <summary>The model's; where sequences and heads alone keep all threads busy, a split that some length needs only takes workspace.</summary>
    public override double Seconds(Row row, in KnLaunch launch, int at)
    {
        if (Device.Gpu is not null) return DecodeAttentionModel.Seconds(row, launch, Problem(at), Device);
        int threads = Threads == 0 ? Device.Threads : Math.Min(Threads, Device.Threads);
        bool idle = (long)_options.MaxBatch * _options.KvHeads >= 8 * threads && row.Value(launch, Split) < Most;
        return DecodeAttentionModel.Seconds(row, launch, Problem(at), Device) * (idle ? 1.02 : 1);
    }

    public override TuningKey Key(CacheState cache) => DecodeAttentionTuned.Key(Device, _options, _phi, cache);

    public override IEnumerable<TuningKey> Keys(CacheState cache) => _options.BatchInvariant || _options.MaxBatch == 0 ? [] : [Key(cache)];

    public override bool Accepts(Row row, int at, in KnLaunch launch) =>
        (_softmax == SoftmaxDataflow.Auto ? !VariesWithPages(row, launch) : row.Value(launch, Softmax) == (int)_softmax) && base.Accepts(row, at, launch);

    /// <summary>Whether bits of a batch-invariant plan would depend on the norm of a page, which covers keys that a token does not see.</summary>
    private bool VariesWithPages(Row row, in KnLaunch launch) =>
        _options.BatchInvariant && !_options.CapBounds && row.Value(launch, Softmax) == (int)SoftmaxDataflow.Bounded;

    private bool Takes(Row row, in KnLaunch launch, SoftmaxDataflow softmax) =>
        row.Value(launch, Softmax) == (int)softmax && base.Accepts(row, Most, launch);

    protected override KernelsException NoRow(int at)
    {
        // A row that was named, and takes no launch at all, says itself why.
        KnDecodeAttentionProblem problem = Problem(at);
        if (_options.Row is not null && !Rows[0].Launches(Threads).Any(l => base.Accepts(Rows[0], at, l)))
            return new KernelsException(Status.Unsupported, Rows[0].Name, $"requires {(Rows[0].Accepts(&problem, Rows[0].DefaultLaunch(Threads), out string? why) ? "" : why)}");
        return new KernelsException(Status.Unsupported, nameof(_options.Softmax),
            $"a dataflow that {string.Join(", ", Rows)} can run here, not {_options.Softmax}{Lacking}");
    }

    /// <summary>What the softmax that was asked for does not have.</summary>
    private string Lacking => _options.Softmax switch
    {
        SoftmaxDataflow.Unified when !_phi => " without phi",
        SoftmaxDataflow.Bounded when !_options.CapBounds && !_options.KeyNorms => " without KeyNorms or a SoftCap up to 60",
        _ => "",
    };

    /// <summary>The choice for every kv_len in 0..MaxKvLen, in order and without gaps.</summary>
    internal static ImmutableArray<Segment<KnDecodeAttentionProblem>> Choose(Device device, DecodeAttentionOptions options, bool phi, TuningStore? store,
        CacheState cache = CacheState.Cold)
    {
        var selection = new DecodeAttentionSelection(device, options, phi);
        if (options.BatchInvariant) return [selection.Invariant(device)];
        ImmutableArray<Segment<KnDecodeAttentionProblem>> chosen = selection.Choose(options.Row is null ? store : null, cache);
        return options.Row is null ? chosen : [.. chosen.Select(s => s with { Source = ChoiceSource.Forced, Reason = $"the caller named it; {s.Reason}" })];
    }

    /// <summary>
    /// One dataflow for all lengths, chosen as for one token of one sequence on one thread: neither the batch, the threads nor the
    /// number of new tokens takes part, so that decode and verification give the same bits.
    /// </summary>
    private Segment<KnDecodeAttentionProblem> Invariant(Device device)
    {
        var alone = new DecodeAttentionSelection(device, _options with { MaxBatch = 1, MaxQLen = 1, MaxKvLen = 4096, Threads = 1 }, _phi);
        (Row Row, KnLaunch Launch, double Seconds)? best = null;
        foreach (Row row in Rows.Where(r => r.Bits is not null))
            foreach (KnLaunch launch in row.Launches(1))
            {
                if (!IsFixed(row, launch) || !alone.Accepts(row, 4096, launch) || !Accepts(row, Most, launch)) continue;
                double seconds = alone.Seconds(row, launch, 4096);
                if (best is null || seconds < 0.99 * best.Value.Seconds) best = (row, launch, seconds);
            }
        if (best is not { } b) throw NoRow(Most);
        b.Launch.Threads = Threads;
        string reason = FormattableString.Invariant($"batch-invariant: one dataflow, splits of {b.Row.Value(b.Launch, Split)} tokens, bits of {b.Row.Bits}");
        return Make(b.Row, b.Launch, 0, Most, _options.Row is null ? ChoiceSource.Modelled : ChoiceSource.Forced, reason);
    }

    /// <summary>Whether the launch has the one split of its row that is nearest to the fixed one.</summary>
    private static bool IsFixed(Row row, in KnLaunch launch)
    {
        int i = row.IndexOf(Split);
        return i < 0 || launch.Param[i] == row.Parameters[i].Values.MinBy(v => Math.Abs((long)v - InvariantSplit));
    }
}
