using System.CommandLine;
using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed unsafe partial class FlatGemmOperation
{
    private sealed record RowExplanation(string Row, bool Accepts, string? Refusal, string? Dataflow, double? ModelUs, double? TunedUs, bool Chosen);

    private sealed record ChoiceExplanation(int MFrom, int MTo, string Dataflow, ChoiceSource Source, string Reason, long WorkspaceBytes);

    public override void Explain(ParseResult parsed, Screen screen, TuningStore store)
    {
        int[] ms = Axis.Explain(parsed);
        CacheState cache = parsed.GetValue(ExplainVerb.Cache);
        var all = new List<object>();
        foreach (int threads in parsed.GetValue(ExplainVerb.Threads)!)
            foreach (Layer layer in Layers(parsed, threads))
            {
                FlatGemmOptions options = Of(layer) with { MaxM = ms.Max() };
                string? layout = LayoutOf(options);
                string title = $"{Name} {layer.Case}: {layer.Extents}, {layer.Dtypes}, layout {layout ?? "rows"}, {(threads == 0 ? "all" : Format.Int(threads))} threads, {Format.Cache(cache)}";
                var choices = FlatGemmSelection.Choose(Device.Cpu, options, layout, store, cache)
                    .Select(s => (Segment: s, Out: new ChoiceExplanation(s.From, s.To, s.Row.Dataflow(s.Launch).ToString(), s.Source, s.Reason, s.Workspace))).ToList();
                int m = ms[0];
                Dataflow chosen = choices.First(c => m <= c.Out.MTo).Segment is var at ? at.Row.Dataflow(at.Launch) : null!;
                List<RowExplanation> rows = [.. Device.Cpu.Table.Of(Op).Select(r => ExplainRow(r, options, layout, m, chosen, store, cache))];
                if (ms.Length == 1) ShowRows(screen, title, m, rows);
                ShowChoices(screen, ms.Length == 1 ? "" : title, choices.Select(c => c.Out).Where(c => ms.Length > 1 || (c.MFrom <= m && m <= c.MTo)));
                all.Add(new { op = Name, layer = layer.Case, shape = layer.Shape.ToDictionary(s => s.Name, s => s.Value), layer.Dtypes, threads, layout, cache, rows_at_m = m, rows, choices = choices.Select(c => c.Out) });
            }
        screen.Json(all);
    }

    private static RowExplanation ExplainRow(Row row, FlatGemmOptions options, string? layout, int m, Dataflow chosen, TuningStore store, CacheState cache)
    {
        if (!Device.Cpu.Table.Runs(row, out string? lacks)) return new(row.Name, false, lacks, null, null, null, false);
        KnFlatGemmProblem problem = options.Problem(m);
        KnLaunch launch = chosen.Row == row.Name ? row.Launch(chosen) : row.DefaultLaunch(options.Threads);
        if (!row.Accepts(&problem, launch, out string? why)) return new(row.Name, false, $"{why} does not hold", null, null, null, false);
        string? refusal = row.Layout(&problem) != layout && chosen.Row != row.Name ? $"reads another layout: {row.Layout(&problem) ?? "rows"}" : null;
        double model = FlatGemmModel.Seconds(row, launch, problem, Math.Max(m, 1), Device.Cpu) * 1e6;
        return new(row.Name, true, refusal, row.Dataflow(launch).ToString(), model, TunedSeconds(row, options, layout, m, store, cache) * 1e6, chosen.Row == row.Name);
    }

    /// <summary>The best stored median of any launch of a row at this m, or NaN where there is none.</summary>
    private static double? TunedSeconds(Row row, FlatGemmOptions options, string? layout, int m, TuningStore store, CacheState cache)
    {
        foreach (FlatGemmOptions asked in (FlatGemmOptions[])[options, FlatGemmTuned.Plain(options)])
        {
            Evidence? evidence = store.Read(FlatGemmTuned.Key(Device.Cpu, asked, layout, cache)).Record?.Evidence.FirstOrDefault(e => e.M == m);
            if (evidence is null) continue;
            double[] medians = [.. evidence.Candidates.Select((c, i) => (c, t: evidence.Result.Timings[i])).Where(p => p.c.Row == row.Name && !p.t.Samples.IsEmpty).Select(p => p.t.Estimate.Median)];
            return medians.Length == 0 ? null : medians.Min();
        }
        return null;
    }

    private static void ShowRows(Screen screen, string title, int m, List<RowExplanation> rows)
    {
        var table = new Table(string.Create(CultureInfo.InvariantCulture, $"{title}, m {m}"), "row", "verdict", ">model us", ">tuned us", "dataflow");
        foreach (RowExplanation r in rows)
            table.Add(Format.Short(r.Row), r.Chosen ? "chosen" : r.Refusal ?? "accepts", r.ModelUs is { } u ? Format.Number(u) : "-",
                r.TunedUs is { } t ? Format.Number(t) : "-", r.Dataflow is null ? "" : Format.Short(r.Dataflow));
        screen.Show(table);
    }

    private static void ShowChoices(Screen screen, string title, IEnumerable<ChoiceExplanation> choices)
    {
        var table = new Table(title, "m", "choice", "source", "why", ">workspace");
        foreach (ChoiceExplanation c in choices)
            table.Add(Format.Range(c.MFrom, c.MTo), Format.Short(c.Dataflow), c.Source.ToString().ToLowerInvariant(), c.Reason, c.WorkspaceBytes == 0 ? "0" : Format.Bytes(c.WorkspaceBytes));
        screen.Show(table);
    }
}
