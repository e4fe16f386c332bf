using Kernels.Interop.Native;
using static Kernels.Rounding;

namespace Kernels;

/// <summary>
/// flat_gemm in f64, in plain loops, on decoded operands (w = (q - zero) * scale, s8 x times its scale; all exact in f64, whose
/// own rounding is 2^-29 of what is allowed and left out). The tolerance of an element is derived, step by step:
/// <para>1. Dot product. Each of k terms passes at most c roundings of f32 (u = 2^-24): one of its product, k - 1 additions in
/// whatever order, the scale and one spare for a split sum, so c = k + 4 and the error is at most gamma(c) = c u / (1 - c u)
/// times sum |x w| (Higham, Accuracy and Stability, 3.1). Integer products are summed exactly, which leaves the conversion to
/// f32 and two scales: c = 3.</para>
/// <para>2. Underflow. A rounding below 2^-126 errs by up to 2^-150 whatever the size: c of them, times the scale after them,
/// which is at most max|w|. vdpbf16ps and tdpbf16ps also take denormal operands for zero, which loses those terms, and flush
/// results below 2^-126.</para>
/// <para>3. Quantised x. step = max|x| / 127; rounding to it errs by step / 2 per element of x, plus the roundings of
/// x * (127 / max|x|) before it (127.5 steps, 3 u) and of the inverse (2 u). The inverse is at least 1 / FLT_MAX, which limits
/// the step, and where it is denormal it has a relative error of 2^-21.</para>
/// <para>4. Bias: one rounding.</para>
/// <para>5. Activation: the error so far times the largest slope - relu 1, silu 1.0999 (at z = 2.40), both gelu 1.1290
/// (at z = 1.41) - plus the error of the function itself, 2^-21 |z| = 8 * 2^-24 |z|: exp within 2 ulp (4 u relative) moves
/// sigmoid s by s (1 - s) 4 u, at most u, and the sum, the quotient and the product round three times more; the cubic of
/// gelu_tanh has 5.5 u relative, and s (1 - s) |t| is at most 0.224; erfc is fitted to 1.4 u, its exponent is rounded (u / e),
/// its argument and polynomial add at most 4 u, and z/2 halves all of it.</para>
/// <para>6. Gate: |a| db + |b| da + da db and one rounding. 7. Residual: one rounding. 8. Output: half an ulp, to nearest even,
/// of y's dtype at the largest magnitude in reach, subnormals included.</para>
/// <para>Not finite: where z is NaN or infinite so must y be, except that an activation of -infinity is 0 in the limit and
/// 0 * infinity by the formula, so that both pass. A quantised row of x that holds NaN or infinity spoils all of its outputs.
/// An infinite scale gives one infinity when it multiplies a sum and NaN when it multiplies each term: z counts as either.
/// Where the exact y reaches the rounding threshold of the dtype, infinity of its sign passes.</para>
/// </summary>
internal static class FlatGemmOracle
{

    private readonly record struct Sum(double Value, double Error, bool Overflows, bool SignUnknown);

    /// <summary>One element. x [k]; gate [k] and, when gated, up [k] are rows of w; biases and residual are 0 where there are none.</summary>
    public static Expected Element(in KnFlatGemmProblem p, ReadOnlySpan<double> x, ReadOnlySpan<double> gate,
        ReadOnlySpan<double> up, double bias, double upBias, double residual)
    {
        var flags = (KnGemmFlags)p.Flags;
        var activation = (FlatGemmActivation)p.Activation;
        Sum z = Dot(p, x, gate, bias);
        bool overflows = z.Overflows;
        bool vanishes = (double.IsNegativeInfinity(z.Value) || z.SignUnknown) && activation != FlatGemmActivation.None;
        double y = vanishes ? 0 : Activate(activation, z.Value);
        double error = vanishes ? 0 : ActivationError(activation, z);
        if ((flags & KnGemmFlags.Gated) != 0)
        {
            Sum b = Dot(p, x, up, upBias);
            overflows |= b.Overflows;
            error = Math.Abs(y) * b.Error + Math.Abs(b.Value) * error + error * b.Error;
            y *= b.Value;
            error += U * (Math.Abs(y) + error) + Smallest;
        }
        if ((flags & KnGemmFlags.Residual) != 0)
        {
            y += residual;
            error += U * (Math.Abs(y) + error);
        }
        if (overflows) return new(y, double.PositiveInfinity, Outcome.Any);
        if (!double.IsFinite(y)) return new(y, 0, Outcome.NonFinite);
        // f32 holds y before it is converted, so f32's largest is the end of the range for every dtype.
        double tolerance = error + HalfUlp((DType)p.YType, Math.Abs(y) + error);
        return new(y, tolerance, vanishes ? Outcome.Either : Outcome.Finite);
    }

    private static bool Quantizes(in KnFlatGemmProblem p) => (p.Flags & (int)KnGemmFlags.QuantizeX) != 0;

    private static bool Poisoned(in KnFlatGemmProblem p, ReadOnlySpan<double> x)
    {
        if (!Quantizes(p)) return false;
        foreach (double v in x)
            if (!double.IsFinite(v)) return true;
        return false;
    }

    private static Sum Dot(in KnFlatGemmProblem p, ReadOnlySpan<double> x, ReadOnlySpan<double> w, double bias)
    {
        bool bf16Weights = p.WType == (int)DType.BFloat16;
        bool dotsBf16 = p.XType == (int)DType.BFloat16 && !Quantizes(p) && p.WType != (int)DType.Float16;
        double z = 0, magnitude = 0, weights = 0, flushed = 0, largestX = 0, largestW = 1;
        bool infinite = false;
        for (int i = 0; i < x.Length; i++)
        {
            double term = x[i] * w[i], ax = Math.Abs(x[i]), aw = Math.Abs(w[i]);
            z += term;
            infinite |= double.IsInfinity(x[i]) || double.IsInfinity(w[i]);
            magnitude += Math.Abs(term);
            weights += aw;
            largestX = Math.Max(largestX, ax);
            largestW = Math.Max(largestW, aw);
            if (dotsBf16 && (ax < Tiny || (bf16Weights && aw < Tiny))) flushed += Math.Abs(term);
        }
        if (Poisoned(p, x)) return new(double.NaN, 0, false, false);
        bool unknown = double.IsNaN(z) && infinite && p.WType is (int)DType.Int8 or (int)DType.UInt4;
        bool integer = Quantizes(p) || p.XType == (int)DType.Int8;
        double c = integer ? 3 : x.Length + 4;
        double error = 0;
        if (Quantizes(p))
        {
            double step = largestX == 0 ? 0 : Math.Max(largestX / 127, 1 / (double)float.MaxValue);
            double inverse = step < 2 * Tiny ? 8 * U : 2 * U;
            error = weights * step * (0.5 + 127.5 * 3 * U) + magnitude * inverse;
        }
        error += Gamma(c) * (magnitude + error);
        error += flushed + c * largestW * (dotsBf16 ? Tiny : Smallest);
        z += bias;
        error += U * (Math.Abs(z) + error);
        bool overflows = double.IsFinite(z) && magnitude + Math.Abs(bias) + error > float.MaxValue;
        return new(z, error, overflows, unknown);
    }

    private static double Activate(FlatGemmActivation activation, double z) => activation switch
    {
        FlatGemmActivation.Relu => double.IsNaN(z) ? z : Math.Max(z, 0),
        FlatGemmActivation.GeluTanh => 0.5 * z * (1 + Math.Tanh(Math.Sqrt(2 / Math.PI) * (z + 0.044715 * z * z * z))),
        FlatGemmActivation.GeluErf => 0.5 * z * (1 + Erf(z / Math.Sqrt(2))),
        FlatGemmActivation.Silu => z / (1 + Math.Exp(-z)),
        _ => z,
    };

    private static double ActivationError(FlatGemmActivation activation, in Sum z)
    {
        double slope = activation switch
        {
            FlatGemmActivation.Silu => 1.1,
            FlatGemmActivation.GeluTanh or FlatGemmActivation.GeluErf => 1.13,
            _ => 1,
        };
        bool exact = activation is FlatGemmActivation.None or FlatGemmActivation.Relu;
        return slope * z.Error + (exact ? 0 : 8 * U * (Math.Abs(z.Value) + z.Error) + Smallest);
    }

    /// <summary>
    /// 2/sqrt(pi) exp(-z^2) sum 2^n z^(2n+1) / (1 3 5 .. (2n+1)): terms of one sign, so no cancellation. Beyond 6, 1 - erf is
    /// 2e-17.
    /// </summary>
    internal static double Erf(double z)
    {
        if (double.IsNaN(z)) return z;
        if (Math.Abs(z) > 6) return Math.Sign(z);
        double term = z, sum = z;
        for (int n = 1; Math.Abs(term) > 1e-18 * Math.Abs(sum); n++)
        {
            term *= 2 * z * z / (2 * n + 1);
            sum += term;
        }
        return 2 / Math.Sqrt(Math.PI) * Math.Exp(-z * z) * sum;
    }
}
