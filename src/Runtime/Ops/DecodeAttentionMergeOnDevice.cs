using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Joining results on a GPU.</summary>
public sealed unsafe partial class DecodeAttention
{
    /// <summary>
    /// Joins <paramref name="part"/> into what <paramref name="output"/> and <paramref name="lse"/> hold already, on views of one
    /// device; on a GPU enqueued on <paramref name="stream"/>, null for the default one. Else as <see cref="MergeStates{T, TOut}(in TensorView{T}, in TensorView{LogSumExp}, in TensorView{TOut}, in TensorView{LogSumExp}, Stream?)"/>.
    /// </summary>
    /// <param name="part">[tokens, heads, dim], with the strides of output.</param>
    /// <param name="partLse">[tokens, heads], with the strides of lse.</param>
    /// <param name="output">[tokens, heads, dim], the last dimension contiguous.</param>
    /// <param name="lse">[tokens, heads].</param>
    /// <param name="stream">Of a GPU.</param>
    /// <exception cref="KernelsException">Shapes, strides or devices that differ, an overlap, or a type other than float, BFloat16 and Half.</exception>
    public static void MergeInto<T>(in TensorView<T> part, in TensorView<LogSumExp> partLse, in TensorView<T> output, in TensorView<LogSumExp> lse, Stream? stream = null) where T : unmanaged
    {
        CheckMergeTypes<T, T>();
        Device device = output.Buffer.Device;
        KernelsException.Require(output.Rank == 3 && (output.Stride(2) == 1 || output.Shape(2) <= 1), nameof(output), "shape [tokens, heads, dim], the last dimension contiguous");
        long tokens = output.Shape(0), heads = output.Shape(1), dim = output.Shape(2);
        KernelsException.Require(lse.Rank == 2 && lse.Shape(0) == tokens && lse.Shape(1) == heads, nameof(lse), $"shape [{tokens}, {heads}]");
        KernelsException.Require(part.Rank == 3 && part.Shape(0) == tokens && part.Shape(1) == heads && part.Shape(2) == dim
            && part.Stride(0) == output.Stride(0) && part.Stride(1) == output.Stride(1) && part.Stride(2) == output.Stride(2), nameof(part), $"shape [{tokens}, {heads}, {dim}] with the strides of output");
        KernelsException.Require(partLse.Rank == 2 && partLse.Shape(0) == tokens && partLse.Shape(1) == heads && partLse.Stride(0) == lse.Stride(0) && partLse.Stride(1) == lse.Stride(1),
            nameof(partLse), $"shape [{tokens}, {heads}] with the strides of lse");
        KernelsException.Require(part.Buffer.Device.Shares(device), nameof(part), $"a buffer on {device} as output, not on {part.Buffer.Device}");
        KernelsException.Require(partLse.Buffer.Device.Shares(device), nameof(partLse), $"a buffer on {device} as output, not on {partLse.Buffer.Device}");
        KernelsException.Require(lse.Buffer.Device.Shares(device), nameof(lse), $"a buffer on {device} as output, not on {lse.Buffer.Device}");
        KernelsException.Require(stream is null || stream.Device.Shares(device), nameof(stream), $"a stream of {device}");
        var held = new Held();
        try
        {
            held.Add(part.Buffer, nameof(part));
            held.Add(partLse.Buffer, nameof(partLse));
            held.Add(output.Buffer, nameof(output));
            held.Add(lse.Buffer, nameof(lse));
            held.Add(stream, nameof(stream));
            CheckOverlap<T, T>(MergeRows.Of(part.Pointer, tokens, part.Stride(0), heads, part.Stride(1), dim), MergeRows.Of(partLse.Pointer, tokens, partLse.Stride(0), heads, partLse.Stride(1), 1),
                MergeRows.Written(output, nameof(output)), MergeRows.Written(lse, nameof(lse)), mayBePart: false);
            // The two parts are a stride apart like any others, wherever they lie.
            long apart = part.Pointer - output.Pointer, lseApart = (float*)partLse.Pointer - (float*)lse.Pointer;
            if (device.Gpu is not null) Enqueue(device, Two(output, apart, lse, lseApart), tokens * heads, stream);
            else
                for (long t = 0; t < tokens; t++)
                    for (long h = 0; h < heads; h++)
                    {
                        T* to = output.Pointer + t * output.Stride(0) + h * output.Stride(1);
                        float* sum = (float*)(lse.Pointer + t * lse.Stride(0) + h * lse.Stride(1));
                        MergeRow(2, (int)dim, to, apart, sum, lseApart, to, sum);
                    }
        }
        finally
        {
            held.Dispose();
        }
    }

    private static KnMergeStates Two<T>(in TensorView<T> output, long apart, in TensorView<LogSumExp> lse, long lseApart) where T : unmanaged =>
        To(output, lse) with
        {
            Outs = output.Pointer,
            Lses = (float*)lse.Pointer,
            OutsPart = apart,
            OutsToken = output.Stride(0),
            OutsHead = output.Stride(1),
            LsesPart = lseApart,
            LsesToken = lse.Stride(0),
            LsesHead = lse.Stride(1),
            Parts = 2,
            InType = (int)DTypes.Of<T>(),
        };

    private static KnMergeStates Merge<T, TOut>(in TensorView<T> outs, in TensorView<LogSumExp> lses, in TensorView<TOut> output, in TensorView<LogSumExp> lse)
        where T : unmanaged where TOut : unmanaged => To(output, lse) with
        {
            Outs = outs.Pointer,
            Lses = (float*)lses.Pointer,
            OutsPart = outs.Stride(0),
            OutsToken = outs.Stride(1),
            OutsHead = outs.Stride(2),
            LsesPart = lses.Stride(0),
            LsesToken = lses.Stride(1),
            LsesHead = lses.Stride(2),
            Parts = (int)outs.Shape(0),
            InType = (int)DTypes.Of<T>(),
        };

    private static KnMergeStates To<TOut>(in TensorView<TOut> output, in TensorView<LogSumExp> lse) where TOut : unmanaged => new()
    {
        Out = output.Pointer,
        Lse = (float*)lse.Pointer,
        OutToken = output.Stride(0),
        OutHead = output.Stride(1),
        LseToken = lse.Stride(0),
        LseHead = lse.Stride(1),
        Heads = (int)output.Shape(1),
        Dim = (int)output.Shape(2),
        OutType = (int)DTypes.Of<TOut>(),
    };

    private static void Enqueue(Device device, KnMergeStates args, long rows, Stream? stream)
    {
        KernelsException.Require(rows <= int.MaxValue, "output", $"at most 2^31 - 1 rows, not {rows}");
        Row row = device.Table.Only<MergeStatesGpu>();
        var problem = new KnDecodeAttentionProblem { QType = args.InType, OutType = args.OutType, Batch = (int)rows };
        KnStatus status = row.Run(&problem, default, &args, stream?.Handle ?? 0);
        if (status != KnStatus.Ok) throw row.Failure(status);
    }
}
