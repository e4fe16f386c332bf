using System.Collections.Immutable;
using System.CommandLine;
using System.Globalization;

namespace Kernels.Perf;

/// <summary>perf calibrate: phi per head from recorded scores, and how often it would not hold.</summary>
internal static class CalibrateVerb
{
    public static Command Create()
    {
        var files = new Argument<string[]>("scores")
        {
            Description = "NumPy arrays (.npy) of float16, float32 or float64, [tokens, heads, kv_len] or [heads, kv_len]: scores in nats after scale, cap and bias, -inf for a masked key",
            HelpName = "FILE",
            Arity = ArgumentArity.OneOrMore,
        };
        var values = new Option<float>("--largest-value") { Description = "Bound of |v| (default 1024)", HelpName = "V", DefaultValueFactory = _ => 1024 };
        return Verb.Make("calibrate", "Proposes the fixed reference phi of each head for decode attention's unified softmax from recorded scores, with the part of the rows that would be done again.",
            [files, values], (parsed, screen, cancellation) => Run(parsed.GetRequiredValue(files), parsed.GetValue(values), screen, cancellation));
    }

    private static int Run(string[] files, float largest, Screen screen, CancellationToken cancellation)
    {
        SoftmaxCalibration? calibration = null;
        foreach (string file in files)
        {
            using var scores = new NumpyArray(file);
            if (scores.Shape is not ([_, >= 1, >= 1] or [>= 1, >= 1])) throw scores.Wrong("shape [tokens, heads, kv_len] or [heads, kv_len]");
            calibration ??= new SoftmaxCalibration(scores.Shape[^2], largest);
            if (scores.Shape[^2] != calibration.Heads) throw scores.Wrong($"{calibration.Heads} heads, as the first file has");
            var row = new float[scores.Shape[^1]];
            for (long i = 0, rows = scores.Shape.SkipLast(1).Aggregate(1L, (n, extent) => n * extent); i < rows && !cancellation.IsCancellationRequested; i++)
            {
                scores.Read(row);
                calibration.Record((int)(i % calibration.Heads), row);
            }
        }
        ImmutableArray<PhiProposal> heads = calibration!.Propose();
        var table = new Table("phi for unified, and rows that would be done again", [">head", ">phi, nats", ">rows", ">rows again", ">rate", ">95 % below"]);
        for (int h = 0; h < heads.Length; h++)
            table.Add([Format.Int(h), heads[h].Phi.ToString("0.##", CultureInfo.InvariantCulture), Format.Int(heads[h].Rows), Format.Int(heads[h].Recomputed), Rate(heads[h].Rate), Rate(heads[h].UpperRate)]);
        screen.Show(table);
        long all = heads.Sum(h => h.Rows), again = heads.Sum(h => h.Recomputed);
        screen.Line($"{Format.Int(again)} of {Format.Int(all)} rows would be done again{(all == 0 ? "" : $", {Rate((double)again / all)}")}.");
        screen.Json(heads.Select((h, i) => new { head = i, h.Phi, h.Rows, h.Recomputed, h.Rate, h.UpperRate }));
        return all > 0 ? Exit.Ok : Exit.Bad;
    }

    private static string Rate(double part) => (part * 100).ToString("0.###", CultureInfo.InvariantCulture) + " %";
}
