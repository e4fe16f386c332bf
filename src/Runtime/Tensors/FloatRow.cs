using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Kernels;

/// <summary>
/// Eight elements of any type to f32, exactly, and f32 to eight of any type, rounded to nearest even with NaN kept. e4m3
/// saturates; s8 is rounded and must be in range. typeof(T) is a constant to the JIT, which compiles one branch.
/// </summary>
internal static unsafe class FloatRow
{
    public const int Step = 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load<T>(T* at) where T : unmanaged =>
        typeof(T) == typeof(float) ? Lanes256.Load((float*)at)
        : typeof(T) == typeof(BFloat16) ? Lanes256.BFloat16((ushort*)at)
        : typeof(T) == typeof(Half) ? Lanes256.Half((ushort*)at)
        : typeof(T) == typeof(sbyte) ? Lanes256.Int8((sbyte*)at)
        : E4M3((byte*)at);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<T>(Vector256<float> v, T* at) where T : unmanaged
    {
        if (typeof(T) == typeof(float)) v.Store((float*)at);
        else if (typeof(T) == typeof(BFloat16)) Narrow(BFloat16Bits(v)).Store((ushort*)at);
        else if (typeof(T) == typeof(Half)) Narrow(Round(v, 13, 6.103515625e-5f, 0.5f, 112u << 10, 65536, 0x7e00)).Store((ushort*)at);
        else if (typeof(T) == typeof(sbyte)) StoreBytes(Vector256.ConvertToInt32(Vector256.Round(v)).AsUInt32(), (byte*)at);
        else StoreBytes(Round(v, 20, Float8E4M3.Smallest, Float8E4M3.Magic, Float8E4M3.Rebias, 448, 0x7f), (byte*)at);
    }

    /// <summary>One element to f32.</summary>
    public static float LoadOne<T>(T* at) where T : unmanaged =>
        typeof(T) == typeof(float) ? *(float*)at
        : typeof(T) == typeof(BFloat16) ? *(BFloat16*)at
        : typeof(T) == typeof(Half) ? (float)*(Half*)at
        : typeof(T) == typeof(sbyte) ? *(sbyte*)at
        : *(Float8E4M3*)at;

    /// <summary>One float to an element.</summary>
    public static void StoreOne<T>(float v, T* at) where T : unmanaged
    {
        if (typeof(T) == typeof(float)) *(float*)at = v;
        else if (typeof(T) == typeof(BFloat16)) *(BFloat16*)at = (BFloat16)v;
        else if (typeof(T) == typeof(Half)) *(Half*)at = (Half)v;
        else if (typeof(T) == typeof(sbyte)) *(sbyte*)at = (sbyte)MathF.Round(v);
        else *(Float8E4M3*)at = Float8E4M3.Saturate(v);
    }

    // As the scalar conversion of Float8E4M3: fields in place, then 2^120 for the bias.
    private static Vector256<float> E4M3(byte* at)
    {
        Vector128<byte> bytes = Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(at)).AsByte();
        Vector128<ushort> half = Vector128.WidenLower(bytes);
        Vector256<uint> wide = Vector256.Create(Vector128.WidenLower(half), Vector128.WidenUpper(half)), magnitude = wide & Vector256.Create(0x7fu);
        Vector256<uint> value = ((magnitude << 20).AsSingle() * Vector256.Create(1.329227995784916e36f)).AsUInt32();
        value |= Vector256.Equals(magnitude, Vector256.Create(0x7fu)) & Vector256.Create(0x7fc00000u);
        return (value | ((wide & Vector256.Create(0x80u)) << 24)).AsSingle();
    }

    private static Vector256<uint> BFloat16Bits(Vector256<float> v)
    {
        Vector256<uint> bits = v.AsUInt32(), top = bits >> 16;
        Vector256<uint> rounded = (bits + Vector256.Create(0x7fffu) + (top & Vector256<uint>.One)) >> 16;
        return Vector256.ConditionalSelect(Vector256.Equals(v, v).AsUInt32(), rounded, top | Vector256.Create(0x40u));
    }

    /// <summary>
    /// To a float of fewer bits, whose sign stands above <paramref name="nan"/>. A sum with <paramref name="magic"/> rounds what is
    /// below the <paramref name="smallest"/> normal; above, the fraction loses <paramref name="shift"/> bits and the bias changes.
    /// </summary>
    private static Vector256<uint> Round(Vector256<float> v, int shift, float smallest, float magic, uint rebias, float most, uint nan)
    {
        Vector256<float> magnitude = Vector256.Min(Vector256.Abs(v), Vector256.Create(most));
        Vector256<uint> bits = magnitude.AsUInt32();
        Vector256<uint> normal = ((bits + Vector256.Create((1u << (shift - 1)) - 1) + ((bits >> shift) & Vector256<uint>.One)) >> shift) - Vector256.Create(rebias);
        Vector256<uint> subnormal = (magnitude + Vector256.Create(magic)).AsUInt32() - Vector256.Create(magic).AsUInt32();
        Vector256<uint> value = Vector256.ConditionalSelect(Vector256.LessThan(magnitude, Vector256.Create(smallest)).AsUInt32(), subnormal, normal);
        value = Vector256.ConditionalSelect(Vector256.Equals(v, v).AsUInt32(), value, Vector256.Create(nan));
        return value | ((v.AsUInt32() >> 31) << (shift == 20 ? 7 : 15));
    }

    private static Vector128<ushort> Narrow(Vector256<uint> v) => Vector128.Narrow(v.GetLower(), v.GetUpper());

    private static void StoreBytes(Vector256<uint> v, byte* at)
    {
        Vector128<ushort> half = Narrow(v & Vector256.Create(0xffu));
        Unsafe.WriteUnaligned(at, Vector128.Narrow(half, half).AsUInt64().ToScalar());
    }
}
