using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Where the entries of a sparse matrix are, in compressed sparse rows: offsets [rows + 1] of 64 bits that ascend from 0, and a
/// column of 32 or 64 bits per entry. Columns of a row are distinct, and ascend where <see cref="Sorted"/>.
/// </summary>
public abstract unsafe class CsrStructure : IDisposable
{
    private protected readonly PooledMemory? OffsetMemory, ColumnMemory;
    private readonly Buffer<long>? _wrappedOffsets;
    private readonly System.Runtime.InteropServices.SafeHandle? _wrappedColumns;

    private protected CsrStructure(long rows, long columns, long nonZeros, int indexBits, bool sorted, PooledMemory offsets, PooledMemory columnMemory)
    {
        (Rows, Columns, NonZeros, IndexBits, Sorted) = (rows, columns, nonZeros, indexBits, sorted);
        (OffsetMemory, ColumnMemory) = (offsets, columnMemory);
        OffsetMemory.Touch((rows + 1) * sizeof(long));
        ColumnMemory.Touch(nonZeros * IndexBytes);
    }

    private protected CsrStructure(long rows, long columns, int indexBits, bool sorted, Buffer<long> offsets, System.Runtime.InteropServices.SafeHandle columnMemory)
    {
        (Rows, Columns, IndexBits, Sorted) = (rows, columns, indexBits, sorted);
        (_wrappedOffsets, _wrappedColumns) = (offsets, columnMemory);
        NonZeros = OffsetsAt[rows];
    }

    /// <summary>Where it is.</summary>
    public Device Device => OffsetMemory?.Device ?? Device.Cpu;

    /// <summary>Rows.</summary>
    public long Rows { get; }

    /// <summary>Columns.</summary>
    public long Columns { get; }

    /// <summary>Entries, explicit zeros included.</summary>
    public long NonZeros { get; }

    /// <summary>Bits of a column index: 32 or 64.</summary>
    public int IndexBits { get; }

    /// <summary>Whether the columns of every row ascend.</summary>
    public bool Sorted { get; private protected set; }

    /// <summary>What stands for the plan that made this structure; copies have it, too. Null for what a caller made.</summary>
    internal object? Origin { get; init; }

    internal int IndexBytes => IndexBits / 8;

    internal long* OffsetsAt => OffsetMemory is null ? _wrappedOffsets!.Pointer : (long*)OffsetMemory.At;

    internal void* ColumnsAt => ColumnMemory is not null ? ColumnMemory.At : IndexBits == 32 ? ((Buffer<int>)_wrappedColumns!).Pointer : ((Buffer<long>)_wrappedColumns!).Pointer;

    internal long ColumnAt(long entry) => IndexBits == 32 ? ((int*)ColumnsAt)[entry] : ((long*)ColumnsAt)[entry];

    internal abstract KnCsr Native { get; }

    /// <summary>CsrMatrix.CopyTo, whatever the type of the values.</summary>
    internal abstract CsrStructure Copy(Device device);

    /// <summary>Where every row begins, and where the last one ends: [rows + 1]. As all spans of a matrix, valid while it is referenced and not disposed.</summary>
    public ReadOnlySpan<long> RowOffsets => new(OffsetsAt, Length(Rows + 1));

    /// <summary>Columns of 32 bits.</summary>
    /// <exception cref="KernelsException">They have 64 bits, or are more than 2^31 - 1: see <see cref="ColumnPointer"/>.</exception>
    public ReadOnlySpan<int> ColumnIndices
    {
        get
        {
            KernelsException.Require(IndexBits == 32, nameof(ColumnIndices), "columns of 32 bits");
            return new ReadOnlySpan<int>(ColumnsAt, Length(NonZeros));
        }
    }

    /// <summary>Columns of 64 bits.</summary>
    /// <exception cref="KernelsException">They have 32 bits, or are more than 2^31 - 1: see <see cref="ColumnPointer"/>.</exception>
    public ReadOnlySpan<long> ColumnIndices64
    {
        get
        {
            KernelsException.Require(IndexBits == 64, nameof(ColumnIndices64), "columns of 64 bits");
            return new ReadOnlySpan<long>(ColumnsAt, Length(NonZeros));
        }
    }

    /// <summary>Address of the columns, for matrices that no span can hold. Valid until Dispose.</summary>
    public nint ColumnPointer => (nint)ColumnsAt;

    /// <summary>Whether <see cref="Dispose"/> was called.</summary>
    internal bool IsDisposed => OffsetMemory?.IsClosed ?? _wrappedOffsets!.IsClosed;

    /// <summary>Keeps the memory from being freed, or given to another matrix, during a call.</summary>
    internal virtual void Hold(ref Held held, string name)
    {
        held.Add(OffsetMemory, name);
        held.Add(ColumnMemory, name);
        held.Add(_wrappedOffsets, name);
        held.Add(_wrappedColumns, name);
    }

    /// <summary>Refuses what was disposed, of memory of the caller's any part.</summary>
    internal void RequireLiving(string name)
    {
        var held = new Held();
        try
        {
            Hold(ref held, name);
        }
        finally
        {
            held.Dispose();
        }
    }

    private protected int Length(long elements)
    {
        RequireHost();
        KernelsException.Require(elements <= int.MaxValue, "matrix", $"at most 2^31 - 1 elements in a span, not {elements}");
        return (int)elements;
    }

    internal void RequireHost() => KernelsException.Require(Device.Gpu is null, "matrix", $"memory of the host, not of {Device}: CopyTo brings it there");

    /// <summary>Gives memory that the matrix owns back to the pool once the products that use it have returned; wrapped memory stays the caller's.</summary>
    public virtual void Dispose()
    {
        OffsetMemory?.Dispose();
        ColumnMemory?.Dispose();
        GC.SuppressFinalize(this);
    }
}
