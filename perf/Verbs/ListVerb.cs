using System.CommandLine;

namespace Kernels.Perf;

/// <summary>perf list: the rows of the table.</summary>
internal static class ListVerb
{
    public static Command Create() => Verb.Make("list", "Lists the rows, best first within an operation.", [], (_, screen, _) =>
    {
        KernelTable table = Device.Cpu.Table;
        var rows = table.Rows.Select(r => new
        {
            row = r.Name,
            op = r.Op,
            needs = r.Needs.ToString(),
            available = table.Runs(r, out string? lacks),
            lacks,
            bits = r.Bits,
            layouts = Operation.All.FirstOrDefault(o => o.Op == r.Op)?.LayoutsOf(r) ?? [],
            parameters = r.Parameters.Select(p => new { p.Name, p.Values }),
        }).ToList();
        var shown = new Table("rows", "row", "needs", "available", "layout", "bits", "parameters (default first)");
        foreach (var r in rows)
            shown.Add(r.row, r.needs == "None" ? "-" : r.needs, r.available ? "yes" : r.lacks, r.layouts.Count == 0 ? "rows" : string.Join(" ", r.layouts), r.bits ?? "-",
                string.Join(" ", r.parameters.Select(p => $"{p.Name}={string.Join(',', p.Values)}")));
        screen.Show(shown);
        if (Device.Cpu.NativeProblem is { } problem) screen.Line($"Only managed rows: {problem}");
        screen.Json(rows);
        return Exit.Ok;
    });
}
