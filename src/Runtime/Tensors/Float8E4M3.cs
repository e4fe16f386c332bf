using System.Globalization;
using System.Runtime.CompilerServices;

namespace Kernels;

/// <summary>
/// An 8-bit float of OCP FP8 (E4M3, "FN"): 4 bits of exponent with bias 7, 3 of fraction, subnormals down to 2^-9, largest 448,
/// no infinities, and NaN where all seven bits are set. Conversions round to nearest even and keep NaN.
/// </summary>
public readonly struct Float8E4M3 : IEquatable<Float8E4M3>, IComparable<Float8E4M3>, IFormattable
{
    // 2^-6, the smallest normal; 2^14, whose last bit in binary32 is the subnormals' step 2^-9; the carry into bits that are kept.
    internal const float Smallest = 0.015625f, Magic = 16384f;
    internal const uint Carry = (1u << 19) - 1, Rebias = 120u << 3;

    private readonly byte _bits;

    private Float8E4M3(byte bits) => _bits = bits;

    /// <summary>448.</summary>
    public static Float8E4M3 MaxValue => new(0x7e);

    /// <summary>The value with these bits.</summary>
    public static Float8E4M3 FromBits(byte bits) => new(bits);

    /// <summary>The bits of this value.</summary>
    public byte Bits => _bits;

    /// <summary>True for either NaN.</summary>
    public static bool IsNaN(Float8E4M3 value) => (value._bits & 0x7f) == 0x7f;

    /// <summary>Rounds to nearest, ties to even. What would be above 448, infinity included, becomes NaN.</summary>
    public static explicit operator Float8E4M3(float value)
    {
        float magnitude = MathF.Abs(value);
        // 464 lies between 448 and the 480 that is not there; the tie goes to 448, which is even.
        return new Float8E4M3((byte)(Sign(value) | (magnitude <= 464 ? Round(Math.Min(magnitude, 448)) : 0x7fu)));
    }

    /// <summary>Rounds to nearest, ties to even. What would be above 448, infinity included, becomes 448 of its sign.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Float8E4M3 Saturate(float value)
    {
        float magnitude = MathF.Abs(value);
        return new Float8E4M3((byte)(Sign(value) | (float.IsNaN(value) ? 0x7fu : Round(Math.Min(magnitude, 448)))));
    }

    private static uint Sign(float value) => BitConverter.SingleToUInt32Bits(value) >> 24 & 0x80;

    private static uint Round(float magnitude)
    {
        // A sum with 2^14 rounds to multiples of 2^-9; and above, the bits are those of binary32 with another bias.
        if (magnitude < Smallest) return BitConverter.SingleToUInt32Bits(magnitude + Magic) - BitConverter.SingleToUInt32Bits(Magic);
        uint bits = BitConverter.SingleToUInt32Bits(magnitude);
        return ((bits + Carry + (bits >> 20 & 1)) >> 20) - Rebias;
    }

    /// <summary>Exact.</summary>
    public static implicit operator float(Float8E4M3 value)
    {
        uint magnitude = value._bits & 0x7fu, sign = (value._bits & 0x80u) << 24;
        // The fields move to where binary32 has them; 2^120 puts the bias right and makes subnormals normal.
        float widened = magnitude == 0x7f ? float.NaN : BitConverter.UInt32BitsToSingle(magnitude << 20) * 1.329227995784916e36f;
        return BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(widened) | sign);
    }

    /// <summary>Numeric equality: -0 equals 0, NaN equals nothing.</summary>
    public static bool operator ==(Float8E4M3 left, Float8E4M3 right) => (float)left == right;

    /// <summary>Numeric inequality.</summary>
    public static bool operator !=(Float8E4M3 left, Float8E4M3 right) => !(left == right);

    /// <summary>Numeric order.</summary>
    public static bool operator <(Float8E4M3 left, Float8E4M3 right) => (float)left < right;

    /// <summary>Numeric order.</summary>
    public static bool operator >(Float8E4M3 left, Float8E4M3 right) => (float)left > right;

    /// <summary>Numeric order.</summary>
    public static bool operator <=(Float8E4M3 left, Float8E4M3 right) => (float)left <= right;

    /// <summary>Numeric order.</summary>
    public static bool operator >=(Float8E4M3 left, Float8E4M3 right) => (float)left >= right;

    /// <inheritdoc/>
    public bool Equals(Float8E4M3 other) => ((float)this).Equals(other);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is Float8E4M3 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => ((float)this).GetHashCode();

    /// <inheritdoc/>
    public int CompareTo(Float8E4M3 other) => ((float)this).CompareTo(other);

    /// <inheritdoc/>
    public override string ToString() => ToString(null, CultureInfo.CurrentCulture);

    /// <inheritdoc/>
    public string ToString(string? format, IFormatProvider? formatProvider) => ((float)this).ToString(format, formatProvider);
}
