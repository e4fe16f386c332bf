using System.Collections.Immutable;

namespace Kernels;

/// <summary>What a calibration says about one head.</summary>
/// <param name="Phi">The proposed reference, in nats.</param>
/// <param name="Rows">Rows that were recorded.</param>
/// <param name="Recomputed">Of them, those that would have been done again with this phi.</param>
/// <param name="UpperRate">Upper end of the 95 % interval of the rate, by Wilson's score: 0 in n rows says no more than about 4 / n.</param>
public readonly record struct PhiProposal(float Phi, long Rows, long Recomputed, double UpperRate)
{
    /// <summary>The part of the rows that would have been done again.</summary>
    public double Rate => Rows == 0 ? 0 : (double)Recomputed / Rows;
}

/// <summary>
/// Finds the reference phi of every head for <see cref="SoftmaxDataflow.Unified"/>. A row of L keys whose log-sum-exp is s keeps
/// its sums in the range of float, whatever the splits, when
/// <c>ln L - 102 ln 2 &lt;= s - phi &lt;= ln(FLT_MAX) - ln(max(V, 1))</c>: below, what is flushed to zero could be more than 2^-24 of
/// the sum; above, a sum could overflow, for sum e^(x-phi) |v| is at most V e^(s-phi). So each row allows an interval of phi, and
/// proposed is the middle of the stretch that most rows allow. Intervals are counted in steps of half a nat, rounded inwards.
/// Recording allocates nothing; one thread at a time.
/// </summary>
public sealed class SoftmaxCalibration
{
    private const double Step = 0.5, Furthest = 4096;
    private const int Bins = (int)(2 * Furthest / Step);
    private const double LogMax = 88.722839, LogLeast = -70.701075;  // ln FLT_MAX, ln 2^-102

    private readonly int[,] _starts;  // rows whose interval starts here, less those whose interval ended before
    private readonly long[] _rows;
    private readonly double _logLargest;

    /// <summary>Starts empty.</summary>
    /// <param name="heads">Heads of q.</param>
    /// <param name="largestValue">Bound of |v|; 1024 is far above what models have.</param>
    /// <exception cref="KernelsException">No head, or a bound that is not finite and at least 0.</exception>
    public SoftmaxCalibration(int heads, float largestValue = 1024)
    {
        KernelsException.Require(heads is >= 1 and <= 1 << 16, nameof(heads), $"1 <= heads <= 2^16, not {heads}");
        KernelsException.Require(float.IsFinite(largestValue) && largestValue >= 0, nameof(largestValue), $"finite and at least 0, not {largestValue}");
        _starts = new int[heads, Bins + 1];
        _rows = new long[heads];
        _logLargest = Math.Log(Math.Max(largestValue, 1));
    }

    /// <summary>Heads of q.</summary>
    public int Heads => _rows.Length;

    /// <summary>Records one row of scores after scale, cap and bias, in nats; -infinity is a masked key.</summary>
    /// <param name="head">Head of q.</param>
    /// <param name="scores">The scores of one new token over its keys.</param>
    /// <exception cref="KernelsException">No such head.</exception>
    public void Record(int head, ReadOnlySpan<float> scores)
    {
        float most = float.NegativeInfinity;
        foreach (float x in scores) most = MathF.Max(most, x);
        double sum = 0;
        foreach (float x in scores) sum += Math.Exp((double)x - most);
        Record(head, new LogSumExp((float)(most + Math.Log(sum))), scores.Length);
    }

    /// <summary>Records one row by its log-sum-exp.</summary>
    /// <param name="head">Head of q.</param>
    /// <param name="lse">Over the keys that the row saw. Rows that saw none, and rows with NaN, say nothing and are passed over.</param>
    /// <param name="kvLen">Tokens of its sequence in the cache.</param>
    /// <exception cref="KernelsException">No such head, or a length below 1 of a row that saw keys.</exception>
    public void Record(int head, LogSumExp lse, int kvLen)
    {
        KernelsException.Require((uint)head < (uint)Heads, nameof(head), $"0 to {Heads - 1}, not {head}");
        if (!float.IsFinite(lse.Nats)) return;
        KernelsException.Require(kvLen >= 1, nameof(kvLen), $"1 <= kvLen, not {kvLen}");
        // Inwards: a step is counted only where all of it is allowed.
        int first = Bin(Math.Ceiling((lse.Nats - LogMax + _logLargest) / Step)), end = Bin(Math.Floor((lse.Nats - Math.Log(kvLen) - LogLeast) / Step));
        _rows[head]++;
        if (first >= end) return;
        _starts[head, first]++;
        _starts[head, end]--;
    }

    /// <summary>
    /// Records a call of attention by the log-sum-exps that it gave, whatever its softmax. Of a call without sinks: the upper end of the range is
    /// tested without them, so that a sum with one says nothing about it.
    /// </summary>
    /// <param name="lse">[tokens, Heads].</param>
    /// <param name="kvLens">[batch], as the call took them.</param>
    /// <param name="qStart">[batch + 1], as the call took it; empty: the same number of tokens each.</param>
    /// <exception cref="KernelsException">Lengths that do not fit together.</exception>
    public void Record(ReadOnlySpan<LogSumExp> lse, ReadOnlySpan<int> kvLens, ReadOnlySpan<int> qStart = default)
    {
        int tokens = lse.Length / Heads;
        KernelsException.Require(lse.Length == tokens * Heads, nameof(lse), $"a multiple of {Heads} values, not {lse.Length}");
        int each = DecodeAttentionRules.TokensEach(tokens, kvLens.Length, qStart);
        for (int b = 0, t = 0; b < kvLens.Length; b++)
            for (int end = qStart.Length == 0 ? t + each : qStart[b + 1]; t < end; t++)
                for (int h = 0; h < Heads; h++) Record(h, lse[t * Heads + h], kvLens[b]);
    }

    /// <summary>The proposal for one head; phi is 0 where nothing was recorded.</summary>
    /// <exception cref="KernelsException">No such head.</exception>
    public PhiProposal Propose(int head)
    {
        KernelsException.Require((uint)head < (uint)Heads, nameof(head), $"0 to {Heads - 1}, not {head}");
        long most = -1, allowed = 0;
        int from = 0, to = 0;
        for (int i = 0; i < Bins; i++)
        {
            allowed += _starts[head, i];
            if (allowed > most) (most, from, to) = (allowed, i, i + 1);
            else if (allowed == most && to == i) to = i + 1;
        }
        long rows = _rows[head];
        if (rows == 0) return new PhiProposal(0, 0, 0, 1);
        float phi = (float)((from + to) * 0.5 * Step - Furthest);
        return new PhiProposal(phi, rows, rows - most, Wilson(rows - most, rows));
    }

    /// <summary>The proposals of all heads.</summary>
    public ImmutableArray<PhiProposal> Propose() => [.. Enumerable.Range(0, Heads).Select(Propose)];

    /// <summary>The proposed phi of all heads, as <see cref="DecodeAttention.Create"/> takes them.</summary>
    public float[] Phi() => [.. Propose().Select(p => p.Phi)];

    private static int Bin(double steps) => (int)Math.Clamp(steps + Furthest / Step, 0, Bins);

    private static double Wilson(double hits, double n)
    {
        const double Z = 1.959964;
        double p = hits / n, z2 = Z * Z;
        return Math.Min(1, (p + z2 / (2 * n) + Z * Math.Sqrt(p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n));
    }
}
