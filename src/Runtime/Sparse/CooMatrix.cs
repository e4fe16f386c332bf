using System.Numerics;

namespace Kernels;

/// <summary>Entries in any order to compressed rows: a counting sort by row, then every row by column, equal places added in the order they came.</summary>
internal static unsafe class CooMatrix
{
    internal static CsrMatrix<T> Compress<TIndex, T>(long rows, long columns, ReadOnlySpan<TIndex> rowIndices, ReadOnlySpan<TIndex> columnIndices, ReadOnlySpan<T> values)
        where TIndex : unmanaged, IBinaryInteger<TIndex> where T : unmanaged, IAdditionOperators<T, T, T>
    {
        Check(rows, columns, rowIndices, columnIndices, values.IsEmpty ? columnIndices.Length : values.Length);
        bool hasValues = !values.IsEmpty || columnIndices.IsEmpty;
        int count = rowIndices.Length;
        PooledMemory offsetMemory = PooledMemory.Rent((rows + 1) * sizeof(long), "matrix"), columnMemory = PooledMemory.Rent((long)count * sizeof(TIndex), "matrix");
        PooledMemory? valueMemory = hasValues ? PooledMemory.Rent((long)count * sizeof(T), "matrix") : null;
        try
        {
            var entries = new int[count];  // their numbers, row by row
            var to = new Span<TIndex>(columnMemory.At, count);
            Bucket(rows, rowIndices, columnIndices, (long*)offsetMemory.At, to, entries);
            int distinct = Merge(rows, values, (long*)offsetMemory.At, to, entries, valueMemory is null ? null : (T*)valueMemory.At);
            return new CsrMatrix<T>(rows, columns, distinct, 8 * sizeof(TIndex), true, offsetMemory, columnMemory, valueMemory);
        }
        catch
        {
            offsetMemory.Dispose();
            columnMemory.Dispose();
            valueMemory?.Dispose();
            throw;
        }
    }

    /// <summary>Sorts rows and adds equal columns of each; returns how many entries are left.</summary>
    private static int Merge<TIndex, T>(long rows, ReadOnlySpan<T> values, long* offsets, Span<TIndex> to, int[] entries, T* sums)
        where TIndex : unmanaged, IBinaryInteger<TIndex> where T : unmanaged, IAdditionOperators<T, T, T>
    {
        int at = 0;
        for (long i = 0, begin = 0; i < rows; i++)
        {
            int length = (int)(offsets[i + 1] - begin);
            Span<TIndex> row = to.Slice((int)begin, length);
            Span<int> numbers = entries.AsSpan((int)begin, length);
            begin = offsets[i + 1];
            row.Sort(numbers);
            for (int j = 0, end; j < length; j = end)
            {
                TIndex column = row[j];
                for (end = j + 1; end < length && row[end] == column;) end++;
                Span<int> same = numbers[j..end];
                same.Sort();  // equal columns come in no order
                to[at] = column;
                if (sums != null) sums[at] = same.Length == 1 ? values[same[0]] : Sum(values, same, i, long.CreateTruncating(column));
                at++;
            }
            offsets[i + 1] = at;
        }
        return at;
    }

    /// <summary>The values of one place, in the order in which they came.</summary>
    private static T Sum<T>(ReadOnlySpan<T> values, ReadOnlySpan<int> same, long row, long column) where T : unmanaged, IAdditionOperators<T, T, T>
    {
        T sum = values[same[0]];
        try
        {
            foreach (int entry in same[1..]) sum = checked(sum + values[entry]);
        }
        catch (OverflowException)
        {
            throw new KernelsException(Status.Invalid, nameof(values), $"a sum of the {same.Length} values at [{row}, {column}] that {typeof(T).Name} holds");
        }
        return sum;
    }

    private static void Check<TIndex>(long rows, long columns, ReadOnlySpan<TIndex> rowIndices, ReadOnlySpan<TIndex> columnIndices, int values)
        where TIndex : unmanaged, IBinaryInteger<TIndex>
    {
        long most = sizeof(TIndex) == 4 ? SpGemmRules.Longest32 : SpGemmRules.Longest64;
        KernelsException.Require(rows >= 0 && rows <= most, nameof(rows), $"0 <= rows <= {most}, not {rows}");
        KernelsException.Require(columns >= 0 && columns <= most, nameof(columns), $"0 <= columns <= {most}, not {columns}");
        KernelsException.Require(rowIndices.Length == columnIndices.Length, nameof(columnIndices), $"as many columns as rows, {rowIndices.Length}, not {columnIndices.Length}");
        KernelsException.Require(values == columnIndices.Length, nameof(values), $"{columnIndices.Length} values, or none for a pattern, not {values}");
        for (int j = 0; j < rowIndices.Length; j++)
        {
            KernelsException.Require((ulong)long.CreateTruncating(rowIndices[j]) < (ulong)rows, nameof(rowIndices), $"0 <= row < {rows}, not {rowIndices[j]} of entry {j}");
            KernelsException.Require((ulong)long.CreateTruncating(columnIndices[j]) < (ulong)columns, nameof(columnIndices), $"0 <= column < {columns}, not {columnIndices[j]} of entry {j}");
        }
    }

    private static void Bucket<TIndex>(long rows, ReadOnlySpan<TIndex> rowIndices, ReadOnlySpan<TIndex> columnIndices, long* offsets, Span<TIndex> to, int[] entries)
        where TIndex : unmanaged, IBinaryInteger<TIndex>
    {
        for (long i = 0; i <= rows; i++) offsets[i] = 0;
        foreach (TIndex r in rowIndices) offsets[long.CreateTruncating(r) + 1]++;
        for (long i = 0; i < rows; i++) offsets[i + 1] += offsets[i];
        // Filled from the end of every row to its beginning, and then every offset has moved to where its row begins.
        for (int j = rowIndices.Length - 1; j >= 0; j--)
        {
            var at = (int)--offsets[long.CreateTruncating(rowIndices[j]) + 1];
            (to[at], entries[at]) = (columnIndices[j], j);
        }
        for (long i = 0; i < rows; i++) offsets[i] = offsets[i + 1];
        offsets[rows] = rowIndices.Length;
    }
}
