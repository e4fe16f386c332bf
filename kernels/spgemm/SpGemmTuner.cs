using System.Diagnostics;
using System.Numerics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What to tune and how much to measure; the grid is that of <see cref="SpGemmThresholds"/>.</summary>
internal sealed record SpGemmTuning : TuningEffort
{
    /// <summary>Row, Dataflow and MemoryBudget do not matter.</summary>
    public required SpGemmOptions Options { get; init; }
}

/// <summary>Measures rows and thresholds on the product of two matrices, and stores the choice for all products of their class.</summary>
internal sealed unsafe class SpGemmTuner<T> : Tuner<KnSpgemmProblem> where T : unmanaged, INumber<T>
{
    private const int WarmUp = 3;
    private readonly CsrMatrix<T> _a, _b, _expected;
    private readonly SpGemmOptions _options;
    private readonly Dictionary<Dataflow, SpGemmPlan<T>> _plans = [];

    private SpGemmTuner(SpGemmThresholds selection, SpGemmTuning what, CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions options) : base(selection, what)
    {
        (_a, _b, _options) = (a, b, options);
        _expected = SpGemm.Multiply(a, b, options with { Row = "spgemm/managed" });
        Note("products", selection.Problem(0).Products);
        Note("nnz", _expected.NonZeros);
    }

    /// <summary>Nothing rotates: what a product writes is larger than what would stay from the call before.</summary>
    protected override CallTimer Timer { get; } = new(1, CacheState.Cold);

    /// <exception cref="KernelsException">Operands that do not fit, a product too small to have tuned thresholds, or no memory.</exception>
    public static TuningResult Tune(Device device, TuningStore store, SpGemmTuning what, CsrMatrix<T> a, CsrMatrix<T> b)
    {
        long start = Stopwatch.GetTimestamp();
        KernelsException.Require(what.Grid is [SpGemmThresholds.Memory], "reuse", $"{SpGemmThresholds.Memory}: thresholds are tuned with memory reused");
        SpGemmOptions options = what.Options with { Row = null, Dataflow = null, MemoryBudget = 0 };
        using SpGemmPlan<T> plan = SpGemmPlan<T>.Create(a, b, options);
        KernelsException.Require(plan.Products >= SpGemmSelection.LeastTuned, nameof(a), $"at least {SpGemmSelection.LeastTuned} products, not {plan.Products}: with fewer the defaults hold");
        using var tuner = new SpGemmTuner<T>(new SpGemmThresholds(device, options.Threads, plan.Problem, plan.Sample(), distinct: true), what, a, b, options);
        return tuner.Measure(store, start);
    }

    protected override void Narrow(int at) { }

    /// <summary>Rows of the CPU give the same bits: a candidate's C is the managed row's.</summary>
    protected override Failure? Fault(Row row, in KnLaunch launch, int at)
    {
        var plan = _plans[row.Dataflow(launch)] = SpGemmPlan<T>.Create(_a, _b, _options with { Dataflow = row.Dataflow(launch) });
        CsrMatrix<T> c = plan.Product();
        bool same = c.RowOffsets.SequenceEqual(_expected.RowOffsets) && c.ColumnIndices.SequenceEqual(_expected.ColumnIndices)
            && (!c.HasValues || c.Values.SequenceEqual(_expected.Values));
        c.Dispose();
        // Pages of the pool that are touched for the first time cost more than a product: no candidate is to pay for the others.
        for (int i = 0; same && i < WarmUp; i++) plan.Product().Dispose();
        return same ? null : new Failure(FailureKind.WrongResult, "another C than the managed row's");
    }

    protected override void Run(Row row, in KnLaunch launch, int at, int copy) => _plans[row.Dataflow(launch)].Product().Dispose();

    public override void Dispose()
    {
        foreach (SpGemmPlan<T> plan in _plans.Values) plan.Dispose();
        _expected.Dispose();
    }
}
