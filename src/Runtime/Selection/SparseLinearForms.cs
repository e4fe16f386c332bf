using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// Sparse or dense, for every m: what sparse_linear would run against what flat_gemm would on the same weights with their zeros
/// stored. The tuner measures the two against each other under a key of its own.
/// </summary>
internal sealed unsafe class SparseLinearForms : Selection<KnSparseLinearProblem>
{
    private readonly FlatGemmOptions _options;
    private readonly long _nnz;
    private readonly bool _contenders;
    private readonly SparseLinearSelection _sparse;
    private readonly FlatGemmSelection _dense;
    private readonly ImmutableArray<Segment<KnSparseLinearProblem>> _sparseChoices;
    private readonly ImmutableArray<Segment<KnFlatGemmProblem>> _denseChoices;

    /// <summary>With <paramref name="contenders"/> it accepts nothing but the two dataflows in question, which is what a tuner measures.</summary>
    public SparseLinearForms(Device device, FlatGemmOptions options, long nnz, TuningStore? store, CacheState cache, bool contenders = false)
        : base(device, options.MaxM, options.Threads)
    {
        (_options, _nnz, _contenders) = (options with { Row = null, Cache = cache }, nnz, contenders);
        KnFlatGemmProblem problem = _options.Problem(options.MaxM);
        string? layout = FlatGemmSelection.LayoutRow(device, _options).Layout(&problem);
        _sparse = new SparseLinearSelection(device, _options, nnz, KnSparseSets.None, SparseLinearSelection.Runnable(device, _options, nnz));
        _dense = new FlatGemmSelection(device, _options, layout, FlatGemmSelection.Sharing(device, _options, layout));
        _sparseChoices = SparseLinearSelection.Choose(device, _options, nnz, KnSparseSets.None, store, cache);
        _denseChoices = FlatGemmSelection.Choose(device, _options, layout, store, cache);
    }

    public override string Axis => "m";

    public override IReadOnlyList<Row> Rows => [.. _sparse.Rows, .. _dense.Rows];

    public override ImmutableArray<int> Grid => FlatGemmSelection.ModelGrid;

    public override KnSparseLinearProblem Problem(int at) => _sparse.Problem(at);

    public override double Seconds(Row row, in KnLaunch launch, int at) =>
        row.Op == KnOp.SparseLinear ? _sparse.Seconds(row, launch, at) : _dense.Seconds(row, launch, at);

    public override TuningKey Key(CacheState cache) => Key(Device, _options, _nnz, cache);

    internal static TuningKey Key(Device device, FlatGemmOptions options, long nnz, CacheState cache)
    {
        TuningKey rows = SparseLinearSelection.Key(device, options, nnz, cache);
        return rows with { Problem = rows.Problem.Add(KeyName, "form") };
    }

    /// <summary>What the key has that no key of dataflows alone has.</summary>
    internal const string KeyName = "choice";

    /// <summary>One form serves a plan at every m, so that a batch-invariant one may come from the store as well.</summary>
    public override IEnumerable<TuningKey> Keys(CacheState cache)
    {
        if (_options.N > 0) yield return Key(cache);
    }

    public override bool Accepts(Row row, int at, in KnLaunch launch)
    {
        if (_contenders && row.Dataflow(launch) is var flow && flow != Sparse(at).Dataflow && flow != Dense(at).Dataflow) return false;
        return row.Op == KnOp.SparseLinear ? _sparse.Accepts(row, at, launch) : _dense.Accepts(row, at, launch);
    }

    protected override KernelsException NoRow(int at) => new(Status.Unsupported, "options", $"a layer that a row of {Device} takes at m = {at}");

    /// <summary>What runs at m if the layer is sparse, with its seconds by the model.</summary>
    public (Dataflow Dataflow, double Seconds) Sparse(int at)
    {
        var s = _sparseChoices.First(c => at <= c.To);
        return (s.Row.Dataflow(s.Launch), _sparse.Seconds(s.Row, s.Launch, at));
    }

    /// <summary>What runs at m if it is dense.</summary>
    public (Dataflow Dataflow, double Seconds) Dense(int at)
    {
        var s = _denseChoices.First(c => at <= c.To);
        return (s.Row.Dataflow(s.Launch), _dense.Seconds(s.Row, s.Launch, at));
    }

    /// <summary>The stored choice at m, or null: it names a row of the form that was faster.</summary>
    public StoredChoice? Stored(int at, TuningStore? store, CacheState cache)
    {
        foreach (StoredChoice s in StoredChoices.Over(this, store, cache))
            if (s.From <= at && at <= s.To) return s;
        return null;
    }

    /// <summary>The stored medians of the two forms where the choice at m comes from, in one tournament; null where it was not measured.</summary>
    internal static (double? Sparse, double? Dense) Measured(Device device, FlatGemmOptions options, long nnz, int at, TuningStore store, CacheState cache)
    {
        var forms = new SparseLinearForms(device, options with { MaxM = at }, nnz, store, cache);
        return (Least(SparseLinearSelection.Operation), Least(FlatGemmTuned.Operation));

        double? Least(string operation) => forms.Measured(d => d.Row.StartsWith(operation + "/", StringComparison.Ordinal), at, store, cache)?.Seconds;
    }

    /// <summary>The form at m: the stored one, else the model's; and the density from which on dense is the faster one by the model.</summary>
    internal static SparseLinearChoice Choose(Device device, FlatGemmOptions options, double density, int m, TuningStore? store, CacheState cache = CacheState.Cold)
    {
        FlatGemmOptions layer = options with { MaxM = m, Row = null, Cache = cache };
        SparseLinear.Check(layer);
        double all = (double)layer.Columns * layer.K;
        var forms = new SparseLinearForms(device, layer, (long)(density * all), store, cache);
        (Dataflow sparse, double sparseSeconds) = forms.Sparse(m);
        (Dataflow dense, double denseSeconds) = forms.Dense(m);
        StoredChoice? stored = forms.Stored(m, store, cache);
        bool isSparse = stored is { } s ? s.Row.Op == KnOp.SparseLinear : sparseSeconds <= denseSeconds;
        return new SparseLinearChoice(m, density, isSparse, stored is null ? ChoiceSource.Modelled : ChoiceSource.Tuned, stored?.Reason ?? "by the models of both",
            sparse, sparseSeconds, dense, denseSeconds, Crossover());

        // The cost of the sparse layer only grows with its density.
        double Crossover()
        {
            double At(double part)
            {
                long nnz = (long)(part * all);
                return new SparseLinearSelection(device, layer, nnz, KnSparseSets.None, SparseLinearSelection.Runnable(device, layer, nnz)).Best(m).Seconds;
            }
            double low = 0, high = 1, limit = forms._dense.Best(m).Seconds;
            if (At(0) > limit) return 0;
            if (At(1) <= limit) return 1;
            while (high - low > 0.001) (low, high) = At((low + high) / 2) <= limit ? ((low + high) / 2, high) : (low, (low + high) / 2);
            return low;
        }
    }
}
