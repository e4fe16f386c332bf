using System.Runtime.CompilerServices;
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

    private static bool HasValues => typeof(TSemiring) != typeof(NoValues);

    /// <summary>A worker's scratch. Between rows: sums Zero, nothing marked.</summary>
    private ref struct Scratch
    {
        public SpGemmManagedState* State;
        public long Columns;
        public Accumulator Zero;  // of columns from 0 on
        public SpGemmManagedShort* Short;
        public SpGemmManagedGroup* Group;
        public Table Table;
    }

    internal static void Run(SpGemmManagedCall* call)
    {
        KnSpgemmArgs* a = call->Args;
        int workers = ManagedPool.Workers(call->Threads);
        for (int w = 0; w < workers; w++)
        {
            *call->StateOf(w) = default;
            SpGemmManagedShort.Clear((SpGemmManagedShort*)call->ShortOf(w));
            for (int b = 0; b < SpGemmManagedCall.Buffers; b++) call->StateOf(w)->Waiting[b] = -1;
        }
        call->Groups = call->Group && MayGroup;
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
        Group = (SpGemmManagedGroup*)call->GroupOf(worker),
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
            NumericRows(call, ref s, h, worker);
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
        if (h.Split >= 0)
        {
            count = Row(call, ref s, call->PartOf(h.Split, slot - call->SlotOf(h.Split)), c, v);
            if (h.SplitEnds) call->EndOf(h.Split) = count;
        }
        for (long i = h.First; i < h.Last; i++)
        {
            int rows = GroupOf(call, ref s, i, end);
            if (rows > 0)
            {
                count += GroupRows(call, ref s, i, rows, c, v, count);
                i += rows - 1;
                continue;
            }
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
        if (last - first == 1 && r.Whole && !masked && !SpGemmRules.Has(*p, KnSpgemmFlags.Accumulate) && call->BSorted)
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
        if (!r.Whole || call->Problem->N <= Narrow || !call->BSorted) return (r.Low, r.High);
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
