using System.Runtime.Intrinsics;

namespace Kernels;

/// <summary>A query row of a task: what it holds, and the keys Begin .. End - 1 of the block at hand that it may see.</summary>
internal unsafe struct DecodeAttentionManagedRow
{
    public float* Q, O, X;  // [PaddedK]; [PaddedV + 2]: O, l, reference; [Block]: logits, then weights
    public int Token, Head, Begin, End;
}

/// <summary>
/// Dot products of rows with keys and weighted sums of values, read where they lie. Rows go by four, two and one, so that what
/// is loaded and widened serves them all: 8 sums at a time, as many as cover the latency of a multiply-add, leave half of 16
/// registers for operands. A sum is one chain in the order of its elements, whichever loop it is in.
/// </summary>
internal static unsafe class DecodeAttentionManagedProducts<L, V, E>
    where L : struct, ILanes<V>
    where V : struct
    where E : struct, IElements
{
    /// <summary>Keys of a step.</summary>
    public const int Step = 8;

    /// <summary>x[j] = q . k_j of the rows, for Step keys from slot j on.</summary>
    public static void Dots(DecodeAttentionManagedRow* r, int rows, byte** keys, nint offset, nint length, int slot)
    {
        int i = 0;
        for (; i + 4 <= rows; i += 4) Dots4(r + i, keys, offset, length, slot);
        if (i + 2 <= rows) Dots2(r + i, keys, offset, length, slot);
        if ((rows & 1) != 0) Dots1(r + rows - 1, keys, offset, length, slot);
    }

    private static void Dots4(DecodeAttentionManagedRow* r, byte** keys, nint offset, nint length, int slot)
    {
        float* q0 = r[0].Q, q1 = r[1].Q, q2 = r[2].Q, q3 = r[3].Q;
        for (int j = 0; j < Step; j += 2)
        {
            byte* k0 = keys[j] + offset, k1 = keys[j + 1] + offset;
            V s00 = L.Broadcast(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00;
            for (nint i = 0; i < length; i += L.Count)
            {
                V a = E.Load<L, V>(k0 + i * E.Size), b = E.Load<L, V>(k1 + i * E.Size), q = L.Load(q0 + i);
                s00 = L.MultiplyAdd(q, a, s00);
                s01 = L.MultiplyAdd(q, b, s01);
                q = L.Load(q1 + i);
                s10 = L.MultiplyAdd(q, a, s10);
                s11 = L.MultiplyAdd(q, b, s11);
                q = L.Load(q2 + i);
                s20 = L.MultiplyAdd(q, a, s20);
                s21 = L.MultiplyAdd(q, b, s21);
                q = L.Load(q3 + i);
                s30 = L.MultiplyAdd(q, a, s30);
                s31 = L.MultiplyAdd(q, b, s31);
            }
            Vector128<float> low = LaneSums.Of(L.Fold(s00), L.Fold(s01), L.Fold(s10), L.Fold(s11));
            Vector128<float> high = LaneSums.Of(L.Fold(s20), L.Fold(s21), L.Fold(s30), L.Fold(s31));
            *(double*)(r[0].X + slot + j) = low.AsDouble()[0];
            *(double*)(r[1].X + slot + j) = low.AsDouble()[1];
            *(double*)(r[2].X + slot + j) = high.AsDouble()[0];
            *(double*)(r[3].X + slot + j) = high.AsDouble()[1];
        }
    }

    private static void Dots2(DecodeAttentionManagedRow* r, byte** keys, nint offset, nint length, int slot)
    {
        float* q0 = r[0].Q, q1 = r[1].Q;
        for (int j = 0; j < Step; j += 4)
        {
            byte* k0 = keys[j] + offset, k1 = keys[j + 1] + offset, k2 = keys[j + 2] + offset, k3 = keys[j + 3] + offset;
            V s00 = L.Broadcast(0), s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00, s12 = s00, s13 = s00;
            for (nint i = 0; i < length; i += L.Count)
            {
                V a = L.Load(q0 + i), b = L.Load(q1 + i), k = E.Load<L, V>(k0 + i * E.Size);
                s00 = L.MultiplyAdd(a, k, s00);
                s10 = L.MultiplyAdd(b, k, s10);
                k = E.Load<L, V>(k1 + i * E.Size);
                s01 = L.MultiplyAdd(a, k, s01);
                s11 = L.MultiplyAdd(b, k, s11);
                k = E.Load<L, V>(k2 + i * E.Size);
                s02 = L.MultiplyAdd(a, k, s02);
                s12 = L.MultiplyAdd(b, k, s12);
                k = E.Load<L, V>(k3 + i * E.Size);
                s03 = L.MultiplyAdd(a, k, s03);
                s13 = L.MultiplyAdd(b, k, s13);
            }
            LaneSums.Of(L.Fold(s00), L.Fold(s01), L.Fold(s02), L.Fold(s03)).Store(r[0].X + slot + j);
            LaneSums.Of(L.Fold(s10), L.Fold(s11), L.Fold(s12), L.Fold(s13)).Store(r[1].X + slot + j);
        }
    }

    private static void Dots1(DecodeAttentionManagedRow* r, byte** keys, nint offset, nint length, int slot)
    {
        float* q = r->Q;
        for (int j = 0; j < Step; j += 4)
        {
            byte* k0 = keys[j] + offset, k1 = keys[j + 1] + offset, k2 = keys[j + 2] + offset, k3 = keys[j + 3] + offset;
            V s0 = L.Broadcast(0), s1 = s0, s2 = s0, s3 = s0;
            for (nint i = 0; i < length; i += L.Count)
            {
                V x = L.Load(q + i);
                s0 = L.MultiplyAdd(x, E.Load<L, V>(k0 + i * E.Size), s0);
                s1 = L.MultiplyAdd(x, E.Load<L, V>(k1 + i * E.Size), s1);
                s2 = L.MultiplyAdd(x, E.Load<L, V>(k2 + i * E.Size), s2);
                s3 = L.MultiplyAdd(x, E.Load<L, V>(k3 + i * E.Size), s3);
            }
            LaneSums.Of(L.Fold(s0), L.Fold(s1), L.Fold(s2), L.Fold(s3)).Store(r->X + slot + j);
        }
    }

    /// <summary>O += sum x[j] v_j of 4, 2 or 1 rows over `count` keys from slot j on.</summary>
    public static void Sums(DecodeAttentionManagedRow* r, int rows, byte** values, int count, nint offset, nint length, int slot)
    {
        nint at = rows == 4 ? Sums4(r, values, count, offset, length, slot)
            : rows == 2 ? Sums2(r, values, count, offset, length, slot)
            : Sums1(r, values, count, offset, length, slot);
        for (; at < length; at += L.Count)
            for (int i = 0; i < rows; i++) Rest(r + i, values, count, offset, at, slot);
    }

    private static nint Sums4(DecodeAttentionManagedRow* r, byte** values, int count, nint offset, nint length, int slot)
    {
        float* o0 = r[0].O, o1 = r[1].O, o2 = r[2].O, o3 = r[3].O;
        float* p0 = r[0].X + slot, p1 = r[1].X + slot, p2 = r[2].X + slot, p3 = r[3].X + slot;
        nint at = 0;
        for (; at + 2 * L.Count <= length; at += 2 * L.Count)
        {
            V s00 = L.Load(o0 + at), s01 = L.Load(o0 + at + L.Count), s10 = L.Load(o1 + at), s11 = L.Load(o1 + at + L.Count);
            V s20 = L.Load(o2 + at), s21 = L.Load(o2 + at + L.Count), s30 = L.Load(o3 + at), s31 = L.Load(o3 + at + L.Count);
            nint from = offset + at * E.Size;
            for (nint j = 0; j < count; j++)
            {
                byte* v = values[j] + from;
                V a = E.Load<L, V>(v), b = E.Load<L, V>(v + L.Count * E.Size), p = L.Broadcast(p0[j]);
                s00 = L.MultiplyAdd(p, a, s00);
                s01 = L.MultiplyAdd(p, b, s01);
                p = L.Broadcast(p1[j]);
                s10 = L.MultiplyAdd(p, a, s10);
                s11 = L.MultiplyAdd(p, b, s11);
                p = L.Broadcast(p2[j]);
                s20 = L.MultiplyAdd(p, a, s20);
                s21 = L.MultiplyAdd(p, b, s21);
                p = L.Broadcast(p3[j]);
                s30 = L.MultiplyAdd(p, a, s30);
                s31 = L.MultiplyAdd(p, b, s31);
            }
            L.Store(s00, o0 + at);
            L.Store(s01, o0 + at + L.Count);
            L.Store(s10, o1 + at);
            L.Store(s11, o1 + at + L.Count);
            L.Store(s20, o2 + at);
            L.Store(s21, o2 + at + L.Count);
            L.Store(s30, o3 + at);
            L.Store(s31, o3 + at + L.Count);
        }
        return at;
    }

    private static nint Sums2(DecodeAttentionManagedRow* r, byte** values, int count, nint offset, nint length, int slot)
    {
        float* o0 = r[0].O, o1 = r[1].O, p0 = r[0].X + slot, p1 = r[1].X + slot;
        nint at = 0;
        for (; at + 4 * L.Count <= length; at += 4 * L.Count)
        {
            V s00 = L.Load(o0 + at), s01 = L.Load(o0 + at + L.Count), s02 = L.Load(o0 + at + 2 * L.Count), s03 = L.Load(o0 + at + 3 * L.Count);
            V s10 = L.Load(o1 + at), s11 = L.Load(o1 + at + L.Count), s12 = L.Load(o1 + at + 2 * L.Count), s13 = L.Load(o1 + at + 3 * L.Count);
            nint from = offset + at * E.Size;
            for (nint j = 0; j < count; j++)
            {
                byte* v = values[j] + from;
                V a = L.Broadcast(p0[j]), b = L.Broadcast(p1[j]), x = E.Load<L, V>(v);
                s00 = L.MultiplyAdd(a, x, s00);
                s10 = L.MultiplyAdd(b, x, s10);
                x = E.Load<L, V>(v + L.Count * E.Size);
                s01 = L.MultiplyAdd(a, x, s01);
                s11 = L.MultiplyAdd(b, x, s11);
                x = E.Load<L, V>(v + 2 * L.Count * E.Size);
                s02 = L.MultiplyAdd(a, x, s02);
                s12 = L.MultiplyAdd(b, x, s12);
                x = E.Load<L, V>(v + 3 * L.Count * E.Size);
                s03 = L.MultiplyAdd(a, x, s03);
                s13 = L.MultiplyAdd(b, x, s13);
            }
            L.Store(s00, o0 + at);
            L.Store(s01, o0 + at + L.Count);
            L.Store(s02, o0 + at + 2 * L.Count);
            L.Store(s03, o0 + at + 3 * L.Count);
            L.Store(s10, o1 + at);
            L.Store(s11, o1 + at + L.Count);
            L.Store(s12, o1 + at + 2 * L.Count);
            L.Store(s13, o1 + at + 3 * L.Count);
        }
        return at;
    }

    private static nint Sums1(DecodeAttentionManagedRow* r, byte** values, int count, nint offset, nint length, int slot)
    {
        float* o = r->O, p = r->X + slot;
        nint at = 0;
        for (; at + 4 * L.Count <= length; at += 4 * L.Count)
        {
            V s0 = L.Load(o + at), s1 = L.Load(o + at + L.Count), s2 = L.Load(o + at + 2 * L.Count), s3 = L.Load(o + at + 3 * L.Count);
            nint from = offset + at * E.Size;
            for (nint j = 0; j < count; j++)
            {
                byte* v = values[j] + from;
                V x = L.Broadcast(p[j]);
                s0 = L.MultiplyAdd(x, E.Load<L, V>(v), s0);
                s1 = L.MultiplyAdd(x, E.Load<L, V>(v + L.Count * E.Size), s1);
                s2 = L.MultiplyAdd(x, E.Load<L, V>(v + 2 * L.Count * E.Size), s2);
                s3 = L.MultiplyAdd(x, E.Load<L, V>(v + 3 * L.Count * E.Size), s3);
            }
            L.Store(s0, o + at);
            L.Store(s1, o + at + L.Count);
            L.Store(s2, o + at + 2 * L.Count);
            L.Store(s3, o + at + 3 * L.Count);
        }
        return at;
    }

    private static void Rest(DecodeAttentionManagedRow* r, byte** values, int count, nint offset, nint at, int slot)
    {
        V sum = L.Load(r->O + at);
        nint from = offset + at * E.Size;
        for (nint j = 0; j < count; j++) sum = L.MultiplyAdd(L.Broadcast(r->X[slot + j]), E.Load<L, V>(values[j] + from), sum);
        L.Store(sum, r->O + at);
    }
}
