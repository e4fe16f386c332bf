using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Where a choice comes from.</summary>
public enum ChoiceSource
{
    /// <summary>The caller named the row.</summary>
    Forced,
    /// <summary>A measurement on this machine and build, or one that ships for it.</summary>
    Tuned,
    /// <summary>The cost model.</summary>
    Modelled,
}

/// <summary>What a plan runs for calls of <paramref name="MFrom"/> to <paramref name="MTo"/> rows, and why.</summary>
/// <param name="MFrom">Fewest rows.</param>
/// <param name="MTo">Most rows.</param>
/// <param name="Dataflow">Row and launch parameters.</param>
/// <param name="Source">Where the choice comes from.</param>
/// <param name="Reason">The same in words.</param>
/// <param name="WorkspaceBytes">Scratch of one call.</param>
public sealed record Choice(int MFrom, int MTo, Dataflow Dataflow, ChoiceSource Source, string Reason, long WorkspaceBytes);

/// <summary>A stretch of m with one dataflow, ready to run.</summary>
internal readonly record struct Segment(int MFrom, int MTo, Row Row, KnFlatGemmProblem Problem, KnLaunch Launch, long Workspace,
    ChoiceSource Source, string Reason);

/// <summary>
/// Chooses the dataflow of flat GEMM for every m: the forced row, else what was tuned, else the model. All rows of a plan read
/// the same layout, so that weights are kept once.
/// </summary>
internal static unsafe class FlatGemmSelection
{
    /// <summary>The m at which the model is asked; between two that agree nothing else is expected.</summary>
    internal static readonly ImmutableArray<int> Grid =
        [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096];

    /// <summary>Rows that this machine runs and that take the problem at some m, with their default launch.</summary>
    internal static IEnumerable<Row> Rows(Device device, FlatGemmOptions options)
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
        Row row = device.Table.Of(KnOp.FlatGemm).FirstOrDefault(r => r.Name == options.Row)
            ?? throw new KernelsException(Status.Unsupported, nameof(options.Row),
                $"one of {string.Join(", ", device.Table.Of(KnOp.FlatGemm))}, not {options.Row}{(device.NativeProblem is { } p ? $" ({p})" : "")}");
        if (!device.Table.Runs(row, out string? lacks)) throw new KernelsException(Status.Unsupported, row.Name, lacks!);
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return row.Accepts(&problem, row.DefaultLaunch(options.Threads), out string? why)
            ? row
            : throw new KernelsException(Status.Unsupported, row.Name, $"requires {why}");
    }

    /// <summary>
    /// The row that decides the layout: the forced one; else the best by the model among packed rows, at the middle of what
    /// decode brings. A row without a layout is chosen only when no other takes the problem, or by force.
    /// </summary>
    internal static Row LayoutRow(Device device, FlatGemmOptions options)
    {
        if (options.Row is not null) return Forced(device, options);
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        options.Check();
        Row? best = null, last = null;
        double least = double.PositiveInfinity;
        int m = Math.Min(options.MaxM, 8);
        KnFlatGemmProblem at = options.Problem(m);
        foreach (Row row in Rows(device, options))
        {
            last = row;
            if (row.Layout(&problem) is null || !Accepts(row, options, m, row.DefaultLaunch(options.Threads))) continue;
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
    internal static ImmutableArray<Segment> Choose(Device device, FlatGemmOptions options, string? layout, TuningStore? store,
        CacheState cache = CacheState.Cold)
    {
        if (options.Row is not null)
            return [Make(Forced(device, options), default, 0, options.MaxM, options, ChoiceSource.Forced, "the caller named it")];
        Row decider = LayoutRow(device, options);
        List<Row> rows = [.. Sharing(device, options, layout)
            .Where(r => !options.BatchInvariant || (r.Bits is not null && r.Bits == decider.Bits))];
        ImmutableArray<FlatGemmStored> stored = FlatGemmTuned.Over(device, options, layout, store, rows, cache);
        var segments = ImmutableArray.CreateBuilder<Segment>();
        int from = 0;
        while (from <= options.MaxM)
        {
            Segment next = Tuned(options, stored, from) ?? Modelled(device, options, rows, from, Until(stored, from, options.MaxM));
            if (segments.Count > 0 && SameDataflow(segments[^1], next))
            {
                Segment before = segments[^1];
                next = Make(before.Row, before.Launch, before.MFrom, next.MTo, options, before.Source, before.Reason);
                segments.RemoveAt(segments.Count - 1);
            }
            segments.Add(next);
            from = next.MTo + 1;
        }
        return segments.ToImmutable();
    }

    /// <summary>Rows of the machine that read weights in <paramref name="layout"/>.</summary>
    internal static List<Row> Sharing(Device device, FlatGemmOptions options, string? layout) =>
        [.. Rows(device, options).Where(r => LayoutOf(r, options) == layout)];

    private static string? LayoutOf(Row row, FlatGemmOptions options)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return row.Layout(&problem);
    }

    private static bool SameDataflow(in Segment a, in Segment b) =>
        a.Source == b.Source && a.Row.Dataflow(a.Launch) == b.Row.Dataflow(b.Launch);

    private static Segment? Tuned(FlatGemmOptions options, ImmutableArray<FlatGemmStored> stored, int from)
    {
        foreach (FlatGemmStored s in stored)
            if (s.From <= from && from <= s.To) return Make(s.Row, s.Launch, from, s.To, options, ChoiceSource.Tuned, s.Reason);
        return null;
    }

    /// <summary>The last m before the next stored choice.</summary>
    private static int Until(ImmutableArray<FlatGemmStored> stored, int from, int maxM) =>
        stored.Where(s => s.From > from).Select(s => s.From - 1).DefaultIfEmpty(maxM).Min();

    /// <summary>The model's choice for the grid cell that holds m.</summary>
    private static Segment Modelled(Device device, FlatGemmOptions options, List<Row> rows, int m, int until)
    {
        int cell = 0;
        while (cell < Grid.Length - 1 && Grid[cell] < m) cell++;
        int to = Math.Min(until, Math.Max(m, cell == Grid.Length - 1 ? options.MaxM : Grid[cell]));
        KnFlatGemmProblem problem = options.Problem(to);
        Row? best = null;
        KnLaunch launch = default;
        double least = double.PositiveInfinity;
        // Defaults come first in both enumerations, and only what is better replaces them.
        foreach (Row row in rows)
            foreach (KnLaunch candidate in options.BatchInvariant && row.BitsOfDefaultLaunch ? [row.DefaultLaunch(options.Threads)] : row.Launches(options.Threads))
            {
                if (!row.Accepts(&problem, candidate, out _)) continue;
                double seconds = FlatGemmModel.Seconds(row, candidate, problem, Math.Max(to, 1), device);
                if (seconds < 0.99 * least) (best, launch, least) = (row, candidate, seconds);
            }
        if (best is null)
            throw new KernelsException(Status.Unsupported, "weights", $"a layout that a row of this machine reads at m = {to}");
        return Make(best, launch, m, to, options, ChoiceSource.Modelled, FormattableString.Invariant($"{least * 1e6:0.0} us by the model at m = {to}"));
    }

    private static Segment Make(Row row, KnLaunch launch, int from, int to, FlatGemmOptions options, ChoiceSource source, string reason)
    {
        KnFlatGemmProblem problem = options.Problem(to);
        if (launch.Size == 0) launch = row.DefaultLaunch(options.Threads);
        return new Segment(from, to, row, problem, launch, row.Workspace(&problem, launch), source, reason);
    }
}
