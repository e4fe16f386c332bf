namespace Kernels;

/// <summary>What an element must be.</summary>
internal enum Outcome
{
    /// <summary>Within the tolerance of the value.</summary>
    Finite,
    /// <summary>NaN or an infinity, whichever.</summary>
    NonFinite,
    /// <summary>Either of these two.</summary>
    Either,
    /// <summary>Anything: f32 may overflow on the way, or not, with the order of the sum.</summary>
    Any,
}

/// <summary>The exact element and how far a row may be from it, half an ulp of the output included.</summary>
internal readonly record struct Expected(double Value, double Tolerance, Outcome Outcome)
{
    /// <summary>Whether `got` is what was expected, and its error as a fraction of the tolerance.</summary>
    public bool Agrees(DType type, double got, out double fraction)
    {
        fraction = 0;
        if (Outcome == Outcome.Any) return true;
        if (!double.IsFinite(got))
        {
            if (Outcome != Outcome.Finite) return true;
            bool reaches = Math.Abs(Value) + Tolerance >= Rounding.Largest(type);
            bool agrees = double.IsInfinity(got) && reaches && Math.Sign(got) == Math.Sign(Value);
            fraction = agrees ? 0 : double.PositiveInfinity;
            return agrees;
        }
        fraction = Outcome == Outcome.NonFinite ? double.PositiveInfinity
            : got == Value ? 0
            : Math.Abs(got - Value) / Tolerance;
        return fraction <= 1;
    }
}

/// <summary>What rounding to a dtype can do.</summary>
internal static class Rounding
{
    /// <summary>Unit roundoff of f32, its smallest normal and its smallest value.</summary>
    public const double U = 1.0 / (1 << 24), Tiny = 1.1754943508222875e-38, Smallest = 1.401298464324817e-45;

    /// <summary>
    /// The relative error of a chain of c roundings of f32, c u / (1 - c u) (Higham, Accuracy and Stability, 3.1).
    /// </summary>
    public static double Gamma(double c) => c * U / (1 - c * U);

    /// <summary>Half the distance of neighbours in this dtype at this magnitude; below the normals it no longer shrinks.</summary>
    public static double HalfUlp(DType type, double magnitude)
    {
        (int lowest, int fraction) = type switch
        {
            DType.Float32 => (-126, 23),
            DType.BFloat16 => (-126, 7),
            _ => (-14, 10),
        };
        int exponent = magnitude == 0 ? lowest : Math.Max(lowest, Math.ILogB(magnitude));
        return Math.ScaleB(1, exponent - fraction - 1);
    }

    /// <summary>The largest finite value.</summary>
    public static double Largest(DType type) => type switch
    {
        DType.Float32 => float.MaxValue,
        DType.BFloat16 => 3.3895313892515355e38,
        _ => 65504,
    };
}
