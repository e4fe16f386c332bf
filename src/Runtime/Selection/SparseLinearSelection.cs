using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Chooses the dataflow of a sparse layer for every m. All rows read one layout.</summary>
internal sealed unsafe class SparseLinearSelection(Device device, FlatGemmOptions options, long nnz, KnSparseSets sets, IReadOnlyList<Row> rows)
    : Selection<KnSparseLinearProblem>(device, options.MaxM, options.Threads)
{
    internal const string Operation = "sparse_linear";

    public override string Axis => "m";

    public override IReadOnlyList<Row> Rows => rows;

    public override ImmutableArray<int> Grid => FlatGemmSelection.ModelGrid;

    public override KnSparseLinearProblem Problem(int at) => SparseLinear.Problem(options, at, nnz, sets);

    public override double Seconds(Row row, in KnLaunch launch, int at) => SparseLinearModel.Seconds(row, launch, Problem(at), Math.Max(at, 1), Device, options.Cache);

    public override TuningKey Key(CacheState cache) => Key(Device, options, nnz, cache);

    /// <summary>Layers whose densities round to the same twentieth share their choices.</summary>
    internal static TuningKey Key(Device device, FlatGemmOptions o, long nnz, CacheState cache)
    {
        double density = o.N == 0 || o.K == 0 ? 0 : nnz / ((double)o.Columns * o.K);
        return TuningKey.Of(Operation, StoredChoices.DeviceOf(device, o.Threads), device.Build, TuningPolicy.Of(device, cache),
            ("n", o.N), ("k", o.K), ("density_percent", (int)Math.Round(density * 20) * 5), ("weights", o.Weights.Name()), ("input", o.Input.Name()),
            ("output", o.Output.Name()), ("activation", (int)o.Activation), ("bias", o.Bias ? 1 : 0), ("residual", o.Residual ? 1 : 0),
            ("gated", o.Gated ? 1 : 0), ("quantize_input", o.QuantizeInput ? 1 : 0));
    }

    public override IEnumerable<TuningKey> Keys(CacheState cache)
    {
        // A choice that changes with m would change the bits with it.
        if (!options.BatchInvariant && options.N > 0) yield return Key(cache);
    }

    /// <summary>A batch-invariant plan takes rows whose launches divide the sums otherwise with their default one alone.</summary>
    public override bool Accepts(Row row, int at, in KnLaunch launch) => base.Accepts(row, at, launch)
        && (!options.BatchInvariant || !row.BitsOfDefaultLaunch || row.Dataflow(launch) == row.Dataflow(row.DefaultLaunch(Threads)));

    protected override IEnumerable<KnLaunch> Launches(Row row) =>
        options.BatchInvariant && row.BitsOfDefaultLaunch ? [row.DefaultLaunch(Threads)] : base.Launches(row);

    /// <summary>On a GPU alone: the CPU's managed row takes every problem.</summary>
    protected override KernelsException NoRow(int at) => new(Status.Unsupported, "options", $"a layer that a row of {Device} takes at m = {at}");

    /// <summary>The rows that this machine runs and that take the layer at some m; with BatchInvariant those of one tag.</summary>
    internal static List<Row> Runnable(Device device, FlatGemmOptions options, long nnz)
    {
        var rows = new List<Row>();
        foreach (Row row in device.Table.Of(KnOp.SparseLinear))
        {
            KnSparseLinearProblem one = SparseLinear.Problem(options, Math.Min(options.MaxM, 1), nnz, 0), most = SparseLinear.Problem(options, options.MaxM, nnz, 0);
            KnLaunch launch = row.DefaultLaunch(options.Threads);
            if (device.Table.Runs(row, out _) && (row.Accepts(&one, launch, out _) || row.Accepts(&most, launch, out _))) rows.Add(row);
        }
        if (options.BatchInvariant)
        {
            string? bits = new SparseLinearSelection(device, options with { MaxM = Math.Min(options.MaxM, 8) }, nnz, 0, rows).Best(Math.Min(options.MaxM, 8)).Row.Bits;
            rows.RemoveAll(r => r.Bits != bits);
        }
        return rows;
    }

    internal static ImmutableArray<Segment<KnSparseLinearProblem>> Choose(Device device, FlatGemmOptions options, long nnz, KnSparseSets sets, TuningStore? store,
        CacheState cache = CacheState.Cold)
    {
        if (options.Row is null) return new SparseLinearSelection(device, options with { Cache = cache }, nnz, sets, Runnable(device, options, nnz)).Choose(store, cache);
        Row forced = device.Table.Named(KnOp.SparseLinear, options.Row, nameof(options.Row));
        KnSparseLinearProblem problem = SparseLinear.Problem(options, options.MaxM, nnz, sets);
        if (!forced.Accepts(&problem, forced.DefaultLaunch(options.Threads), out string? why)) throw new KernelsException(Status.Unsupported, forced.Name, $"requires {why}");
        return [new SparseLinearSelection(device, options, nnz, sets, [forced]).Make(forced, forced.DefaultLaunch(options.Threads), 0, options.MaxM, ChoiceSource.Forced, "the caller named it")];
    }
}
