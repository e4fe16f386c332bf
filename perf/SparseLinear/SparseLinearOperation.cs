using System.CommandLine;
using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>A layer of flat_gemm of which a part of the weights is stored.</summary>
/// <param name="Active">Part of the outputs and of the inputs that a call says are active; null: it brings no sets.</param>
/// <param name="Form">It stands for the choice between sparse and dense alone.</param>
internal sealed record SparseLinearLayer(string Case, FlatGemmOptions Options, double Density, string Dtypes, bool Tune, bool Form = false, (double Outputs, double Inputs)? Active = null) : Layer(Case, Dtypes, Tune)
{
    public override IReadOnlyList<(string, int)> Shape => [("n", Options.N), ("k", Options.K), ("density_percent", (int)Math.Round(100 * Density))];
}

/// <summary>sparse_linear for the verbs: the layers of flat_gemm, and --density.</summary>
internal sealed unsafe partial class SparseLinearOperation : Operation
{
    private readonly Option<double[]> _density = new("--density")
    {
        Description = "Part of the weights that is not 0, or a list (default 0.5)",
        HelpName = "LIST",
        CustomParser = result =>
        {
            var values = new List<double>();
            foreach (string text in result.Tokens.SelectMany(t => t.Value.Split(',')))
            {
                if (double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && value is >= 0 and <= 1) values.Add(value);
                else result.AddError($"--density: numbers from 0 to 1, not {text}");
            }
            return [.. values];
        },
        DefaultValueFactory = _ => [0.5],
    };

    private static readonly Option<double> s_outputs = Part("--active-outputs", "outputs, by panels of 16"), s_inputs = Part("--active-inputs", "inputs, by blocks of 64");

    private static Option<double> Part(string name, string what)
    {
        var option = new Option<double>(name) { Description = $"bench: part of the {what}, that is active (default 1)", HelpName = "F", DefaultValueFactory = _ => 1 };
        option.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<double>() is not (>= 0 and <= 1)) result.AddError($"{name}: a number from 0 to 1");
        });
        return option;
    }

    public override string Name => SparseLinearSelection.Operation;

    public override KnOp Op => KnOp.SparseLinear;

    public override Axis Axis => All[0].Axis;

    protected override IReadOnlyList<Option> ShapeOptions => [.. FlatGemmOperation.LayerOptions, _density, s_outputs, s_inputs];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads)
    {
        (double Outputs, double Inputs) part = (parsed.GetValue(s_outputs), parsed.GetValue(s_inputs));
        (double, double)? active = part == (1, 1) ? null : part;
        if (active is not null && parsed.CommandResult.Command.Name is not ("bench" or "compare")) throw new UsageException("--active-outputs, --active-inputs: of perf bench; what is tuned and explained is all of a layer");
        string more = active is null ? "" : string.Create(CultureInfo.InvariantCulture, $", {part.Outputs} of outputs and {part.Inputs} of inputs active");
        return [.. FlatGemmOperation.LayersOf(parsed, threads, RowName(parsed)).SelectMany(l => parsed.GetValue(_density)!.Select(d => new SparseLinearLayer(
            string.Create(CultureInfo.InvariantCulture, $"{l.Case} at {d}{more}"), l.Options, d, l.Dtypes, l.Tune, Active: active)))];
    }

    public override Work WorkOf(Layer layer, int at)
    {
        var l = (SparseLinearLayer)layer;
        Work all = FlatGemmOperation.WorkOf(l.Options, at);
        double part = l.Active is { } a ? a.Outputs * a.Inputs : 1;
        return all with { Bytes = (long)(part * new SparsePanels(SparseLinear.Problem(l.Options, at, Nnz(l), 0)).Total), Flops = part * all.Flops };
    }

    internal static long Nnz(SparseLinearLayer layer) => (long)(layer.Density * layer.Options.Columns * layer.Options.K);

    public override Workbench Open(Layer layer, IReadOnlyList<int> points, Conditions on, TuningStore store) =>
        new SparseLinearWorkbench((SparseLinearLayer)layer, WorkOf, points, on, store);

    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store) => SparseLinearTuner.Tune(settings.Device, store, new SparseLinearTuning
    {
        Layer = ((SparseLinearLayer)layer).Options,
        Density = ((SparseLinearLayer)layer).Density,
        FormsOnly = ((SparseLinearLayer)layer).Form,
        Grid = [.. settings.Grid],
        Cache = settings.Cache,
        Eager = settings.Eager,
        KeepSimulated = settings.KeepSimulated,
        Budget = settings.Budget,
        Cancellation = settings.Cancellation,
        Progress = settings.Progress,
        Watch = settings.Watch,
        Candidates = settings.Candidates,
    });

    public override TuningKey KeyOf(Layer layer, CacheState cache)
    {
        var l = (SparseLinearLayer)layer;
        return l.Form ? SparseLinearForms.Key(Device.Cpu, l.Options, Nnz(l), cache) : SparseLinearSelection.Key(Device.Cpu, l.Options, Nnz(l), cache);
    }

    public override Layer? LayerOf(TuningKey key)
    {
        if (key.Operation != Name) return null;
        try
        {
            int Number(string name) => int.Parse(key.Problem[name], CultureInfo.InvariantCulture);
            DType Type(string name) => DTypes.TryParse(key.Problem[name], out DType type) ? type : throw new FormatException(name);
            var options = new FlatGemmOptions
            {
                N = Number("n"),
                K = Number("k"),
                Weights = Type("weights"),
                Input = Type("input"),
                Output = Type("output"),
                Activation = (Activation)Number("activation"),
                Bias = Number("bias") != 0,
                Residual = Number("residual") != 0,
                Gated = Number("gated") != 0,
                QuantizeInput = Number("quantize_input") != 0,
                Threads = key.Device.Threads == Device.Cpu.Threads ? 0 : key.Device.Threads,
            };
            double density = Number("density_percent") / 100.0;
            bool form = key.Problem.ContainsKey(SparseLinearForms.KeyName);
            return new SparseLinearLayer(string.Create(CultureInfo.InvariantCulture, $"{options.N} x {options.K} at {density}{(form ? ", sparse or dense" : "")}"), options, density,
                $"{options.Input.Name()} x {options.Weights.Name()} -> {options.Output.Name()}", true, form);
        }
        catch (Exception e) when (e is KeyNotFoundException or FormatException or OverflowException)
        {
            return null;
        }
    }

    public override IReadOnlyList<string> LayoutsOf(Row row)
    {
        var layouts = new List<string>();
        foreach (FlatGemmCases.Kind kind in SparseLinearCases.MainKinds)
        {
            var problem = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Layer = FlatGemmCases.Problem(kind, 1, 64, 128), Nnz = 100 };
            if (row.Accepts(&problem, row.DefaultLaunch(0), out _) && row.Layout(&problem) is { } layout) layouts.Add(layout);
        }
        return [.. layouts.Distinct()];
    }
}
