using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Kernels;

/// <summary>Whether a pass over the rows of x fetches weights of the next block meanwhile.</summary>
internal interface IFetches
{
    static abstract bool Ahead { get; }
}

internal readonly struct Fetches : IFetches { public static bool Ahead => true; }

internal readonly struct FetchesNothing : IFetches { public static bool Ahead => false; }

/// <summary>
/// Dot products of 1, 2 or 4 rows of x with four rows of w. An element is one chain of sums along k whatever tile it lies in,
/// so its bits do not depend on how many rows a call has: a vector of partial sums over a block of k, then the sum of its lanes
/// in a fixed order, then the blocks in order in f64.
/// </summary>
internal static unsafe class FlatGemmManagedTile<L, V, W>
    where L : struct, ILanes<V>
    where V : struct
    where W : struct, IWeights
{
    /// <summary>Four rows of w, and where k ends within a vector, copies of their ends in memory that may be read to the end.</summary>
    internal struct Columns
    {
        public byte* W0, W1, W2, W3;      // element 0 of the block of k
        public byte* End0, End1, End2, End3;  // likewise, but only good from Full on
        public float* Scale0, Scale1, Scale2, Scale3;  // u4: of the first group of the block
        public byte* Zero0, Zero1, Zero2, Zero3;  // u4 with zero points
        public bool Zeros;
        public nint Group;   // elements per scale, or the length
        public nint Full;    // elements of the block in whole steps of 2 Count
        public nint Padded;  // Full, or one step more
        public byte* Next;   // W0 of the block that comes after this one, in the caller's weights
        public nint NextLd, NextStep;  // bytes to W1 of it, and of a step
    }

    /// <summary>
    /// What a pass over the rows of x fetches of the next block meanwhile: it reads its own weights from L1, and memory would idle. Two
    /// passes and more fetch all four columns, a single one, which itself waits for memory, two of them.
    /// </summary>
    internal struct Ahead
    {
        public byte* A, B;

        public Ahead(in Columns c, long pass, long passes)
        {
            long first = passes == 2 ? 2 * pass : pass, second = passes == 2 ? first + 1 : pass + 3;
            A = first < 4 ? c.Next + first * c.NextLd : c.W0;
            B = second < 4 ? c.Next + second * c.NextLd : A;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Step(nint bytes)
        {
            if (!Sse.IsSupported) return;
            Sse.Prefetch1(A);
            Sse.Prefetch1(B);
            A += bytes;
            B += bytes;
        }
    }

    private struct Four
    {
        public V V0, V1, V2, V3;
    }

    // The four scales and zero points of the group at k; without a group nothing is read.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void LoadGroup(in Columns c, nint k, out Four scale, out Four zero)
    {
        Unsafe.SkipInit(out scale);
        Unsafe.SkipInit(out zero);
        if (!W.Scaled) return;
        nint g = k / c.Group;
        scale.V0 = L.Broadcast(c.Scale0[g]);
        scale.V1 = L.Broadcast(c.Scale1[g]);
        scale.V2 = L.Broadcast(c.Scale2[g]);
        scale.V3 = L.Broadcast(c.Scale3[g]);
        zero.V0 = L.Broadcast(c.Zeros ? c.Zero0[g] & 15 : 8);
        zero.V1 = L.Broadcast(c.Zeros ? c.Zero1[g] & 15 : 8);
        zero.V2 = L.Broadcast(c.Zeros ? c.Zero2[g] & 15 : 8);
        zero.V3 = L.Broadcast(c.Zeros ? c.Zero3[g] & 15 : 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static nint Stop(in Columns c, nint k, nint end) => W.Scaled ? Math.Min(end, (k / c.Group + 1) * c.Group) : end;

    /// <summary>total[j] += x . w_j over the block.</summary>
    public static void One(in Columns c, float* x, double* total)
    {
        V s0 = L.Broadcast(0), s1 = s0, s2 = s0, s3 = s0;
        byte* w0 = c.W0, w1 = c.W1, w2 = c.W2, w3 = c.W3;
        nint k = 0, end = c.Full;
        for (; ; )
        {
            while (k < end)
            {
                LoadGroup(c, k, out Four scale, out Four zero);
                for (nint stop = Stop(c, k, end); k < stop; k += 2 * L.Count)
                {
                    V x0 = L.Load(x + k), x1 = L.Load(x + k + L.Count);
                    s0 = L.MultiplyAdd(x0, W.First<L, V>(w0, k, scale.V0, zero.V0), s0);
                    s1 = L.MultiplyAdd(x0, W.First<L, V>(w1, k, scale.V1, zero.V1), s1);
                    s2 = L.MultiplyAdd(x0, W.First<L, V>(w2, k, scale.V2, zero.V2), s2);
                    s3 = L.MultiplyAdd(x0, W.First<L, V>(w3, k, scale.V3, zero.V3), s3);
                    s0 = L.MultiplyAdd(x1, W.Second<L, V>(w0, k, scale.V0, zero.V0), s0);
                    s1 = L.MultiplyAdd(x1, W.Second<L, V>(w1, k, scale.V1, zero.V1), s1);
                    s2 = L.MultiplyAdd(x1, W.Second<L, V>(w2, k, scale.V2, zero.V2), s2);
                    s3 = L.MultiplyAdd(x1, W.Second<L, V>(w3, k, scale.V3, zero.V3), s3);
                }
            }
            if (end == c.Padded) break;
            end = c.Padded;
            w0 = c.End0;
            w1 = c.End1;
            w2 = c.End2;
            w3 = c.End3;
        }
        Add(total, s0, s1, s2, s3);
    }

    /// <summary>The same for two rows of x.</summary>
    public static void Two<A>(in Columns c, Ahead ahead, float* x, nint ldx, double* total, nint ld) where A : struct, IFetches
    {
        nint aheadStep = c.NextStep;
        V s00 = L.Broadcast(0), s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00, s12 = s00, s13 = s00;
        byte* w0 = c.W0, w1 = c.W1, w2 = c.W2, w3 = c.W3;
        float* y = x + ldx;
        nint k = 0, end = c.Full;
        for (; ; )
        {
            while (k < end)
            {
                LoadGroup(c, k, out Four scale, out Four zero);
                for (nint stop = Stop(c, k, end); k < stop; k += 2 * L.Count)
                {
                    if (A.Ahead) ahead.Step(aheadStep);
                    V x0 = L.Load(x + k), x1 = L.Load(y + k);
                    Step(x0, x1, W.First<L, V>(w0, k, scale.V0, zero.V0), ref s00, ref s10);
                    Step(x0, x1, W.First<L, V>(w1, k, scale.V1, zero.V1), ref s01, ref s11);
                    Step(x0, x1, W.First<L, V>(w2, k, scale.V2, zero.V2), ref s02, ref s12);
                    Step(x0, x1, W.First<L, V>(w3, k, scale.V3, zero.V3), ref s03, ref s13);
                    x0 = L.Load(x + k + L.Count);
                    x1 = L.Load(y + k + L.Count);
                    Step(x0, x1, W.Second<L, V>(w0, k, scale.V0, zero.V0), ref s00, ref s10);
                    Step(x0, x1, W.Second<L, V>(w1, k, scale.V1, zero.V1), ref s01, ref s11);
                    Step(x0, x1, W.Second<L, V>(w2, k, scale.V2, zero.V2), ref s02, ref s12);
                    Step(x0, x1, W.Second<L, V>(w3, k, scale.V3, zero.V3), ref s03, ref s13);
                }
            }
            if (end == c.Padded) break;
            end = c.Padded;
            w0 = c.End0;
            w1 = c.End1;
            w2 = c.End2;
            w3 = c.End3;
        }
        Add(total, s00, s01, s02, s03);
        Add(total + ld, s10, s11, s12, s13);
    }

    /// <summary>The same for four rows of x.</summary>
    public static void FourRows<A>(in Columns c, Ahead ahead, float* x, nint ldx, double* total, nint ld) where A : struct, IFetches
    {
        nint aheadStep = c.NextStep;
        V s00 = L.Broadcast(0), s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00, s12 = s00, s13 = s00;
        V s20 = s00, s21 = s00, s22 = s00, s23 = s00, s30 = s00, s31 = s00, s32 = s00, s33 = s00;
        byte* w0 = c.W0, w1 = c.W1, w2 = c.W2, w3 = c.W3;
        float* xb = x + ldx, xc = xb + ldx, xd = xc + ldx;
        nint k = 0, end = c.Full;
        for (; ; )
        {
            while (k < end)
            {
                LoadGroup(c, k, out Four scale, out Four zero);
                for (nint stop = Stop(c, k, end); k < stop; k += 2 * L.Count)
                {
                    if (A.Ahead) ahead.Step(aheadStep);
                    V x0 = L.Load(x + k), x1 = L.Load(xb + k), x2 = L.Load(xc + k), x3 = L.Load(xd + k);
                    Step(x0, x1, x2, x3, W.First<L, V>(w0, k, scale.V0, zero.V0), ref s00, ref s10, ref s20, ref s30);
                    Step(x0, x1, x2, x3, W.First<L, V>(w1, k, scale.V1, zero.V1), ref s01, ref s11, ref s21, ref s31);
                    Step(x0, x1, x2, x3, W.First<L, V>(w2, k, scale.V2, zero.V2), ref s02, ref s12, ref s22, ref s32);
                    Step(x0, x1, x2, x3, W.First<L, V>(w3, k, scale.V3, zero.V3), ref s03, ref s13, ref s23, ref s33);
                    nint j = k + L.Count;
                    x0 = L.Load(x + j);
                    x1 = L.Load(xb + j);
                    x2 = L.Load(xc + j);
                    x3 = L.Load(xd + j);
                    Step(x0, x1, x2, x3, W.Second<L, V>(w0, k, scale.V0, zero.V0), ref s00, ref s10, ref s20, ref s30);
                    Step(x0, x1, x2, x3, W.Second<L, V>(w1, k, scale.V1, zero.V1), ref s01, ref s11, ref s21, ref s31);
                    Step(x0, x1, x2, x3, W.Second<L, V>(w2, k, scale.V2, zero.V2), ref s02, ref s12, ref s22, ref s32);
                    Step(x0, x1, x2, x3, W.Second<L, V>(w3, k, scale.V3, zero.V3), ref s03, ref s13, ref s23, ref s33);
                }
            }
            if (end == c.Padded) break;
            end = c.Padded;
            w0 = c.End0;
            w1 = c.End1;
            w2 = c.End2;
            w3 = c.End3;
        }
        Add(total, s00, s01, s02, s03);
        Add(total + ld, s10, s11, s12, s13);
        Add(total + 2 * ld, s20, s21, s22, s23);
        Add(total + 3 * ld, s30, s31, s32, s33);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Step(V x0, V x1, V w, ref V s0, ref V s1)
    {
        s0 = L.MultiplyAdd(x0, w, s0);
        s1 = L.MultiplyAdd(x1, w, s1);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Step(V x0, V x1, V x2, V x3, V w, ref V s0, ref V s1, ref V s2, ref V s3)
    {
        s0 = L.MultiplyAdd(x0, w, s0);
        s1 = L.MultiplyAdd(x1, w, s1);
        s2 = L.MultiplyAdd(x2, w, s2);
        s3 = L.MultiplyAdd(x3, w, s3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add(double* total, V s0, V s1, V s2, V s3) =>
        LaneSums.Add(total, L.Fold(s0), L.Fold(s1), L.Fold(s2), L.Fold(s3));

    /// <summary>The four rows as f32 [4][BlockK], padded with zeros, in the order in which the steps take them.</summary>
    public static void Widen(in Columns c, float* to, nint ld)
    {
        WidenRow(c, c.W0, c.End0, c.Scale0, c.Zero0, to);
        WidenRow(c, c.W1, c.End1, c.Scale1, c.Zero1, to + ld);
        WidenRow(c, c.W2, c.End2, c.Scale2, c.Zero2, to + 2 * ld);
        WidenRow(c, c.W3, c.End3, c.Scale3, c.Zero3, to + 3 * ld);
    }

    private static void WidenRow(in Columns c, byte* w, byte* ends, float* scales, byte* zeros, float* to)
    {
        V scale = L.Broadcast(0), zero = scale;
        for (nint k = 0; k < c.Padded; k += 2 * L.Count)
        {
            if (W.Scaled && k % c.Group == 0)
            {
                scale = L.Broadcast(scales[k / c.Group]);
                zero = L.Broadcast(c.Zeros ? zeros[k / c.Group] & 15 : 8);
            }
            byte* from = k < c.Full ? w : ends;
            L.Store(W.First<L, V>(from, k, scale, zero), to + k);
            L.Store(W.Second<L, V>(from, k, scale, zero), to + k + L.Count);
        }
    }
}
