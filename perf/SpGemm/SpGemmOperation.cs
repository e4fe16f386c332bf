using System.CommandLine;
using System.Globalization;
using System.Numerics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>A product of a named matrix with itself or with its transpose.</summary>
internal sealed record SpGemmLayer(string Matrix, bool Transposed, DType Type, SpGemmOptions Options)
    : Layer($"{Matrix} A·{(Transposed ? "Aᵀ" : "A")}", Type.Name(), true)
{
    public override IReadOnlyList<(string, int)> Shape =>
        [("rows", (int)SpGemmMatrixSpec.Structure(Matrix).Rows), ("nnz", (int)Math.Min(SpGemmMatrixSpec.Structure(Matrix).NonZeros, int.MaxValue))];
}

/// <summary>spgemm for the verbs. Its axis is what a call may reuse.</summary>
internal sealed partial class SpGemmOperation : Operation
{
    internal const int Nothing = 1, Memory = 2, StructureOfC = 3;

    private static readonly Option<string[]> s_matrix = new("--matrix")
    {
        Description = $"A list of {SpGemmMatrixSpec.Help} (default {SpGemmMatrixSpec.Suite})",
        HelpName = "LIST",
        CustomParser = result => [.. result.Tokens.SelectMany(t => t.Value.Split(',', StringSplitOptions.RemoveEmptyEntries))],
        DefaultValueFactory = _ => SpGemmMatrixSpec.Suite.Split(','),
    };
    private static readonly Option<double> s_most = new("--most-products") { Description = "Leave out products with more multiplications (default 2e8: C and its copies take some 10 GB)", DefaultValueFactory = _ => 2e8 };
    private static readonly Option<long> s_budget = new("--memory-budget") { Description = "MiB for scratch and C: C comes in pieces, and the process is measured against it", HelpName = "MIB" };
    private static readonly Option<bool> s_transpose = new("--transpose") { Description = "Multiply by the transpose: A·Aᵀ" };
    private static readonly Option<string> s_values = new("--values") { Description = "f64 or f32 (default f64)", HelpName = "TYPE", DefaultValueFactory = _ => "f64" };

    public override string Name => "spgemm";

    public override KnOp Op => KnOp.SpGemm;

    /// <summary>A product waits for its sizes.</summary>
    public override bool OnlyEnqueues => false;

    public override Axis Axis { get; } = new("reuse", "What a call may reuse: 1 nothing, 2 memory, 3 the structure of C (numeric phase alone)", 1, "1,2,3", "1,2", "2");

    protected override IReadOnlyList<Option> ShapeOptions => [s_matrix, s_transpose, s_values, s_most, s_budget, Arguments.Row];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads)
    {
        DType type = parsed.GetValue(s_values) switch { "f64" => DType.Float64, "f32" => DType.Float32, var other => throw new UsageException($"--values: f64 or f32, not {other}") };
        bool transpose = parsed.GetValue(s_transpose);
        var layers = new List<Layer>();
        foreach (string matrix in parsed.GetValue(s_matrix)!)
        {
            SparseStructure s = SpGemmMatrixSpec.Structure(matrix);
            if (!transpose && s.Rows != s.Columns) throw new UsageException($"--matrix {matrix}: {s.Rows} x {s.Columns}, which only --transpose multiplies");
            double products = Products(s, transpose);
            if (products > parsed.GetValue(s_most)) Screen.Note(string.Create(CultureInfo.InvariantCulture, $"{matrix}{(transpose ? " A·Aᵀ" : "")} is left out: {products:0.##e+0} products, more than --most-products"));
            else layers.Add(new SpGemmLayer(matrix, transpose, type, new SpGemmOptions { Threads = threads, Row = RowName(parsed), MemoryBudget = parsed.GetValue(s_budget) << 20 }));
        }
        return layers;
    }

    /// <summary>Multiplications, by the structure alone: sums of the rows of B that A's entries name.</summary>
    private static double Products(SparseStructure a, bool transpose)
    {
        var rows = new long[a.Columns];
        if (!transpose) for (long i = 0; i < a.Rows; i++) rows[i] = a.Offsets[i + 1] - a.Offsets[i];
        else foreach (int c in a.Indices) rows[c]++;
        double products = 0;
        foreach (int c in a.Indices) products += rows[c];
        return products;
    }

    public override Workbench Open(Layer layer, IReadOnlyList<int> points, Conditions on, TuningStore store)
    {
        if (points.Any(p => p > StructureOfC)) throw new UsageException("--reuse: 1, 2 or 3");
        var l = (SpGemmLayer)layer;
        if (on.Device.Gpu is not null && l.Options.MemoryBudget > 0) throw new UsageException("--memory-budget: the process is measured against it, which says nothing about a GPU");
        l = l with { Options = l.Options with { Store = store } };
        return l.Type == DType.Float32 ? new SpGemmWorkbench<float>(l, on.Device) : new SpGemmWorkbench<double>(l, on.Device);
    }

    public override Work WorkOf(Layer layer, int at)
    {
        using Workbench bench = Open(layer, [at], new Conditions(Device.Cpu, CacheState.Warm), TuningStore.Default);
        return bench.WorkAt(at);
    }

    public override IEnumerable<CheckResult> Check(KernelTable table, Row row)
    {
        SpGemmCase[] cases = [.. SpGemmCases.All()];
        KnLaunch[] launches = [.. row.Launches(0)];
        foreach (string matrix in cases.Select(c => c.Matrix).Distinct())
        {
            int ran = 0, refused = 0;
            (double Fraction, double Ulp, double Relative) worst = default;
            var faults = new List<string>();
            for (int i = 0; i < cases.Length; i++)
            {
                if (cases[i].Matrix != matrix) continue;
                using var trial = new SpGemmTrial(cases[i], (ulong)i + 1);
                KnLaunch launch = launches[i * 7 % launches.Length];
                if (!Accepts(row, trial.Problem, launch)) refused++;
                else
                {
                    ran++;
                    if ((trial.Analyse(row, launch) ?? trial.Check(row, launch)) is { } fault && faults.Count < 3) faults.Add($"{row.Dataflow(launch)} on {cases[i]}: {fault}");
                    worst = (Math.Max(worst.Fraction, trial.Worst.Fraction), Math.Max(worst.Ulp, trial.Worst.Ulp), Math.Max(worst.Relative, trial.Worst.Relative));
                }
            }
            yield return new CheckResult(row.Name, matrix, ran, refused, worst.Fraction, [("worst ulp", worst.Ulp), ("worst relative", worst.Relative)], faults);
        }
    }

    private static unsafe bool Accepts(Row row, KnSpgemmProblem problem, in KnLaunch launch) => row.Accepts(&problem, launch, out _);

    public override string? SelfTest(Row row)
    {
        using var trial = new SpGemmTrial(SpGemmCases.All().First(), 1);
        KnLaunch launch = row.DefaultLaunch(0);
        return trial.Analyse(row, launch) ?? trial.Check(row, launch);
    }

    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store)
    {
        var l = (SpGemmLayer)layer;
        return l.Type == DType.Float32 ? Tune<float>(l, settings, store) : Tune<double>(l, settings, store);
    }

    private static TuningResult Tune<T>(SpGemmLayer l, TuneSettings settings, TuningStore store) where T : unmanaged, INumber<T>
    {
        using CsrMatrix<T> a = SpGemmMatrixSpec.Matrix<T>(SpGemmMatrixSpec.Structure(l.Matrix)), b = l.Transposed ? a.Transpose() : a;
        return SpGemmTuner<T>.Tune(settings.Device, store, new SpGemmTuning
        {
            Options = l.Options,
            Grid = [.. settings.Grid],
            Cache = settings.Cache,
            KeepSimulated = settings.KeepSimulated,
            Budget = settings.Budget,
            Cancellation = settings.Cancellation,
            Progress = settings.Progress,
            Watch = settings.Watch,
            Candidates = settings.Candidates,
        }, a, b);
    }

    /// <summary>The key of the class that the product belongs to.</summary>
    public override TuningKey KeyOf(Layer layer, CacheState cache)
    {
        var l = (SpGemmLayer)layer;
        return l.Type == DType.Float32 ? KeyOf<float>(l, cache) : KeyOf<double>(l, cache);
    }

    private static TuningKey KeyOf<T>(SpGemmLayer l, CacheState cache) where T : unmanaged, INumber<T>
    {
        using CsrMatrix<T> a = SpGemmMatrixSpec.Matrix<T>(SpGemmMatrixSpec.Structure(l.Matrix)), b = l.Transposed ? a.Transpose() : a;
        using SpGemmPlan<T> plan = SpGemmPlan<T>.Create(a, b, l.Options);
        return new SpGemmThresholds(Device.Cpu, l.Options.Threads, plan.Problem, plan.Sample()).Key(cache);
    }

    // A key names a class of products, not a matrix that could be made again.
    public override Layer? LayerOf(TuningKey key) => null;
}
