using System.Collections.Immutable;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Kernels.Tuning;

/// <summary>The choices for one key over m, and the evidence from which they follow.</summary>
/// <param name="Schema">Version of the form; a reader takes only its own.</param>
/// <param name="Key">Problem, device, build and policy.</param>
/// <param name="Date">When it was measured.</param>
/// <param name="Threshold">The least relative gain of the rule that was in force.</param>
/// <param name="Intervals">The choices, ascending and disjoint.</param>
/// <param name="Evidence">Every measured m with all samples; empty for a pin.</param>
/// <param name="Notes">What else is worth keeping: clocks, load, power limit, caches.</param>
internal sealed record TuningRecord(
    int Schema,
    TuningKey Key,
    DateTimeOffset Date,
    double Threshold,
    ImmutableArray<MInterval> Intervals,
    ImmutableArray<Evidence> Evidence,
    ImmutableSortedDictionary<string, string> Notes)
{
    public const int CurrentSchema = 1;

    // Without the escapes that only HTML needs: the '+' of a build stays a '+'.
    private static readonly TuningJson Json =
        new(new JsonSerializerOptions(TuningJson.Default.Options) { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });

    /// <summary>The record that follows from <paramref name="evidence"/> under <paramref name="rule"/>.</summary>
    public static TuningRecord From(
        TuningKey key, DateTimeOffset date, IEnumerable<Evidence> evidence, SelectionRule rule, ImmutableSortedDictionary<string, string>? notes = null)
    {
        ImmutableArray<Evidence> sorted = [.. evidence.OrderBy(e => e.M)];
        return new TuningRecord(
            CurrentSchema, key, date, rule.Threshold, MIntervals.Over(sorted.Select(e => e.Point(rule)), rule), sorted,
            notes ?? ImmutableSortedDictionary<string, string>.Empty);
    }

    /// <summary>The record of a choice by hand: one dataflow for every m.</summary>
    public static TuningRecord Pin(TuningKey key, DateTimeOffset date, Dataflow dataflow) => new(
        CurrentSchema, key, date, SelectionRule.Default.Threshold, [new MInterval(0, int.MaxValue, dataflow, null)], [],
        ImmutableSortedDictionary<string, string>.Empty);

    /// <summary>What is wrong with a record that came from outside; null if nothing.</summary>
    public string? Check()
    {
        if (Schema != CurrentSchema)
            return $"schema {Schema}, this library reads {CurrentSchema}";
        if (Intervals.IsDefaultOrEmpty || Evidence.IsDefault || Notes is null || Key is null)
            return "a part is absent";
        if (Key.Problem.Values.Contains(null!) || !double.IsFinite(Threshold) || Threshold < 0)
            return "a value is absent or out of range";
        long last = -1;
        foreach (MInterval interval in Intervals)
        {
            if (interval?.Dataflow is null || interval.From <= last || interval.To < interval.From)
                return "the intervals are not ascending and disjoint";
            last = interval.To;
        }
        if (Evidence.Contains(null!) || Evidence.DistinctBy(e => e.M).Count() != Evidence.Length)
            return "the evidence repeats an m or lacks it";
        return Evidence.Select(e => e.Check()).FirstOrDefault(reason => reason is not null);
    }

    /// <summary>The JSON form.</summary>
    public byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, Json.TuningRecord);

    /// <summary>Reads a record; whatever is not a sound one of this schema comes back as a miss with its reason.</summary>
    public static TuningEntry Parse(string name, TuningSource source, ReadOnlyMemory<byte> json)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            return Parse(name, source, document.RootElement);
        }
        catch (JsonException e)
        {
            return TuningEntry.Miss(name, source, TuningMiss.Corrupt, $"not JSON: {e.Message}");
        }
    }

    /// <summary>The same from a part of a document.</summary>
    public static TuningEntry Parse(string name, TuningSource source, JsonElement json)
    {
        if (json.ValueKind != JsonValueKind.Object || !json.TryGetProperty("schema", out JsonElement schema)
            || schema.ValueKind != JsonValueKind.Number)
            return TuningEntry.Miss(name, source, TuningMiss.Corrupt, "no schema number");
        if (!schema.TryGetInt32(out int version) || version != CurrentSchema)
            return TuningEntry.Miss(name, source, TuningMiss.Foreign, $"schema {schema.GetRawText()}, this library reads {CurrentSchema}");
        try
        {
            TuningRecord? record = json.Deserialize(Json.TuningRecord);
            return record?.Check() is string reason
                ? TuningEntry.Miss(name, source, TuningMiss.Corrupt, reason)
                : new TuningEntry(name, source, record, TuningMiss.None, "");
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or ArgumentException or FormatException)
        {
            // Beside JsonException: text that is no UTF-16 (invalid operation), a repeated name in a sorted dictionary (argument).
            return TuningEntry.Miss(name, source, TuningMiss.Corrupt, e.Message);
        }
    }
}

/// <summary>Where an answer comes from, strongest first after none.</summary>
internal enum TuningSource
{
    /// <summary>Nothing is stored: the model decides.</summary>
    None,

    /// <summary>A choice by hand.</summary>
    Pin,

    /// <summary>Measured on this machine.</summary>
    User,

    /// <summary>Shipped, measured on this device.</summary>
    Device,

    /// <summary>Shipped, measured on a device of the same architecture.</summary>
    Architecture,
}

/// <summary>Why there is no record.</summary>
internal enum TuningMiss
{
    /// <summary>There is one.</summary>
    None,

    /// <summary>Nothing is stored under the name.</summary>
    Absent,

    /// <summary>It cannot be read: no file, too large, no permission.</summary>
    Unreadable,

    /// <summary>It is broken.</summary>
    Corrupt,

    /// <summary>Another schema, of a newer library or of something else. Never overwritten.</summary>
    Foreign,

    /// <summary>It is a record of another key.</summary>
    OtherKey,

    /// <summary>A row or its parameters are not accepted here.</summary>
    Refused,
}

/// <summary>A record, or why there is none.</summary>
internal sealed record TuningEntry(string Name, TuningSource Source, TuningRecord? Record, TuningMiss Kind, string Reason)
{
    public static TuningEntry Miss(string name, TuningSource source, TuningMiss kind, string reason) => new(name, source, null, kind, reason);
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, UseStringEnumConverter = true,
    RespectNullableAnnotations = true, RespectRequiredConstructorParameters = true, IgnoreReadOnlyProperties = true)]
[JsonSerializable(typeof(TuningRecord))]
internal sealed partial class TuningJson : JsonSerializerContext;
