using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Columns [Low, High) of row I; Whole: all of them.</summary>
internal readonly record struct SpGemmPart(long I, long Low, long High, bool Whole);

/// <summary>What of a worker's scratch is as it must be between rows, and which slots wait in its buffers.</summary>
internal unsafe struct SpGemmManagedState
{
    public long Ready, GroupReady;  // columns of the accumulators that are zero and not marked
    public long Skip, Skipped;      // rows that are not tried as a group from here on, and last time
    public fixed long Waiting[SpGemmManagedCall.Buffers];  // slots, -1: none
}

/// <summary>
/// One call of spgemm/managed. Products are cut into slots of equal numbers: a slot is the task of computing the rows that begin in
/// it, and a row that would keep the others waiting is shared by ranges of its columns. Slots are written in order; until the place
/// of one is known it waits in a buffer of its worker (spgemm_drive.h does the same). Scratch is known before the run.
/// </summary>
internal unsafe struct SpGemmManagedCall
{
    /// <summary>Products of a slot; finished slots that a worker may keep.</summary>
    public const long Window = 16384;
    public const int Buffers = 4;

    /// <summary>Columns that may be written behind the last one of a slot.</summary>
    public const int Behind = 4;

    /// <summary>Columns of the accumulator at most; rows over a wider span are hashed.</summary>
    public const long Widest = 1L << 22;

    public KnSpgemmProblem* Problem;
    public KnSpgemmArgs* Args;
    public int Threads, ValueBytes;
    public long Slots, FirstProduct, Whole;
    public long Columns, Entries;  // of the accumulator, of a buffer
    public long TableSlots;        // of a worker's hash table
    public long* Counts;           // [Slots] entries of a finished slot, -1 before
    public long* Bases;            // [Slots + 1] where a slot goes, as far as Ready
    public long Ready, Stop;
    public int Busy;
    public bool Values, ReadsValues, BSorted;
    public bool Far;    // B does not stay in the caches by itself
    public bool Short;  // rows of few products are taken as such
    public bool Group, Groups;  // room for neighbours that are taken at once; and the semiring can
    public GCHandle Failure;       // of a StrongBox<Exception?> where a user's operators may throw

    private static long RoundUp(long bytes) => (bytes + 63) / 64 * 64;

    /// <summary><paramref name="valueBytes"/>: of a sum; entries have it where there are values.</summary>
    public SpGemmManagedCall(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads, int valueBytes)
    {
        Problem = p;
        Args = a;
        (Threads, ValueBytes) = (threads, valueBytes);
        (Values, ReadsValues) = (SpGemmRules.HasValues(*p), SpGemmRules.ReadsValues(*p));
        BSorted = SpGemmRules.Has(*p, KnSpgemmFlags.BSorted);
        Short = p->N <= Widest && !SpGemmRules.Has(*p, KnSpgemmFlags.Mask) && !SpGemmRules.Has(*p, KnSpgemmFlags.Accumulate);
        // What of B a group reads at once must be worth the merging.
        Group = Short && BSorted && p->IndexBytes == 4 && p->Products >= SpGemmManagedGroup.LeastLength * p->ANnz;
        Far = p->BNnz * (p->IndexBytes + valueBytes) > 256 << 10;
        Columns = (Math.Min(p->N, Widest) + 63) / 64 * 64 + 64;
        Entries = Math.Min(Window, p->Products) + Math.Min(p->Most, p->N) + 64;
        TableSlots = p->N > Widest ? SpGemmManaged.SlotsFor(p->Most, p->N) : 0;
        Stop = long.MaxValue;
        if (a == null) return;
        FirstProduct = a->Products[a->RowFrom];
        long products = a->Products[a->RowTo] - FirstProduct;
        Slots = products / Window + 1;
        // Meanwhile the others fill their buffers, and no thread is left with a quarter of its work.
        int workers = ManagedPool.Workers(threads);
        Whole = workers == 1 ? long.MaxValue : Math.Min(Math.Max(products / (4 * workers), Window), Buffers * Window);
        Counts = (long*)a->Workspace;
        Bases = Counts + MostSlots;
    }

    private readonly long MostSlots => RoundUp((Problem->Products / Window + 2) * sizeof(long)) / sizeof(long);

    private readonly long SumBytes => RoundUp(Columns * Math.Max(ValueBytes, sizeof(uint)));

    private readonly long BufferBytes => RoundUp(Entries * Problem->IndexBytes) + RoundUp(Entries * ValueBytes);

    private readonly long TableBytes => RoundUp(TableSlots * (3 * sizeof(long) + ValueBytes));

    private readonly long ShortBytes => RoundUp(SpGemmManagedShort.Bytes(ValueBytes));

    private readonly long GroupBytes => Group ? RoundUp(SpGemmManagedGroup.Bytes(Math.Min(Columns, SpGemmManagedGroup.Columns), ValueBytes)) : 0;

    private readonly long WorkerBytes => RoundUp(sizeof(SpGemmManagedState)) + SumBytes + Columns + 2 * RoundUp(Columns / 8) + RoundUp(Columns / 512 + 8) + ShortBytes + GroupBytes + TableBytes + Buffers * BufferBytes;

    public readonly long Workspace => 2 * MostSlots * sizeof(long) + ManagedPool.Workers(Threads) * WorkerBytes;

    /// <summary>Parts of a worker's scratch, in the order in which they lie: state, sums, marks as bytes, marks as bits, the mask's bits, marked words, short rows, a group, the table, buffers.</summary>
    public readonly SpGemmManagedState* StateOf(int worker) => (SpGemmManagedState*)((byte*)Args->Workspace + 2 * MostSlots * sizeof(long) + worker * WorkerBytes);
    public readonly byte* SumsOf(int worker) => (byte*)StateOf(worker) + RoundUp(sizeof(SpGemmManagedState));
    public readonly byte* MarksOf(int worker) => SumsOf(worker) + SumBytes;
    public readonly ulong* BitsOf(int worker) => (ulong*)(MarksOf(worker) + Columns);
    public readonly ulong* MaskOf(int worker) => (ulong*)((byte*)BitsOf(worker) + RoundUp(Columns / 8));
    public readonly ulong* WordsOf(int worker) => (ulong*)((byte*)MaskOf(worker) + RoundUp(Columns / 8));
    public readonly byte* ShortOf(int worker) => (byte*)WordsOf(worker) + RoundUp(Columns / 512 + 8);
    public readonly byte* GroupOf(int worker) => ShortOf(worker) + ShortBytes;
    public readonly byte* TableOf(int worker) => GroupOf(worker) + GroupBytes;
    public readonly byte* ColumnsOf(int worker, int buffer) => TableOf(worker) + TableBytes + buffer * BufferBytes;
    public readonly byte* ValuesOf(int worker, int buffer) => ColumnsOf(worker, buffer) + RoundUp(Entries * Problem->IndexBytes);

    public readonly long FirstRow(long slot)
    {
        long wanted = FirstProduct + slot * Window, low = Args->RowFrom, high = Args->RowTo;
        while (low < high)
        {
            long middle = (low + high) >>> 1;
            if (Args->Products[middle] < wanted) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    public readonly long SlotOf(long i) => (Args->Products[i] - FirstProduct) / Window;

    /// <summary>
    /// Slots that share row i, of those before the one in which it ends: there other rows begin. A part repeats the bisection of every
    /// row of B, so it must have some products for each; where B is not sorted it looks at all of them.
    /// </summary>
    public readonly long Parts(long i)
    {
        long products = Args->Products[i + 1] - Args->Products[i];
        if (products <= Whole) return 1;
        long slots = (Args->Products[i + 1] - FirstProduct - 1) / Window - SlotOf(i);
        return Math.Min(slots, BSorted
            ? Math.Max(1, products / (4 * (Args->A.Offsets[i + 1] - Args->A.Offsets[i]) + 1)) : ManagedPool.Workers(Threads));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly SpGemmPart PartOf(long i, long index)
    {
        long n = Problem->N;
        if (Args->Products[i + 1] - Args->Products[i] <= Whole) return new(i, 0, n, true);
        long parts = Parts(i);
        return parts == 1 ? new(i, 0, n, true) : new(i, (long)((Int128)n * index / parts), (long)((Int128)n * (index + 1) / parts), false);
    }

    /// <summary>A row that may be shared is sorted whatever is asked, so that its order does not say how many workers there were.</summary>
    public readonly bool Ordered(long i) => !SpGemmRules.Has(*Problem, KnSpgemmFlags.Unsorted) || Args->Products[i + 1] - Args->Products[i] > Window;

    /// <summary>What a slot computes.</summary>
    public struct Share
    {
        public long First, Last;  // rows that begin here
        public long Split;        // the row before them that goes on here, -1: none
        public bool SplitEnds, LastGoesOn;
        public readonly long EndsFrom => SplitEnds ? First - 1 : First;
        public readonly long EndsTo => LastGoesOn ? Last - 1 : Last;
    }

    public readonly Share ShareOf(long slot)
    {
        var h = new Share { First = FirstRow(slot), Last = slot + 1 == Slots ? Args->RowTo : FirstRow(slot + 1), Split = -1 };
        if (h.First > Args->RowFrom && Parts(h.First - 1) is var parts && parts > slot - SlotOf(h.First - 1))
            (h.Split, h.SplitEnds) = (h.First - 1, slot - SlotOf(h.First - 1) + 1 == parts);
        h.LastGoesOn = h.Last > h.First && Parts(h.Last - 1) > 1;
        return h;
    }

    /// <summary>The offset that says where row i ends.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly ref long EndOf(long i) => ref Args->COffsets[i + 1 - Args->RowFrom];

    /// <summary>Moves Ready over all finished slots, unless another thread is at it.</summary>
    public void Advance()
    {
        for (; ; )
        {
            // A count is stored before Busy is tried, and Busy is given up before the counts are looked at again, all in one order:
            // with less, either side may miss the other's store, and the slots after it are never placed.
            if (Interlocked.Exchange(ref Busy, 1) != 0) return;
            long t = Ready;
            for (; t < Slots; t++)
            {
                long count = Volatile.Read(ref Counts[t]);
                if (count < 0 || Volatile.Read(ref Stop) <= t) break;
                if (Args->Phase == (int)KnSpgemmPhase.Product && Bases[t] + count > Args->CCapacity)
                {
                    Volatile.Write(ref Stop, t);
                    break;
                }
                Bases[t + 1] = Bases[t] + count;
                Volatile.Write(ref Ready, t + 1);
            }
            Interlocked.Exchange(ref Busy, 0);
            // A slot that was finished meanwhile, whose thread found this one busy.
            if (t >= Slots || Volatile.Read(ref Stop) <= t || Volatile.Read(ref Counts[t]) < 0) return;
        }
    }

    private readonly void Place(int worker, int buffer, long to, long entries)
    {
        if (Args->Phase != (int)KnSpgemmPhase.Product) return;
        long index = Problem->IndexBytes;
        Buffer.MemoryCopy(ColumnsOf(worker, buffer), (byte*)Args->CColumns + to * index, entries * index, entries * index);
        if (Values) Buffer.MemoryCopy(ValuesOf(worker, buffer), (byte*)Args->CValues + to * ValueBytes, entries * ValueBytes, entries * ValueBytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void ShiftEnds(long slot)
    {
        Share h = ShareOf(slot);
        for (long i = h.EndsFrom; i < h.EndsTo; i++) EndOf(i) += Bases[slot];
    }

    /// <summary>Places what may be placed.</summary>
    public void Flush(int worker)
    {
        long known = Volatile.Read(ref Ready);
        long* waiting = StateOf(worker)->Waiting;
        for (int b = 0; b < Buffers; b++)
        {
            if (waiting[b] < 0 || waiting[b] >= known) continue;
            Place(worker, b, Bases[waiting[b]], Counts[waiting[b]]);
            ShiftEnds(waiting[b]);
            waiting[b] = -1;
        }
    }

    /// <summary>-1: nothing more is wanted.</summary>
    public int FreeBuffer(int worker)
    {
        for (var wait = new SpinWait(); ; wait.SpinOnce(sleep1Threshold: -1))
        {
            Flush(worker);
            for (int b = 0; b < Buffers; b++)
                if (StateOf(worker)->Waiting[b] < 0) return b;
            if (Volatile.Read(ref Stop) != long.MaxValue) return -1;
            Advance();
        }
    }

    /// <summary>Whether the slot may be computed where it goes: its place is known and has room for whatever it holds.</summary>
    public readonly bool InPlace(long slot, in Share h)
    {
        if (Args->Phase != (int)KnSpgemmPhase.Product || Volatile.Read(in Ready) < slot) return false;
        long products = Args->Products[h.Last] - Args->Products[h.Split >= 0 ? h.Split : h.First];
        return Bases[slot] + Math.Min(Entries, products + Behind) <= Args->CCapacity;
    }

    /// <summary>Where a slot found no room, places those of its rows that have it. Returns the first row that has none.</summary>
    public readonly long PlaceRest()
    {
        if (Stop == long.MaxValue) return Args->RowTo;
        Share h = ShareOf(Stop);
        if (h.Split >= 0) return h.Split;
        for (int worker = 0; worker < ManagedPool.Workers(Threads); worker++)
            for (int b = 0; b < Buffers; b++)
            {
                if (StateOf(worker)->Waiting[b] != Stop) continue;
                long i = h.First;
                while (i < h.EndsTo && Bases[Stop] + EndOf(i) <= Args->CCapacity) i++;
                Place(worker, b, Bases[Stop], i == h.First ? 0 : EndOf(i - 1));
                for (long r = h.First; r < i; r++) EndOf(r) += Bases[Stop];
                return i;
            }
        return h.First;
    }
}
