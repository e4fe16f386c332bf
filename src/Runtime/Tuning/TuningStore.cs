using System.Collections.Concurrent;
using System.Collections.Immutable;

namespace Kernels.Tuning;

/// <summary>What the store says for one m: a dataflow and where it comes from, or why every layer misses.</summary>
internal sealed record TuningAnswer(Dataflow? Dataflow, TuningSource Source, string Reason);

/// <summary>What an import did.</summary>
/// <param name="Written">Records stored.</param>
/// <param name="Kept">Records that were not newer than what is stored.</param>
/// <param name="Refused">Why others were not taken.</param>
internal sealed record ImportReport(int Written, int Kept, ImmutableArray<string> Refused);

/// <summary>A key for which two stores hold different choices, or which one lacks.</summary>
internal sealed record TuningDifference(string Key, TuningRecord? Left, TuningRecord? Right);

/// <summary>
/// The stored choices: pins over the user's own measurements over shipped ones of this device over shipped ones of its architecture. The
/// user's are one file per key in a directory. Nothing here throws for what a file holds or a disk does.
/// </summary>
internal sealed class TuningStore
{
    // The schema is in the name, so that libraries of two schemas keep their entries side by side.
    private static readonly string RecordSuffix = $".v{TuningRecord.CurrentSchema}.json";
    private static readonly string PinSuffix = $".pin{RecordSuffix}";

    private readonly ImmutableArray<TuningRecord> shipped;
    private readonly ILookup<string, TuningRecord> byDevice, byArchitecture;

    /// <summary>Opens a store; nothing is created before the first write.</summary>
    /// <param name="directory">The user's directory; null for <see cref="DefaultDirectory"/>, and empty for none.</param>
    /// <param name="embedded">The shipped records.</param>
    public TuningStore(string? directory = null, IEnumerable<TuningRecord>? embedded = null)
    {
        Directory = directory ?? DefaultDirectory;
        shipped = [.. (embedded ?? []).Where(r => r.Check() is null)];
        byDevice = shipped.ToLookup(r => r.Key.TextOf(KeyScope.Device), StringComparer.Ordinal);
        byArchitecture = shipped.ToLookup(r => r.Key.TextOf(KeyScope.Architecture), StringComparer.Ordinal);
    }

    /// <summary>Opens a store over a shipped document; a broken record in it is passed over.</summary>
    public TuningStore(string? directory, System.IO.Stream embedded)
        : this(directory, TuningDocument.Read(embedded, TuningSource.Device).Select(e => e.Record).OfType<TuningRecord>())
    {
    }

    private static readonly Lazy<TuningStore> s_default = new(() => new TuningStore(null, Embedded()));

    /// <summary>The store that plans ask: the user's directory over the tables that ship in this assembly.</summary>
    public static TuningStore Default => s_default.Value;

    private static readonly ConcurrentDictionary<string, TuningStore> s_opened = new(StringComparer.Ordinal);

    /// <summary>The same over another directory, or none where it is empty; null for <see cref="Default"/>.</summary>
    public static TuningStore In(string? directory) =>
        directory is null ? Default : s_opened.GetOrAdd(directory.Length == 0 ? "" : Path.GetFullPath(directory), d => new TuningStore(d, Default.shipped));

    /// <summary>The records of every <c>op.tuned.json</c> in this assembly; a broken one is passed over.</summary>
    public static IEnumerable<TuningRecord> Embedded()
    {
        System.Reflection.Assembly assembly = typeof(TuningStore).Assembly;
        foreach (string name in assembly.GetManifestResourceNames().Where(n => n.EndsWith(".tuned.json", StringComparison.Ordinal)))
        {
            using System.IO.Stream? stream = assembly.GetManifestResourceStream(name);
            foreach (TuningEntry entry in stream is null ? [] : TuningDocument.Read(stream, TuningSource.Device))
                if (entry.Record is { } record) yield return record;
        }
    }

    /// <summary>XDG_CACHE_HOME/kernels or ~/.cache/kernels; on Windows LocalApplicationData\kernels; empty where there is no home.</summary>
    public static string DefaultDirectory
    {
        get
        {
            string? root = OperatingSystem.IsWindows()
                ? Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData)
                : Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
            if (!OperatingSystem.IsWindows() && !Path.IsPathRooted(root))
            {
                string home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
                root = home.Length == 0 ? "" : Path.Combine(home, ".cache");
            }
            return string.IsNullOrEmpty(root) ? "" : Path.Combine(root, "kernels");
        }
    }

    /// <summary>The user's directory; empty where there is none.</summary>
    public string Directory { get; }

    /// <summary>The stored choice at one m.</summary>
    /// <param name="key">The problem, here and now.</param>
    /// <param name="m">The m of the call.</param>
    /// <param name="refuse">Why a dataflow cannot run over an interval, such as an unknown row; null if it can. A refusal makes the record a miss.</param>
    public TuningAnswer Find(TuningKey key, int m, Func<MInterval, string?> refuse)
    {
        List<string> reasons = [];
        foreach (TuningEntry entry in Layers(key))
        {
            string layer = entry.Source.ToString().ToLowerInvariant();
            if (entry.Record is not TuningRecord record)
            {
                reasons.Add($"{layer}: {entry.Reason}");
                continue;
            }
            MInterval? interval = MIntervals.Find(record.Intervals, m);
            // A pin names no range: it is asked about this m alone.
            string? reason = interval is null ? $"m {m} is outside the measured range"
                : entry.Source == TuningSource.Pin ? refuse(interval with { From = m, To = m })
                : record.Intervals.Select(refuse).FirstOrDefault(r => r is not null);
            if (reason is null)
                return new TuningAnswer(Fit(interval!.Dataflow, record.Key.Device, key.Device), entry.Source, $"{layer}: {entry.Name}");
            reasons.Add($"{layer}: {reason}");
        }
        return new TuningAnswer(null, TuningSource.None, string.Join("; ", reasons));
    }

    /// <summary>The user's record of a key.</summary>
    public TuningEntry Read(TuningKey key) => ReadFile(PathOf(key, KeyScope.Build), TuningSource.User, key, KeyScope.Build);

    /// <summary>The user's pin of a problem on a device; it holds for every build.</summary>
    public TuningEntry ReadPin(TuningKey key) => ReadFile(PathOf(key, KeyScope.Device), TuningSource.Pin, key, KeyScope.Device);

    /// <summary>Stores a record in place of the one of its key. On false the one before is still there, and the reason is told.</summary>
    public bool TryWrite(TuningRecord record, out string reason) => TryWrite(record, Read, KeyScope.Build, out reason);

    /// <summary>Fixes the dataflow of a problem on a device for every m.</summary>
    public bool TryPin(TuningKey key, Dataflow dataflow, DateTimeOffset date, out string reason) =>
        TryWrite(TuningRecord.Pin(key, date, dataflow), ReadPin, KeyScope.Device, out reason);

    /// <summary>Takes a pin away; true also where there was none.</summary>
    public bool TryUnpin(TuningKey key, out string reason)
    {
        if (ReadPin(key).Kind == TuningMiss.Foreign)
        {
            reason = "the pin has another schema";
            return false;
        }
        reason = "";
        return Directory.Length == 0 || TuningFile.TryDelete(PathOf(key, KeyScope.Device), out reason);
    }

    /// <summary>Everything stored, strongest layer first, with the entries that cannot be used and why.</summary>
    public ImmutableArray<TuningEntry> List()
    {
        IEnumerable<TuningEntry> files = Files().Select(path => ReadFile(
            path, path.EndsWith(PinSuffix, StringComparison.Ordinal) ? TuningSource.Pin : TuningSource.User, null, KeyScope.Build));
        return [.. files.OrderBy(e => e.Source), .. shipped.Select(r => Shipped(r, TuningSource.Device))];
    }

    /// <summary>Writes the user's sound records, without the pins, as one document; how many they are.</summary>
    public int Export(System.IO.Stream stream)
    {
        TuningRecord[] records = [.. Records()];
        TuningDocument.Write(stream, records);
        return records.Length;
    }

    /// <summary>Stores the sound records of a document; of two with one key the newer stays, or with <paramref name="force"/> the imported.</summary>
    public ImportReport Import(System.IO.Stream stream, bool force = false, Func<TuningRecord, string?>? refuse = null)
    {
        int written = 0, kept = 0;
        var refused = ImmutableArray.CreateBuilder<string>();
        foreach (TuningEntry entry in TuningDocument.Read(stream, TuningSource.User))
        {
            string? reason = entry.Record is null ? entry.Reason : refuse?.Invoke(entry.Record);
            if (reason is null && !force && Read(entry.Record!.Key).Record?.Date >= entry.Record.Date)
                kept++;
            else if (reason is null && TryWrite(entry.Record!, out reason))
                written++;
            else
                refused.Add($"{entry.Name}: {reason}");
        }
        return new ImportReport(written, kept, refused.ToImmutable());
    }

    /// <summary>The keys for which the users' records of two stores choose differently.</summary>
    public static ImmutableArray<TuningDifference> Diff(TuningStore left, TuningStore right)
    {
        Dictionary<string, TuningRecord> a = left.Records().ToDictionary(r => r.Key.Text), b = right.Records().ToDictionary(r => r.Key.Text);
        return
        [
            .. a.Keys.Union(b.Keys).Order(StringComparer.Ordinal)
                .Select(key => new TuningDifference(key, a.GetValueOrDefault(key), b.GetValueOrDefault(key)))
                .Where(d => d.Left is null || d.Right is null || !d.Left.Intervals.SequenceEqual(d.Right.Intervals)),
        ];
    }

    /// <summary>What each layer holds for a key, strongest first: a record, or why there is none.</summary>
    public IEnumerable<TuningEntry> Layers(TuningKey key)
    {
        yield return ReadPin(key);
        yield return Read(key);
        TuningRecord? exact = byDevice[key.TextOf(KeyScope.Device)].MaxBy(r => r.Date);
        yield return exact is null
            ? TuningEntry.Miss("shipped", TuningSource.Device, TuningMiss.Absent, "no entry")
            : Shipped(exact, TuningSource.Device);
        // The fixed order makes machines of one kind answer alike, whichever table was loaded first.
        string device = key.TextOf(KeyScope.Device);
        foreach (TuningRecord alike in byArchitecture[key.TextOf(KeyScope.Architecture)]
            .Where(r => r.Key.TextOf(KeyScope.Device) != device)
            .OrderBy(r => Math.Abs((long)r.Key.Device.Cores - key.Device.Cores)).ThenByDescending(r => r.Date)
            .ThenBy(r => r.Key.Text, StringComparer.Ordinal))
            yield return Shipped(alike, TuningSource.Architecture);
    }

    private static TuningEntry Shipped(TuningRecord record, TuningSource source) =>
        new(record.Key.Text, source, record, TuningMiss.None, "");

    /// <summary>All threads of one device become all threads of another.</summary>
    public static Dataflow Fit(Dataflow dataflow, TuningDevice from, TuningDevice to) =>
        from.Threads == to.Threads || dataflow.Threads == 0 ? dataflow
        : dataflow.WithThreads(dataflow.Threads == from.Threads ? to.Threads : Math.Min(dataflow.Threads, to.Threads));

    private bool TryWrite(TuningRecord record, Func<TuningKey, TuningEntry> read, KeyScope scope, out string reason)
    {
        reason = Directory.Length == 0 ? "no cache directory" : record.Check() ?? "";
        if (reason.Length == 0 && read(record.Key) is { Kind: TuningMiss.Foreign } foreign)
            reason = foreign.Reason;
        return reason.Length == 0 && TuningFile.TryWrite(PathOf(record.Key, scope), record.ToJson(), out reason);
    }

    private string PathOf(TuningKey key, KeyScope scope) =>
        Path.Combine(Directory, key.FileName(scope) + (scope == KeyScope.Device ? PinSuffix : RecordSuffix));

    private TuningEntry ReadFile(string path, TuningSource source, TuningKey? key, KeyScope scope)
    {
        string name = Path.GetFileName(path);
        if (Directory.Length == 0)
            return TuningEntry.Miss(name, source, TuningMiss.Absent, "no cache directory");
        if (TuningFile.Read(path, out TuningMiss miss, out string reason) is not byte[] content)
            return TuningEntry.Miss(name, source, miss, reason);
        TuningEntry entry = TuningRecord.Parse(name, source, content);
        return key is not null && entry.Record is not null && entry.Record.Key.TextOf(scope) != key.TextOf(scope)
            ? TuningEntry.Miss(name, source, TuningMiss.OtherKey, $"the file holds {entry.Record.Key.TextOf(scope)}")
            : entry;
    }

    private IEnumerable<TuningRecord> Records() =>
        List().Where(e => e.Source == TuningSource.User).Select(e => e.Record).OfType<TuningRecord>().DistinctBy(r => r.Key.Text);

    private string[] Files()
    {
        if (Directory.Length == 0)
            return [];
        try
        {
            string[] files = System.IO.Directory.GetFiles(Directory, "*" + RecordSuffix);
            Array.Sort(files, StringComparer.Ordinal);
            return files;
        }
        catch (Exception e) when (TuningFile.IsOfFileSystem(e))
        {
            return [];
        }
    }
}
