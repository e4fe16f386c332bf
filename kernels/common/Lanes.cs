using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using static Kernels.LaneConstants;

namespace Kernels;

internal static class LaneConstants
{
    /// <summary>2^112, the difference of the biases of f32 and f16.</summary>
    public const float TwoTo112 = 5.192296858534828e33f;
}

/// <summary>Sums across lanes, in one order whatever the machine.</summary>
internal static unsafe class LaneSums
{
    /// <summary>total[i] += (v_i[0] + v_i[2]) + (v_i[1] + v_i[3]), the four of them by transposition.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Add(double* total, Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d)
    {
        Vector128<float> sums = Of(a, b, c, d);
        (Vector128.Load(total) + Vector128.WidenLower(sums)).Store(total);
        (Vector128.Load(total + 2) + Vector128.WidenUpper(sums)).Store(total + 2);
    }

    /// <summary>The four sums, each in the order of <see cref="Sum"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Of(Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d)
    {
        if (!Sse.IsSupported) return Vector128.Create(Sum(a), Sum(b), Sum(c), Sum(d));
        Vector128<float> ab = Sse.UnpackLow(a, b) + Sse.UnpackHigh(a, b), cd = Sse.UnpackLow(c, d) + Sse.UnpackHigh(c, d);
        return Sse.MoveLowToHigh(ab, cd) + Sse.MoveHighToLow(cd, ab);
    }

    /// <summary>(v[0] + v[2]) + (v[1] + v[3]).</summary>
    public static float Sum(Vector128<float> v) => (v[0] + v[2]) + (v[1] + v[3]);
}

/// <summary>
/// The few vector operations of the managed rows, once per register width, so that one kernel serves AVX-512, AVX2, NEON and a
/// machine without vectors. Weights of every dtype become f32, and all of that is exact.
/// </summary>
internal unsafe interface ILanes<V> where V : struct
{
    /// <summary>f32 per vector.</summary>
    static abstract int Count { get; }

    /// <summary>Whether 16 accumulators, 4 vectors of x and one of w fit in the registers.</summary>
    static abstract bool FourRows { get; }

    static abstract V Broadcast(float value);
    static abstract V Load(float* p);
    static abstract void Store(V v, float* p);
    static abstract V BFloat16(ushort* p);
    static abstract V Half(ushort* p);
    static abstract V Int8(sbyte* p);

    /// <summary>The low or the high nibbles of Count bytes.</summary>
    static abstract V Nibbles(byte* p, bool high);

    static abstract V Subtract(V a, V b);
    static abstract V Multiply(V a, V b);
    static abstract V Add(V a, V b);

    /// <summary>The larger, NaN if one of them is.</summary>
    static abstract V Max(V a, V b);

    /// <summary>e^v within an ulp or so; 0 and infinity beyond the range, of infinities too.</summary>
    static abstract V Exp(V v);

    /// <summary>a * b + c, fused where the machine can.</summary>
    static abstract V MultiplyAdd(V a, V b, V c);

    /// <summary>The partial sums of lanes i and i + 4 and so on.</summary>
    static abstract Vector128<float> Fold(V v);

    /// <summary>The largest of lanes i and i + 4 and so on.</summary>
    static abstract Vector128<float> FoldMax(V v);
}

internal readonly unsafe struct Lanes512 : ILanes<Vector512<float>>
{
    public static int Count => 16;
    public static bool FourRows => true;
    public static Vector512<float> Broadcast(float value) => Vector512.Create(value);
    public static Vector512<float> Load(float* p) => Vector512.Load(p);
    public static void Store(Vector512<float> v, float* p) => v.Store(p);
    public static Vector512<float> BFloat16(ushort* p) => (Wide(p) << 16).AsSingle();

    // The exponent's bias is put right by a multiplication, which also normalises subnormals; an exponent of 31 becomes 255.
    public static Vector512<float> Half(ushort* p)
    {
        Vector512<uint> h = Wide(p), magnitude = (h & Vector512.Create(0x7fffu)) << 13;
        Vector512<uint> v = (magnitude.AsSingle() * Vector512.Create(TwoTo112)).AsUInt32();
        v |= Vector512.GreaterThan(magnitude, Vector512.Create(0x0f7fffffu)) & Vector512.Create(0x7f800000u);
        return (v | ((h & Vector512.Create(0x8000u)) << 16)).AsSingle();
    }

    // One conversion where the portable form would take two.
    public static Vector512<float> Int8(sbyte* p) => Vector512.ConvertToSingle(Avx512F.IsSupported
        ? Avx512F.ConvertToVector512Int32(Vector128.Load(p))
        : Vector512.WidenLower(Vector512.WidenLower(Vector128.Load(p).ToVector256Unsafe().ToVector512Unsafe())));

    public static Vector512<float> Nibbles(byte* p, bool high)
    {
        Vector128<byte> v = Vector128.Load(p);
        v = high ? v >> 4 : v & Vector128.Create((byte)15);
        return Vector512.ConvertToSingle(Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(v)
            : Vector512.WidenLower(Vector512.WidenLower(v.ToVector256Unsafe().ToVector512Unsafe())).AsInt32());
    }

    public static Vector512<float> Subtract(Vector512<float> a, Vector512<float> b) => a - b;
    public static Vector512<float> Multiply(Vector512<float> a, Vector512<float> b) => a * b;
    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;
    public static Vector512<float> Max(Vector512<float> a, Vector512<float> b) => Vector512.Max(a, b);
    public static Vector512<float> Exp(Vector512<float> v) => Vector512.Exp(v);
    public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Vector512.MultiplyAddEstimate(a, b, c);
    public static Vector128<float> Fold(Vector512<float> v) => Lanes256.Fold(v.GetLower() + v.GetUpper());
    public static Vector128<float> FoldMax(Vector512<float> v) => Lanes256.FoldMax(Vector256.Max(v.GetLower(), v.GetUpper()));

    private static Vector512<uint> Wide(ushort* p) => Vector512.WidenLower(Vector256.Load(p).ToVector512Unsafe());
}

internal readonly unsafe struct Lanes256 : ILanes<Vector256<float>>
{
    public static int Count => 8;
    public static bool FourRows => false;
    public static Vector256<float> Broadcast(float value) => Vector256.Create(value);
    public static Vector256<float> Load(float* p) => Vector256.Load(p);
    public static void Store(Vector256<float> v, float* p) => v.Store(p);
    public static Vector256<float> BFloat16(ushort* p) => (Wide(p) << 16).AsSingle();

    public static Vector256<float> Half(ushort* p) => Half(Vector256.WidenLower(Vector128.Load((short*)p).ToVector256Unsafe()));

    /// <summary>f16 widened with their sign to 32 bits: copies of the sign are masked away, so that it need not come off.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Half(Vector256<int> h)
    {
        Vector256<int> bits = (h << 13) & Vector256.Create(unchecked((int)0x8fffe000));
        Vector256<float> v = bits.AsSingle() * Vector256.Create(TwoTo112);
        Vector256<int> special = Vector256.GreaterThan(bits & Vector256.Create(0x0fffffff), Vector256.Create(0x0f7fffff));
        return (v.AsInt32() | (special & Vector256.Create(0x7f800000))).AsSingle();
    }

    public static Vector256<float> Int8(sbyte* p) => Vector256.ConvertToSingle(Avx2.IsSupported
        ? Avx2.ConvertToVector256Int32(Eight(p).AsSByte())
        : Vector256.WidenLower(Vector128.WidenLower(Eight(p).AsSByte()).ToVector256Unsafe()));

    public static Vector256<float> Nibbles(byte* p, bool high)
    {
        Vector128<byte> v = Eight(p);
        v = high ? v >> 4 : v & Vector128.Create((byte)15);
        return Vector256.ConvertToSingle(Avx2.IsSupported
            ? Avx2.ConvertToVector256Int32(v)
            : Vector256.WidenLower(Vector128.WidenLower(v).ToVector256Unsafe()).AsInt32());
    }

    public static Vector256<float> Subtract(Vector256<float> a, Vector256<float> b) => a - b;
    public static Vector256<float> Multiply(Vector256<float> a, Vector256<float> b) => a * b;
    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;
    public static Vector256<float> Max(Vector256<float> a, Vector256<float> b) => Vector256.Max(a, b);
    public static Vector256<float> Exp(Vector256<float> v) => Vector256.Exp(v);
    public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) => Vector256.MultiplyAddEstimate(a, b, c);
    public static Vector128<float> Fold(Vector256<float> v) => v.GetLower() + v.GetUpper();
    public static Vector128<float> FoldMax(Vector256<float> v) => Vector128.Max(v.GetLower(), v.GetUpper());

    private static Vector256<uint> Wide(ushort* p) => Vector256.WidenLower(Vector128.Load(p).ToVector256Unsafe());
    private static Vector128<byte> Eight(void* p) => Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(p)).AsByte();
}

internal readonly unsafe struct Lanes128 : ILanes<Vector128<float>>
{
    public static int Count => 4;
    public static bool FourRows => System.Runtime.Intrinsics.Arm.AdvSimd.Arm64.IsSupported;
    public static Vector128<float> Broadcast(float value) => Vector128.Create(value);
    public static Vector128<float> Load(float* p) => Vector128.Load(p);
    public static void Store(Vector128<float> v, float* p) => v.Store(p);
    public static Vector128<float> BFloat16(ushort* p) => (Wide(p) << 16).AsSingle();

    public static Vector128<float> Half(ushort* p) => Half(Vector128.WidenLower(Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(p)).AsInt16()));

    /// <summary>f16 widened with their sign to 32 bits: copies of the sign are masked away, so that it need not come off.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Half(Vector128<int> h)
    {
        Vector128<int> bits = (h << 13) & Vector128.Create(unchecked((int)0x8fffe000));
        Vector128<float> v = bits.AsSingle() * Vector128.Create(TwoTo112);
        Vector128<int> special = Vector128.GreaterThan(bits & Vector128.Create(0x0fffffff), Vector128.Create(0x0f7fffff));
        return (v.AsInt32() | (special & Vector128.Create(0x7f800000))).AsSingle();
    }

    public static Vector128<float> Int8(sbyte* p) =>
        Vector128.ConvertToSingle(Vector128.WidenLower(Vector128.WidenLower(Four(p).AsSByte())));

    public static Vector128<float> Nibbles(byte* p, bool high)
    {
        Vector128<byte> v = Four(p);
        v = high ? v >> 4 : v & Vector128.Create((byte)15);
        return Vector128.ConvertToSingle(Vector128.WidenLower(Vector128.WidenLower(v)).AsInt32());
    }

    public static Vector128<float> Subtract(Vector128<float> a, Vector128<float> b) => a - b;
    public static Vector128<float> Multiply(Vector128<float> a, Vector128<float> b) => a * b;
    public static Vector128<float> Add(Vector128<float> a, Vector128<float> b) => a + b;
    public static Vector128<float> Max(Vector128<float> a, Vector128<float> b) => Vector128.Max(a, b);
    public static Vector128<float> Exp(Vector128<float> v) => Vector128.Exp(v);
    public static Vector128<float> MultiplyAdd(Vector128<float> a, Vector128<float> b, Vector128<float> c) => Vector128.MultiplyAddEstimate(a, b, c);

    public static Vector128<float> Fold(Vector128<float> v) => v;
    public static Vector128<float> FoldMax(Vector128<float> v) => v;

    private static Vector128<uint> Wide(ushort* p) =>
        Vector128.WidenLower(Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(p)).AsUInt16());

    private static Vector128<byte> Four(void* p) => Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<uint>(p)).AsByte();
}

/// <summary>Contiguous elements of any float dtype, s8 or e4m3 as f32, which holds them exactly.</summary>
internal static unsafe class Widening
{
    public static void Row<L, V>(DType type, byte* from, long count, float* to) where L : struct, ILanes<V> where V : struct
    {
        long whole = count - count % L.Count, i = 0;
        switch (type)
        {
            case DType.Float32:
                System.Buffer.MemoryCopy(from, to, count * 4, count * 4);
                break;
            case DType.BFloat16:
                for (; i < whole; i += L.Count) L.Store(L.BFloat16((ushort*)from + i), to + i);
                for (; i < count; i++) to[i] = BFloat16.FromBits(((ushort*)from)[i]);
                break;
            case DType.Float16:
                for (; i < whole; i += L.Count) L.Store(L.Half((ushort*)from + i), to + i);
                for (; i < count; i++) to[i] = (float)((Half*)from)[i];
                break;
            case DType.Float8E4M3:
                for (; i < count; i++) to[i] = Float8E4M3.FromBits(from[i]);
                break;
            default:
                for (; i < whole; i += L.Count) L.Store(L.Int8((sbyte*)from + i), to + i);
                for (; i < count; i++) to[i] = ((sbyte*)from)[i];
                break;
        }
    }
}
