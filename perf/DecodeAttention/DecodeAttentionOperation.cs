using System.CommandLine;
using System.Globalization;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>Attention over a cache as the library takes it; MaxKvLen is the axis.</summary>
internal sealed record DecodeAttentionLayer(string Case, DecodeAttentionOptions Options, bool Phi, KvLayout Layout = KvLayout.Nhd, bool Ragged = false)
    : Layer(Case, DtypesOf(Options), true)
{
    public override IReadOnlyList<(string, int)> Shape =>
    [
        ("batch", Options.MaxBatch), ("q_len", Options.MaxQLen), ("q_heads", Options.QHeads), ("kv_heads", Options.KvHeads), ("head_dim", Options.HeadDim),
        .. Options.ValueDim == Options.HeadDim ? (ReadOnlySpan<(string, int)>)[] : [("v_head_dim", Options.ValueDim)], ("page_size", Options.PageSize),
        .. Layout == KvLayout.Hnd ? (ReadOnlySpan<(string, int)>)[("hnd", 1)] : [], .. Ragged ? (ReadOnlySpan<(string, int)>)[("ragged", 1)] : [],
    ];

    /// <summary>The phi of every head.</summary>
    public float Reference { get; init; } = DecodeAttentionData.Fits;

    /// <summary>Tokens in the cache of each sequence; ragged: of the first so many, of the others log-uniformly fewer, down to a sixteenth.</summary>
    public int[] KvLens(int at)
    {
        var random = new TrialRandom(LengthsSeed);
        return [.. Enumerable.Range(0, Options.MaxBatch).Select(b => !Ragged || b == 0 ? at : (int)MathF.Ceiling(at * MathF.Pow(2, -random.Uniform(0, 4))))];
    }

    /// <summary>Bytes of the cache with so many tokens of the longest sequence.</summary>
    public long KvBytes(int at) => KvLens(at).Sum((Options with { MaxBatch = 1 }).KvBytes);

    private const ulong LengthsSeed = 20261128;

    private static string DtypesOf(DecodeAttentionOptions o) => $"{o.Query.Name()} x {o.Kv.Name()}{(o.KvScales ? " scaled" : "")} -> {o.Output.Name()}";
}

/// <summary>decode_attention for the verbs: its options, layers and keys.</summary>
internal sealed partial class DecodeAttentionOperation : Operation
{
    private static readonly Option<int[]?> s_batch = Arguments.Points("--batch", "Sequences (default 1,8,32)", 1, "1,8,32");
    private static readonly Option<int[]?> s_qLen = Arguments.Points("--q-len", "New tokens of a sequence (default 1,4)", 1, "1,4");
    private static readonly Option<int?> s_qHeads = Arguments.Extent("--q-heads", "Heads of q"), s_kvHeads = Arguments.Extent("--kv-heads", "Heads of the cache"),
        s_headDim = Arguments.Extent("--head-dim", "Elements of a head"), s_vHeadDim = Arguments.Extent("--v-head-dim", "Elements of a head of v (default --head-dim)");
    private static readonly Option<DType[]> s_kv = new("--kv")
    {
        Description = "Types of the cache: f32, bf16, f16, int8 or e4m3, or a list (default bf16)",
        HelpName = "LIST",
        CustomParser = result => Arguments.DtypeList(result),
        DefaultValueFactory = _ => [DType.BFloat16],
    };
    private static readonly Option<DType?> s_query = Arguments.Dtype("--query", "Type of q (default: that of the cache, bf16 for int8 and e4m3)");
    private static readonly Option<int> s_pageSize = new("--page-size") { Description = "Tokens of a page; 0: contiguous (default 16)", DefaultValueFactory = _ => 16 };
    private static readonly Option<int?> s_window = Arguments.Extent("--window", "Keys that a token sees");
    private static readonly Option<float> s_softcap = new("--softcap") { Description = "Cap of the scores in nats" };
    private static readonly Option<KvLayout> s_layout = new("--layout") { Description = "NHD: pages of [page_size, kv_heads, head_dim]; HND: of [kv_heads, page_size, head_dim] (default NHD)", HelpName = "NHD|HND" };
    private static readonly Option<bool> s_ragged = new("--ragged") { Description = "bench and compare: one sequence of kv_len tokens, the others of log-uniformly fewer, down to a sixteenth" },
        s_scales = new("--kv-scales") { Description = "With scales per token and head in an e4m3 cache" };
    private static readonly Option<bool> s_alibi = new("--alibi") { Description = "A bias linear in the distance" }, s_sinks = new("--sinks") { Description = "A sink per head" },
        s_noPhi = new("--no-phi") { Description = "Without a phi per head: unified cannot be chosen" }, s_norms = new("--key-norms") { Description = "With the largest key norm of each page: bounded can be chosen" };
    private static readonly Option<float?> s_phi = new("--phi") { Description = "bench and compare: the phi of every head, in nats (default 2, which fits; another one shows what rows that are done again cost)", HelpName = "NATS" };
    private static readonly Option<AttentionMask> s_mask = new("--mask") { Description = "Causal, Tree or Full" };
    private static readonly Option<SoftmaxDataflow> s_softmax = new("--softmax") { Description = "Auto, Sync, Lazy, Unified or Bounded" };

    public override string Name => "decode_attention";

    public override KnOp Op => KnOp.DecodeAttention;

    public override Axis Axis { get; } = new("kv_len", "Tokens in the cache of a sequence", 1, Lengths, Lengths, Lengths, explain: "4096");

    private const string Lengths = "1024,4096,16384,65536,131072";

    protected override IReadOnlyList<Option> ShapeOptions =>
    [
        Arguments.Model, s_batch, s_qLen, s_qHeads, s_kvHeads, s_headDim, s_vHeadDim, s_kv, s_query, Arguments.Output, s_pageSize, s_window, s_softcap, s_layout, s_ragged, s_scales,
        s_alibi, s_sinks, s_phi, s_noPhi, s_norms, s_mask, s_softmax, Arguments.BatchInvariant, Arguments.Row,
    ];

    public override IReadOnlyList<Layer> Layers(ParseResult parsed, int threads)
    {
        (string name, ModelAttention heads) = Heads(parsed);
        bool ragged = parsed.GetValue(s_ragged);
        if (ragged && parsed.CommandResult.Command.Name is not ("bench" or "compare")) throw new UsageException("--ragged is for bench and compare: choices are made and stored for the longest sequence of a call");
        float? phi = parsed.GetValue(s_phi);
        if (phi is not null && parsed.CommandResult.Command.Name is not ("bench" or "compare")) throw new UsageException("--phi is for bench and compare: choices are made for a phi that fits");
        if (phi is not null && (!float.IsFinite(phi.Value) || parsed.GetValue(s_noPhi))) throw new UsageException("--phi: a finite number, and not with --no-phi");
        if (phi is not null) name = string.Create(CultureInfo.InvariantCulture, $"{name}, phi {phi}");
        if (parsed.GetValue(s_scales) && !parsed.GetValue(s_kv)!.Contains(DType.Float8E4M3)) throw new UsageException("--kv-scales is for an e4m3 cache: int8 always has them, others never");
        int[] batches = parsed.GetValue(s_batch) is { Length: > 0 } b ? b : [1, 8, 32], lengths = parsed.GetValue(s_qLen) is { Length: > 0 } q ? q : [1, 4];
        int[] points = parsed.GetValue(Axis.Option) is { Length: > 0 } given ? given : [131072];
        var layers = new List<Layer>();
        foreach (DType kv in parsed.GetValue(s_kv)!)
            foreach (int batch in batches)
                foreach (int length in lengths)
                {
                    DecodeAttentionOptions options = Options(parsed, heads, kv, threads) with { MaxBatch = batch, MaxQLen = length, MaxKvLen = points.Max() };
                    options.Check();
                    layers.Add(new DecodeAttentionLayer(name, options, !parsed.GetValue(s_noPhi), parsed.GetValue(s_layout), ragged) { Reference = phi ?? DecodeAttentionData.Fits });
                }
        return layers;
    }

    private static (string, ModelAttention) Heads(ParseResult parsed)
    {
        string? model = parsed.GetValue(Arguments.Model);
        int? q = parsed.GetValue(s_qHeads), kv = parsed.GetValue(s_kvHeads), dim = parsed.GetValue(s_headDim);
        if (model is not null)
        {
            if ((q ?? kv ?? dim) is not null) throw new UsageException("--model names the heads already: leave out --q-heads, --kv-heads and --head-dim");
            ModelAttention heads = Model.Load(model).DecodeAttention ?? throw new UsageException($"--model {model}: the file has no decode_attention");
            return (Path.GetFileName(model).Replace(".json", "", StringComparison.Ordinal).ToLowerInvariant(), heads);
        }
        if (q is null || kv is null || dim is null) throw new UsageException("a shape is missing: give --model NAME, or --q-heads, --kv-heads and --head-dim");
        return (string.Create(CultureInfo.InvariantCulture, $"{q}/{kv} x {dim}"), new ModelAttention(q.Value, kv.Value, dim.Value));
    }

    private DecodeAttentionOptions Options(ParseResult parsed, ModelAttention heads, DType kv, int threads)
    {
        DType query = parsed.GetValue(s_query) ?? (kv is DType.Int8 or DType.Float8E4M3 ? DType.BFloat16 : kv);
        return new DecodeAttentionOptions
        {
            QHeads = heads.QHeads,
            KvHeads = heads.KvHeads,
            HeadDim = heads.HeadDim,
            VHeadDim = parsed.GetValue(s_vHeadDim) ?? 0,
            MaxKvLen = 0,
            PageSize = parsed.GetValue(s_pageSize),
            Window = parsed.GetValue(s_window) ?? heads.Window,
            SoftCap = parsed.GetResult(s_softcap) is { Implicit: false } ? parsed.GetValue(s_softcap) : heads.Softcap,
            Alibi = parsed.GetValue(s_alibi),
            Sinks = parsed.GetValue(s_sinks),
            Mask = parsed.GetValue(s_mask),
            Query = query,
            Kv = kv,
            Output = parsed.GetValue(Arguments.Output) ?? query,
            KvScales = parsed.GetValue(s_scales) && kv == DType.Float8E4M3,
            KeyNorms = parsed.GetValue(s_norms),
            Softmax = parsed.GetValue(s_softmax),
            BatchInvariant = parsed.GetValue(Arguments.BatchInvariant),
            Threads = threads,
            Row = RowName(parsed),
        };
    }

    public override void Explain(ParseResult parsed, Screen screen, TuningStore store)
    {
        int[] points = Axis.Explain(parsed);
        CacheState cache = parsed.GetValue(ExplainVerb.Cache);
        Device device = Devices.Find(parsed);
        var all = new List<object>();
        foreach (int threads in parsed.GetValue(ExplainVerb.Threads)!)
            foreach (DecodeAttentionLayer layer in Layers(parsed, threads).Cast<DecodeAttentionLayer>())
            {
                DecodeAttentionOptions options = layer.Options with { MaxKvLen = points.Max() };
                var selection = new DecodeAttentionSelection(device, options, layer.Phi);
                var segments = DecodeAttentionSelection.Choose(device, options, layer.Phi, store, cache);
                object said = new Explanation<KnDecodeAttentionProblem>(selection, segments, Op, cache).Show(screen, Title(layer, threads, cache, $"softmax {options.Softmax}"), points, store);
                screen.Line($"The first parameter of a dataflow is its softmax: {string.Join(", ", Enum.GetValues<KnSoftmax>().Select(s => $"{(int)s} {s.ToString().ToLowerInvariant()}"))}.");
                all.Add(new { op = Name, layer = layer.Case, layer.Dtypes, shape = layer.ShapeByName, threads, cache, said });
            }
        screen.Json(all);
    }

    public override TuningResult Tune(Layer layer, TuneSettings settings, TuningStore store) => DecodeAttentionTuner.Tune(settings.Device, store, new DecodeAttentionTuning
    {
        Options = Of(layer),
        Phi = ((DecodeAttentionLayer)layer).Phi,
        HeadMajor = ((DecodeAttentionLayer)layer).Layout == KvLayout.Hnd,
        Grid = [.. settings.Grid.Where(at => Of(layer).KvBytes(at) <= CallTimer.MemoryCap)],
        Cache = settings.Cache,
        Eager = settings.Eager,
        KeepSimulated = settings.KeepSimulated,
        Budget = settings.Budget,
        Cancellation = settings.Cancellation,
        Progress = settings.Progress,
        Watch = settings.Watch,
        Candidates = settings.Candidates,
    });

    public override TuningKey KeyOf(Layer layer, CacheState cache) => DecodeAttentionTuned.Key(Device.Cpu, Of(layer), ((DecodeAttentionLayer)layer).Phi, cache);

    public override Layer? LayerOf(TuningKey key)
    {
        if (key.Operation != Name) return null;
        try
        {
            int Number(string name) => int.Parse(key.Problem[name], CultureInfo.InvariantCulture);
            DType Type(string name) => DTypes.TryParse(key.Problem[name], out DType type) ? type : throw new FormatException(name);
            var options = new DecodeAttentionOptions
            {
                QHeads = Number("q_heads"),
                KvHeads = Number("kv_heads"),
                HeadDim = Number("head_dim"),
                VHeadDim = Number("v_head_dim"),
                MaxBatch = Number("batch"),
                MaxQLen = Number("q_len"),
                MaxKvLen = 0,
                PageSize = Number("page_size"),
                Window = Number("window"),
                SoftCap = key.Problem["softcap"] switch { "bounding" => 50, "wide" => 100, _ => 0 },
                Alibi = Number("alibi") != 0,
                Sinks = Number("sinks") != 0,
                Mask = Enum.Parse<AttentionMask>(key.Problem["mask"], ignoreCase: true),
                Query = Type("query"),
                Kv = Type("kv"),
                Output = Type("output"),
                KvScales = Type("kv") == DType.Float8E4M3 && Number("scales") != 0,
                KeyNorms = Number("norms") != 0,
                Softmax = Enum.Parse<SoftmaxDataflow>(key.Problem["softmax"], ignoreCase: true),
                BatchInvariant = Number("batch_invariant") != 0,
                Threads = key.Device.Threads == Device.Cpu.Threads ? 0 : key.Device.Threads,
            };
            return new DecodeAttentionLayer(string.Create(CultureInfo.InvariantCulture, $"{options.QHeads}/{options.KvHeads} x {options.HeadDim}"), options, Number("phi") != 0);
        }
        catch (Exception e) when (e is KeyNotFoundException or FormatException or OverflowException or ArgumentException)
        {
            return null;
        }
    }

    private static DecodeAttentionOptions Of(Layer layer) => ((DecodeAttentionLayer)layer).Options;
}
