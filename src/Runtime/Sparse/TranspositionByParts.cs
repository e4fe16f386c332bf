using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Counting sort by column in two passes, for columns all over the place, where every entry that one pass moves misses the caches: to parts
/// of the columns, in the order of rows, then within every part. Blocks of rows and then parts are tasks of their own.
/// </summary>
internal static unsafe class TranspositionByParts<TIndex, T> where TIndex : unmanaged, IBinaryInteger<TIndex> where T : unmanaged
{
    // Counters of a part fit L1, and the places that a block writes to its TLB.
    private const int LeastShift = 12, MostParts = 1024, Sampled = 1024, Near = 8;

    private struct Call
    {
        public KnCsr From, To;
        public long Rows, Columns, Blocks, Parts;
        public int Shift;
        public long* Ends;  // [blocks, parts]: where the next entry of a block in a part goes
        public TIndex* RowOf, ColumnOf;  // [nnz], part by part
        public T* ValueOf;
        public readonly long First(long block) => Rows * block / Blocks;
        public readonly long End(long part) => part < 0 ? 0 : Ends[(Blocks - 1) * Parts + part];
    }

    /// <summary>
    /// Whether it pays: columns whose counters L2 does not hold, and rows that follow one another have their entries far apart, unlike those of grids
    /// and bands, where one pass writes next to what it wrote.
    /// </summary>
    internal static bool Pays(CsrMatrix<T> x)
    {
        if (x.Columns <= 1 << 18 || x.NonZeros <= 1 << 16) return false;
        int near = 0, far = 0;
        for (long s = 0; s < Sampled; s++)
        {
            long i = (x.Rows - 1) * s / Sampled, begin = x.OffsetsAt[i], end = x.OffsetsAt[i + 1], next = x.OffsetsAt[Math.Min(i + 2, x.Rows)];
            if (begin == end || end == next) continue;
            if (Math.Abs(x.ColumnAt(begin + (end - begin) / 2) - x.ColumnAt(end + (next - end) / 2)) <= Near) near++;
            else far++;
        }
        return far > near;
    }

    internal static void Run(CsrMatrix<T> from, CsrMatrix<T> to)
    {
        int shift = Math.Max(LeastShift, BitOperations.Log2((ulong)(from.Columns - 1)) + 1 - BitOperations.Log2(MostParts));
        long parts = ((from.Columns - 1) >> shift) + 1, blocks = 4L * ManagedPool.Workers(0);
        PooledMemory Rent(long bytes)
        {
            PooledMemory memory = PooledMemory.Rent(bytes, "transpose");
            memory.Touch(bytes);
            return memory;
        }
        using PooledMemory ends = Rent(blocks * parts * sizeof(long)), rows = Rent(from.NonZeros * sizeof(TIndex)), columns = Rent(from.NonZeros * sizeof(TIndex));
        using PooledMemory? values = from.HasValues ? Rent(from.NonZeros * sizeof(T)) : null;
        var call = new Call
        {
            From = from.Native,
            To = to.Native,
            Rows = from.Rows,
            Columns = from.Columns,
            Blocks = blocks,
            Parts = parts,
            Shift = shift,
            Ends = (long*)ends.At,
            RowOf = (TIndex*)rows.At,
            ColumnOf = (TIndex*)columns.At,
            ValueOf = values is null ? null : (T*)values.At,
        };
        ManagedPool.Run(0, blocks, &Count, &call);
        long at = 0;
        for (long part = 0; part < parts; part++)
            for (long b = 0; b < blocks; b++)
            {
                long count = call.Ends[b * parts + part];
                call.Ends[b * parts + part] = at;
                at += count;
            }
        ManagedPool.Run(0, blocks, &Part, &call);
        call.To.Offsets[0] = 0;
        ManagedPool.Run(0, parts, &Move, &call);
    }

    private static void Count(void* context, long block, int worker)
    {
        var call = (Call*)context;
        long* counts = call->Ends + block * call->Parts;
        new Span<long>(counts, (int)call->Parts).Clear();
        var columns = (TIndex*)call->From.Columns;
        int shift = call->Shift;
        long end = call->From.Offsets[call->First(block + 1)];
        for (long j = call->From.Offsets[call->First(block)]; j < end; j++) counts[long.CreateTruncating(columns[j]) >> shift]++;
    }

    private static void Part(void* context, long block, int worker)
    {
        var call = (Call*)context;
        long* next = call->Ends + block * call->Parts;
        TIndex* columns = (TIndex*)call->From.Columns, rowOf = call->RowOf, columnOf = call->ColumnOf;
        T* values = (T*)call->From.Values, valueOf = call->ValueOf;
        int shift = call->Shift;
        for (long i = call->First(block); i < call->First(block + 1); i++)
            for (long j = call->From.Offsets[i]; j < call->From.Offsets[i + 1]; j++)
            {
                long at = next[long.CreateTruncating(columns[j]) >> shift]++;
                (rowOf[at], columnOf[at]) = (TIndex.CreateTruncating(i), columns[j]);
                if (valueOf != null) valueOf[at] = values[j];
            }
    }

    private static void Move(void* context, long part, int worker)
    {
        var call = (Call*)context;
        long first = part << call->Shift, last = Math.Min(call->Columns, (part + 1) << call->Shift), begin = call->End(part - 1), end = call->End(part);
        TIndex* rowOf = call->RowOf, columnOf = call->ColumnOf, to = (TIndex*)call->To.Columns;
        T* valueOf = call->ValueOf, valuesTo = (T*)call->To.Values;
        // Where column c begins, and in the end where it ends; what is before the first one belongs to the part before.
        long* next = call->To.Offsets + 1;
        for (long c = first; c < last; c++) next[c] = 0;
        for (long j = begin; j < end; j++) next[long.CreateTruncating(columnOf[j])]++;
        for (long c = first, at = begin; c < last; c++) (next[c], at) = (at, at + next[c]);
        for (long j = begin; j < end; j++)
        {
            long at = next[long.CreateTruncating(columnOf[j])]++;
            to[at] = rowOf[j];
            if (valueOf != null) valuesTo[at] = valueOf[j];
        }
    }
}
