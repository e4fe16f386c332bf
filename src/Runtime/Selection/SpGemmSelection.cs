using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What a plan runs. Words are for those who ask: no reason is that of <see cref="SpGemmSelection.Reason"/>.</summary>
internal readonly record struct SpGemmChosen(Row Row, KnLaunch Launch, ChoiceSource Source, string? Reason, long WorkspaceBytes)
{
    public SpGemmChoice Choice(in KnSpgemmProblem problem) => new(Row.Dataflow(Launch), Source, Reason ?? SpGemmSelection.Reason(problem), WorkspaceBytes);
}

/// <summary>
/// Chooses the row and thresholds of a sparse product: forced ones, else those stored for its class, else the best row that takes it with its
/// default thresholds. A launch keeps to the budget.
/// </summary>
internal static unsafe class SpGemmSelection
{
    /// <summary>Products below which thresholds are the defaults: asking a store would cost a part of the product that shows.</summary>
    internal const long LeastTuned = 1 << 20;

    /// <summary>Products that the managed row has done before another thread of its pool is awake, which takes some 0.1 ms.</summary>
    internal const long LeastShared = 1 << 15;

    /// <summary>Without a sample of the operands the store is not asked.</summary>
    internal static SpGemmChosen Choose(Device device, SpGemmOptions options, KnSpgemmProblem problem, SpGemmSample? sample = null)
    {
        if ((options.Dataflow?.Row ?? options.Row) is { } name) return Forced(device, options, problem, name);
        if (sample is not null && new SpGemmThresholds(device, options.Threads, problem, sample).Stored(options.Store ?? TuningStore.In(options.TuningDirectory)) is { } stored)
            return Make(stored.Row, device, options, problem, ChoiceSource.Tuned, $"{stored.Reason}, for {sample.Class}", stored.Launch);
        Row first = First(device, options.Threads, problem);
        return first is SpGemmManaged && problem.Products < LeastShared && options.Threads != 1
            ? Make(first, device, options with { Threads = 1 }, problem, ChoiceSource.Modelled, "the first row that takes it, with one thread: so few products are done before another is awake")
            : Make(first, device, options, problem, ChoiceSource.Modelled);
    }

    /// <summary>The best row that takes the product with its default thresholds.</summary>
    internal static Row First(Device device, int threads, KnSpgemmProblem problem)
    {
        foreach (Row row in device.Table.Rows)
            if (row.Op == KnOp.SpGemm && device.Table.Runs(row, out _) && row.Accepts(&problem, row.DefaultLaunch(threads)))
                return row;
        throw new KernelsException(Status.Unsupported, device.ToString(), $"takes no such product: {Refusals(device, problem)}");
    }

    private static SpGemmChosen Forced(Device device, SpGemmOptions options, KnSpgemmProblem problem, string name)
    {
        Row forced = device.Table.Of(KnOp.SpGemm).FirstOrDefault(r => r.Name == name)
            ?? throw new KernelsException(Status.Unsupported, nameof(options.Row),
                $"one of {string.Join(", ", device.Table.Of(KnOp.SpGemm))}, not {name}{(device.NativeProblem is { } p ? $" ({p})" : "")}");
        if (!device.Table.Runs(forced, out string? lacks)) throw new KernelsException(Status.Unsupported, name, lacks!);
        KnLaunch launch = forced.DefaultLaunch(options.Threads);
        if (options.Dataflow is { } dataflow)
        {
            KernelsException.Require(dataflow.Parameters.Length == forced.Parameters.Length, nameof(options.Dataflow), $"{forced.Parameters.Length} parameters, not {dataflow.Parameters.Length}");
            launch = forced.Launch(dataflow.WithThreads(options.Threads));
        }
        if (!forced.Accepts(&problem, launch, out string? why)) throw new KernelsException(Status.Unsupported, name, $"requires {why}");
        return Make(forced, device, options, problem, ChoiceSource.Forced, "the caller named it", launch);
    }

    /// <summary>Row by row why none runs, which can be on a GPU alone: the managed row takes every problem.</summary>
    private static string Refusals(Device device, KnSpgemmProblem problem) =>
        string.Join("; ", device.Table.Of(KnOp.SpGemm).Select(r => $"{r.Name}: {Refusal(device, r, problem)}"));

    private static string? Refusal(Device device, Row row, KnSpgemmProblem problem)
    {
        if (!device.Table.Runs(row, out string? lacks)) return lacks;
        row.Accepts(&problem, row.DefaultLaunch(0), out string? why);
        return $"requires {why}";
    }

    /// <summary>Why a row was taken that nobody named.</summary>
    internal static string Reason(in KnSpgemmProblem p) => FormattableString.Invariant(
        $"the first row that takes it: {p.Products} products, {p.Products / Math.Max(1.0, p.M):0.#} a row, {p.Most} in the longest");

    /// <summary>The launch; where its scratch would take more than half of the budget and no dataflow is forced, the one that takes least, then one thread.</summary>
    internal static SpGemmChosen Make(Row row, Device device, SpGemmOptions options, KnSpgemmProblem problem, ChoiceSource source, string? reason = null,
        KnLaunch? wanted = null)
    {
        KnLaunch launch = wanted ?? row.DefaultLaunch(0);
        // Fixes what "all threads" means, so that a later resize of the pool cannot outgrow the workspace.
        int threads = launch.Threads = options.Threads == 0 ? device.Threads : options.Threads;
        long bytes = row.Workspace(&problem, launch);
        if (options.MemoryBudget > 0 && bytes > options.MemoryBudget / 2 && options.Dataflow is null)
        {
            foreach (int fewer in threads == 1 ? (int[])[1] : [threads, 1])
                foreach (KnLaunch other in row.Launches(fewer))
                    if (row.Accepts(&problem, other, out _) && row.Workspace(&problem, other) is var less && bytes > options.MemoryBudget / 2 && less < bytes)
                        (launch, bytes) = (other, less);
            reason = $"{reason ?? Reason(problem)}, and its scratch keeps to a budget of {options.MemoryBudget} bytes";
        }
        return new(row, launch, source, reason, bytes);
    }
}

/// <summary>
/// The thresholds of a product, for its class: the launches of its rows. The axis is what a call may reuse; choices are for memory (2),
/// as calls that follow one another have it. With <paramref name="distinct"/> it accepts one launch of those that the model cannot tell apart, which
/// is what a tuner measures.
/// </summary>
internal sealed unsafe class SpGemmThresholds(Device device, int threads, KnSpgemmProblem problem, SpGemmSample sample, bool distinct = false)
    : Selection<KnSpgemmProblem>(device, Memory, threads)
{
    private HashSet<Dataflow>? _distinct;

    internal const string Operation = "spgemm";
    internal const int Memory = 2;

    public override string Axis => "reuse";

    public override IReadOnlyList<Row> Rows { get; } = [.. device.Table.Of(KnOp.SpGemm).Where(r => device.Table.Runs(r, out _))];

    public override ImmutableArray<int> Grid => [Memory];

    public override KnSpgemmProblem Problem(int at) => problem;

    public override double Seconds(Row row, in KnLaunch launch, int at) => SpGemmModel.Seconds(row, launch, problem, sample, Device);

    public override bool Accepts(Row row, int at, in KnLaunch launch)
    {
        if (!base.Accepts(row, at, launch)) return false;
        return !distinct || (_distinct ??= [.. Rows.SelectMany(r => r.Launches(Threads).DistinctBy(l => Math.Round(Seconds(r, l, at) * 1e9)).Select(l => r.Dataflow(l)))]).Contains(row.Dataflow(launch));
    }

    public override TuningKey Key(CacheState cache)
    {
        var flags = (KnSpgemmFlags)problem.Flags;
        return TuningKey.Of(Operation, StoredChoices.DeviceOf(Device, Threads), Device.Build, TuningPolicy.Of(Device, cache),
            ("values", ((DType)problem.Type).Name()), ("index_bits", 8 * problem.IndexBytes), ("semiring", (Semiring)problem.Semiring),
            ("mask", Bit(KnSpgemmFlags.Mask)), ("complement", Bit(KnSpgemmFlags.Complement)), ("valued", Bit(KnSpgemmFlags.Valued)), ("accumulate", Bit(KnSpgemmFlags.Accumulate)),
            ("unsorted", Bit(KnSpgemmFlags.Unsorted)), ("b_sorted", Bit(KnSpgemmFlags.BSorted)), ("log2_rows", sample.Class.Log2Rows),
            ("log2_products_per_row", sample.Class.Log2PerRow), ("log2_ratio", sample.Class.Log2Ratio), ("log4_skew", sample.Class.Log4Skew));

        int Bit(KnSpgemmFlags flag) => flags.HasFlag(flag) ? 1 : 0;
    }

    public override IEnumerable<TuningKey> Keys(CacheState cache) => [Key(cache)];

    protected override KernelsException NoRow(int at) => new(Status.Unsupported, "options", $"a product that a row of {Device} takes");

    /// <summary>What is stored for the class, or null.</summary>
    public StoredChoice? Stored(TuningStore store)
    {
        foreach (StoredChoice s in StoredChoices.Over(this, store, CacheState.Cold))
            if (s.From <= Memory && Memory <= s.To) return s;
        return null;
    }
}
