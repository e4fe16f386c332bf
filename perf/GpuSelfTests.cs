using System.Globalization;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Perf;

/// <summary>Self tests of a GPU's kernels that have no verb, because calls of operations bring them along: what the CPU gives is what they must give.</summary>
internal static class GpuSelfTests
{
    private const int Tokens = 6, Heads = 3, Dim = 40, Parts = 2;

    /// <summary>Null, or what is wrong.</summary>
    public static string? SelfTest(Device device, KnOp op)
    {
        try
        {
            return op switch
            {
                KnOp.KvAppend => KvAppend(device),
                KnOp.MergeStates => MergeStates(device),
                KnOp.Transpose => Transpose(device),
                _ => $"no self test for {op}",
            };
        }
        catch (KernelsException e)
        {
            return e.Message;
        }
    }

    /// <summary>Tokens of two sequences into pages of five: stored with the same bits.</summary>
    private static string? KvAppend(Device device)
    {
        float[] k = Random(Tokens * Heads * Dim, 1), v = Random(Tokens * Heads * Dim, 2);
        int[] lens = [7, 4], starts = [0, 4, 6];
        int[,] pages = { { 3, 0 }, { 1, 2 } };
        using KvCache<BFloat16> here = Cache(Device.Cpu), there = Cache(device);
        here.Append<float>(k, v, lens, pages.AsSpan2D(), starts);
        using Buffer<float> kt = Buffer<float>.Of(device, k), vt = Buffer<float>.Of(device, v);
        using Buffer<int> lt = Buffer<int>.Of(device, lens), st = Buffer<int>.Of(device, starts), pt = Buffer<int>.Of(device, pages.AsSpan().ToArray());
        there.Append(new TensorView<float>(kt, Tokens, Heads, Dim), new TensorView<float>(vt, Tokens, Heads, Dim), new TensorView<int>(lt, 2), new TensorView<int>(pt, 2, 2), null, new TensorView<int>(st, 3));
        there.ThrowIfRefused();
        return Back(there.K.Buffer).AsSpan().AsBytes().SequenceEqual(here.K.Buffer.Span.AsBytes()) && Back(there.V.Buffer).AsSpan().AsBytes().SequenceEqual(here.V.Buffer.Span.AsBytes())
            ? null : "it stores other bits than the CPU";

        static KvCache<BFloat16> Cache(Device on) => KvCache<BFloat16>.Allocate(4, 5, Heads, Dim, layout: KvLayout.Hnd, keyNorms: true, device: on);
    }

    /// <summary>Both devices round each weight, product and sum of values up to 1 at most 3 parts + 10 times, and an lse of up to 8 twice.</summary>
    private static string? MergeStates(Device device)
    {
        const int Rows = Tokens * Heads;
        double bound = (3 * Parts + 10) * Math.Pow(2, -24), lseBound = bound + 2 * Math.Pow(2, -21);
        float[] outs = Random(Parts * Rows * Dim, 3), here = new float[Rows * Dim];
        LogSumExp[] lses = [.. Random(Parts * Rows, 4).Select(l => new LogSumExp(7 * l))], hereLse = new LogSumExp[Rows];
        DecodeAttention.MergeStates<float, float>(outs, lses, here, hereLse);
        using Buffer<float> from = Buffer<float>.Of(device, outs), to = Buffer<float>.Allocate(device, Rows * Dim);
        using Buffer<LogSumExp> fromLse = Buffer<LogSumExp>.Of(device, lses), toLse = Buffer<LogSumExp>.Allocate(device, Rows);
        DecodeAttention.MergeStates(new TensorView<float>(from, Parts, Tokens, Heads, Dim), new TensorView<LogSumExp>(fromLse, Parts, Tokens, Heads), new TensorView<float>(to, Tokens, Heads, Dim), new TensorView<LogSumExp>(toLse, Tokens, Heads));
        double error = Back(to).Zip(here).Max(p => Math.Abs((double)p.First - p.Second)), lseError = Back(toLse).Zip(hereLse).Max(p => Math.Abs((double)p.First.Nats - p.Second.Nats));
        return error <= bound && lseError <= lseBound ? null : string.Create(CultureInfo.InvariantCulture, $"it differs from the CPU by {error:g3} of at most {bound:g3}, its lse by {lseError:g3} of {lseBound:g3}");
    }

    private static string? Transpose(Device device)
    {
        using CsrMatrix<double> a = SpGemmMatrixSpec.Matrix<double>("uniform:300:9", 32), there = a.CopyTo(device), transposed = there.Transpose();
        using CsrMatrix<double> here = transposed.CopyTo(Device.Cpu), expected = a.Transpose();
        return SpGemmSame.As(expected, here) ? null : "it gives another matrix than the CPU";
    }

    private static float[] Random(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => 2 * random.NextSingle() - 1)];
    }

    private static T[] Back<T>(Buffer<T> buffer) where T : unmanaged
    {
        var back = new T[buffer.Length];
        buffer.CopyTo(back);
        return back;
    }
}
