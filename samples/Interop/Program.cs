// Kernels on memory, contexts and streams that belong to something else: ManagedCuda, ILGPU, TorchSharp, an engine. All of them
// hold the driver's own handles, so nothing is converted or copied; Kernels uses them as they are and never frees them.
// Here an "engine" stands in for them, so that no package is needed; it runs on the first GPU, or on the simulated one.
//   dotnet run -c Release --project samples/Interop
// The lines for ManagedCuda 12, ILGPU 1.5 and TorchSharp are comments, not compiled here.
using CommunityToolkit.HighPerformance;
using Kernels;
using Stream = Kernels.Stream;  // implicit usings bring System.IO's as well

if (!TryFindGpu(out Device? device))
{
    Console.WriteLine("There is no GPU here, and no simulated one.");
    return;
}
Console.WriteLine($"on {device} ({device.NativeLibrary})");

// 1. The context. A CUDA device from TryGetCuda is in its primary context, which is also what TorchSharp and the CUDA runtime use,
//    so their memory is this device's. A context that somebody made himself is taken by its handle:
//      ManagedCuda   Device.FromCudaContext(cudaContext.Context.Pointer)              // CudaContext
//      ILGPU         Device.FromCudaContext(cudaAccelerator.NativePtr)              // CudaAccelerator
//      TorchSharp    Device.TryGetCuda(tensor.device_index, out device, out reason)   // the primary context
//    and device.Context goes the other way: new CudaContext(new CUcontext { Pointer = device.Context }, ...).

// 2. The engine's weights: they are on the GPU already. FlatGemmWeights.Pack takes them there, in a copy of its own.
const int N = 256, K = 1024, Batch = 4;
using var engine = new Engine(device);
var layer = new FlatGemmOptions { N = N, K = K, MaxM = 16, Weights = DType.BFloat16 };
using FlatGemmWeights weights = FlatGemmWeights.Pack(layer, new TensorView<BFloat16>(Buffer<BFloat16>.FromPointer(device, engine.Weights, (long)N * K), N, K));
using FlatGemm plan = FlatGemm.Create(layer, weights, device: device);
foreach (Choice c in plan.Choices) Console.WriteLine($"m {c.MFrom}..{c.MTo}: {c.Dataflow} ({c.Reason})");

// 3. Its activations, by pointer and length in elements. They must outlive the view, not the other way round:
//      ManagedCuda   Buffer<Half>.FromPointer(device, (nint)(ulong)deviceVariable.DevicePointer.Pointer, deviceVariable.Size)
//      ILGPU         Buffer<float>.FromPointer(device, memoryBuffer.NativePtr, memoryBuffer.Length)
//      TorchSharp    Buffer<float>.FromPointer(device, tensor.storage<float>().data_ptr() + (nint)tensor.storage_offset() * 4, tensor.numel())
//                    a contiguous tensor that is kept alive; data_ptr is public since March 2026 (TorchSharp PR 1554)
using Buffer<BFloat16> x = Buffer<BFloat16>.FromPointer(device, engine.Activations, Batch * K);
using Buffer<BFloat16> y = Buffer<BFloat16>.FromPointer(device, engine.Outputs, Batch * N);

// 4. Its stream. What Kernels enqueues is ordered with what the engine enqueues, and Run waits for nothing:
//      ManagedCuda   Stream.FromHandle(device, cudaStream.Stream.Pointer)
//      ILGPU         Stream.FromHandle(device, ((CudaStream)acceleratorStream).StreamPtr)
//      TorchSharp    Stream.FromHandle(device, 0)     // its default stream is the device's
using Stream stream = Stream.FromHandle(device, engine.Stream);
plan.Run(new TensorView<BFloat16>(x, Batch, K), new TensorView<BFloat16>(y, Batch, N), stream);

// 5. The same work as a graph, launched again for new activations in the same place: one call for all launches of a step. Scratch
//    given by the caller keeps the graph free of allocations.
using Buffer<byte> scratch = Buffer<byte>.Allocate(device, plan.WorkspaceBytes);
using Graph step = stream.Capture(() => plan.Run(new TensorView<BFloat16>(x, Batch, K), new TensorView<BFloat16>(y, Batch, N), stream, workspace: scratch));
engine.NextActivations();
step.Launch(stream);
stream.Synchronize();
Console.WriteLine($"largest difference from the engine's own product: {engine.Difference():0.####} of {engine.Largest():0.##}");

static bool TryFindGpu([System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out Device? device)
{
    if (Device.TryGetCuda(0, out device, out string? cuda) || Device.TryGetHip(0, out device, out string? hip)) return true;
    Console.WriteLine($"CUDA: {cuda}\nHIP: {hip}");
    if (Device.TryGetSimulated(out device, out string? simulated, check: false)) return true;
    Console.WriteLine($"simulated: {simulated}");
    return false;
}

/// <summary>Stands in for other CUDA code: it owns memory and a stream and gives out their handles.</summary>
internal sealed unsafe class Engine : IDisposable
{
    private const int N = 256, K = 1024, Batch = 4;
    private readonly Buffer<BFloat16> _weights, _x, _y;
    private readonly Stream _stream;
    private readonly BFloat16[,] _w = Filled(N, K, 1);
    private BFloat16[,] _now = Filled(Batch, K, 2);

    public Engine(Device device)
    {
        (_weights, _x, _y) = (Buffer<BFloat16>.Of(device, _w.AsSpan()), Buffer<BFloat16>.Of(device, _now.AsSpan()), Buffer<BFloat16>.Allocate(device, Batch * N));
        _stream = device.CreateStream();
    }

    public nint Weights => (nint)_weights.Pointer;

    public nint Activations => (nint)_x.Pointer;

    public nint Outputs => (nint)_y.Pointer;

    public nint Stream => _stream.Handle;

    public void NextActivations() => _x.CopyFrom((_now = Filled(Batch, K, 3)).AsSpan(), stream: _stream);

    public double Difference() => Compare((got, expected) => Math.Abs(got - expected));

    public double Largest() => Compare((_, expected) => Math.Abs(expected));

    private double Compare(Func<double, double, double> measure)
    {
        var y = new BFloat16[Batch * N];
        _y.CopyTo(y, stream: _stream);
        double most = 0;
        for (int i = 0; i < y.Length; i++)
        {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)(float)_now[i / N, k] * (float)_w[i % N, k];
            most = Math.Max(most, measure((float)y[i], sum));
        }
        return most;
    }

    private static BFloat16[,] Filled(int rows, int columns, int seed)
    {
        var random = new Random(seed);
        var values = new BFloat16[rows, columns];
        foreach (ref BFloat16 v in values.AsSpan()) v = (BFloat16)(random.NextSingle() - 0.5f);
        return values;
    }

    public void Dispose()
    {
        foreach (IDisposable each in (IDisposable[])[_stream, _y, _x, _weights]) each.Dispose();
    }
}
