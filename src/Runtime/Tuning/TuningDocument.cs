using System.Collections.Immutable;
using System.Text.Json;

namespace Kernels.Tuning;

/// <summary>Many records in one JSON file: <c>{"schema":1,"records":[...]}</c>, a record per line. The form of export, import and the shipped tables.</summary>
internal static class TuningDocument
{
    /// <summary>The largest document that is read.</summary>
    public const int MaxBytes = 256 << 20;

    public static void Write(System.IO.Stream stream, IEnumerable<TuningRecord> records)
    {
        stream.Write("{\"schema\":1,\"records\":["u8);
        bool first = true;
        foreach (TuningRecord record in records.OrderBy(r => r.Key.Text, StringComparer.Ordinal))
        {
            stream.Write(first ? "\n"u8 : ",\n"u8);
            stream.Write(record.ToJson());
            first = false;
        }
        stream.Write("\n]}\n"u8);
    }

    /// <summary>Every entry of a document, the broken ones as misses; one miss for a document that is none.</summary>
    public static ImmutableArray<TuningEntry> Read(System.IO.Stream stream, TuningSource source)
    {
        try
        {
            using var document = JsonDocument.Parse(ReadAll(stream));
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("records", out JsonElement records)
                || records.ValueKind != JsonValueKind.Array || !root.TryGetProperty("schema", out JsonElement schema))
                return [TuningEntry.Miss("document", source, TuningMiss.Corrupt, "no schema or no records")];
            if (schema.ValueKind != JsonValueKind.Number || !schema.TryGetInt32(out int version) || version != TuningRecord.CurrentSchema)
                return [TuningEntry.Miss("document", source, TuningMiss.Foreign, $"schema {schema.GetRawText()}")];
            return [.. records.EnumerateArray().Select((json, i) => TuningRecord.Parse($"record {i}", source, json))];
        }
        catch (Exception e) when (e is JsonException || TuningFile.IsOfFileSystem(e))
        {
            return [TuningEntry.Miss("document", source, TuningMiss.Corrupt, e.Message)];
        }
    }

    private static ReadOnlyMemory<byte> ReadAll(System.IO.Stream stream)
    {
        using var content = new MemoryStream();
        var buffer = new byte[1 << 16];
        for (int read; (read = stream.Read(buffer)) > 0;)
        {
            content.Write(buffer, 0, read);
            if (content.Length > MaxBytes)
                throw new IOException($"more than {MaxBytes} bytes");
        }
        return content.GetBuffer().AsMemory(0, (int)content.Length);
    }
}
