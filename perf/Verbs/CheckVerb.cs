using System.CommandLine;
using System.Globalization;
using Kernels.Interop.Native;

namespace Kernels.Perf;

/// <summary>perf check: every row against the float64 oracle.</summary>
internal static class CheckVerb
{
    private sealed record Candidate(Operation Operation, KernelTable Table, Row Row)
    {
        public bool IsNamed(string name) => Row.Name == name || Row.Name == $"{Operation.Name}/{name}";
    }

    public static Command Create()
    {
        var op = new Argument<string?>("op") { Description = $"Operation: {string.Join(", ", Operation.All.Select(o => o.Name))} (default all)", Arity = ArgumentArity.ZeroOrOne };
        op.AcceptOnlyFromAmong([.. Operation.All.Select(o => o.Name)]);
        var row = new Option<string?>("--row") { Description = "Only this row, with the operation's name before a / or without", HelpName = "ROW" };
        var emulated = new Option<bool>("--emulated") { Description = "Also the rows whose instructions this machine lacks, in software (kn_cpu_emulated)" };
        Option[] own = [.. Operation.All.SelectMany(o => o.CheckOptions).Distinct()];
        return Verb.Make("check", "Holds every row that this machine runs to the float64 oracle, on every case it accepts, or on problems that options name.", [op, row, emulated, Devices.Name, .. own],
            (parsed, screen, cancellation) =>
            {
                IReadOnlyList<Operation> operations = parsed.GetValue(op) is { } name ? [Operation.Find(name)] : Operation.All;
                Option[] given = [.. own.Where(o => parsed.GetResult(o) is { Implicit: false })];
                foreach (Option o in given)
                    if (operations.Any(x => !x.CheckOptions.Contains(o))) throw new UsageException($"{o.Name}: of {string.Join(", ", Operation.All.Where(x => x.CheckOptions.Contains(o)).Select(x => x.Name))} alone");
                return Run(operations, Devices.Find(parsed), parsed.GetValue(row), parsed.GetValue(emulated), given.Length > 0 ? parsed : null, screen, cancellation);
            });
    }

    private static int Run(IReadOnlyList<Operation> operations, Device device, string? only, bool emulated, ParseResult? problems, Screen screen, CancellationToken cancellation)
    {
        KernelTable own = device.Table;
        List<Candidate> rows = [.. operations.SelectMany(o => own.Of(o.Op).Select(r => new Candidate(o, own, r)))];
        if (only is not null && !rows.Any(r => r.IsNamed(only)))
            throw new UsageException($"--row {only}: no such row; there are {string.Join(", ", rows.Select(r => r.Row.Name))}");
        if (emulated)
        {
            KernelTable table = Emulated();
            rows.AddRange(operations.SelectMany(o => table.Of(o.Op).Where(r => (r.Needs & table.Emulated) != 0).Select(r => new Candidate(o, table, r))));
        }
        if (only is not null) rows.RemoveAll(r => !r.IsNamed(only));
        Candidate first = rows[0];
        rows.RemoveAll(r => !r.Table.Runs(r.Row, out _));
        if (rows.Count == 0)
        {
            own.Runs(first.Row, out string? lacks);
            throw new MissingException($"{first.Row.Name}: {lacks}; --emulated checks it in software");
        }
        var results = new List<CheckResult>();
        foreach ((Operation operation, KernelTable table, Row row) in rows)
        {
            if (cancellation.IsCancellationRequested) break;
            Screen.Note($"checking {row.Name}{(table == own ? "" : " (emulated)")}{(row.Target == "managed" ? $", vectors of {DoctorVerb.Vectors} bits" : "")}");
            results.AddRange((problems is null ? operation.Check(table, row) : operation.Check(device, row, problems)).Select(r => table == own ? r : r with { Row = r.Row + " (emulated)" }));
        }
        return Show(results, screen);
    }

    private static int Show(List<CheckResult> results, Screen screen)
    {
        // Operations have figures of their own.
        foreach (var group in results.Where(r => r.Cases > 0 || r.Faults.Count > 0).GroupBy(r => r.Row.Split('/')[0]))
        {
            var table = new Table($"{group.Key} against the float64 oracle", ["row", "operands", ">cases", ">refused", ">worst of tolerance", .. group.First().Figures.Select(f => $">{f.Name}"), "verdict"]);
            foreach (CheckResult r in group)
                table.Add([r.Row, r.Kind, Format.Int(r.Cases), Format.Int(r.Refused), r.WorstFraction.ToString("0.000", CultureInfo.InvariantCulture),
                    .. r.Figures.Select(f => f.Value is >= 0.01 and < 1e5 ? Format.Number(f.Value) : f.Value.ToString("0.0e+0", CultureInfo.InvariantCulture)), r.Faults.Count == 0 ? "ok" : "WRONG"]);
            screen.Show(table);
        }
        foreach (string fault in results.SelectMany(r => r.Faults)) screen.Line(fault);
        int bad = results.Count(r => r.Faults.Count > 0), cases = results.Sum(r => r.Cases);
        screen.Line(bad == 0 ? $"{Format.Int(cases)} cases, all within tolerance." : $"{bad} of {results.Count} combinations are out of tolerance.");
        screen.Json(results.Select(r => new { r.Row, r.Kind, r.Cases, r.Refused, r.WorstFraction, figures = r.Figures.ToDictionary(f => f.Name.Replace(' ', '_'), f => f.Value), r.Faults }));
        return bad == 0 && cases > 0 ? Exit.Ok : Exit.Bad;
    }

    private static KernelTable Emulated()
    {
        string path = Path.Combine(AppContext.BaseDirectory, KernelTable.LibraryName.Replace("kn_cpu", "kn_cpu_emulated", StringComparison.Ordinal));
        if (!File.Exists(path)) throw new MissingException($"{path} is not there: configure with -DKN_EMULATE=ON (the default on x86-64) and build");
        KernelTable table = KernelTable.Load(path);
        return table.Problem is null ? table : throw new MissingException(table.Problem);
    }
}
