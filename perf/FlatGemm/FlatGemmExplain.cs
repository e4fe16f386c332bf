using System.CommandLine;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed unsafe partial class FlatGemmOperation
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
                FlatGemmOptions options = Of(layer) with { MaxM = points.Max() };
                string? layout = LayoutOf(device, options);
                var segments = FlatGemmSelection.Choose(device, options, layout, store, cache);
                var selection = new FlatGemmSelection(device, options, layout, FlatGemmSelection.Sharing(device, options, layout));
                object said = new Explanation<KnFlatGemmProblem>(selection, segments, Op, cache).Show(screen, Title(layer, threads, cache, $"layout {layout ?? "rows"}"), points, store, Unlike);
                all.Add(new { op = Name, layer = layer.Case, layer.Dtypes, shape = layer.ShapeByName, threads, layout, cache, said });

                string? Unlike(Row row)
                {
                    KnFlatGemmProblem problem = options.Problem(points[0]);
                    return row.Layout(&problem) == layout ? null : $"reads another layout: {row.Layout(&problem) ?? "rows"}";
                }
            }
        screen.Json(all);
    }
}
