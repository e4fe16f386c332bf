namespace Kernels;

/// <summary>Whether two rows made one C: every row of spgemm gives the same bits.</summary>
internal static class SpGemmSame
{
    /// <summary>C may be on a GPU, and its rows in any order.</summary>
    /// <param name="expected">Of the host, sorted.</param>
    /// <param name="c">Stays its owner's.</param>
    internal static bool As<T>(CsrMatrix<T> expected, CsrMatrix<T> c) where T : unmanaged
    {
        if (c.Device.Gpu is not null)
        {
            using CsrMatrix<T> here = c.CopyTo(Device.Cpu);
            return As(expected, here);
        }
        if (!c.Sorted)
        {
            // What is transposed is sorted.
            using CsrMatrix<T> columns = c.Transpose(), sorted = columns.Transpose();
            return As(expected, sorted);
        }
        return c.Columns == expected.Columns && c.RowOffsets.SequenceEqual(expected.RowOffsets) && c.IndexBits == expected.IndexBits && c.HasValues == expected.HasValues
            && (c.IndexBits == 32 ? c.ColumnIndices.SequenceEqual(expected.ColumnIndices) : c.ColumnIndices64.SequenceEqual(expected.ColumnIndices64))
            && c.Values.SequenceEqual(expected.Values);
    }
}
