using System.Collections.Immutable;
using System.Globalization;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A stored choice that this machine can run as it stands, for a stretch of the axis.</summary>
internal readonly record struct StoredChoice(int From, int To, Row Row, KnLaunch Launch, string Reason);

/// <summary>What the store says about a problem: the intervals that hold here.</summary>
internal static class StoredChoices
{
    /// <summary>This machine, as a key names it.</summary>
    internal static TuningDevice DeviceOf(Device device, int threads)
    {
        string isa = device.InstructionSets.ToLowerInvariant().Replace(", ", "+", StringComparison.Ordinal);
        string architecture = RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();
        return new TuningDevice($"{architecture}+{isa}", device.Model, device.Cores, threads == 0 ? device.Threads : Math.Min(threads, device.Threads));
    }

    /// <summary>The stored choices over the whole axis, ascending and disjoint, the strongest layer of the store first; what they leave is the model's.</summary>
    internal static ImmutableArray<StoredChoice> Over<TProblem>(Selection<TProblem> selection, TuningStore? store, CacheState cache, bool eager = false)
        where TProblem : unmanaged
    {
        if (store is null) return [];
        var covered = new List<StoredChoice>();
        foreach (TuningKey key in selection.Keys(cache, eager))
            foreach (TuningEntry entry in store.Layers(key))
            {
                if (entry.Record is not { } record) continue;
                foreach (StoredChoice choice in Usable(selection, key, entry.Source, record)) Fill(covered, choice);
            }
        return [.. covered.OrderBy(c => c.From)];
    }

    /// <summary>The intervals of a record, or none of them when one names a row or parameters that this machine refuses.</summary>
    private static List<StoredChoice> Usable<TProblem>(Selection<TProblem> selection, TuningKey key, TuningSource source, TuningRecord record)
        where TProblem : unmanaged
    {
        var usable = new List<StoredChoice>();
        foreach (MInterval interval in record.Intervals)
        {
            int from = interval.From <= 1 ? 0 : interval.From, to = Math.Min(interval.To, selection.Most);
            if (from > to) continue;
            Dataflow dataflow = TuningStore.Fit(interval.Dataflow, record.Key.Device, key.Device);
            if (LaunchOf(dataflow, selection.Threads, selection.Rows, out Row? row) is not { } launch) return [];
            // A pin names no range: it holds as far as its row goes.
            if (source == TuningSource.Pin) to = Furthest(selection, row!, launch, from, to);
            if (!selection.Accepts(row!, to, launch)) return [];
            usable.Add(new StoredChoice(from, to, row!, launch, Reason(source, record, interval)));
        }
        return usable;
    }

    /// <summary>The last point up to <paramref name="to"/> that the row takes; rows take a problem up to some size.</summary>
    private static int Furthest<TProblem>(Selection<TProblem> selection, Row row, in KnLaunch launch, int from, int to) where TProblem : unmanaged
    {
        if (selection.Accepts(row, to, launch)) return to;
        while (to - from > 1)
        {
            int middle = from + (to - from) / 2;
            if (selection.Accepts(row, middle, launch)) from = middle;
            else to = middle;
        }
        return from;
    }

    private static KnLaunch? LaunchOf(Dataflow dataflow, int threads, IReadOnlyList<Row> rows, out Row? row)
    {
        row = rows.FirstOrDefault(r => r.Name == dataflow.Row);
        if (row is null || row.Parameters.Length != dataflow.Parameters.Length) return null;
        for (int i = 0; i < row.Parameters.Length; i++)
            if (!row.Parameters[i].Values.Contains(dataflow.Parameters[i])) return null;
        KnLaunch launch = row.Launch(dataflow);
        if (launch.Threads == 0 || (threads != 0 && launch.Threads > threads)) launch.Threads = threads;
        return launch;
    }

    private static string Reason(TuningSource source, TuningRecord record, MInterval interval)
    {
        string date = record.Date.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        if (source == TuningSource.Pin) return $"pinned {date}";
        int candidates = record.Evidence.Where(e => interval.Covers(e.M)).Select(e => e.Candidates.Length).DefaultIfEmpty().Max();
        string where = source switch
        {
            TuningSource.Device => ", shipped",
            TuningSource.Architecture => $", shipped, measured on {record.Key.Device.Model} with {record.Key.Device.Threads} threads",
            _ => "",
        };
        string cache = record.Key.Policy.Cache == CacheState.Cold ? "cold" : "warm", call = record.Key.Policy.Call is "call" ? "" : $", {record.Key.Policy.Call}";
        return string.Create(CultureInfo.InvariantCulture, $"tuned {date}, {candidates} candidates, {cache}{call}{where}");
    }

    /// <summary>Adds the parts of <paramref name="choice"/> that nothing stronger covers.</summary>
    private static void Fill(List<StoredChoice> covered, StoredChoice choice)
    {
        int from = choice.From;
        foreach (StoredChoice held in covered.Where(c => c.To >= choice.From && c.From <= choice.To).OrderBy(c => c.From).ToArray())
        {
            if (held.From > from) covered.Add(choice with { From = from, To = held.From - 1 });
            from = held.To + 1;
        }
        if (from <= choice.To) covered.Add(choice with { From = from });
    }
}
