using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>One call of the managed row: what its tasks read.</summary>
internal unsafe struct SpGemmManagedCall
{
    public KnSpgemmProblem* Problem;
    public KnSpgemmArgs* Args;
    public long TaskProducts;  // products per task
    public long Slots;         // of one table
    public long ScratchBytes;  // of one worker
    public long Workers;
    public long* PartEntries;  // [tasks] of the part of a longer row that a task begins with
    public bool Values, Write, ReadsValues;
    public GCHandle Failure;   // of a StrongBox<Exception?> where a user's operators may throw

    public readonly long FirstRow(long task)
    {
        KnSpgemmArgs* a = Args;
        long wanted = a->Products[a->RowFrom] + task * TaskProducts, low = a->RowFrom, high = a->RowTo;
        while (low < high)
        {
            long middle = (low + high) >>> 1;
            if (a->Products[middle] < wanted) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    public readonly long TaskOf(long i) => (Args->Products[i] - Args->Products[Args->RowFrom]) / TaskProducts;

    /// <summary>Tasks that share row i by ranges of its columns, from the one it begins in on. Each looks at all products where B is not sorted.</summary>
    public readonly long Parts(long i)
    {
        KnSpgemmArgs* a = Args;
        if (a->Products[i + 1] - a->Products[i] <= TaskProducts) return 1;
        return Math.Min(Workers, (a->Products[i + 1] - 1 - a->Products[a->RowFrom]) / TaskProducts - TaskOf(i) + 1);
    }

    /// <summary>The part of the row before <paramref name="first"/> that the task, whose first row that is, begins with; 0: none.</summary>
    public readonly long PartAt(long task, long first)
    {
        if (first == Args->RowFrom) return 0;
        long part = task - TaskOf(first - 1);
        return part < Parts(first - 1) ? part : 0;
    }

    /// <summary>Where the columns of a part begin.</summary>
    public readonly long LowOf(long part, long parts) => (long)((Int128)Problem->N * part / parts);

    /// <summary>A row that may be shared is sorted whatever is asked, so that its order does not say how many workers there were.</summary>
    public readonly bool Ordered(long i) => !SpGemmRules.Has(*Problem, KnSpgemmFlags.Unsorted) || Args->Products[i + 1] - Args->Products[i] > LeastTask;

    /// <summary>Products that are worth a task.</summary>
    public const long LeastTask = 4096;

    public readonly long Tasks => (Args->Products[Args->RowTo] - Args->Products[Args->RowFrom]) / TaskProducts + 1;
}

/// <summary>
/// Row-wise product (Gustavson 1978) for any semiring: the sums of a row of C in a hash table with linear probing, its columns in
/// a list that is sorted at the end. The part of the table that a row uses grows with its products, so that short rows stay in L1.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
    where TIndex : unmanaged
    where T : unmanaged
    where TSemiring : struct, ISemiring<T>
{
    private const long Empty = -1;

    /// <summary>A worker's scratch: keys and sums of the table, the columns in the order they came, the mask's table.</summary>
    private ref struct Scratch
    {
        public long* Keys, Columns, Mask;
        public T* Sums;
        public long Slots, MaskSlots, Count;
        public long Low, High;  // columns that are looked at

        public readonly bool Has(long column) => (ulong)(column - Low) < (ulong)(High - Low);
    }

    internal static void Run(SpGemmManagedCall* call, int threads)
    {
        KnSpgemmArgs* a = call->Args;
        int workers = ManagedPool.Workers(threads);
        for (int w = 0; w < workers; w++)
        {
            Scratch s = ScratchOf(call, w);
            Wipe(s.Keys, call->Slots);
            Wipe(s.Mask, call->Slots);
        }
        if (a->Phase > (int)KnSpgemmPhase.Numeric)
        {
            MakeSchedule(call);
            return;
        }
        if (a->Phase != (int)KnSpgemmPhase.Numeric)
        {
            ManagedPool.Run(threads, call->Tasks, &Body, call);
            for (long t = 1; t < call->Tasks; t++)
                if (call->FirstRow(t) is var first && call->PartAt(t, first) > 0) a->COffsets[first - a->RowFrom] += call->PartEntries[t];
            long rows = a->RowTo - a->RowFrom;
            for (long i = 0; i < rows; i++) a->COffsets[i + 1] += a->COffsets[i];
            if (a->Phase == (int)KnSpgemmPhase.Symbolic) return;
            while (rows > 0 && a->COffsets[rows] > a->CCapacity) rows--;
            *a->RowsDone = a->RowFrom + rows;
        }
        call->Write = true;
        ManagedPool.Run(threads, call->Tasks, &Body, call);
    }

    private static Scratch ScratchOf(SpGemmManagedCall* call, int worker)
    {
        byte* at = (byte*)call->Args->Workspace + worker * call->ScratchBytes;
        long bytes = call->Slots * sizeof(long);
        return new Scratch { Keys = (long*)at, Columns = (long*)(at + bytes), Mask = (long*)(at + 2 * bytes), Sums = (T*)(at + 3 * bytes) };
    }

    private static void Body(void* context, long task, int worker)
    {
        var call = (SpGemmManagedCall*)context;
        if (!call->Failure.IsAllocated)
        {
            Rows(call, task, worker);
            return;
        }
        var failure = (StrongBox<Exception?>)call->Failure.Target!;
        try
        {
            if (Volatile.Read(ref failure.Value) is null) Rows(call, task, worker);
        }
        catch (Exception e)
        {
            // The caller throws it again: a thread of the pool must not end.
            Interlocked.CompareExchange(ref failure.Value, e, null);
        }
    }

    private static void Rows(SpGemmManagedCall* call, long task, int worker)
    {
        KnSpgemmArgs* a = call->Args;
        Scratch s = ScratchOf(call, worker);
        if (a->Phase > (int)KnSpgemmPhase.Numeric)
        {
            for (long i = call->FirstRow(task), end = Math.Min(call->FirstRow(task + 1), a->RowTo); i < end; i++) ScheduleRow(call, ref s, i);
            return;
        }
        long first = call->FirstRow(task), last = a->Phase == (int)KnSpgemmPhase.Product && call->Write ? *a->RowsDone : a->RowTo, until = Math.Min(call->FirstRow(task + 1), last);
        if (first <= last && call->PartAt(task, first) is var part && part > 0) One(call, ref s, first - 1, part);
        for (long i = first; i < until; i++) One(call, ref s, i, 0);
    }

    /// <summary>One row, or a part of it.</summary>
    private static void One(SpGemmManagedCall* call, ref Scratch s, long i, long part)
    {
        KnSpgemmArgs* a = call->Args;
        long* offset = a->COffsets + (i - a->RowFrom), entries = call->PartEntries + call->TaskOf(i);
        long parts = call->Parts(i);
        if (a->Phase == (int)KnSpgemmPhase.Numeric && a->Schedule.Offsets != null && a->Schedule.Offsets[i + 1] > a->Schedule.Offsets[i])
        {
            Sum(call, i, part, parts);
            return;
        }
        (s.Low, s.High) = (call->LowOf(part, parts), call->LowOf(part + 1, parts));
        Accumulate(call, ref s, i, parts > 1);
        if (!call->Write)
        {
            if (part == 0) offset[1] = s.Count;
            else entries[part] = s.Count;
        }
        else if (a->Phase == (int)KnSpgemmPhase.Product)
        {
            long to = part == 0 ? offset[0] : offset[1];
            for (long p = part; part > 0 && p < parts; p++) to -= entries[p];
            Emit(call, ref s, to, call->Ordered(i));
        }
        else if (parts == 1)
        {
            EmitKnown(call, ref s, offset[0], offset[1]);
        }
        else
        {
            var c = new KnCsr { Columns = a->CColumns };
            long from = Bisect(c, offset[0], offset[1], s.Low);
            EmitKnown(call, ref s, from, Bisect(c, from, offset[1], s.High));
        }
        Wipe(s.Keys, s.Slots);
        Wipe(s.Mask, s.MaskSlots);
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

    /// <summary>Sums row i of C into the table, of a part those of its columns.</summary>
    private static void Accumulate(SpGemmManagedCall* call, ref Scratch s, long i, bool part)
    {
        KnSpgemmArgs* a = call->Args;
        KnSpgemmProblem* p = call->Problem;
        long products = a->Products[i + 1] - a->Products[i];
        s.Count = s.MaskSlots = 0;
        s.Slots = SpGemmManaged.SlotsFor(products, s.High - s.Low);
        bool sorted = SpGemmRules.Has(*p, KnSpgemmFlags.BSorted), choose = part && !sorted;
        bool masked = SpGemmRules.Has(*p, KnSpgemmFlags.Mask), complement = SpGemmRules.Has(*p, KnSpgemmFlags.Complement);
        if (masked) FillMask(ref s, a->Mask, i, p->N, SpGemmRules.Has(*p, KnSpgemmFlags.Valued));
        if (SpGemmRules.Has(*p, KnSpgemmFlags.Accumulate))
            for (long j = a->D.Offsets[i]; j < a->D.Offsets[i + 1]; j++)
                if (!part || s.Has(Column(a->D, j))) Add(ref s, Column(a->D, j), call->Values ? ((T*)a->D.Values)[j] : TSemiring.Zero);
        for (long e = a->A.Offsets[i]; e < a->A.Offsets[i + 1]; e++)
        {
            long k = Column(a->A, e);
            T x = call->ReadsValues ? ((T*)a->A.Values)[e] : default;
            long from = a->B.Offsets[k], to = a->B.Offsets[k + 1];
            if (part && sorted)
            {
                from = Bisect(a->B, from, to, s.Low);
                to = Bisect(a->B, from, to, s.High);
            }
            for (long j = from; j < to; j++)
            {
                long c = Column(a->B, j);
                if (choose && !s.Has(c)) continue;
                if (masked && Masked(ref s, c) == complement) continue;
                Add(ref s, c, TSemiring.Multiply(x, call->ReadsValues ? ((T*)a->B.Values)[j] : default));
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Column(in KnCsr x, long j) => sizeof(TIndex) == 4 ? ((int*)x.Columns)[j] : ((long*)x.Columns)[j];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Hash(long column, long slots) => (long)((ulong)column * 0x9e3779b97f4a7c15 >> 20) & (slots - 1);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Find(long* keys, long slots, long column)
    {
        long at = Hash(column, slots);
        while (keys[at] != column && keys[at] != Empty) at = (at + 1) & (slots - 1);
        return at;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add(ref Scratch s, long column, T product)
    {
        long at = Find(s.Keys, s.Slots, column);
        if (s.Keys[at] == Empty)
        {
            s.Keys[at] = column;
            s.Sums[at] = TSemiring.Zero;
            s.Columns[s.Count++] = column;
        }
        s.Sums[at] = TSemiring.Add(s.Sums[at], product);
    }

    private static void FillMask(ref Scratch s, in KnCsr mask, long i, long n, bool valued)
    {
        s.MaskSlots = SpGemmManaged.SlotsFor(mask.Offsets[i + 1] - mask.Offsets[i], n);
        for (long j = mask.Offsets[i]; j < mask.Offsets[i + 1]; j++)
        {
            if (valued && EqualityComparer<T>.Default.Equals(((T*)mask.Values)[j], default)) continue;
            long c = Column(mask, j);
            s.Mask[Find(s.Mask, s.MaskSlots, c)] = c;
        }
    }

    private static bool Masked(ref Scratch s, long column) => s.Mask[Find(s.Mask, s.MaskSlots, column)] == column;

    /// <summary>Also what emptied slots one by one would cost: a table has at most four slots per product.</summary>
    private static void Wipe(long* keys, long slots) => NativeMemory.Fill(keys, (nuint)slots * sizeof(long), 0xff);

    private static void Emit(SpGemmManagedCall* call, ref Scratch s, long to, bool ordered)
    {
        if (ordered) Sort(ref s);
        for (long j = 0; j < s.Count; j++)
        {
            long column = s.Columns[j];
            if (sizeof(TIndex) == 4) ((int*)call->Args->CColumns)[to + j] = (int)column;
            else ((long*)call->Args->CColumns)[to + j] = column;
            if (call->Values) ((T*)call->Args->CValues)[to + j] = s.Sums[Find(s.Keys, s.Slots, column)];
        }
    }

    private static void Sort(ref Scratch s)
    {
        bool ascending = true;
        for (long j = 1; j < s.Count; j++) ascending &= s.Columns[j - 1] < s.Columns[j];
        if (!ascending) new Span<long>(s.Columns, (int)s.Count).Sort();
    }

    private static void EmitKnown(SpGemmManagedCall* call, ref Scratch s, long from, long to)
    {
        if (!call->Values) return;
        for (long j = from; j < to; j++)
        {
            long column = sizeof(TIndex) == 4 ? ((int*)call->Args->CColumns)[j] : ((long*)call->Args->CColumns)[j];
            long at = Find(s.Keys, s.Slots, column);
            ((T*)call->Args->CValues)[j] = s.Keys[at] == column ? s.Sums[at] : TSemiring.Zero;
        }
    }
}
