namespace Kernels.Tuning;

/// <summary>
/// Times calls on a GPU by events on a stream of its own, on which the calls must enqueue. Graph: a graph of calls on all copies in
/// turn, captured once a call and replayed. Eager: one launch after the other, as they come from the host. The calls of one reading
/// follow others of the same kind, so that the device does not wait for the host at its start.
/// </summary>
internal sealed class DeviceTimer(Device device, int copies, CacheState cache, bool eager) : CallTimer(copies, cache)
{
    // An event is good for half a microsecond.
    private const double LeastSeconds = 200e-6;
    private const int MostInGraph = 4096, LeastReplays = 2;

    private readonly Event _start = Event.Create(device), _end = Event.Create(device);
    private readonly Dictionary<TimedCall, (Graph Graph, int Calls)> _graphs = [];

    /// <summary>Where the calls go.</summary>
    public Stream Stream { get; } = device.CreateStream();

    public override double Sample(TimedCall call)
    {
        if (call.Last <= 0) Settle(call);
        return call.Last = eager ? Launches(call) : Replays(call);
    }

    /// <summary>The first calls bring operands and kernels to the device, which no capture may do, and say how long one takes.</summary>
    private void Settle(TimedCall call)
    {
        for (int copy = 0; copy < Count; copy++) call.Run(copy);
        call.Last = Between(() => call.Run(Next()));
    }

    private double Launches(TimedCall call)
    {
        int calls = Times(call.Last, 1000);
        call.Run(Next());
        return Between(() =>
        {
            for (int i = 0; i < calls; i++) call.Run(Next());
        }) / calls;
    }

    private double Replays(TimedCall call)
    {
        if (!_graphs.TryGetValue(call, out (Graph Graph, int Calls) captured)) _graphs.Add(call, captured = Capture(call));
        int replays = Math.Max(LeastReplays, Times(call.Last * captured.Calls, 1000));
        captured.Graph.Launch(Stream);
        return Between(() =>
        {
            for (int i = 0; i < replays; i++) captured.Graph.Launch(Stream);
        }) / replays / captured.Calls;
    }

    /// <summary>Whole rounds over the copies, as many as one reading takes: the gaps between graphs are not those between kernels.</summary>
    private (Graph, int) Capture(TimedCall call)
    {
        int rounds = Math.Max(1, Math.Min(Times(call.Last * Count, 1000) / LeastReplays, MostInGraph / Count));
        return (Stream.Capture(() =>
        {
            for (int i = 0; i < rounds * Count; i++) call.Run(i % Count);
        }), rounds * Count);
    }

    private static int Times(double seconds, int most) => (int)Math.Clamp(Math.Ceiling(LeastSeconds / Math.Max(seconds, 1e-9)), 1, most);

    private double Between(Action enqueue)
    {
        _start.Record(Stream);
        enqueue();
        _end.Record(Stream);
        _end.Synchronize();
        return Math.Max(_end.MillisecondsSince(_start) / 1e3, 1e-9);
    }

    public override void Dispose()
    {
        foreach ((Graph graph, _) in _graphs.Values) graph.Dispose();
        _graphs.Clear();
        _start.Dispose();
        _end.Dispose();
        Stream.Dispose();
    }
}
