using System.Numerics;
using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The phase ANALYSE: operands are what they must be, and how much work every row is. Passes over rows and entries in parallel, since each only reads.</summary>
internal static unsafe class SpGemmAnalysis
{
    /// <summary>Rows or entries of a task.</summary>
    private const long Block = 1 << 14;

    private struct Pass
    {
        public KnSpgemmProblem* Problem;
        public KnSpgemmArgs* Args;
        public KnCsr X;             // of a pass over one operand
        public long Rows, Columns;
        public int Unsound;
    }

    internal static bool Run(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads, out string? argument, out string? rule) =>
        p->IndexBytes == 4 ? Run<uint>(p, a, threads, out argument, out rule) : Run<ulong>(p, a, threads, out argument, out rule);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static bool Run<TIndex>(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads, out string? argument, out string? rule)
        where TIndex : unmanaged, IBinaryInteger<TIndex>, IMinMaxValue<TIndex>
    {
        bool masked = SpGemmRules.Has(*p, KnSpgemmFlags.Mask), accumulate = SpGemmRules.Has(*p, KnSpgemmFlags.Accumulate);
        bool same = a->A.Offsets == a->B.Offsets && a->A.Columns == a->B.Columns && p->M == p->K && p->K == p->N;
        var pass = new Pass { Problem = p, Args = a };
        if (!Sound<TIndex>(&pass, threads, "a", a->A, p->M, p->K, out argument, out rule)
            || (!same && !Sound<TIndex>(&pass, threads, "b", a->B, p->K, p->N, out argument, out rule))
            || (masked && !Sound<TIndex>(&pass, threads, "mask", a->Mask, p->M, p->N, out argument, out rule))
            || (accumulate && !Sound<TIndex>(&pass, threads, "d", a->D, p->M, p->N, out argument, out rule)))
            return false;
        ManagedPool.Run(threads, (p->M + Block - 1) / Block, &Products<TIndex>, &pass);
        long most = 0;
        a->Products[0] = 0;
        for (long i = 0, before = 0; i < p->M; i++)
        {
            // A task counted from its first row on.
            if (i % Block == 0) before = a->Products[i];
            a->Products[i + 1] += before;
            if (a->Products[i + 1] > SpGemmRules.MostProducts)
            {
                (argument, rule) = ("products", "products[m] <= 2^60");
                return false;
            }
            most = Math.Max(most, Math.Max(a->Products[i + 1] - a->Products[i], masked ? a->Mask.Offsets[i + 1] - a->Mask.Offsets[i] : 0));
        }
        *a->Most = most;
        return true;
    }

    internal static long Column(in KnCsr x, int indexBytes, long j) => indexBytes == 4 ? ((int*)x.Columns)[j] : ((long*)x.Columns)[j];

    private static bool Sound<TIndex>(Pass* pass, int threads, string name, in KnCsr x, long rows, long columns, out string? argument, out string? rule)
        where TIndex : unmanaged, IBinaryInteger<TIndex>, IMinMaxValue<TIndex>
    {
        (pass->X, pass->Rows, pass->Columns) = (x, rows, columns);
        (argument, rule) = (name, "ascending offsets");
        ManagedPool.Run(threads, (rows + Block - 1) / Block, &Offsets, pass);
        if (pass->Unsound != 0) return false;
        rule = name == "a" ? "0 <= column < k" : "0 <= column < n";
        ManagedPool.Run(threads, (x.Offsets[rows] + Block - 1) / Block, &Columns<TIndex>, pass);
        if (pass->Unsound != 0) return false;
        argument = rule = null;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Offsets(void* context, long task, int worker)
    {
        var pass = (Pass*)context;
        long* offsets = pass->X.Offsets;
        bool ascending = true;
        for (long i = task * Block, end = Math.Min(i + Block, pass->Rows); i < end; i++) ascending &= offsets[i] <= offsets[i + 1];
        if (!ascending) Volatile.Write(ref pass->Unsound, 1);
    }

    /// <summary>As unsigned numbers the negative ones are too large as well.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Columns<TIndex>(void* context, long task, int worker) where TIndex : unmanaged, IBinaryInteger<TIndex>, IMinMaxValue<TIndex>
    {
        var pass = (Pass*)context;
        var c = (TIndex*)pass->X.Columns;
        long j = task * Block, end = Math.Min(j + Block, pass->X.Offsets[pass->Rows]);
        var most = Vector<TIndex>.Zero;
        TIndex last = TIndex.Zero;
        for (; j + Vector<TIndex>.Count <= end; j += Vector<TIndex>.Count) most = Vector.Max(most, Vector.Load(c + j));
        for (; j < end; j++) last = TIndex.Max(last, c[j]);
        for (int lane = 0; lane < Vector<TIndex>.Count; lane++) last = TIndex.Max(last, most[lane]);
        if (task * Block < end && ulong.CreateTruncating(last) >= (ulong)pass->Columns) Volatile.Write(ref pass->Unsound, 1);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Products<TIndex>(void* context, long task, int worker) where TIndex : unmanaged, IBinaryInteger<TIndex>, IMinMaxValue<TIndex>
    {
        var pass = (Pass*)context;
        KnSpgemmArgs* args = pass->Args;
        long* ends = args->A.Offsets, offsets = args->B.Offsets, addends = SpGemmRules.Has(*pass->Problem, KnSpgemmFlags.Accumulate) ? args->D.Offsets : null;
        var c = (TIndex*)args->A.Columns;
        long sum = 0;
        for (long i = task * Block, last = Math.Min(i + Block, pass->Problem->M); i < last; i++)
        {
            if (addends != null) sum += addends[i + 1] - addends[i];
            for (long j = ends[i], end = ends[i + 1]; j < end; j++)
            {
                long* row = offsets + long.CreateTruncating(c[j]);
                sum += row[1] - row[0];
            }
            // The distinct columns of a row of A name all of B at most, 2^40 entries.
            sum = Math.Min(sum, SpGemmRules.MostProducts + 1);
            args->Products[i + 1] = sum;
        }
    }
}
