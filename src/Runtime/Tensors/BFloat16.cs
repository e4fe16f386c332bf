using System.Globalization;
using System.Runtime.CompilerServices;

namespace Kernels;

/// <summary>
/// A 16-bit brain float: the upper half of a binary32. Bit-compatible with System.Numerics.BFloat16 of .NET 11.
/// Conversion from float rounds to nearest even, keeps subnormals, and keeps NaN a (quiet) NaN.
/// </summary>
public readonly struct BFloat16 : IEquatable<BFloat16>, IComparable<BFloat16>, IFormattable
{
    private readonly ushort _bits;

    private BFloat16(ushort bits) => _bits = bits;

    /// <summary>The value with these bits.</summary>
    public static BFloat16 FromBits(ushort bits) => new(bits);

    /// <summary>The bits of this value.</summary>
    public ushort Bits => _bits;

    /// <summary>True for any NaN.</summary>
    public static bool IsNaN(BFloat16 value) => (value._bits & 0x7fff) > 0x7f80;

    /// <summary>Rounds to nearest, ties to even. Overflow goes to infinity.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static explicit operator BFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        // Adding the rounding bias to a NaN could carry into infinity, so a NaN is truncated with its quiet bit set.
        return float.IsNaN(value)
            ? new BFloat16((ushort)((bits >> 16) | 0x40))
            : new BFloat16((ushort)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16));
    }

    /// <summary>
    /// Rounds once, to nearest even: the double goes to float with odd rounding first, which a second rounding cannot spoil.
    /// </summary>
    public static explicit operator BFloat16(double value)
    {
        float nearest = (float)value;
        if (double.IsNaN(value) || float.IsInfinity(nearest) || nearest == value) return (BFloat16)nearest;
        uint bits = BitConverter.SingleToUInt32Bits(nearest);
        bool overshot = Math.Abs((double)nearest) > Math.Abs(value);
        return (BFloat16)BitConverter.UInt32BitsToSingle((overshot ? bits - 1 : bits) | 1);
    }

    /// <summary>Exact.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static implicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value._bits << 16);

    /// <summary>Numeric equality: -0 equals 0, NaN equals nothing.</summary>
    public static bool operator ==(BFloat16 left, BFloat16 right) => (float)left == right;

    /// <summary>Numeric inequality.</summary>
    public static bool operator !=(BFloat16 left, BFloat16 right) => !(left == right);

    /// <summary>Numeric order.</summary>
    public static bool operator <(BFloat16 left, BFloat16 right) => (float)left < right;

    /// <summary>Numeric order.</summary>
    public static bool operator >(BFloat16 left, BFloat16 right) => (float)left > right;

    /// <summary>Numeric order.</summary>
    public static bool operator <=(BFloat16 left, BFloat16 right) => (float)left <= right;

    /// <summary>Numeric order.</summary>
    public static bool operator >=(BFloat16 left, BFloat16 right) => (float)left >= right;

    /// <inheritdoc/>
    public bool Equals(BFloat16 other) => ((float)this).Equals(other);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => ((float)this).GetHashCode();

    /// <inheritdoc/>
    public int CompareTo(BFloat16 other) => ((float)this).CompareTo(other);

    /// <inheritdoc/>
    public override string ToString() => ToString(null, CultureInfo.CurrentCulture);

    /// <inheritdoc/>
    public string ToString(string? format, IFormatProvider? formatProvider) => ((float)this).ToString(format, formatProvider);
}
