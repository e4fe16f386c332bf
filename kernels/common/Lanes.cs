using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using static Kernels.LaneConstants;

namespace Kernels;

internal static class LaneConstants
{
    /// <summary>2^112, the difference of the biases of f32 and f16.</summary>
    public const float TwoTo112 = 5.192296858534828e33f;

    /// <summary>2^120, that of f32 and e4m3.</summary>
    public const float TwoTo120 = 1.329227995784916e36f;
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

/// <summary>Functions of lanes, by the same steps whatever the machine.</summary>
internal static class LaneMath
{
    /// <summary>
    /// e^v within two ulps, infinity and 0 beyond the range: 2^n in two factors, which neither overflow nor vanish before e^v does.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Exp<L, V>(V v) where L : struct, ILanes<V> where V : struct
    {
        V slope = Slope<L, V>(L.Clamp(v, -104, 89), out V n, out V r), large = L.Broadcast(Large);
        V half = L.MultiplyAdd(n, L.Broadcast(0.5f), large), other = L.Add(L.Subtract(n, L.Subtract(half, large)), large);
        return L.Multiply(L.Multiply(L.MultiplyAdd(slope, r, L.Broadcast(1)), L.PowerOfTwo(half)), L.PowerOfTwo(other));
    }

    /// <summary>tanh v within some ulps of itself: m / (m + 2) of m = e^2v - 1, where nothing cancels for small v.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Tanh<L, V>(V v) where L : struct, ILanes<V> where V : struct
    {
        V slope = Slope<L, V>(L.Clamp(L.Add(v, v), -40, 40), out V n, out V r), power = L.PowerOfTwo(L.Add(n, L.Broadcast(Large)));
        V m = L.MultiplyAdd(L.Multiply(slope, r), power, L.Subtract(power, L.Broadcast(1)));
        return L.Divide(m, L.Add(m, L.Broadcast(2)));
    }

    /// <summary>1.5 2^23: what is added to it is rounded to whole numbers.</summary>
    private const float Large = 12582912;

    // (e^r - 1) / r of v = n ln 2 + r, where ln 2 in two parts leaves r exact: Taylor's series, whose first term left out is below
    // 2^-27 of e^r.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Slope<L, V>(V v, out V n, out V r) where L : struct, ILanes<V> where V : struct
    {
        n = L.Subtract(L.MultiplyAdd(v, L.Broadcast(1.44269504f), L.Broadcast(Large)), L.Broadcast(Large));
        r = L.MultiplyAdd(n, L.Broadcast(2.12194440e-4f), L.MultiplyAdd(n, L.Broadcast(-0.693359375f), v));
        V p = L.MultiplyAdd(r, L.Broadcast(1f / 5040), L.Broadcast(1f / 720));
        p = L.MultiplyAdd(p, r, L.Broadcast(1f / 120));
        p = L.MultiplyAdd(p, r, L.Broadcast(1f / 24));
        p = L.MultiplyAdd(p, r, L.Broadcast(1f / 6));
        p = L.MultiplyAdd(p, r, L.Broadcast(0.5f));
        return L.MultiplyAdd(p, r, L.Broadcast(1));
    }
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

    /// <summary>Elements 0, 2, 4 .. of 2 Count: of a register of pairs, which needs no lane to cross another.</summary>
    static abstract V BFloat16Even(ushort* p);
    static abstract V BFloat16Odd(ushort* p);
    static abstract V HalfEven(ushort* p);
    static abstract V HalfOdd(ushort* p);
    static abstract V Int8(sbyte* p);
    static abstract V E4M3(byte* p);

    /// <summary>The low or the high nibbles of Count bytes.</summary>
    static abstract V Nibbles(byte* p, bool high);

    static abstract V Subtract(V a, V b);
    static abstract V Multiply(V a, V b);
    static abstract V Add(V a, V b);

    /// <summary>The larger, NaN if one of them is.</summary>
    static abstract V Max(V a, V b);

    static abstract V Divide(V a, V b);

    /// <summary>v between two numbers; NaN stays.</summary>
    static abstract V Clamp(V v, float low, float high);

    /// <summary>2^n for n + 1.5 2^23, -126 &lt;= n &lt;= 127.</summary>
    static abstract V PowerOfTwo(V v);

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
    public static Vector512<float> BFloat16Even(ushort* p) => (Words(p) << 16).AsSingle();
    public static Vector512<float> BFloat16Odd(ushort* p) => (Words(p) & Vector512.Create(0xffff0000u)).AsSingle();
    public static Vector512<float> HalfEven(ushort* p) => HalfOf((Words(p) << 16).AsInt32() >> 3);
    public static Vector512<float> HalfOdd(ushort* p) => HalfOf(Words(p).AsInt32() >> 3);
    public static Vector512<float> Half(ushort* p) => HalfOf((Wide(p).AsInt32() << 16) >> 3);

    // The exponent's bias is put right by a multiplication, which also normalises subnormals; an exponent of 31 becomes 255.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> HalfOf(Vector512<int> h)
    {
        Vector512<int> bits = h & Vector512.Create(unchecked((int)0x8fffe000));
        Vector512<float> v = bits.AsSingle() * Vector512.Create(TwoTo112);
        Vector512<int> special = Vector512.GreaterThan(bits & Vector512.Create(0x0fffffff), Vector512.Create(0x0f7fffff));
        return (v.AsInt32() | (special & Vector512.Create(0x7f800000))).AsSingle();
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

    // The same as Half, with the bias of e4m3; what would be 480 is NaN.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> E4M3(byte* p)
    {
        Vector128<byte> v = Vector128.Load(p);
        Vector512<uint> b = Avx512F.IsSupported ? Avx512F.ConvertToVector512UInt32(v)
            : Vector512.WidenLower(Vector512.WidenLower(v.ToVector256Unsafe().ToVector512Unsafe()));
        Vector512<uint> magnitude = b & Vector512.Create(0x7fu);
        Vector512<uint> nan = Vector512.Equals(magnitude, Vector512.Create(0x7fu)) & Vector512.Create(0x7fc00000u);
        return (((magnitude << 20).AsSingle() * Vector512.Create(TwoTo120)).AsUInt32() | nan | ((b ^ magnitude) << 24)).AsSingle();
    }

    public static Vector512<float> Subtract(Vector512<float> a, Vector512<float> b) => a - b;
    public static Vector512<float> Multiply(Vector512<float> a, Vector512<float> b) => a * b;
    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;
    public static Vector512<float> Max(Vector512<float> a, Vector512<float> b) => Vector512.Max(a, b);
    public static Vector512<float> Divide(Vector512<float> a, Vector512<float> b) => a / b;
    public static Vector512<float> Clamp(Vector512<float> v, float low, float high) => Vector512.MinNative(Vector512.Create(high), Vector512.MaxNative(Vector512.Create(low), v));
    public static Vector512<float> PowerOfTwo(Vector512<float> v) => ((v.AsUInt32() + Vector512.Create(127u)) << 23).AsSingle();
    public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Vector512.MultiplyAddEstimate(a, b, c);
    public static Vector128<float> Fold(Vector512<float> v) => Lanes256.Fold(v.GetLower() + v.GetUpper());
    public static Vector128<float> FoldMax(Vector512<float> v) => Lanes256.FoldMax(Vector256.Max(v.GetLower(), v.GetUpper()));

    private static Vector512<uint> Words(ushort* p) => Vector512.Load((uint*)p);
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
    public static Vector256<float> BFloat16Even(ushort* p) => (Words(p) << 16).AsSingle();
    public static Vector256<float> BFloat16Odd(ushort* p) => (Words(p) & Vector256.Create(0xffff0000u)).AsSingle();
    public static Vector256<float> HalfEven(ushort* p) => HalfOf((Words(p) << 16).AsInt32() >> 3);
    public static Vector256<float> HalfOdd(ushort* p) => HalfOf(Words(p).AsInt32() >> 3);
    public static Vector256<float> Half(ushort* p) => Half(Vector256.WidenLower(Vector128.Load((short*)p).ToVector256Unsafe()));

    /// <summary>f16 widened with their sign to 32 bits: copies of the sign are masked away, so that it need not come off.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Half(Vector256<int> h) => HalfOf(h << 13);

    // Where the sign and its copies, an exponent of 5 bits and the mantissa begin at the top; what lies below bit 13 does not count.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> HalfOf(Vector256<int> h)
    {
        Vector256<int> bits = h & Vector256.Create(unchecked((int)0x8fffe000));
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

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> E4M3(byte* p)
    {
        Vector256<uint> b = Avx2.IsSupported ? Avx2.ConvertToVector256Int32(Eight(p)).AsUInt32()
            : Vector256.WidenLower(Vector128.WidenLower(Eight(p)).ToVector256Unsafe());
        Vector256<uint> magnitude = b & Vector256.Create(0x7fu);
        Vector256<uint> nan = Vector256.Equals(magnitude, Vector256.Create(0x7fu)) & Vector256.Create(0x7fc00000u);
        return (((magnitude << 20).AsSingle() * Vector256.Create(TwoTo120)).AsUInt32() | nan | ((b ^ magnitude) << 24)).AsSingle();
    }

    public static Vector256<float> Subtract(Vector256<float> a, Vector256<float> b) => a - b;
    public static Vector256<float> Multiply(Vector256<float> a, Vector256<float> b) => a * b;
    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;
    public static Vector256<float> Max(Vector256<float> a, Vector256<float> b) => Vector256.Max(a, b);
    public static Vector256<float> Divide(Vector256<float> a, Vector256<float> b) => a / b;
    public static Vector256<float> Clamp(Vector256<float> v, float low, float high) => Vector256.MinNative(Vector256.Create(high), Vector256.MaxNative(Vector256.Create(low), v));
    public static Vector256<float> PowerOfTwo(Vector256<float> v) => ((v.AsUInt32() + Vector256.Create(127u)) << 23).AsSingle();
    public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) => Vector256.MultiplyAddEstimate(a, b, c);
    public static Vector128<float> Fold(Vector256<float> v) => v.GetLower() + v.GetUpper();
    public static Vector128<float> FoldMax(Vector256<float> v) => Vector128.Max(v.GetLower(), v.GetUpper());

    private static Vector256<uint> Words(ushort* p) => Vector256.Load((uint*)p);
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
    public static Vector128<float> BFloat16Even(ushort* p) => (Words(p) << 16).AsSingle();
    public static Vector128<float> BFloat16Odd(ushort* p) => (Words(p) & Vector128.Create(0xffff0000u)).AsSingle();
    public static Vector128<float> HalfEven(ushort* p) => HalfOf((Words(p) << 16).AsInt32() >> 3);
    public static Vector128<float> HalfOdd(ushort* p) => HalfOf(Words(p).AsInt32() >> 3);
    public static Vector128<float> Half(ushort* p) => Half(Vector128.WidenLower(Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(p)).AsInt16()));

    /// <summary>f16 widened with their sign to 32 bits: copies of the sign are masked away, so that it need not come off.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Half(Vector128<int> h) => HalfOf(h << 13);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> HalfOf(Vector128<int> h)
    {
        Vector128<int> bits = h & Vector128.Create(unchecked((int)0x8fffe000));
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

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> E4M3(byte* p)
    {
        Vector128<uint> b = Vector128.WidenLower(Vector128.WidenLower(Four(p))), magnitude = b & Vector128.Create(0x7fu);
        Vector128<uint> nan = Vector128.Equals(magnitude, Vector128.Create(0x7fu)) & Vector128.Create(0x7fc00000u);
        return (((magnitude << 20).AsSingle() * Vector128.Create(TwoTo120)).AsUInt32() | nan | ((b ^ magnitude) << 24)).AsSingle();
    }

    public static Vector128<float> Subtract(Vector128<float> a, Vector128<float> b) => a - b;
    public static Vector128<float> Multiply(Vector128<float> a, Vector128<float> b) => a * b;
    public static Vector128<float> Add(Vector128<float> a, Vector128<float> b) => a + b;
    public static Vector128<float> Max(Vector128<float> a, Vector128<float> b) => Vector128.Max(a, b);
    public static Vector128<float> Divide(Vector128<float> a, Vector128<float> b) => a / b;
    public static Vector128<float> Clamp(Vector128<float> v, float low, float high) => Vector128.MinNative(Vector128.Create(high), Vector128.MaxNative(Vector128.Create(low), v));
    public static Vector128<float> PowerOfTwo(Vector128<float> v) => ((v.AsUInt32() + Vector128.Create(127u)) << 23).AsSingle();
    public static Vector128<float> MultiplyAdd(Vector128<float> a, Vector128<float> b, Vector128<float> c) => Vector128.MultiplyAddEstimate(a, b, c);

    public static Vector128<float> Fold(Vector128<float> v) => v;
    public static Vector128<float> FoldMax(Vector128<float> v) => v;

    private static Vector128<uint> Words(ushort* p) => Vector128.Load((uint*)p);
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
                for (; i < whole; i += L.Count) L.Store(L.E4M3(from + i), to + i);
                for (; i < count; i++) to[i] = Float8E4M3.FromBits(from[i]);
                break;
            default:
                for (; i < whole; i += L.Count) L.Store(L.Int8((sbyte*)from + i), to + i);
                for (; i < count; i++) to[i] = ((sbyte*)from)[i];
                break;
        }
    }
}

/// <summary>Elements of one dtype, read Count at a time as f32.</summary>
internal unsafe interface IElements
{
    static abstract int Size { get; }
    static abstract V Load<L, V>(byte* p) where L : struct, ILanes<V> where V : struct;
}

internal readonly unsafe struct Float32Elements : IElements
{
    public static int Size => 4;
    public static V Load<L, V>(byte* p) where L : struct, ILanes<V> where V : struct => L.Load((float*)p);
}

internal readonly unsafe struct BFloat16Elements : IElements
{
    public static int Size => 2;
    public static V Load<L, V>(byte* p) where L : struct, ILanes<V> where V : struct => L.BFloat16((ushort*)p);
}

internal readonly unsafe struct HalfElements : IElements
{
    public static int Size => 2;
    public static V Load<L, V>(byte* p) where L : struct, ILanes<V> where V : struct => L.Half((ushort*)p);
}

internal readonly unsafe struct Int8Elements : IElements
{
    public static int Size => 1;
    public static V Load<L, V>(byte* p) where L : struct, ILanes<V> where V : struct => L.Int8((sbyte*)p);
}

internal readonly unsafe struct E4M3Elements : IElements
{
    public static int Size => 1;
    public static V Load<L, V>(byte* p) where L : struct, ILanes<V> where V : struct => L.E4M3(p);
}
