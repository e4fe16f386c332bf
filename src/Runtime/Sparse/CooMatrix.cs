using System.Numerics;

namespace Kernels;

/// <summary>Entries in any order to compressed rows: a counting sort by row, then every row by column, equal places added in the order they came.</summary>
internal static unsafe class CooMatrix
{
    internal static CsrMatrix<T> Compress<T>(long rows, long columns, ReadOnlySpan<int> rowIndices, ReadOnlySpan<int> columnIndices, ReadOnlySpan<T> values)
        where T : unmanaged, IAdditionOperators<T, T, T>
    {
        Check(rows, columns, rowIndices, columnIndices, values.IsEmpty ? columnIndices.Length : values.Length);
        bool hasValues = !values.IsEmpty || columnIndices.IsEmpty;
        int count = rowIndices.Length;
        PooledMemory offsetMemory = PooledMemory.Rent((rows + 1) * sizeof(long), "matrix"), columnMemory = PooledMemory.Rent((long)count * sizeof(int), "matrix");
        PooledMemory? valueMemory = hasValues ? PooledMemory.Rent((long)count * sizeof(T), "matrix") : null;
        var offsets = (long*)offsetMemory.At;
        var places = new long[count];  // column above, number of the entry below: a sort of these is stable
        Bucket(rows, rowIndices, columnIndices, offsets, places);
        var to = (int*)columnMemory.At;
        T* sums = valueMemory is null ? null : (T*)valueMemory.At;
        long at = 0;
        for (long i = 0, begin = 0; i < rows; i++)
        {
            Span<long> row = places.AsSpan((int)begin, (int)(offsets[i + 1] - begin));
            begin = offsets[i + 1];
            row.Sort();
            int last = -1;
            foreach (long place in row)
            {
                int column = (int)(place >> 32), entry = (int)place;
                if (column != last)
                {
                    to[at] = last = column;
                    if (sums != null) sums[at] = values[entry];
                    at++;
                }
                else if (sums != null) sums[at - 1] += values[entry];
            }
            offsets[i + 1] = at;
        }
        return new CsrMatrix<T>(rows, columns, at, 32, true, offsetMemory, columnMemory, valueMemory);
    }

    private static void Check(long rows, long columns, ReadOnlySpan<int> rowIndices, ReadOnlySpan<int> columnIndices, int values)
    {
        KernelsException.Require(rows is >= 0 and <= int.MaxValue, nameof(rows), $"0 <= rows < 2^31, not {rows}");
        KernelsException.Require(columns is >= 0 and <= int.MaxValue, nameof(columns), $"0 <= columns < 2^31, not {columns}");
        KernelsException.Require(rowIndices.Length == columnIndices.Length, nameof(columnIndices), $"as many columns as rows, {rowIndices.Length}, not {columnIndices.Length}");
        KernelsException.Require(values == columnIndices.Length, nameof(values), $"{columnIndices.Length} values, or none for a pattern, not {values}");
        for (int j = 0; j < rowIndices.Length; j++)
        {
            KernelsException.Require((uint)rowIndices[j] < rows, nameof(rowIndices), $"0 <= row < {rows}, not {rowIndices[j]} of entry {j}");
            KernelsException.Require((uint)columnIndices[j] < columns, nameof(columnIndices), $"0 <= column < {columns}, not {columnIndices[j]} of entry {j}");
        }
    }

    private static void Bucket(long rows, ReadOnlySpan<int> rowIndices, ReadOnlySpan<int> columnIndices, long* offsets, long[] places)
    {
        for (long i = 0; i <= rows; i++) offsets[i] = 0;
        foreach (int r in rowIndices) offsets[r + 1]++;
        for (long i = 0; i < rows; i++) offsets[i + 1] += offsets[i];
        // Filled from the end of every row to its beginning, and then every offset has moved to where its row begins.
        for (int j = rowIndices.Length - 1; j >= 0; j--) places[--offsets[rowIndices[j] + 1]] = ((long)columnIndices[j] << 32) | (uint)j;
        for (long i = 0; i < rows; i++) offsets[i] = offsets[i + 1];
        offsets[rows] = rowIndices.Length;
    }
}
