using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>Options that several verbs share, and how their text is read.</summary>
internal static class Arguments
{
    public const int LargestM = 1 << 20;

    /// <summary>--m 1,2,8..16: single values and ranges, both ends included.</summary>
    public static Option<int[]?> Points(string name, string description, int least, string example) => new(name)
    {
        Description = $"{description}: a list of values and ranges, such as {example}",
        HelpName = "LIST",
        CustomParser = result => Each(result, text => IntList(text, least), example),
    };

    /// <summary>The shapes of a model, for every operation that knows models.</summary>
    public static Option<string?> Model { get; } =
        new("--model") { Description = $"Shapes of a model: {string.Join(", ", Perf.Model.Names)}, or a .json file", HelpName = "NAME" };

    /// <summary>--threads 1,all: 0 stands for all.</summary>
    public static Option<int[]> Threads(string byDefault = "all") => new("--threads")
    {
        Description = $"Thread bounds to measure under, such as 1,all (default {byDefault})",
        HelpName = "LIST",
        CustomParser = result => Each(result, text => text == "all" ? [0] : IntList(text, 1), byDefault),
        DefaultValueFactory = _ => byDefault == "all" ? [0] : [1, 0],
    };

    public static Option<CacheState> Cache() => new("--cache")
    {
        Description = "cold: weights come from memory, as in a model; warm: from the caches (default cold)",
        HelpName = "cold|warm",
        CustomParser = result => result.Tokens[0].Value.ToLowerInvariant() switch
        {
            "cold" => CacheState.Cold,
            "warm" => CacheState.Warm,
            var other => Fail<CacheState>(result, $"--cache: cold or warm, not {other}"),
        },
        DefaultValueFactory = _ => CacheState.Cold,
    };

    public static Option<DType?> Output { get; } = Dtype("--output", "Type of the result (default: f32 for f32 operands, else bf16)");

    public static Option<bool> BatchInvariant { get; } = new("--batch-invariant") { Description = "The same bits for a row of work whatever else is in the batch" };

    public static Option<string?> Row { get; } = new("--row") { Description = "Force this row", HelpName = "ROW" };

    public static Option<int?> Extent(string name, string description)
    {
        var option = new Option<int?>(name) { Description = description };
        option.Validators.Add(result =>
        {
            if (Arguments.Given(result) is { } given && given is not (>= 1 and <= 1 << 30)) result.AddError($"{name}: a whole number from 1 to 2^30, not {result.Tokens[0].Value}");
        });
        return option;
    }

    public static Option<DType?> Dtype(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "TYPE",
        CustomParser = result => DtypeList(result) is { Length: 1 } one ? one[0] : null,
    };

    public static DType[] DtypeList(ArgumentResult result)
    {
        var types = new List<DType>();
        foreach (string name in result.Tokens.SelectMany(t => t.Value.Split(',')))
        {
            if (DTypes.TryParse(name, out DType type)) types.Add(type);
            else result.AddError($"{name}: f32, bf16, f16, int8, int4 or e4m3");
        }
        return [.. types.Distinct()];
    }

    public static Option<double> Seconds(string name, double byDefault, string description)
    {
        var option = new Option<double>(name) { Description = $"{description} (default {byDefault.ToString(CultureInfo.InvariantCulture)})", HelpName = "S", DefaultValueFactory = _ => byDefault };
        option.Validators.Add(result =>
        {
            if (Given(result) is { } given && given is not (> 0 and < 1e7)) result.AddError($"{name}: a number of seconds above 0, not {result.Tokens[0].Value}");
        });
        return option;
    }

    /// <summary>The number that an option was given, NaN for what is none; null where it was not given.</summary>
    public static double? Given(OptionResult result) => result.Tokens.Count == 0 ? null
        : double.TryParse(result.Tokens[0].Value, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) ? value : double.NaN;

    private static int[] Each(ArgumentResult result, Func<string, int[]> read, string byDefault)
    {
        var values = new List<int>();
        try
        {
            foreach (Token token in result.Tokens)
                foreach (string part in token.Value.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
                    values.AddRange(read(part));
        }
        catch (UsageException e)
        {
            return Fail<int[]>(result, $"{((OptionResult)result.Parent!).Option.Name}: {e.Message}");
        }
        return values.Count > 0 ? [.. values.Distinct()] : Fail<int[]>(result, $"a list such as {byDefault}");
    }

    private static T Fail<T>(ArgumentResult result, string sentence)
    {
        result.AddError(sentence);
        return default!;
    }

    internal static int[] IntList(string text, int least)
    {
        var values = new List<int>();
        foreach (string part in text.Split(','))
        {
            int dots = part.IndexOf("..", StringComparison.Ordinal);
            int from = Int(dots < 0 ? part : part[..dots]), to = dots < 0 ? from : Int(part[(dots + 2)..]);
            if (from < least || to < from || to > LargestM)
                throw new UsageException($"{part}: values from {least} to {LargestM}, ranges from the smaller to the larger");
            if (to - from >= 1 << 16) throw new UsageException($"{part}: at most 65536 values");
            values.AddRange(Enumerable.Range(from, to - from + 1));
        }
        return [.. values];

        static int Int(string text) => int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value)
            ? value : throw new UsageException($"{text}: a whole number or a range such as 1..64");
    }
}
