using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Serialization;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>
/// The measuring loop of bench and compare (tune plays the same rounds as a tournament, with the same timer): rounds in which
/// every call has its turn, in an order that rotates and turns round, so that drift falls on all alike.
/// </summary>
internal sealed class Measure(CallTimer timer)
{
    /// <summary>Samples that are enough.</summary>
    private const int Enough = 40;

    private const int TurnsInARow = 8;

    /// <summary>A call of as many times the warm-up hardly notices what came before it: all of its calls count.</summary>
    private const int LongCall = 20;

    /// <param name="calls">What to time.</param>
    /// <param name="seconds">Wall time for all together; six samples of each are taken in any case.</param>
    /// <param name="warmUp">
    /// How long a call runs uncounted before its samples of a turn. Long enough, it outlasts the busy waiting of the threads
    /// that the turn before left behind. It must be work, not sleep: a machine that wakes from sleep reads memory more
    /// slowly for a while.
    /// </param>
    /// <param name="cancellation">Ends it before the next turn.</param>
    /// <returns>One estimate a call, in seconds; fewer than six samples only when cancelled.</returns>
    public IReadOnlyList<Estimate> Run(IReadOnlyList<TimedCall> calls, double seconds, TimeSpan warmUp, CancellationToken cancellation)
    {
        List<double>[] samples = [.. calls.Select(_ => new List<double>())];
        long start = Stopwatch.GetTimestamp();
        for (int round = 0; samples.Any(s => s.Count < Enough); round++)
        {
            bool late = Stopwatch.GetElapsedTime(start).TotalSeconds > seconds;
            if (late && samples.All(s => s.Count >= Estimate.MinSamples)) break;
            for (int turn = 0; turn < calls.Count; turn++)
            {
                int i = (round % 2 == 0 ? turn + round : calls.Count - 1 - turn + round) % calls.Count;
                if (cancellation.IsCancellationRequested) return Of(samples);
                long turnStart = Stopwatch.GetTimestamp();
                double first = Sample(calls[i]);
                if (warmUp > TimeSpan.Zero && first > LongCall * warmUp.TotalSeconds) samples[i].Add(first);
                while (calls.Count > 1 && Stopwatch.GetElapsedTime(turnStart) < warmUp) Sample(calls[i]);
                for (int t = 0; t < TurnsInARow && (samples[i].Count < Estimate.MinSamples || Stopwatch.GetElapsedTime(turnStart).TotalSeconds < seconds); t++)
                    samples[i].Add(Sample(calls[i]));
            }
        }
        return Of(samples);
    }

    private double Sample(TimedCall call) => call.Clock is { } elsewhere ? elsewhere() : timer.Sample(call);

    private static IReadOnlyList<Estimate> Of(List<double>[] samples) => [.. samples.Select(s => Estimate.Of([.. s]))];
}

/// <summary>One measured cell, field by field as the JSON has it.</summary>
internal sealed record Cell(string Op, string Row, string Case, string Axis, string Dtypes, int Threads, string Cache,
    double MedianUs, double CiLowUs, double CiHighUs, double Gbps, double Gflops, double? LimitFraction, string? Peer, double? PeerMedianUs, double? Ratio)
{
    /// <summary>Millions of entries of a sparse result a second; null where the result is dense.</summary>
    public double? MegaEntries { get; init; }

    /// <summary>Rows that one call does again because a fixed reference of the softmax did not fit them; null where no call can.</summary>
    public long? RecomputedRows { get; init; }

    /// <summary>sync, lazy, unified or bounded; null where there is no softmax.</summary>
    public string? Softmax { get; init; }

    /// <summary>The extents, the axis among them: m, n and k beside the other fields.</summary>
    [JsonExtensionData]
    public Dictionary<string, JsonElement> Shape { get; init; } = [];

    /// <summary>"cpu", or the GPU's name; of the simulated one with what its times are.</summary>
    public string Device { get; init; } = "cpu";

    /// <summary>How it was called: call, graph, eager.</summary>
    public string Call { get; init; } = "call";

    /// <summary>Whether the pool's workers had a core each.</summary>
    public bool Pinned { get; init; }

    /// <summary>Bytes of all copies that rotated so that calls found theirs cold; null where none did.</summary>
    public long? RotatedBytes { get; init; }

    /// <summary>Which cells were less cold than the policy asks for, on a CPU; on a GPU as many bytes rotate as its L2 needs.</summary>
    public static void SayWhatIsNotCold(IEnumerable<Cell> cells, Screen screen)
    {
        foreach (var group in cells.Where(c => c.Device == "cpu" && c.RotatedBytes < CallTimer.ColdBytes).GroupBy(c => (c.Case, c.Dtypes, c.RotatedBytes)))
            screen.Line($"{group.Key.Case}, {group.Key.Dtypes}: cold, but only {Format.Bytes(group.Key.RotatedBytes!.Value)} rotate, not {Format.Bytes(CallTimer.ColdBytes)}: 4096 copies, or a third of the memory, are the most.");
    }

    /// <summary>Device and threads in the head of a table.</summary>
    [JsonIgnore]
    public string Where => Device == "cpu" ? $"{Threads} threads{(Pinned ? ", pinned" : "")}" : $"{Call}, {Device}";

    /// <summary>Where on the axis.</summary>
    [JsonIgnore]
    public int At => Shape.TryGetValue(Axis, out JsonElement at) && at.TryGetInt32(out int value) ? value : throw new JsonException($"{Case} lacks its {Axis}");

    /// <summary>The other extents: "n 4096, k 4096".</summary>
    [JsonIgnore]
    public string Extents => string.Join(", ", Shape.Where(s => s.Key != Axis).Select(s => $"{s.Key} {s.Value}"));

    /// <summary>What the cells of one table have in common: sequences or new tokens of the same model are other layers.</summary>
    [JsonIgnore]
    public (string Case, string Extents, string Dtypes, int Threads) Layer => (Case, Extents, Dtypes, Threads);

    public static Cell Of(Operation op, Workbench bench, string row, int at, int threads, Conditions on, Estimate ours, MachineLimits? limits, string? peer = null, Estimate? theirs = null)
    {
        Work work = bench.WorkAt(at);
        double? limit = limits?.Seconds(work, threads, on.Cache) / ours.Median;
        return new Cell(op.Name, row, bench.Layer.Case, op.Axis.Name, bench.Layer.Dtypes, threads, Format.Cache(on.Cache), ours.Median * 1e6, ours.Lower * 1e6, ours.Upper * 1e6,
            work.Bytes / ours.Median / 1e9, work.Flops / ours.Median / 1e9, limit, peer, theirs?.Median * 1e6, theirs?.Median / ours.Median)
        {
            MegaEntries = work.Entries > 0 ? work.Entries / ours.Median / 1e6 : null,
            RecomputedRows = bench.RecomputedRows(row),
            Softmax = bench.SoftmaxOf(row),
            Device = on.Device.Gpu is null ? "cpu" : Devices.TitleOf(on.Device),
            Call = on.Call,
            Pinned = on.Pinned,
            RotatedBytes = bench.RotatedBytes(at),
            Shape = bench.Layer.Shape.Prepend((Name: op.Axis.Name, Value: at)).ToDictionary(s => s.Name, s => JsonSerializer.SerializeToElement(s.Value)),
        };
    }
}
