using System.CommandLine;
using System.Globalization;
using System.Numerics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>A product of a named matrix with itself or with its transpose.</summary>
/// <param name="More">What is asked beyond the plain product, for the head of a table: nothing, or ", min_plus, mask A".</param>
/// <param name="Tune">Not of a suite's product that is too small for thresholds of its own.</param>
internal sealed record SpGemmLayer(string Matrix, bool Transposed, DType Type, SpGemmOptions Options, bool Masked, bool Accumulate, int IndexBits, string More, bool Tune)
    : Layer($"{Matrix} {SpGemmOperation.Product(Transposed)}{More}", Type.Name(), Tune)
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
        Description = $"A list of {SpGemmMatrixSpec.Help} (default a suite: {SpGemmSuite.Help})",
        HelpName = "LIST",
        CustomParser = result => [.. result.Tokens.SelectMany(t => t.Value.Split(',', StringSplitOptions.RemoveEmptyEntries)).SelectMany(SpGemmSuite.Expand)],
    };
    private static readonly Option<double> s_most = new("--most-products") { Description = "Leave out products with more multiplications (default 2e8: C, its copies and their bounds take some 15 GB)", DefaultValueFactory = _ => 2e8 };
    private static readonly Option<long> s_budget = new("--memory-budget") { Description = "MiB for scratch and C: C comes in pieces, and the process is measured against it", HelpName = "MIB" };
    private static readonly Option<long?> s_schedule = new("--schedule-limit") { Description = "MiB for the schedule of values alone; 0: none (default an eighth of memory)", HelpName = "MIB" };
    private static readonly Option<bool> s_transpose = new("--transpose") { Description = "A·Aᵀ in place of A·A; of the suite, which has both, it or with false the other alone" };
    private static readonly Option<Semiring> s_semiring = new("--semiring")
    {
        Description = $"One of {string.Join(", ", Enum.GetValues<Semiring>().Select(SemiringName))} (default plus_times)",
        HelpName = "NAME",
        CustomParser = result =>
        {
            foreach (Semiring s in Enum.GetValues<Semiring>())
                if (SemiringName(s) == result.Tokens[0].Value) return s;
            result.AddError($"--semiring: one of {string.Join(", ", Enum.GetValues<Semiring>().Select(SemiringName))}, not {result.Tokens[0].Value}");
            return default;
        },
    };
    private static readonly Option<bool> s_mask = new("--masked") { Description = "Keep what falls on entries of A, which is the mask" };
    private static readonly Option<bool> s_complement = new("--complement") { Description = "With --masked: leave that out instead" };
    private static readonly Option<bool> s_valued = new("--valued") { Description = "With --masked: entries of A count where they are not 0" };
    private static readonly Option<bool> s_accumulate = new("--accumulate") { Description = "Add A to the product" };
    private static readonly Option<bool> s_unsorted = new("--unsorted") { Description = "Rows of C in any order" };
    private static readonly Option<bool> s_structure = new("--structure") { Description = "The structure of C alone" };
    private static readonly Option<int> s_index = new("--index") { Description = "Bits of a column: 32 or 64 (default 32)", HelpName = "BITS", DefaultValueFactory = _ => 32 };
    private static readonly Option<string> s_values = new("--values") { Description = "f64 or f32 (default f64)", HelpName = "TYPE", DefaultValueFactory = _ => "f64" };

    public override string Name => "spgemm";

    public override KnOp Op => KnOp.SpGemm;

    /// <summary>A product waits for its sizes.</summary>
    public override bool OnlyEnqueues => false;

    public override Axis Axis { get; } = new("reuse", "What a call may reuse: 1 nothing, 2 memory, 3 the structure of C (numeric phase alone)", 1, "1,2,3", "1,2", "2");

    protected override IReadOnlyList<Option> ShapeOptions => [s_matrix, s_transpose, s_values, s_semiring, s_mask, s_complement, s_valued, s_accumulate, s_unsorted, s_structure, s_index, s_most, s_budget, s_schedule, Arguments.Row];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads)
    {
        DType type = parsed.GetValue(s_values) switch { "f64" => DType.Float64, "f32" => DType.Float32, var other => throw new UsageException($"--values: f64 or f32, not {other}") };
        bool masked = parsed.GetValue(s_mask), accumulate = parsed.GetValue(s_accumulate);
        int index = parsed.GetValue(s_index);
        if (index is not (32 or 64)) throw new UsageException($"--index: 32 or 64, not {index}");
        if (parsed.GetValue(s_complement) && !masked) throw new UsageException("--complement: of a mask, so with --masked");
        if (parsed.GetValue(s_valued) && (!masked || parsed.GetValue(s_structure))) throw new UsageException("--valued: of a mask, so with --masked, and of a product with values, so without --structure");
        SpGemmOptions options = Options(parsed, threads);
        string more = More(options, masked, accumulate, index);
        string[]? named = parsed.GetValue(s_matrix) is { Length: > 0 } given ? given : null;
        bool[] products = named is null && parsed.GetResult(s_transpose) is null or { Implicit: true } ? [false, true] : [parsed.GetValue(s_transpose)];
        var layers = new List<Layer>();
        foreach (string matrix in named ?? SpGemmSuite.Matrices())
        {
            SparseStructure s;
            try
            {
                s = SpGemmMatrixSpec.Structure(matrix);
            }
            catch (UsageException e) when (named is null)
            {
                Screen.Note($"{e.Message}: it is left out");
                continue;
            }
            foreach (bool transpose in products)
            {
                double count = Products(s, transpose);
                string? without = s.Rows != s.Columns && !transpose ? $"{s.Rows} x {s.Columns}, which only --transpose multiplies"
                    : s.Rows != s.Columns && (masked || accumulate) ? $"{s.Rows} x {s.Columns}, which as mask or addend has not the shape of C" : null;
                if (without is not null && named is not null) throw new UsageException($"--matrix {matrix}: {without}");
                if (count > parsed.GetValue(s_most)) without ??= string.Create(CultureInfo.InvariantCulture, $"{count:0.##e+0} products, more than --most-products");
                if (without is not null) Screen.Note($"{matrix} {Product(transpose)} is left out: {without}");
                else layers.Add(new SpGemmLayer(matrix, transpose, type, options, masked, accumulate, index, more, named is not null || count >= SpGemmSelection.LeastTuned));
            }
        }
        return layers;
    }

    internal static string Product(bool transposed) => transposed ? "A·Aᵀ" : "A·A";

    private SpGemmOptions Options(ParseResult parsed, int threads) => new()
    {
        Threads = threads,
        Row = RowName(parsed),
        MemoryBudget = Bytes(s_budget.Name, parsed.GetValue(s_budget)),
        ScheduleLimit = parsed.GetValue(s_schedule) is { } limit ? Bytes(s_schedule.Name, limit) : null,
        Semiring = parsed.GetValue(s_semiring),
        Complement = parsed.GetValue(s_complement),
        ValuedMask = parsed.GetValue(s_valued),
        Sorted = !parsed.GetValue(s_unsorted),
        StructureOnly = parsed.GetValue(s_structure),
    };

    private static long Bytes(string option, long mebibytes) =>
        mebibytes is >= 0 and <= long.MaxValue >> 20 ? mebibytes << 20 : throw new UsageException($"{option}: 0 to {long.MaxValue >> 20} MiB, not {mebibytes}");

    private static string SemiringName(Semiring s) => s switch
    {
        Semiring.MinPlus => "min_plus",
        Semiring.MaxPlus => "max_plus",
        Semiring.OrAnd => "or_and",
        Semiring.PlusPair => "plus_pair",
        _ => "plus_times",
    };

    private static string More(SpGemmOptions o, bool masked, bool accumulate, int index) =>
        (accumulate ? " + A" : "") + (o.Semiring == Semiring.PlusTimes ? "" : $", {SemiringName(o.Semiring)}") + (!masked ? "" : $", mask {(o.Complement ? "not " : "")}A{(o.ValuedMask ? " != 0" : "")}")
        + (o.Sorted ? "" : ", unsorted") + (o.StructureOnly ? ", structure" : "") + (index == 32 ? "" : $", {index}-bit columns");

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
        if (l.Options.StructureOnly && points.Contains(StructureOfC)) throw new UsageException("--structure: without values there is no numeric phase, --reuse 3");
        if (on.Device.Gpu is not null && l.Options.MemoryBudget > 0) throw new UsageException("--memory-budget: the process is measured against it, which says nothing about a GPU");
        l = l with { Options = l.Options with { Store = store } };
        return l.Type == DType.Float32 ? new SpGemmWorkbench<float>(l, on.Device) : new SpGemmWorkbench<double>(l, on.Device);
    }

    public override Work WorkOf(Layer layer, int at)
    {
        using Workbench bench = Open(layer, [at], new Conditions(Device.Cpu, CacheState.Warm), TuningStore.Default);
        return bench.WorkAt(at);
    }

    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store)
    {
        var l = (SpGemmLayer)layer;
        return l.Type == DType.Float32 ? Tune<float>(l, settings, store) : Tune<double>(l, settings, store);
    }

    private static TuningResult Tune<T>(SpGemmLayer l, TuneSettings settings, TuningStore store) where T : unmanaged, INumber<T>
    {
        using CsrMatrix<T> a = SpGemmMatrixSpec.Matrix<T>(l.Matrix, l.IndexBits), b = l.Transposed ? a.Transpose() : a;
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
        }, a, b, l.Masked ? a : null, l.Accumulate ? a : null);
    }

    /// <summary>The key of the class that the product belongs to.</summary>
    public override TuningKey KeyOf(Layer layer, CacheState cache)
    {
        var l = (SpGemmLayer)layer;
        return l.Type == DType.Float32 ? KeyOf<float>(l, cache) : KeyOf<double>(l, cache);
    }

    private static TuningKey KeyOf<T>(SpGemmLayer l, CacheState cache) where T : unmanaged, INumber<T>
    {
        using CsrMatrix<T> a = SpGemmMatrixSpec.Matrix<T>(l.Matrix, l.IndexBits), b = l.Transposed ? a.Transpose() : a;
        using SpGemmPlan<T> plan = SpGemmPlan<T>.Create(a, b, l.Options, l.Masked ? a : null, l.Accumulate ? a : null);
        return new SpGemmThresholds(Device.Cpu, l.Options.Threads, plan.Problem, plan.Sample()).Key(cache);
    }

    // A key names a class of products, not a matrix that could be made again.
    public override Layer? LayerOf(TuningKey key) => null;
}
