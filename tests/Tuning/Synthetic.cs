using System.Collections.Immutable;
using System.IO;
using Kernels.Tuning;

namespace Kernels.Tests.Tuning;

/// <summary>A clock that moves only when told.</summary>
internal sealed class FakeClock : TimeProvider
{
    private long ticks;

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public TimeSpan Now => new(ticks);

    public override long GetTimestamp() => ticks;

    public void Advance(double seconds) => ticks += (long)(seconds * TimeSpan.TicksPerSecond);
}

/// <summary>Candidates with known distributions. A run takes as long on the fake clock as it reports.</summary>
internal sealed class Synthetic(int seed, double noise, params double[] levels)
{
    private readonly Random random = new(seed);

    public FakeClock Clock { get; } = new();

    /// <summary>Runs so far.</summary>
    public int Runs { get; private set; }

    /// <summary>A factor on the time of a run: drift, outliers, modes of the clock.</summary>
    public Func<Random, int, double> Factor { get; init; } = (_, _) => 1;

    public double Run(int candidate)
    {
        double seconds = levels[candidate] * Math.Max(0.1, 1 + noise * Gauss()) * Factor(random, Runs);
        Runs++;
        Clock.Advance(seconds);
        return seconds;
    }

    public TournamentResult Tune(TournamentOptions? options = null, CancellationToken cancellation = default) =>
        Tournament.Run(levels.Length, Run, (options ?? new TournamentOptions()) with { Clock = Clock, Cancellation = cancellation });

    private double Gauss() => Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}

/// <summary>Records and keys for tests.</summary>
internal static class Sample
{
    public static readonly DateTimeOffset Date = new(2026, 11, 22, 6, 0, 0, TimeSpan.Zero);

    public static readonly Dataflow Gemv = new("flat_gemm/avx512_gemv", 8, [2]);
    public static readonly Dataflow Flat = new("flat_gemm/avx512_flat", 8, [4, 512]);
    public static readonly Dataflow Block = new("flat_gemm/avx512_block", 8, [6, 4, 256]);

    public static TuningKey Key(int n = 4096, string model = "Xeon 8480C", int cores = 56, int threads = 56, string build = "0.1.0+abc") => TuningKey.Of(
        "flat_gemm", new TuningDevice("x86_64+avx512", model, cores, threads), build, new TuningPolicy(CacheState.Cold, "call"),
        ("n", n), ("k", 4096), ("x_type", "bf16"), ("w_type", "s8"), ("y_type", "bf16"), ("group", 0), ("activation", "none"), ("flags", "bias"));

    public static ImmutableArray<Evidence> Evidence(int seed) =>
    [
        .. new (int M, double[] Levels)[] { (1, [1.0, 1.2, 3.0]), (4, [1.6, 1.2, 3.0]), (16, [5.0, 1.3, 1.35]), (64, [30, 4.0, 2.5]) }
            .Select(p => new Evidence(p.M, [Gemv, Flat, Block], new Synthetic(seed + p.M, 0.01, p.Levels).Tune(new TournamentOptions { Budget = TimeSpan.FromHours(1) }))),
    ];

    public static TuningRecord Record(TuningKey? key = null, int seed = 1, DateTimeOffset? date = null) => TuningRecord.From(
        key ?? Key(), date ?? Date, Evidence(seed), SelectionRule.Default,
        ImmutableSortedDictionary<string, string>.Empty.Add("governor", "performance"));

    public static string? Accept(MInterval interval) => null;
}

/// <summary>A directory of its own for a test, and the time to fill it.</summary>
internal sealed class Scratch : IDisposable
{
    /// <summary>A budget that ends nothing: tournaments end by their samples, however busy the machine is.</summary>
    public static readonly TimeSpan Ample = TimeSpan.FromMinutes(10);

    public string Path { get; } = Directory.CreateTempSubdirectory("kernels-tuning-").FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
