using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A sparse matrix in compressed sparse rows, with values or without (a pattern).</summary>
/// <typeparam name="T">Type of the values: float and double run on every row, others on the managed row with a semiring for them.</typeparam>
public sealed unsafe class CsrMatrix<T> : CsrStructure where T : unmanaged
{
    private readonly PooledMemory? _values;
    private readonly Buffer<T>? _wrapped;

    internal CsrMatrix(long rows, long columns, long nonZeros, int indexBits, bool sorted, PooledMemory offsets, PooledMemory columnMemory, PooledMemory? values)
        : base(rows, columns, nonZeros, indexBits, sorted, offsets, columnMemory)
    {
        _values = values;
        _values?.Touch(nonZeros * sizeof(T));
    }

    internal CsrMatrix(long rows, long columns, int indexBits, bool sorted, Buffer<long> offsets, SafeHandle columnMemory, Buffer<T>? values)
        : base(rows, columns, indexBits, sorted, offsets, columnMemory) => _wrapped = values;

    /// <summary>Whether entries have values; a pattern has none.</summary>
    public bool HasValues => _values is not null || _wrapped is not null;

    internal T* ValuesAt => _values is not null ? (T*)_values.At : _wrapped is not null ? _wrapped.Pointer : null;

    internal override void Hold(ref Held held, string name)
    {
        base.Hold(ref held, name);
        held.Add(_values, name);
        held.Add(_wrapped, name);
    }

    internal override KnCsr Native => new() { Offsets = OffsetsAt, Columns = ColumnsAt, Values = ValuesAt };

    /// <summary>Values, entry by entry; they may be written. Empty for a pattern. Valid while the matrix is referenced and not disposed.</summary>
    /// <exception cref="KernelsException">More than 2^31 - 1: see <see cref="ValuePointer"/>.</exception>
    public Span<T> Values => HasValues ? new Span<T>(ValuesAt, Length(NonZeros)) : default;

    /// <summary>Address of the values, for matrices that no span can hold. Valid until Dispose.</summary>
    public nint ValuePointer => (nint)ValuesAt;

    /// <summary>
    /// The transposed matrix, its rows sorted, where this one is. The CPU counts columns by blocks of rows, then moves every entry once, or twice where columns are
    /// many and all over the place; a GPU brings the entries of a column together by atomics and sorts them. It waits for what it enqueued on the default stream.
    /// </summary>
    /// <exception cref="KernelsException">No memory; on a GPU also more than 2^32 rows or columns, or what the driver refuses.</exception>
    public CsrMatrix<T> Transpose()
    {
        PooledMemory Rent(long bytes) => PooledMemory.Rent(bytes, "transpose", Device);
        var result = new CsrMatrix<T>(Columns, Rows, NonZeros, IndexBits, true, Rent((Columns + 1) * sizeof(long)), Rent(NonZeros * IndexBytes),
            HasValues ? Rent(NonZeros * sizeof(T)) : null);
        if (Device.Gpu is not null) TransposeOnDevice(result);
        else if (IndexBits == 32) Transposition<int, T>.Run(this, result);
        else Transposition<long, T>.Run(this, result);
        GC.KeepAlive(this);
        return result;
    }

    private void TransposeOnDevice(CsrMatrix<T> result)
    {
        Row row = Device.Table.Only<TransposeGpu>();
        var problem = new KnSpgemmProblem { M = Rows, N = Columns, ANnz = NonZeros, IndexBytes = IndexBytes };
        using PooledMemory scratch = PooledMemory.Rent(row.Workspace(&problem, default), "transpose", Device);
        var args = new KnTransposeGpu
        {
            From = Native,
            To = result.Native,
            Keys = (ulong*)scratch.At,
            M = Rows,
            N = Columns,
            Nnz = NonZeros,
            IndexBytes = IndexBytes,
            ValueBytes = HasValues ? sizeof(T) : 0,
        };
        KnStatus status = row.Run(&problem, default, &args);
        if (status != KnStatus.Ok) throw row.Failure(status);
        Device.Gpu!.Synchronize(0);
    }

    /// <summary>A copy on a GPU, or of a GPU's matrix in the memory of the host.</summary>
    /// <exception cref="KernelsException">No memory, or the other matrix is on another GPU.</exception>
    public CsrMatrix<T> CopyTo(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        KernelsException.Require(device.Gpu is null || Device.Gpu is null || device.Shares(Device), nameof(device), $"the host or {Device}, not {device}");
        PooledMemory Copy(void* from, long bytes) => PooledMemory.CopyOf(from, bytes, Device, device, "matrix");
        var copy = new CsrMatrix<T>(Rows, Columns, NonZeros, IndexBits, Sorted, Copy(OffsetsAt, (Rows + 1) * sizeof(long)), Copy(ColumnsAt, NonZeros * IndexBytes),
            HasValues ? Copy(ValuesAt, NonZeros * sizeof(T)) : null)
        { Origin = Origin };
        GC.KeepAlive(this);
        return copy;
    }

    internal override CsrStructure Copy(Device device) => CopyTo(device);

    /// <summary>This pattern with values to be computed; takes over its memory, so that this matrix is not to be used again.</summary>
    internal CsrMatrix<T> WithValues() =>
        new(Rows, Columns, NonZeros, IndexBits, Sorted, OffsetMemory!, ColumnMemory!, PooledMemory.Rent(NonZeros * sizeof(T), "c", Device)) { Origin = Origin };

    /// <inheritdoc/>
    public override void Dispose()
    {
        _values?.Dispose();
        base.Dispose();
    }
}

/// <summary>Makes <see cref="CsrMatrix{T}"/>.</summary>
public static unsafe class CsrMatrix
{
    /// <summary>Copies a matrix with columns of 32 bits. No values: a pattern.</summary>
    /// <param name="rows">Rows, at most 2^31 - 1.</param>
    /// <param name="columns">Columns, at most 2^31 - 1.</param>
    /// <param name="offsets">[rows + 1], ascending from 0.</param>
    /// <param name="columnIndices">A column per entry; within a row they ascend and are distinct.</param>
    /// <param name="values">A value per entry.</param>
    /// <exception cref="KernelsException">The first rule that is broken, with its row.</exception>
    public static CsrMatrix<T> Create<T>(long rows, long columns, ReadOnlySpan<long> offsets, ReadOnlySpan<int> columnIndices, ReadOnlySpan<T> values = default)
        where T : unmanaged => Copy<T, int>(rows, columns, offsets, columnIndices, values);

    /// <summary>Copies a matrix with columns of 64 bits. No values: a pattern.</summary>
    /// <param name="rows">Rows, at most 2^40.</param>
    /// <param name="columns">Columns, at most 2^40.</param>
    /// <param name="offsets">[rows + 1], ascending from 0.</param>
    /// <param name="columnIndices">A column per entry; within a row they ascend and are distinct.</param>
    /// <param name="values">A value per entry.</param>
    /// <exception cref="KernelsException">The first rule that is broken, with its row.</exception>
    public static CsrMatrix<T> Create<T>(long rows, long columns, ReadOnlySpan<long> offsets, ReadOnlySpan<long> columnIndices, ReadOnlySpan<T> values = default)
        where T : unmanaged => Copy<T, long>(rows, columns, offsets, columnIndices, values);

    /// <summary>Uses memory of the caller's as it is, which must stay valid and unchanged in structure while the matrix is used.</summary>
    /// <exception cref="KernelsException">The first rule that is broken, with its row.</exception>
    public static CsrMatrix<T> Wrap<T>(long rows, long columns, Buffer<long> offsets, Buffer<int> columnIndices, Buffer<T>? values) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(offsets);
        ArgumentNullException.ThrowIfNull(columnIndices);
        RequireHost(offsets.Device, columnIndices.Device, values?.Device);
        Check(rows, columns, 32, offsets.Pointer, offsets.Length, columnIndices.Pointer, columnIndices.Length, values?.Length);
        return new CsrMatrix<T>(rows, columns, 32, true, offsets, columnIndices, values);
    }

    /// <summary>The same with columns of 64 bits.</summary>
    /// <exception cref="KernelsException">The first rule that is broken, with its row.</exception>
    public static CsrMatrix<T> Wrap<T>(long rows, long columns, Buffer<long> offsets, Buffer<long> columnIndices, Buffer<T>? values) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(offsets);
        ArgumentNullException.ThrowIfNull(columnIndices);
        RequireHost(offsets.Device, columnIndices.Device, values?.Device);
        Check(rows, columns, 64, offsets.Pointer, offsets.Length, columnIndices.Pointer, columnIndices.Length, values?.Length);
        return new CsrMatrix<T>(rows, columns, 64, true, offsets, columnIndices, values);
    }

    /// <summary>
    /// From entries in any order; values of equal places are added in the order in which they come. Columns have 32 bits. No
    /// values: a pattern, in which equal places are one entry.
    /// </summary>
    /// <exception cref="KernelsException">Lengths that differ, an entry outside the matrix, by its number, or a sum that <typeparamref name="T"/> does not hold.</exception>
    public static CsrMatrix<T> FromCoo<T>(long rows, long columns, ReadOnlySpan<int> rowIndices, ReadOnlySpan<int> columnIndices, ReadOnlySpan<T> values = default)
        where T : unmanaged, IAdditionOperators<T, T, T> => CooMatrix.Compress(rows, columns, rowIndices, columnIndices, values);

    /// <summary>The same with columns of 64 bits; rows and columns are at most 2^40.</summary>
    /// <exception cref="KernelsException">Lengths that differ, an entry outside the matrix, by its number, or a sum that <typeparamref name="T"/> does not hold.</exception>
    public static CsrMatrix<T> FromCoo<T>(long rows, long columns, ReadOnlySpan<long> rowIndices, ReadOnlySpan<long> columnIndices, ReadOnlySpan<T> values = default)
        where T : unmanaged, IAdditionOperators<T, T, T> => CooMatrix.Compress(rows, columns, rowIndices, columnIndices, values);

    private static void RequireHost(Device offsets, Device columnIndices, Device? values) =>
        KernelsException.Require(offsets.Gpu is null && columnIndices.Gpu is null && values?.Gpu is null, nameof(offsets), "buffers of the host; CopyTo brings a matrix to a GPU");

    private static CsrMatrix<T> Copy<T, TIndex>(long rows, long columns, ReadOnlySpan<long> offsets, ReadOnlySpan<TIndex> columnIndices, ReadOnlySpan<T> values)
        where T : unmanaged where TIndex : unmanaged
    {
        int bits = 8 * sizeof(TIndex);
        fixed (long* o = offsets)
        fixed (TIndex* c = columnIndices)
            Check(rows, columns, bits, o, offsets.Length, c, columnIndices.Length, values.IsEmpty ? null : values.Length);
        PooledMemory offsetMemory = PooledMemory.Rent(offsets.Length * sizeof(long), "matrix"), columnMemory = PooledMemory.Rent((long)columnIndices.Length * sizeof(TIndex), "matrix");
        offsets.CopyTo(new Span<long>(offsetMemory.At, offsets.Length));
        columnIndices.CopyTo(new Span<TIndex>(columnMemory.At, columnIndices.Length));
        // Without entries there is nothing to tell a matrix with values from a pattern by: it has values.
        PooledMemory? valueMemory = values.IsEmpty && columnIndices.Length > 0 ? null : PooledMemory.Rent((long)values.Length * sizeof(T), "matrix");
        if (valueMemory is not null) values.CopyTo(new Span<T>(valueMemory.At, values.Length));
        return new CsrMatrix<T>(rows, columns, columnIndices.Length, bits, true, offsetMemory, columnMemory, valueMemory);
    }

    private static void Check(long rows, long columns, int bits, long* offsets, long offsetCount, void* indices, long entries, long? values)
    {
        long most = bits == 32 ? SpGemmRules.Longest32 : SpGemmRules.Longest64;
        KernelsException.Require(rows >= 0 && rows <= most, nameof(rows), $"0 <= rows <= {most}, not {rows}");
        KernelsException.Require(columns >= 0 && columns <= most, nameof(columns), $"0 <= columns <= {most}, not {columns}");
        KernelsException.Require(offsetCount == rows + 1, nameof(offsets), $"rows + 1 = {rows + 1} offsets, not {offsetCount}");
        KernelsException.Require(offsets[0] == 0, nameof(offsets), $"to begin with 0, not {offsets[0]}");
        for (long i = 0; i < rows; i++)
            KernelsException.Require(offsets[i] <= offsets[i + 1], nameof(offsets), $"to ascend: row {i} begins at {offsets[i]} and ends at {offsets[i + 1]}");
        KernelsException.Require(offsets[rows] == entries, "columnIndices", $"{offsets[rows]} columns, as the last offset says, not {entries}");
        KernelsException.Require(values is null || values == entries, nameof(values), $"{entries} values, or none for a pattern, not {values}");
        for (long i = 0; i < rows; i++)
            if (bits == 32) CheckRow(i, columns, (int*)indices, offsets[i], offsets[i + 1]);
            else CheckRow(i, columns, (long*)indices, offsets[i], offsets[i + 1]);
    }

    private static void CheckRow<TIndex>(long row, long columns, TIndex* indices, long from, long to) where TIndex : unmanaged, IBinaryInteger<TIndex>
    {
        long last = -1;
        for (long j = from; j < to; j++)
        {
            long c = long.CreateTruncating(indices[j]);
            if (c > last && c < columns)
            {
                last = c;
                continue;
            }
            KernelsException.Require(c >= 0 && c < columns, "columnIndices", $"0 <= column < {columns}, not {c} in row {row}");
            KernelsException.Require(c != last, "columnIndices", $"distinct columns in a row: {c} is twice in row {row} (FromCoo adds them)");
            KernelsException.Require(c > last, "columnIndices", $"ascending columns: {last} is before {c} in row {row} (FromCoo sorts them)");
        }
    }
}
