using System.CommandLine;
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
    private static readonly Option<bool> s_transpose = new("--transpose") { Description = "Multiply by the transpose: A·Aᵀ" };
    private static readonly Option<string> s_values = new("--values") { Description = "f64 or f32 (default f64)", HelpName = "TYPE", DefaultValueFactory = _ => "f64" };

    public override string Name => "spgemm";

    public override KnOp Op => KnOp.SpGemm;

    public override Axis Axis { get; } = new("reuse", "What a call may reuse: 1 nothing, 2 memory, 3 the structure of C (numeric phase alone)", 1, "1,2,3", "1,2", "2");

    protected override IReadOnlyList<Option> ShapeOptions => [s_matrix, s_transpose, s_values, Arguments.Row];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads)
    {
        DType type = parsed.GetValue(s_values) switch { "f64" => DType.Float64, "f32" => DType.Float32, var other => throw new UsageException($"--values: f64 or f32, not {other}") };
        bool transpose = parsed.GetValue(s_transpose);
        var layers = new List<Layer>();
        foreach (string matrix in parsed.GetValue(s_matrix)!)
        {
            SparseStructure s = SpGemmMatrixSpec.Structure(matrix);
            if (!transpose && s.Rows != s.Columns) throw new UsageException($"--matrix {matrix}: {s.Rows} x {s.Columns}, which only --transpose multiplies");
            layers.Add(new SpGemmLayer(matrix, transpose, type, new SpGemmOptions { Threads = threads, Row = RowName(parsed) }));
        }
        return layers;
    }

    public override Workbench Open(Layer layer, IReadOnlyList<int> points, Conditions on, TuningStore store)
    {
        if (points.Any(p => p > StructureOfC)) throw new UsageException("--reuse: 1, 2 or 3");
        var l = (SpGemmLayer)layer;
        return l.Type == DType.Float32 ? new SpGemmWorkbench<float>(l) : new SpGemmWorkbench<double>(l);
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

    public override void Explain(ParseResult parsed, Screen screen, TuningStore store)
    {
        ExplainVerb.RequireCpu(parsed, Name);
        var all = new List<object>();
        foreach (int threads in parsed.GetValue(ExplainVerb.Threads)!)
            foreach (Layer layer in Layers(parsed, threads))
            {
                var l = (SpGemmLayer)layer;
                using CsrMatrix<double> a = SpGemmMatrixSpec.Matrix<double>(SpGemmMatrixSpec.Structure(l.Matrix)), b = l.Transposed ? a.Transpose() : a;
                using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, b, l.Options);
                SpGemmChoice c = plan.Choice;
                var table = new Table($"{Name} {layer.Case}: {layer.Extents}, {Format.Int(plan.Products)} products, {Format.Int(plan.MostProducts)} in the longest row", "row", "says");
                foreach (Row row in Device.Cpu.Table.Of(Op)) table.Add(row.Name, row.Name == c.Dataflow.Row ? $"{c.Dataflow}: {c.Source}, {c.Reason}; {Format.Bytes(c.WorkspaceBytes)} of scratch" : Says(row, plan));
                screen.Show(table);
                all.Add(new { op = Name, layer = layer.Case, threads, products = plan.Products, most = plan.MostProducts, dataflow = c.Dataflow.ToString(), source = c.Source, reason = c.Reason, workspace_bytes = c.WorkspaceBytes });
            }
        screen.Json(all);
    }

    private static unsafe string Says(Row row, SpGemmPlan<double> plan)
    {
        if (!Device.Cpu.Table.Runs(row, out string? lacks)) return lacks!;
        KnSpgemmProblem problem = plan.Problem;
        return row.Accepts(&problem, row.DefaultLaunch(0), out string? why) ? "takes it, after those above" : $"{why} does not hold";
    }

    // The thresholds of spgemm/avx512 are its launch parameters; their choice is the default's until they are tuned by matrix class.
    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store) => throw Untuned();

    public override TuningKey KeyOf(Layer layer, CacheState cache) => throw Untuned();

    public override Layer? LayerOf(TuningKey key) => null;

    private static UsageException Untuned() => new("spgemm has no stored choices: its row and launch are the model's (perf explain spgemm)");
}
