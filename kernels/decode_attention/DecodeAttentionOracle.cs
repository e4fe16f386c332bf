using Kernels.Interop.Native;
using static Kernels.Rounding;

namespace Kernels;

/// <summary>
/// What one row (a head of a token) reads, decoded. K [keys, D] and V [keys, Dv] are as stored, with the scales of each key
/// apart (1 where there are none). Visible lists the keys that the row sees and Bias what ALiBi adds to each.
/// </summary>
internal sealed class DecodeAttentionView
{
    public required double[] Q, K, V, KScales, VScales, Bias;
    public required int[] Visible;
    public required double Scale;

    /// <summary>NaN: none.</summary>
    public double Sink = double.NaN;

    /// <summary>The largest |reference| that unified or bounded may subtract; 0 where neither can be chosen.</summary>
    public double Reference;
}

/// <summary>
/// decode_attention in f64, in plain loops from the formulas of decode_attention.h, whose own rounding is 2^-29 of what is
/// allowed and left out. The tolerance of an element is derived, step by step, in nats until p is formed:
/// <para>1. Score. s = scale (times that of the key) q . k passes at most D + 6 roundings of f32, so it errs by gamma(D + 6)
/// |scale| sum |q k|, and by 2^-149 of each term that underflows; dot products of bf16 take denormal operands for zero. Integer
/// rows (s8 keys) may hold q in fixed point of 15 bits of its largest, 2^-15 max|q| sum |k|.</para>
/// <para>2. Soft cap: the slope of tanh, 1 - tanh^2, times that, and 8 u softcap of its own (tanh from exp is good to some u of
/// 1, not of itself). ALiBi: one product and one sum. </para>
/// <para>3. exp(x - reference). Rounding x, the reference and their difference, each possibly times log2 e, costs 4 u of their
/// size, exp 8 u, and the way from the reference of x to the last one passes M - x nats in pieces of the same relative error. So
/// p has the relative error E = exp(e) - 1, and what is common to all p cancels: |d out| is at most sum p E |v - out| / l.</para>
/// <para>4. Sums. Of n keys, renewed and rescaled at most once per 16, in any order of splits: C = n + n / 16 + 32 roundings,
/// gamma(C) (sum p |v| / l + |out|).</para>
/// <para>5. P. Rows of bf16 may hold p (times the scale of v) in bf16, 2^-8 relative, of f16 in f16, 2^-11, and divide by the sum
/// of p as it was or as it is held: 2^-8 times the larger of sum p |v| / l and sum p |v - out| / l. Integer rows may hold it in
/// 15 bits of the largest, 2^-15 for each v. A flushed p is below 2^-24 of l, by the end test.</para>
/// <para>6. Quotient and output: 4 u and half an ulp. lse = M + ln l: sum p E / l, the sums, 4 u, and 4 u of its size and of the
/// reference's.</para>
/// <para>Not finite: a NaN or infinite score spoils the row; a value that is not finite spoils its column where its weight is
/// above 2^-100 and may where it is below.</para>
/// The spread is the same with the square root of every count: the size that independent roundings have (Higham and Mary, 2019).
/// </summary>
internal static class DecodeAttentionOracle
{
    private const double Fixed15 = 1.0 / (1 << 15);

    /// <summary>One row: expected [Dv] and what f32 itself spreads around them.</summary>
    public static Expected Row(in KnDecodeAttentionProblem p, DecodeAttentionView r, Span<Expected> expected, out Expected lse, out double spread)
    {
        int n = r.Visible.Length, dv = p.VHeadDim;
        spread = 0;
        var x = new double[n];
        var error = new double[n];
        var likely = new double[n];
        bool overflows = false;
        for (int i = 0; i < n; i++) x[i] = Score(p, r, i, out error[i], out likely[i], ref overflows);
        bool sinks = !double.IsNaN(r.Sink);
        double top = sinks ? r.Sink : double.NegativeInfinity;
        foreach (double v in x) top = Math.Max(top, v);  // NaN wins
        bool spoilt = double.IsNaN(top) || double.IsPositiveInfinity(top);
        if (overflows || spoilt || double.IsNegativeInfinity(top))
        {
            Outcome outcome = overflows || n > 0 && !spoilt ? Outcome.Any : spoilt ? Outcome.NonFinite : Outcome.Finite;
            expected.Fill(new Expected(0, 0, outcome));
            return lse = new Expected(spoilt ? double.NaN : double.NegativeInfinity, 0, outcome);
        }
        double reference = Math.Max(Math.Abs(top), r.Reference), l = 0, wrong = 0, wrongLikely = 0;
        for (int i = 0; i < n; i++)
        {
            double path = 4 * U * (top - x[i] + Math.Abs(x[i]) + reference) + 8 * U, weight = Math.Exp(x[i] - top);
            l += weight;
            x[i] = weight;
            error[i] = double.IsFinite(error[i]) ? Math.Exp(error[i] + path) - 1 : 0;  // exp(-infinity) is exact
            likely[i] = double.IsFinite(likely[i]) ? Math.Exp(likely[i] + path) - 1 : 0;
            wrong += weight * error[i];
            wrongLikely += weight * likely[i] * weight * likely[i];
        }
        double sinkWeight = sinks ? Math.Exp(r.Sink - top) : 0, sinkError = sinkWeight == 0 ? 0 : 4 * U * (top - r.Sink + Math.Abs(r.Sink) + reference) + 8 * U;
        l += sinkWeight;
        wrong = (wrong + sinkWeight * sinkError) / l;
        double sums = Gamma(n + n / 16.0 + 32), value = top + Math.Log(l);
        double logs = 4 * U * (Math.Abs(value) + reference) + 4 * U;
        spread = wrongLikely = Math.Sqrt(wrongLikely) / l;
        lse = new Expected(value, wrong / (1 - Math.Min(wrong, 0.5)) + sums + logs + HalfUlp(DType.Float32, Math.Abs(value)), wrong < 0.5 ? Outcome.Finite : Outcome.Any);
        double stored = p.QType switch { (int)DType.BFloat16 => 1.0 / 256, (int)DType.Float16 => 1.0 / 2048, _ => U };
        double peak = 0;
        for (int i = 0; i < n; i++) peak = Math.Max(peak, x[i] * Math.Abs(r.VScales[r.Visible[i]]));
        for (int d = 0; d < dv; d++)
        {
            Column c = Sum(p, r, x, error, likely, d, l);
            double far = (c.Far + sinkWeight * sinkError * Math.Abs(c.Out)) / l / (1 - Math.Min(wrong, 0.5));
            double rest = U * c.Largest + 4 * U * Math.Abs(c.Out) + (p.KvType == (int)DType.Int8 ? Fixed15 * peak * c.Plain / l : 0);
            double tolerance = far + sums * (c.Magnitude + Math.Abs(c.Out)) + stored * Math.Max(c.Magnitude, c.Around) + rest;
            var type = (DType)p.OutType;
            expected[d] = new Expected(c.Out, tolerance + HalfUlp(type, Math.Abs(c.Out) + tolerance),
                c.Outcome == Outcome.Finite && wrong >= 0.5 ? Outcome.Any : c.Outcome);
            if (c.Outcome != Outcome.Finite) continue;
            double f32 = Math.Sqrt(c.FarLikely) / l + Gamma(Math.Sqrt(n) + 8) * (c.Magnitude + Math.Abs(c.Out)) + 4 * U * Math.Abs(c.Out);
            spread = Math.Max(spread, f32 + HalfUlp(type, Math.Abs(c.Out)));
        }
        return lse;
    }

    private readonly record struct Column(double Out, double Magnitude, double Around, double Plain, double Far, double FarLikely, double Largest, Outcome Outcome);

    // Sums over the visible keys of one column of v: p v / l, p |v| / l, p |v - out| / l, |v| as stored, p E |v - out|.
    private static Column Sum(in KnDecodeAttentionProblem p, DecodeAttentionView r, double[] weights, double[] error, double[] likely, int d, double l)
    {
        double o = 0, magnitude = 0, plain = 0, largest = 0, around = 0, far = 0, farLikely = 0;
        Outcome outcome = Outcome.Finite;
        for (int i = 0; i < weights.Length; i++)
        {
            double stored = r.V[r.Visible[i] * (long)p.VHeadDim + d], v = stored * r.VScales[r.Visible[i]];
            if (!double.IsFinite(v))
            {
                if (weights[i] > 7.9e-31 * l) outcome = Outcome.NonFinite;  // 2^-100
                else if (outcome == Outcome.Finite) outcome = Outcome.Either;
                if (weights[i] <= 7.9e-31 * l) continue;
            }
            o += weights[i] * v;
            magnitude += weights[i] * Math.Abs(v);
            plain += Math.Abs(stored);
            largest = Math.Max(largest, Math.Abs(v));
        }
        o /= l;
        for (int i = 0; i < weights.Length; i++)
        {
            double distance = weights[i] * Math.Abs(r.V[r.Visible[i] * (long)p.VHeadDim + d] * r.VScales[r.Visible[i]] - o);
            if (double.IsNaN(distance)) continue;
            around += distance;
            far += distance * error[i];
            farLikely += distance * likely[i] * distance * likely[i];
        }
        return new Column(o, magnitude / l, around / l, plain, far, farLikely, largest, outcome);
    }

    /// <summary>x of one visible key, and how far a row may be from it, at worst and likely.</summary>
    private static double Score(in KnDecodeAttentionProblem p, DecodeAttentionView r, int i, out double error, out double likely, ref bool overflows)
    {
        int key = r.Visible[i], dim = p.HeadDim;
        double dot = 0, magnitude = 0, square = 0, flushed = 0, keys = 0, largest = 0;
        bool flushes = p.QType == (int)DType.BFloat16;
        for (int d = 0; d < dim; d++)
        {
            double q = r.Q[d], k = r.K[key * (long)dim + d], term = q * k;
            dot += term;
            magnitude += Math.Abs(term);
            square += term * term;
            keys += Math.Abs(k);
            largest = Math.Max(largest, Math.Abs(q));
            if (flushes && (Math.Abs(q) < Tiny || Math.Abs(k) < Tiny)) flushed += Math.Abs(term);
        }
        double factor = r.Scale * r.KScales[key], size = Math.Abs(factor), s = factor * dot;
        overflows |= double.IsFinite(s) && Math.Max(magnitude, magnitude * size) > float.MaxValue;
        double small = size * (flushed + (dim + 6) * Smallest + (p.KvType == (int)DType.Int8 ? Fixed15 * largest * keys : 0));
        error = Gamma(dim + 6) * size * magnitude + small;
        likely = Gamma(Math.Sqrt(dim) + 6) * size * Math.Sqrt(square) + small;
        if (p.Softcap > 0)
        {
            double tanh = Math.Tanh(Math.Max(0, Math.Abs(s) - error) / p.Softcap), slope = 1 - tanh * tanh;
            s = p.Softcap * Math.Tanh(s / p.Softcap);
            error = slope * error + 8 * U * p.Softcap;
            likely = slope * likely + 8 * U * p.Softcap;
        }
        double x = s + r.Bias[i], more = r.Bias[i] == 0 ? 0 : U * (2 * Math.Abs(r.Bias[i]) + Math.Abs(x));
        error += more;
        likely += more;
        return x;
    }
}
