using System.Buffers.Binary;
using System.Security.Cryptography;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Sparse weights of one layer: a bit per weight and the non-zeros, in the order of the tiles. One layout for every row and
/// machine, made once and shared by any number of plans. Can be saved and loaded: a file is held to its SHA-256 and to the
/// layout itself, offset by offset, before any row reads it.
/// </summary>
public sealed unsafe class SparseLinearWeights : IDisposable
{
    private const int HeaderBytes = 64, FileVersion = 1;
    private const int ShapeFlags = (int)KnGemmFlags.Gated;
    private static ReadOnlySpan<byte> Magic => "KNSPLINR"u8;

    private SparseLinearWeights(KnSparseLinearProblem shape, Buffer<byte> data) => (Shape, Data) = (shape, data);

    /// <summary>Bytes held: non-zeros, two bytes per 16 weights, and offsets.</summary>
    public long Bytes => Data.Bytes;

    /// <summary>Weights that are stored.</summary>
    public long NonZeros => Shape.Nnz;

    /// <summary>Part of the weights that is stored.</summary>
    public double Density => Count(Shape.Layer) is > 0 and var all ? (double)Shape.Nnz / all : 0;

    /// <summary>The problem they were packed for; m and the types of x and y do not matter.</summary>
    internal KnSparseLinearProblem Shape { get; }

    internal Buffer<byte> Data { get; }

    private static long Count(in KnFlatGemmProblem p) => (long)p.K * p.N * ((p.Flags & ShapeFlags) != 0 ? 2 : 1);

    /// <summary>Packs what is not 0 in all its bits (-0 is kept) of dense weights, or of those of them that a mask keeps.</summary>
    /// <param name="options">The layer; no u4 weights.</param>
    /// <param name="w">[N or 2 N, K] float, BFloat16, Half or sbyte.</param>
    /// <param name="scales">s8: [N or 2 N].</param>
    /// <param name="mask">[N or 2 N, K]: which weights to keep; all when empty.</param>
    /// <exception cref="KernelsException">A shape, type or value that breaks a rule, or w changes meanwhile.</exception>
    public static SparseLinearWeights Pack<T>(FlatGemmOptions options, ReadOnlySpan2D<T> w, ReadOnlySpan<float> scales = default,
        ReadOnlySpan2D<bool> mask = default) where T : unmanaged
    {
        CheckLayer<T>(options, scales);
        KernelsException.Require(w.Height == options.Columns && (w.Width == options.K || w.Height == 0), nameof(w), $"shape [{options.Columns}, {options.K}], not [{w.Height}, {w.Width}]");
        KernelsException.Require(mask.Length == 0 || (mask.Height == w.Height && mask.Width == w.Width), nameof(mask), $"empty or shape [{w.Height}, {w.Width}], not [{mask.Height}, {mask.Width}]");
        long stride = w.Stride() * sizeof(T), maskStride = mask.Stride(), bytes = (long)options.K * sizeof(T);
        fixed (T* at = w)
        fixed (bool* keep = mask)
        {
            byte* from = (byte*)at;
            bool* kept = keep;
            return Pack(options, scales, (row, to) =>
            {
                Buffer.MemoryCopy(from + row * stride, to, bytes, bytes);
                for (long i = 0; kept != null && i < bytes / sizeof(T); i++)
                    if (!kept[row * maskStride + i]) ((T*)to)[i] = default;
            });
        }
    }

    /// <summary>Packs compressed sparse rows, without a dense copy of them. Values that are 0 are left out.</summary>
    /// <param name="options">The layer; no u4 weights.</param>
    /// <param name="offsets">[N or 2 N, plus 1] ascending from 0: where the values of a row begin.</param>
    /// <param name="columns">[nnz] inputs, ascending within a row.</param>
    /// <param name="values">[nnz].</param>
    /// <param name="scales">s8: [N or 2 N].</param>
    /// <exception cref="KernelsException">Offsets or columns out of order, twice or out of range; a type or shape that breaks a rule, or what is read changes meanwhile.</exception>
    public static SparseLinearWeights Pack<T>(FlatGemmOptions options, ReadOnlySpan<long> offsets, ReadOnlySpan<int> columns, ReadOnlySpan<T> values,
        ReadOnlySpan<float> scales = default) where T : unmanaged
    {
        CheckLayer<T>(options, scales);
        // The caller's memory may change after it was checked: offsets are kept, and a column is looked at where it is used.
        long[] o = offsets.ToArray();
        fixed (int* column = columns)
        fixed (T* value = values)
        {
            int* c = column;
            T* v = value;
            uint k = (uint)options.K;
            CheckRows(options, o, columns, values.Length);
            return Pack(options, scales, (row, to) =>
            {
                for (long i = o[row]; i < o[row + 1]; i++)
                    if ((uint)Volatile.Read(ref c[i]) is var at && at < k) ((T*)to)[at] = v[i];
            });
        }
    }

    private static void CheckRows(FlatGemmOptions o, ReadOnlySpan<long> offsets, ReadOnlySpan<int> columns, int values)
    {
        KernelsException.Require(offsets.Length == o.Columns + 1, nameof(offsets), $"{o.Columns + 1} values, not {offsets.Length}");
        KernelsException.Require(columns.Length == values, nameof(columns), $"one for each of {values} values, not {columns.Length}");
        KernelsException.Require(offsets[0] == 0 && offsets[^1] == values, nameof(offsets), $"from 0 to {values}");
        for (int row = 0; row < o.Columns; row++)
        {
            KernelsException.Require(offsets[row] <= offsets[row + 1] && offsets[row + 1] <= values, nameof(offsets), $"ascending up to {values}; row {row} is not");
            for (long i = offsets[row]; i < offsets[row + 1]; i++)
            {
                int column = columns[(int)i];
                KernelsException.Require(column >= 0 && column < o.K, nameof(columns), $"0 <= column < {o.K}; row {row} has {column}");
                KernelsException.Require(i == offsets[row] || columns[(int)i - 1] < column, nameof(columns), $"ascending within a row; row {row} has {column} out of order or twice");
            }
        }
    }

    private static void CheckLayer<T>(FlatGemmOptions o, ReadOnlySpan<float> scales) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(o, "options");
        SparseLinear.Check(o);
        KernelsException.Require(DTypes.Of<T>() == o.Weights, "w", $"elements of {o.Weights.Name()}, not {DTypes.Of<T>().Name()}");
        long wanted = o.Weights == DType.Int8 ? o.Columns : 0;
        KernelsException.Require(scales.Length == wanted, nameof(scales), $"{wanted} values, not {scales.Length}");
    }

    private static SparseLinearWeights Pack(FlatGemmOptions options, ReadOnlySpan<float> scales, WeightRow rows)
    {
        var packing = new SparsePacking(SparseLinear.Problem(options, options.MaxM, 0, KnSparseSets.None), rows);
        Buffer<byte> data = Buffer<byte>.Allocate(packing.Bytes);
        fixed (float* s = scales)
        {
            if (packing.Write(data.Pointer, s)) return new SparseLinearWeights(packing.Problem, data);
        }
        data.Dispose();
        throw new KernelsException(Status.Invalid, "w", SparsePacking.Unchanged);
    }

    /// <summary>A copy of weights of the host on a device, for plans there. It is not loaded, saved or unpacked from there.</summary>
    /// <exception cref="KernelsException">These weights are on a GPU already, or there is no memory.</exception>
    public SparseLinearWeights CopyTo(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        RequireHost();
        Buffer<byte> data = Buffer<byte>.Allocate(device, Bytes);
        if (device.Gpu is null) Buffer.MemoryCopy(Data.Pointer, data.Pointer, Bytes, Bytes);
        else data.Copy(GpuCopy.ToDevice, data.Pointer, Data.Pointer, Bytes);
        GC.KeepAlive(this);
        return new SparseLinearWeights(Shape, data);
    }

    private void RequireHost() => KernelsException.Require(Data.Device.Gpu is null, "weights", $"weights of the host, not of {Data.Device}");

    /// <summary>The dense weights again, bit for bit.</summary>
    /// <param name="w">[N or 2 N, K] of the weights' type.</param>
    /// <exception cref="KernelsException">Another type or shape.</exception>
    public void Unpack<T>(Span2D<T> w) where T : unmanaged
    {
        RequireHost();
        KnFlatGemmProblem p = Shape.Layer;
        KernelsException.Require(DTypes.Of<T>() == (DType)p.WType, nameof(w), $"elements of {((DType)p.WType).Name()}, not {DTypes.Of<T>().Name()}");
        long height = Count(p) / Math.Max(p.K, 1);
        KernelsException.Require(w.Height == height && w.Width == p.K, nameof(w), $"shape [{height}, {p.K}], not [{w.Height}, {w.Width}]");
        w.Clear();
        var at = new SparsePanels(Shape);
        T* value = (T*)(Data.Pointer + at.ValuesAt);
        for (long panel = 0; panel < at.Count; panel++)
            for (long k = 0; k < at.KPadded; k += at.Step)
                for (ulong bits = at.Bits(Data.Pointer, panel, k); bits != 0; bits &= bits - 1)
                {
                    int i = System.Numerics.BitOperations.TrailingZeroCount(bits);
                    w[(int)at.SourceRow(p.N, panel, i / at.Step), (int)k + i % at.Step] = *value++;
                }
        GC.KeepAlive(this);
    }

    /// <summary>Writes a header of 64 bytes, the content, its SHA-256.</summary>
    public void Save(System.IO.Stream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        RequireHost();
        Span<byte> header = stackalloc byte[HeaderBytes];
        WriteHeader(header, Shape, Bytes);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(header);
        stream.Write(header);
        for (long at = 0; at < Bytes; at += 1 << 20)
        {
            var part = new ReadOnlySpan<byte>(Data.Pointer + at, (int)Math.Min(1 << 20, Bytes - at));
            hash.AppendData(part);
            stream.Write(part);
        }
        stream.Write(hash.GetHashAndReset());
        GC.KeepAlive(this);
    }

    private static void WriteHeader(Span<byte> header, in KnSparseLinearProblem shape, long bytes)
    {
        header.Clear();
        Magic.CopyTo(header);
        ReadOnlySpan<int> fields = [FileVersion, shape.Layer.WType, shape.Layer.N, shape.Layer.K, shape.Layer.Flags & ShapeFlags];
        for (int i = 0; i < fields.Length; i++) BinaryPrimitives.WriteInt32LittleEndian(header[(8 + 4 * i)..], fields[i]);
        BinaryPrimitives.WriteInt64LittleEndian(header[32..], shape.Nnz);
        BinaryPrimitives.WriteInt64LittleEndian(header[40..], bytes);
    }

    /// <summary>Reads weights that <see cref="Save"/> wrote, for the same layer.</summary>
    /// <exception cref="KernelsException">The file is foreign, damaged, for another layer, or not of the layout; nothing is kept.</exception>
    public static SparseLinearWeights Load(FlatGemmOptions options, System.IO.Stream stream)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(stream);
        SparseLinear.Check(options);
        Span<byte> header = stackalloc byte[HeaderBytes], expected = stackalloc byte[HeaderBytes];
        if (stream.ReadAtLeast(header, HeaderBytes, throwOnEndOfStream: false) < HeaderBytes || !header[..8].SequenceEqual(Magic))
            throw new KernelsException(Status.Invalid, nameof(stream), "packed sparse_linear weights");
        KnSparseLinearProblem shape = SparseLinear.Problem(options, options.MaxM, BinaryPrimitives.ReadInt64LittleEndian(header[32..]), KnSparseSets.None);
        // The count is the one size that the file brings: it cannot pass that of the dense weights.
        KernelsException.Require(SparseLinearRules.Valid(shape, out _), nameof(stream), $"at most {Count(shape.Layer)} values, not {shape.Nnz}");
        long bytes = new SparsePanels(shape).Total;
        WriteHeader(expected, shape, bytes);
        KernelsException.Require(header.SequenceEqual(expected), nameof(stream),
            $"weights of {options.Weights.Name()} [{options.Columns}, {options.K}]; the file's header says otherwise");
        Buffer<byte> data = Buffer<byte>.Allocate(bytes);
        string? fault = Read(stream, data, header) ? new SparsePanels(shape).Fault(shape, data.Pointer) : "whole: it is cut short or its SHA-256 differs";
        if (fault is null) return new SparseLinearWeights(shape, data);
        data.Dispose();
        throw new KernelsException(Status.Invalid, nameof(stream), $"undamaged content; at fault is: {fault}");
    }

    private static bool Read(System.IO.Stream stream, Buffer<byte> data, ReadOnlySpan<byte> header)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(header);
        for (long at = 0; at < data.Bytes; at += 1 << 20)
        {
            var part = new Span<byte>(data.Pointer + at, (int)Math.Min(1 << 20, data.Bytes - at));
            if (stream.ReadAtLeast(part, part.Length, throwOnEndOfStream: false) != part.Length) return false;
            hash.AppendData(part);
        }
        Span<byte> sum = stackalloc byte[32];
        return stream.ReadAtLeast(sum, 32, throwOnEndOfStream: false) == 32 && sum.SequenceEqual(hash.GetHashAndReset());
    }

    /// <summary>Whether a plan with these options can read these weights.</summary>
    internal bool Fits(FlatGemmOptions o)
    {
        KnFlatGemmProblem p = o.Problem(o.MaxM);
        return p.WType == Shape.Layer.WType && p.N == Shape.Layer.N && p.K == Shape.Layer.K && (p.Flags & ShapeFlags) == (Shape.Layer.Flags & ShapeFlags);
    }

    /// <summary>Frees the memory once the last plan's call that reads it has returned.</summary>
    public void Dispose() => Data.Dispose();
}
