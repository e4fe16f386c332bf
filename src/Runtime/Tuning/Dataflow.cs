using System.Collections.Immutable;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Kernels.Tuning;

/// <summary>What is chosen for one problem on one device: a row of the table and its launch parameters.</summary>
/// <remarks>
/// Two dataflows are equal when row, threads and every parameter are equal. The text form, which is also the JSON form, is
/// <c>row[4,512]@56</c>: the parameters in the order in which the row declares them, then the threads unless they are 0.
/// </remarks>
[JsonConverter(typeof(DataflowConverter))]
public sealed record Dataflow
{
    /// <summary>Makes a dataflow.</summary>
    /// <param name="row">Name of the row, <c>operation/target[_variant]</c>: ASCII letters, digits and <c>_ / . -</c>.</param>
    /// <param name="threads">Threads of the launch; 0 leaves the number to the row.</param>
    /// <param name="parameters">The row's parameters in its own order; their names belong to the row.</param>
    /// <exception cref="ArgumentException"><paramref name="row"/> is empty or holds another character.</exception>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="threads"/> is negative.</exception>
    public Dataflow(string row, int threads, ImmutableArray<int> parameters)
    {
        if (!IsRowName(row))
            throw new ArgumentException($"'{row}' is no name of a row", nameof(row));
        ArgumentOutOfRangeException.ThrowIfNegative(threads);
        Row = row;
        Threads = threads;
        Parameters = parameters.IsDefault ? [] : parameters;
    }

    /// <summary>Name of the row.</summary>
    public string Row { get; }

    /// <summary>Threads of the launch; 0 leaves the number to the row.</summary>
    public int Threads { get; }

    /// <summary>The row's parameters in its own order.</summary>
    public ImmutableArray<int> Parameters { get; }

    /// <summary>The same row and parameters with another number of threads.</summary>
    /// <param name="threads">Threads of the launch; 0 leaves the number to the row.</param>
    /// <returns>The changed copy.</returns>
    public Dataflow WithThreads(int threads) => new(Row, threads, Parameters);

    /// <summary>Compares row, threads and parameters by value.</summary>
    /// <param name="other">The dataflow to compare with.</param>
    /// <returns>Whether all are equal.</returns>
    public bool Equals(Dataflow? other) =>
        other is not null && Row == other.Row && Threads == other.Threads && Parameters.AsSpan().SequenceEqual(other.Parameters.AsSpan());

    /// <summary>Hashes row, threads and parameters.</summary>
    /// <returns>The hash.</returns>
    public override int GetHashCode()
    {
        var hash = new HashCode();
        hash.Add(Row);
        hash.Add(Threads);
        foreach (int parameter in Parameters)
            hash.Add(parameter);
        return hash.ToHashCode();
    }

    /// <summary>The text form, which <see cref="TryParse"/> reads back.</summary>
    /// <returns>For example <c>flat_gemm/avx512_flat[4,512]@56</c>.</returns>
    public override string ToString() => ToString([]);

    /// <summary>The text form with the names of the parameters, to be shown.</summary>
    /// <param name="names">The row's parameter names; a parameter beyond them is shown without one.</param>
    /// <returns>For example <c>flat_gemm/avx512_flat[panels=4,block_k=512]@56</c>.</returns>
    public string ToString(ReadOnlySpan<string> names)
    {
        var parts = new string[Parameters.Length];
        for (int i = 0; i < parts.Length; i++)
            parts[i] = (i < names.Length ? names[i] + "=" : "") + Parameters[i].ToString(CultureInfo.InvariantCulture);
        string threads = Threads == 0 ? "" : "@" + Threads.ToString(CultureInfo.InvariantCulture);
        return $"{Row}[{string.Join(',', parts)}]{threads}";
    }

    /// <summary>Reads the text form without names.</summary>
    /// <param name="text">The text; <c>row</c> alone stands for <c>row[]</c>.</param>
    /// <param name="dataflow">The dataflow, or null.</param>
    /// <returns>Whether <paramref name="text"/> has the form.</returns>
    public static bool TryParse(string? text, [NotNullWhen(true)] out Dataflow? dataflow)
    {
        dataflow = null;
        if (text is null)
            return false;
        int threads = 0;
        int at = text.LastIndexOf('@');
        if (at >= 0 && !TryParseInt(text.AsSpan(at + 1), NumberStyles.None, out threads))
            return false;
        ReadOnlySpan<char> rest = at >= 0 ? text.AsSpan(0, at) : text;
        int open = rest.IndexOf('[');
        ReadOnlySpan<char> row = open >= 0 ? rest[..open] : rest;
        var parameters = ImmutableArray.CreateBuilder<int>();
        if (!IsRowName(row) || (open >= 0 && (rest[^1] != ']' || !TryParseList(rest[(open + 1)..^1], parameters))))
            return false;
        dataflow = new Dataflow(row.ToString(), threads, parameters.ToImmutable());
        return true;
    }

    private static bool TryParseList(ReadOnlySpan<char> list, ImmutableArray<int>.Builder parameters)
    {
        if (list.IsEmpty)
            return true;
        foreach (Range part in list.Split(','))
        {
            if (!TryParseInt(list[part], NumberStyles.AllowLeadingSign, out int parameter))
                return false;
            parameters.Add(parameter);
        }
        return true;
    }

    private static bool TryParseInt(ReadOnlySpan<char> text, NumberStyles style, out int value) =>
        int.TryParse(text, style, CultureInfo.InvariantCulture, out value);

    private static bool IsRowName(ReadOnlySpan<char> name)
    {
        foreach (char c in name)
        {
            if (!char.IsAsciiLetterOrDigit(c) && c is not ('_' or '/' or '.' or '-'))
                return false;
        }
        return !name.IsEmpty;
    }
}

internal sealed class DataflowConverter : JsonConverter<Dataflow>
{
    public override Dataflow Read(ref Utf8JsonReader reader, Type type, JsonSerializerOptions options) =>
        reader.TokenType == JsonTokenType.String && Dataflow.TryParse(reader.GetString(), out Dataflow? dataflow)
            ? dataflow
            : throw new JsonException("a dataflow is a string such as row[4,512]@56");

    public override void Write(Utf8JsonWriter writer, Dataflow value, JsonSerializerOptions options) =>
        writer.WriteStringValue(value.ToString());
}
