using System.CommandLine;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>perf explain: what runs, why, and why the others do not.</summary>
internal static class ExplainVerb
{
    internal static Option<int[]> Threads { get; } = Arguments.Threads();

    internal static Option<CacheState> Cache { get; } = Arguments.Cache();

    public static Command Create()
    {
        Argument<string> op = Verb.OperationArgument();
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("explain", "Shows for one m (kv_len) what every row says to a problem, or for many the intervals and their choices.",
            [op, Threads, Cache, Devices.Name, db, .. Operation.AllOptions], (parsed, screen, _) =>
            {
                Operation.Asked(parsed, op).Explain(parsed, screen, Verb.Store(parsed.GetValue(db)));
                return Exit.Ok;
            });
    }
}
