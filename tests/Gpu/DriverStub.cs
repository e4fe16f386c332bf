using System.Diagnostics;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace Kernels.Tests.Gpu;

/// <summary>The drivers on libraries without a GPU, of tests/Native: each scenario in a process whose loader finds those.</summary>
[TestFixture]
[Platform("Linux")]
public sealed class DriverStubs
{
    private static readonly string s_directory = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../../build/stub"));

    private static IEnumerable<string> Scenarios => ((Type[])[typeof(CudaScenarios), typeof(HipScenarios)])
        .SelectMany(t => t.GetMethods(BindingFlags.Public | BindingFlags.Static).Select(m => $"{t.Name}.{m.Name}"));

    [TestCaseSource(nameof(Scenarios))]
    public void Holds(string scenario)
    {
        if (!Directory.Exists(s_directory)) Assert.Ignore($"{s_directory} was not built");
        if (Images.All.Count == 0 && scenario.Contains("Module", StringComparison.Ordinal)) Assert.Ignore("this build holds no device images: no clang 16 or newer was found");
        string other = scenario.Contains("Rocm5", StringComparison.Ordinal) ? "rocm5" : scenario.Contains("Foreign", StringComparison.Ordinal) ? "foreign" : "";
        var start = new ProcessStartInfo("dotnet", [typeof(DriverStubs).Assembly.Location, scenario]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["LD_LIBRARY_PATH"] = Path.Combine(s_directory, other);
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd() + error.Result;
        process.WaitForExit();
        Assert.That(process.ExitCode, Is.Zero, output);
    }
}

/// <summary>
/// A stub as a scenario asks it, and the scenarios that all drivers have, in CUDA's names: <paramref name="names"/> are those of calls
/// by the driver's, empty for calls that only make the device current.
/// </summary>
internal sealed unsafe class DriverStub(string library, Dictionary<string, string> names)
{
    private nint Export(string name) => NativeLibrary.GetExport(NativeLibrary.Load(library), name);

    public void Plan(string call, int code, int times = int.MaxValue)
    {
        var fail = (delegate* unmanaged[Cdecl]<byte*, int, int, int>)Export("stub_fail");
        fixed (byte* name = Encoding.UTF8.GetBytes((names.FirstOrDefault(n => n.Value == call).Key ?? call) + '\0')) fail(name, code, times);
    }

    public void Version(int version) => ((delegate* unmanaged[Cdecl]<int, int>)Export("stub_version"))(version);

    public void Architecture(string architecture)
    {
        fixed (byte* text = Encoding.UTF8.GetBytes(architecture + '\0')) ((delegate* unmanaged[Cdecl]<byte*, int>)Export("stub_architecture"))(text);
    }

    /// <summary>The calls since the last time.</summary>
    public string[] Calls()
    {
        byte[] text = new byte[1 << 16];
        fixed (byte* at = text) ((delegate* unmanaged[Cdecl]<byte*, int, int>)Export("stub_lines"))(at, text.Length);
        return [.. Encoding.UTF8.GetString(text).TrimEnd('\0').Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(l => l.Split(' ', 2)).Select(l => (Name: names.GetValueOrDefault(l[0], l[0]), Arguments: l.Length > 1 ? " " + l[1] : ""))
            .Where(l => l.Name.Length > 0).Select(l => l.Name + l.Arguments)];
    }

    public static KernelsException Throws(Action call) => Assert.Throws<KernelsException>(() => call())!;

    public void MemoryStreamsEventsGraphs(Device device)
    {
        int[] back = new int[3];
        using (Buffer<int> buffer = Buffer<int>.Of(device, [1, 2, 3])) buffer.CopyTo(back);
        Assert.That(back, Is.EqualTo(new[] { 1, 2, 3 }));
        Assert.That(Calls(), Is.EqualTo(new[] { "cuMemAlloc_v2 12", "cuMemcpyHtoDAsync_v2 12 0", "cuStreamSynchronize 0", "cuMemcpyDtoHAsync_v2 12 0", "cuStreamSynchronize 0", "cuMemFree_v2" }));

        nint scratch = device.Gpu!.Allocate(64, 7);
        device.Gpu.Fill(scratch, 9, 64, 7);
        device.Gpu.Free(scratch, 7);
        Assert.That(Calls(), Is.EqualTo(new[] { $"cuMemPoolCreate 1 0 1 {device.Ordinal}", $"cuMemPoolSetAttribute 4 {ulong.MaxValue}", "cuMemAllocFromPoolAsync 64 7", "cuMemsetD8Async 9 64 7", "cuMemFreeAsync 7" }));

        nint s, e, g;
        using (Kernels.Stream stream = device.CreateStream())
        using (Event start = Event.Create(device), end = Event.Create(device))
        using (Graph graph = stream.Capture(() => { }))
        {
            (s, e, g) = (stream.Handle, end.Handle, graph.Handle);
            start.Record();
            stream.Wait(start);
            graph.Launch(stream);
            end.Record(stream);
            end.Synchronize();
            Assert.That(end.MillisecondsSince(start), Is.EqualTo(1.5));
            Assert.That(Calls(), Is.EqualTo(new[]
            {
                "cuStreamCreate 0", "cuEventCreate 0", "cuEventCreate 0", $"cuStreamBeginCapture_v2 {s} 2", $"cuStreamEndCapture {s}", $"cuGraphInstantiateWithFlags {g - 1} 0", $"cuGraphDestroy {g - 1}",
                $"cuEventRecord {start.Handle} 0", $"cuStreamWaitEvent {s} {start.Handle} 0", $"cuGraphLaunch {g} {s}", $"cuEventRecord {e} {s}", $"cuEventSynchronize {e}", $"cuEventElapsedTime {start.Handle} {e}",
            }));
        }
        Assert.That(Calls().Select(c => c.Split(' ')[0]), Is.EqualTo(new[] { "cuGraphExecDestroy", "cuEventDestroy_v2", "cuEventDestroy_v2", "cuStreamDestroy_v2" }));

        // What is others' is used and left.
        using (Kernels.Stream stream = Kernels.Stream.FromHandle(device, 71))
        using (Event ev = Event.FromHandle(device, 72))
        using (Graph graph = Graph.FromHandle(device, 73))
        {
            ev.Record(stream);
            graph.Launch(stream);
        }
        Assert.That(Calls(), Is.EqualTo(new[] { "cuEventRecord 72 71", "cuGraphLaunch 73 71" }));
    }

    /// <summary>Nothing here waits, but for the copies that say so; memory in a stream's order ends in it, and before it.</summary>
    public void WhatIsEnqueued(Device device)
    {
        Kernels.Stream stream = device.CreateStream();
        nint s = stream.Handle;
        Calls();
        Buffer<short> there = Buffer<short>.Allocate(stream, 5), other = Buffer<short>.Allocate(stream, 5);
        using (Buffer<short> pinned = Buffer<short>.AllocatePinned(device, 5))
        {
            Assert.That((pinned.Device, pinned.Span.ToArray()), Is.EqualTo((Device.Cpu, new short[5])));
            new short[] { 1, 2, 3, 4, 5 }.CopyTo(pinned.Span);
            there.EnqueueCopyFrom(pinned, stream: stream);
            other.Fill(-2, stream: stream);
            other.EnqueueCopyFrom(there, offset: 1, sourceOffset: 2, count: 3, stream);
            pinned.EnqueueCopyFrom(other, stream: stream);
            Assert.That(pinned.Span.ToArray(), Is.EqualTo(new short[] { -2, 3, 4, 5, -2 }), "the stub copies at once");
        }
        stream.Dispose();
        there.Dispose();
        other.Dispose();
        Assert.That(Calls(), Is.EqualTo(new[]
        {
            $"cuMemPoolCreate 1 0 1 {device.Ordinal}", $"cuMemPoolSetAttribute 4 {ulong.MaxValue}", $"cuMemAllocFromPoolAsync 10 {s}", $"cuMemAllocFromPoolAsync 10 {s}", "cuMemHostAlloc 10 1",
            $"cuMemcpyHtoDAsync_v2 10 {s}", $"cuMemsetD16Async 65534 5 {s}", $"cuMemcpyDtoDAsync_v2 6 {s}", $"cuMemcpyDtoHAsync_v2 10 {s}", "cuMemFreeHost",
            $"cuMemFreeAsync {s}", $"cuMemFreeAsync {s}", $"cuStreamDestroy_v2 {s}",
        }));

        using (Buffer<double> wide = Buffer<double>.Allocate(device, 3))
        using (Buffer<byte> narrow = Buffer<byte>.Allocate(device, 3))
        {
            Calls();
            wide.Clear();
            wide.Fill(BitConverter.Int64BitsToDouble(0x12345678_12345678), 1, 1);
            narrow.Fill(7, 2);
            Assert.That(Throws(() => wide.Fill(1.0)).Argument, Is.EqualTo("value"));
            Assert.That(Calls(), Is.EqualTo(new[] { "cuMemsetD8Async 0 24 0", $"cuMemsetD32Async {0x12345678} 2 0", "cuMemsetD8Async 7 1 0" }));
        }

        // What finalizers leave is freed by the next allocation, memory before the stream of its order.
        Calls();
        Leave(device);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Assert.That(Calls().Select(c => c.Split(' ')[0]), Is.EqualTo(new[] { "cuStreamCreate", "cuMemAllocFromPoolAsync" }));
        Buffer<int>.Allocate(device, 1).Dispose();
        Assert.That(Calls().Select(c => c.Split(' ')[0]), Is.EqualTo(new[] { "cuMemFreeAsync", "cuStreamDestroy_v2", "cuMemAlloc_v2", "cuMemFree_v2" }));
        Kernels.Stream kept = device.CreateStream();
        Leave(device, kept);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Calls();
        kept.Dispose();
        Assert.That(Calls().Select(c => c.Split(' ')[0]), Is.EqualTo(new[] { "cuMemFreeAsync", "cuStreamDestroy_v2" }));
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Leave(Device device, Kernels.Stream? stream = null) => _ = Buffer<int>.Allocate(stream ?? device.CreateStream(), 4);

    /// <summary>Out of memory is an exception with its status, whichever memory it is, and the device goes on.</summary>
    public void NoMemory(Device device)
    {
        using Kernels.Stream stream = Kernels.Stream.FromHandle(device, 5);
        foreach ((string call, Action allocate) in new (string, Action)[]
            {
                ("cuMemAlloc_v2", () => Buffer<int>.Allocate(device, 4).Dispose()), ("cuMemPoolCreate", () => Buffer<int>.Allocate(stream, 4).Dispose()),
                ("cuMemAllocFromPoolAsync", () => Buffer<int>.Allocate(stream, 4).Dispose()), ("cuMemHostAlloc", () => Buffer<int>.AllocatePinned(device, 4).Dispose()),
            })
        {
            Plan(call, 2, 1);
            KernelsException e = Throws(allocate);
            Assert.That((e.Status, e.DriverCode, e.DeviceFailure), Is.EqualTo((Status.NoMemory, 2, DeviceFailure.Call)), call);
            Assert.That(device.Fault, Is.Null);
            allocate();
        }
    }

    public void ErrorsAreToldApart(Device device, (int Code, Status Status, DeviceFailure Failure)[] codes)
    {
        foreach ((int code, Status status, DeviceFailure failure) in codes)
        {
            Plan("cuStreamSynchronize", code, 1);
            using Kernels.Stream stream = Kernels.Stream.FromHandle(device, 5);
            KernelsException e = Throws(stream.Synchronize);
            Assert.That((e.DriverCode, e.Status, e.DeviceFailure), Is.EqualTo((code, status, failure)));
            Assert.That(e.Message, Does.Contain("StreamSynchronize: ").And.Contain($"({code}), ").And.Contain(code < 900 ? "words of the stub" : "no words"));
            Assert.That(device.Fault, Is.Null);
            stream.Synchronize();
        }
    }

    public void ALostDeviceEnds(Func<Device> own, int[] codes)
    {
        foreach (int code in codes)
        {
            Device device = own();
            using Kernels.Stream stream = Kernels.Stream.FromHandle(device, 5);
            Buffer<int> buffer = Buffer<int>.Allocate(device, 4), ordered = Buffer<int>.Allocate(stream, 4), pinned = Buffer<int>.AllocatePinned(device, 4);
            Plan("cuStreamSynchronize", code, 1);
            KernelsException first = Throws(stream.Synchronize), later = Throws(stream.Synchronize);
            foreach (KernelsException e in new[] { first, later }) Assert.That((e.DriverCode, e.Status, e.DeviceFailure), Is.EqualTo((code, Status.Device, DeviceFailure.Lost)));
            Assert.That(device.Fault, Does.Contain($"({code})"));
            Assert.That(later.Message, Does.Contain(device.Fault));
            Calls();
            foreach (Action call in (Action[])[() => Buffer<int>.Allocate(device, 4), () => Buffer<int>.Allocate(stream, 4), () => buffer.Clear(), () => buffer.EnqueueCopyFrom(pinned)])
                Assert.That(Throws(call).DeviceFailure, Is.EqualTo(DeviceFailure.Lost));
            foreach (Buffer<int> b in (Buffer<int>[])[buffer, ordered, pinned]) b.Dispose();
            device.Dispose();
            Assert.That(Calls(), Is.Empty, "a lost context is asked for nothing more");
        }
    }
}
