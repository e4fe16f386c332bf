using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>Achieved operations a second over operations for each byte read, under the measured roofs.</summary>
internal static class Roofline
{
    private sealed record Achieved(string Dtypes, int Threads, CacheState Cache, string Case, string Axis, int At, Work Work, double Seconds, double Low, double High);

    public static void Add(Page page, IEnumerable<TuningRecord> records, IEnumerable<Cell> cells, bool noLimits)
    {
        List<Achieved> all = [.. records.SelectMany(Of), .. cells.GroupBy(c => (c.Layer, c.Cache, c.At)).Select(g => Of(g.MinBy(c => c.MedianUs)!))];
        string reason = "left out by --no-limits";
        MachineLimits? limits = noLimits ? null : MachineLimits.TryOpen(out reason);
        page.Heading("Roofline", limits is null ? $"Without roofs: {reason}." : "Roofs: cold read bandwidth and arithmetic peak, measured as this page was drawn on the machine that drew it.");
        var table = new Table("", "operands", ">threads", "case", "at", ">us", ">GB/s", ">GFLOP/s", ">of limit");
        var cards = new List<(string, string, string)>();
        foreach (var group in all.GroupBy(a => (a.Dtypes, a.Threads, a.Cache)))
        {
            if (limits is not null) Screen.Note($"limits for {group.Key.Dtypes}, {group.Key.Threads} threads");
            bool possible = limits is not null && group.Key.Threads <= Device.Cpu.Threads;
            List<Series> series = possible ? [Roof(limits!, group.First(), [.. group])] : [];
            foreach (var layer in group.GroupBy(a => a.Case))
                series.Add(new Series(layer.Key, [.. layer.Select(a => new ChartPoint(a.Work.Flops / a.Work.Bytes, Gflops(a, a.Seconds), Gflops(a, a.High), Gflops(a, a.Low)))], Line: false));
            cards.Add(($"{group.Key.Dtypes}, {group.Key.Threads} threads, {Format.Cache(group.Key.Cache)}", "", new Chart("FLOP for each byte read", "GFLOP/s").Draw(series, [])));
            foreach (Achieved a in group)
                table.Add(a.Dtypes, Format.Int(a.Threads), a.Case, $"{a.Axis} {Format.Int(a.At)}", Format.Micros(a.Seconds), Format.Number(a.Work.Bytes / a.Seconds / 1e9), Format.Number(Gflops(a, a.Seconds)),
                    possible ? Format.Percent(limits!.Seconds(a.Work, a.Threads, a.Cache) / a.Seconds) : "-");
        }
        page.Cards(cards);
        if (limits is not null) page.Add(limits.Table());
        page.Heading("Achieved");
        page.Add(table);
    }

    private static double Gflops(Achieved a, double seconds) => a.Work.Flops / seconds / 1e9;

    private static Series Roof(MachineLimits limits, Achieved first, IReadOnlyList<Achieved> all)
    {
        (double gbps, double? gflops) = limits.Roofs(all.MaxBy(a => a.Work.Bytes)!.Work, first.Threads, first.Cache);
        double[] xs = [.. all.Select(a => a.Work.Flops / a.Work.Bytes)];
        double peak = gflops ?? double.PositiveInfinity, knee = peak / gbps, from = xs.Min() / 1.3, to = xs.Max() * 1.3;
        double At(double x) => Math.Min(gbps * x, peak);
        List<double> at = [from, .. knee > from && knee < to ? [knee] : Array.Empty<double>(), to];
        return new Series($"{Format.Number(gbps)} GB/s, {(gflops is { } g ? Format.Number(g) : "unknown")} GFLOP/s", [.. at.Select(x => new ChartPoint(x, At(x), At(x), At(x)))], Roof: true);
    }

    /// <summary>The chosen dataflow at every measured m of a record.</summary>
    private static IEnumerable<Achieved> Of(TuningRecord record)
    {
        foreach (Operation operation in Operation.All)
        {
            if (operation.LayerOf(record.Key) is not { } layer) continue;
            foreach (Evidence e in record.Evidence)
                if (MIntervals.Find(record.Intervals, e.M) is { } interval && e.Point(new SelectionRule(record.Threshold)).Estimates.TryGetValue(interval.Dataflow, out Estimate t))
                    yield return new Achieved(layer.Dtypes, record.Key.Device.Threads, record.Key.Policy.Cache, layer.Case, operation.Axis.Name, e.M, operation.WorkOf(layer, e.M), t.Median, t.Lower, t.Upper);
        }
    }

    private static Achieved Of(Cell c)
    {
        // The cell's own rates give back what its call had to do, whatever the operation is.
        double seconds = c.MedianUs / 1e6, bytes = c.Gbps * 1e9 * seconds, flops = c.Gflops * 1e9 * seconds;
        string weights = c.Dtypes.Split(" x ") is [_, var w, ..] ? w : c.Dtypes;
        string[] kinds = weights.StartsWith("f32", StringComparison.Ordinal) ? ["f32"] : c.Dtypes.StartsWith("qb", StringComparison.Ordinal) || c.Dtypes.StartsWith("s8", StringComparison.Ordinal) ? ["s8", "u8s8"] : ["bf16", "f32"];
        return new Achieved(c.Dtypes, c.Threads, c.Cache == "warm" ? CacheState.Warm : CacheState.Cold, c.Case, c.Axis, c.At, new Work((long)Math.Round(bytes), flops, kinds), seconds, c.CiLowUs / 1e6, c.CiHighUs / 1e6);
    }
}
