using System.Numerics;

namespace Kernels;

/// <summary>
/// What a sparse product adds and multiplies with. A user's own semiring is a struct with these members; it runs on the managed
/// row. Add is called in the order of A's row, beginning with <see cref="Zero"/>.
/// </summary>
/// <typeparam name="T">Type of all values.</typeparam>
public interface ISemiring<T> where T : unmanaged
{
    /// <summary>What changes nothing when it is added.</summary>
    static abstract T Zero { get; }

    /// <summary>The sum so far and the next product.</summary>
    static abstract T Add(T sum, T product);

    /// <summary>The product of an entry of A and an entry of B.</summary>
    static abstract T Multiply(T a, T b);
}

/// <summary>The semirings that every row has, numbered as in spgemm.h.</summary>
public enum Semiring
{
    /// <summary>The usual product.</summary>
    PlusTimes = 0,
    /// <summary>min(a + b): shortest paths. A product that is NaN is never the smaller one.</summary>
    MinPlus = 1,
    /// <summary>max(a + b): the tropical product. A product that is NaN is never the larger one.</summary>
    MaxPlus = 2,
    /// <summary>1 where some a and b are both not 0, else 0.</summary>
    OrAnd = 3,
    /// <summary>How many products there are. Values of A and B are not read.</summary>
    PlusPair = 4,
}

/// <summary><see cref="Semiring.PlusTimes"/>.</summary>
public readonly struct PlusTimes<T> : ISemiring<T> where T : unmanaged, INumberBase<T>
{
    /// <inheritdoc/>
    public static T Zero => T.Zero;

    /// <inheritdoc/>
    public static T Add(T sum, T product) => sum + product;

    /// <inheritdoc/>
    public static T Multiply(T a, T b) => a * b;
}

/// <summary><see cref="Semiring.MinPlus"/>.</summary>
public readonly struct MinPlus<T> : ISemiring<T> where T : unmanaged, IFloatingPointIeee754<T>
{
    /// <inheritdoc/>
    public static T Zero => T.PositiveInfinity;

    /// <inheritdoc/>
    public static T Add(T sum, T product) => product < sum ? product : sum;

    /// <inheritdoc/>
    public static T Multiply(T a, T b) => a + b;
}

/// <summary><see cref="Semiring.MaxPlus"/>.</summary>
public readonly struct MaxPlus<T> : ISemiring<T> where T : unmanaged, IFloatingPointIeee754<T>
{
    /// <inheritdoc/>
    public static T Zero => T.NegativeInfinity;

    /// <inheritdoc/>
    public static T Add(T sum, T product) => product > sum ? product : sum;

    /// <inheritdoc/>
    public static T Multiply(T a, T b) => a + b;
}

/// <summary><see cref="Semiring.OrAnd"/>.</summary>
public readonly struct OrAnd<T> : ISemiring<T> where T : unmanaged, INumberBase<T>
{
    /// <inheritdoc/>
    public static T Zero => T.Zero;

    /// <inheritdoc/>
    public static T Add(T sum, T product) => T.IsZero(sum) && T.IsZero(product) ? T.Zero : T.One;

    /// <inheritdoc/>
    public static T Multiply(T a, T b) => T.IsZero(a) || T.IsZero(b) ? T.Zero : T.One;
}

/// <summary><see cref="Semiring.PlusPair"/>.</summary>
public readonly struct PlusPair<T> : ISemiring<T> where T : unmanaged, INumberBase<T>
{
    /// <inheritdoc/>
    public static T Zero => T.Zero;

    /// <inheritdoc/>
    public static T Add(T sum, T product) => sum + product;

    /// <inheritdoc/>
    public static T Multiply(T a, T b) => T.One;
}

/// <summary>Structure alone: no value is read or written.</summary>
internal readonly struct NoValues : ISemiring<byte>
{
    public static byte Zero => 0;

    public static byte Add(byte sum, byte product) => 0;

    public static byte Multiply(byte a, byte b) => 0;
}
