using System.CommandLine;
using System.CommandLine.Parsing;
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
    private readonly Option<int?> _n = Extent("--n", "Outputs of a row");
    private readonly Option<int?> _k = Extent("--k", "Inputs of a row");
    private readonly Option<DType[]> _weights = new("--weights")
    {
        Description = "f32, bf16, f16, int8 or int4, or a list (default bf16)",
        HelpName = "LIST",
        CustomParser = result => DtypeList(result),
        DefaultValueFactory = _ => [DType.BFloat16],
    };
    private readonly Option<DType?> _input = Dtype("--input", "Type of x (default: f32 for f32 weights, else bf16)");
    private readonly Option<DType?> _output = Dtype("--output", "Type of y (default: f32 for f32 weights, else bf16)");
    private readonly Option<int?> _group = new("--group") { Description = "int4: elements of k per scale, 32, 64 or 128 (default 128)" };
    private readonly Option<bool> _zeros = new("--zero-points") { Description = "int4: a zero point per group" };
    private readonly Option<bool> _quantize = new("--quantize-input") { Description = "int8: quantise x per row inside the call" };
    private readonly Option<bool> _gated = new("--gated") { Description = "w holds a gate and an up projection: 2 n rows" };
    private readonly Option<bool> _bias = new("--bias") { Description = "Add a bias" };
    private readonly Option<bool> _residual = new("--residual") { Description = "Add a residual" };
    private readonly Option<Activation> _activation = new("--activation") { Description = "None, Relu, GeluTanh, GeluErf or Silu" };
    private readonly Option<bool> _invariant = new("--batch-invariant") { Description = "The same bits for a row of x whatever else is in the batch" };
    private readonly Option<string?> _row = new("--row") { Description = "Force this row", HelpName = "ROW" };

    public override string Name => "flat_gemm";

    public override KnOp Op => KnOp.FlatGemm;

    public override Axis Axis { get; } = new("m", "Rows of x", 1, "1,4,16,64,256", "1,2,4,8,16,32,64,256", string.Join(',', FlatGemmSelection.ModelGrid.Where(g => g <= 512)));

    protected override IReadOnlyList<Option> ShapeOptions => LayerOptions;

    /// <summary>Options that describe a linear layer, for every operation on one.</summary>
    internal IReadOnlyList<Option> LayerOptions =>
        [Arguments.Model, _n, _k, _weights, _input, _output, _group, _zeros, _quantize, _gated, _bias, _residual, _activation, _invariant, _row];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads) => LayersOf(parsed, threads, Name);

    /// <summary>The layers that the command line names, for an operation whose rows --row may force.</summary>
    internal IReadOnlyList<FlatGemmLayer> LayersOf(ParseResult parsed, int threads, string operation)
    {
        string? model = parsed.GetValue(Arguments.Model);
        int? n = parsed.GetValue(_n), k = parsed.GetValue(_k);
        if (model is null && (n is null || k is null)) throw new UsageException("a shape is missing: give --model NAME, or both --n and --k");
        if (model is not null && (n ?? k) is not null) throw new UsageException("--model names the shapes already: leave out --n and --k");
        string name = model is null ? "" : Path.GetFileName(model).Replace(".json", "", StringComparison.Ordinal).ToLowerInvariant() + " ";
        IEnumerable<ModelMatrix> matrices = model is null
            ? [new ModelMatrix(string.Create(CultureInfo.InvariantCulture, $"{n} x {k}"), n!.Value, k!.Value)]
            : Model.Load(model).FlatGemm;
        var layers = new List<FlatGemmLayer>();
        foreach (DType weights in parsed.GetValue(_weights)!)
            foreach (ModelMatrix matrix in matrices)
                layers.Add(new FlatGemmLayer(name + matrix.Matrix, Options(parsed, matrix.N, matrix.K, weights, threads, operation), matrix.Tune));
        return layers;
    }

    private FlatGemmOptions Options(ParseResult parsed, int n, int k, DType weights, int threads, string operation)
    {
        DType other = weights == DType.Float32 ? DType.Float32 : DType.BFloat16;
        var options = new FlatGemmOptions
        {
            N = n,
            K = k,
            Weights = weights,
            Threads = threads,
            Input = parsed.GetValue(_input) ?? other,
            Output = parsed.GetValue(_output) ?? other,
            Group = weights == DType.UInt4 ? parsed.GetValue(_group) ?? 128 : 0,
            ZeroPoints = weights == DType.UInt4 && parsed.GetValue(_zeros),
            QuantizeInput = weights == DType.Int8 && parsed.GetValue(_quantize),
            Gated = parsed.GetValue(_gated),
            Bias = parsed.GetValue(_bias),
            Residual = parsed.GetValue(_residual),
            Activation = parsed.GetValue(_activation),
            BatchInvariant = parsed.GetValue(_invariant),
            Row = FullName(parsed.GetValue(_row), operation),
        };
        options.Check();
        return options;
    }

    /// <summary>"avx512_flat" is taken for "flat_gemm/avx512_flat"; a name that no row has is an error here.</summary>
    private static string? FullName(string? row, string operation)
    {
        if (row is null) return null;
        string full = row.Contains('/', StringComparison.Ordinal) ? row : $"{operation}/{row}";
        IEnumerable<string> rows = Device.Cpu.Table.Rows.Where(r => r.Name.StartsWith(operation + "/", StringComparison.Ordinal)).Select(r => r.Name);
        return rows.Contains(full) ? full : throw new UsageException($"--row {row}: no such row; there are {string.Join(", ", rows)}");
    }

    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store) => FlatGemmTuner.Tune(Device.Cpu, store, new FlatGemmTuning
    {
        Layer = Of(layer),
        Grid = [.. settings.Grid],
        Cache = settings.Cache,
        Budget = settings.Budget,
        Cancellation = settings.Cancellation,
        Progress = settings.Progress,
        Candidates = settings.Candidates,
    });

    public override TuningKey KeyOf(Layer layer, CacheState cache) => FlatGemmTuned.Key(Device.Cpu, Of(layer), LayoutOf(Of(layer)), cache);

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

    private static unsafe string? LayoutOf(FlatGemmOptions options)
    {
        KnFlatGemmProblem problem = options.Problem(options.MaxM);
        return FlatGemmSelection.LayoutRow(Device.Cpu, options).Layout(&problem);
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

    private static Option<int?> Extent(string name, string description)
    {
        var option = new Option<int?>(name) { Description = description };
        option.Validators.Add(result =>
        {
            if (Arguments.Given(result) is { } given && given is not (>= 1 and <= 1 << 30)) result.AddError($"{name}: a whole number from 1 to 2^30, not {result.Tokens[0].Value}");
        });
        return option;
    }

    private static Option<DType?> Dtype(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "TYPE",
        CustomParser = result => DtypeList(result) is { Length: 1 } one ? one[0] : null,
    };

    private static DType[] DtypeList(ArgumentResult result)
    {
        var types = new List<DType>();
        foreach (string name in result.Tokens.SelectMany(t => t.Value.Split(',')))
        {
            if (DTypes.TryParse(name, out DType type)) types.Add(type);
            else result.AddError($"{name}: f32, bf16, f16, int8 or int4");
        }
        return [.. types.Distinct()];
    }
}
