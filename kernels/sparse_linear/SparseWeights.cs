using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Kernels;

/// <summary>
/// How packed weights of a dtype become operands in vectors. An operand is [16] lanes of Step elements; the lanes of a vector hold
/// 32 bits each, from which <see cref="At"/> takes element i as f32.
/// </summary>
internal unsafe interface ISparseWeights<V> where V : struct
{
    static abstract int Step { get; }

    /// <summary>Vector <paramref name="unit"/> of the operand whose bits these are; values is moved behind what it took.</summary>
    static abstract V Next(byte* table, byte* bits, int unit, ref byte* values);

    static abstract V At(V operand, int i);
}

/// <summary>
/// Byte shuffles that put the next values where a bit is set and 0 where none is: those of a byte of bits for elements of 1, 2 or 4 bytes
/// (4: lanes of vpermps, negative for 0), and those of four bits for four lanes of 32 bits.
/// </summary>
internal static unsafe class SparseTables
{
    /// <summary>Whether bytes can be shuffled by a table; where not, values are placed one by one.</summary>
    public static bool Shuffles => Ssse3.IsSupported || AdvSimd.Arm64.IsSupported;

    public const int QuadEntry = 8, PairEntry = 16, WordEntry = 32, LaneEntry = 16;

    private static readonly byte* s_quads = Table(256, 8, 1, 1), s_pairs = Table(256, 8, 2, 2);
    private static readonly byte* s_words4 = Table(16, 4, 4, 4), s_halves4 = Table(16, 4, 2, 4), s_words8 = Words8();

    public static byte* Of(DType type, bool wide) => type switch
    {
        DType.Float32 => wide ? s_words8 : s_words4,
        DType.Float16 => wide ? s_pairs : s_halves4,
        DType.BFloat16 => s_pairs,
        _ => s_quads,
    };

    // Entry b, place p: the bytes of the value that bit p of b stands for. An index with its high bit set gives 0 on x86 and on ARM.
    private static byte* Table(int entries, int places, int element, int place)
    {
        byte* table = (byte*)NativeMemory.AlignedAlloc((nuint)(entries * places * place + 16), 64), to = table;
        for (int bits = 0; bits < entries; bits++)
            for (int p = 0, next = 0; p < places; p++)
            {
                bool set = (bits >> p & 1) != 0;
                for (int i = 0; i < place; i++) *to++ = (byte)(set && i < element ? next * element + i : 0x80);
                if (set) next++;
            }
        return table;
    }

    private static byte* Words8()
    {
        int* table = (int*)NativeMemory.AlignedAlloc(256 * WordEntry, 64), to = table;
        for (int bits = 0; bits < 256; bits++)
            for (int p = 0, next = 0; p < 8; p++) *to++ = (bits >> p & 1) != 0 ? next++ : int.MinValue;
        return (byte*)table;
    }

    /// <summary>The next values of `element` bytes, one for each bit that is set in the 8 or 4 that chose the entry.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Shuffled(byte* entry, uint bits, int element, ref byte* values)
    {
        // Both loads in the expression, so that the second one becomes an operand of the shuffle.
        Vector128<byte> next = AdvSimd.Arm64.IsSupported
            ? AdvSimd.Arm64.VectorTableLookup(Vector128.Load(values), Vector128.Load(entry))
            : Ssse3.Shuffle(Vector128.Load(values), Vector128.Load(entry));
        values += (nuint)(uint)BitOperations.PopCount(bits) * (nuint)element;
        return next;
    }

    /// <summary>The same for 16 bytes of `element` each in one go, without shuffles.</summary>
    public static Vector128<byte> Placed(uint bits, int element, ref byte* values)
    {
        UInt128 all = 0;
        for (; bits != 0; bits &= bits - 1, values += element)
        {
            uint value = element == 4 ? *(uint*)values : element == 2 ? *(ushort*)values : *values;
            all |= (UInt128)value << (BitOperations.TrailingZeroCount(bits) * element * 8);
        }
        return Vector128.Create((ulong)all, (ulong)(all >> 64)).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Pairs(byte* table, uint bits, ref byte* values) =>
        Shuffles ? Shuffled(table + bits * PairEntry, bits, 2, ref values) : Placed(bits, 2, ref values);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Quads(byte* table, byte* bits, ref byte* values)
    {
        if (!Shuffles) return Placed(bits[0] | (uint)bits[1] << 8, 1, ref values);
        Vector128<ulong> low = Eight(table, bits[0], ref values).AsUInt64(), high = Eight(table, bits[1], ref values).AsUInt64();
        return (Sse2.IsSupported ? Sse2.UnpackLow(low, high) : AdvSimd.Arm64.ZipLow(low, high)).AsByte();
    }

    // The upper half comes of the entry that follows, and does not matter.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> Eight(byte* table, uint bits, ref byte* values) => Shuffled(table + bits * QuadEntry, bits, 1, ref values);
}

/// <summary>f32 [k][16] in memory, which is what a block is expanded to for many rows of x.</summary>
internal readonly unsafe struct ExpandedWeights<L, V> : ISparseWeights<V> where L : struct, ILanes<V> where V : struct
{
    public static int Step => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Next(byte* table, byte* bits, int unit, ref byte* values)
    {
        V next = L.Load((float*)values);
        values += L.Count * 4;
        return next;
    }

    public static V At(V operand, int i) => operand;
}
