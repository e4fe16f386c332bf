using System.Collections.Immutable;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Kernels.Tuning;

/// <summary>Where the operands of a call lie when it begins. Choices are tuned for one or the other, and never mixed.</summary>
public enum CacheState
{
    /// <summary>In memory, as the weights of a model whose layers follow one another: the default.</summary>
    Cold = 0,

    /// <summary>In the caches, as those of a layer that is called again and again and fits there.</summary>
    Warm = 1,
}

/// <summary>How the timed calls were made. Policies are never mixed: the winner of one can lose in another.</summary>
/// <param name="Cache">Where the operands are when a call begins.</param>
/// <param name="Call">How it is called: <c>call</c> on a CPU, <c>graph</c> or <c>eager</c> on a GPU.</param>
internal sealed record TuningPolicy(CacheState Cache, string Call)
{
    /// <summary>The policy of calls on a device; on a GPU those of a captured graph, or eager ones.</summary>
    public static TuningPolicy Of(Device device, CacheState cache, bool eager = false) => new(cache, device.Gpu is null ? "call" : eager ? "eager" : "graph");
}

/// <summary>A device as far as a choice depends on it.</summary>
/// <param name="Architecture">What devices share whose choices are alike: <c>x86_64+avx512+amx</c>, <c>sm_90</c>.</param>
/// <param name="Model">The model's name as the device gives it.</param>
/// <param name="Cores">Cores or multiprocessors.</param>
/// <param name="Threads">Threads that the library may use; 1 on a GPU.</param>
internal sealed record TuningDevice(string Architecture, string Model, int Cores, int Threads);

/// <summary>All that a choice depends on, except m. Two keys are equal when their texts are.</summary>
/// <param name="Operation">Name of the operation.</param>
/// <param name="Problem">Its problem struct without m, by name: shape, types, flags.</param>
/// <param name="Device">Where.</param>
/// <param name="Build">The build of the library whose rows were timed.</param>
/// <param name="Policy">How.</param>
internal sealed record TuningKey(
    string Operation, ImmutableSortedDictionary<string, string> Problem, TuningDevice Device, string Build, TuningPolicy Policy)
{
    /// <summary>The problem, sorted by the code units of its names.</summary>
    public ImmutableSortedDictionary<string, string> Problem { get; init; } = Problem.WithComparers(StringComparer.Ordinal);

    /// <summary>A key with the problem as named values, integers and names alike.</summary>
    public static TuningKey Of(
        string operation, TuningDevice device, string build, TuningPolicy policy, params ReadOnlySpan<(string Name, object Value)> problem)
    {
        var values = ImmutableSortedDictionary.CreateBuilder<string, string>(StringComparer.Ordinal);
        foreach ((string name, object value) in problem)
            values.Add(name, Convert.ToString(value, CultureInfo.InvariantCulture) ?? "");
        return new TuningKey(operation, values.ToImmutable(), device, build, policy);
    }

    // Separators inside a value are escaped, so that different keys have different texts.
    private string ArchitectureText =>
        $"{Escape(Operation)}|{string.Join(',', Problem.Select(v => $"{Escape(v.Key)}={Escape(v.Value)}"))}"
        + $"|cache={(Policy.Cache == CacheState.Cold ? "cold" : "warm")}|call={Escape(Policy.Call)}|architecture={Escape(Device.Architecture)}";

    private string DeviceText => string.Create(
        CultureInfo.InvariantCulture, $"{ArchitectureText}|device={Escape(Device.Model)}|cores={Device.Cores}|threads={Device.Threads}");

    /// <summary>The canonical text.</summary>
    public string Text => $"{DeviceText}|build={Escape(Build)}";

    /// <summary>The text that the key shares with the same problem on the same device under any build.</summary>
    public string TextOf(KeyScope scope) => scope switch
    {
        KeyScope.Architecture => ArchitectureText,
        KeyScope.Device => DeviceText,
        _ => Text,
    };

    /// <summary>A file name without extension: the operation, to be read, and 128 bits of the SHA-256 of the text.</summary>
    public string FileName(KeyScope scope = KeyScope.Build)
    {
        string hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(TextOf(scope))).AsSpan(0, 16));
        string operation = string.Concat(Operation.Take(40).Select(c => char.IsAsciiLetterLower(c) || char.IsAsciiDigit(c) ? c : '_'));
        return $"{operation}-{hash}";
    }

    public bool Equals(TuningKey? other) => other is not null && Text == other.Text;

    public override int GetHashCode() => Text.GetHashCode(StringComparison.Ordinal);

    public override string ToString() => Text;

    private static string Escape(string value)
    {
        var text = new StringBuilder(value.Length);
        foreach (char c in value)
        {
            if (c is '\\' or '|' or ',' or '=' || char.IsControl(c) || char.IsSurrogate(c))
                text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
            else
                text.Append(c);
        }
        return text.ToString();
    }
}

/// <summary>How much of a key must be equal.</summary>
internal enum KeyScope
{
    /// <summary>All but the device's model, cores and threads, and the build.</summary>
    Architecture,

    /// <summary>All but the build.</summary>
    Device,

    /// <summary>All.</summary>
    Build,
}
