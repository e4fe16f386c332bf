namespace Kernels.Tuning;

/// <summary>
/// The median of a sample and a confidence interval of the median of its distribution, by order statistics: the probability that the
/// median lies outside [x(r), x(n+1-r)] is 2 P(Binomial(n, 1/2) &lt; r), whatever the distribution is.
/// </summary>
/// <param name="Lower">Lower end of the 95 % interval.</param>
/// <param name="Median">Median of the sample.</param>
/// <param name="Upper">Upper end of the 95 % interval.</param>
/// <param name="Count">Size of the sample.</param>
internal readonly record struct Estimate(double Lower, double Median, double Upper, int Count)
{
    /// <summary>The smallest sample of which an interval holds 95 %: 1 - 2/2^6 = 0.969, and of five only 0.938.</summary>
    public const int MinSamples = 6;

    private const double Tail = 0.025;

    // From here on 2^-n is close to the smallest double, and the normal quantile is right to far less than one rank.
    private const int NormalFrom = 1000;

    /// <summary>Half the width of the interval: the noise of the median.</summary>
    public double HalfWidth => (Upper - Lower) / 2;

    /// <summary>Whether the interval holds 95 %. Below <see cref="MinSamples"/> it is only the range of the sample.</summary>
    public bool IsSound => Count >= MinSamples;

    /// <summary>The estimate of a sample in any order; of an empty one NaN.</summary>
    public static Estimate Of(ReadOnlySpan<double> samples)
    {
        if (samples.IsEmpty)
            return new Estimate(double.NaN, double.NaN, double.NaN, 0);
        double[] sorted = Sorted(samples);
        int rank = LowerRank(sorted.Length);
        return new Estimate(sorted[rank - 1], QuantileOfSorted(sorted, 0.5), sorted[^rank], sorted.Length);
    }

    /// <summary>The quantile of a sample in any order, linear between its order statistics; of an empty one NaN.</summary>
    public static double Quantile(ReadOnlySpan<double> samples, double q) =>
        samples.IsEmpty ? double.NaN : QuantileOfSorted(Sorted(samples), q);

    /// <summary>The largest rank r, from 1, with P(Binomial(n, 1/2) &lt; r) at most 2.5 %; 1 where even the smallest sample has more.</summary>
    internal static int LowerRank(int n)
    {
        if (n >= NormalFrom)
            return (int)((n - 1.959964 * Math.Sqrt(n)) / 2);
        double term = Math.ScaleB(1, -n), below = term;
        int rank = 0;
        while (below <= Tail)
        {
            rank++;
            term *= (double)(n - rank + 1) / rank;
            below += term;
        }
        return Math.Max(rank, 1);
    }

    private static double[] Sorted(ReadOnlySpan<double> samples)
    {
        double[] sorted = samples.ToArray();
        Array.Sort(sorted);
        return sorted;
    }

    private static double QuantileOfSorted(double[] sorted, double q)
    {
        double at = Math.Clamp(q, 0, 1) * (sorted.Length - 1);
        int i = (int)at;
        return i + 1 < sorted.Length ? sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]) : sorted[i];
    }
}
