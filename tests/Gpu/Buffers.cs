using Kernels.Tests.Simt;

namespace Kernels.Tests.Gpu;

/// <summary>What buffers enqueue, on the simulated device and on whatever GPUs are here; and launches that no row uses.</summary>
[TestFixture]
public sealed class Buffers
{
    private static T[] Back<T>(Buffer<T> buffer) where T : unmanaged
    {
        var back = new T[buffer.Length];
        buffer.CopyTo(back);
        return back;
    }

    private static void Refused(string argument, Action call, Status status = Status.Invalid)
    {
        var e = Assert.Throws<KernelsException>(() => call())!;
        Assert.That((e.Argument, e.Status), Is.EqualTo((argument, status)), e.Message);
    }

    [TestCaseSource(typeof(Simulated), nameof(Simulated.Names))]
    public void FilledAndCleared(string name)
    {
        Device device = Simulated.Open(name);
        using Kernels.Stream stream = device.CreateStream();
        using Buffer<float> floats = Buffer<float>.Allocate(device, 3000);
        floats.Fill(1.5f, stream: stream);
        floats.Fill(-2, 7, 2000, stream);
        stream.Synchronize();
        Assert.That(Back(floats), Is.EqualTo(Enumerable.Range(0, 3000).Select(i => i is >= 7 and < 2007 ? -2f : 1.5f)));
        using Buffer<Half> halves = Buffer<Half>.Allocate(device, 5);
        halves.Fill((Half)3);
        halves.Fill(default, 4);
        Assert.That(Back(halves), Is.EqualTo(new Half[] { (Half)3, (Half)3, (Half)3, (Half)3, default }));
        using Buffer<sbyte> bytes = Buffer<sbyte>.Allocate(device, 5);
        bytes.Fill(-3);
        bytes.Fill(1, 5);
        bytes.Fill(1, 1, 0);
        Assert.That(Back(bytes), Is.All.EqualTo(-3));
        using Buffer<long> longs = Buffer<long>.Of(device, [1, 2, 3]);
        longs.Fill(-1, 1, 1);
        Assert.That(Back(longs), Is.EqualTo(new long[] { 1, -1, 3 }));
        longs.Clear(stream);
        stream.Synchronize();
        Assert.That(Back(longs), Is.All.Zero);
        Refused("value", () => longs.Fill(1), Status.Unsupported);
        Refused("count", () => longs.Fill(0, 2, 2));
        Refused("count", () => longs.Fill(0, 0, -1));
        Refused("count", () => longs.Fill(0, -1));
        Refused("count", () => longs.Fill(0, 4));
    }

    [TestCaseSource(typeof(Simulated), nameof(Simulated.Names))]
    public void CopiedBehindWhatIsEnqueued(string name)
    {
        Device device = Simulated.Open(name);
        using Kernels.Stream stream = device.CreateStream();
        using Buffer<int> to = Buffer<int>.AllocatePinned(device, 6), from = Buffer<int>.AllocatePinned(device, 4);
        Assert.That((from.Device, from.Span.ToArray()), Is.EqualTo((Device.Cpu, new int[4])));
        new[] { 1, 2, 3, 4 }.CopyTo(from.Span);
        using (Buffer<int> one = Buffer<int>.Allocate(stream, 4))
        using (Buffer<int> other = Buffer<int>.Allocate(stream, 6))
        {
            Assert.That((one.Device, one.Length), Is.EqualTo((device, 4L)));
            one.EnqueueCopyFrom(from, stream: stream);
            other.Fill(9, stream: stream);
            other.EnqueueCopyFrom(one, 2, 1, 2, stream);
            to.EnqueueCopyFrom(other, stream: stream);
        }
        stream.Synchronize();
        Assert.That(to.Span.ToArray(), Is.EqualTo(new[] { 9, 9, 2, 3, 9, 9 }));

        // Of the host to the host, at once; within one buffer.
        to.EnqueueCopyFrom(from, 2);
        to.EnqueueCopyFrom(to, 0, 4, 2);
        Assert.That(to.Span.ToArray(), Is.EqualTo(new[] { 3, 4, 1, 2, 3, 4 }));
        Refused("source", () => to.EnqueueCopyFrom(from, 3));
        Refused("source", () => to.EnqueueCopyFrom(from, 0, 5));
        Refused("source", () => to.EnqueueCopyFrom(from, 0, 0, -1));
        Refused("source", () => to.EnqueueCopyFrom(to, 0, 1, 2));
    }

    /// <summary>A graph does it again with what the host's memory then holds.</summary>
    [TestCaseSource(typeof(Simulated), nameof(Simulated.Names))]
    public void CapturedAndReplayed(string name)
    {
        Device device = Simulated.Open(name);
        using Kernels.Stream stream = device.CreateStream();
        using Buffer<int> host = Buffer<int>.AllocatePinned(device, 3), there = Buffer<int>.Of(device, [5, 5, 5]);
        using Graph graph = stream.Capture(() =>
        {
            there.Fill(7, 1, stream: stream);
            there.EnqueueCopyFrom(host, 0, 0, 1, stream);
        });
        Assert.That(Back(there), Is.All.EqualTo(5), "kept, not done");
        foreach (int value in (int[])[1, 2])
        {
            host.Span[0] = value;
            graph.Launch(stream);
            stream.Synchronize();
            Assert.That(Back(there), Is.EqualTo(new[] { value, 7, 7 }));
        }
    }

    [Test]
    public void OtherDevicesAndWhatIsDisposed()
    {
        Device device = Simulated.Open("simt32");
        using Kernels.Stream stream = device.CreateStream();
        using Buffer<int> here = Buffer<int>.Of([1, 2]), too = Buffer<int>.Of([1, 2]), there = Buffer<int>.Of(device, [3, 4]);
        Refused("stream", () => here.EnqueueCopyFrom(too, stream: stream));
        Refused("stream", () => here.Clear(stream));
        Refused("length", () => Buffer<int>.Allocate(stream, -1));
        Refused("length", () => Buffer<int>.AllocatePinned(device, -1));
        using (Buffer<int> pinned = Buffer<int>.AllocatePinned(Device.Cpu, 2)) Assert.That(pinned.Span.ToArray(), Is.All.Zero);
        here.Fill(8);
        Assert.That(here.Span.ToArray(), Is.All.EqualTo(8));
        Kernels.Stream gone = device.CreateStream();
        Buffer<int> kept = Buffer<int>.Allocate(gone, 2);
        gone.Dispose();
        kept.Clear();
        kept.Dispose();
        Refused("buffer", () => kept.Clear());
        Refused("buffer", () => there.EnqueueCopyFrom(kept));
        Refused("Stream", () => Buffer<int>.Allocate(gone, 2));
    }

    /// <summary>Cooperative grids through the layer that rows launch by: blocks wait for one another, and more than fit at once are refused.</summary>
    [TestCase("simt32")]
    [TestCase("simt64")]
    public unsafe void ACooperativeLaunch(string name)
    {
        const int Blocks = 6, Threads = 64;
        Device device = Simulated.Open(name);
        GpuDriver gpu = device.Gpu!;
        Assert.That(gpu.Limits.Cooperative && !gpu.Limits.Clusters);
        using Buffer<uint> output = Buffer<uint>.Allocate(device, 1 + Blocks * Threads);
        output.Clear();
        nint function = gpu.Function(gpu.Module("collectives"), "simt_grid");
        var args = new SimtTestArgs { Out = (nint)output.Pointer };
        SimtTestArgs* at = &args;
        gpu.Launch(function, new GpuGrid(Blocks, 1, 1, Threads, Cooperative: true), 0, at, sizeof(SimtTestArgs));
        Assert.That(Back(output), Is.All.EqualTo((uint)Blocks * Threads));
        Refused(device.Model, () => gpu.Launch(function, new GpuGrid(100_000, 1, 1, Threads, Cooperative: true), 0, at, sizeof(SimtTestArgs)));
        Refused(device.Model, () => gpu.Launch(function, new GpuGrid(Blocks, 1, 1, Threads, Cluster: 2), 0, at, sizeof(SimtTestArgs)), Status.Unsupported);
        Assert.That(device.Fault, Is.Null, "refused, not lost");
        Assert.That(() => gpu.Launch(function, new GpuGrid(Blocks, 1, 1, Threads), 0, at, sizeof(SimtTestArgs)), Throws.TypeOf<KernelsException>(), "a barrier of the grid without a cooperative launch");
        Assert.That(device.Fault, Does.Contain("cooperative"));
    }
}
