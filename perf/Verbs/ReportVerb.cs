using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>perf report: one HTML page of what the database and result files hold.</summary>
internal static class ReportVerb
{
    private static readonly JsonSerializerOptions s_json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    public static Command Create()
    {
        var results = new Argument<string[]>("results") { Description = "Results that bench or compare wrote with --json", Arity = ArgumentArity.ZeroOrMore };
        var to = new Option<string>("--out") { Description = "The page (default report.html)", DefaultValueFactory = _ => "report.html" };
        var noLimits = new Option<bool>("--no-limits") { Description = "Do not measure this machine's limits for the roofline" };
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("report", "Draws time against m and the roofline from the database, and from result files, into one HTML page.", [results, to, noLimits, db],
            (parsed, screen, _) => Run(parsed.GetValue(results) ?? [], parsed.GetRequiredValue(to), parsed.GetValue(noLimits), Verb.Store(parsed.GetValue(db)), screen));
    }

    private static int Run(string[] files, string to, bool noLimits, TuningStore store, Screen screen)
    {
        Screen.Writable(to);
        TuningRecord[] records = [.. store.List().Select(e => e.Record).OfType<TuningRecord>().Where(r => !r.Evidence.IsEmpty)
            .OrderBy(r => r.Key.Device.Model == Device.Cpu.Model && r.Key.Build == Device.Cpu.Build ? 0 : 1).ThenBy(r => r.Key.Text, StringComparer.Ordinal)];
        Cell[] cells = [.. files.SelectMany(Read)];
        if (records.Length == 0 && cells.Length == 0) throw new UsageException("nothing to report: tune first (perf tune --model NAME), or give files that bench or compare wrote");
        string machine = string.Join(" and ", records.Select(r => r.Key.Device.Model).Distinct().DefaultIfEmpty(Device.Cpu.Model));
        string dates = string.Join(" to ", records.Select(r => Day(r.Date)).Order(StringComparer.Ordinal).DefaultIfEmpty(Day(DateTimeOffset.Now)).ToArray() is var d ? new[] { d[0], d[^1] }.Distinct() : []);
        var page = new Page($"Kernels on {machine}, {dates}", $"Drawn {Day(DateTimeOffset.Now)}; library build {Device.Cpu.Build}, {Device.Cpu.Cores} cores, {Device.Cpu.InstructionSets}. Bands are 95 % intervals of the median.");
        if (records.Length > 0)
        {
            page.Heading("Time against m and kv_len", "Dashed: where the choice changes. Shaded: where that place may lie, as far as the measurement tells.");
            page.Cards(records.Select(TimeChart));
        }
        if (cells.Length > 0)
        {
            page.Heading("Results", string.Join(", ", files.Select(f => Path.GetFileName(f))));
            page.Cards(cells.GroupBy(c => (c.Case, c.Dtypes, c.Threads, c.Cache)).Select(CompareChart));
        }
        Roofline.Add(page, records, cells.Where(c => c.Device == "cpu"), noLimits);
        File.WriteAllText(to, page.ToString(), new UTF8Encoding(false));
        screen.Line($"{Path.GetFullPath(to)}: {records.Length} stored problems, {cells.Length} results");
        screen.Json(new { page = Path.GetFullPath(to), problems = records.Length, results = cells.Length });
        return Exit.Ok;
    }

    private static Cell[] Read(string file)
    {
        if (!File.Exists(file)) throw new UsageException($"{file}: no such file");
        try
        {
            Cell[] cells = JsonSerializer.Deserialize<Cell[]>(File.ReadAllText(file), s_json) ?? [];
            return cells.All(c => c is { Case: not null, Row: not null, Dtypes: not null, Axis: not null, At: > 0 }) ? cells : throw new JsonException("an element lacks its case, row or dtypes");
        }
        catch (JsonException e)
        {
            throw new UsageException($"{file}: not what bench or compare writes: {e.Message}");
        }
    }

    private static (string, string, string) TimeChart(TuningRecord record)
    {
        MPoint[] points = [.. record.Evidence.Select(e => e.Point(new SelectionRule(record.Threshold)))];
        var winners = record.Intervals.Select(i => i.Dataflow).Distinct().ToList();
        // What was chosen anywhere comes first; of the others those that were measured most.
        IEnumerable<Dataflow> others = points.SelectMany(p => p.Estimates.Keys).Where(d => !winners.Contains(d)).GroupBy(d => d).OrderByDescending(g => g.Count())
            .ThenBy(g => g.Key.ToString(), StringComparer.Ordinal).Select(g => g.Key);
        List<Series> series = [.. winners.Concat(others).Take(Chart.Colours).Select(d => new Series(Format.Short(d), [.. points.Where(p => p.Estimates.ContainsKey(d))
            .Select(p => (p.M, E: p.Estimates[d])).Select(p => new ChartPoint(p.M, p.E.Median * 1e6, p.E.Lower * 1e6, p.E.Upper * 1e6))]))];
        var marks = new List<ChartMark>();
        for (int i = 1; i < record.Intervals.Length; i++)
            marks.Add(new ChartMark(record.Intervals[i].From, record.Intervals[i].SureBefore ?? record.Intervals[i - 1].From, Format.Int(record.Intervals[i].From)));
        string note = $"{Day(record.Date)}, {record.Key.Device.Model}, build {record.Key.Build}: {Format.Intervals(record.Intervals)}";
        string axis = Operation.All.FirstOrDefault(o => o.Name == record.Key.Operation)?.Axis.Name ?? "m";
        return (DbVerb.Problem(record.Key), note, new Chart(axis, "us a call").Draw(series, marks));
    }

    private static (string, string, string) CompareChart(IGrouping<(string Case, string Dtypes, int Threads, string Cache), Cell> group)
    {
        var series = new List<Series> { new("Kernels", [.. group.GroupBy(c => c.At).Select(g => g.MinBy(c => c.MedianUs)!).Select(c => new ChartPoint(c.At, c.MedianUs, c.CiLowUs, c.CiHighUs))]) };
        foreach (var peer in group.Where(c => c.Peer is not null && c.PeerMedianUs > 0).GroupBy(c => c.Peer!))
            series.Add(new Series(peer.Key, [.. peer.Select(c => new ChartPoint(c.At, c.PeerMedianUs!.Value, c.PeerMedianUs.Value, c.PeerMedianUs.Value))]));
        Cell first = group.First();
        return ($"{first.Op} {first.Case}: {first.Extents}", $"{first.Dtypes}, {first.Threads} threads, {first.Cache}", new Chart(first.Axis, "us a call").Draw(series, []));
    }

    private static string Day(DateTimeOffset date) => date.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
}
