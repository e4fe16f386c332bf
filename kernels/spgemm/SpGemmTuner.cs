using System.Diagnostics;
using System.Numerics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure; the grid is that of <see cref="SpGemmThresholds"/>.</summary>
internal sealed record SpGemmTuning : TuningEffort
{
    /// <summary>No row or dataflow is forced; MemoryBudget does not matter.</summary>
    public required SpGemmOptions Options { get; init; }

    /// <summary>Products below which a plan does not ask the store, so that nothing is measured for it.</summary>
    public long LeastProducts { get; init; } = SpGemmSelection.LeastTuned;
}

/// <summary>Measures rows and thresholds on the product of two matrices, and stores the choice for all products of their class.</summary>
internal sealed unsafe class SpGemmTuner<T> : Tuner<KnSpgemmProblem> where T : unmanaged, INumber<T>
{
    private const int WarmUp = 3;
    private readonly SpGemmOperands<T> _operands;
    private readonly CsrMatrix<T> _expected;
    private readonly SpGemmOptions _options;
    private readonly Dictionary<Dataflow, SpGemmPlan<T>> _plans = [];

    private SpGemmTuner(SpGemmThresholds selection, SpGemmTuning what, SpGemmOperands<T> operands, CsrMatrix<T> expected, SpGemmOptions options) : base(selection, what)
    {
        (_operands, _expected, _options) = (operands, expected, options);
        Note("products", selection.Problem(0).Products);
        Note("nnz", _expected.NonZeros);
    }

    /// <summary>
    /// Nothing rotates: what a product writes is larger than what would stay from the call before. The host's clock on a GPU, too: a
    /// product waits there for its sizes.
    /// </summary>
    protected override CallTimer Timer { get; } = new(1, CacheState.Cold);

    /// <summary>Of operands in the host's memory; a device gets copies.</summary>
    /// <exception cref="KernelsException">Operands that do not fit, a product too small to have tuned thresholds, or no memory.</exception>
    public static TuningResult Tune(Device device, TuningStore store, SpGemmTuning what, CsrMatrix<T> a, CsrMatrix<T> b, CsrStructure? mask = null,
        CsrMatrix<T>? addend = null)
    {
        long start = Stopwatch.GetTimestamp();
        KernelsException.Require(what.Grid is [SpGemmThresholds.Memory], "reuse", $"{SpGemmThresholds.Memory}: thresholds are tuned with memory reused");
        TuningEffort.RequireFree(what.Options.Row ?? what.Options.Dataflow?.Row, batchInvariant: false);
        SpGemmOptions options = what.Options with { MemoryBudget = 0 };
        using var operands = new SpGemmOperands<T>(a, b, device, mask, addend);
        using SpGemmPlan<T> plan = operands.Plan(options);
        KernelsException.Require(plan.Products >= what.LeastProducts, nameof(a), $"at least {what.LeastProducts} products, not {plan.Products}: with fewer the defaults hold");
        using CsrMatrix<T> expected = SpGemm.Multiply(a, b, options with { Row = "spgemm/managed", Sorted = true }, mask, addend);
        var thresholds = new SpGemmThresholds(device, options.Threads, plan.Problem, plan.Sample(), distinct: true);
        using var tuner = new SpGemmTuner<T>(thresholds, what with { Eager = true }, operands, expected, options);
        return tuner.Measure(store, start);
    }

    protected override void Narrow(int at) { }

    /// <summary>All rows give the same bits: a candidate's C is the managed row's.</summary>
    protected override Failure? Fault(Row row, in KnLaunch launch, int at)
    {
        var plan = _plans[row.Dataflow(launch)] = _operands.Plan(_options with { Dataflow = row.Dataflow(launch) });
        bool same;
        using (CsrMatrix<T> product = plan.Product()) same = SpGemmSame.As(_expected, product);
        // Pages of the pool that are touched for the first time cost more than a product: no candidate is to pay for the others.
        for (int i = 0; same && i < WarmUp; i++) plan.Product().Dispose();
        return same ? null : new Failure(FailureKind.WrongResult, "another C than the managed row's");
    }

    protected override void Run(Row row, in KnLaunch launch, int at, int copy) => _plans[row.Dataflow(launch)].Product().Dispose();

    public override void Dispose()
    {
        foreach (SpGemmPlan<T> plan in _plans.Values) plan.Dispose();
    }
}
