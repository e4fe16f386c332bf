using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Kernels;

internal readonly unsafe struct Words128 : ISparseWeights<Vector128<float>>
{
    public static int Step => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        uint b = (uint)bits[unit / 2] >> (unit % 2 * 4) & 15;
        if (!SparseTables.Shuffles) return SparseTables.Placed(b, 4, ref values).AsSingle();
        return SparseTables.Shuffled(table + b * SparseTables.LaneEntry, b, 4, ref values).AsSingle();
    }

    public static Vector128<float> At(Vector128<float> operand, int i) => operand;
}

internal readonly unsafe struct Halves128 : ISparseWeights<Vector128<float>>
{
    public static int Step => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        uint b = (uint)bits[unit / 2] >> (unit % 2 * 4) & 15;
        Vector128<int> four = SparseTables.Shuffles
            ? SparseTables.Shuffled(table + b * SparseTables.LaneEntry, b, 2, ref values).AsInt32()
            : Vector128.WidenLower(SparseTables.Placed(b, 2, ref values).AsInt16());
        return Lanes128.Half(four << 16 >> 16);
    }

    public static Vector128<float> At(Vector128<float> operand, int i) => operand;
}

internal readonly unsafe struct Pairs128 : ISparseWeights<Vector128<float>>
{
    public static int Step => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Next(byte* table, byte* bits, int unit, ref byte* values) =>
        SparseTables.Pairs(table, bits[unit], ref values).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> At(Vector128<float> operand, int i) =>
        i == 0 ? (operand.AsUInt32() << 16).AsSingle() : (operand.AsUInt32() & Vector128.Create(0xffff0000u)).AsSingle();
}

internal readonly unsafe struct Quads128 : ISparseWeights<Vector128<float>>
{
    public static int Step => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Next(byte* table, byte* bits, int unit, ref byte* values) =>
        SparseTables.Quads(table, bits + 2 * unit, ref values).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> At(Vector128<float> operand, int i) =>
        Vector128.ConvertToSingle((i == 3 ? operand.AsInt32() : operand.AsInt32() << (24 - 8 * i)) >> 24);
}
