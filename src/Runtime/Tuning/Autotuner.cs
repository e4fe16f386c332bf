using System.Collections.Immutable;
using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels.Tuning;

/// <summary>
/// Measures what a plan may run, on the machine that will run it, and stores the choices where plans with the same options find them; and
/// says of every row whether it takes a problem. Plans never measure themselves: tune once, before they are created.
/// </summary>
/// <remarks>
/// Candidates are ranked by the cost model, held to the oracle, and timed in turns, under the bound on threads and the
/// <see cref="CacheState"/> of the options. What is stored stays unless another is surely faster. Operands are made here: nothing of the caller's
/// is read but the structure of sparse matrices. It measures in this process, so a row that crashes ends it; `perf tune` has a process
/// for that. Nothing else should run meanwhile. Methods may be called from any thread, one at a time.
/// </remarks>
public static class Autotuner
{
    /// <summary>Where records are stored unless options name a directory: XDG_CACHE_HOME/kernels, ~/.cache/kernels, on Windows LocalApplicationData\kernels; empty where there is no home.</summary>
    public static string DefaultDirectory => TuningStore.DefaultDirectory;

    /// <summary>Tunes a dense layer.</summary>
    /// <param name="layer">The layer; Row and BatchInvariant are not set, since such plans take nothing from the database.</param>
    /// <param name="budget">Wall time for all points together; what was measured when it ends is kept.</param>
    /// <param name="m">Rows of x to measure at, 1 to MaxM; null: a grid up to MaxM.</param>
    /// <param name="progress">Told what is measured next.</param>
    /// <param name="cancellation">Ends it after the run in progress; what was measured is kept.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">Options that break a rule, or no memory for the operands.</exception>
    public static TunedChoices Tune(FlatGemmOptions layer, TimeSpan budget, IEnumerable<int>? m = null, IProgress<TuningProgress>? progress = null,
        CancellationToken cancellation = default, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var what = new FlatGemmTuning { Layer = layer, Grid = Grid(m, FlatGemmSelection.ModelGrid, layer.MaxM, nameof(m)), Cache = layer.Cache };
        return TunedChoices.Of(FlatGemmTuner.Tune(device ?? Device.Cpu, TuningStore.In(layer.TuningDirectory), For(what, budget, progress, cancellation)));
    }

    /// <summary>Tunes a layer of whose weights a part is stored, and whether it is faster sparse or dense: the intervals name rows of either.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="density">Part of the weights that is not 0.</param>
    /// <param name="budget">Wall time for all.</param>
    /// <param name="m">Rows of x to measure at, 1 to MaxM; null: a grid up to MaxM.</param>
    /// <param name="progress">Told what is measured next: first of the rows, then, from 0 again, of the two forms.</param>
    /// <param name="cancellation">Ends it after the run in progress; what was measured is kept.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">Options that break a rule, or no memory for the operands.</exception>
    public static TunedChoices Tune(FlatGemmOptions layer, double density, TimeSpan budget, IEnumerable<int>? m = null, IProgress<TuningProgress>? progress = null,
        CancellationToken cancellation = default, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(layer);
        KernelsException.Require(density is >= 0 and <= 1, nameof(density), $"0 <= density <= 1, not {density}");
        var what = new SparseLinearTuning { Layer = layer, Density = density, Grid = Grid(m, FlatGemmSelection.ModelGrid, layer.MaxM, nameof(m)), Cache = layer.Cache };
        return TunedChoices.Of(SparseLinearTuner.Tune(device ?? Device.Cpu, TuningStore.In(layer.TuningDirectory), For(what, budget, progress, cancellation)));
    }

    /// <summary>Tunes decode attention, with MaxBatch sequences of one length at a time.</summary>
    /// <param name="options">The problem; Row and BatchInvariant are not set.</param>
    /// <param name="budget">Wall time for all.</param>
    /// <param name="kvLen">Lengths to measure at, 1 to MaxKvLen; null: a grid up to MaxKvLen, of what fits in a third of the memory.</param>
    /// <param name="phi">Whether plans will have a phi, so that Unified is a candidate.</param>
    /// <param name="progress">Told what is measured next.</param>
    /// <param name="cancellation">Ends it after the run in progress; what was measured is kept.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">Options that break a rule, or no memory for the operands.</exception>
    public static TunedChoices Tune(DecodeAttentionOptions options, TimeSpan budget, IEnumerable<int>? kvLen = null, bool phi = false,
        IProgress<TuningProgress>? progress = null, CancellationToken cancellation = default, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        ImmutableArray<int> grid = Grid(kvLen, DecodeAttentionSelection.ModelGrid, options.MaxKvLen, nameof(kvLen));
        if (kvLen is null) grid = grid.RemoveAll(at => options.KvBytes(at) > CallTimer.MemoryCap);
        var what = new DecodeAttentionTuning { Options = options, Phi = phi, Grid = grid, Cache = options.Cache };
        return TunedChoices.Of(DecodeAttentionTuner.Tune(device ?? Device.Cpu, TuningStore.In(options.TuningDirectory), For(what, budget, progress, cancellation)));
    }

    /// <summary>Tunes row and thresholds for the class of products that <c>a b</c> belongs to, with memory reused.</summary>
    /// <param name="a">In the host's memory.</param>
    /// <param name="b">In the host's memory.</param>
    /// <param name="budget">Wall time for all.</param>
    /// <param name="options">What the products will be asked for.</param>
    /// <param name="mask">[m,n], as <see cref="SpGemm"/> has it.</param>
    /// <param name="addend">[m,n], likewise.</param>
    /// <param name="progress">Told what is measured next.</param>
    /// <param name="cancellation">Ends it after the run in progress; what was measured is kept.</param>
    /// <param name="device">The CPU when null; another gets copies of the matrices.</param>
    /// <exception cref="KernelsException">Matrices that do not fit, too few products for thresholds to matter (2^20), or no memory.</exception>
    public static TunedChoices Tune<T>(CsrMatrix<T> a, CsrMatrix<T> b, TimeSpan budget, SpGemmOptions? options = null, CsrStructure? mask = null, CsrMatrix<T>? addend = null,
        IProgress<TuningProgress>? progress = null, CancellationToken cancellation = default, Device? device = null) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(a);
        ArgumentNullException.ThrowIfNull(b);
        options ??= new SpGemmOptions();
        var what = new SpGemmTuning { Options = options, Grid = [SpGemmThresholds.Memory] };
        return TunedChoices.Of(SpGemmTuner<T>.Tune(device ?? Device.Cpu, options.Store ?? TuningStore.In(options.TuningDirectory), For(what, budget, progress, cancellation), a, b, mask, addend));
    }

    /// <summary>What every row of flat_gemm says to a layer at m rows, best row first.</summary>
    /// <exception cref="KernelsException">Options that break a rule, or a forced row that cannot run.</exception>
    public static unsafe ImmutableArray<RowExplanation> Explain(FlatGemmOptions layer, int m, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(layer);
        layer.Check();
        Within(m, layer.MaxM, nameof(m));
        device ??= Device.Cpu;
        TuningStore store = TuningStore.In(layer.TuningDirectory);
        KnFlatGemmProblem problem = layer.Problem(layer.MaxM);
        string? layout = FlatGemmSelection.LayoutRow(device, layer).Layout(&problem);
        return FlatGemmSelection.Of(device, layer, layout).Explain(KnOp.FlatGemm, m, FlatGemmSelection.Choose(device, layer, layout, store, layer.Cache), store, layer.Cache);
    }

    /// <summary>What every row of sparse_linear says to a layer of this density at m rows, best row first.</summary>
    /// <exception cref="KernelsException">Options that break a rule, or a forced row that cannot run.</exception>
    public static ImmutableArray<RowExplanation> Explain(FlatGemmOptions layer, double density, int m, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(layer);
        KernelsException.Require(density is >= 0 and <= 1, nameof(density), $"0 <= density <= 1, not {density}");
        SparseLinear.Check(layer);
        Within(m, layer.MaxM, nameof(m));
        device ??= Device.Cpu;
        TuningStore store = TuningStore.In(layer.TuningDirectory);
        long nnz = (long)(density * layer.Columns * layer.K);
        var selection = new SparseLinearSelection(device, layer, nnz, KnSparseSets.None, SparseLinearSelection.Runnable(device, layer, nnz));
        return selection.Explain(KnOp.SparseLinear, m, SparseLinearSelection.Choose(device, layer, nnz, KnSparseSets.None, store, layer.Cache), store, layer.Cache);
    }

    /// <summary>What every row of decode_attention says to a problem with so many tokens in the cache, best row first.</summary>
    /// <exception cref="KernelsException">Options that break a rule, or a forced row that cannot run.</exception>
    public static ImmutableArray<RowExplanation> Explain(DecodeAttentionOptions options, int kvLen, bool phi = false, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        Within(kvLen, options.MaxKvLen, nameof(kvLen));
        device ??= Device.Cpu;
        TuningStore store = TuningStore.In(options.TuningDirectory);
        return new DecodeAttentionSelection(device, options, phi).Explain(KnOp.DecodeAttention, kvLen,
            DecodeAttentionSelection.Choose(device, options, phi, store, options.Cache), store, options.Cache);
    }

    /// <summary>What every row of spgemm says to the product of <paramref name="a"/> and <paramref name="b"/>, best row first; times are with memory reused.</summary>
    /// <param name="a">[m,k], in the host's memory.</param>
    /// <param name="b">[k,n], in the host's memory.</param>
    /// <param name="options">What the product will be asked for; the usual product when null.</param>
    /// <param name="mask">[m,n], as <see cref="SpGemm"/> has it.</param>
    /// <param name="addend">[m,n], likewise.</param>
    /// <param name="device">The CPU when null; another gets copies of the matrices.</param>
    /// <exception cref="KernelsException">Matrices or options that break a rule, or a forced row that cannot run.</exception>
    public static ImmutableArray<RowExplanation> Explain<T>(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions? options = null, CsrStructure? mask = null, CsrMatrix<T>? addend = null,
        Device? device = null) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(a);
        ArgumentNullException.ThrowIfNull(b);
        options ??= new SpGemmOptions();
        using var operands = new SpGemmOperands<T>(a, b, device ?? Device.Cpu, mask, addend);
        using SpGemmPlan<T> plan = operands.Plan(options);
        return plan.Explain(options.Store ?? TuningStore.In(options.TuningDirectory));
    }

    private static void Within(int at, int most, string name) => KernelsException.Require(at >= 1 && at <= most, name, $"1 <= {name} <= {most}, not {at}");

    /// <summary>The given points, none of them beyond what plans of these options take; else the default ones.</summary>
    private static ImmutableArray<int> Grid(IEnumerable<int>? given, ImmutableArray<int> byDefault, int most, string name)
    {
        if (given is null) return [.. byDefault.Where(g => g < most), most];
        ImmutableArray<int> grid = [.. given];
        foreach (int at in grid) Within(at, most, name);
        return grid;
    }

    private static T For<T>(T what, TimeSpan budget, IProgress<TuningProgress>? progress, CancellationToken cancellation) where T : TuningEffort
    {
        KernelsException.Require(budget > TimeSpan.Zero, nameof(budget), $"above 0, not {budget}");
        int points = what.Grid.Distinct().Count();
        return (T)((TuningEffort)what with
        {
            Budget = budget,
            Cancellation = cancellation,
            Progress = progress is null ? null : (at, done) => progress.Report(new TuningProgress(at, done, points)),
        });
    }
}

/// <summary>How far a tune is.</summary>
/// <param name="At">The m or kv_len that is measured next.</param>
/// <param name="Done">Points that were measured.</param>
/// <param name="Points">Points in all.</param>
public readonly record struct TuningProgress(int At, int Done, int Points);

/// <summary>What was chosen, and the times that it follows from.</summary>
/// <param name="Stored">Whether the database holds it now.</param>
/// <param name="Problem">Why not: no time, no directory that takes it, a simulated device; empty where it is stored.</param>
/// <param name="Intervals">The choices over m or kv_len, ascending and disjoint; between and beyond them the model decides.</param>
/// <param name="Points">What was timed, this time or before, ascending.</param>
public sealed record TunedChoices(bool Stored, string Problem, ImmutableArray<MInterval> Intervals, ImmutableArray<TunedPoint> Points)
{
    internal static TunedChoices Of(TuningResult result) => new(result.Stored, result.Problem, result.Record?.Intervals ?? [],
        [.. result.Record?.Evidence.Select(e => new TunedPoint(e.M, [.. e.Candidates.Select((d, i) => TunedCandidate.Of(d, e.Result.Timings[i], e.Result.Winner == i))])) ?? []]);
}

/// <summary>The candidates at one point.</summary>
/// <param name="At">m, kv_len; of spgemm what a call reuses, 2 for memory.</param>
/// <param name="Candidates">In their fixed order, the incumbent first.</param>
public sealed record TunedPoint(int At, ImmutableArray<TunedCandidate> Candidates);

/// <summary>The time of one candidate: the median of its samples with a 95 % interval, in seconds; NaN where it was not timed.</summary>
/// <param name="Dataflow">Row and launch parameters.</param>
/// <param name="Seconds">Median of a call.</param>
/// <param name="Low">Lower end of the interval.</param>
/// <param name="High">Upper end.</param>
/// <param name="Samples">How many; an interval of fewer than six is only their range.</param>
/// <param name="Failure">Why it is out: refused, a wrong result, surely slower; null where it stayed in to the end.</param>
/// <param name="Won">Whether it won at this point.</param>
public sealed record TunedCandidate(Dataflow Dataflow, double Seconds, double Low, double High, int Samples, string? Failure, bool Won)
{
    internal static TunedCandidate Of(Dataflow dataflow, Timing timing, bool won)
    {
        Estimate e = timing.Estimate;
        return new(dataflow, e.Median, e.Lower, e.Upper, e.Count, timing.Failure is { } f ? $"{f.Kind}: {f.Detail}" : null, won);
    }
}
