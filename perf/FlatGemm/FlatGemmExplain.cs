using System.CommandLine;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed partial class FlatGemmOperation
{
    public override void Explain(ParseResult parsed, Screen screen, TuningStore store)
    {
        int[] points = Axis.Explain(parsed);
        CacheState cache = parsed.GetValue(ExplainVerb.Cache);
        Device device = Devices.Find(parsed);
        var all = new List<object>();
        foreach (int threads in parsed.GetValue(ExplainVerb.Threads)!)
            foreach (Layer layer in Layers(parsed, threads))
            {
                FlatGemmOptions options = Of(layer) with { MaxM = points.Max(), Cache = cache };
                string? layout = LayoutOf(device, options);
                var segments = FlatGemmSelection.Choose(device, options, layout, store, cache);
                FlatGemmSelection selection = FlatGemmSelection.Of(device, options, layout);
                object said = new Explanation<KnFlatGemmProblem>(selection, segments, Op, cache).Show(screen, Title(layer, threads, cache, $"layout {layout ?? "rows"}"), points, store);
                all.Add(new { op = Name, layer = layer.Case, layer.Dtypes, shape = layer.ShapeByName, threads, layout, cache, said });
            }
        screen.Json(all);
    }
}
