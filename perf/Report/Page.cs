using System.Text;

namespace Kernels.Perf;

/// <summary>One self-contained page: no script, nothing from outside.</summary>
internal sealed class Page(string title, string subtitle)
{
    private const string Style = """
        :root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --paper: #ffffff; --card: #f5f6f8; --grid: #dfe3e8;
          --c0: #0b62c4; --c1: #c2410c; --c2: #15803d; --c3: #9333ea; --c4: #a16207; --c5: #0e7490; --c6: #be185d; --c7: #52525b; }
        @media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --dim: #9aa4af; --paper: #14171a; --card: #1d2125; --grid: #343a41;
          --c0: #6cb2ff; --c1: #ff9a5c; --c2: #6fd08c; --c3: #cf9bff; --c4: #e8c250; --c5: #5fd0e3; --c6: #ff8fbf; --c7: #b3b8bf; } }
        body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1400px; margin: 2rem auto; padding: 0 1rem; }
        h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 0 0 .25rem; }
        p { margin: .25rem 0; } .dim, .none { color: var(--dim); }
        .grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 1rem; }
        .card { background: var(--card); border-radius: 8px; padding: 1rem; min-width: 0; }
        svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
        .mid { text-anchor: middle; } .end { text-anchor: end; } svg text.label { fill: var(--ink); }
        .grid { stroke: var(--grid); stroke-width: 1; } .mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3; }
        .unsure { fill: var(--ink); opacity: .08; }
        .line { fill: none; stroke: var(--c); stroke-width: 1.8; } .band { fill: var(--c); opacity: .18; stroke: none; } .dot { fill: var(--c); }
        .line.roof { stroke: var(--dim); stroke-width: 1.5; } .legend i.roof { background: var(--dim); }
        .c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
        .c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
        .legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: 13px; } .legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; background: var(--c); margin-right: .4em; }
        .wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
        th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid var(--grid); white-space: nowrap; } th { color: var(--dim); font-weight: 600; } .r { text-align: right; }
        """;

    private readonly StringBuilder _body = new();

    public void Heading(string text, string note = "")
    {
        _body.Append($"<h2>{Chart.Text(text)}</h2>");
        if (note.Length > 0) _body.Append($"<p class=\"dim\">{Chart.Text(note)}</p>");
    }

    /// <summary>Cards of drawn charts, side by side where there is room.</summary>
    public void Cards(IEnumerable<(string Title, string Note, string Svg)> cards)
    {
        _body.Append("<div class=\"grid2\">");
        foreach ((string cardTitle, string note, string svg) in cards)
            _body.Append($"<section class=\"card\"><h3>{Chart.Text(cardTitle)}</h3><p class=\"dim\">{Chart.Text(note)}</p>{svg}</section>");
        _body.Append("</div>");
    }

    public void Add(Table table)
    {
        _body.Append("<div class=\"wide\"><table><thead><tr>");
        for (int i = 0; i < table.Columns.Count; i++) _body.Append($"<th{(table.Right[i] ? " class=\"r\"" : "")}>{Chart.Text(table.Columns[i])}</th>");
        _body.Append("</tr></thead><tbody>");
        foreach (string[] row in table.Rows)
        {
            _body.Append("<tr>");
            for (int i = 0; i < row.Length; i++) _body.Append($"<td{(table.Right[i] ? " class=\"r\"" : "")}>{Chart.Text(row[i])}</td>");
            _body.Append("</tr>");
        }
        _body.Append("</tbody></table></div>");
    }

    public override string ToString() => $"""
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{Chart.Text(title)}</title>
        <style>{Style}</style></head>
        <body><h1>{Chart.Text(title)}</h1><p class="dim">{Chart.Text(subtitle)}</p>
        {_body}
        </body></html>

        """;
}
