using System.Diagnostics;

namespace Kernels.Tuning;

/// <summary>One thing to time: it runs once, on the given copy of the weights.</summary>
internal sealed class TimedCall(string name, Action<int> run)
{
    public string Name { get; } = name;

    public Action<int> Run { get; } = run;

    /// <summary>Seconds a call of what another process runs and times; null: <see cref="Run"/> is timed here.</summary>
    public Func<double>? Clock { get; init; }

    /// <summary>Seconds of the last call; how many calls one reading of the clock needs follows from it.</summary>
    public double Last { get; set; }
}

/// <summary>
/// Times calls as a policy makes them. Cold: every call takes the next of the rotating copies, whoever's turn it is, so that
/// its weights come from memory. Warm: the same copy, after a call that is not timed. On a GPU see <see cref="DeviceTimer"/>.
/// </summary>
internal class CallTimer(int copies, CacheState cache) : IDisposable
{
    /// <summary>What rotates is at least this much, several times the last-level cache of any socket that is sold.</summary>
    public const long ColdBytes = 1L << 30;

    /// <summary>Copies that rotate.</summary>
    public int Count { get; } = copies;

    public CacheState Cache { get; } = cache;

    /// <summary>The timer of a device; <paramref name="eager"/>: of a GPU's launches instead of graphs of them.</summary>
    public static CallTimer On(Device device, int copies, CacheState cache, bool eager) =>
        device.Gpu is null ? new CallTimer(copies, cache) : new DeviceTimer(device, copies, cache, eager);

    /// <summary>Copies on a device: of a GPU they fill L2 twice, so that a walk round them finds none of them there.</summary>
    public static int Copies(Device device, CacheState cache, long bytes)
    {
        if (device.Gpu is not { } gpu) return Copies(cache, bytes, MemoryCap);
        // AMD's drivers do not tell the cache behind L2, which is the larger one.
        long wanted = Math.Max(2 * gpu.Limits.L2Bytes, gpu.Kind == DeviceKind.Hip ? 1L << 29 : 0), cap = Math.Min(MemoryCap, gpu.Limits.MemoryBytes / 3);
        return cache == CacheState.Warm || bytes <= 0 ? 1 : (int)Math.Clamp(Math.Min((wanted + bytes - 1) / bytes, cap / bytes), 1, 4096);
    }

    // Below this the clock and the call into it would be measured as well.
    private const double LeastSeconds = 20e-6;
    private int _next;

    /// <summary>Copies that make operands of <paramref name="bytes"/> cold, as far as <paramref name="cap"/> bytes go.</summary>
    public static int Copies(CacheState cache, long bytes, long cap = long.MaxValue) =>
        cache == CacheState.Warm || bytes <= 0 ? 1 : (int)Math.Clamp(Math.Min((ColdBytes + bytes - 1) / bytes, cap / bytes), 1, 4096);

    /// <summary>A third of the memory that this process may use: a measurement shares the machine.</summary>
    public static long MemoryCap => GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 3;

    /// <summary>One sample: seconds a call.</summary>
    public virtual double Sample(TimedCall call)
    {
        if (Cache == CacheState.Warm) call.Run(0);
        int calls = call.Last > 0 ? (int)Math.Clamp(Math.Ceiling(LeastSeconds / call.Last), 1, 1000) : 1;
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < calls; i++) call.Run(Next());
        return call.Last = Stopwatch.GetElapsedTime(start).TotalSeconds / calls;
    }

    public virtual void Dispose()
    {
    }

    protected int Next()
    {
        if (Cache == CacheState.Warm) return 0;
        if (++_next >= Count) _next = 0;
        return _next;
    }
}
