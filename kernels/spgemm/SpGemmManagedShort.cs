using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A worker's arrays for rows of few products, whose products follow. What is behind the last one takes the vectors that pass the end.</summary>
internal unsafe struct SpGemmManagedShort
{
    public const int Products = 64, Most = Products + 16;

    public fixed uint Columns[Most];    // of the products of the row in turn
    public fixed uint Candidate[Most];  // of a row before, from its first one on
    public fixed uint Form[Most];       // likewise, of the row that has the form
    public fixed uint Sorted[Most];     // of the form's entries
    public fixed byte Places[Products], Ends[Products];  // products by their columns; where an entry's end there
    public long CandidateProducts, FormProducts, FormEntries;  // no products: there is none
}

/// <summary>
/// Rows of few products. Those are first written one after the other, whole vectors of a row of B at a time, so that no branch is on
/// how long its rows are. On a regular mesh they have the columns of a row before, all moved by as much (a form): then they are added
/// in an order that was found once, else like those of any row.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    private const int Short = SpGemmManagedShort.Products, Lanes32 = 8;

    private static T* ShortProducts(SpGemmManagedShort* rows) => (T*)(rows + 1);

    /// <summary>Whether row i is one of them: a whole one without mask and addend, of 32-bit columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool IsShort(SpGemmManagedCall* call, long i) =>
        sizeof(TIndex) == 4 && call->Short && call->Args->Products[i + 1] - call->Args->Products[i] <= Short;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long ShortRow(SpGemmManagedCall* call, ref Scratch s, long i, TIndex* c, T* v)
    {
        SpGemmManagedShort* rows = s.Short;
        int count = (int)(call->Args->Products[i + 1] - call->Args->Products[i]);
        if (count == 0) return 0;
        (long low, long high) = Load(call, rows, i);
        uint first = rows->Columns[0];
        // So that behind the last product all rows are alike.
        Vector256.Create(first).Store(rows->Columns + count);
        if (count == rows->FormProducts && Alike(rows->Columns, rows->Form, count)) return EmitForm(rows, (uint*)c, v);
        if (count == rows->CandidateProducts && Alike(rows->Columns, rows->Candidate, count)) MakeForm(rows);
        rows->CandidateProducts = count;
        for (int j = 0; j < count; j += Lanes32) (Vector256.Load(rows->Columns + j) - Vector256.Create(first)).Store(rows->Candidate + j);
        long from = low & -Origin;
        Ready(ref s, high - from);
        Accumulator sums = s.Zero.From(from);
        if (high - low <= Dense * count)
        {
            Scatter<Bytes>(rows, sums, count);
            return EmitBytes(sums, low, high, c, v);
        }
        Scatter<Bits>(rows, sums, count);
        return EmitBits(sums, low, high, c, v);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void ShortNumeric(SpGemmManagedCall* call, ref Scratch s, long i, TIndex* c, T* v, long n)
    {
        (long low, long high) = Load(call, s.Short, i);
        long from = low & -Origin;
        Ready(ref s, high - from);
        Accumulator sums = s.Zero.From(from);
        Scatter<Nothing>(s.Short, sums, (int)(call->Args->Products[i + 1] - call->Args->Products[i]));
        Take(sums.Sums, c, v, n);
    }

    /// <summary>Columns and products of row i, in the order of A's row. Returns which columns [Low, High) have them all.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static (long Low, long High) Load(SpGemmManagedCall* call, SpGemmManagedShort* rows, long i)
    {
        KnCsr a = call->Args->A, b = call->Args->B;
        uint* columns = rows->Columns;
        T* products = ShortProducts(rows);
        bool reads = HasValues && call->ReadsValues;
        long low = long.MaxValue, high = 0, end = a.Offsets[i + 1], last = call->Problem->BNnz - Lanes32;
        for (long e = a.Offsets[i]; e < end; e++)
        {
            long k = ((int*)a.Columns)[e], from = b.Offsets[k], n = b.Offsets[k + 1] - from;
            uint* c = (uint*)b.Columns + from;
            if (n == 0) continue;
            if (n <= Lanes32 && from <= last && (!HasValues || typeof(TSemiring) == typeof(PlusTimes<double>) || typeof(TSemiring) == typeof(PlusTimes<float>)))
            {
                Vector256.Load(c).Store(columns);
                if (typeof(T) == typeof(double))
                {
                    Vector256<double> x = Vector256.Create(((double*)a.Values)[e]);
                    double* y = (double*)b.Values + from;
                    (x * Vector256.Load(y)).Store((double*)products);
                    (x * Vector256.Load(y + 4)).Store((double*)products + 4);
                }
                else if (typeof(T) == typeof(float))
                {
                    (Vector256.Create(((float*)a.Values)[e]) * Vector256.Load((float*)b.Values + from)).Store((float*)products);
                }
            }
            else
            {
                for (long j = 0; j < n; j++) columns[j] = c[j];
                T x = reads ? ((T*)a.Values)[e] : default;
                for (long j = 0; HasValues && j < n; j++) products[j] = TSemiring.Multiply(x, reads ? ((T*)b.Values + from)[j] : default);
            }
            columns += n;
            products += n;
            (low, high) = (Math.Min(low, c[0]), Math.Max(high, c[n - 1] + 1L));
        }
        return call->BSorted ? (low, high) : (0, call->Problem->N);
    }

    /// <summary>Whether the columns are those of a form, moved.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool Alike(uint* columns, uint* form, int count)
    {
        Vector256<uint> first = Vector256.Create(columns[0]), other = Vector256<uint>.Zero;
        for (int j = 0; j < count; j += Lanes32) other |= (Vector256.Load(columns + j) - first) ^ Vector256.Load(form + j);
        return other == Vector256<uint>.Zero;
    }

    /// <summary>Orders the candidate: columns ascend, and products of one stay in the order in which they came.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void MakeForm(SpGemmManagedShort* rows)
    {
        int count = (int)rows->CandidateProducts, entries = 0;
        ulong* keys = stackalloc ulong[Short];
        // Columns before the first one are below 0.
        for (int j = 0; j < count; j++) keys[j] = (ulong)(((long)(int)rows->Candidate[j] + int.MaxValue) * Short + j);
        new Span<ulong>(keys, count).Sort();
        for (int j = 0; j < count; j++)
        {
            int place = (int)(keys[j] % Short);
            if (j == 0 || rows->Candidate[place] != rows->Sorted[entries - 1]) rows->Sorted[entries++] = rows->Candidate[place];
            rows->Places[j] = (byte)place;
            rows->Ends[entries - 1] = (byte)(j + 1);
        }
        for (int j = 0; j < count; j += Lanes32) Vector256.Load(rows->Candidate + j).Store(rows->Form + j);
        (rows->FormProducts, rows->FormEntries) = (count, entries);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long EmitForm(SpGemmManagedShort* rows, uint* c, T* v)
    {
        Vector256<uint> first = Vector256.Create(rows->Columns[0]);
        int entries = (int)rows->FormEntries, j = 0;
        for (; j + Lanes32 <= entries; j += Lanes32) (Vector256.Load(rows->Sorted + j) + first).Store(c + j);
        for (; j < entries; j++) c[j] = rows->Sorted[j] + rows->Columns[0];
        if (!HasValues) return entries;
        T* products = ShortProducts(rows);
        byte* places = rows->Places, ends = rows->Ends;
        j = 0;
        for (int n = 0; n < entries; n++)
        {
            T sum = TSemiring.Zero;
            int end = ends[n];
            do sum = TSemiring.Add(sum, products[places[j]]);
            while (++j < end);
            v[n] = sum;
        }
        return entries;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scatter<TMarks>(SpGemmManagedShort* rows, in Accumulator to, int count) where TMarks : struct, IMarks
    {
        T* sums = to.Sums, products = ShortProducts(rows);
        byte* marks = to.Marks;
        ulong* bits = to.Bits, words = to.Words;
        for (int j = 0; j < count; j++)
        {
            long column = rows->Columns[j];
            if (HasValues) sums[column] = TSemiring.Add(sums[column], products[j]);
            TMarks.Mark(marks, bits, words, column);
        }
    }
}
