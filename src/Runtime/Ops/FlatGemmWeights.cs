using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// Weights of one layer in the order its rows read them, made once and shared by any number of plans. Can be saved and loaded:
/// the file says layout, dtype and shape, carries a SHA-256 of its content, and is refused when anything disagrees.
/// </summary>
public sealed unsafe class FlatGemmWeights : IDisposable
{
    private const int HeaderBytes = 128, LayoutBytes = 48, FileVersion = 1;
    private static ReadOnlySpan<byte> Magic => "KNFGPACK"u8;

    private readonly Buffer<byte> _data;

    private FlatGemmWeights(string? layout, KnFlatGemmProblem shape, Buffer<byte> data, long ldw, long scalesAt, long zerosAt)
    {
        (Layout, Shape, _data, Ldw, ScalesAt, ZerosAt) = (layout, shape, data, ldw, scalesAt, zerosAt);
    }

    /// <summary>Name of the packed layout; null: the weights are row-major as they came.</summary>
    public string? Layout { get; }

    /// <summary>Bytes held.</summary>
    public long Bytes => _data.Bytes;

    /// <summary>The problem they were packed for; m and the types of x and y do not matter.</summary>
    internal KnFlatGemmProblem Shape { get; }

    internal Buffer<byte> Data => _data;

    internal long Ldw { get; }

    internal long ScalesAt { get; }

    internal long ZerosAt { get; }

    /// <summary>Packs <paramref name="w"/> for the rows that <paramref name="options"/> would choose among on <paramref name="device"/>.</summary>
    /// <param name="options">The layer.</param>
    /// <param name="w">[N or 2 N, K] float, BFloat16, Half or sbyte; u4: bytes [N or 2 N, ceil(K / 2)], low nibble first.</param>
    /// <param name="scales">s8: [N or 2 N]; u4: [N or 2 N, ceil(K / Group)].</param>
    /// <param name="zeros">u4 with zero points: [N or 2 N, ceil(K / Group)], each 0..15.</param>
    /// <param name="device">The CPU when null.</param>
    /// <exception cref="KernelsException">A shape, type or value that breaks a rule.</exception>
    public static FlatGemmWeights Pack<T>(FlatGemmOptions options, ReadOnlySpan2D<T> w, ReadOnlySpan<float> scales = default,
        ReadOnlySpan<byte> zeros = default, Device? device = null) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        CheckSource<T>(options, w.Height, w.Width, scales, zeros);
        fixed (T* at = w)
        fixed (float* s = scales)
        fixed (byte* z = zeros)
            return Pack(options, at, w.Stride() * (options.Weights == DType.UInt4 ? 2 : 1), s, z, device ?? Device.Cpu);
    }

    /// <summary>
    /// Packs a view, of any size, on a buffer of the host or of <paramref name="device"/>, which is the view's when null. Columns of
    /// <paramref name="w"/> must be contiguous.
    /// </summary>
    /// <inheritdoc cref="Pack{T}(FlatGemmOptions, ReadOnlySpan2D{T}, ReadOnlySpan{float}, ReadOnlySpan{byte}, Device?)"/>
    public static FlatGemmWeights Pack<T>(FlatGemmOptions options, in TensorView<T> w, ReadOnlySpan<float> scales = default,
        ReadOnlySpan<byte> zeros = default, Device? device = null) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        KernelsException.Require(w.Rank == 2 && (w.Stride(1) == 1 || w.Shape(1) <= 1), nameof(w), "two dimensions, the last one contiguous");
        CheckSource<T>(options, w.Shape(0), w.Shape(1), scales, zeros);
        device ??= w.Buffer.Device;
        bool there = w.Buffer.Device.Gpu is not null;
        KernelsException.Require(!there || w.Buffer.Device.Shares(device), nameof(w), $"memory of the host or of {device}, not of {w.Buffer.Device}");
        fixed (float* s = scales)
        fixed (byte* z = zeros)
            return Pack(options, w.Pointer, w.Stride(0) * (options.Weights == DType.UInt4 ? 2 : 1), s, z, device, there);
    }

    internal static void CheckSource<T>(FlatGemmOptions o, long height, long width, ReadOnlySpan<float> scales, ReadOnlySpan<byte> zeros) where T : unmanaged
    {
        o.Check();
        DType type = typeof(T) == typeof(byte) ? DType.UInt4 : DTypes.Of<T>();
        KernelsException.Require(type == o.Weights, "w", $"elements of {o.Weights.Name()}, not {type.Name()}");
        long columns = o.Weights == DType.UInt4 ? (o.K + 1) / 2 : o.K;
        KernelsException.Require(height == o.Columns && (width == columns || height == 0), "w", $"shape [{o.Columns}, {columns}], not [{height}, {width}]");
        long wanted = (long)o.Columns * o.Groups;
        KernelsException.Require(scales.Length == wanted, "scales", $"{wanted} values, not {scales.Length}");
        long wantedZeros = o.ZeroPoints ? wanted : 0;
        KernelsException.Require(zeros.Length == wantedZeros, "zeros", $"{wantedZeros} values, not {zeros.Length}");
        KernelsException.Require(!zeros.ContainsAnyExceptInRange((byte)0, (byte)15), "zeros", "values 0..15");
    }

    private static FlatGemmWeights Pack(FlatGemmOptions options, void* w, long ldw, float* scales, byte* zeros, Device device, bool onDevice = false)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        Row row = FlatGemmSelection.LayoutRow(device, options);
        if (row.Layout(&problem) is not { } layout) return Copy(options, problem, w, ldw, scales, zeros, device, onDevice);
        Buffer<byte> data = Buffer<byte>.Allocate(row.PackedBytes(&problem));
        var args = new KnFlatGemmArgs
        {
            Size = (uint)sizeof(KnFlatGemmArgs),
            W = w,
            Ldw = ldw,
            Scales = scales,
            Zeros = zeros,
            Packed = data.Pointer,
            PackedBytes = data.Bytes,
        };
        KnStatus status = row.Prepack(&problem, &args);
        if (status == KnStatus.Ok) return new FlatGemmWeights(layout, problem, data, 0, 0, 0);
        data.Dispose();
        throw KernelsException.FromSentence((Status)status, row.Name, row.LastError);
    }

    /// <summary>
    /// Weights for a row that reads them as they are: a copy, since the caller's memory may move. For a GPU it goes there from the
    /// host or, where the weights are on it already, stays on it; scales and zero points come from the host.
    /// </summary>
    private static FlatGemmWeights Copy(FlatGemmOptions o, KnFlatGemmProblem problem, void* w, long ldw, float* scales, byte* zeros, Device device, bool onDevice)
    {
        (long row, long pitch, long scalesAt, long zerosAt, long bytes) = AsTheyAre(o, device);
        long stride = ldw * o.Weights.Bits() / 8, groups = (long)o.Columns * o.Groups;
        Buffer<byte> data = Buffer<byte>.Allocate(device, bytes);
        if (stride == pitch && o.Columns > 0) Put(w, 0, (o.Columns - 1) * pitch + row, onDevice);
        else for (long i = 0; i < o.Columns; i++) Put((byte*)w + i * stride, i * pitch, row, onDevice);
        if (scales != null) Put(scales, scalesAt, groups * 4, false);
        if (zeros != null) Put(zeros, zerosAt, groups, false);
        return new FlatGemmWeights(null, problem, data, pitch * 8 / o.Weights.Bits(), scalesAt, zerosAt);

        void Put(void* from, long at, long bytes, bool there)
        {
            if (device.Gpu is null) Buffer.MemoryCopy(from, data.Pointer + at, bytes, bytes);
            else data.Copy(there ? GpuCopy.OnDevice : GpuCopy.ToDevice, data.Pointer + at, from, bytes);
        }
    }

    /// <summary>Where row-major weights, scales and zero points lie: bytes of a row of w, from one to the next, and of all.</summary>
    private static (long Row, long Pitch, long ScalesAt, long ZerosAt, long Bytes) AsTheyAre(FlatGemmOptions o, Device device)
    {
        long row = o.Weights == DType.UInt4 ? (o.K + 1) / 2 : (long)o.K * o.Weights.Bits() / 8;
        // Rows of 16-byte vectors where the device reads such.
        long pitch = device.Gpu is null ? row : (row + 15) / 16 * 16;
        long groups = (long)o.Columns * o.Groups;
        long scalesAt = (o.Columns * pitch + 63) / 64 * 64, zerosAt = scalesAt + groups * 4;
        return (row, pitch, scalesAt, zerosAt, zerosAt + groups);
    }

    /// <summary>Writes the weights: a header of 128 bytes, the content, its SHA-256.</summary>
    /// <exception cref="KernelsException">They are on a GPU.</exception>
    public void Save(System.IO.Stream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        if (_data.Device.Gpu is not null) throw new KernelsException(Status.Unsupported, "weights", $"weights of the host; those on {_data.Device} are row-major as they came, so keep their source");
        Span<byte> header = stackalloc byte[HeaderBytes];
        WriteHeader(header);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(header);
        stream.Write(header);
        for (long at = 0; at < Bytes; at += 1 << 20)
        {
            var part = new ReadOnlySpan<byte>(_data.Pointer + at, (int)Math.Min(1 << 20, Bytes - at));
            hash.AppendData(part);
            stream.Write(part);
        }
        stream.Write(hash.GetHashAndReset());
        GC.KeepAlive(this);
    }

    private void WriteHeader(Span<byte> header)
    {
        header.Clear();
        Magic.CopyTo(header);
        ReadOnlySpan<int> fields = [FileVersion, Shape.WType, Shape.N, Shape.K, Shape.Group, Shape.Flags & ShapeFlags];
        for (int i = 0; i < fields.Length; i++) BinaryPrimitives.WriteInt32LittleEndian(header[(8 + 4 * i)..], fields[i]);
        BinaryPrimitives.WriteInt64LittleEndian(header[40..], Bytes);
        Encoding.UTF8.GetBytes(Layout ?? "rows", header.Slice(64, LayoutBytes));
    }

    private const int ShapeFlags = (int)(KnGemmFlags.Gated | KnGemmFlags.Zeros);

    /// <summary>Reads weights that <see cref="Save"/> wrote, for the same layer and a device whose rows read the same layout.</summary>
    /// <exception cref="KernelsException">The file is foreign, damaged, or for another layer or layout; nothing is kept.</exception>
    public static FlatGemmWeights Load(FlatGemmOptions options, System.IO.Stream stream, Device? device = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(stream);
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        options.Check();
        device ??= Device.Cpu;
        if (device.Gpu is not null) throw new KernelsException(Status.Unsupported, nameof(device), $"the host; weights for {device} are packed from their source");
        Row row = FlatGemmSelection.LayoutRow(device, options);
        string? layout = row.Layout(&problem);
        (_, long pitch, long scalesAt, long zerosAt, long bytes) = AsTheyAre(options, device);
        if (layout is not null) (pitch, scalesAt, zerosAt, bytes) = (0, 0, 0, row.PackedBytes(&problem));
        Span<byte> expected = stackalloc byte[HeaderBytes], header = stackalloc byte[HeaderBytes];
        // The size comes from the options, never from the file, so a file cannot make this allocate or read anything else.
        using Buffer<byte> probe = Buffer<byte>.Allocate(0);
        new FlatGemmWeights(layout, problem, probe, 0, 0, 0).WriteHeader(expected);
        BinaryPrimitives.WriteInt64LittleEndian(expected[40..], bytes);
        if (stream.ReadAtLeast(header, HeaderBytes, throwOnEndOfStream: false) < HeaderBytes || !header[..8].SequenceEqual(Magic))
            throw new KernelsException(Status.Invalid, "stream", "packed flat_gemm weights");
        KernelsException.Require(header.SequenceEqual(expected), "stream",
            $"weights of {options.Weights.Name()} [{options.Columns}, {options.K}] group {options.Group} in {layout ?? "rows"}; the file's header says otherwise");
        return new FlatGemmWeights(layout, problem, Content(stream, bytes, header), pitch * 8 / options.Weights.Bits(), scalesAt, zerosAt);
    }

    private static Buffer<byte> Content(System.IO.Stream stream, long bytes, ReadOnlySpan<byte> header)
    {
        Buffer<byte> data = Buffer<byte>.Allocate(bytes);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(header);
        bool whole = true;
        for (long at = 0; at < bytes && whole; at += 1 << 20)
        {
            var part = new Span<byte>(data.Pointer + at, (int)Math.Min(1 << 20, bytes - at));
            whole = stream.ReadAtLeast(part, part.Length, throwOnEndOfStream: false) == part.Length;
            hash.AppendData(part);
        }
        Span<byte> sum = stackalloc byte[32];
        if (whole && stream.ReadAtLeast(sum, 32, throwOnEndOfStream: false) == 32 && sum.SequenceEqual(hash.GetHashAndReset()))
            return data;
        data.Dispose();
        throw new KernelsException(Status.Invalid, "stream", "undamaged content: it is cut short or its SHA-256 differs");
    }

    /// <summary>Whether a plan with these options can read these weights.</summary>
    internal bool Fits(FlatGemmOptions o)
    {
        KnFlatGemmProblem p = o.Problem(o.MaxM);
        return p.WType == Shape.WType && p.N == Shape.N && p.K == Shape.K && p.Group == Shape.Group
            && (p.Flags & ShapeFlags) == (Shape.Flags & ShapeFlags);
    }

    /// <summary>Frees the memory once the last plan's call that reads it has returned.</summary>
    public void Dispose() => _data.Dispose();
}
