namespace Kernels;

/// <summary>How two vectors of weights, elements i .. i + 2 Count of a row, are read. Scale and zero are those of u4.</summary>
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
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.BFloat16((ushort*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.BFloat16((ushort*)w + i + L.Count);
}

internal readonly unsafe struct HalfWeights : IWeights
{
    public static bool Scaled => false;
    public static nint Offset(nint i) => i * 2;
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Half((ushort*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Half((ushort*)w + i + L.Count);
}

internal readonly unsafe struct Int8Weights : IWeights
{
    public static bool Scaled => false;
    public static nint Offset(nint i) => i;
    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Int8((sbyte*)w + i);
    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct => L.Int8((sbyte*)w + i + L.Count);
}

/// <summary>First is the even elements and second the odd ones, for x lies in that order: nibbles need no interleaving.</summary>
internal readonly unsafe struct UInt4Weights : IWeights
{
    public static bool Scaled => true;
    public static nint Offset(nint i) => i / 2;

    public static V First<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct =>
        L.Multiply(L.Subtract(L.Nibbles(w + i / 2, false), zero), scale);

    public static V Second<L, V>(byte* w, nint i, V scale, V zero) where L : ILanes<V> where V : struct =>
        L.Multiply(L.Subtract(L.Nibbles(w + i / 2, true), zero), scale);
}
