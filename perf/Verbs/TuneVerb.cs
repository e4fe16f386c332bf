using System.CommandLine;
using System.Diagnostics;
using Kernels.Tuning;
using Spectre.Console;

namespace Kernels.Perf;

/// <summary>perf tune: measures the dataflows of a model's layers and stores what follows.</summary>
internal static class TuneVerb
{
    private sealed record Request(Operation Operation, IReadOnlyList<Layer> Layers, int[] Grid, Conditions On, bool KeepSimulated, TimeSpan Budget, TimeSpan TimeOut, TuningStore Store, CancellationToken Cancellation)
    {
        public TuningResult Tune(int layer, TimeSpan budget, CancellationToken cancellation, Action<int, int> progress, TrialWatch watch) =>
            Operation.Tune(Layers[layer], new TuneSettings(Grid, On.Cache, budget, cancellation, progress) { Device = On.Device, Eager = On.Eager, KeepSimulated = KeepSimulated, Watch = watch }, Store);
    }

    private sealed record Outcome(Layer Layer, TuningResult Result);

    public static Command Create()
    {
        Argument<string> op = Verb.OperationArgument();
        Option<int[]> threads = Arguments.Threads();
        Option<CacheState> cache = Arguments.Cache();
        Option<double> budget = Arguments.Seconds("--budget", 300, "Wall time for everything, in seconds");
        Option<double> timeOut = Arguments.Seconds("--time-out", 60, "A candidate that runs for longer, its check included, is ended and recorded as failed");
        var child = new Option<string?>("--child") { Description = "Serve a tune: layers asked for on standard input, the running candidate in this file", Hidden = true };
        var keep = new Option<bool>("--keep-simulated") { Description = "With --device simt: store choices by the simulated device's times, which are the host's" };
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("tune", "Measures the dataflows of every layer over m (kv_len), and stores the choices with all samples. Ctrl-C keeps what was measured.",
            [op, threads, cache, .. Conditions.Options, keep, budget, timeOut, child, db, .. Operation.AllOptions], (parsed, screen, cancellation) =>
            {
                Operation operation = Operation.Asked(parsed, op);
                if (parsed.GetValue(Arguments.Row) is { } row) throw new UsageException($"--row {row}: tune measures all rows; perf db pin --dataflow ROW fixes one");
                if (parsed.GetValue(Arguments.BatchInvariant)) throw new UsageException("--batch-invariant: such plans take nothing that was tuned, since their choice must not change with m; tune without it");
                Conditions on = Conditions.Of(parsed, parsed.GetValue(cache), operation);
                List<Layer> layers = [.. on.Threads(parsed.GetValue(threads)!).SelectMany(t => operation.Layers(parsed, t)).Where(l => l.Tune)];
                TuningStore store = Verb.Store(parsed.GetValue(db));
                Writable(store);
                var request = new Request(operation, layers, operation.Axis.Tune(parsed), on, parsed.GetValue(keep), TimeSpan.FromSeconds(parsed.GetValue(budget)),
                    TimeSpan.FromSeconds(parsed.GetValue(timeOut)), store, cancellation);
                return parsed.GetValue(child) is { } page ? TuneProcess.Serve(page, request.Tune, cancellation) : Run(request, screen);
            });
    }

    /// <summary>Minutes of measuring are not begun for a directory that takes nothing.</summary>
    private static void Writable(TuningStore store)
    {
        if (store.Directory.Length == 0) throw new MissingException("there is no cache directory (no home); give one with --db DIR");
        string probe = Path.Combine(store.Directory, $".probe.{Guid.NewGuid():N}");
        if (!TuningFile.TryWrite(probe, "{}"u8, out string reason)) throw new MissingException($"the tuning database {store.Directory} cannot be written: {reason}; give another with --db DIR");
        TuningFile.TryDelete(probe, out _);
    }

    private static int Run(Request request, Screen screen)
    {
        Screen.WarnOfLoad();
        List<Outcome> outcomes = Screen.IsTerminal && !screen.OnlyJson ? WithBar(request) : Measure(request, (text, _) => { if (text.Length > 0) Screen.Note(text); });
        var table = new Table($"{request.Operation.Name}, {Format.Cache(request.On.Cache)} cache, {request.On.Call}{(request.On.Pinned ? ", pinned" : "")}, {Devices.TitleOf(request.On.Device)}", "layer", "operands", ">threads", $"intervals of {request.Operation.Axis.Name}", "changes at", ">model off by");
        foreach ((Layer layer, TuningResult result) in outcomes)
            table.Add($"{layer.Case}: {layer.Extents}", layer.Dtypes, result.Record is null ? "" : Format.Int(result.Record.Key.Device.Threads),
                result.Record is null ? result.Problem : Format.Intervals(result.Record.Intervals), result.Record is null ? "" : Format.Inflections(result.Record.Intervals), ModelError(result.Record));
        screen.Show(table);
        Outcome[] lost = [.. outcomes.Where(o => !o.Result.Stored)];
        foreach (Outcome o in lost) screen.Line($"Not stored: {o.Layer.Case}: {o.Result.Problem}");
        if (lost.Length < outcomes.Count) screen.Line($"Stored in {request.Store.Directory}: {Format.Int(outcomes.Count - lost.Length)} of {Format.Int(request.Layers.Count)} layers{(request.Cancellation.IsCancellationRequested ? ", cut short" : "")}.");
        screen.Json(outcomes.Select(o => new
        {
            op = request.Operation.Name,
            o.Layer.Case,
            shape = o.Layer.ShapeByName,
            o.Layer.Dtypes,
            threads = o.Result.Record?.Key.Device.Threads,
            cache = Format.Cache(request.On.Cache),
            call = request.On.Call,
            pinned = request.On.Pinned,
            device = Devices.TitleOf(request.On.Device),
            stored = o.Result.Stored,
            problem = o.Result.Problem,
            intervals = o.Result.Record?.Intervals.Select(i => new { i.From, i.To, dataflow = i.Dataflow.ToString(), i.SureBefore })
        }));
        bool asked = request.On.Device.Kind != DeviceKind.Simulated || request.KeepSimulated;
        return outcomes.Count > 0 && (lost.Length == 0 || !asked) ? Exit.Ok : Exit.Bad;
    }

    private static List<Outcome> Measure(Request request, Action<string, double> progress)
    {
        var outcomes = new List<Outcome>();
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < request.Layers.Count && !request.Cancellation.IsCancellationRequested; i++)
        {
            Layer layer = request.Layers[i];
            int done = i;
            progress($"{layer.Case}, {layer.Dtypes}", (double)done / request.Layers.Count);
            TimeSpan budget = (request.Budget - Stopwatch.GetElapsedTime(start)) / (request.Layers.Count - i);
            if (budget <= TimeSpan.Zero) break;
            var process = new TuneProcess(i, request.TimeOut, (m, of) => progress("", (done + (double)of / request.Grid.Length) / request.Layers.Count), request.Cancellation);
            outcomes.Add(new Outcome(layer, process.Tune(budget)));
        }
        return outcomes;
    }

    private static List<Outcome> WithBar(Request request)
    {
        List<Outcome> outcomes = [];
        AnsiConsole.Progress().Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new ElapsedTimeColumn()).Start(context =>
        {
            ProgressTask task = context.AddTask("tuning");
            outcomes = Measure(request, (text, fraction) =>
            {
                if (text.Length > 0) task.Description = Markup.Escape(text);
                task.Value = fraction * 100;
            });
            task.Value = 100;
        });
        return outcomes;
    }

    /// <summary>How far the cost model was from what was measured, as a geometric mean of the larger over the smaller.</summary>
    private static string ModelError(TuningRecord? record)
    {
        if (record is null) return "";
        var logs = new List<double>();
        foreach (Evidence e in record.Evidence)
            for (int i = 0; i < e.Candidates.Length; i++)
                if (!e.Result.Timings[i].Samples.IsEmpty && record.Notes.TryGetValue(TuningNotes.Predicted(e.M, e.Candidates[i]), out string? note)
                    && double.TryParse(note, System.Globalization.CultureInfo.InvariantCulture, out double predicted) && predicted > 0)
                    logs.Add(Math.Abs(Math.Log(e.Result.Timings[i].Estimate.Median / predicted)));
        return logs.Count == 0 ? "-" : $"{Format.Number(Math.Exp(logs.Average()))} x";
    }
}
