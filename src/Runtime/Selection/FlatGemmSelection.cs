using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What a plan runs for calls of <paramref name="MFrom"/> to <paramref name="MTo"/> rows, and why.</summary>
/// <param name="MFrom">Fewest rows.</param>
/// <param name="MTo">Most rows.</param>
/// <param name="Dataflow">Row and launch parameters.</param>
/// <param name="Source">Where the choice comes from.</param>
/// <param name="Reason">The same in words.</param>
/// <param name="WorkspaceBytes">Scratch of one call.</param>
public sealed record Choice(int MFrom, int MTo, Dataflow Dataflow, ChoiceSource Source, string Reason, long WorkspaceBytes)
{
    internal static Choice Of(ImmutableArray<Choice> choices, int m, int most)
    {
        KernelsException.Require(m >= 0 && m <= most, nameof(m), $"0 to MaxM = {most}, not {m}");
        return choices.First(c => m <= c.MTo);
    }
}

/// <summary>
/// Chooses the dataflow of flat GEMM for every m: the forced row, else what was tuned, else the model. All rows of a plan read
/// the same layout, so that weights are kept once.
/// </summary>
internal sealed unsafe class FlatGemmSelection : Selection<KnFlatGemmProblem>
{
    private readonly FlatGemmOptions _options;
    private readonly string? _layout;

    internal FlatGemmSelection(Device device, FlatGemmOptions options, string? layout, IReadOnlyList<Row> rows) : base(device, options.MaxM, options.Threads) =>
        (_options, _layout, Rows) = (options, layout, rows);

    public override string Axis => "m";

    public override IReadOnlyList<Row> Rows { get; }

    public override ImmutableArray<int> Grid => ModelGrid;

    internal static readonly ImmutableArray<int> ModelGrid =
        [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096];

    public override KnFlatGemmProblem Problem(int at) => _options.Problem(at);

    public override double Seconds(Row row, in KnLaunch launch, int at) =>
        FlatGemmModel.Seconds(row, launch, Problem(at), Math.Max(at, 1), Device, _options.Cache);

    /// <summary>A batch-invariant plan takes rows whose launches divide the sums otherwise with their default one alone.</summary>
    public override bool Accepts(Row row, int at, in KnLaunch launch) => base.Accepts(row, at, launch)
        && (!_options.BatchInvariant || !row.BitsOfDefaultLaunch || row.Dataflow(launch) == row.Dataflow(row.DefaultLaunch(Threads)));

    public override TuningKey Key(CacheState cache) => FlatGemmTuned.Key(Device, _options, _layout, cache);

    public override IEnumerable<TuningKey> Keys(CacheState cache)
    {
        // A choice that changes with m would change the bits with it.
        if (_options.BatchInvariant || _options.N == 0) yield break;
        yield return Key(cache);
        FlatGemmOptions plain = FlatGemmTuned.Plain(_options);
        if (plain != _options) yield return FlatGemmTuned.Key(Device, plain, _layout, cache);
    }

    protected override IEnumerable<KnLaunch> Launches(Row row) =>
        _options.BatchInvariant && row.BitsOfDefaultLaunch ? [row.DefaultLaunch(Threads)] : base.Launches(row);

    protected override string? Unlike(Row row, int at)
    {
        KnFlatGemmProblem problem = Problem(at);
        string? layout = row.Layout(&problem);
        return layout != _layout ? $"reads another layout: {layout ?? "rows"}" : Rows.Contains(row) ? null : "adds in another order, which a batch-invariant plan excludes";
    }

    protected override KernelsException NoRow(int at) =>
        new(Status.Unsupported, "weights", $"a layout that a row of this machine reads at m = {at}");

    /// <summary>Rows that this machine runs and that take the problem at some m, with their default launch.</summary>
    internal static IEnumerable<Row> Runnable(Device device, FlatGemmOptions options)
    {
        foreach (Row row in device.Table.Of(KnOp.FlatGemm))
        {
            if (!device.Table.Runs(row, out _)) continue;
            if (Accepts(row, options, Math.Min(options.MaxM, 1), row.DefaultLaunch(options.Threads)) || Accepts(row, options, options.MaxM, row.DefaultLaunch(options.Threads)))
                yield return row;
        }
    }

    internal static bool Accepts(Row row, FlatGemmOptions options, int m, in KnLaunch launch)
    {
        KnFlatGemmProblem problem = options.Problem(m);
        return row.Accepts(&problem, launch, out _);
    }

    /// <summary>The forced row, or an error that says why it cannot run.</summary>
    private static Row Forced(Device device, FlatGemmOptions options)
    {
        Row row = device.Table.Named(KnOp.FlatGemm, options.Row!, nameof(options.Row));
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return row.Accepts(&problem, row.DefaultLaunch(options.Threads), out string? why)
            ? row
            : throw new KernelsException(Status.Unsupported, row.Name, $"requires {why}");
    }

    /// <summary>
    /// The row that decides the layout: the forced one; else the best by the model among packed rows, at the middle of what
    /// decode brings, with cold weights: one copy serves plans of either policy. A row without a layout is chosen only when no other takes the problem, or by force.
    /// </summary>
    internal static Row LayoutRow(Device device, FlatGemmOptions options)
    {
        if (options.Row is not null) return Forced(device, options);
        options.Check();
        Row? best = null, last = null;
        double least = double.PositiveInfinity;
        int m = Math.Min(options.MaxM, 8);
        KnFlatGemmProblem at = options.Problem(m);
        foreach (Row row in Runnable(device, options))
        {
            last = row;
            if (LayoutOf(row, options) is null || !Accepts(row, options, m, row.DefaultLaunch(options.Threads))) continue;
            double seconds = FlatGemmModel.Seconds(row, row.DefaultLaunch(options.Threads), at, Math.Max(m, 1), device);
            if (seconds < least) (best, least) = (row, seconds);
        }
        return best ?? last ?? throw new KernelsException(Status.Unsupported, device.ToString(), $"takes no such problem: {string.Join("; ", Refusals(device, options))}");
    }

    /// <summary>Row by row why none runs, which can be on a GPU alone: the CPU's last row takes every problem.</summary>
    private static IEnumerable<string> Refusals(Device device, FlatGemmOptions options)
    {
        foreach (Row row in device.Table.Of(KnOp.FlatGemm))
            yield return $"{row.Name}: {(device.Table.Runs(row, out string? lacks) ? $"requires {Refusal(row, options)}" : lacks)}";
    }

    private static string? Refusal(Row row, FlatGemmOptions options)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        row.Accepts(&problem, row.DefaultLaunch(options.Threads), out string? why);
        return why;
    }

    /// <summary>The choice for every m in 0..MaxM, in order and without gaps.</summary>
    internal static ImmutableArray<Segment<KnFlatGemmProblem>> Choose(Device device, FlatGemmOptions options, string? layout, TuningStore? store,
        CacheState cache = CacheState.Cold)
    {
        if (options.Row is not null)
        {
            Row forced = Forced(device, options);
            return [new FlatGemmSelection(device, options, layout, [forced]).Make(forced, forced.DefaultLaunch(options.Threads), 0, options.MaxM, ChoiceSource.Forced, "the caller named it")];
        }
        return Of(device, options with { Cache = cache }, layout).Choose(store, cache);
    }

    /// <summary>Among the rows that read the layout; those of a batch-invariant plan have the bits of the one that decides it.</summary>
    internal static FlatGemmSelection Of(Device device, FlatGemmOptions options, string? layout)
    {
        string? bits = LayoutRow(device, options).Bits;
        return new FlatGemmSelection(device, options, layout, [.. Sharing(device, options, layout).Where(r => !options.BatchInvariant || (r.Bits is not null && r.Bits == bits))]);
    }

    /// <summary>Rows of the machine that read weights in <paramref name="layout"/>.</summary>
    internal static List<Row> Sharing(Device device, FlatGemmOptions options, string? layout) =>
        [.. Runnable(device, options).Where(r => LayoutOf(r, options) == layout)];

    private static string? LayoutOf(Row row, FlatGemmOptions options)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return row.Layout(&problem);
    }
}
