using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Kernels;

internal readonly unsafe struct Words256 : ISparseWeights<Vector256<float>>
{
    public static int Step => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        uint b = bits[unit];
        Vector256<int> lanes = Vector256.Load((int*)(table + b * SparseTables.WordEntry));
        Vector256<float> all = Avx2.PermuteVar8x32(Vector256.Load((float*)values), lanes);
        values += (nuint)(uint)BitOperations.PopCount(b) * 4;
        return Vector256.AndNot(all, (lanes >> 31).AsSingle());
    }

    public static Vector256<float> At(Vector256<float> operand, int i) => operand;
}

internal readonly unsafe struct Halves256 : ISparseWeights<Vector256<float>>
{
    public static int Step => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        Vector128<short> eight = SparseTables.Pairs(table, bits[unit], ref values).AsInt16();
        return Lanes256.Half(Avx2.ConvertToVector256Int32(eight));
    }

    public static Vector256<float> At(Vector256<float> operand, int i) => operand;
}

internal readonly unsafe struct Pairs256 : ISparseWeights<Vector256<float>>
{
    public static int Step => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        Vector128<byte> low = SparseTables.Pairs(table, bits[2 * unit], ref values);
        return Vector256.Create(low, SparseTables.Pairs(table, bits[2 * unit + 1], ref values)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> At(Vector256<float> operand, int i) =>
        i == 0 ? (operand.AsUInt32() << 16).AsSingle() : (operand.AsUInt32() & Vector256.Create(0xffff0000u)).AsSingle();
}

internal readonly unsafe struct Quads256 : ISparseWeights<Vector256<float>>
{
    public static int Step => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        Vector128<byte> low = SparseTables.Quads(table, bits + 4 * unit, ref values);
        return Vector256.Create(low, SparseTables.Quads(table, bits + 4 * unit + 2, ref values)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> At(Vector256<float> operand, int i) =>
        Vector256.ConvertToSingle((i == 3 ? operand.AsInt32() : operand.AsInt32() << (24 - 8 * i)) >> 24);
}
