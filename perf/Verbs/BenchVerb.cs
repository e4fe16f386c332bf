using System.CommandLine;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>perf bench: the chosen dataflow, as a fraction of the limit that binds it.</summary>
internal static class BenchVerb
{
    private sealed record Request(Operation Operation, int[] Points, int[] Threads, Conditions On, double Seconds, bool Every, TuningStore Store)
    {
        public CacheState Cache => On.Cache;
    }


    public static Command Create()
    {
        Argument<string> op = Verb.OperationArgument();
        Option<int[]> threads = Arguments.Threads();
        Option<CacheState> cache = Arguments.Cache();
        Option<double> seconds = Arguments.Seconds("--seconds", 1, "Wall time for one shape and point of its axis");
        var every = new Option<bool>("--rows") { Description = "Every row that takes the problem, not only the chosen one" };
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("bench", "Times the chosen dataflow per shape and point of its axis, and prints it as a fraction of this machine's measured limits.",
            [op, threads, cache, .. Conditions.Options, seconds, every, db, .. Operation.AllOptions], (parsed, screen, cancellation) =>
            {
                Operation operation = Operation.Asked(parsed, op);
                Conditions on = Conditions.Of(parsed, parsed.GetValue(cache), operation);
                var request = new Request(operation, operation.Axis.Bench(parsed), on.Threads(parsed.GetValue(threads)!), on,
                    parsed.GetValue(seconds), parsed.GetValue(every), Verb.Store(parsed.GetValue(db)));
                return Run(parsed, request, screen, cancellation);
            });
    }

    private static int Run(ParseResult parsed, Request request, Screen screen, CancellationToken cancellation)
    {
        MachineLimits? limits = MachineLimits.TryOpen(request.On.Device, out string reason);
        if (limits is null) Screen.Note(reason);
        Screen.WarnOfLoad();
        var cells = new List<Cell>();
        foreach (int bound in request.Threads)
            foreach (Layer layer in request.Operation.Layers(parsed, bound))
            {
                if (cancellation.IsCancellationRequested) break;
                Screen.Note($"{layer.Case}, {layer.Dtypes}, {(bound == 0 ? "all" : Format.Int(bound))} threads");
                using Workbench bench = request.Operation.Open(layer, request.Points, request.On, request.Store);
                foreach (int at in request.Points) cells.AddRange(Time(request, bench, at, bound, limits, cancellation));
            }
        if (limits is not null) screen.Show(limits.Table());
        foreach (var group in cells.GroupBy(c => c.Layer)) screen.Show(Table(group));
        Cell.SayWhatIsNotCold(cells, screen);
        screen.Json(cells);
        return cells.Count > 0 ? Exit.Ok : Exit.Bad;
    }

    internal static int Threads(int bound) => bound == 0 ? Device.Cpu.Threads : Math.Min(bound, Device.Cpu.Threads);

    private static IEnumerable<Cell> Time(Request request, Workbench bench, int at, int bound, MachineLimits? limits, CancellationToken cancellation)
    {
        limits?.Prepare(bench.WorkAt(at), Threads(bound), request.Cache);
        IReadOnlyList<TimedCall> calls = bench.Calls(at, bound, request.Every);
        IReadOnlyList<Estimate> times = new Measure(bench.Timer).Run(calls, request.Seconds, TimeSpan.Zero, cancellation);
        for (int i = 0; i < calls.Count; i++)
            if (times[i].Count > 0) yield return Cell.Of(request.Operation, bench, calls[i].Name, at, Threads(bound), request.On, times[i], limits);
    }

    private static Table Table(IEnumerable<Cell> group)
    {
        Cell first = group.First();
        bool entries = first.MegaEntries is not null, softmax = first.Softmax is not null, again = group.Any(c => c.RecomputedRows is not null);
        var table = new Table($"{first.Op} {first.Case}: {first.Extents}, {first.Dtypes}, {first.Where}, {first.Cache}",
            [$">{first.Axis}", "dataflow", .. softmax ? ["softmax"] : Array.Empty<string>(), ">us", ">95 % interval", ">GB/s", ">GFLOP/s", .. entries ? [">Mnnz/s"] : Array.Empty<string>(), .. again ? [">rows again"] : Array.Empty<string>(), ">of limit"]);
        foreach (Cell c in group)
            table.Add([Format.Int(c.At), Format.Short(c.Row), .. softmax ? [c.Softmax ?? "-"] : Array.Empty<string>(), Format.Number(c.MedianUs), $"{Format.Number(c.CiLowUs)}..{Format.Number(c.CiHighUs)}", Format.Number(c.Gbps),
                Format.Number(c.Gflops), .. c.MegaEntries is { } m ? [Format.Number(m)] : Array.Empty<string>(), .. again ? [c.RecomputedRows is { } r ? Format.Int(r) : "-"] : Array.Empty<string>(), Format.Percent(c.LimitFraction)]);
        return table;
    }
}
