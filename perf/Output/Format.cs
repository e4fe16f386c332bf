using System.Globalization;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>Numbers as a reader wants them.</summary>
internal static class Format
{
    /// <summary>Three digits that count.</summary>
    public static string Number(double value) =>
        !double.IsFinite(value) ? "-"
        : Math.Abs(value) >= 1000 ? value.ToString("0", CultureInfo.InvariantCulture)
        : Math.Abs(value) >= 100 ? value.ToString("0.0", CultureInfo.InvariantCulture)
        : Math.Abs(value) >= 1 || value == 0 ? value.ToString("0.00", CultureInfo.InvariantCulture)
        : value.ToString("0.000", CultureInfo.InvariantCulture);

    public static string Micros(double seconds) => Number(seconds * 1e6);

    public static string Percent(double? fraction) =>
        fraction is { } f && double.IsFinite(f) ? (f * 100).ToString("0", CultureInfo.InvariantCulture) + " %" : "-";

    public static string Bytes(long bytes) => bytes switch
    {
        <= 0 => "unknown",
        < 1 << 20 => (bytes / 1024.0).ToString("0.#", CultureInfo.InvariantCulture) + " KiB",
        < 1 << 30 => (bytes / 1048576.0).ToString("0.#", CultureInfo.InvariantCulture) + " MiB",
        _ => (bytes / 1073741824.0).ToString("0.##", CultureInfo.InvariantCulture) + " GiB",
    };

    /// <summary>"avx512_flat[4,512]": the operation is known from the table's title.</summary>
    public static string Short(Dataflow dataflow) => Short(dataflow.WithThreads(0).ToString());

    public static string Short(string row) => row[(row.IndexOf('/', StringComparison.Ordinal) + 1)..];

    public static string Cache(CacheState cache) => cache == CacheState.Cold ? "cold" : "warm";

    /// <summary>"1..3 gemv[8] | 4..24 flat[4,512]"; with the operation where dataflows of several stand in one record.</summary>
    public static string Intervals(IReadOnlyList<MInterval> intervals)
    {
        bool one = intervals.Select(i => i.Dataflow.Row.Split('/')[0]).Distinct().Count() <= 1;
        return string.Join(" | ", intervals.Select(i => $"{Range(i.From, i.To)} {(one ? Short(i.Dataflow) : i.Dataflow.WithThreads(0).ToString())}"));
    }

    public static string Range(int from, int to) => from == to ? Int(from) : to == int.MaxValue ? $"{Int(from)}.." : $"{Int(from)}..{Int(to)}";

    /// <summary>Where a choice changes, and between which measured m that cannot be told better.</summary>
    public static string Inflections(IReadOnlyList<MInterval> intervals)
    {
        var parts = new List<string>();
        for (int i = 1; i < intervals.Count; i++)
            if (intervals[i - 1].To + 1 == intervals[i].From)
                parts.Add(intervals[i].SureBefore is { } sure ? $"{Int(intervals[i].From)} (in {Int(sure + 1)}..{Int(intervals[i].From)})" : $"{Int(intervals[i].From)} (or before)");
        return parts.Count == 0 ? "none" : string.Join(", ", parts);
    }

    public static string Int(long value) => value.ToString(CultureInfo.InvariantCulture);
}
