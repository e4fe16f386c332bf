using System.CommandLine;
using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>A linear layer as the library takes it.</summary>
internal sealed record FlatGemmLayer(string Case, FlatGemmOptions Options, bool Tune)
    : Layer(Case, DtypesOf(Options), Tune)
{
    public override IReadOnlyList<(string, int)> Shape => [("n", Options.N), ("k", Options.K)];

    private static string DtypesOf(FlatGemmOptions o) => $"{(o.QuantizeInput ? "q" : "")}{o.Input.Name()} x {o.Weights.Name()}"
        + (o.Group > 0 ? $"/{o.Group}{(o.ZeroPoints ? "z" : "")}" : "") + $" -> {o.Output.Name()}";
}

/// <summary>flat_gemm for the verbs: its options, layers and keys.</summary>
internal sealed partial class FlatGemmOperation : Operation
{
    internal static readonly Option<int?> s_n = Arguments.Extent("--n", "Outputs of a row");
    internal static readonly Option<int?> s_k = Arguments.Extent("--k", "Inputs of a row");
    internal static readonly Option<DType[]> s_weights = new("--weights")
    {
        Description = "f32, bf16, f16, int8 or int4, or a list (default bf16)",
        HelpName = "LIST",
        CustomParser = result => Arguments.DtypeList(result),
        DefaultValueFactory = _ => [DType.BFloat16],
    };
    internal static readonly Option<DType?> s_input = Arguments.Dtype("--input", "Type of x (default: f32 for f32 weights, else bf16)");
    internal static readonly Option<int?> s_group = new("--group") { Description = "int4: elements of k per scale, 32, 64 or 128 (default 128)" };
    internal static readonly Option<bool> s_zeros = new("--zero-points") { Description = "int4: a zero point per group" };
    internal static readonly Option<bool> s_quantize = new("--quantize-input") { Description = "int8: quantise x per row inside the call" };
    internal static readonly Option<bool> s_gated = new("--gated") { Description = "w holds a gate and an up projection: 2 n rows" };
    internal static readonly Option<bool> s_bias = new("--bias") { Description = "Add a bias" };
    internal static readonly Option<bool> s_residual = new("--residual") { Description = "Add a residual" };
    internal static readonly Option<Activation> s_activation = new("--activation") { Description = "None, Relu, GeluTanh, GeluErf or Silu" };

    public override string Name => "flat_gemm";

    public override KnOp Op => KnOp.FlatGemm;

    public override Axis Axis { get; } = new("m", "Rows of x", 1, "1,4,16,64,256", "1,2,4,8,16,32,64,256", string.Join(',', FlatGemmSelection.ModelGrid.Where(g => g <= 512)));

    protected override IReadOnlyList<Option> ShapeOptions => LayerOptions;

    /// <summary>Options that describe a linear layer, for every operation on one.</summary>
    internal static IReadOnlyList<Option> LayerOptions =>
        [Arguments.Model, s_n, s_k, s_weights, s_input, Arguments.Output, s_group, s_zeros, s_quantize, s_gated, s_bias, s_residual, s_activation, Arguments.BatchInvariant, Arguments.Row];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads) => LayersOf(parsed, threads, RowName(parsed));

    /// <summary>The layers that the command line names, with the row that it forces.</summary>
    internal static IReadOnlyList<FlatGemmLayer> LayersOf(ParseResult parsed, int threads, string? row)
    {
        string? model = parsed.GetValue(Arguments.Model);
        int? n = parsed.GetValue(s_n), k = parsed.GetValue(s_k);
        if (model is null && (n is null || k is null)) throw new UsageException("a shape is missing: give --model NAME, or both --n and --k");
        if (model is not null && (n ?? k) is not null) throw new UsageException("--model names the shapes already: leave out --n and --k");
        string name = model is null ? "" : Path.GetFileName(model).Replace(".json", "", StringComparison.Ordinal).ToLowerInvariant() + " ";
        IEnumerable<ModelMatrix> matrices = model is null
            ? [new ModelMatrix(string.Create(CultureInfo.InvariantCulture, $"{n} x {k}"), n!.Value, k!.Value)]
            : Model.Load(model).FlatGemm;
        var layers = new List<FlatGemmLayer>();
        foreach (DType weights in parsed.GetValue(s_weights)!)
            foreach (ModelMatrix matrix in matrices)
                layers.Add(new FlatGemmLayer(name + matrix.Matrix, Options(parsed, matrix.N, matrix.K, weights, threads, row), matrix.Tune));
        return layers;
    }

    private static FlatGemmOptions Options(ParseResult parsed, int n, int k, DType weights, int threads, string? row)
    {
        DType other = weights == DType.Float32 ? DType.Float32 : DType.BFloat16;
        var options = new FlatGemmOptions
        {
            N = n,
            K = k,
            Weights = weights,
            Threads = threads,
            Input = parsed.GetValue(s_input) ?? other,
            Output = parsed.GetValue(Arguments.Output) ?? other,
            Group = weights == DType.UInt4 ? parsed.GetValue(s_group) ?? 128 : 0,
            ZeroPoints = weights == DType.UInt4 && parsed.GetValue(s_zeros),
            QuantizeInput = weights == DType.Int8 && parsed.GetValue(s_quantize),
            Gated = parsed.GetValue(s_gated),
            Bias = parsed.GetValue(s_bias),
            Residual = parsed.GetValue(s_residual),
            Activation = parsed.GetValue(s_activation),
            BatchInvariant = parsed.GetValue(Arguments.BatchInvariant),
            Row = row,
        };
        options.Check();
        return options;
    }

    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store) => FlatGemmTuner.Tune(settings.Device, store, new FlatGemmTuning
    {
        Layer = Of(layer),
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

    public override TuningKey KeyOf(Layer layer, CacheState cache) => FlatGemmTuned.Key(Device.Cpu, Of(layer), LayoutOf(Device.Cpu, Of(layer)), cache);

    public override Layer? LayerOf(TuningKey key)
    {
        if (key.Operation != Name) return null;
        try
        {
            int Number(string name) => int.Parse(key.Problem[name], CultureInfo.InvariantCulture);
            DType Type(string name) => DTypes.TryParse(key.Problem[name], out DType type) ? type : throw new FormatException(name);
            int threads = key.Device.Threads == Device.Cpu.Threads ? 0 : key.Device.Threads;
            var options = new FlatGemmOptions
            {
                N = Number("n"),
                K = Number("k"),
                Weights = Type("weights"),
                Input = Type("input"),
                Output = Type("output"),
                Group = Number("group"),
                Activation = (Activation)Number("activation"),
                Bias = Number("bias") != 0,
                Residual = Number("residual") != 0,
                Gated = Number("gated") != 0,
                ZeroPoints = Number("zero_points") != 0,
                QuantizeInput = Number("quantize_input") != 0,
                Threads = threads,
            };
            return new FlatGemmLayer(string.Create(CultureInfo.InvariantCulture, $"{options.N} x {options.K}"), options, true);
        }
        catch (Exception e) when (e is KeyNotFoundException or FormatException or OverflowException)
        {
            return null;
        }
    }

    private static FlatGemmOptions Of(Layer layer) => ((FlatGemmLayer)layer).Options;

    private static unsafe string? LayoutOf(Device device, FlatGemmOptions options)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return FlatGemmSelection.LayoutRow(device, options).Layout(&problem);
    }

    public override unsafe IReadOnlyList<string> LayoutsOf(Row row)
    {
        var layouts = new List<string>();
        foreach (FlatGemmCases.Kind kind in FlatGemmCases.MainKinds)
        {
            var problem = FlatGemmCases.Problem(kind, 1, 64, 128);
            if (row.Accepts(&problem, row.DefaultLaunch(0), out _) && row.Layout(&problem) is { } layout) layouts.Add(layout);
        }
        return [.. layouts.Distinct()];
    }
}
