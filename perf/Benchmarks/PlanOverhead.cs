using BenchmarkDotNet.Attributes;
using CommunityToolkit.HighPerformance;

namespace Kernels.Benchmarks;

/// <summary>One small call of each other plan, on one thread: what it costs beside its work, and that it allocates nothing.</summary>
public class PlanOverhead : IDisposable
{
    private const int N = 16, K = 32, KvLen = 4;
    private readonly float[] _x = new float[K], _y = new float[N], _q = new float[K], _output = new float[K];
    private readonly int[] _kvLens = [KvLen];
    private SparseLinear _sparse = null!;
    private KvCache<float> _cache = null!;
    private DecodeAttention _attention = null!;
    private CsrMatrix<double> _a = null!, _c = null!;
    private SpGemmPlan<double> _product = null!;

    /// <summary>Plans them.</summary>
    [GlobalSetup]
    public void Setup()
    {
        var layer = new FlatGemmOptions { N = N, K = K, MaxM = 1, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, Threads = 1 };
        var w = new float[N, K];
        for (int i = 0; i < N; i++) w[i, i] = 1;
        _sparse = SparseLinear.Create<float>(layer, w);
        _cache = KvCache<float>.Allocate(1, KvLen, 1, K);
        _cache.Append<float>(new float[KvLen * K], new float[KvLen * K], _kvLens, default);
        _attention = DecodeAttention.Create(new DecodeAttentionOptions
        {
            QHeads = 1,
            KvHeads = 1,
            HeadDim = K,
            MaxKvLen = KvLen,
            Query = DType.Float32,
            Kv = DType.Float32,
            Output = DType.Float32,
            Threads = 1,
        });
        int[] diagonal = [.. Enumerable.Range(0, N)];
        _a = CsrMatrix.FromCoo(N, N, diagonal, diagonal, Enumerable.Repeat(2.0, N).ToArray());
        _product = SpGemmPlan<double>.Create(_a, _a, new SpGemmOptions { Threads = 1 });
        _c = _product.Symbolic();
    }

    /// <summary>SparseLinear.Run.</summary>
    [Benchmark]
    public void Sparse() => _sparse.Run<float, float>(new ReadOnlySpan2D<float>(_x, 1, K), new Span2D<float>(_y, 1, N));

    /// <summary>DecodeAttention.Run.</summary>
    [Benchmark]
    public void Attention() => _attention.Run<float, float, float>(_q, _cache, _kvLens, default, _output);

    /// <summary>SpGemmPlan.Numeric.</summary>
    [Benchmark]
    public void Numeric() => _product.Numeric(_c);

    /// <summary>Frees all of it.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        foreach (IDisposable? held in (IDisposable?[])[_sparse, _cache, _attention, _product, _a, _c]) held?.Dispose();
        GC.SuppressFinalize(this);
    }
}
