using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Values of a C whose columns are known: products are added without marks, and sums are read at C's columns, which leaves no order to find.</summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    /// <summary>The rows that begin in a slot.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void NumericRows(SpGemmManagedCall* call, ref Scratch s, in SpGemmManagedCall.Share h, int worker)
    {
        long end = call->Args->Schedule.Offsets == null ? h.EndsTo : 0;
        for (long i = h.First; i < h.Last; i++)
        {
            int rows = GroupOf(call, ref s, i, end);
            if (rows == 0)
            {
                Numeric(call, ref s, i, 0, worker);
                continue;
            }
            GroupNumeric(call, ref s, i, rows);
            i += rows - 1;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Numeric(SpGemmManagedCall* call, ref Scratch s, long i, long index, int worker)
    {
        KnSpgemmArgs* a = call->Args;
        if (a->Schedule.Offsets != null && a->Schedule.Offsets[i + 1] > a->Schedule.Offsets[i])
        {
            Sum(call, i, index, call->Parts(i));
            return;
        }
        SpGemmPart r = call->PartOf(i, index);
        var known = new KnCsr { Columns = a->CColumns };
        long from = a->COffsets[i - a->RowFrom], to = call->EndOf(i);
        if (!r.Whole)
        {
            from = Bisect(known, from, to, r.Low);
            to = Bisect(known, from, to, r.High);
        }
        TIndex* c = (TIndex*)a->CColumns + from;
        T* v = (T*)a->CValues + from;
        if (!HasValues || from == to) return;
        if (IsShort(call, i))
        {
            ShortNumeric(call, ref s, i, c, v, to - from);
            return;
        }
        (long low, long high) = Span(call, r);
        low = Math.Min(low, high) & -Origin;
        if (high - low > SpGemmManagedCall.Widest)
        {
            HashKnown(call, ref s, r, c, v, to - from);
            return;
        }
        Ready(ref s, high - low);
        Accumulator sums = s.Zero.From(low);
        if (SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Mask))
        {
            Masked(call, ref s, r, sums.Sums, low, high, c, v, to - from, worker);
            return;
        }
        Accumulate<Nothing>(call, sums, r, false);
        Take(sums.Sums, c, v, to - from);
    }

    /// <summary>
    /// Under a mask the row is computed anew: a valued mask may have changed since it made C, which then lacks columns or has some
    /// without products.
    /// </summary>
    private static void Masked(SpGemmManagedCall* call, ref Scratch s, in SpGemmPart r, T* sums, long low, long high, TIndex* c, T* v, long n, int worker)
    {
        var columns = (TIndex*)call->ColumnsOf(worker, 0);
        var values = (T*)call->ValuesOf(worker, 0);
        long count = Row(call, ref s, r, columns, values);
        for (long j = 0; j < count; j++) sums[Column(columns, j)] = values[j];
        for (long j = 0; j < n; j++) v[j] = Column(c, j) >= low && Column(c, j) < high ? sums[Column(c, j)] : TSemiring.Zero;
        for (long j = 0; j < count; j++) sums[Column(columns, j)] = TSemiring.Zero;
    }
}
