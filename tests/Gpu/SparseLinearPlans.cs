using CommunityToolkit.HighPerformance;

namespace Kernels.Tests.Gpu;

/// <summary>Plans of sparse layers on a device.</summary>
[TestFixture]
public sealed class SparseLinearPlans
{
    private const int N = 40, K = 2200, M = 5;

    private static readonly FlatGemmOptions s_layer = new()
    {
        N = N,
        K = K,
        MaxM = M,
        Weights = DType.Float32,
        Input = DType.Float32,
        Output = DType.Float32,
        Bias = true,
    };

    private static IEnumerable<string> Devices => Simulated.Names;

    /// <summary>Small integers, so that every order of the sums gives the same; two of three are 0 in weights.</summary>
    private static float[,] Filled(int rows, int columns, int seed, bool sparse)
    {
        var random = new Random(seed);
        var all = new float[rows, columns];
        foreach (ref float v in all.AsSpan()) v = sparse && random.Next(3) != 0 ? 0 : random.Next(-4, 5);
        return all;
    }

    private static float[] Bias => [.. Enumerable.Range(0, N).Select(i => (float)i)];

    private static float[] Exact(float[,] x, float[,] w, Func<int, bool> output, Func<int, bool> input)
    {
        var y = new float[M * N];
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++)
            {
                if (!output(j)) continue;
                double sum = Bias[j];
                for (int k = 0; k < K; k++) sum += input(k) ? x[i, k] * w[j, k] : 0;
                y[i * N + j] = (float)sum;
            }
        return y;
    }

    [TestCaseSource(nameof(Devices))]
    public void RunsOnDeviceBuffersWithSets(string name)
    {
        Device device = Simulated.Open(name);
        float[,] w = Filled(N, K, 1, true), x = Filled(M, K, 2, false);
        using var plan = Kernels.SparseLinear.Create<float>(s_layer, w, Bias, device: device);
        Assert.That(plan.Choices.Select(c => c.Dataflow.Row), Is.All.EqualTo("sparse_linear/gpu"));
        Assert.That(plan.WorkspaceBytes, Is.Positive, "so short a layer splits k, which takes scratch");
        ulong[] outputs = new ulong[1], inputs = new ulong[(K + 63) / 64];
        Kernels.SparseLinear.SetOf([1, 17, 39], outputs);
        Kernels.SparseLinear.SetOf([.. Enumerable.Range(200, 700)], inputs);
        using Buffer<float> there = Buffer<float>.Of(device, x.AsSpan()), y = Buffer<float>.Allocate(device, M * N);
        using Buffer<ulong> some = Buffer<ulong>.Of(device, outputs), few = Buffer<ulong>.Of(device, inputs);
        using Buffer<byte> workspace = Buffer<byte>.Allocate(device, plan.WorkspaceBytes);
        using Kernels.Stream stream = device.CreateStream();
        TensorView<float> from = new(there, M, K), to = new(y, M, N);
        var back = new float[M * N];
        plan.Run(from, to);
        y.CopyTo(back);
        Assert.That(back, Is.EqualTo(Exact(x, w, _ => true, _ => true)));
        plan.Run(from, to, stream, outputs: new TensorView<ulong>(some, 1), inputs: new TensorView<ulong>(few, inputs.Length), workspace: workspace);
        y.CopyTo(back, stream: stream);
        Assert.That(back, Is.EqualTo(Exact(x, w, j => j is 1 or 17 or 39, k => k is >= 200 and < 900)));
        using Buffer<byte> elsewhere = Buffer<byte>.Allocate(plan.WorkspaceBytes);
        Assert.That(Assert.Throws<KernelsException>(() => plan.Run(from, to, workspace: elsewhere))!.Argument, Is.EqualTo("workspace"));
        Assert.That(Assert.Throws<KernelsException>(() => plan.Run(from, to, outputs: new TensorView<ulong>(few, 2)))!.Argument, Is.EqualTo("outputs"));
        Assert.That(Assert.Throws<KernelsException>(() => plan.Run<float, float>(x, new float[M, N]))!.Argument, Is.EqualTo("x"), "memory of the host");
    }

    [TestCaseSource(nameof(Devices))]
    public void WeightsAreWhereThePlanIs(string name)
    {
        Device device = Simulated.Open(name);
        using var here = SparseLinearWeights.Pack<float>(s_layer, Filled(N, K, 3, true));
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.SparseLinear.Create(s_layer, here, Bias, device))!.Argument, Is.EqualTo("weights"));
        using SparseLinearWeights there = here.CopyTo(device);
        using (Kernels.SparseLinear.Create(s_layer with { BatchInvariant = true }, there, Bias, device)) { }
        Assert.That(() => there.Save(new MemoryStream()), Throws.TypeOf<KernelsException>());
        Assert.That(() => there.Unpack(new Span2D<float>(new float[N, K])), Throws.TypeOf<KernelsException>());
    }

    /// <summary>On the CPU the same call on views gives what the one on spans gives.</summary>
    [Test]
    public void ViewsOfTheHost()
    {
        float[,] w = Filled(N, K, 1, true), x = Filled(M, K, 2, false);
        using var plan = Kernels.SparseLinear.Create<float>(s_layer, w, Bias);
        using Buffer<float> there = Buffer<float>.Of(x.AsSpan()), y = Buffer<float>.Allocate(M * N);
        plan.Run(new TensorView<float>(there, M, K), new TensorView<float>(y, M, N));
        Assert.That(y.Span.ToArray(), Is.EqualTo(Exact(x, w, _ => true, _ => true)));
    }

    [TestCaseSource(nameof(Devices))]
    public void SparseOrDenseByTheModels(string name)
    {
        SparseLinearChoice choice = Kernels.SparseLinear.Choose(s_layer, 0.1, 1, Simulated.Open(name));
        Assert.That(choice.Sparse.Row, Is.EqualTo("sparse_linear/gpu"));
        Assert.That(choice.Dense.Row, Does.StartWith("flat_gemm/"));
    }
}
