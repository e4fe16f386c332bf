using System.CommandLine;
using System.Globalization;
using Kernels.Interop.Native;

namespace Kernels.Perf;

/// <summary>perf check: every row against the float64 oracle.</summary>
internal static class CheckVerb
{
    public static Command Create()
    {
        Argument<string> op = Verb.OperationArgument();
        var row = new Option<string?>("--row") { Description = "Only this row", HelpName = "ROW" };
        var emulated = new Option<bool>("--emulated") { Description = "Also the rows whose instructions this machine lacks, in software (kn_cpu_emulated)" };
        return Verb.Make("check", "Holds every row that this machine runs to the float64 oracle, on every case it accepts.", [op, row, emulated, Devices.Name],
            (parsed, screen, cancellation) => Run(Operation.Find(parsed.GetRequiredValue(op)), Devices.Find(parsed), parsed.GetValue(row), parsed.GetValue(emulated), screen, cancellation));
    }

    private static int Run(Operation operation, Device device, string? only, bool emulated, Screen screen, CancellationToken cancellation)
    {
        KernelTable own = device.Table;
        List<(KernelTable Table, Row Row)> rows = [.. Rows(operation, own, r => true)];
        if (emulated)
        {
            KernelTable table = Emulated();
            rows.AddRange(Rows(operation, table, r => (r.Needs & table.Emulated) != 0));
        }
        IEnumerable<string> names = own.Of(operation.Op).Select(r => r.Name);
        if (only is not null)
        {
            string full = only.Contains('/', StringComparison.Ordinal) ? only : $"{operation.Name}/{only}";
            Row named = own.Of(operation.Op).FirstOrDefault(r => r.Name == full)
                ?? throw new UsageException($"--row {only}: no such row; there are {string.Join(", ", names)}");
            rows.RemoveAll(r => r.Row.Name != full);
            if (rows.Count == 0)
            {
                own.Runs(named, out string? lacks);
                throw new MissingException($"{full}: {lacks}; --emulated checks it in software");
            }
        }
        var results = new List<CheckResult>();
        foreach ((KernelTable table, Row row) in rows)
        {
            if (cancellation.IsCancellationRequested) break;
            Screen.Note($"checking {row.Name}{(table == own ? "" : " (emulated)")}");
            results.AddRange(operation.Check(table, row).Select(r => table == own ? r : r with { Row = r.Row + " (emulated)" }));
        }
        return Show(results, screen);
    }

    private static int Show(List<CheckResult> results, Screen screen)
    {
        var table = new Table("against the float64 oracle", ["row", "operands", ">cases", ">refused", ">worst of tolerance", .. results.FirstOrDefault()?.Figures.Select(f => $">{f.Name}") ?? [], "verdict"]);
        foreach (CheckResult r in results.Where(r => r.Cases > 0 || r.Faults.Count > 0))
            table.Add([r.Row, r.Kind, Format.Int(r.Cases), Format.Int(r.Refused), r.WorstFraction.ToString("0.000", CultureInfo.InvariantCulture),
                .. r.Figures.Select(f => f.Value is >= 0.01 and < 1e5 ? Format.Number(f.Value) : f.Value.ToString("0.0e+0", CultureInfo.InvariantCulture)), r.Faults.Count == 0 ? "ok" : "WRONG"]);
        screen.Show(table);
        foreach (string fault in results.SelectMany(r => r.Faults)) screen.Line(fault);
        int bad = results.Count(r => r.Faults.Count > 0), cases = results.Sum(r => r.Cases);
        screen.Line(bad == 0 ? $"{Format.Int(cases)} cases, all within tolerance." : $"{bad} of {results.Count} combinations are out of tolerance.");
        screen.Json(results.Select(r => new { r.Row, r.Kind, r.Cases, r.Refused, r.WorstFraction, figures = r.Figures.ToDictionary(f => f.Name.Replace(' ', '_'), f => f.Value), r.Faults }));
        return bad == 0 && cases > 0 ? Exit.Ok : Exit.Bad;
    }

    private static IEnumerable<(KernelTable, Row)> Rows(Operation operation, KernelTable table, Func<Row, bool> wanted) =>
        table.Of(operation.Op).Where(r => table.Runs(r, out _) && wanted(r)).Select(r => (table, r));

    private static KernelTable Emulated()
    {
        string path = Path.Combine(AppContext.BaseDirectory, KernelTable.LibraryName.Replace("kn_cpu", "kn_cpu_emulated", StringComparison.Ordinal));
        if (!File.Exists(path)) throw new MissingException($"{path} is not there: configure with -DKN_EMULATE=ON (the default on x86-64) and build");
        KernelTable table = KernelTable.Load(path);
        return table.Problem is null ? table : throw new MissingException(table.Problem);
    }
}
