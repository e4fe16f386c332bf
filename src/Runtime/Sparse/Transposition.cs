using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Counting sort by column. Blocks of rows are counted and moved in parallel, each into its own part of every row of the result,
/// so that rows stay in order.
/// </summary>
internal static unsafe class Transposition<TIndex, T> where TIndex : unmanaged, IBinaryInteger<TIndex> where T : unmanaged
{
    private struct Call
    {
        public KnCsr From, To;
        public long Rows, Columns, Blocks;
        public long* Counts;  // [blocks, columns]
        public bool Values;
        public readonly long First(long block) => Rows * block / Blocks;
    }

    internal static void Run(CsrMatrix<T> from, CsrMatrix<T> to)
    {
        if (TranspositionByParts<TIndex, T>.Pays(from))
        {
            TranspositionByParts<TIndex, T>.Run(from, to);
            return;
        }
        // A block's counts cost as much as its entries once there are as many columns.
        long blocks = Math.Clamp(from.NonZeros / Math.Max(2 * from.Columns, 1 << 14), 1, ManagedPool.Workers(0));
        using PooledMemory counts = PooledMemory.Rent(blocks * from.Columns * sizeof(long), "transpose");
        var call = new Call
        {
            From = from.Native,
            To = to.Native,
            Rows = from.Rows,
            Columns = from.Columns,
            Blocks = blocks,
            Counts = (long*)counts.At,
            Values = from.HasValues,
        };
        counts.Touch(blocks * from.Columns * sizeof(long));
        ManagedPool.Run(0, blocks, &Count, &call);
        long at = 0;
        for (long c = 0; c < from.Columns; c++)
        {
            call.To.Offsets[c] = at;
            for (long b = 0; b < blocks; b++)
            {
                long count = call.Counts[b * from.Columns + c];
                call.Counts[b * from.Columns + c] = at;
                at += count;
            }
        }
        call.To.Offsets[from.Columns] = at;
        ManagedPool.Run(0, blocks, &Move, &call);
    }

    private static void Count(void* context, long block, int worker)
    {
        var call = (Call*)context;
        long* counts = call->Counts + block * call->Columns;
        for (long c = 0; c < call->Columns; c++) counts[c] = 0;
        var columns = (TIndex*)call->From.Columns;
        long end = call->From.Offsets[call->First(block + 1)];
        for (long j = call->From.Offsets[call->First(block)]; j < end; j++) counts[long.CreateTruncating(columns[j])]++;
    }

    private static void Move(void* context, long block, int worker)
    {
        var call = (Call*)context;
        long* next = call->Counts + block * call->Columns;
        TIndex* columns = (TIndex*)call->From.Columns, to = (TIndex*)call->To.Columns;
        T* values = (T*)call->From.Values, valuesTo = (T*)call->To.Values;
        for (long i = call->First(block); i < call->First(block + 1); i++)
            for (long j = call->From.Offsets[i]; j < call->From.Offsets[i + 1]; j++)
            {
                long at = next[long.CreateTruncating(columns[j])]++;
                to[at] = TIndex.CreateTruncating(i);
                if (call->Values) valuesTo[at] = values[j];
            }
    }
}
