using System.Globalization;

namespace Kernels;

/// <summary>
/// ln(sum of exp(x)) over the keys that a row of attention saw: a natural logarithm, and a binary32 by its bits. Other libraries
/// hand over base 2; a value is taken from there, or given there, only by name. No key at all is -infinity.
/// </summary>
public readonly struct LogSumExp : IEquatable<LogSumExp>, IComparable<LogSumExp>, IFormattable
{
    private const double Ln2 = 0.693147180559945309417;

    /// <summary>The value from a natural logarithm.</summary>
    public LogSumExp(float nats) => Nats = nats;

    /// <summary>The natural logarithm.</summary>
    public float Nats { get; }

    /// <summary>The value of no key at all, -infinity, by which nothing is weighed.</summary>
    public static LogSumExp Empty => new(float.NegativeInfinity);

    /// <summary>Whether no key was seen.</summary>
    public bool IsEmpty => float.IsNegativeInfinity(Nats);

    /// <summary>From log2(sum of exp(x)), as FlashInfer gives it by default; rounded once.</summary>
    public static LogSumExp FromBase2(float bits) => new((float)(bits * Ln2));

    /// <summary>log2(sum of exp(x)); rounded once.</summary>
    public float ToBase2() => (float)(Nats / Ln2);

    /// <summary>The value over both sets of keys, ln(e^a + e^b), in float64 and rounded once.</summary>
    public static LogSumExp Merge(LogSumExp a, LogSumExp b)
    {
        double most = Math.Max(a.Nats, b.Nats), least = Math.Min(a.Nats, b.Nats);
        // An infinite difference of equals would be NaN.
        return double.IsInfinity(most) ? new((float)most) : new((float)(most + Math.Log(1 + Math.Exp(least - most))));
    }

    /// <summary>Numeric equality; NaN equals nothing.</summary>
    public static bool operator ==(LogSumExp left, LogSumExp right) => left.Nats == right.Nats;

    /// <summary>Numeric inequality.</summary>
    public static bool operator !=(LogSumExp left, LogSumExp right) => !(left == right);

    /// <inheritdoc/>
    public bool Equals(LogSumExp other) => Nats.Equals(other.Nats);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is LogSumExp other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => Nats.GetHashCode();

    /// <inheritdoc/>
    public int CompareTo(LogSumExp other) => Nats.CompareTo(other.Nats);

    /// <inheritdoc/>
    public override string ToString() => ToString(null, CultureInfo.CurrentCulture);

    /// <inheritdoc/>
    public string ToString(string? format, IFormatProvider? formatProvider) => $"{Nats.ToString(format, formatProvider)} nats";
}
