using System.CommandLine;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>One problem to time, up to its axis: a layer of a model, or what the command line says.</summary>
/// <param name="Case">Its name: "llama-3.1-8b o" or "4096 x 4096".</param>
/// <param name="Dtypes">"bf16 x bf16 -> bf16".</param>
/// <param name="Tune">Whether a tune of the model includes it.</param>
internal abstract record Layer(string Case, string Dtypes, bool Tune)
{
    /// <summary>Its extents by name: n and k of a linear layer.</summary>
    public abstract IReadOnlyList<(string Name, int Value)> Shape { get; }

    public Dictionary<string, int> ShapeByName => Shape.ToDictionary(s => s.Name, s => s.Value);

    /// <summary>"n 4096, k 4096".</summary>
    public string Extents => string.Join(", ", Shape.Select(s => $"{s.Name} {Format.Int(s.Value)}"));
}

/// <summary>What one call must do at least.</summary>
/// <param name="Bytes">Bytes that it reads from where the operands lie.</param>
/// <param name="Flops">Operations.</param>
/// <param name="PeakKinds">The kinds of arithmetic, as kn_limits names them, that its products could run on, best first.</param>
/// <param name="Entries">Entries of a sparse result; 0 where there is none.</param>
internal sealed record Work(long Bytes, double Flops, IReadOnlyList<string> PeakKinds, long Entries = 0);

/// <summary>The extent over which a layer is timed and choices are stored: m of flat_gemm, kv_len of decode_attention.</summary>
internal sealed class Axis(string name, string description, int least, string bench, string compare, string tune, string? explain = null)
{
    public string Name { get; } = name;

    /// <summary>--m 1,2,8..16: what the command line says, or nothing.</summary>
    public Option<int[]?> Option { get; } = Arguments.Points($"--{name.Replace('_', '-')}", description, least, bench);

    public int[] Bench(ParseResult parsed) => Points(parsed, bench);

    public int[] Compare(ParseResult parsed) => Points(parsed, compare);

    public int[] Tune(ParseResult parsed) => Points(parsed, tune);

    public int[] Explain(ParseResult parsed) => Points(parsed, explain ?? bench.Split(',')[0]);

    private int[] Points(ParseResult parsed, string byDefault) => parsed.GetValue(Option) is { Length: > 0 } given ? given : Arguments.IntList(byDefault, least);
}

/// <summary>What one row did on the cases of one kind of operands.</summary>
/// <param name="Figures">What else is worth seeing, by name: the worst ulp, the error of a plain reference.</param>
internal sealed record CheckResult(string Row, string Kind, int Cases, int Refused, double WorstFraction, IReadOnlyList<(string Name, double Value)> Figures, IReadOnlyList<string> Faults);

/// <summary>Operands of one layer and its calls: everything that is timed comes from here.</summary>
internal abstract class Workbench : IDisposable
{
    public abstract Layer Layer { get; }

    public abstract Work WorkAt(int at);

    /// <summary>The timer of the calls that were made last.</summary>
    public abstract CallTimer Timer { get; }

    /// <summary>Bytes of all copies that rotate so that calls find theirs cold; null where nothing rotates.</summary>
    public virtual long? RotatedBytes(int at) => Timer.Cache == CacheState.Cold ? Timer.Count * WorkAt(at).Bytes : null;

    /// <summary>Rows that one call of the dataflow at the last point does again, where it may do any.</summary>
    public virtual long? RecomputedRows(string dataflow) => null;

    /// <summary>What the dataflow subtracts before exp, where there is a softmax.</summary>
    public virtual string? SoftmaxOf(string dataflow) => null;

    /// <summary>The chosen dataflow at a point of the axis, and with <paramref name="every"/> every row that takes it.</summary>
    public abstract IReadOnlyList<TimedCall> Calls(int at, int threads, bool every);

    /// <summary>The same work by others, and why some cannot.</summary>
    public abstract IReadOnlyList<PeerCall> Peers(int at, int threads, PeerSet peers, List<string> reasons);

    public abstract void Dispose();
}

/// <summary>A peer's call; disposed after its rounds.</summary>
internal sealed record PeerCall(string Peer, TimedCall Call, IDisposable? Held);

/// <summary>What the verbs ask of an operation. A new operation is one class and one line in <see cref="All"/>.</summary>
internal abstract class Operation
{
    public static IReadOnlyList<Operation> All { get; } = [new FlatGemmOperation(), new DecodeAttentionOperation(), new SpGemmOperation(), new SparseLinearOperation()];

    public static Operation Find(string name) => All.First(o => o.Name == name);

    /// <summary>The operation that the command line names. An option of others alone would change nothing, so it is refused.</summary>
    public static Operation Asked(ParseResult parsed, Argument<string> op)
    {
        Operation asked = Find(parsed.GetRequiredValue(op));
        foreach (Option option in AllOptions.Except(asked.Options))
            if (parsed.GetResult(option) is { Implicit: false })
                throw new UsageException($"{option.Name}: of {string.Join(", ", All.Where(o => o.Options.Contains(option)).Select(o => o.Name))}, not of {asked.Name}");
        return asked;
    }

    public abstract string Name { get; }

    /// <summary>The row that --row forces, or null. "avx512_flat" is taken for "flat_gemm/avx512_flat"; a name that no row has is an error.</summary>
    protected string? RowName(ParseResult parsed)
    {
        if (parsed.GetValue(Arguments.Row) is not { } row) return null;
        string full = row.Contains('/', StringComparison.Ordinal) ? row : $"{Name}/{row}";
        IEnumerable<string> rows = Devices.Find(parsed).Table.Of(Op).Select(r => r.Name);
        return rows.Contains(full) ? full : throw new UsageException($"--row {row}: no such row; there are {string.Join(", ", rows)}");
    }

    public abstract KnOp Op { get; }

    /// <summary>Whether a call on a GPU only enqueues, so that a graph holds it; else it is timed as it comes, eager.</summary>
    public virtual bool OnlyEnqueues => true;

    public abstract Axis Axis { get; }

    /// <summary>Options that name the problem: shape, dtypes, epilogue.</summary>
    protected abstract IReadOnlyList<Option> ShapeOptions { get; }

    /// <summary>The options of all operations, each name once: operations share the option objects whose names they share.</summary>
    public static IEnumerable<Option> AllOptions => All.SelectMany(o => o.Options).Distinct();

    private IEnumerable<Option> Options => ShapeOptions.Append(Axis.Option);

    /// <summary>The layers that the command line names, for one thread bound.</summary>
    public abstract IReadOnlyList<Layer> Layers(ParseResult parsed, int threads);

    /// <summary>A problem in words, for the head of a table.</summary>
    protected string Title(Layer layer, int threads, CacheState cache, string more) =>
        $"{Name} {layer.Case}: {layer.Extents}, {layer.Dtypes}, {more}, {(threads == 0 ? "all" : Format.Int(threads))} threads, {Format.Cache(cache)}";

    public abstract void Explain(ParseResult parsed, Screen screen, TuningStore store);

    /// <summary>Every case the row accepts, against the oracle, kind by kind.</summary>
    public abstract IEnumerable<CheckResult> Check(KernelTable table, Row row);

    /// <summary>Options by which check takes problems of the user's; none where it has its own cases alone.</summary>
    public virtual IReadOnlyList<Option> CheckOptions => [];

    /// <summary>The problems that these options name, against the oracle.</summary>
    public virtual IEnumerable<CheckResult> Check(Device device, Row row, ParseResult parsed) => throw new UsageException($"{Name} is checked on its own cases");

    /// <summary>One small problem against the oracle: null, or what is wrong.</summary>
    public abstract string? SelfTest(Row row);

    public abstract Work WorkOf(Layer layer, int at);

    /// <summary>The layouts of packed weights that the row reads; none for an operation without weights.</summary>
    public virtual IReadOnlyList<string> LayoutsOf(Row row) => [];

    public abstract Workbench Open(Layer layer, IReadOnlyList<int> points, Conditions on, TuningStore store);

    public abstract TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store);

    /// <summary>The layer that a stored key is about, or null when the key is not of this operation's form.</summary>
    public abstract Layer? LayerOf(TuningKey key);

    /// <summary>The key of a layer on this machine.</summary>
    public abstract TuningKey KeyOf(Layer layer, CacheState cache);
}

/// <summary>How to tune one layer.</summary>
internal sealed record TuneSettings(IReadOnlyList<int> Grid, CacheState Cache, TimeSpan Budget, CancellationToken Cancellation, Action<int, int>? Progress, int Candidates = 6)
{
    public Device Device { get; init; } = Device.Cpu;

    /// <inheritdoc cref="TuningEffort.Watch"/>
    public TrialWatch? Watch { get; init; }

    /// <inheritdoc cref="TuningEffort.Eager"/>
    public bool Eager { get; init; }

    /// <inheritdoc cref="TuningEffort.KeepSimulated"/>
    public bool KeepSimulated { get; init; }
}

/// <summary>Where and how calls are timed.</summary>
internal sealed record Conditions(Device Device, CacheState Cache, bool Eager = false, bool Pinned = false)
{
    private static readonly Option<bool> s_eager = new("--eager") { Description = "On a GPU: launches as they come from the host, instead of replays of a captured graph" };

    private static readonly Option<bool> s_pin = new("--pin") { Description = "Tie each worker of the CPU's pool to a core of its own; what tune stores holds for free workers too" };

    /// <summary>The options that verbs which time have for it.</summary>
    public static IEnumerable<Symbol> Options => [Devices.Name, s_eager, s_pin];

    /// <summary>"call", "graph" or "eager".</summary>
    public string Call => TuningPolicy.Of(Device, Cache, Eager).Call;

    /// <summary>The CPU is timed under bounds on threads, which a GPU has none of.</summary>
    public int[] Threads(int[] bounds) => Device.Gpu is null ? bounds : [0];

    /// <summary>What the command line asks for; pins the pool.</summary>
    public static Conditions Of(ParseResult parsed, CacheState cache, Operation operation)
    {
        var on = new Conditions(Devices.Find(parsed), cache, parsed.GetValue(s_eager) || !operation.OnlyEnqueues, parsed.GetValue(s_pin));
        if (on.Pinned && on.Device.Gpu is not null) throw new UsageException($"--pin: the CPU's pool, which {Devices.NameOf(on.Device)} does not have");
        if (on.Pinned) on.Device.SetThreads(0, pin: true);
        return on;
    }
}
