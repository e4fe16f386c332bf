using System.Collections.Immutable;
using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>What runs over a stretch of the axis, and why.</summary>
internal sealed record ChoiceExplanation(int From, int To, string Dataflow, ChoiceSource Source, string Reason, long WorkspaceBytes);

/// <summary>perf explain for any operation: the rows at the first point, the choices at all.</summary>
internal sealed class Explanation<TProblem>(Selection<TProblem> selection, ImmutableArray<Segment<TProblem>> segments, KnOp op, CacheState cache)
    where TProblem : unmanaged
{
    /// <summary>Tables, and the same as an object for JSON.</summary>
    /// <param name="screen">Where to.</param>
    /// <param name="title">The problem in words.</param>
    /// <param name="points">Where on the axis; one: every row is shown.</param>
    /// <param name="store">The database that the choices come from.</param>
    public object Show(Screen screen, string title, IReadOnlyList<int> points, TuningStore store)
    {
        List<ChoiceExplanation> choices = [.. segments.Select(s => new ChoiceExplanation(s.From, s.To, s.Row.Dataflow(s.Launch).ToString(), s.Source, s.Reason, s.Workspace))];
        int at = points[0];
        ImmutableArray<RowExplanation> rows = selection.Explain(op, at, segments, store, cache);
        if (points.Count == 1) ShowRows(screen, string.Create(CultureInfo.InvariantCulture, $"{title}, {selection.Axis} {at}"), at, rows);
        ShowChoices(screen, points.Count == 1 ? "" : title, choices.Where(c => points.Count > 1 || (c.From <= at && at <= c.To)));
        return new
        {
            rows_at = at,
            rows = rows.Select(r => new { r.Row, r.Accepts, r.Refusal, dataflow = r.Dataflow?.ToString(), model_us = r.ModelSeconds * 1e6, tuned_us = r.TunedSeconds * 1e6, r.TunedAt, chosen = r.IsChosen }),
            choices,
        };
    }

    /// <summary>A time of another point than this one is named with it.</summary>
    private void ShowRows(Screen screen, string title, int at, ImmutableArray<RowExplanation> rows)
    {
        var table = new Table(title, "row", "verdict", ">model us", ">tuned us", "dataflow");
        foreach (RowExplanation r in rows)
            table.Add(Format.Short(r.Row), r.IsChosen ? "chosen" : r.Refusal ?? "accepts", r.ModelSeconds is { } u ? Format.Number(u * 1e6) : "-",
                (r.TunedSeconds is { } t ? Format.Number(t * 1e6) : "-") + (r.TunedAt is { } m && m != at ? $" ({selection.Axis} {Format.Int(m)})" : ""), r.Dataflow is null ? "" : Format.Short(r.Dataflow));
        screen.Show(table);
    }

    private void ShowChoices(Screen screen, string title, IEnumerable<ChoiceExplanation> choices)
    {
        var table = new Table(title, selection.Axis, "choice", "source", "why", ">workspace");
        foreach (ChoiceExplanation c in choices)
            table.Add(Format.Range(c.From, c.To), Format.Short(c.Dataflow), c.Source.ToString().ToLowerInvariant(), c.Reason, c.WorkspaceBytes == 0 ? "0" : Format.Bytes(c.WorkspaceBytes));
        screen.Show(table);
    }
}
