using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Rows over a span that no accumulator has: sums in a hash table with linear probing, columns in a list that is sorted at the end. The
/// part of the table that a row uses grows with its products.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    private const long Empty = -1;

    /// <summary>Keys and sums, the columns in the order in which they came, the mask's keys.</summary>
    private ref struct Table(byte* at, long slots)
    {
        public long* Keys = (long*)at, Columns = (long*)at + slots, Mask = (long*)at + 2 * slots;
        public T* Sums = (T*)((long*)at + 3 * slots);
        public long Slots, MaskSlots, Count;
    }

    private static long Hash(SpGemmManagedCall* call, ref Scratch s, in SpGemmPart r, TIndex* c, T* v)
    {
        ref Table t = ref s.Table;
        Hash(call, ref t, r);
        if (call->Ordered(r.I)) new Span<long>(t.Columns, checked((int)t.Count)).Sort();
        for (long j = 0; j < t.Count; j++)
        {
            SetColumn(c, j, t.Columns[j]);
            if (HasValues) v[j] = t.Sums[Find(t.Keys, t.Slots, t.Columns[j])];
        }
        return t.Count;
    }

    /// <summary>Values of known columns; Zero where none has a product.</summary>
    private static void HashKnown(SpGemmManagedCall* call, ref Scratch s, in SpGemmPart r, TIndex* c, T* v, long n)
    {
        ref Table t = ref s.Table;
        Hash(call, ref t, r);
        for (long j = 0; j < n; j++)
        {
            long at = Find(t.Keys, t.Slots, Column(c, j));
            v[j] = t.Keys[at] == Column(c, j) ? t.Sums[at] : TSemiring.Zero;
        }
    }

    /// <summary>Sums a part into the table.</summary>
    private static void Hash(SpGemmManagedCall* call, ref Table t, in SpGemmPart r)
    {
        KnSpgemmArgs* args = call->Args;
        ref readonly KnCsr a = ref args->A, b = ref args->B, d = ref args->D;
        bool masked = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Mask), complement = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Complement);
        bool reads = HasValues && call->ReadsValues;
        t.Count = 0;
        t.Slots = SpGemmManaged.SlotsFor(args->Products[r.I + 1] - args->Products[r.I], r.High - r.Low);
        Wipe(t.Keys, t.Slots);
        if (masked) FillMask(call, ref t, r.I);
        if (SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Accumulate))
            for (long j = d.Offsets[r.I]; j < d.Offsets[r.I + 1]; j++)
                if (Column(d, j) >= r.Low && Column(d, j) < r.High) Add(ref t, Column(d, j), HasValues ? ((T*)d.Values)[j] : TSemiring.Zero);
        for (long e = a.Offsets[r.I]; e < a.Offsets[r.I + 1]; e++)
        {
            T x = reads ? ((T*)a.Values)[e] : default;
            for (long k = Column(a, e), j = b.Offsets[k]; j < b.Offsets[k + 1]; j++)
            {
                long column = Column(b, j);
                if (column < r.Low || column >= r.High) continue;
                if (masked && t.Mask[Find(t.Mask, t.MaskSlots, column)] == column == complement) continue;
                Add(ref t, column, TSemiring.Multiply(x, reads ? ((T*)b.Values)[j] : default));
            }
        }
    }

    private static void FillMask(SpGemmManagedCall* call, ref Table t, long i)
    {
        ref readonly KnCsr mask = ref call->Args->Mask;
        bool valued = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Valued);
        t.MaskSlots = SpGemmManaged.SlotsFor(mask.Offsets[i + 1] - mask.Offsets[i], call->Problem->N);
        Wipe(t.Mask, t.MaskSlots);
        for (long j = mask.Offsets[i]; j < mask.Offsets[i + 1]; j++)
        {
            if (valued && EqualityComparer<T>.Default.Equals(((T*)mask.Values)[j], default)) continue;
            t.Mask[Find(t.Mask, t.MaskSlots, Column(mask, j))] = Column(mask, j);
        }
    }

    private static void Wipe(long* keys, long slots) => NativeMemory.Fill(keys, (nuint)slots * sizeof(long), 0xff);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Find(long* keys, long slots, long column)
    {
        long at = (long)((ulong)column * 0x9e3779b97f4a7c15 >> 20) & (slots - 1);
        while (keys[at] != column && keys[at] != Empty) at = (at + 1) & (slots - 1);
        return at;
    }

    private static void Add(ref Table t, long column, T product)
    {
        long at = Find(t.Keys, t.Slots, column);
        if (t.Keys[at] == Empty)
        {
            t.Keys[at] = t.Columns[t.Count++] = column;
            if (HasValues) t.Sums[at] = TSemiring.Zero;
        }
        if (HasValues) t.Sums[at] = TSemiring.Add(t.Sums[at], product);
    }
}
