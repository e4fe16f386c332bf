using System.Diagnostics;

namespace Kernels.Tuning;

/// <summary>One thing to time: it runs once, on the given copy of the weights.</summary>
internal sealed class TimedCall(string name, Action<int> run)
{
    public string Name { get; } = name;

    public Action<int> Run { get; } = run;

    /// <summary>Seconds of the last call; how many calls one reading of the clock needs follows from it.</summary>
    public double Last { get; set; }
}

/// <summary>
/// Times calls as a policy makes them. Cold: every call takes the next of the rotating copies, whoever's turn it is, so that
/// its weights come from memory. Warm: the same copy, after a call that is not timed.
/// </summary>
internal sealed class CallTimer(int copies, CacheState cache)
{
    /// <summary>What rotates is at least this much, several times the last-level cache of any socket that is sold.</summary>
    public const long ColdBytes = 1L << 30;

    // Below this the clock and the call into it would be measured as well.
    private const double LeastSeconds = 20e-6;
    private int _next;

    /// <summary>Copies that make operands of <paramref name="bytes"/> cold, as far as <paramref name="cap"/> bytes go.</summary>
    public static int Copies(CacheState cache, long bytes, long cap = long.MaxValue) =>
        cache == CacheState.Warm || bytes <= 0 ? 1 : (int)Math.Clamp(Math.Min((ColdBytes + bytes - 1) / bytes, cap / bytes), 1, 4096);

    /// <summary>A third of the memory that this process may use: a measurement shares the machine.</summary>
    public static long MemoryCap => GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 3;

    /// <summary>One sample: seconds a call.</summary>
    public double Sample(TimedCall call)
    {
        if (cache == CacheState.Warm) call.Run(0);
        int calls = call.Last > 0 ? (int)Math.Clamp(Math.Ceiling(LeastSeconds / call.Last), 1, 1000) : 1;
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < calls; i++) call.Run(Next());
        return call.Last = Stopwatch.GetElapsedTime(start).TotalSeconds / calls;
    }

    private int Next()
    {
        if (cache == CacheState.Warm) return 0;
        if (++_next >= copies) _next = 0;
        return _next;
    }
}
