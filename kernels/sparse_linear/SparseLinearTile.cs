using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Kernels;

internal interface IRowCount
{
    static abstract int Count { get; }
}

internal readonly struct OneRow : IRowCount { public static int Count => 1; }

internal readonly struct TwoRows : IRowCount { public static int Count => 2; }

internal readonly struct FourRows : IRowCount { public static int Count => 4; }

/// <summary>
/// Part of one panel times 1, 2 or 4 rows of x. An element is one chain along k whatever tile it lies in, so its bits do not depend on how
/// many rows a call has.
/// </summary>
internal static unsafe class SparseLinearTile<L, V, W>
    where L : struct, ILanes<V> where V : struct where W : struct, ISparseWeights<V>
{
    private const int Ahead = 1024;  // bytes; the prefetchers of the hardware stop where a page ends

    private struct Sixteen
    {
        public V V0, V1, V2, V3;  // the first 16 / Count of them
    }

    /// <summary>sums[r][lane] += the products x[r][k] w[k][lane], one after the other.</summary>
    public static void Add<R>(byte* table, byte* bits, byte* values, int length, float* x, nint ldx, float* sums) where R : struct, IRowCount
    {
        Load(sums, 0, out Sixteen a);
        Load(sums, R.Count > 1 ? 1 : 0, out Sixteen b);
        Load(sums, R.Count > 2 ? 2 : 0, out Sixteen c);
        Load(sums, R.Count > 2 ? 3 : 0, out Sixteen d);
        float* xb = R.Count > 1 ? x + ldx : x, xc = R.Count > 2 ? xb + ldx : x, xd = R.Count > 2 ? xc + ldx : x;
        for (nint k = 0; k < length; k += W.Step)
        {
            if (W.Step > 1 && Sse.IsSupported) Sse.Prefetch0(values + Ahead);
            Operand(table, bits, ref values, out Sixteen w);
            Step<R>(w, 0, x + k, xb + k, xc + k, xd + k, ref a, ref b, ref c, ref d);
            if (W.Step > 1) Step<R>(w, 1, x + k, xb + k, xc + k, xd + k, ref a, ref b, ref c, ref d);
            if (W.Step > 2)
            {
                Step<R>(w, 2, x + k, xb + k, xc + k, xd + k, ref a, ref b, ref c, ref d);
                Step<R>(w, 3, x + k, xb + k, xc + k, xd + k, ref a, ref b, ref c, ref d);
            }
            bits += 2 * W.Step;
        }
        StoreAll(a, sums);
        if (R.Count > 1) StoreAll(b, sums + SparsePanels.Lanes);
        if (R.Count <= 2) return;
        StoreAll(c, sums + 2 * SparsePanels.Lanes);
        StoreAll(d, sums + 3 * SparsePanels.Lanes);
    }

    /// <summary>The block as f32 [k][16]; up to Step - 1 more than length of them.</summary>
    public static void Expand(byte* table, byte* bits, byte* values, int length, float* wide)
    {
        for (int k = 0; k < length; k += W.Step, bits += 2 * W.Step, wide += W.Step * SparsePanels.Lanes)
        {
            Operand(table, bits, ref values, out Sixteen w);
            Store(w, 0, wide);
            if (W.Step > 1) Store(w, 1, wide + SparsePanels.Lanes);
            if (W.Step <= 2) continue;
            Store(w, 2, wide + 2 * SparsePanels.Lanes);
            Store(w, 3, wide + 3 * SparsePanels.Lanes);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Operand(byte* table, byte* bits, ref byte* values, out Sixteen w)
    {
        Unsafe.SkipInit(out w);
        w.V0 = W.Next(table, bits, 0, ref values);
        w.V1 = W.Next(table, bits, 1, ref values);
        if (L.Count > 4) return;
        w.V2 = W.Next(table, bits, 2, ref values);
        w.V3 = W.Next(table, bits, 3, ref values);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Step<R>(in Sixteen operand, int i, float* xa, float* xb, float* xc, float* xd,
        ref Sixteen a, ref Sixteen b, ref Sixteen c, ref Sixteen d) where R : struct, IRowCount
    {
        Sixteen w = operand;
        w.V0 = W.At(operand.V0, i);
        w.V1 = W.At(operand.V1, i);
        if (L.Count == 4)
        {
            w.V2 = W.At(operand.V2, i);
            w.V3 = W.At(operand.V3, i);
        }
        Multiply(L.Broadcast(xa[i]), w, ref a);
        if (R.Count > 1) Multiply(L.Broadcast(xb[i]), w, ref b);
        if (R.Count <= 2) return;
        Multiply(L.Broadcast(xc[i]), w, ref c);
        Multiply(L.Broadcast(xd[i]), w, ref d);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Multiply(V x, in Sixteen w, ref Sixteen sum)
    {
        sum.V0 = L.MultiplyAdd(x, w.V0, sum.V0);
        sum.V1 = L.MultiplyAdd(x, w.V1, sum.V1);
        if (L.Count > 4) return;
        sum.V2 = L.MultiplyAdd(x, w.V2, sum.V2);
        sum.V3 = L.MultiplyAdd(x, w.V3, sum.V3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(in Sixteen operand, int i, float* to)
    {
        L.Store(W.At(operand.V0, i), to);
        L.Store(W.At(operand.V1, i), to + L.Count);
        if (L.Count > 4) return;
        L.Store(W.At(operand.V2, i), to + 2 * L.Count);
        L.Store(W.At(operand.V3, i), to + 3 * L.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Load(float* from, int row, out Sixteen s)
    {
        Unsafe.SkipInit(out s);
        from += row * SparsePanels.Lanes;
        s.V0 = L.Load(from);
        s.V1 = L.Load(from + L.Count);
        if (L.Count > 4) return;
        s.V2 = L.Load(from + 2 * L.Count);
        s.V3 = L.Load(from + 3 * L.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreAll(in Sixteen s, float* to)
    {
        L.Store(s.V0, to);
        L.Store(s.V1, to + L.Count);
        if (L.Count > 4) return;
        L.Store(s.V2, to + 2 * L.Count);
        L.Store(s.V3, to + 3 * L.Count);
    }
}
