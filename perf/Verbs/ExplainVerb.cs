using System.CommandLine;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>perf explain: what runs, why, and why the others do not.</summary>
internal static class ExplainVerb
{
    internal static Option<int[]> M { get; } = Arguments.M(0, "1");

    internal static Option<int[]> Threads { get; } = Arguments.Threads();

    internal static Option<CacheState> Cache { get; } = Arguments.Cache();

    public static Command Create()
    {
        Argument<string> op = Verb.OperationArgument();
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("explain", "Shows for one m what every row says to a problem, or for many m the intervals and their choices.",
            [op, M, Threads, Cache, db, .. Operation.All.SelectMany(o => o.ShapeOptions)], (parsed, screen, _) =>
            {
                Operation.Find(parsed.GetRequiredValue(op)).Explain(parsed, screen, Verb.Store(parsed.GetValue(db)));
                return Exit.Ok;
            });
    }
}
