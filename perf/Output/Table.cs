namespace Kernels.Perf;

/// <summary>What a verb shows: a title, columns (a leading '&gt;' sets one to the right) and cells.</summary>
internal sealed class Table(string title, params string[] columns)
{
    private readonly List<string[]> _rows = [];

    public string Title { get; } = title;

    public IReadOnlyList<string> Columns { get; } = [.. columns.Select(c => c.TrimStart('>'))];

    public IReadOnlyList<bool> Right { get; } = [.. columns.Select(c => c.StartsWith('>'))];

    public IReadOnlyList<string[]> Rows => _rows;

    public void Add(params string?[] cells) => _rows.Add([.. Enumerable.Range(0, Columns.Count).Select(i => i < cells.Length ? cells[i] ?? "" : "")]);

    /// <summary>Aligned text; the last column is not padded, and no line ends in blanks.</summary>
    public void Write(TextWriter to)
    {
        int[] widths = [.. Columns.Select((c, i) => _rows.Select(r => r[i].Length).Append(c.Length).Max())];
        if (Title.Length > 0) to.WriteLine(Title);
        Line([.. Columns]);
        foreach (string[] row in _rows) Line(row);

        void Line(string[] cells) => to.WriteLine(string.Join("  ", cells
            .Select((c, i) => Right[i] ? c.PadLeft(widths[i]) : c.PadRight(widths[i]))).TrimEnd());
    }
}
