using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Kernels.Interop.Cuda;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// The simulated GPU, native/simt: the same kernels on the host's threads, and a sanitizer. Launches have ended when they
/// return, so streams and events are names only, and a capture, of all streams that wait for an event of it, is a list of what to do again. Every fault of a kernel fails
/// its launch with the sanitizer's sentences, and the device with it, as an illegal address does elsewhere.
/// </summary>
internal sealed unsafe class SimtDriver : GpuDriver
{
    private sealed record Graph(List<Action> Steps, List<nint> Memory);

    // The library has one set of options for the process, so a launch and its options go together.
    private static readonly Lock s_gate = new();
    private static long s_handles;

    // The most of one allocation: more than a simulator can work through, and less than a shadow of it can take.
    private const long Memory = 1L << 34;

    private readonly KnSimtLibrary _library;
    private readonly KnSimtOptions _options;
    private static readonly ConcurrentDictionary<string, nint> s_names = new();
    private readonly ConcurrentDictionary<nint, Graph> _capturing = new();
    private readonly ConcurrentDictionary<nint, Graph> _graphs = new();
    private readonly ConcurrentDictionary<nint, long> _events = new();
    private readonly ConcurrentDictionary<nint, Graph> _captured = new();  // of events: the capture that they are part of

    private SimtDriver(in KnSimtLibrary library, in KnSimtOptions options)
    {
        (_library, _options) = (library, options);
        bool check = library.Checked != 0;
        Limits = new GpuLimits
        {
            Name = string.Create(CultureInfo.InvariantCulture, $"simulated GPU, waves of {options.WaveSize}{(check ? ", checked" : "")}"),
            Architecture = string.Create(CultureInfo.InvariantCulture, $"simt{options.WaveSize}"),
            Driver = check ? "kn_simt_checked" : "kn_simt",
            Multiprocessors = options.SmCount,
            WaveSize = options.WaveSize,
            ThreadsPerBlock = 1024,
            SharedBytesPerBlock = options.SharedPerBlock,
            SharedBytesPerMultiprocessor = options.SharedPerBlock,
            MemoryBytes = Memory,
            L2Bytes = 1 << 18,  // of a size that small problems exceed, so that what depends on one is exercised
            Cooperative = true,
            TensorMaps = options.WaveSize == 32,
            Pools = true,
        };
    }

    public override DeviceKind Kind => DeviceKind.Simulated;

    public override int Ordinal => 0;

    public override GpuLimits Limits { get; }

    /// <summary>A new simulated device; checked: with the sanitizer. Null, with the reason, where the library is missing.</summary>
    public static SimtDriver? TryOpen(int waveSize, bool check, out string reason)
    {
        KernelsException.Require(waveSize is 32 or 64, nameof(waveSize), $"32 or 64, not {waveSize}");
        string? path = KernelTable.Find(check ? "kn_simt_checked" : "kn_simt", out reason);
        if (path is null) return null;
        KnStatus status = KnSimtExports.TryGet(path, out KnSimtLibrary library, out reason);
        if (status == KnStatus.Ok)
        {
            var options = new KnSimtOptions { Size = (uint)sizeof(KnSimtOptions) };
            lock (s_gate) library.GetOptions(&options);
            (options.WaveSize, options.CheckGlobal) = (waveSize, library.Checked);
            return new SimtDriver(library, options);
        }
        if (reason.Length == 0) reason = $"{path}: {status}";
        return null;
    }

    public override nint Allocate(long bytes)
    {
        RequireSound();
        Sweep();
        if (bytes > Memory) throw Failure(Status.NoMemory, "alloc", (int)KnStatus.NoMemory, nameof(KnStatus.NoMemory), $"{bytes} bytes of a device of {Memory}", DeviceFailure.Call);
        void* address = null;
        Check(_library.Alloc(bytes, &address), "alloc");
        return (nint)address;
    }

    public override nint Allocate(long bytes, nint stream)
    {
        nint address = Allocate(bytes);
        if (_capturing.TryGetValue(stream, out Graph? graph)) graph.Memory.Add(address);
        return address;
    }

    public override void Free(nint address, nint stream)
    {
        if (_capturing.ContainsKey(stream)) return;  // the graph's, until it is destroyed
        Check(_library.Free((void*)address), "free");
    }

    public override void Copy(GpuCopy direction, nint to, nint from, long bytes, nint stream) =>
        Do(stream, () => Check(_library.Copy((void*)to, (void*)from, bytes), "copy"));

    public override nint AllocateHost(long bytes)
    {
        RequireSound();
        Sweep();
        return (nint)NativeMemory.AlignedAlloc((nuint)bytes, 64);
    }

    public override void Fill(nint address, uint value, int width, long bytes, nint stream) => Do(stream, () =>
    {
        if (width == 1)
        {
            Check(_library.Fill((void*)address, (byte)value, bytes), "fill");
            return;
        }
        const int Chunk = 4096;
        byte* chunk = stackalloc byte[Chunk];
        new Span<uint>(chunk, Chunk / 4).Fill(width == 4 ? value : value & 0xffff | value << 16);
        for (long at = 0; at < bytes; at += Chunk) Check(_library.Copy((byte*)address + at, chunk, Math.Min(Chunk, bytes - at)), "fill");
    });

    public override nint CreateStream()
    {
        RequireSound();
        return (nint)Interlocked.Increment(ref s_handles);
    }

    public override void Synchronize(nint stream)
    {
        RequireSound();
        if (_capturing.ContainsKey(stream)) throw new KernelsException(Status.Invalid, "stream", "none that is being captured");
    }

    public override nint CreateEvent()
    {
        RequireSound();
        return (nint)Interlocked.Increment(ref s_handles);
    }

    public override void Record(nint ev, nint stream)
    {
        if (_capturing.TryGetValue(stream, out Graph? graph)) _captured[ev] = graph;
        else _captured.TryRemove(ev, out _);
        Do(stream, () => _events[ev] = Stopwatch.GetTimestamp());
    }

    public override void Wait(nint stream, nint ev)
    {
        RequireSound();
        if (_captured.TryGetValue(ev, out Graph? graph)) _capturing.TryAdd(stream, graph);
    }

    public override void SynchronizeEvent(nint ev) => RequireSound();

    public override double Elapsed(nint start, nint end) =>
        _events.TryGetValue(start, out long from) && _events.TryGetValue(end, out long to)
            ? Stopwatch.GetElapsedTime(from, to).TotalMilliseconds
            : throw new KernelsException(Status.Invalid, "event", "one that was recorded");

    public override void BeginCapture(nint stream)
    {
        RequireSound();
        KernelsException.Require(stream != 0 && _capturing.TryAdd(stream, new Graph([], [])), "stream", "one of its own, which is not being captured");
    }

    public override nint EndCapture(nint stream)
    {
        KernelsException.Require(_capturing.TryRemove(stream, out Graph? graph), "stream", "one that is being captured");
        foreach ((nint other, Graph of) in _capturing)
            if (ReferenceEquals(of, graph)) _capturing.TryRemove(other, out _);
        foreach ((nint ev, Graph of) in _captured)
            if (ReferenceEquals(of, graph)) _captured.TryRemove(ev, out _);
        nint handle = (nint)Interlocked.Increment(ref s_handles);
        _graphs[handle] = graph!;
        return handle;
    }

    public override void LaunchGraph(nint graph, nint stream)
    {
        RequireSound();
        KernelsException.Require(_graphs.TryGetValue(graph, out Graph? found), nameof(graph), "one that was not destroyed");
        foreach (Action step in found!.Steps) Do(stream, step);
    }

    public override bool HasImage(string file, string kernel, out string imageOrReason)
    {
        bool found = Find(Name(kernel)) == KnStatus.Ok;
        imageOrReason = found ? Limits.Driver : $"{Limits.Driver} holds no {kernel} for {Limits.Architecture}";
        return found;
    }

    protected override nint LoadModule(string file) => 1;

    public override nint Function(nint module, string name)
    {
        nint text = Name(name);
        lock (s_gate) Check((int)Find(text), $"find {name}");
        return text;
    }

    private KnStatus Find(nint name)
    {
        KnSimtOptions options = _options;
        var kernel = new KnSimtKernel { Size = (uint)sizeof(KnSimtKernel) };
        lock (s_gate)
        {
            Check(_library.SetOptions(&options), "set_options");
            return (KnStatus)_library.Find((byte*)name, &kernel);
        }
    }

    /// <summary>A function's handle is its name, which lives as long as the process.</summary>
    private nint Name(string name) => s_names.GetOrAdd(name, n => Marshal.StringToCoTaskMemUTF8(n));

    public override GpuKernelFacts Facts(nint function) => new(0, 0, 0, Limits.ThreadsPerBlock);

    public override void GrantShared(nint function, int bytes)
    {
    }

    public override void EncodeTensor(in GpuTensor tensor, CUtensorMap* map)
    {
        var encoded = new KnSimtTensor { Size = (uint)sizeof(KnSimtTensor), ElementBytes = tensor.Type.Bits() / 8, Address = (void*)tensor.Address };
        (encoded.Shape[0], encoded.Shape[1], encoded.Shape[2]) = tensor.Shape;
        (encoded.Strides[0], encoded.Strides[1]) = tensor.Strides;
        (encoded.Box[0], encoded.Box[1], encoded.Box[2]) = tensor.Box;
        Check(_library.EncodeTensor(&encoded, map), "encode_tensor");
    }

    public override void Launch(nint function, in GpuGrid grid, nint stream, void* args, int argsBytes)
    {
        RequireSound();
        if (grid.Cluster > 1) throw new KernelsException(Status.Unsupported, Limits.Name, "the simulated device forms no clusters");
        if (!_capturing.IsEmpty && _capturing.TryGetValue(stream, out Graph? graph)) Keep(graph, function, grid, new ReadOnlySpan<byte>(args, argsBytes).ToArray());
        else Launch(function, grid, args, argsBytes);
    }

    private void Keep(Graph graph, nint function, GpuGrid grid, byte[] args) => graph.Steps.Add(() =>
    {
        fixed (byte* at = args) Launch(function, grid, at, args.Length);
    });

    private void Launch(nint function, in GpuGrid grid, void* args, int argsBytes)
    {
        var launch = new KnSimtLaunch
        {
            Size = (uint)sizeof(KnSimtLaunch),
            DynamicShared = (uint)grid.SharedBytes,
            Cooperative = grid.Cooperative ? 1u : 0,
            ArgsBytes = (uint)argsBytes,
            Kernel = (byte*)function,
            Args = args,
        };
        (launch.Grid[0], launch.Grid[1], launch.Grid[2]) = ((uint)grid.X, (uint)grid.Y, (uint)grid.Z);
        (launch.Block[0], launch.Block[1], launch.Block[2]) = ((uint)grid.BlockX, (uint)grid.BlockY, 1);
        lock (s_gate)
        {
            KnSimtOptions options = _options;
            Check(_library.SetOptions(&options), "set_options");
            int status = _library.Launch(&launch), faults = _library.FaultCount();
            if (status == (int)KnStatus.Device || faults > 0)
                throw Failure(Status.Device, $"launch of {Text(launch.Kernel)}", status, "faults", Faults(faults), DeviceFailure.Lost);
            if (status != 0) Check(status, $"launch of {Text(launch.Kernel)}");
        }
    }

    private string Faults(int count)
    {
        const int Most = 8;
        var sentences = new List<string>();
        for (int i = 0; i < Math.Min(count, Most); i++)
        {
            var fault = new KnSimtFault { Size = (uint)sizeof(KnSimtFault) };
            if (_library.Fault(i, &fault) == 0) sentences.Add(Text(fault.Text));
        }
        if (count > Most) sentences.Add(string.Create(CultureInfo.InvariantCulture, $"and {count - Most} more"));
        return sentences.Count > 0 ? string.Join("; ", sentences) : Text(_library.LastError());
    }

    /// <summary>Does a step now, or keeps it where the stream is being captured.</summary>
    private void Do(nint stream, Action step)
    {
        RequireSound();
        if (_capturing.TryGetValue(stream, out Graph? graph)) graph.Steps.Add(step);
        else step();
    }

    protected override void Destroy(GpuObject kind, nint handle)
    {
        if (kind == GpuObject.Memory) Check(_library.Free((void*)handle), "free");
        if (kind == GpuObject.HostMemory) NativeMemory.AlignedFree((void*)handle);
        if (kind == GpuObject.Event)
        {
            _events.TryRemove(handle, out _);
            _captured.TryRemove(handle, out _);
        }
        if (kind != GpuObject.Graph || !_graphs.TryRemove(handle, out Graph? graph)) return;
        foreach (nint memory in graph.Memory) Check(_library.Free((void*)memory), "free");
    }

    private void Check(int status, string call)
    {
        if (status != 0) throw Failure((Status)status, call, status, ((KnStatus)status).ToString(), Text(_library.LastError()), DeviceFailure.Call);
    }

    private static string Text(byte* utf8) => Marshal.PtrToStringUTF8((nint)utf8) ?? "";
}
