using System.Collections.Immutable;
using System.Diagnostics;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>A directory that goes when its user does.</summary>
internal sealed class Scratch : IDisposable
{
    public string Directory { get; } = System.IO.Directory.CreateTempSubdirectory("kernels-perf-").FullName;

    public void Dispose() => System.IO.Directory.Delete(Directory, recursive: true);
}

/// <summary>Tunes again beside the database, with the stored choice as the incumbent, and tells what would change.</summary>
internal static class DbVerify
{
    private const double Moved = 0.15;

    private sealed record Verified(string Problem, bool Changed, string Stored, string Now, string Moved);

    public static int Run(TuningEntry[] entries, TimeSpan budget, Screen screen, CancellationToken cancellation)
    {
        TuningRecord[] records = [.. entries.Where(e => e.Source == TuningSource.User).Select(e => e.Record!)
            .Where(r => r.Key.Build == Device.Cpu.Build && r.Key.Device.Model == Device.Cpu.Model && r.Key.Device.Threads <= Device.Cpu.Threads)];
        if (records.Length == 0) throw new UsageException("no entry is of this processor and build: there is nothing to time again");
        var results = new List<Verified>();
        long start = Stopwatch.GetTimestamp();
        using var scratch = new Scratch();
        var store = new TuningStore(scratch.Directory);
        for (int i = 0; i < records.Length && !cancellation.IsCancellationRequested; i++)
        {
            TuningRecord record = records[i];
            if (Operation.All.FirstOrDefault(o => o.LayerOf(record.Key) is not null) is not { } operation) continue;
            Screen.Note(DbVerb.Problem(record.Key));
            if (!store.TryWrite(record, out string reason)) throw new MissingException($"{scratch.Directory}: {reason}");
            var settings = new TuneSettings([.. record.Evidence.Select(e => e.M)], record.Key.Policy.Cache, (budget - Stopwatch.GetElapsedTime(start)) / (records.Length - i), cancellation, null, Candidates: 3);
            TuningResult result = operation.Tune(operation.LayerOf(record.Key)!, settings, store);
            if (!result.Stored || result.Record is not { } now)
            {
                results.Add(new Verified(DbVerb.Problem(record.Key), true, Format.Intervals(record.Intervals), $"not timed: {result.Problem}", ""));
                continue;
            }
            bool same = Format.Intervals(now.Intervals) == Format.Intervals(record.Intervals);
            results.Add(new Verified(DbVerb.Problem(record.Key), !same, Format.Intervals(record.Intervals), same ? "the same" : Format.Intervals(now.Intervals), Drift(record, now)));
        }
        var table = new Table("verify", "problem", "stored", "now", "times that moved");
        foreach (Verified v in results) table.Add(v.Problem, v.Stored, v.Now, v.Moved);
        screen.Show(table);
        screen.Json(results);
        return results.Count > 0 && results.All(r => !r.Changed) ? Exit.Ok : Exit.Bad;
    }

    /// <summary>The m at which the stored choice is now faster or slower by more than clocks and neighbours explain.</summary>
    private static string Drift(TuningRecord before, TuningRecord now)
    {
        var parts = new List<string>();
        foreach (Evidence e in before.Evidence)
        {
            if (MIntervals.Find(before.Intervals, e.M) is not { } interval || now.Evidence.FirstOrDefault(n => n.M == e.M) is not { } again) continue;
            ImmutableDictionary<Dataflow, Estimate> then = e.Point(SelectionRule.Default).Estimates, today = again.Point(SelectionRule.Default).Estimates;
            if (!then.TryGetValue(interval.Dataflow, out Estimate a) || !today.TryGetValue(interval.Dataflow, out Estimate b)) continue;
            double ratio = b.Median / a.Median - 1;
            if (Math.Abs(ratio) > Moved) parts.Add($"m {Format.Int(e.M)} {(ratio > 0 ? "+" : "")}{Format.Percent(ratio)}");
        }
        return parts.Count == 0 ? "none" : string.Join(", ", parts);
    }
}
