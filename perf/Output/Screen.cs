using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Spectre.Console;

namespace Kernels.Perf;

/// <summary>Where results go: tables on a terminal, aligned text in a pipe, JSON in place of both or in a file beside them.</summary>
internal sealed class Screen
{
    private static readonly JsonSerializerOptions s_json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower) },
    };

    private readonly bool _wantsJson;
    private readonly string? _jsonFile;

    /// <param name="wantsJson">Whether JSON was asked for.</param>
    /// <param name="jsonFile">The file for it; null or "-" is standard output, and then there are no tables.</param>
    public Screen(bool wantsJson, string? jsonFile)
    {
        _wantsJson = wantsJson;
        _jsonFile = jsonFile is null or "" or "-" ? null : jsonFile;
        if (_jsonFile is not null) Writable(_jsonFile);
    }

    /// <summary>Whether a person looks at standard output.</summary>
    public static bool IsTerminal => !Console.IsOutputRedirected;

    /// <summary>Standard output belongs to JSON alone.</summary>
    public bool OnlyJson => _wantsJson && _jsonFile is null;

    public void Line(string text = "")
    {
        if (!OnlyJson) Console.WriteLine(text);
    }

    /// <summary>What is being done, for a person who waits: never mixed with results.</summary>
    public static void Note(string text) => Console.Error.WriteLine(text);

    /// <summary>Says so when other processes are at work: what is timed then is them too.</summary>
    public static void WarnOfLoad()
    {
        if (Kernels.Tuning.TuningNotes.Load() is var load && load > 0.25 * Environment.ProcessorCount)
            Note(FormattableString.Invariant($"Others are using this machine (load {load:0.0} on {Environment.ProcessorCount} cores): do not trust these timings."));
    }

    public void Show(Table table)
    {
        if (OnlyJson) return;
        if (!IsTerminal)
        {
            table.Write(Console.Out);
            Console.WriteLine();
            return;
        }
        var drawn = new Spectre.Console.Table().Border(TableBorder.Rounded);
        if (table.Title.Length > 0) drawn.Title(Markup.Escape(table.Title));
        for (int i = 0; i < table.Columns.Count; i++)
        {
            var column = new TableColumn(Markup.Escape(table.Columns[i]));
            if (table.Right[i]) column.RightAligned();
            if (table.Right[i] || i == 0) column.NoWrap();
            drawn.AddColumn(column);
        }
        foreach (string[] row in table.Rows) drawn.AddRow([.. row.Select(Markup.Escape)]);
        AnsiConsole.Write(drawn);
    }

    /// <summary>Writes the machine-readable form where it was asked for.</summary>
    public void Json(object value)
    {
        if (!_wantsJson) return;
        string text = JsonSerializer.Serialize(value, s_json);
        if (_jsonFile is null) Console.WriteLine(text);
        else File.WriteAllText(_jsonFile, text + "\n");
    }

    /// <summary>Refuses a path before minutes of measuring, not after.</summary>
    public static void Writable(string file)
    {
        try
        {
            using var probe = new FileStream(file, FileMode.OpenOrCreate, FileAccess.Write);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException)
        {
            throw new UsageException($"{file} cannot be written: {e.Message}");
        }
    }
}
