namespace Kernels;

/// <summary>
/// How two vectors of weights, elements i .. i + 2 Count of a row, are read: First the even and Second the odd ones where several lie in a
/// word, for x lies in that order and nothing need be interleaved, which takes vectors of 256 bits twice as long. Scale and zero are those of u4.
/// </summary>
internal unsafe interface IWeights
{
    static abstract bool Scaled { get; }

    /// <summary>Byte of element i of a row.</summary>
    static abstract nint Offset(nint i);

    static abstract V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct;
    static abstract V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct;
}

internal readonly unsafe struct Float32Weights : IWeights
{
    public static bool Scaled => false;
    public static nint Offset(nint i) => i * 4;
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Load((float*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Load((float*)w + i + L.Count);
}

internal readonly unsafe struct BFloat16Weights : IWeights
{
    public static bool Scaled => false;
    public static nint Offset(nint i) => i * 2;
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.BFloat16Even((ushort*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.BFloat16Odd((ushort*)w + i);
}

internal readonly unsafe struct HalfWeights : IWeights
{
    public static bool Scaled => false;
    public static nint Offset(nint i) => i * 2;
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.HalfEven((ushort*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.HalfOdd((ushort*)w + i);
}

internal readonly unsafe struct Int8Weights : IWeights
{
    public static bool Scaled => false;
    public static nint Offset(nint i) => i;
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Int8((sbyte*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Int8((sbyte*)w + i + L.Count);
}

internal readonly unsafe struct UInt4Weights : IWeights
{
    public static bool Scaled => true;
    public static nint Offset(nint i) => i / 2;

    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct =>
        L.Multiply(L.Subtract(L.Nibbles(w + i / 2, false), zero), scale);

    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct =>
        L.Multiply(L.Subtract(L.Nibbles(w + i / 2, true), zero), scale);
}
