using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>Plans, buffers, streams, graphs and raw handles on a device.</summary>
[TestFixture]
public sealed class Plans
{
    private const int N = 40, K = 1100, M = 5;

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

    private static float[,] Weights() => Filled(N, K, 1);

    private static float[,] Filled(int rows, int columns, int seed)
    {
        var random = new Random(seed);
        var all = new float[rows, columns];
        foreach (ref float v in all.AsSpan()) v = random.Next(-4, 5);
        return all;
    }

    /// <summary>Small integers: every order of the sums gives these very numbers.</summary>
    private static float[] Exact(float[,] x, float[,] w, float[] bias)
    {
        var y = new float[x.GetLength(0) * w.GetLength(0)];
        for (int i = 0; i < x.GetLength(0); i++)
            for (int j = 0; j < w.GetLength(0); j++)
            {
                double sum = bias[j];
                for (int k = 0; k < x.GetLength(1); k++) sum += x[i, k] * w[j, k];
                y[i * w.GetLength(0) + j] = (float)sum;
            }
        return y;
    }

    private static float[] Bias => [.. Enumerable.Range(0, N).Select(i => (float)i)];

    private static Kernels.FlatGemm Plan(Device device, FlatGemmOptions? layer = null) =>
        Kernels.FlatGemm.Create<float>(layer ?? s_layer, Weights(), Bias, device: device);

    [TestCaseSource(nameof(Devices))]
    public void RunsOnDeviceBuffers(string name)
    {
        Device device = Simulated.Open(name);
        using Kernels.FlatGemm plan = Plan(device);
        float[,] x = Filled(M, K, 2);
        using Buffer<float> there = Buffer<float>.Of(device, x.AsSpan()), y = Buffer<float>.Allocate(device, M * N);
        plan.Run(new TensorView<float>(there, M, K), new TensorView<float>(y, M, N));
        var back = new float[M * N];
        y.CopyTo(back);
        Assert.That(back, Is.EqualTo(Exact(x, Weights(), Bias)));
        Assert.That(plan.Choices, Is.Not.Empty);
        Assert.That(plan.Choices.Select(c => c.Dataflow.Row), Has.All.StartsWith("flat_gemm/"));
        Assert.That(plan.Device, Is.SameAs(device));
    }

    [TestCaseSource(nameof(Devices))]
    public void StreamsGraphsAndWorkspace(string name)
    {
        Device device = Simulated.Open(name);
        using Kernels.FlatGemm plan = Plan(device, s_layer with { Row = "flat_gemm/gpu" });
        Assert.That(plan.WorkspaceBytes, Is.Positive, "so short a layer splits k, which takes scratch");
        using Buffer<float> x = Buffer<float>.Allocate(device, M * K), y = Buffer<float>.Allocate(device, M * N);
        using Buffer<byte> workspace = Buffer<byte>.Allocate(device, plan.WorkspaceBytes);
        using Kernels.Stream stream = device.CreateStream();
        using Event start = Event.Create(device), end = Event.Create(device);
        using Graph graph = stream.Capture(() =>
        {
            plan.Run(new TensorView<float>(x, M, K), new TensorView<float>(y, M, N), stream);
            plan.Run(new TensorView<float>(x, M, K).Rows(0, 1), new TensorView<float>(y, M, N).Rows(0, 1), stream, workspace: workspace);
        });
        for (int seed = 3; seed < 5; seed++)
        {
            float[,] values = Filled(M, K, seed);
            x.CopyFrom(values.AsSpan(), stream: stream);
            start.Record(stream);
            graph.Launch(stream);
            end.Record(stream);
            stream.Synchronize();
            end.Synchronize();
            var back = new float[M * N];
            y.CopyTo(back, stream: stream);
            Assert.That(back, Is.EqualTo(Exact(values, Weights(), Bias)));
            Assert.That(end.MillisecondsSince(start), Is.GreaterThanOrEqualTo(0));
        }
    }

    /// <summary>A stream that waits for an event of a capture is part of it: its work is kept too.</summary>
    [TestCaseSource(nameof(Devices))]
    public void ACaptureForksAndJoins(string name)
    {
        Device device = Simulated.Open(name);
        using Kernels.FlatGemm plan = Plan(device);
        float[,] values = Filled(M, K, 8);
        float[] nothing = new float[M * N];
        using Buffer<float> x = Buffer<float>.Of(device, values.AsSpan()), y = Buffer<float>.Of(device, nothing);
        using Kernels.Stream stream = device.CreateStream(), other = device.CreateStream();
        using Event fork = Event.Create(device), join = Event.Create(device);
        using Graph graph = stream.Capture(() =>
        {
            fork.Record(stream);
            other.Wait(fork);
            plan.Run(new TensorView<float>(x, M, K), new TensorView<float>(y, M, N), other);
            join.Record(other);
            stream.Wait(join);
        });
        var back = new float[M * N];
        y.CopyTo(back);
        Assert.That(back, Is.EqualTo(nothing), "kept, not done");
        using Graph theirs = Graph.FromHandle(device, graph.Handle);
        theirs.Launch(stream);
        stream.Synchronize();
        y.CopyTo(back);
        Assert.That(back, Is.EqualTo(Exact(values, Weights(), Bias)));
        plan.Run(new TensorView<float>(x, M, K).Rows(0, 1), new TensorView<float>(y, M, N).Rows(0, 1), other);
        other.Synchronize();
    }

    /// <summary>Memory and streams of others, by their numbers: used as they are and still the others' afterwards.</summary>
    [TestCaseSource(nameof(Devices))]
    public void RawHandlesOfOthers(string name)
    {
        Device device = Simulated.Open(name);
        float[,] x = Filled(M, K, 6);
        using Buffer<float> theirs = Buffer<float>.Of(device, x.AsSpan()), output = Buffer<float>.Allocate(device, M * N);
        using Kernels.Stream theirStream = device.CreateStream();
        nint pointer, handle = theirStream.Handle;
        unsafe { pointer = (nint)theirs.Pointer; }
        using Kernels.FlatGemm plan = Plan(device);
        for (int i = 0; i < 2; i++)  // twice: the first use must not have freed or destroyed anything
        {
            using Buffer<float> borrowed = Buffer<float>.FromPointer(device, pointer, M * K);
            using Kernels.Stream stream = Kernels.Stream.FromHandle(device, handle);
            plan.Run(new TensorView<float>(borrowed, M, K), new TensorView<float>(output, M, N), stream);
            stream.Synchronize();
        }
        var back = new float[M * N];
        output.CopyTo(back, stream: theirStream);
        Assert.That(back, Is.EqualTo(Exact(x, Weights(), Bias)));
    }

    [TestCaseSource(nameof(Devices))]
    public void WeightsThatAreThereAlready(string name)
    {
        Device device = Simulated.Open(name);
        using Buffer<float> w = Buffer<float>.Of(device, Weights().AsSpan());
        using FlatGemmWeights weights = FlatGemmWeights.Pack(s_layer, new TensorView<float>(w, N, K));
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(s_layer, weights, Bias, device);
        float[,] x = Filled(1, K, 7);
        using Buffer<float> there = Buffer<float>.Of(device, x.AsSpan()), y = Buffer<float>.Allocate(device, N);
        plan.Run(new TensorView<float>(there, 1, K), new TensorView<float>(y, 1, N));
        var back = new float[N];
        y.CopyTo(back);
        Assert.That(back, Is.EqualTo(Exact(x, Weights(), Bias)));
        Assert.That(Assert.Throws<KernelsException>(() => Kernels.FlatGemm.Create(s_layer, weights, Bias))!.Argument, Is.EqualTo("weights"), "weights of a GPU for the CPU");
        Assert.That(Assert.Throws<KernelsException>(() => weights.Save(new MemoryStream()))!.Status, Is.EqualTo(Status.Unsupported));
    }

    /// <summary>Memory of the wrong side is refused by name before anything runs.</summary>
    [Test]
    public void OtherMemoryIsRefused()
    {
        Device device = Simulated.Open("simt32");
        using Kernels.FlatGemm plan = Plan(device), onCpu = Plan(Device.Cpu);
        using Buffer<float> here = Buffer<float>.Allocate(M * K), there = Buffer<float>.Allocate(device, M * K), y = Buffer<float>.Allocate(device, M * N);
        Assert.That(Assert.Throws<KernelsException>(() => plan.Run<float, float>(new float[M * K], new float[M * N]))!.Message, Does.Contain("host").And.Contain("CopyFrom"));
        Assert.That(Argument(() => plan.Run(new TensorView<float>(here, M, K), new TensorView<float>(y, M, N))), Is.EqualTo("x"));
        Assert.That(Argument(() => onCpu.Run(new TensorView<float>(there, M, K), new TensorView<float>(y, M, N))), Is.EqualTo("x"));
        Assert.That(Argument(() => onCpu.Run(new TensorView<float>(here, M, K), new TensorView<float>(y, M, N))), Is.EqualTo("y"));
        Assert.That(Argument(() => plan.Run(new TensorView<float>(there, M, K), new TensorView<float>(y, M, N), stream: null, workspace: Buffer<byte>.Allocate(1 << 20))), Is.EqualTo("workspace"));
        Assert.That(Argument(() => _ = there.Span), Is.EqualTo("Span"));
        Assert.That(Argument(() => there.CopyFrom(new float[2], M * K - 1)), Is.EqualTo("values"));
        using Kernels.Stream stream = device.CreateStream();
        Assert.That(Argument(() => onCpu.Run(new TensorView<float>(here, M, K), new TensorView<float>(here, M, N), stream)), Is.EqualTo("stream"));
        stream.Dispose();
        Assert.That(Argument(() => plan.Run(new TensorView<float>(there, M, K), new TensorView<float>(y, M, N), stream)), Is.EqualTo("stream"));

        static string Argument(Action call) => Assert.Throws<KernelsException>(call)!.Argument;
    }

    [Test]
    public void NoRowForAProblemSaysWhyRowByRow()
    {
        Device device = Simulated.Open("simt64");
        var layer = new FlatGemmOptions { N = 1, K = 140_000, MaxM = 1, Weights = DType.Int8, Input = DType.Int8, Output = DType.Float32 };
        var e = Assert.Throws<KernelsException>(() => Kernels.FlatGemm.Create<sbyte>(layer, new sbyte[1, 140_000], scales: [1f], device: device))!;
        Assert.That(e.Status, Is.EqualTo(Status.Unsupported));
        Assert.That(e.Message, Does.Contain("flat_gemm/gpu: requires p.K <= 131071").And.Contain("flat_gemm/sm80: kn_simt_checked holds no"));
        e = Assert.Throws<KernelsException>(() => Plan(device, s_layer with { Row = "flat_gemm/sm80" }))!;
        Assert.That(e.Status, Is.EqualTo(Status.Unsupported));
    }

    [Test]
    public void MemoryRunsOut()
    {
        Device device = Simulated.Open("simt32");
        var e = Assert.Throws<KernelsException>(() => Buffer<byte>.Allocate(device, 1L << 40))!;
        Assert.That(e.Status, Is.EqualTo(Status.NoMemory));
        Assert.That(e.DriverCode, Is.Not.Zero);
        Assert.That(device.Fault, Is.Null);
        using Buffer<byte> small = Buffer<byte>.Allocate(device, 16);
    }

    /// <summary>A kernel that reads where nothing is fails with the sanitizer's sentence, and the device is lost; another one is not.</summary>
    [Test]
    public void AFaultIsTheDevicesEnd()
    {
        Device device = Simulated.Open("simt32");
        using Kernels.FlatGemm plan = Plan(device);
        using Buffer<float> small = Buffer<float>.Allocate(device, K), y = Buffer<float>.Allocate(device, M * N);
        small.CopyFrom(new float[K]);
        nint pointer;
        unsafe { pointer = (nint)small.Pointer; }
        using Buffer<float> lie = Buffer<float>.FromPointer(device, pointer, M * K);
        var e = Assert.Throws<KernelsException>(() => plan.Run(new TensorView<float>(lie, M, K), new TensorView<float>(y, M, N)))!;
        Assert.That(e.Status, Is.EqualTo(Status.Device));
        Assert.That(e.DeviceFailure, Is.EqualTo(DeviceFailure.Lost));
        Assert.That(e.Message, Does.Contain("flat_gemm"));
        Assert.That(device.Fault, Does.Contain("flat_gemm"));
        TestContext.Progress.WriteLine($"  {e.Message}");
        e = Assert.Throws<KernelsException>(() => plan.Run(new TensorView<float>(small, 1, K), new TensorView<float>(y, 1, N)))!;
        Assert.That(e.Message, Does.Contain("faulted"));
        Assert.That(Assert.Throws<KernelsException>(() => Buffer<float>.Allocate(device, 1))!.Status, Is.EqualTo(Status.Device));
        Device other = Simulated.Open("simt32");
        Assert.That(other.Fault, Is.Null);
        using Buffer<float> sound = Buffer<float>.Allocate(other, 1);
    }

    [Test]
    public void ACaptureThatFailsEnds()
    {
        Device device = Simulated.Open("simt32");
        using Kernels.Stream stream = device.CreateStream();
        Assert.That(Assert.Throws<KernelsException>(() => stream.Capture(stream.Synchronize))!.Status, Is.EqualTo(Status.Invalid));
        using Graph graph = stream.Capture(() => { });
        graph.Launch(stream);
        stream.Synchronize();
    }

    [Test]
    public unsafe void RunAllocatesNothing()
    {
        Device device = Simulated.Open("simt32");
        var row = (FlatGemmVector)device.Table.Of(KnOp.FlatGemm).First(r => r.Name == "flat_gemm/gpu");
        KnFlatGemmProblem problem = s_layer.Problem(M);
        KnLaunch launch = row.DefaultLaunch(0);
        var args = new KnFlatGemmArgs { Size = (uint)sizeof(KnFlatGemmArgs), M = 0, Ldx = K, Ldy = N };
        Assert.That(row.Run(&problem, launch, &args, 0), Is.EqualTo(KnStatus.Ok), row.LastError);
        KnFlatGemmProblem* at = &problem;
        KnFlatGemmArgs* with = &args;
        Assert.That(Allocations.Of(100, () => row.Run(at, launch, with, 0)), Is.Zero, "choosing tiles and sizing");
    }
}
