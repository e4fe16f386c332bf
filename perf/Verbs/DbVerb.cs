using System.CommandLine;
using System.Globalization;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>perf db: what is stored, taken in and out, re-timed, replayed and fixed by hand.</summary>
internal static class DbVerb
{
    private static readonly Argument<string?> s_name = new("name") { Description = "Entries whose name, key or problem contains this (default all)", DefaultValueFactory = _ => null };

    public static Command Create()
    {
        Option<string?> db = Verb.DatabaseOption();
        var command = new Command("db", "The tuning database: list, show, take in and out, re-time, replay, pin.")
        {
            List(db), Show(db), Export(db), Import(db), Verify(db), Diff(db), Pin(db), Unpin(db), Replay(db),
        };
        return command;
    }

    private static Command List(Option<string?> db) => Verb.Make("list", "Lists the entries, and those that cannot be used with the reason.", [db, s_name], (parsed, screen, _) =>
    {
        TuningStore store = Verb.Store(parsed.GetValue(db));
        TuningEntry[] entries = [.. store.List().Where(e => Matches(e, parsed.GetValue(s_name)))];
        var table = new Table(store.Directory.Length == 0 ? "no database" : store.Directory, "name", "source", "problem", "date", "here", "intervals");
        foreach (TuningEntry e in entries)
            table.Add(Nickname(e.Name), e.Source.ToString().ToLowerInvariant(), e.Record is { } r ? Problem(r.Key) : "", e.Record is { } d ? Day(d.Date) : "",
                e.Record is { } h ? Here(h.Key) : "unusable", e.Record is null ? $"{e.Kind}: {e.Reason}" : Format.Intervals(e.Record.Intervals));
        screen.Show(table);
        screen.Json(entries.Select(e => new { e.Name, e.Source, e.Kind, e.Reason, key = e.Record?.Key.Text, date = e.Record?.Date, intervals = e.Record?.Intervals.Select(Interval) }));
        return entries.Any(e => e.Record is null) ? Exit.Bad : Exit.Ok;
    });

    private static Command Show(Option<string?> db) => Verb.Make("show", "Shows one entry or more: choices, every candidate's time, failures.", [db, s_name], (parsed, screen, _) =>
    {
        TuningEntry[] entries = Found(parsed, db);
        foreach (TuningEntry e in entries)
        {
            TuningRecord r = e.Record!;
            screen.Line($"{e.Name}\n{r.Key.Text}\n{Day(r.Date)}, threshold {Format.Percent(r.Threshold)}; {Format.Intervals(r.Intervals)}; changes at {Format.Inflections(r.Intervals)}");
            var table = new Table("", ">m", "dataflow", ">us", ">95 % interval", ">samples", ">model us", "outcome");
            foreach (Evidence at in r.Evidence)
                for (int i = 0; i < at.Candidates.Length; i++) ShowTiming(table, r, at, i);
            screen.Show(table);
        }
        screen.Json(entries.Select(e => e.Record));
        return Exit.Ok;
    });

    private static void ShowTiming(Table table, TuningRecord record, Evidence at, int i)
    {
        Timing t = at.Result.Timings[i];
        bool timed = !t.Samples.IsEmpty;
        string outcome = t.Failure is { } f ? $"{f.Kind}: {f.Detail}" : at.Result.Winner == i ? i == 0 ? "incumbent, kept" : "won" : "";
        string model = record.Notes.TryGetValue(TuningNotes.Predicted(at.M, at.Candidates[i]), out string? note)
            && double.TryParse(note, CultureInfo.InvariantCulture, out double seconds) ? Format.Micros(seconds) : "-";
        table.Add(Format.Int(at.M), Format.Short(at.Candidates[i]), timed ? Format.Micros(t.Estimate.Median) : "-",
            timed ? $"{Format.Micros(t.Estimate.Lower)}..{Format.Micros(t.Estimate.Upper)}" : "-", Format.Int(t.Samples.Length), model, outcome);
    }

    private static Command Export(Option<string?> db)
    {
        var file = new Argument<string>("file") { Description = "File to write, or - for standard output" };
        return Verb.Make("export", "Writes the sound entries, without pins, as one document: the form of the shipped tables.", [file, db], (parsed, screen, _) =>
        {
            TuningStore store = Verb.Store(parsed.GetValue(db));
            string path = parsed.GetRequiredValue(file);
            if (path == "-")
            {
                if (screen.OnlyJson) throw new UsageException("--json: standard output is the document's already; give a file for one of them");
                using System.IO.Stream output = Console.OpenStandardOutput();
                store.Export(output);
                return Exit.Ok;
            }
            var content = new MemoryStream();
            int written = store.Export(content);
            if (!TuningFile.TryWrite(Path.GetFullPath(path), content.ToArray(), out string reason)) throw new MissingException($"{path} cannot be written: {reason}");
            screen.Line($"{Path.GetFullPath(path)}: {written} entries");
            screen.Json(new { file = Path.GetFullPath(path), written });
            return Exit.Ok;
        });
    }

    private static Command Import(Option<string?> db)
    {
        var file = new Argument<string>("file") { Description = "A document that export wrote" };
        var force = new Option<bool>("--force") { Description = "Take the imported entry also where the stored one is newer" };
        return Verb.Make("import", "Takes in the entries of a document; of two with one key the newer stays.", [file, force, db], (parsed, screen, _) =>
        {
            string path = parsed.GetRequiredValue(file);
            if (!File.Exists(path)) throw new UsageException($"{path}: no such file");
            using FileStream stream = File.OpenRead(path);
            ImportReport report = Verb.Store(parsed.GetValue(db)).Import(stream, parsed.GetValue(force));
            screen.Line($"{report.Written} taken in, {report.Kept} kept as they were, {report.Refused.Length} refused.");
            foreach (string refused in report.Refused) screen.Line(refused);
            screen.Json(report);
            return report.Refused.Length == 0 ? Exit.Ok : Exit.Bad;
        });
    }

    private static Command Verify(Option<string?> db)
    {
        Option<double> budget = Arguments.Seconds("--budget", 60, "Wall time for all entries");
        return Verb.Make("verify", "Times the stored choices of this machine and build again, against the runners-up, and names what would change. Stores nothing.",
            [s_name, budget, db], (parsed, screen, cancellation) => DbVerify.Run(Found(parsed, db), TimeSpan.FromSeconds(parsed.GetValue(budget)), screen, cancellation));
    }

    private static Command Diff(Option<string?> db)
    {
        var other = new Argument<string>("other") { Description = "Directory of the other database, or a document that export wrote" };
        return Verb.Make("diff", "Names the keys for which two databases choose differently.", [other, db], (parsed, screen, _) =>
        {
            using Scratch scratch = new();
            TuningStore right = Open(parsed.GetRequiredValue(other), scratch);
            // An end of an uncertainty that moved is no other choice.
            TuningDifference[] differences = [.. TuningStore.Diff(Verb.Store(parsed.GetValue(db)), right)
                .Where(d => d.Left is null || d.Right is null || Format.Intervals(d.Left.Intervals) != Format.Intervals(d.Right.Intervals))];
            var table = new Table("differences", "problem", "device, build", "this", "other");
            foreach (TuningDifference d in differences)
            {
                TuningKey key = (d.Left ?? d.Right)!.Key;
                table.Add(Problem(key), $"{key.Device.Model}, {key.Build}", d.Left is null ? "none" : Format.Intervals(d.Left.Intervals), d.Right is null ? "none" : Format.Intervals(d.Right.Intervals));
            }
            if (differences.Length == 0) screen.Line("No difference.");
            else screen.Show(table);
            screen.Json(differences.Select(d => new { d.Key, left = d.Left?.Intervals.Select(Interval), right = d.Right?.Intervals.Select(Interval) }));
            return differences.Length == 0 ? Exit.Ok : Exit.Bad;
        });
    }

    private static TuningStore Open(string path, Scratch scratch)
    {
        if (Directory.Exists(path)) return new TuningStore(path);
        if (!File.Exists(path)) throw new UsageException($"{path}: no such directory or file");
        var store = new TuningStore(scratch.Directory);
        using FileStream stream = File.OpenRead(path);
        ImportReport report = store.Import(stream);
        return report.Refused.IsEmpty ? store : throw new UsageException($"{path}: {report.Refused[0]}");
    }

    private static Command Pin(Option<string?> db)
    {
        Argument<string> op = Verb.OperationArgument();
        Option<int[]> threads = Arguments.Threads();
        Option<CacheState> cache = Arguments.Cache();
        var dataflow = new Option<string>("--dataflow") { Description = "Row and parameters, such as flat_gemm/avx512_flat[4,512]", Required = true };
        return Verb.Make("pin", "Fixes the dataflow of a layer on this machine, for every m that its row takes and every build.",
            [op, dataflow, threads, cache, db, .. Operation.AllOptions], (parsed, screen, _) =>
            {
                Operation operation = Operation.Find(parsed.GetRequiredValue(op));
                string text = parsed.GetRequiredValue(dataflow);
                if (!Dataflow.TryParse(text, out Dataflow? flow)) throw new UsageException($"--dataflow {text}: a row with its parameters, such as flat_gemm/avx512_flat[4,512]");
                Row row = Device.Cpu.Table.Of(operation.Op).FirstOrDefault(r => r.Name == flow.Row) ?? throw new UsageException($"--dataflow {text}: no row {flow.Row}; perf list names them");
                if (flow.Parameters.IsEmpty) flow = row.Dataflow(row.DefaultLaunch(flow.Threads));
                if (flow.Parameters.Length != row.Parameters.Length || row.Parameters.Where((p, i) => !p.Values.Contains(flow.Parameters[i])).Any())
                    throw new UsageException($"--dataflow {text}: {row.Name} takes {string.Join(", ", row.Parameters.Select(p => $"{p.Name} of {string.Join('|', p.Values)}"))}");
                return Each(parsed, operation, threads, cache, db, screen, (TuningStore store, TuningKey key, out string reason) => store.TryPin(key, flow, DateTimeOffset.UtcNow, out reason), $"pinned to {flow}");
            });
    }

    private static Command Unpin(Option<string?> db)
    {
        Argument<string> op = Verb.OperationArgument();
        Option<int[]> threads = Arguments.Threads();
        Option<CacheState> cache = Arguments.Cache();
        return Verb.Make("unpin", "Takes a pin away.", [op, threads, cache, db, .. Operation.AllOptions], (parsed, screen, _) =>
            Each(parsed, Operation.Find(parsed.GetRequiredValue(op)), threads, cache, db, screen, (TuningStore store, TuningKey key, out string reason) => store.TryUnpin(key, out reason), "unpinned"));
    }

    private delegate bool Change(TuningStore store, TuningKey key, out string reason);

    private static int Each(ParseResult parsed, Operation operation, Option<int[]> threads, Option<CacheState> cache, Option<string?> db, Screen screen, Change change, string done)
    {
        TuningStore store = Verb.Store(parsed.GetValue(db));
        var all = new List<object>();
        foreach (int bound in parsed.GetValue(threads)!)
            foreach (Layer layer in operation.Layers(parsed, bound))
            {
                if (!change(store, operation.KeyOf(layer, parsed.GetValue(cache)), out string reason)) throw new MissingException($"{layer.Case}: not stored: {reason}");
                screen.Line($"{layer.Case}, {layer.Dtypes}: {done}");
                all.Add(new { layer.Case, layer.Dtypes, done });
            }
        screen.Json(all);
        return Exit.Ok;
    }

    private static Command Replay(Option<string?> db)
    {
        var threshold = new Option<double?>("--threshold") { Description = "Another least gain that is worth a change, such as 0.05 (default: the stored one)" };
        threshold.Validators.Add(r =>
        {
            if (Arguments.Given(r) is { } given && given is not (>= 0 and < 1)) r.AddError("--threshold: from 0 to less than 1");
        });
        var write = new Option<bool>("--store") { Description = "Keep what is chosen now in place of what was" };
        return Verb.Make("replay", "Chooses again from the stored samples, with no measurement.", [s_name, threshold, write, db], (parsed, screen, _) =>
        {
            TuningStore store = Verb.Store(parsed.GetValue(db));
            TuningEntry[] entries = [.. Found(parsed, db).Where(e => !e.Record!.Evidence.IsEmpty)];
            double? limit = parsed.GetValue(threshold);
            var replays = entries.Select(e => (Entry: e, Replay: Tuning.Replay.Of(e.Record!, limit))).ToList();
            var table = new Table(limit is { } t ? $"replay with a threshold of {Format.Percent(t)}" : "replay", "problem", "stored", "replayed", "");
            foreach (var (entry, replay) in replays)
                table.Add(Problem(entry.Record!.Key), Format.Intervals(entry.Record.Intervals), replay.IsSame ? "the same" : Format.Intervals(replay.Intervals),
                    string.Join(", ", replay.Differences.Select(d => d.Unconfirmed is { } u ? $"m {d.M}: {Format.Short(u)} without a rematch" : $"m {d.M}")));
            screen.Show(table);
            foreach (var (entry, replay) in replays.Where(r => parsed.GetValue(write) && r.Entry.Source == TuningSource.User && !r.Replay.IsSame))
                if (!store.TryWrite(entry.Record! with { Intervals = replay.Intervals, Threshold = limit ?? entry.Record.Threshold }, out string reason))
                    throw new MissingException($"{entry.Name}: not stored: {reason}");
            screen.Json(replays.Select(r => new { key = r.Entry.Record!.Key.Text, same = r.Replay.IsSame, intervals = r.Replay.Intervals.Select(Interval) }));
            return limit is null && !parsed.GetValue(write) && replays.Any(r => !r.Replay.IsSame) ? Exit.Bad : Exit.Ok;
        });
    }

    /// <summary>The sound entries of the user that the name matches; none is an error.</summary>
    private static TuningEntry[] Found(ParseResult parsed, Option<string?> db)
    {
        TuningStore store = Verb.Store(parsed.GetValue(db));
        string? name = parsed.GetValue(s_name);
        TuningEntry[] entries = [.. store.List().Where(e => e.Record is not null && Matches(e, name))];
        return entries.Length > 0 ? entries : throw new UsageException($"no usable entry{(name is null ? "" : $" matches {name}")} in {(store.Directory.Length == 0 ? "the database: there is none" : store.Directory)}");
    }

    /// <summary>The operation and eight digits: enough to name an entry by.</summary>
    private static string Nickname(string name) => name.Split('.')[0] is var stem && stem.LastIndexOf('-') is > 0 and var dash ? stem[..Math.Min(stem.Length, dash + 9)] : stem;

    private static bool Matches(TuningEntry e, string? name) => name is null || e.Name.Contains(name, StringComparison.OrdinalIgnoreCase)
        || (e.Record is { } r && (r.Key.Text.Contains(name, StringComparison.OrdinalIgnoreCase) || Problem(r.Key).Contains(name, StringComparison.OrdinalIgnoreCase)));

    internal static string Problem(TuningKey key)
    {
        string dtypes = Operation.All.Select(o => o.LayerOf(key)).FirstOrDefault(l => l is not null) is { } layer ? $"{layer.Extents}, {layer.Dtypes}" : string.Join(',', key.Problem.Select(p => $"{p.Key}={p.Value}"));
        return $"{key.Operation} {dtypes}, {Format.Int(key.Device.Threads)} threads, {Format.Cache(key.Policy.Cache)}";
    }

    private static string Here(TuningKey key) => key.Device.Model != Device.Cpu.Model ? "another processor" : key.Build != Device.Cpu.Build ? "another build" : "yes";

    private static object Interval(MInterval i) => new { i.From, i.To, dataflow = i.Dataflow.ToString(), i.SureBefore };

    private static string Day(DateTimeOffset date) => date.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
}
