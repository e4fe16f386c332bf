using System.CommandLine;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>One problem shape to time: a linear layer of a model, or what the command line says.</summary>
/// <param name="Case">Its name: "llama-3.1-8b o" or "4096 x 4096".</param>
/// <param name="Dtypes">"bf16 x bf16 -> bf16".</param>
/// <param name="Tune">Whether a tune of the model includes it.</param>
internal abstract record Layer(string Case, int N, int K, string Dtypes, bool Tune);

/// <summary>What one call of a layer must do at least.</summary>
/// <param name="WeightBytes">Bytes of weights that it reads.</param>
/// <param name="FlopsPerRow">Operations for one row of x.</param>
/// <param name="PeakKinds">The kinds of arithmetic, as kn_limits names them, that its products could run on, best first.</param>
internal sealed record Work(long WeightBytes, double FlopsPerRow, IReadOnlyList<string> PeakKinds)
{
    public double Flops(int m) => m * FlopsPerRow;
}

/// <summary>What one row did on the cases of one kind of operands.</summary>
internal sealed record CheckResult(string Row, string Kind, int Cases, int Refused, double WorstFraction, double WorstUlp, double WorstRelative, IReadOnlyList<string> Faults);

/// <summary>Operands of one layer and its calls: everything that is timed comes from here.</summary>
internal abstract class Workbench : IDisposable
{
    public abstract Layer Layer { get; }

    public abstract Work Work { get; }

    public abstract CallTimer Timer { get; }

    /// <summary>The chosen dataflow for m, and with <paramref name="every"/> every row that takes it.</summary>
    public abstract IReadOnlyList<TimedCall> Calls(int m, int threads, bool every);

    /// <summary>The same product by others, and why some cannot.</summary>
    public abstract IReadOnlyList<PeerCall> Peers(int m, int threads, PeerSet peers, List<string> reasons);

    public abstract void Dispose();
}

/// <summary>A peer's call; disposed after its rounds.</summary>
internal sealed record PeerCall(string Peer, TimedCall Call, IDisposable? Held);

/// <summary>What the verbs ask of an operation. A new operation is one class and one line in <see cref="All"/>.</summary>
internal abstract class Operation
{
    public static IReadOnlyList<Operation> All { get; } = [new FlatGemmOperation()];

    public static Operation Find(string name) => All.First(o => o.Name == name);

    public abstract string Name { get; }

    public abstract KnOp Op { get; }

    /// <summary>Options that name the problem: shape, dtypes, epilogue.</summary>
    public abstract IReadOnlyList<Option> ShapeOptions { get; }

    /// <summary>The layers that the command line names, for one thread bound.</summary>
    public abstract IReadOnlyList<Layer> Layers(ParseResult parsed, int threads);

    public abstract void Explain(ParseResult parsed, Screen screen, TuningStore store);

    /// <summary>Every case the row accepts, against the oracle, kind by kind.</summary>
    public abstract IEnumerable<CheckResult> Check(KernelTable table, Row row);

    /// <summary>One small problem against the oracle: null, or what is wrong.</summary>
    public abstract string? SelfTest(Row row);

    public abstract Work WorkOf(Layer layer);

    public abstract Workbench Open(Layer layer, IReadOnlyList<int> ms, CacheState cache, TuningStore store);

    public abstract TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store);

    /// <summary>The layer that a stored key is about, or null when the key is not of this operation's form.</summary>
    public abstract Layer? LayerOf(TuningKey key);

    /// <summary>The key of a layer on this machine.</summary>
    public abstract TuningKey KeyOf(Layer layer, CacheState cache);
}

/// <summary>How to tune one layer.</summary>
internal sealed record TuneSettings(IReadOnlyList<int> Grid, CacheState Cache, TimeSpan Budget, CancellationToken Cancellation, Action<int, int>? Progress, int Candidates = 6);
