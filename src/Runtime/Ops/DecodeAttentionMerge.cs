using System.Runtime.Intrinsics;

namespace Kernels;

/// <summary>Joining the results over disjoint sets of keys.</summary>
public sealed unsafe partial class DecodeAttention
{
    private const int Chunk = 256;

    /// <summary>
    /// Joins attention over disjoint sets of keys (a shared prefix and the rest, halves from two devices):
    /// <c>w_i = e^(lse_i - max lse)</c>, <c>output = sum w_i out_i / sum w_i</c>, <c>lse = max lse + ln(sum w_i)</c>. Weights are of
    /// float64 and rounded once, sums over the parts of float32. A part that saw no key weighs nothing, whatever its output holds;
    /// where all are empty the result is 0 and -infinity. Allocates nothing and runs on the caller's thread.
    /// </summary>
    /// <param name="outs">[parts, rows, dim].</param>
    /// <param name="lses">[parts, rows].</param>
    /// <param name="output">[rows, dim]. It may be one of the parts, exactly, and otherwise overlaps nothing.</param>
    /// <param name="lse">[rows]. The same.</param>
    /// <exception cref="KernelsException">Lengths that do not divide, an overlap, or a type other than float, BFloat16 and Half; nothing is then written.</exception>
    public static void MergeStates<T, TOut>(ReadOnlySpan<T> outs, ReadOnlySpan<LogSumExp> lses, Span<TOut> output, Span<LogSumExp> lse)
        where T : unmanaged where TOut : unmanaged
    {
        CheckMergeTypes<T, TOut>();
        int rows = lse.Length, parts = rows == 0 ? 0 : lses.Length / rows, dim = rows == 0 ? 0 : output.Length / rows;
        KernelsException.Require(lses.Length == (long)parts * rows, nameof(lses), $"a multiple of {rows} rows, not {lses.Length}");
        KernelsException.Require(output.Length == (long)dim * rows, nameof(output), $"a multiple of {rows} rows, not {output.Length}");
        KernelsException.Require(outs.Length == (long)parts * output.Length, nameof(outs), $"{parts} x {rows} x {dim} elements, not {outs.Length}");
        fixed (T* from = outs)
        fixed (TOut* to = output)
        fixed (LogSumExp* fromLse = lses, toLse = lse)
        {
            MergeRows written = MergeRows.Of(to, rows, dim, 1, 0, dim), sums = MergeRows.Of(toLse, rows, 1, 1, 0, 1);
            for (long i = 0; i < parts; i++)
                CheckOverlap<T, TOut>(MergeRows.Of(from + i * rows * dim, rows, dim, 1, 0, dim), MergeRows.Of(fromLse + i * rows, rows, 1, 1, 0, 1), written, sums, mayBePart: true);
            for (long r = 0; r < rows; r++)
                MergeRow(parts, dim, from + r * dim, (long)rows * dim, (float*)fromLse + r, rows, to + r * dim, (float*)toLse + r);
        }
    }

    /// <summary>Joins <paramref name="part"/> into what <paramref name="output"/> and <paramref name="lse"/> hold already.</summary>
    /// <param name="part">[rows, dim].</param>
    /// <param name="partLse">[rows].</param>
    /// <param name="output">[rows, dim]; overlaps nothing else.</param>
    /// <param name="lse">[rows]. The same.</param>
    /// <exception cref="KernelsException">Lengths that differ, an overlap, or a type other than float, BFloat16 and Half.</exception>
    public static void MergeInto<T>(ReadOnlySpan<T> part, ReadOnlySpan<LogSumExp> partLse, Span<T> output, Span<LogSumExp> lse) where T : unmanaged
    {
        CheckMergeTypes<T, T>();
        int rows = lse.Length, dim = rows == 0 ? 0 : output.Length / rows;
        KernelsException.Require(output.Length == (long)dim * rows, nameof(output), $"a multiple of {rows} rows, not {output.Length}");
        KernelsException.Require(partLse.Length == rows, nameof(partLse), $"{rows} values, not {partLse.Length}");
        KernelsException.Require(part.Length == output.Length, nameof(part), $"{rows} x {dim} elements, not {part.Length}");
        fixed (T* from = part, to = output)
        fixed (LogSumExp* fromLse = partLse, toLse = lse)
        {
            CheckOverlap<T, T>(MergeRows.Of(from, rows, dim, 1, 0, dim), MergeRows.Of(fromLse, rows, 1, 1, 0, 1), MergeRows.Of(to, rows, dim, 1, 0, dim), MergeRows.Of(toLse, rows, 1, 1, 0, 1), mayBePart: false);
            // The two parts are a stride apart like any others, wherever they lie.
            for (long r = 0; r < rows; r++)
                MergeRow(2, dim, to + r * dim, from - to, (float*)toLse + r, (float*)fromLse - (float*)toLse, to + r * dim, (float*)toLse + r);
        }
    }

    /// <summary>
    /// Joins strided parts, of the host or, enqueued on a stream, of one GPU; there weights are of float32, within 6 of its roundings.
    /// Results and parts whose strides differ are taken for all the memory from their first row to their last.
    /// </summary>
    /// <param name="outs">[parts, tokens, heads, dim], the last dimension contiguous.</param>
    /// <param name="lses">[parts, tokens, heads] by any strides.</param>
    /// <param name="output">[tokens, heads, dim], the last dimension contiguous.</param>
    /// <param name="lse">[tokens, heads] by any strides.</param>
    /// <param name="stream">Of a GPU; null is its default one.</param>
    /// <inheritdoc cref="MergeStates{T, TOut}(ReadOnlySpan{T}, ReadOnlySpan{LogSumExp}, Span{TOut}, Span{LogSumExp})"/>
    public static void MergeStates<T, TOut>(in TensorView<T> outs, in TensorView<LogSumExp> lses, in TensorView<TOut> output, in TensorView<LogSumExp> lse, Stream? stream = null)
        where T : unmanaged where TOut : unmanaged
    {
        CheckMergeTypes<T, TOut>();
        KernelsException.Require(output.Rank == 3 && (output.Stride(2) == 1 || output.Shape(2) <= 1), nameof(output), "shape [tokens, heads, dim], the last dimension contiguous");
        KernelsException.Require(outs.Rank == 4 && (outs.Stride(3) == 1 || outs.Shape(3) <= 1), nameof(outs), "shape [parts, tokens, heads, dim], the last dimension contiguous");
        long parts = outs.Shape(0), tokens = output.Shape(0), heads = output.Shape(1), dim = output.Shape(2);
        KernelsException.Require(outs.Shape(1) == tokens && outs.Shape(2) == heads && outs.Shape(3) == dim, nameof(outs), $"shape [parts, {tokens}, {heads}, {dim}]");
        KernelsException.Require(lses.Rank == 3 && lses.Shape(0) == parts && lses.Shape(1) == tokens && lses.Shape(2) == heads, nameof(lses), $"shape [{parts}, {tokens}, {heads}]");
        KernelsException.Require(lse.Rank == 2 && lse.Shape(0) == tokens && lse.Shape(1) == heads, nameof(lse), $"shape [{tokens}, {heads}]");
        Device device = output.Buffer.Device;
        foreach ((Device on, string name) in (ReadOnlySpan<(Device, string)>)[(outs.Buffer.Device, nameof(outs)), (lses.Buffer.Device, nameof(lses)), (lse.Buffer.Device, nameof(lse))])
            KernelsException.Require(on.Shares(device), name, $"a buffer on {device} as output, not on {on}");
        KernelsException.Require(stream is null || stream.Device.Shares(device), nameof(stream), $"a stream of {device}");
        var held = new Held();
        try
        {
            held.Add(outs.Buffer, nameof(outs));
            held.Add(lses.Buffer, nameof(lses));
            held.Add(output.Buffer, nameof(output));
            held.Add(lse.Buffer, nameof(lse));
            held.Add(stream, nameof(stream));
            MergeRows written = MergeRows.Written(output, nameof(output)), sums = MergeRows.Written(lse, nameof(lse));
            for (long i = 0; i < parts; i++)
                CheckOverlap<T, TOut>(MergeRows.Of(outs.Pointer + i * outs.Stride(0), tokens, outs.Stride(1), heads, outs.Stride(2), dim),
                    MergeRows.Of(lses.Pointer + i * lses.Stride(0), tokens, lses.Stride(1), heads, lses.Stride(2), 1), written, sums, mayBePart: true);
            if (device.Gpu is not null)
            {
                Enqueue(device, Merge(outs, lses, output, lse), tokens * heads, stream);
                return;
            }
            for (long t = 0; t < tokens; t++)
                for (long h = 0; h < heads; h++)
                    MergeRow((int)parts, (int)dim, outs.Pointer + t * outs.Stride(1) + h * outs.Stride(2), outs.Stride(0),
                        (float*)(lses.Pointer + t * lses.Stride(1) + h * lses.Stride(2)), lses.Stride(0),
                        output.Pointer + t * output.Stride(0) + h * output.Stride(1), (float*)(lse.Pointer + t * lse.Stride(0) + h * lse.Stride(1)));
        }
        finally
        {
            held.Dispose();
        }
    }

    private static void CheckMergeTypes<T, TOut>() where T : unmanaged where TOut : unmanaged
    {
        KernelsException.Require(DTypes.Of<T>() is DType.Float32 or DType.BFloat16 or DType.Float16, "outs", $"f32, bf16 or f16, not {DTypes.Of<T>().Name()}");
        KernelsException.Require(DTypes.Of<TOut>() is DType.Float32 or DType.BFloat16 or DType.Float16, "output", $"f32, bf16 or f16, not {DTypes.Of<TOut>().Name()}");
    }

    /// <summary>One row of every part, <paramref name="outPart"/> and <paramref name="lsePart"/> elements apart, to one row.</summary>
    private static void MergeRow<T, TOut>(int parts, int dim, T* outs, long outPart, float* lses, long lsePart, TOut* output, float* lse)
        where T : unmanaged where TOut : unmanaged
    {
        float most = float.NegativeInfinity;
        for (int i = 0; i < parts; i++) most = MathF.Max(most, lses[i * lsePart]);
        double sum = 0;
        for (int i = 0; i < parts; i++)
            if (!float.IsNegativeInfinity(lses[i * lsePart])) sum += Math.Exp((double)lses[i * lsePart] - most);
        float* total = stackalloc float[Chunk];
        for (int from = 0; from < dim; from += Chunk)
        {
            int count = Math.Min(Chunk, dim - from), whole = count - count % FloatRow.Step;
            new Span<float>(total, count).Clear();
            for (int i = 0; i < parts; i++)
            {
                // An empty part may hold anything, NaN too.
                if (float.IsNegativeInfinity(lses[i * lsePart])) continue;
                float weight = (float)(Math.Exp((double)lses[i * lsePart] - most) / sum);
                T* part = outs + i * outPart + from;
                for (int d = 0; d < whole; d += FloatRow.Step)
                    (Vector256.Load(total + d) + Vector256.Create(weight) * FloatRow.Load(part + d)).Store(total + d);
                for (int d = whole; d < count; d++) total[d] += weight * FloatRow.LoadOne(part + d);
            }
            for (int d = 0; d < whole; d += FloatRow.Step) FloatRow.Store(Vector256.Load(total + d), output + from + d);
            for (int d = whole; d < count; d++) FloatRow.StoreOne(total[d], output + from + d);
        }
        *lse = sum == 0 ? float.NegativeInfinity : (float)(most + Math.Log(sum));
    }
}
