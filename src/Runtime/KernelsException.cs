using System.Globalization;
using System.Runtime.CompilerServices;

namespace Kernels;

/// <summary>What went wrong, in the seven words of the native ABI.</summary>
public enum Status
{
    /// <summary>Nothing.</summary>
    Ok = 0,
    /// <summary>An argument breaks a rule.</summary>
    Invalid = 1,
    /// <summary>No row, or not the one asked for, takes this problem on this machine.</summary>
    Unsupported = 2,
    /// <summary>Memory or threads ran out.</summary>
    NoMemory = 3,
    /// <summary>The device is absent, lost or faulted.</summary>
    Device = 4,
    /// <summary>The native library and this assembly were built from different versions.</summary>
    AbiMismatch = 5,
    /// <summary>A defect of this library.</summary>
    Internal = 6,
}

/// <summary>What failed of a GPU, where a <see cref="Status"/> is too coarse to act on.</summary>
public enum DeviceFailure
{
    /// <summary>Nothing of a GPU.</summary>
    None = 0,
    /// <summary>The driver refused a call for the reason that its code names. The device is sound.</summary>
    Call = 1,
    /// <summary>The device, or its context, is lost: <see cref="Device.Fault"/> says since what.</summary>
    Lost = 2,
    /// <summary>There is no driver, or it has no device.</summary>
    NoDriver = 3,
    /// <summary>The driver is too old for this library, this image or this launch.</summary>
    OldDriver = 4,
    /// <summary>No image is for the device's architecture.</summary>
    WrongImage = 5,
    /// <summary>A launch of more threads, blocks at once or shared memory than the device has.</summary>
    TooLarge = 6,
}

/// <summary>The one exception of this library: a status, the argument at fault, and the rule that it breaks.</summary>
public sealed class KernelsException : Exception
{
    /// <summary>Creates the exception for <paramref name="argument"/> breaking <paramref name="rule"/>.</summary>
    public KernelsException(Status status, string argument, string rule)
        : base($"{argument}: {rule}")
    {
        Status = status;
        Argument = argument;
        Rule = rule;
    }

    /// <summary>The kind of failure.</summary>
    public Status Status { get; }

    /// <summary>The argument, device or file at fault.</summary>
    public string Argument { get; }

    /// <summary>The rule that it breaks, with the values.</summary>
    public string Rule { get; }

    /// <summary>The GPU driver's own number for the failure, named in the message; 0 where no driver was asked.</summary>
    public int DriverCode { get; init; }

    /// <summary>What failed of a GPU; None for all other failures.</summary>
    public DeviceFailure DeviceFailure { get; init; }

    internal static void Require(bool holds, string argument, string rule)
    {
        if (!holds) throw new KernelsException(Status.Invalid, argument, rule);
    }

    internal static void Require(bool holds, string argument, [InterpolatedStringHandlerArgument(nameof(holds))] ref BrokenRule rule)
    {
        if (!holds) throw new KernelsException(Status.Invalid, argument, rule.ToString());
    }

    /// <summary>"argument: rule", as native sentences are written, or a sentence without an argument.</summary>
    internal static KernelsException FromSentence(Status status, string row, string sentence)
    {
        int colon = sentence.IndexOf(": ", StringComparison.Ordinal);
        return colon > 0
            ? new KernelsException(status, sentence[..colon], $"{sentence[(colon + 2)..]} ({row})")
            : new KernelsException(status, row, sentence);
    }
}

/// <summary>The sentence of a rule, put together only when the rule is broken: a call that is right allocates nothing.</summary>
[InterpolatedStringHandler]
internal ref struct BrokenRule
{
    private DefaultInterpolatedStringHandler _text;

    public BrokenRule(int literalLength, int formattedCount, bool holds, out bool isEnabled)
    {
        isEnabled = !holds;
        _text = holds ? default : new DefaultInterpolatedStringHandler(literalLength, formattedCount, CultureInfo.InvariantCulture);
    }

    public void AppendLiteral(string value) => _text.AppendLiteral(value);

    public void AppendFormatted<T>(T value) => _text.AppendFormatted(value);

    public override string ToString() => _text.ToStringAndClear();
}
