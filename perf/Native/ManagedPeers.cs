// What a .NET user would write without this library: peers of the managed rows.
using System.Numerics.Tensors;
using MathNet.Numerics;
using MathNet.Numerics.LinearAlgebra.Single;

namespace Kernels.Perf;

/// <summary>y[m,n] = x[m,k] . w[n,k]^T in f32, dense and row-major.</summary>
internal static class ManagedPeers
{
    /// <summary>One TensorPrimitives.Dot per element of y, rows of w spread over threads.</summary>
    internal static void TensorPrimitivesGemm(ReadOnlyMemory<float> x, ReadOnlyMemory<float> w, Memory<float> y, int m, int n,
        int k, int threads)
    {
        // Each row of w is read once and meets all of x, which stays in the cache.
        void Rows(int begin, int end)
        {
            ReadOnlySpan<float> xs = x.Span, ws = w.Span;
            Span<float> ys = y.Span;
            for (int j = begin; j < end; j++)
            {
                ReadOnlySpan<float> row = ws.Slice(j * k, k);
                for (int i = 0; i < m; i++)
                    ys[i * n + j] = TensorPrimitives.Dot(xs.Slice(i * k, k), row);
            }
        }

        if (threads == 1)
        {
            Rows(0, n);
            return;
        }
        var options = new ParallelOptions { MaxDegreeOfParallelism = threads };
        Parallel.For(0, threads, options, t => Rows((int)((long)n * t / threads), (int)((long)n * (t + 1) / threads)));
    }

    /// <summary>
    /// MathNet's DenseMatrix on the same arrays. It is column-major, so that x is [k,m], w is [k,n] and y is [n,m] to it:
    /// y = w^T . x.
    /// </summary>
    internal static Action MathNetGemm(float[] x, float[] w, float[] y, int m, int n, int k, int threads)
    {
        var xs = new DenseMatrix(k, m, x);
        var ws = new DenseMatrix(k, n, w);
        var ys = new DenseMatrix(n, m, y);
        return () =>
        {
            Control.MaxDegreeOfParallelism = threads;
            ws.TransposeThisAndMultiply(xs, ys);
        };
    }
}
