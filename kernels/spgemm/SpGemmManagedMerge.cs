using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Short rows without a form over a wide span, of sorted rows of B: those are runs of a key for each product, its column above and its place below,
/// merged by a bitonic network in registers, which has no branch on what the columns are.
/// </summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    private const int PlaceBits = 6, MostRuns = 8;

    /// <summary>Writes the row that was loaded; -1: its rows of B are too many registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long MergedRow(SpGemmManagedCall* call, SpGemmManagedShort* rows, long i, int count, uint* c, T* v)
    {
        uint* keys = stackalloc uint[MostRuns * Lanes32];
        int registers = Runs(call, rows, i, keys);
        if (registers == 0) return -1;
        for (int run = 1; run < registers; run *= 2)
            for (int at = 0; at < registers; at += 2 * run) MergeRuns(keys + at * Lanes32, run);
        return Reduce(keys, ShortProducts(rows), count, c, v);
    }

    /// <summary>Keys of each row of B in registers of its own; what is left of the last one and up to a power of two is above all keys.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Runs(SpGemmManagedCall* call, SpGemmManagedShort* rows, long i, uint* keys)
    {
        KnCsr a = call->Args->A, b = call->Args->B;
        long last = call->Problem->BNnz - Lanes32;
        Vector256<uint> lanes = Vector256.Create(0u, 1, 2, 3, 4, 5, 6, 7);
        int registers = 0;
        uint place = 0;
        for (long e = a.Offsets[i], end = a.Offsets[i + 1]; e < end; e++)
        {
            long k = ((int*)a.Columns)[e], from = b.Offsets[k];
            uint n = (uint)(b.Offsets[k + 1] - from);
            if (n == 0) continue;
            // A longer row of B is not one run.
            if (registers == MostRuns || n > Lanes32) return 0;
            // Not from the row: there the next one was stored over it, and the load would wait for both.
            Vector256<uint> some = Vector256.Load(from <= last ? (uint*)b.Columns + from : rows->Columns + place) << PlaceBits | (lanes + Vector256.Create(place));
            (some | Vector256.GreaterThanOrEqual(lanes, Vector256.Create(n))).Store(keys + registers++ * Lanes32);
            place += n;
        }
        while ((registers & (registers - 1)) != 0) Vector256<uint>.AllBitsSet.Store(keys + registers++ * Lanes32);
        return registers;
    }

    /// <summary>Two sorted runs of so many registers become one.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void MergeRuns(uint* keys, int run)
    {
        for (int i = 0; i < run; i++)
        {
            uint* low = keys + i * Lanes32, high = keys + (2 * run - 1 - i) * Lanes32;
            Vector256<uint> x = Vector256.Load(low), y = Reversed(Vector256.Load(high));
            Vector256.Min(x, y).Store(low);
            Reversed(Vector256.Max(x, y)).Store(high);
        }
        for (int apart = run / 2; apart > 0; apart /= 2)
            for (int i = 0; i < 2 * run; i++)
            {
                if ((i & apart) != 0) continue;
                uint* low = keys + i * Lanes32, high = low + apart * Lanes32;
                Vector256<uint> x = Vector256.Load(low), y = Vector256.Load(high);
                Vector256.Min(x, y).Store(low);
                Vector256.Max(x, y).Store(high);
            }
        for (int i = 0; i < 2 * run; i++) Sorted(Vector256.Load(keys + i * Lanes32)).Store(keys + i * Lanes32);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> Reversed(Vector256<uint> x) => Vector256.Shuffle(x, Vector256.Create(7u, 6, 5, 4, 3, 2, 1, 0));

    /// <summary>A bitonic register.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> Sorted(Vector256<uint> x)
    {
        Vector128<uint> less = Vector128.Min(x.GetLower(), x.GetUpper()), more = Vector128.Max(x.GetLower(), x.GetUpper());
        x = Vector256.Create(less, more);
        Vector256<uint> y = Vector256.Shuffle(x, Vector256.Create(2u, 3, 0, 1, 6, 7, 4, 5));
        x = Vector256.ConditionalSelect(Vector256.Create(~0u, ~0u, 0, 0, ~0u, ~0u, 0, 0), Vector256.Min(x, y), Vector256.Max(x, y));
        y = Vector256.Shuffle(x, Vector256.Create(1u, 0, 3, 2, 5, 4, 7, 6));
        return Vector256.ConditionalSelect(Vector256.Create(~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0), Vector256.Min(x, y), Vector256.Max(x, y));
    }

    /// <summary>Products follow their keys; those of a column are added. What is written behind the last entry is written again or not read.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long Reduce(uint* keys, T* products, int count, uint* c, T* v)
    {
        long n = -1;
        uint last = ~0u;
        for (int j = 0; j < count; j++)
        {
            uint column = keys[j] >> PlaceBits;
            n += column != last ? 1 : 0;
            c[n] = last = column;
        }
        if (!HasValues) return n + 1;
        if (n + 1 == count)
        {
            for (int j = 0; j < count; j++) v[j] = TSemiring.Add(TSemiring.Zero, products[keys[j] % Short]);
            return count;
        }
        if (typeof(TSemiring) == typeof(PlusTimes<double>)) Sums(keys, (double*)products, count, (double*)v);
        else Sums(keys, products, count, v);
        return n + 1;
    }

    /// <summary>No branch: how many products meet is nothing that could be predicted.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums(uint* keys, double* products, int count, double* v)
    {
        long n = -1;
        uint last = ~0u;
        Vector128<double> sum = Vector128<double>.Zero;
        for (int j = 0; j < count; j++)
        {
            uint column = keys[j] >> PlaceBits;
            Vector128<ulong> same = Vector128.Equals(Vector128.CreateScalarUnsafe((ulong)column), Vector128.CreateScalarUnsafe((ulong)last));
            n += column != last ? 1 : 0;
            sum = (sum & same.AsDouble()) + Vector128.CreateScalarUnsafe(products[keys[j] % Short]);
            v[n] = sum.ToScalar();
            last = column;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums(uint* keys, T* products, int count, T* v)
    {
        long n = -1;
        uint last = ~0u;
        T sum = TSemiring.Zero;
        for (int j = 0; j < count; j++)
        {
            uint column = keys[j] >> PlaceBits;
            if (column != last) (sum, n, last) = (TSemiring.Zero, n + 1, column);
            v[n] = sum = TSemiring.Add(sum, products[keys[j] % Short]);
        }
    }
}
