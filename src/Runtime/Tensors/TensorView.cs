using System.Runtime.CompilerServices;

namespace Kernels;

/// <summary>Shape or strides of a view: up to five numbers, held in place.</summary>
[InlineArray(MaxRank)]
internal struct Extents
{
    internal const int MaxRank = 5;
    private long _first;
}

/// <summary>
/// A strided window on a buffer: offset, shape and strides, all in elements. Costs nothing to make and owns nothing; every
/// element that shape and strides can reach lies inside the buffer.
/// </summary>
public readonly unsafe struct TensorView<T> where T : unmanaged
{
    private readonly Extents _shape, _strides;

    /// <summary>The view of <paramref name="buffer"/> from <paramref name="offset"/> on.</summary>
    /// <exception cref="KernelsException">A negative extent or stride, or an element outside the buffer.</exception>
    public TensorView(Buffer<T> buffer, long offset, ReadOnlySpan<long> shape, ReadOnlySpan<long> strides)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        KernelsException.Require(shape.Length is >= 1 and <= Extents.MaxRank, nameof(shape), $"1 to {Extents.MaxRank} dimensions, not {shape.Length}");
        KernelsException.Require(strides.Length == shape.Length, nameof(strides), $"one for each of {shape.Length} dimensions, not {strides.Length}");
        KernelsException.Require(offset >= 0, nameof(offset), $"0 <= offset, not {offset}");
        Int128 last = offset;
        bool empty = false;
        for (int i = 0; i < shape.Length; i++)
        {
            KernelsException.Require(shape[i] >= 0, nameof(shape), $"extents >= 0, not {shape[i]}");
            KernelsException.Require(strides[i] >= 0, nameof(strides), $"strides >= 0, not {strides[i]}");
            empty |= shape[i] == 0;
            last += (Int128)Math.Max(shape[i] - 1, 0) * strides[i];
            _shape[i] = shape[i];
            _strides[i] = strides[i];
        }
        KernelsException.Require(empty || last < buffer.Length, nameof(shape), $"elements inside the buffer of {buffer.Length}, not up to {last}");
        Buffer = buffer;
        Offset = offset;
        Rank = shape.Length;
    }

    /// <summary>A contiguous view of all of <paramref name="buffer"/>, last dimension fastest.</summary>
    public TensorView(Buffer<T> buffer, params ReadOnlySpan<long> shape) : this(buffer, 0, shape, Contiguous(shape, stackalloc long[Extents.MaxRank]))
    {
    }

    /// <summary>The memory.</summary>
    public Buffer<T> Buffer { get; }

    /// <summary>First element, counted from the buffer's.</summary>
    public long Offset { get; }

    /// <summary>Dimensions.</summary>
    public int Rank { get; }

    /// <summary>Extent of dimension <paramref name="i"/>.</summary>
    public long Shape(int i) => (uint)i < (uint)Rank ? _shape[i] : throw new ArgumentOutOfRangeException(nameof(i));

    /// <summary>Stride of dimension <paramref name="i"/>, in elements.</summary>
    public long Stride(int i) => (uint)i < (uint)Rank ? _strides[i] : throw new ArgumentOutOfRangeException(nameof(i));

    /// <summary>Address of the first element.</summary>
    public T* Pointer => Buffer.Pointer + Offset;

    /// <summary>The rows <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> of the first dimension.</summary>
    public TensorView<T> Rows(long start, long count)
    {
        KernelsException.Require(start >= 0 && count >= 0 && start <= _shape[0] - count, nameof(start), $"rows inside {_shape[0]}, not {start} + {count}");
        Extents shape = _shape;
        shape[0] = count;
        return new TensorView<T>(Buffer, Offset + start * _strides[0], ((ReadOnlySpan<long>)shape)[..Rank], ((ReadOnlySpan<long>)_strides)[..Rank]);
    }

    private static ReadOnlySpan<long> Contiguous(ReadOnlySpan<long> shape, Span<long> strides)
    {
        long step = 1;
        strides = strides[..Math.Min(shape.Length, Extents.MaxRank)];
        for (int i = strides.Length - 1; i >= 0; i--)
        {
            strides[i] = step;
            step *= Math.Max(shape[i], 1);
        }
        return strides;
    }
}
