using System.CommandLine;

namespace Kernels.Perf;

/// <summary>perf list: the rows of the table.</summary>
internal static class ListVerb
{
    public static Command Create() => Verb.Make("list", "Lists the rows, best first within an operation.", [], (_, screen, _) =>
    {
        // The CPU's rows, then those of each GPU, the simulated one included.
        var rows = Devices.All().SelectMany(d => d.Table.Rows.Select(r => (Device: d, d.Table, r))).Select(at => new
        {
            device = Devices.NameOf(at.Device),
            row = at.r.Name,
            op = at.r.Op,
            needs = at.r.Needs.ToString(),
            available = at.Table.Runs(at.r, out string? lacks),
            lacks,
            bits = at.r.Bits,
            layouts = Operation.All.FirstOrDefault(o => o.Op == at.r.Op)?.LayoutsOf(at.r) ?? [],
            parameters = at.r.Parameters.Select(p => new { p.Name, p.Values }),
        }).ToList();
        var shown = new Table("rows", "device", "row", "needs", "available", "layout", "bits", "parameters (default first)");
        foreach (var r in rows)
            shown.Add(r.device, r.row, r.needs == "None" ? "-" : r.needs, r.available ? "yes" : r.lacks, r.layouts.Count == 0 ? "rows" : string.Join(" ", r.layouts), r.bits ?? "-",
                string.Join(" ", r.parameters.Select(p => $"{p.Name}={string.Join(',', p.Values)}")));
        screen.Show(shown);
        if (Device.Cpu.NativeProblem is { } problem) screen.Line($"Only managed rows: {problem}");
        screen.Json(rows);
        return Exit.Ok;
    });
}
