using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>What one row says to a problem at one point of the axis.</summary>
internal sealed record RowExplanation(string Row, bool Accepts, string? Refusal, string? Dataflow, double? ModelUs, double? TunedUs, bool Chosen);

/// <summary>What runs over a stretch of the axis, and why.</summary>
internal sealed record ChoiceExplanation(int From, int To, string Dataflow, ChoiceSource Source, string Reason, long WorkspaceBytes);

/// <summary>perf explain for any operation: the rows at the first point, the choices at all.</summary>
internal sealed unsafe class Explanation<TProblem>(Selection<TProblem> selection, IReadOnlyList<Segment<TProblem>> segments, KnOp op, CacheState cache)
    where TProblem : unmanaged
{
    /// <summary>Tables, and the same as an object for JSON.</summary>
    /// <param name="screen">Where to.</param>
    /// <param name="title">The problem in words.</param>
    /// <param name="points">Where on the axis; one: every row is shown.</param>
    /// <param name="store">The database that the choices come from.</param>
    /// <param name="unlike">Why a row that accepts is not a candidate all the same; null if it is.</param>
    public object Show(Screen screen, string title, IReadOnlyList<int> points, TuningStore store, Func<Row, string?> unlike)
    {
        List<ChoiceExplanation> choices = [.. segments.Select(s => new ChoiceExplanation(s.From, s.To, s.Row.Dataflow(s.Launch).ToString(), s.Source, s.Reason, s.Workspace))];
        int at = points[0];
        Segment<TProblem> chosen = segments.First(s => at <= s.To);
        List<RowExplanation> rows = [.. selection.Device.Table.Of(op).Select(r => Explain(r, at, chosen, store, unlike))];
        if (points.Count == 1) ShowRows(screen, string.Create(CultureInfo.InvariantCulture, $"{title}, {selection.Axis} {at}"), rows);
        ShowChoices(screen, points.Count == 1 ? "" : title, choices.Where(c => points.Count > 1 || (c.From <= at && at <= c.To)));
        return new { rows_at = at, rows, choices };
    }

    private RowExplanation Explain(Row row, int at, in Segment<TProblem> chosen, TuningStore store, Func<Row, string?> unlike)
    {
        if (!selection.Device.Table.Runs(row, out string? lacks)) return new(row.Name, false, lacks, null, null, null, false);
        bool isChosen = chosen.Row == row;
        KnLaunch launch = isChosen ? chosen.Launch : row.DefaultLaunch(selection.Threads);
        TProblem problem = selection.Problem(at);
        if (!row.Accepts(&problem, launch, out string? why)) return new(row.Name, false, $"{why} does not hold", null, null, null, false);
        return new(row.Name, true, isChosen ? null : unlike(row), row.Dataflow(launch).ToString(), selection.Seconds(row, launch, at) * 1e6, TunedSeconds(row, at, store) * 1e6, isChosen);
    }

    /// <summary>The best stored median of any launch of a row at this point; null where there is none.</summary>
    private double? TunedSeconds(Row row, int at, TuningStore store)
    {
        foreach (TuningKey key in selection.Keys(cache, eager: false))
        {
            Evidence? evidence = store.Read(key).Record?.Evidence.FirstOrDefault(e => e.M == at);
            if (evidence is null) continue;
            double[] medians = [.. evidence.Candidates.Select((c, i) => (c, t: evidence.Result.Timings[i])).Where(p => p.c.Row == row.Name && !p.t.Samples.IsEmpty).Select(p => p.t.Estimate.Median)];
            return medians.Length == 0 ? null : medians.Min();
        }
        return null;
    }

    private static void ShowRows(Screen screen, string title, List<RowExplanation> rows)
    {
        var table = new Table(title, "row", "verdict", ">model us", ">tuned us", "dataflow");
        foreach (RowExplanation r in rows)
            table.Add(Format.Short(r.Row), r.Chosen ? "chosen" : r.Refusal ?? "accepts", r.ModelUs is { } u ? Format.Number(u) : "-",
                r.TunedUs is { } t ? Format.Number(t) : "-", r.Dataflow is null ? "" : Format.Short(r.Dataflow));
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
