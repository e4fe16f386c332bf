using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Columns of a row's products from its first one on, and how they become entries. No products: there is none.</summary>
[StructLayout(LayoutKind.Sequential, Size = 832)]
internal unsafe struct SpGemmManagedForm
{
    public fixed uint Columns[SpGemmManagedShort.Most];
    public fixed uint Sorted[SpGemmManagedShort.Most];     // of the entries
    public fixed byte Places[SpGemmManagedShort.Products], Ends[SpGemmManagedShort.Products];  // products by their columns; where an entry's end there
    public int Products, Entries, Next;  // Next: the form that followed last time
}

/// <summary>A worker's arrays for rows of few products. Forms and products follow. What is behind the last product takes the vectors that pass the end. Whole lines, so that products begin one.</summary>
[StructLayout(LayoutKind.Sequential, Size = 1408)]
internal unsafe struct SpGemmManagedShort
{
    public const int Products = 64, Most = Products + 16, Forms = 128, SeenHashes = 256;

    /// <summary>Rows without a form after which none is looked for, and how many rows that have one must come for each that is made, but for the first ones.</summary>
    public const int Tries = 256, Making = 16;

    public fixed uint Columns[Most];     // of the products of the row in turn
    public fixed uint Seen[SeenHashes];  // of rows that had no form: the second one makes it
    public int Last, Left, Credit;

    public static long Bytes(int valueBytes) => sizeof(SpGemmManagedShort) + Forms * sizeof(SpGemmManagedForm) + Most * valueBytes;

    /// <summary>Memory was used for anything before.</summary>
    public static void Clear(SpGemmManagedShort* rows)
    {
        *rows = new() { Left = Tries, Credit = Tries };
        for (int n = 0; n < Forms; n++) FormsOf(rows)[n].Products = FormsOf(rows)[n].Next = 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static SpGemmManagedForm* FormsOf(SpGemmManagedShort* rows) => (SpGemmManagedForm*)(rows + 1);
}

/// <summary>
/// Rows of few products. Those are first written one after the other, whole vectors of a row of B at a time, so that no branch is on
/// how long its rows are. On a mesh most have the columns of a row before, all moved by as much (a form; with several unknowns to a node
/// the forms alternate): then they are added in an order that was found once, else like those of any row.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    /// <summary>Columns for a product from which to merge costs less than to pass over the columns that have none.</summary>
    private const long Scattered = 48;

    private const int Short = SpGemmManagedShort.Products, Lanes32 = 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T* ShortProducts(SpGemmManagedShort* rows) => (T*)(SpGemmManagedShort.FormsOf(rows) + SpGemmManagedShort.Forms);

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
        Load(call, rows, i, count);
        SpGemmManagedForm* form = FormOf(rows, count);
        if (form != null)
        {
            EmitColumns(rows, form, (uint*)c);
            EmitSums(rows, form, v);
            return form->Entries;
        }
        (long low, long high) = Ends(rows, count);
        if (high - low > Scattered * count && call->BSorted && MergedRow(call, rows, i, count, (uint*)c, v) is var entries and >= 0) return entries;
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
        SpGemmManagedShort* rows = s.Short;
        int count = (int)(call->Args->Products[i + 1] - call->Args->Products[i]);
        Load(call, rows, i, count);
        SpGemmManagedForm* form = FormOf(rows, count);
        if (form != null && form->Entries == n && HasColumns(rows, form, (uint*)c))
        {
            EmitSums(rows, form, v);
            return;
        }
        (long low, long high) = Ends(rows, count);
        long from = low & -Origin;
        Ready(ref s, high - from);
        Accumulator sums = s.Zero.From(from);
        Scatter<Nothing>(rows, sums, count);
        Take(sums.Sums, c, v, n);
    }

    /// <summary>Columns and products of row i, in the order of A's row; behind the last one all rows have the column of the first.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Load(SpGemmManagedCall* call, SpGemmManagedShort* rows, long i, int count)
    {
        KnCsr a = call->Args->A, b = call->Args->B;
        uint* columns = rows->Columns;
        T* products = ShortProducts(rows);
        bool reads = HasValues && call->ReadsValues;
        long end = a.Offsets[i + 1], last = call->Problem->BNnz - Lanes32;
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
        }
        Vector256.Create(rows->Columns[0]).Store(rows->Columns + count);
    }

    /// <summary>Columns [Low, High) have all products.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (long Low, long High) Ends(SpGemmManagedShort* rows, int count)
    {
        Vector256<uint> low = Vector256.Load(rows->Columns), high = low;
        for (int j = Lanes32; j < count; j += Lanes32)
        {
            Vector256<uint> some = Vector256.Load(rows->Columns + j);
            (low, high) = (Vector256.Min(low, some), Vector256.Max(high, some));
        }
        Vector128<uint> least = Vector128.Min(low.GetLower(), low.GetUpper()), most = Vector128.Max(high.GetLower(), high.GetUpper());
        return (Math.Min(Math.Min(least[0], least[1]), Math.Min(least[2], least[3])), Math.Max(Math.Max(most[0], most[1]), Math.Max(most[2], most[3])) + 1L);
    }

    /// <summary>The form of the row's columns; null: there is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static SpGemmManagedForm* FormOf(SpGemmManagedShort* rows, int count)
    {
        SpGemmManagedForm* forms = SpGemmManagedShort.FormsOf(rows), f = forms + forms[rows->Last].Next;
        if (f->Products == count && Alike(rows->Columns, f->Columns, count))
        {
            rows->Last = forms[rows->Last].Next;
            (rows->Left, rows->Credit) = (SpGemmManagedShort.Tries, Math.Min(rows->Credit + 1, SpGemmManagedShort.Tries));
            return f;
        }
        return rows->Left <= 0 ? null : Search(rows, count);
    }

    /// <summary>The form that its columns lead to; a row that was seen before makes it.</summary>
    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static SpGemmManagedForm* Search(SpGemmManagedShort* rows, int count)
    {
        Vector256<uint> first = Vector256.Create(rows->Columns[0]), sum = Vector256.Create((uint)count);
        for (int j = 0; j < count; j += Lanes32) sum = (sum + Vector256.Load(rows->Columns + j) - first) * 0x9e3779b1u;
        uint hash = Vector256.Sum((sum ^ sum >> 15) * Vector256.Create(0x85ebca6bu, 0xc2b2ae35u, 0x27d4eb2fu, 0x165667b1u, 0xd3a2646du, 0xfd7046c5u, 0xb55a4f09u, 0x7feb352du));
        SpGemmManagedForm* forms = SpGemmManagedShort.FormsOf(rows);
        int n = (int)(hash % SpGemmManagedShort.Forms);
        if (forms[n].Products != count || !Alike(rows->Columns, forms[n].Columns, count))
        {
            uint* seen = rows->Seen + hash / SpGemmManagedShort.Forms % SpGemmManagedShort.SeenHashes;
            uint before = *seen;
            *seen = hash;
            rows->Left--;
            if (before != hash || rows->Credit < SpGemmManagedShort.Making) return null;
            rows->Credit -= SpGemmManagedShort.Making;
            MakeForm(rows, forms + n, count);
        }
        forms[rows->Last].Next = rows->Last = n;
        return forms + n;
    }

    /// <summary>Whether the columns are those of a form, moved.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool Alike(uint* columns, uint* form, int count)
    {
        Vector256<uint> first = Vector256.Create(columns[0]), other = Vector256<uint>.Zero;
        for (int j = 0; j < count; j += Lanes32) other |= (Vector256.Load(columns + j) - first) ^ Vector256.Load(form + j);
        return other == Vector256<uint>.Zero;
    }

    /// <summary>Orders the row: columns ascend, and products of one stay in the order in which they came.</summary>
    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static void MakeForm(SpGemmManagedShort* rows, SpGemmManagedForm* f, int count)
    {
        int entries = 0;
        ulong* keys = stackalloc ulong[Short];
        for (int j = 0; j < count; j++) keys[j] = (ulong)rows->Columns[j] * Short + (uint)j;
        new Span<ulong>(keys, count).Sort();
        for (int j = 0; j < count; j++)
        {
            uint column = (uint)(keys[j] / Short) - rows->Columns[0];
            if (j == 0 || column != f->Sorted[entries - 1]) f->Sorted[entries++] = column;
            f->Places[j] = (byte)(keys[j] % Short);
            f->Ends[entries - 1] = (byte)(j + 1);
        }
        Vector256<uint> first = Vector256.Create(rows->Columns[0]);
        for (int j = 0; j < count; j += Lanes32) (Vector256.Load(rows->Columns + j) - first).Store(f->Columns + j);
        (f->Products, f->Entries) = (count, entries);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void EmitColumns(SpGemmManagedShort* rows, SpGemmManagedForm* f, uint* c)
    {
        Vector256<uint> first = Vector256.Create(rows->Columns[0]);
        int entries = f->Entries, j = 0;
        for (; j + Lanes32 <= entries; j += Lanes32) (Vector256.Load(f->Sorted + j) + first).Store(c + j);
        for (; j < entries; j++) c[j] = f->Sorted[j] + rows->Columns[0];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool HasColumns(SpGemmManagedShort* rows, SpGemmManagedForm* f, uint* c)
    {
        Vector256<uint> first = Vector256.Create(rows->Columns[0]), other = Vector256<uint>.Zero;
        int entries = f->Entries, j = 0;
        for (; j + Lanes32 <= entries; j += Lanes32) other |= (Vector256.Load(f->Sorted + j) + first) ^ Vector256.Load(c + j);
        uint rest = 0;
        for (; j < entries; j++) rest |= c[j] ^ (f->Sorted[j] + rows->Columns[0]);
        return other == Vector256<uint>.Zero && rest == 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void EmitSums(SpGemmManagedShort* rows, SpGemmManagedForm* f, T* v)
    {
        if (!HasValues) return;
        T* products = ShortProducts(rows);
        byte* places = f->Places, ends = f->Ends;
        int entries = f->Entries, j = 0;
        for (int n = 0; n < entries; n++)
        {
            T sum = TSemiring.Zero;
            int end = ends[n];
            do sum = TSemiring.Add(sum, products[places[j]]);
            while (++j < end);
            v[n] = sum;
        }
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
