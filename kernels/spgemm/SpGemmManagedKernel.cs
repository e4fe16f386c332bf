using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Row-wise product (Gustavson 1978) for any semiring. A row of C is summed in an array over the span of its columns, which begins
/// near its first one, so that the same part of the array serves row after row and stays in the caches. What was touched is marked in
/// bytes where products are a good part of the span, else in bits with a second level that says which words have any; both
/// are read 64 columns at a time, and so come out sorted. Rows over a wider span are in SpGemmManagedHash.cs.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
    where TIndex : unmanaged
    where T : unmanaged
    where TSemiring : struct, ISemiring<T>
{
    /// <summary>Columns for a product up to which marks are bytes.</summary>
    private const long Dense = 128;

    /// <summary>Columns of C up to which to pass over the empty ones costs less than to find the first and the last.</summary>
    private const long Narrow = 1 << 12;

    /// <summary>Columns that may be written behind the last one.</summary>
    private const int Behind = SpGemmManagedCall.Behind;

    /// <summary>What the accumulator's first column is a multiple of.</summary>
    private const long Origin = 4096;

    private static bool HasValues => typeof(TSemiring) != typeof(NoValues);

    /// <summary>A worker's scratch. Between rows: sums Zero, nothing marked.</summary>
    private ref struct Scratch
    {
        public SpGemmManagedState* State;
        public long Columns;
        public Accumulator Zero;  // of columns from 0 on
        public SpGemmManagedShort* Short;
        public Table Table;
    }

    /// <summary>Where column 0 would be, whichever column comes first: that is a multiple of 4096, so that all of its marks begin a word.</summary>
    private readonly struct Accumulator(T* sums, byte* marks, ulong* bits, ulong* words, ulong* mask)
    {
        public readonly T* Sums = sums;
        public readonly byte* Marks = marks;
        public readonly ulong* Bits = bits, Words = words, Mask = mask;

        public Accumulator From(long low) => new(Sums - low, Marks - low, Bits - low / 64, Words - low / 4096, Mask - low / 64);

        public bool IsMasked(long column) => (Mask[column >> 6] >> (int)column & 1) != 0;
    }

    internal static void Run(SpGemmManagedCall* call)
    {
        KnSpgemmArgs* a = call->Args;
        int workers = ManagedPool.Workers(call->Threads);
        for (int w = 0; w < workers; w++)
        {
            *call->StateOf(w) = default;
            for (int b = 0; b < SpGemmManagedCall.Buffers; b++) call->StateOf(w)->Waiting[b] = -1;
        }
        bool sizes = a->Phase is (int)KnSpgemmPhase.Symbolic or (int)KnSpgemmPhase.Product;
        if (sizes)
        {
            for (long t = 0; t < call->Slots; t++) call->Counts[t] = -1;
            call->Bases[0] = a->COffsets[0];
        }
        ManagedPool.Run(call->Threads, call->Slots, &Body, call);
        if (sizes && call->Stop != 0) ManagedPool.Run(call->Threads, workers, &Flush, call);
        if (a->Phase == (int)KnSpgemmPhase.Product) *a->RowsDone = call->PlaceRest();
        if (a->Phase == (int)KnSpgemmPhase.ScheduleSizes) SumSizes(call);
    }

    private static void Flush(void* context, long index, int worker) => ((SpGemmManagedCall*)context)->Flush((int)index);

    private static Scratch ScratchOf(SpGemmManagedCall* call, int worker) => new()
    {
        State = call->StateOf(worker),
        Columns = call->Columns,
        Zero = new((T*)call->SumsOf(worker), call->MarksOf(worker), call->BitsOf(worker), call->WordsOf(worker), call->MaskOf(worker)),
        Short = (SpGemmManagedShort*)call->ShortOf(worker),
        Table = new Table(call->TableOf(worker), call->TableSlots),
    };

    private static void Body(void* context, long slot, int worker)
    {
        var call = (SpGemmManagedCall*)context;
        if (!call->Failure.IsAllocated)
        {
            Slot(call, slot, worker);
            return;
        }
        var failure = (StrongBox<Exception?>)call->Failure.Target!;
        try
        {
            if (Volatile.Read(ref failure.Value) is null) Slot(call, slot, worker);
        }
        catch (Exception e)
        {
            // The caller throws it again: a thread of the pool must not end, and none may wait for this slot.
            Interlocked.CompareExchange(ref failure.Value, e, null);
            Volatile.Write(ref call->Stop, 0);
        }
    }

    private static void Slot(SpGemmManagedCall* call, long slot, int worker)
    {
        KnSpgemmArgs* a = call->Args;
        if (Volatile.Read(ref call->Stop) <= slot) return;
        Scratch s = ScratchOf(call, worker);
        SpGemmManagedCall.Share h = call->ShareOf(slot);
        if (a->Phase > (int)KnSpgemmPhase.Numeric)
        {
            for (long i = h.First; i < h.Last; i++) ScheduleRow(call, ref s, i, (uint*)call->ColumnsOf(worker, 0));
            return;
        }
        if (a->Phase == (int)KnSpgemmPhase.Numeric)
        {
            if (h.Split >= 0) Numeric(call, ref s, h.Split, slot - call->SlotOf(h.Split), worker);
            for (long i = h.First; i < h.Last; i++) Numeric(call, ref s, i, 0, worker);
            return;
        }
        bool direct = call->InPlace(slot, h);
        int b = direct ? 0 : call->FreeBuffer(worker);
        if (b < 0) return;
        var c = direct ? (TIndex*)a->CColumns + call->Bases[slot] : (TIndex*)call->ColumnsOf(worker, b);
        var v = direct && HasValues ? (T*)a->CValues + call->Bases[slot] : (T*)call->ValuesOf(worker, b);
        long count = Rows(call, ref s, h, slot, c, v);
        if (direct) call->ShiftEnds(slot);
        else s.State->Waiting[b] = slot;
        Volatile.Write(ref call->Counts[slot], count);
        call->Advance();
        call->Flush(worker);
    }

    /// <summary>Computes a slot to these addresses; ends of rows are relative to it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long Rows(SpGemmManagedCall* call, ref Scratch s, in SpGemmManagedCall.Share h, long slot, TIndex* c, T* v)
    {
        long count = 0, end = h.EndsTo;
        // A slot knows no forms of others.
        s.Short->CandidateProducts = s.Short->FormProducts = 0;
        if (h.Split >= 0)
        {
            count = Row(call, ref s, call->PartOf(h.Split, slot - call->SlotOf(h.Split)), c, v);
            if (h.SplitEnds) call->EndOf(h.Split) = count;
        }
        for (long i = h.First; i < h.Last; i++)
        {
            if (call->Far && i + 1 < h.Last) Prefetch(call, i + 1);
            count += IsShort(call, i) ? ShortRow(call, ref s, i, c + count, v + count) : Row(call, ref s, call->PartOf(i, 0), c + count, v + count);
            if (i < end) call->EndOf(i) = count;
        }
        return count;
    }

    /// <summary>Rows of B that the next row wants, so that they are on their way while this one is computed.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(SpGemmManagedCall* call, long i)
    {
        if (!Sse.IsSupported) return;
        ref readonly KnCsr a = ref call->Args->A, b = ref call->Args->B;
        for (long e = a.Offsets[i], end = Math.Min(a.Offsets[i + 1], e + 64); e < end; e++)
        {
            long from = b.Offsets[Column(a, e)];
            Sse.Prefetch0((TIndex*)b.Columns + from);
            if (HasValues) Sse.Prefetch0((T*)b.Values + from);
        }
    }

    /// <summary>Writes columns and values of a part and returns how many.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Row(SpGemmManagedCall* call, ref Scratch s, in SpGemmPart r, TIndex* c, T* v)
    {
        KnSpgemmArgs* a = call->Args;
        KnSpgemmProblem* p = call->Problem;
        long products = a->Products[r.I + 1] - a->Products[r.I], first = a->A.Offsets[r.I], last = a->A.Offsets[r.I + 1];
        if (products == 0) return 0;
        bool masked = SpGemmRules.Has(*p, KnSpgemmFlags.Mask);
        if (last - first == 1 && r.Whole && !masked && !SpGemmRules.Has(*p, KnSpgemmFlags.Accumulate) && SpGemmRules.Has(*p, KnSpgemmFlags.BSorted))
            return Copy(call, first, c, v);
        (long low, long high) = Span(call, r);
        if (low >= high) return 0;
        long from = low & -Origin;
        if (high - from > SpGemmManagedCall.Widest) return Hash(call, ref s, r, c, v);
        Ready(ref s, high - from);
        Accumulator sums = s.Zero.From(from);
        if (!masked && high - low <= Dense * products)
        {
            Accumulate<Bytes>(call, sums, r, false);
            return EmitBytes(sums, low, high, c, v);
        }
        if (masked) MarkMask(call, sums, r.I, from, high, true);
        Accumulate<Bits>(call, sums, r, masked);
        if (masked) MarkMask(call, sums, r.I, from, high, false);
        return EmitBits(sums, low, high, c, v);
    }

    /// <summary>A row of B times one number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long Copy(SpGemmManagedCall* call, long e, TIndex* c, T* v)
    {
        ref readonly KnCsr b = ref call->Args->B;
        long k = Column(call->Args->A, e), from = b.Offsets[k], n = b.Offsets[k + 1] - from;
        Buffer.MemoryCopy((TIndex*)b.Columns + from, c, n * sizeof(TIndex), n * sizeof(TIndex));
        if (!HasValues) return n;
        T x = call->ReadsValues ? ((T*)call->Args->A.Values)[e] : default;
        T* y = (T*)b.Values + from;
        for (long j = 0; j < n; j++) v[j] = TSemiring.Add(TSemiring.Zero, TSemiring.Multiply(x, call->ReadsValues ? y[j] : default));
        return n;
    }

    /// <summary>Columns [Low, High) have all of the part.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (long Low, long High) Span(SpGemmManagedCall* call, in SpGemmPart r)
    {
        KnSpgemmArgs* args = call->Args;
        ref readonly KnCsr a = ref args->A, b = ref args->B, d = ref args->D;
        if (!r.Whole || call->Problem->N <= Narrow || !SpGemmRules.Has(*call->Problem, KnSpgemmFlags.BSorted)) return (r.Low, r.High);
        long low = long.MaxValue, high = -1;
        for (long e = a.Offsets[r.I]; e < a.Offsets[r.I + 1]; e++)
        {
            long k = Column(a, e), from = b.Offsets[k], to = b.Offsets[k + 1];
            if (from == to) continue;
            (low, high) = (Math.Min(low, Column(b, from)), Math.Max(high, Column(b, to - 1)));
        }
        // D's columns may be in any order.
        if (SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Accumulate))
            for (long j = d.Offsets[r.I]; j < d.Offsets[r.I + 1]; j++) (low, high) = (Math.Min(low, Column(d, j)), Math.Max(high, Column(d, j)));
        return (low, high + 1);
    }

    /// <summary>Makes the first columns of the accumulator what it must be between rows; beyond, it is never touched.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Ready(ref Scratch s, long columns)
    {
        if (columns > s.State->Ready) MakeReady(ref s, s.State->Ready, Math.Min((columns + Origin - 1) & -Origin, s.Columns));
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void MakeReady(ref Scratch s, long from, long to)
    {
        for (long j = from; HasValues && j < to; j++) s.Zero.Sums[j] = TSemiring.Zero;
        new Span<byte>(s.Zero.Marks + from, (int)(to - from)).Clear();
        new Span<ulong>(s.Zero.Bits + from / 64, (int)(to - from) / 64).Clear();
        new Span<ulong>(s.Zero.Mask + from / 64, (int)(to - from) / 64).Clear();
        new Span<ulong>(s.Zero.Words + from / Origin, (int)((to - from + Origin - 1) / Origin)).Clear();
        s.State->Ready = to;
    }

    /// <summary>The mask's entries in columns [low, high), set or cleared.</summary>
    private static void MarkMask(SpGemmManagedCall* call, in Accumulator sums, long i, long low, long high, bool set)
    {
        ref readonly KnCsr m = ref call->Args->Mask;
        bool valued = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Valued);
        for (long j = m.Offsets[i]; j < m.Offsets[i + 1]; j++)
        {
            long column = Column(m, j);
            if (column < low || column >= high || (set && valued && EqualityComparer<T>.Default.Equals(((T*)m.Values)[j], default))) continue;
            if (set) sums.Mask[column >> 6] |= 1UL << (int)column;
            else sums.Mask[column >> 6] = 0;
        }
    }

    /// <summary>How a column that is touched is remembered.</summary>
    private interface IMarks
    {
        static abstract void Mark(byte* marks, ulong* bits, ulong* words, long column);
    }

    private readonly struct Bytes : IMarks
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Mark(byte* marks, ulong* bits, ulong* words, long column) => marks[column] = 0xff;
    }

    private readonly struct Bits : IMarks
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Mark(byte* marks, ulong* bits, ulong* words, long column)
        {
            ulong before = bits[column >> 6];
            bits[column >> 6] = before | 1UL << (int)column;
            if (before == 0) words[column >> 12] |= 1UL << (int)(column >> 6);
        }
    }

    /// <summary>For values of known columns.</summary>
    private readonly struct Nothing : IMarks
    {
        public static void Mark(byte* marks, ulong* bits, ulong* words, long column) { }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Accumulate<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r, bool masked) where TMarks : struct, IMarks
    {
        bool sorted = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.BSorted);
        if (SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Accumulate)) Addend<TMarks>(call, to, r);
        if (masked || (!r.Whole && !sorted)) Chosen<TMarks>(call, to, r, masked);
        else Products<TMarks>(call, to, r);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Products<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r) where TMarks : struct, IMarks
    {
        // Copies in registers: the loop stores, and the compiler cannot know that it does not store to these.
        KnCsr a = call->Args->A, b = call->Args->B;
        T* sums = to.Sums;
        byte* marks = to.Marks;
        ulong* bits = to.Bits, words = to.Words;
        bool whole = r.Whole, reads = HasValues && call->ReadsValues;
        for (long e = a.Offsets[r.I], end = a.Offsets[r.I + 1]; e < end; e++)
        {
            long k = Column(a, e), from = b.Offsets[k], n = b.Offsets[k + 1] - from;
            if (!whole)
            {
                n += from;
                from = Bisect(b, from, n, r.Low);
                n = Bisect(b, from, n, r.High) - from;
            }
            TIndex* c = (TIndex*)b.Columns + from;
            if (reads)
            {
                T x = ((T*)a.Values)[e];
                T* y = (T*)b.Values + from;
                for (long j = 0; j < n; j++)
                {
                    long column = Column(c, j);
                    sums[column] = TSemiring.Add(sums[column], TSemiring.Multiply(x, y[j]));
                    TMarks.Mark(marks, bits, words, column);
                }
            }
            else
            {
                for (long j = 0; j < n; j++)
                {
                    long column = Column(c, j);
                    if (HasValues) sums[column] = TSemiring.Add(sums[column], TSemiring.Multiply(default, default));
                    TMarks.Mark(marks, bits, words, column);
                }
            }
        }
    }

    /// <summary>Products in the part's columns that the mask lets through.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Chosen<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r, bool masked) where TMarks : struct, IMarks
    {
        KnCsr a = call->Args->A, b = call->Args->B;
        bool complement = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Complement), reads = HasValues && call->ReadsValues;
        for (long e = a.Offsets[r.I], end = a.Offsets[r.I + 1]; e < end; e++)
        {
            T x = reads ? ((T*)a.Values)[e] : default;
            for (long k = Column(a, e), j = b.Offsets[k], last = b.Offsets[k + 1]; j < last; j++)
            {
                long column = Column(b, j);
                if (column < r.Low || column >= r.High || (masked && to.IsMasked(column) == complement)) continue;
                if (HasValues) to.Sums[column] = TSemiring.Add(to.Sums[column], TSemiring.Multiply(x, reads ? ((T*)b.Values)[j] : default));
                TMarks.Mark(to.Marks, to.Bits, to.Words, column);
            }
        }
    }

    /// <summary>Entries of D.</summary>
    private static void Addend<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r) where TMarks : struct, IMarks
    {
        ref readonly KnCsr d = ref call->Args->D;
        for (long j = d.Offsets[r.I]; j < d.Offsets[r.I + 1]; j++)
        {
            long column = Column(d, j);
            if (column < r.Low || column >= r.High) continue;
            if (HasValues) to.Sums[column] = TSemiring.Add(to.Sums[column], ((T*)d.Values)[j]);
            TMarks.Mark(to.Marks, to.Bits, to.Words, column);
        }
    }

    /// <summary>Writes the marked columns and their sums, and makes both what they must be between rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long EmitBits(in Accumulator from, long low, long high, TIndex* c, T* v)
    {
        ulong* all = from.Bits;
        long count = 0;
        for (long i = low >> 12; i <= (high - 1) >> 12; i++)
        {
            ulong words = from.Words[i];
            if (words == 0) continue;
            from.Words[i] = 0;
            for (; words != 0; words &= words - 1)
            {
                long word = i * 64 + BitOperations.TrailingZeroCount(words);
                Emit(all[word], word * 64, c + count);
                count += BitOperations.PopCount(all[word]);
                all[word] = 0;
            }
        }
        Take(from.Sums, c, v, count);
        return count;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long EmitBytes(in Accumulator from, long low, long high, TIndex* c, T* v)
    {
        long count = 0;
        for (long at = low & -64; at < high; at += 64)
        {
            byte* marks = from.Marks + at;
            Vector256<byte> lower = Vector256.Load(marks), upper = Vector256.Load(marks + 32);
            if ((lower | upper) == Vector256<byte>.Zero) continue;
            ulong bits = lower.ExtractMostSignificantBits() | (ulong)upper.ExtractMostSignificantBits() << 32;
            Vector256<byte>.Zero.Store(marks);
            Vector256<byte>.Zero.Store(marks + 32);
            Emit(bits, at, c + count);
            count += BitOperations.PopCount(bits);
        }
        Take(from.Sums, c, v, count);
        return count;
    }

    /// <summary>Columns of a word's bits, four at a time: how many a word has is nothing that could be predicted. What is behind the last one is written again.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Emit(ulong bits, long word, TIndex* c)
    {
        do
        {
            SetColumn(c, 0, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            SetColumn(c, 1, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            SetColumn(c, 2, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            SetColumn(c, 3, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            c += Behind;
        }
        while (bits != 0);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Take(T* sums, TIndex* c, T* v, long count)
    {
        if (!HasValues) return;
        for (long j = 0; j < count; j++)
        {
            long column = Column(c, j);
            v[j] = sums[column];
            sums[column] = TSemiring.Zero;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Column(in KnCsr x, long j) => Column((TIndex*)x.Columns, j);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Column(TIndex* c, long j) => sizeof(TIndex) == 4 ? ((int*)c)[j] : ((long*)c)[j];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SetColumn(TIndex* c, long j, long column)
    {
        if (sizeof(TIndex) == 4) ((int*)c)[j] = (int)column;
        else ((long*)c)[j] = column;
    }

    private static long Bisect(in KnCsr x, long low, long high, long column)
    {
        while (low < high)
        {
            long middle = (low + high) >>> 1;
            if (Column(x, middle) < column) low = middle + 1;
            else high = middle;
        }
        return low;
    }
}
