using System.CommandLine;
using System.Globalization;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed unsafe partial class SparseLinearOperation
{
    private sealed record Explanation(int M, string Sparse, double SparseUs, double? SparseTunedUs, string Dense, double DenseUs, double? DenseTunedUs,
        double CrossoverDensity, bool IsSparse, ChoiceSource Source, string Reason);

    /// <summary>For every m both forms with their times by the models and as they were tuned, the density at which they cross, and the choice.</summary>
    public override void Explain(ParseResult parsed, Screen screen, TuningStore store)
    {
        CacheState cache = parsed.GetValue(ExplainVerb.Cache);
        Device device = Devices.Find(parsed);
        var all = new List<object>();
        foreach (int threads in parsed.GetValue(ExplainVerb.Threads)!)
            foreach (SparseLinearLayer layer in Layers(parsed, threads).Cast<SparseLinearLayer>())
            {
                List<Explanation> rows = [.. Axis.Bench(parsed).Select(m => Explain(device, layer, m, store, cache))];
                var table = new Table(Title(layer, threads, cache, $"on {device}"), ">m", "sparse", ">model us", ">tuned us", "dense", ">model us", ">tuned us",
                    ">dense from density", "choice", "why");
                foreach (Explanation e in rows)
                    table.Add(Format.Int(e.M), Format.Short(e.Sparse), Format.Number(e.SparseUs), Tuned(e.SparseTunedUs), Format.Short(e.Dense), Format.Number(e.DenseUs), Tuned(e.DenseTunedUs),
                        e.CrossoverDensity.ToString("0.00", CultureInfo.InvariantCulture), e.IsSparse ? "sparse" : "dense", e.Reason);
                screen.Show(table);
                screen.Line(Crossing(rows));
                all.Add(new { op = Name, layer = layer.Case, shape = layer.Shape.ToDictionary(s => s.Item1, s => s.Item2), layer.Dtypes, device = Devices.NameOf(device), threads, cache, rows });
            }
        screen.Json(all);
    }

    private static string Tuned(double? us) => us is { } u ? Format.Number(u) : "-";

    private static Explanation Explain(Device device, SparseLinearLayer layer, int m, TuningStore store, CacheState cache)
    {
        SparseLinearChoice c = SparseLinearForms.Choose(device, layer.Options, layer.Density, m, store, cache);
        (double? sparse, double? dense) = SparseLinearForms.Measured(device, layer.Options, Nnz(layer), m, store, cache);
        return new(m, c.Sparse.ToString(), c.SparseSeconds * 1e6, sparse * 1e6, c.Dense.ToString(), c.DenseSeconds * 1e6, dense * 1e6,
            c.Crossover, c.IsSparse, c.Source, c.Evidence);
    }

    /// <summary>"sparse up to m = 4, dense from m = 8".</summary>
    private static string Crossing(List<Explanation> rows)
    {
        var parts = new List<string>();
        for (int i = 0; i < rows.Count; i++)
            if (i == 0 || rows[i].IsSparse != rows[i - 1].IsSparse)
                parts.Add(string.Create(CultureInfo.InvariantCulture, $"{(rows[i].IsSparse ? "sparse" : "dense")} from m = {rows[i].M}"));
        return $"Of the m above: {string.Join(", ", parts)}.";
    }
}
