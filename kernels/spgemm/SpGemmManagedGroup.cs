using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A worker's list of the rows of B that some neighbours in A name. Their coefficients and the sums follow.</summary>
[StructLayout(LayoutKind.Sequential, Size = 2624)]
internal unsafe struct SpGemmManagedGroup
{
    /// <summary>Rows of a group; entries of A in it; columns of C over which its rows may lie, so that four sums each stay in L2.</summary>
    public const int Rows = 4, Most = 512, Columns = 1 << 13;

    /// <summary>Columns whose sums are in L1, more or less.</summary>
    public const int Near = 1 << 11;

    /// <summary>Products for a row of B below which to merge rows of A would not pay, and rows that are left alone at most after some that have little in common.</summary>
    public const long LeastLength = 8, MostSkipped = 128;

    public fixed int Ks[Most];
    public fixed byte Lanes[Most];  // bit r: row r has it
    public int Count;
    public long Products, Low, High;  // of the rows in the list; columns [Low, High) have them all

    public static long Bytes(long columns, int valueBytes) => sizeof(SpGemmManagedGroup) + (Most + columns) * Rows * valueBytes;
}

/// <summary>
/// Neighbours that have much of their rows of A in common, as in meshes with several unknowns to a node: a row of B is read once for
/// all of them, their sums of a column lie side by side, and a product of each is one lane. A lane without a product adds +0, which
/// changes no sum: none is -0, since all begin with +0.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    private const int Abreast = SpGemmManagedGroup.Rows;

    /// <summary>Whether lanes add as the semiring does.</summary>
    private static bool MayGroup => sizeof(TIndex) == 4 && (!HasValues || typeof(TSemiring) == typeof(PlusTimes<double>) || typeof(TSemiring) == typeof(PlusTimes<float>));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T* GroupX(SpGemmManagedGroup* g) => (T*)(g + 1);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T* GroupSums(SpGemmManagedGroup* g) => GroupX(g) + SpGemmManagedGroup.Most * Abreast;

    /// <summary>How many rows from row i on, before `end`, are one group, which is then listed; 0: row i is taken by itself.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int GroupOf(SpGemmManagedCall* call, ref Scratch s, long i, long end)
    {
        if (!call->Groups) return 0;
        if (s.State->Skip > 0)
        {
            s.State->Skip--;
            return 0;
        }
        return TryGroup(call, ref s, i, end);
    }

    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static int TryGroup(SpGemmManagedCall* call, ref Scratch s, long i, long end)
    {
        int rows = (int)Math.Min(Abreast, end - i);
        long* ends = call->Args->A.Offsets + i, products = call->Args->Products + i;
        if (rows < 2 || products[1] - products[0] <= Short || ends[rows] - ends[0] > SpGemmManagedGroup.Most) return 0;
        long all = products[rows] - products[0];
        if (Merge(call, s.Group, ends, rows) && s.Group->High - (s.Group->Low & -64) is var span && span <= SpGemmManagedGroup.Columns &&
            // A vector of products costs about 1.6 times as much as one product, and more where sums are not in L1.
            s.Group->Products * 8 < all * (span <= SpGemmManagedGroup.Near ? 5 : 3))
        {
            s.State->Skipped = 0;
            return rows;
        }
        s.State->Skip = s.State->Skipped = Math.Min(2 * s.State->Skipped + 3, SpGemmManagedGroup.MostSkipped);
        return 0;
    }

    /// <summary>Lists the rows of B in the order in which all rows of A have them; false: there is no such order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static bool Merge(SpGemmManagedCall* call, SpGemmManagedGroup* g, long* ends, int rows)
    {
        KnCsr a = call->Args->A, b = call->Args->B;
        int* c = (int*)a.Columns;
        T* values = (T*)a.Values, x = GroupX(g);
        bool reads = HasValues && call->ReadsValues;
        long* at = stackalloc long[Abreast];
        int* head = stackalloc int[Abreast];
        for (int r = 0; r < Abreast; r++)
        {
            at[r] = ends[Math.Min(r, rows)];
            head[r] = r < rows && at[r] < ends[r + 1] ? c[at[r]] : int.MaxValue;
        }
        int count = 0, last = -1;
        long products = 0, low = long.MaxValue, high = 0;
        for (; ; )
        {
            int k = Math.Min(Math.Min(head[0], head[1]), Math.Min(head[2], head[3]));
            if (k == int.MaxValue) break;
            if (k <= last) return false;
            last = k;
            uint lanes = 0;
            for (int r = 0; r < rows; r++)
            {
                if (head[r] != k) continue;
                lanes |= 1u << r;
                if (reads) x[count * Abreast + r] = values[at[r]];
                head[r] = ++at[r] < ends[r + 1] ? c[at[r]] : int.MaxValue;
            }
            long from = b.Offsets[k], to = b.Offsets[k + 1];
            if (from == to) continue;
            g->Ks[count] = k;
            g->Lanes[count++] = (byte)lanes;
            products += to - from;
            (low, high) = (Math.Min(low, Column(b, from)), Math.Max(high, Column(b, to - 1) + 1));
        }
        (g->Count, g->Products, g->Low, g->High) = (count, products, low, high);
        return count > 0;
    }

    /// <summary>Writes columns and values of the group's rows one after the other, and where each ends, from `before` on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long GroupRows(SpGemmManagedCall* call, ref Scratch s, long i, int rows, TIndex* c, T* v, long before)
    {
        long low = s.Group->Low & -64, high = s.Group->High, count = before;
        ReadyGroup(ref s, high - low);
        byte* marks = s.Zero.Marks - low;
        T* sums = GroupSums(s.Group) - low * Abreast;
        AddGroup<Bytes>(call, s.Group, sums, marks);
        for (int r = 0; r < rows; r++)
        {
            long n = 0;
            for (long at = low; at < high; at += 64)
            {
                Vector256<byte> lower = Moved(marks + at, 7 - r), upper = Moved(marks + at + 32, 7 - r);
                ulong bits = lower.ExtractMostSignificantBits() | (ulong)upper.ExtractMostSignificantBits() << 32;
                if (bits == 0) continue;
                Emit(bits, at, c + count + n);
                n += BitOperations.PopCount(bits);
            }
            TakeLane(sums + r, c + count, v + count, n);
            call->EndOf(i + r) = count += n;
        }
        for (long at = low; at < high; at += 32) Vector256<byte>.Zero.Store(marks + at);
        return count - before;
    }

    /// <summary>Bit 7 - n of each byte above.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> Moved(byte* marks, int n) => (Vector256.Load(marks).AsUInt32() << n).AsByte();

    /// <summary>Values of the group's rows, whose columns are known.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void GroupNumeric(SpGemmManagedCall* call, ref Scratch s, long i, int rows)
    {
        long low = s.Group->Low & -64;
        ReadyGroup(ref s, s.Group->High - low);
        T* sums = GroupSums(s.Group) - low * Abreast;
        AddGroup<Nothing>(call, s.Group, sums, null);
        for (int r = 0; r < rows; r++)
        {
            long from = call->Args->COffsets[i + r - call->Args->RowFrom];
            TakeLane(sums + r, (TIndex*)call->Args->CColumns + from, (T*)call->Args->CValues + from, call->EndOf(i + r) - from);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void ReadyGroup(ref Scratch s, long columns)
    {
        Ready(ref s, columns);
        long most = Math.Min((columns + Origin - 1) & -Origin, Math.Min(s.Columns, SpGemmManagedGroup.Columns));
        if (!HasValues || most <= s.State->GroupReady) return;
        for (long j = s.State->GroupReady * Abreast; j < most * Abreast; j++) GroupSums(s.Group)[j] = TSemiring.Zero;
        s.State->GroupReady = most;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddGroup<TMarks>(SpGemmManagedCall* call, SpGemmManagedGroup* g, T* sums, byte* marks) where TMarks : struct, IMarks
    {
        KnCsr b = call->Args->B;
        T* x = GroupX(g);
        for (int e = 0; e < g->Count; e++, x += Abreast)
        {
            long k = g->Ks[e], from = b.Offsets[k], n = b.Offsets[k + 1] - from;
            uint lanes = g->Lanes[e];
            int* c = (int*)b.Columns + from;
            if (typeof(TSemiring) == typeof(PlusTimes<double>))
            {
                var bits = Vector256.Create(1L, 2, 4, 8);
                Vector256<double> some = Vector256.Equals(Vector256.Create((long)lanes) & bits, bits).AsDouble(), coefficients = Vector256.Load((double*)x);
                double* y = (double*)b.Values + from;
                for (long j = 0; j < n; j++)
                {
                    long column = c[j];
                    double* sum = (double*)sums + column * Abreast;
                    (Vector256.Load(sum) + (coefficients * Vector256.Create(y[j]) & some)).Store(sum);
                    if (typeof(TMarks) == typeof(Bytes)) marks[column] |= (byte)lanes;
                }
            }
            else if (typeof(TSemiring) == typeof(PlusTimes<float>))
            {
                var bits = Vector128.Create(1, 2, 4, 8);
                Vector128<float> some = Vector128.Equals(Vector128.Create((int)lanes) & bits, bits).AsSingle(), coefficients = Vector128.Load((float*)x);
                float* y = (float*)b.Values + from;
                for (long j = 0; j < n; j++)
                {
                    long column = c[j];
                    float* sum = (float*)sums + column * Abreast;
                    (Vector128.Load(sum) + (coefficients * Vector128.Create(y[j]) & some)).Store(sum);
                    if (typeof(TMarks) == typeof(Bytes)) marks[column] |= (byte)lanes;
                }
            }
            else
            {
                for (long j = 0; j < n; j++) marks[c[j]] |= (byte)lanes;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TakeLane(T* sums, TIndex* c, T* v, long count)
    {
        if (!HasValues) return;
        for (long j = 0; j < count; j++)
        {
            T* sum = sums + Column(c, j) * Abreast;
            v[j] = *sum;
            *sum = TSemiring.Zero;
        }
    }
}
