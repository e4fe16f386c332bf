using System.CommandLine;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>What every verb has: --json, and for some --db and the name of an operation.</summary>
internal static class Verb
{
    public static Option<string?> JsonOption() => new("--json")
    {
        Description = "Print JSON instead of tables, or write it to FILE beside them",
        HelpName = "FILE",
        Arity = ArgumentArity.ZeroOrOne,
    };

    public static Option<string?> DatabaseOption() => new("--db") { Description = $"Directory of the tuning database (default {TuningStore.DefaultDirectory})", HelpName = "DIR" };

    public static Argument<string> OperationArgument()
    {
        var argument = new Argument<string>("op") { Description = $"Operation: {string.Join(", ", Operation.All.Select(o => o.Name))}", DefaultValueFactory = _ => Operation.All[0].Name };
        argument.AcceptOnlyFromAmong([.. Operation.All.Select(o => o.Name)]);
        return argument;
    }

    /// <summary>A command with --json, whose errors become sentences.</summary>
    public static Command Make(string name, string description, IEnumerable<Symbol> symbols, Func<ParseResult, Screen, CancellationToken, int> run)
    {
        var command = new Command(name, description);
        Option<string?> json = JsonOption();
        foreach (Symbol symbol in symbols.Append(json))
        {
            if (symbol is Option option) command.Add(option);
            else command.Add((Argument)symbol);
        }
        command.SetAction((parsed, cancellation) => Task.Run(() => Program.Guard(() =>
            run(parsed, new Screen(parsed.GetResult(json) is not null, parsed.GetValue(json)), cancellation)), CancellationToken.None));
        return command;
    }

    public static TuningStore Store(string? directory) => TuningStore.In(directory);
}
