using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>One measured limit.</summary>
internal sealed record LimitLine(string What, int Threads, double Value, string Unit, string Detail);

/// <summary>What this machine can do, measured when first asked for and under the policy that is asked about.</summary>
internal sealed class MachineLimits
{
    private const double ReadSeconds = 0.15, ColdSeconds = 0.6;
    private readonly Limits? _limits;
    private readonly Device _device;
    private readonly double _copyRate;  // of a GPU
    private readonly Dictionary<(long, int), double> _cold = [];
    private readonly Dictionary<(string, int), double> _reads = [];
    private readonly Dictionary<(string, int), double?> _peaks = [];
    private readonly List<LimitLine> _lines = [];

    private MachineLimits(Limits limits) => (_limits, _device) = (limits, Device.Cpu);

    private MachineLimits(Device gpu)
    {
        (_device, _copyRate) = (gpu, DeviceLimits.CopyRate(gpu));
        _lines.Add(new LimitLine("copy within the memory, read and written", 1, _copyRate / 1e9, "GB/s", $"{Format.Bytes(DeviceLimits.CopyBytes(gpu))} at a time"));
    }

    public IReadOnlyList<LimitLine> Lines => _lines;

    /// <summary>Null, and why, where kn_limits is not there; results then have no fraction.</summary>
    public static MachineLimits? TryOpen(Device device, out string reason)
    {
        reason = "no limits are measured: the simulated device has none";
        return device.Kind switch
        {
            DeviceKind.Cpu => TryOpen(out reason),
            DeviceKind.Simulated => null,
            _ => new MachineLimits(device),
        };
    }

    /// <summary>Those of the CPU.</summary>
    public static MachineLimits? TryOpen(out string reason)
    {
        if (Limits.TryLoad(AppContext.BaseDirectory, out Limits? limits, out reason)) return new MachineLimits(limits!);
        reason = $"no limits are measured: {reason} (./build.sh builds kn_limits)";
        return null;
    }

    /// <summary>Measures what <see cref="Seconds"/> will need, and the levels of the memory for the table.</summary>
    public void Prepare(Work work, int threads, CacheState cache)
    {
        if (_limits is null)
        {
            _ = Peak(work.PeakKinds, threads);
            return;
        }
        foreach (string level in (string[])["L1", "L2", "L3", "DRAM"]) Read(level, threads);
        _ = Rate(work.Bytes, threads, cache);
        _ = Peak(work.PeakKinds, threads);
        _limits.Release();
    }

    /// <summary>The least time that one call can take: its bytes at the rate of where they lie, or its products at the peak; of a GPU its bytes are held to the rate of a copy.</summary>
    public double Seconds(Work work, int threads, CacheState cache) =>
        Math.Max(work.Bytes / (Rate(work.Bytes, threads, cache) * 1e9), work.Flops / ((Peak(work.PeakKinds, threads) ?? double.PositiveInfinity) * 1e9));

    /// <summary>The two roofs for a layer: 10^9 bytes and 10^9 operations a second.</summary>
    public (double Gbps, double? Gflops) Roofs(Work work, int threads, CacheState cache) => (Rate(work.Bytes, threads, cache), Peak(work.PeakKinds, threads));

    private double Rate(long bytes, int threads, CacheState cache)
    {
        if (_limits is null) return _copyRate / 1e9;
        if (cache == CacheState.Cold) return Cold(bytes, threads);
        long each = bytes / threads;
        var caches = Device.Cpu.CacheBytes;
        return Read(each < caches[0] * 3 / 4 ? "L1" : each < caches[1] * 3 / 4 ? "L2" : bytes < caches[2] * 3 / 4 ? "L3" : "DRAM", threads);
    }

    private double Cold(long bytes, int threads)
    {
        // A chunk is what one call reads, rounded so that calls of nearly one size share a measurement.
        long unit = 4L << 20, chunk = Math.Max(bytes / unit * unit, Math.Min(unit, Math.Max(bytes / 65536 * 65536, 65536)));
        if (_cold.TryGetValue((chunk, threads), out double rate)) return rate;
        ColdRead best = _limits!.Cold(Math.Max(CallTimer.ColdBytes, chunk), chunk, threads, ColdSeconds);
        _lines.Add(new LimitLine($"read, cold, {Format.Bytes(chunk)} at a time", threads, best.GigabytesPerSecond, "GB/s",
            $"{best.Streams} streams a thread{(best.Prefetch != 0 ? ", prefetch" : "")}"));
        return _cold[(chunk, threads)] = best.GigabytesPerSecond;
    }

    private double Read(string level, int threads)
    {
        if (_reads.TryGetValue((level, threads), out double rate)) return rate;
        var caches = Device.Cpu.CacheBytes;
        long bytes = level switch
        {
            "L1" => (caches[0] > 0 ? caches[0] : 32 << 10) / 2,
            "L2" => (caches[1] > 0 ? caches[1] : 1 << 20) / 2,
            "L3" => (caches[2] > 0 ? caches[2] : 16 << 20) / 2 / threads,
            _ => (1L << 30) / threads,
        } / 4096 * 4096;
        double best = 0;
        int streams = 1;
        foreach (int s in (int[])[1, 4, 8])
            if (_limits!.Read(bytes, threads, s, ReadSeconds) is var r && r > best) (best, streams) = (r, s);
        _lines.Add(new LimitLine($"read, {level}", threads, best, "GB/s", $"{Format.Bytes(bytes)} and {streams} streams a thread"));
        return _reads[(level, threads)] = best;
    }

    /// <summary>The best of the named kinds that this machine has; the first name that has any counts.</summary>
    private double? Peak(IReadOnlyList<string> names, int threads)
    {
        foreach (string name in names)
        {
            if (_peaks.TryGetValue((name, threads), out double? known))
            {
                if (known is not null) return known;
                continue;
            }
            (string Kind, double? Rate) best = _limits is null ? OnGpu(name) : ("", null);
            foreach (string kind in _limits?.Kinds.Where(k => k.StartsWith(name + "_", StringComparison.Ordinal)) ?? [])
                if (_limits!.Peak(kind, threads) is { } rate && rate > (best.Rate ?? 0)) best = (kind, rate);
            _peaks[(name, threads)] = best.Rate;
            if (best.Rate is not { } found) continue;
            _lines.Add(new LimitLine($"peak, {best.Kind}", _limits is null ? 1 : threads, found, "GFLOP/s", ""));
            return found;
        }
        return null;
    }

    private (string, double?) OnGpu(string kind) => DevicePeak.Of(_device.Gpu!, kind) is { } peak ? (peak.Name, peak.Rate(_device) / 1e9) : ("", null);

    public Table Table()
    {
        var table = new Table($"limits of {_device.Model}", "limit", ">threads", ">value", "unit", "how");
        foreach (LimitLine l in _lines.OrderBy(l => l.Threads).ThenBy(l => l.Unit == "GB/s" ? 0 : 1)) table.Add(l.What, Format.Int(l.Threads), Format.Number(l.Value), l.Unit, l.Detail);
        return table;
    }
}
