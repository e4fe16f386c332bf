using System.CommandLine;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>The peers of this build, and how to get those that are missing.</summary>
internal sealed record PeerSet(IReadOnlyList<Peer> Native) : IDisposable
{
    public TorchPeer Torch { get; } = new();

    public void Dispose() => Torch.Dispose();

    public static PeerSet Load(string directory, out List<string> missing)
    {
        missing = [];
        if (!Peers.TryLoad(directory, out IReadOnlyList<Peer> peers, out string reason)) missing.Add($"no native peers: {reason}");
        if (!peers.Any(p => p.Name.StartsWith("oneDNN", StringComparison.Ordinal)))
            missing.Add("oneDNN is missing: apt-get install libdnnl-dev, or cmake -DKN_PEER_DNNL_PREFIX=DIR for another one, and build again");
        if (!peers.Any(p => p.Name.StartsWith("OpenBLAS", StringComparison.Ordinal)))
            missing.Add("OpenBLAS is missing: apt-get install libopenblas-dev, and build again");
        if (!peers.Any(p => p.Name.StartsWith("GraphBLAS", StringComparison.Ordinal)))
            missing.Add("GraphBLAS is missing: apt-get install libgraphblas-dev, and build again");
        if (!peers.Any(p => p.Name.StartsWith("Eigen", StringComparison.Ordinal)))
            missing.Add("Eigen is missing: apt-get install libeigen3-dev, and build again");
        return new PeerSet(peers);
    }
}

/// <summary>perf compare: ours and other libraries' in one process, in turns.</summary>
internal static class CompareVerb
{
    private sealed record Request(Operation Operation, int[] Points, int[] Threads, Conditions On, double Seconds, TuningStore Store, PeerSet Peers)
    {
        public CacheState Cache => On.Cache;
    }


    public static Command Create()
    {
        Argument<string> op = Verb.OperationArgument();
        Option<int[]> threads = Arguments.Threads("1,all");
        Option<CacheState> cache = Arguments.Cache();
        Option<double> seconds = Arguments.Seconds("--seconds", 2, "Wall time for one shape and point of its axis");
        var directory = new Option<string?>("--peer-dir") { Description = "Directory of kn_peers and kn_peers_prefix (default: beside this program)", HelpName = "DIR" };
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("compare", "Times the chosen dataflow against oneDNN, OpenBLAS, GraphBLAS, Eigen, managed libraries and PyTorch, on an NVIDIA GPU cuBLAS and PyTorch: same shapes, in turns; all but PyTorch in one process.",
            [op, threads, cache, .. Conditions.Options, seconds, directory, db, .. Operation.AllOptions], (parsed, screen, cancellation) =>
            {
                string from = parsed.GetValue(directory) ?? AppContext.BaseDirectory;
                if (!Directory.Exists(from)) throw new UsageException($"--peer-dir {from}: no such directory");
                using PeerSet peers = PeerSet.Load(from, out List<string> missing);
                foreach (string reason in missing) Screen.Note(reason);
                Operation operation = Operation.Asked(parsed, op);
                Conditions on = Conditions.Of(parsed, parsed.GetValue(cache), operation);
                return Run(parsed, new Request(operation, operation.Axis.Compare(parsed), on.Threads(parsed.GetValue(threads)!), on,
                    parsed.GetValue(seconds), Verb.Store(parsed.GetValue(db)), peers), screen, cancellation);
            });
    }

    private static int Run(ParseResult parsed, Request request, Screen screen, CancellationToken cancellation)
    {
        MachineLimits? limits = MachineLimits.TryOpen(request.On.Device, out string reason);
        if (limits is null) Screen.Note(reason);
        Screen.WarnOfLoad();
        var cells = new List<Cell>();
        var reasons = new List<string>();
        foreach (int bound in request.Threads)
            foreach (Layer layer in request.Operation.Layers(parsed, bound))
            {
                if (cancellation.IsCancellationRequested) break;
                Screen.Note($"{layer.Case}, {layer.Dtypes}, {(bound == 0 ? "all" : Format.Int(bound))} threads");
                using Workbench bench = request.Operation.Open(layer, request.Points, request.On, request.Store);
                foreach (int at in request.Points)
                    if (!cancellation.IsCancellationRequested) cells.AddRange(Time(request, bench, at, bound, limits, reasons, cancellation));
            }
        if (limits is not null) screen.Show(limits.Table());
        foreach (var group in cells.GroupBy(c => c.Layer)) screen.Show(Table(group));
        Cell.SayWhatIsNotCold(cells, screen);
        if (cells.Any(c => c.Peer is not null)) screen.Show(Means(cells));
        foreach (string r in reasons.Distinct()) screen.Line(r);
        screen.Json(cells);
        if (cells.Count == 0) return Exit.Bad;
        return cells.Any(c => c.Peer is not null) ? Exit.Ok : Exit.Missing;
    }

    private static List<Cell> Time(Request request, Workbench bench, int at, int bound, MachineLimits? limits, List<string> reasons, CancellationToken cancellation)
    {
        limits?.Prepare(bench.WorkAt(at), BenchVerb.Threads(bound), request.Cache);
        IReadOnlyList<TimedCall> ours = bench.Calls(at, bound, every: false);
        if (ours.Count == 0) return [];
        IReadOnlyList<PeerCall> peers = bench.Peers(at, bound, request.Peers, reasons);
        try
        {
            IReadOnlyList<Estimate> times = new Measure(bench.Timer).Run([.. ours, .. peers.Select(p => p.Call)], request.Seconds,
                Peers.BusyWait, cancellation);
            if (times.Any(t => t.Count == 0)) return [];
            Cell One(string? peer, Estimate? theirs) =>
                Cell.Of(request.Operation, bench, ours[0].Name, at, BenchVerb.Threads(bound), request.On, times[0], limits, peer, theirs);
            return peers.Count == 0 ? [One(null, null)] : [.. peers.Select((p, i) => One(p.Peer, times[ours.Count + i]))];
        }
        finally
        {
            foreach (PeerCall peer in peers) peer.Held?.Dispose();
        }
    }

    private static Table Table(IEnumerable<Cell> group)
    {
        Cell first = group.First();
        bool entries = first.MegaEntries is not null, softmax = first.Softmax is not null, again = group.Any(c => c.RecomputedRows is not null);
        string[] peers = [.. group.Select(c => c.Peer).OfType<string>().Distinct()];
        var table = new Table($"{first.Op} {first.Case}: {first.Extents}, {first.Dtypes}, {first.Where}, {first.Cache}; ratio = peer's time / ours",
            [$">{first.Axis}", "dataflow", .. softmax ? ["softmax"] : Array.Empty<string>(), ">us", ">GB/s", ">GFLOP/s", .. entries ? [">Mnnz/s"] : Array.Empty<string>(), .. again ? [">rows again"] : Array.Empty<string>(), ">of limit", .. peers.SelectMany(p => new[] { $">{p} us", ">ratio" })]);
        foreach (var cell in group.GroupBy(c => c.At))
        {
            Cell c = cell.First();
            table.Add([Format.Int(c.At), Format.Short(c.Row), .. softmax ? [c.Softmax ?? "-"] : Array.Empty<string>(), Format.Number(c.MedianUs), Format.Number(c.Gbps), Format.Number(c.Gflops), .. c.MegaEntries is { } m ? [Format.Number(m)] : Array.Empty<string>(), .. again ? [c.RecomputedRows is { } r ? Format.Int(r) : "-"] : Array.Empty<string>(), Format.Percent(c.LimitFraction),
                .. peers.SelectMany(p => cell.FirstOrDefault(x => x.Peer == p) is { PeerMedianUs: { } us, Ratio: { } ratio } ? new[] { Format.Number(us), Format.Number(ratio) } : ["-", "-"])]);
        }
        return table;
    }

    /// <summary>Geometric means per peer, threads and range of m (or all of another axis), with the worst cell: a mean may hide it.</summary>
    private static Table Means(List<Cell> cells)
    {
        string axis = cells[0].Axis;
        (string, int, int)[] ranges = axis == "m" ? [("1..16", 1, 16), ("17..64", 17, 64), ("1..64", 1, 64), ("65..", 65, int.MaxValue)] : [("all", int.MinValue, int.MaxValue)];
        var table = new Table("geometric mean of peer's time / ours", "peer", "operands", ">threads", axis, ">cells", ">mean", ">worst", "worst at");
        foreach (var group in cells.Where(c => c.Ratio is not null).GroupBy(c => (c.Peer, c.Dtypes, c.Threads)))
            foreach ((string name, int from, int to) in ranges)
            {
                Cell[] part = [.. group.Where(c => c.At >= from && c.At <= to)];
                if (part.Length == 0) continue;
                Cell worst = part.MinBy(c => c.Ratio)!;
                table.Add(group.Key.Peer, group.Key.Dtypes, Format.Int(group.Key.Threads), name, Format.Int(part.Length),
                    Format.Number(Math.Exp(part.Average(c => Math.Log(c.Ratio!.Value)))), Format.Number(worst.Ratio!.Value), $"{worst.Case}: {worst.Extents}, {worst.Axis} {worst.At}");
            }
        return table;
    }
}
