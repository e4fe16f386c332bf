using System.Collections.Immutable;
using System.Globalization;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A stored choice that this machine can run as it stands, for a stretch of m.</summary>
internal readonly record struct FlatGemmStored(int From, int To, Row Row, KnLaunch Launch, string Reason);

/// <summary>What the store says about a layer: its key, and the intervals of it that hold here.</summary>
internal static unsafe class FlatGemmTuned
{
    internal const string Operation = "flat_gemm";

    /// <summary>The key of a layer. m is no part of it: it is what the intervals are over.</summary>
    internal static TuningKey Key(Device device, FlatGemmOptions o, string? layout, CacheState cache)
    {
        KnFlatGemmProblem p = o.Problem(o.MaxM);
        var flags = (KnGemmFlags)p.Flags;
        return TuningKey.Of(Operation, DeviceOf(device, o.Threads), device.Build, new TuningPolicy(cache, "call"),
            ("n", o.N), ("k", o.K), ("weights", o.Weights.Name()), ("input", o.Input.Name()), ("output", o.Output.Name()), ("group", o.Group),
            ("activation", (int)p.Activation), ("bias", Bit(flags, KnGemmFlags.Bias)), ("residual", Bit(flags, KnGemmFlags.Residual)),
            ("gated", Bit(flags, KnGemmFlags.Gated)), ("zero_points", Bit(flags, KnGemmFlags.Zeros)),
            ("quantize_input", Bit(flags, KnGemmFlags.QuantizeX)), ("layout", layout ?? "rows"));

        static int Bit(KnGemmFlags flags, KnGemmFlags flag) => (flags & flag) != 0 ? 1 : 0;
    }

    private static TuningDevice DeviceOf(Device device, int threads)
    {
        string isa = device.InstructionSets.ToLowerInvariant().Replace(", ", "+", StringComparison.Ordinal);
        string architecture = RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();
        return new TuningDevice($"{architecture}+{isa}", device.Model, device.Cores, threads == 0 ? device.Threads : Math.Min(threads, device.Threads));
    }

    /// <summary>
    /// The same product without what follows it. An epilogue costs m n operations beside m n k, so its choices are taken where
    /// the layer itself was not measured.
    /// </summary>
    internal static FlatGemmOptions Plain(FlatGemmOptions o) =>
        o with { N = o.Columns, Gated = false, Activation = Activation.None, Bias = false, Residual = false };

    /// <summary>The stored choices for m in 0..MaxM, ascending and disjoint, the strongest layer of the store first; what they leave is the model's.</summary>
    internal static ImmutableArray<FlatGemmStored> Over(Device device, FlatGemmOptions options, string? layout, TuningStore? store,
        IReadOnlyList<Row> rows, CacheState cache = CacheState.Cold)
    {
        // A choice that changes with m would change the bits with it.
        if (store is null || options.BatchInvariant || options.N == 0) return [];
        var covered = new List<FlatGemmStored>();
        FlatGemmOptions plain = Plain(options);
        foreach (FlatGemmOptions asked in plain == options ? (FlatGemmOptions[])[options] : [options, plain])
        {
            TuningKey key = Key(device, asked, layout, cache);
            foreach (TuningEntry entry in store.Layers(key))
            {
                if (entry.Record is not { } record) continue;
                foreach (FlatGemmStored choice in Usable(options, key, entry.Source, record, rows)) Fill(covered, choice);
            }
        }
        return [.. covered.OrderBy(c => c.From)];
    }

    /// <summary>The intervals of a record, or none of them when one names a row or parameters that this machine refuses.</summary>
    private static List<FlatGemmStored> Usable(FlatGemmOptions options, TuningKey key, TuningSource source, TuningRecord record, IReadOnlyList<Row> rows)
    {
        var usable = new List<FlatGemmStored>();
        foreach (MInterval interval in record.Intervals)
        {
            int from = interval.From <= 1 ? 0 : interval.From, to = Math.Min(interval.To, options.MaxM);
            if (from > to) continue;
            Dataflow dataflow = TuningStore.Fit(interval.Dataflow, record.Key.Device, key.Device);
            if (LaunchOf(dataflow, options, rows, out Row? row) is not { } launch) return [];
            // A pin names no range: it holds as far as its row goes.
            while (source == TuningSource.Pin && to > from && !FlatGemmSelection.Accepts(row!, options, to, launch)) to--;
            if (!FlatGemmSelection.Accepts(row!, options, to, launch)) return [];
            usable.Add(new FlatGemmStored(from, to, row!, launch, Reason(source, record, interval)));
        }
        return usable;
    }

    private static KnLaunch? LaunchOf(Dataflow dataflow, FlatGemmOptions options, IReadOnlyList<Row> rows, out Row? row)
    {
        row = rows.FirstOrDefault(r => r.Name == dataflow.Row);
        if (row is null || row.Parameters.Length != dataflow.Parameters.Length) return null;
        for (int i = 0; i < row.Parameters.Length; i++)
            if (!row.Parameters[i].Values.Contains(dataflow.Parameters[i])) return null;
        KnLaunch launch = row.Launch(dataflow);
        if (launch.Threads == 0 || (options.Threads != 0 && launch.Threads > options.Threads)) launch.Threads = options.Threads;
        return launch;
    }

    private static string Reason(TuningSource source, TuningRecord record, MInterval interval)
    {
        string date = record.Date.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        if (source == TuningSource.Pin) return $"pinned {date}";
        int candidates = record.Evidence.Where(e => interval.Covers(e.M)).Select(e => e.Candidates.Length).DefaultIfEmpty().Max();
        string where = source switch
        {
            TuningSource.Device => ", shipped",
            TuningSource.Architecture => $", shipped, measured on {record.Key.Device.Model} with {record.Key.Device.Threads} threads",
            _ => "",
        };
        string cache = record.Key.Policy.Cache == CacheState.Cold ? "cold" : "warm";
        return string.Create(CultureInfo.InvariantCulture, $"tuned {date}, {candidates} candidates, {cache}{where}");
    }

    /// <summary>Adds the parts of <paramref name="choice"/> that nothing stronger covers.</summary>
    private static void Fill(List<FlatGemmStored> covered, FlatGemmStored choice)
    {
        int from = choice.From;
        foreach (FlatGemmStored held in covered.Where(c => c.To >= choice.From && c.From <= choice.To).OrderBy(c => c.From).ToArray())
        {
            if (held.From > from) covered.Add(choice with { From = from, To = held.From - 1 });
            from = held.To + 1;
        }
        if (from <= choice.To) covered.Add(choice with { From = from });
    }
}
