using System.CommandLine;
using System.Numerics;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed partial class SpGemmOperation
{
    private sealed record Threshold(string Dataflow, double ModelUs, double? TunedUs, bool Chosen);

    /// <summary>What every row of a device says to a product, its class, and what thresholds the class was tuned with.</summary>
    public override void Explain(ParseResult parsed, Screen screen, TuningStore store)
    {
        Device device = Devices.Find(parsed);
        CacheState cache = parsed.GetValue(ExplainVerb.Cache);
        var all = new List<object>();
        foreach (int threads in parsed.GetValue(ExplainVerb.Threads)!)
            foreach (SpGemmLayer layer in Layers(parsed, threads).Cast<SpGemmLayer>())
                all.Add(layer.Type == DType.Float32 ? Explain<float>(device, layer, threads, screen, store, cache) : Explain<double>(device, layer, threads, screen, store, cache));
        screen.Json(all);
    }

    private object Explain<T>(Device device, SpGemmLayer layer, int threads, Screen screen, TuningStore store, CacheState cache) where T : unmanaged, INumber<T>
    {
        using CsrMatrix<T> here = SpGemmMatrixSpec.Matrix<T>(layer.Matrix, layer.IndexBits), transposed = layer.Transposed ? here.Transpose() : here;
        using var operands = new SpGemmOperands<T>(here, transposed, device, layer.Masked ? here : null, layer.Accumulate ? here : null);
        using SpGemmPlan<T> plan = operands.Plan(layer.Options with { Store = store });
        SpGemmChoice c = plan.Choice;
        var table = new Table($"{Name} {layer.Case} on {device}: {layer.Extents}, {Format.Int(plan.Products)} products, {Format.Int(plan.MostProducts)} in the longest row", "row", "says");
        foreach (RowExplanation row in plan.Explain(store))
            table.Add(row.Row, row.IsChosen ? $"{c.Dataflow}: {c.Source}, {c.Reason}; {Format.Bytes(c.WorkspaceBytes)} of scratch" : row.Refusal ?? "takes it, after those above");
        screen.Show(table);
        SpGemmSample? sample = device.Gpu is null ? plan.Sample() : null;
        List<Threshold> thresholds = sample is null ? [] : Thresholds(new SpGemmThresholds(device, threads, plan.Problem, sample), c, store, cache);
        if (sample is not null) Show(screen, sample, thresholds, plan.Products);
        return new { op = Name, layer = layer.Case, device = Devices.NameOf(device), threads, products = plan.Products, most = plan.MostProducts, @class = sample?.Class, thresholds, dataflow = c.Dataflow.ToString(), source = c.Source, reason = c.Reason, workspace_bytes = c.WorkspaceBytes };
    }

    /// <summary>What was timed for the class, else the choice alone.</summary>
    private static List<Threshold> Thresholds(SpGemmThresholds selection, SpGemmChoice choice, TuningStore store, CacheState cache)
    {
        Evidence? evidence = store.Layers(selection.Key(cache)).Where(e => e.Source != TuningSource.Architecture).Select(e => e.Record?.Evidence.FirstOrDefault()).FirstOrDefault(e => e is not null);
        IEnumerable<(Dataflow Flow, double? Tuned)> flows = evidence is null ? [(choice.Dataflow, null)]
            : evidence.Candidates.Select((d, i) => (d, evidence.Result.Timings[i].Samples.IsEmpty ? (double?)null : evidence.Result.Timings[i].Estimate.Median));
        return [.. flows.Select(f => new Threshold(f.Flow.ToString(), Model(selection, f.Flow) * 1e6, f.Tuned * 1e6, f.Flow.WithThreads(0) == choice.Dataflow.WithThreads(0)))];
    }

    private static double Model(SpGemmThresholds selection, Dataflow flow) =>
        selection.Rows.FirstOrDefault(r => r.Name == flow.Row) is { } row ? selection.Seconds(row, row.Launch(flow), SpGemmThresholds.Memory) : double.NaN;

    private static void Show(Screen screen, SpGemmSample sample, List<Threshold> thresholds, long products)
    {
        screen.Line($"Class: {sample.Class}{(products < SpGemmSelection.LeastTuned ? $"; below {SpGemmSelection.LeastTuned} products thresholds are the defaults" : "")}.");
        var table = new Table("thresholds (window, sort, density, cached, table, blocks)", "dataflow", ">model us", ">tuned us", "");
        foreach (Threshold t in thresholds) table.Add(Format.Short(t.Dataflow), Format.Number(t.ModelUs), Tuned(t.TunedUs), t.Chosen ? "chosen" : "");
        screen.Show(table);
    }

    private static string Tuned(double? us) => us is { } u ? Format.Number(u) : "-";
}
