using CommunityToolkit.HighPerformance;

namespace Kernels;

/// <summary>What rounding to integers cost.</summary>
/// <param name="MaxError">Largest |w - ŵ|. At most half of the largest scale, plus the rounding of f32.</param>
/// <param name="RelativeRms">sqrt(sum (w - ŵ)² / sum w²); 0 for all-zero weights.</param>
public readonly record struct QuantizationError(double MaxError, double RelativeRms);

/// <summary>Makes integer weights for <see cref="FlatGemm"/> out of float ones. Every helper states the error that it made.</summary>
public static class Quantize
{
    /// <summary>
    /// Symmetric int8 per output channel: scale = max|w_row| / 127, q = round_to_even(w / scale) in -127..127. Each error is at
    /// most scale / 2. A row of zeros gets the scale 0.
    /// </summary>
    /// <param name="w">[N, K].</param>
    /// <param name="q">[N, K].</param>
    /// <param name="scales">[N].</param>
    /// <exception cref="KernelsException">Shapes that differ, or a weight that is not finite.</exception>
    public static QuantizationError Int8PerChannel(ReadOnlySpan2D<float> w, Span2D<sbyte> q, Span<float> scales)
    {
        KernelsException.Require(q.Height == w.Height && q.Width == w.Width, nameof(q), $"shape [{w.Height}, {w.Width}], not [{q.Height}, {q.Width}]");
        KernelsException.Require(scales.Length == w.Height, nameof(scales), $"{w.Height} values, not {scales.Length}");
        var error = new ErrorSum();
        for (int n = 0; n < w.Height; n++)
        {
            ReadOnlySpan<float> row = w.GetRowSpan(n);
            Span<sbyte> to = q.GetRowSpan(n);
            float scale = scales[n] = MaxAbs(row) / 127;
            for (int k = 0; k < row.Length; k++)
            {
                to[k] = (sbyte)Round(row[k], scale, -127, 127);
                error.Add(row[k], (double)to[k] * scale);
            }
        }
        return error.Total;
    }

    /// <summary>
    /// int4 per group of <paramref name="group"/> elements along k, two to a byte, low nibble first, ŵ = (q - zero) * scale.
    /// Without <paramref name="zeros"/>: symmetric, zero 8, scale = max|w| / 7, q in 1..15. With: scale = (max - min) / 15 over
    /// the group and 0, zero = round(-min / scale). Each error is at most scale / 2 (with zero points: scale, at the ends).
    /// </summary>
    /// <param name="w">[N, K].</param>
    /// <param name="group">32, 64 or 128; the last group of a row may be shorter.</param>
    /// <param name="q">[N, ceil(K / 2)].</param>
    /// <param name="scales">[N, ceil(K / group)].</param>
    /// <param name="zeros">[N, ceil(K / group)], or empty.</param>
    /// <exception cref="KernelsException">Shapes that differ, another group, or a weight that is not finite.</exception>
    public static QuantizationError Int4PerGroup(ReadOnlySpan2D<float> w, int group, Span2D<byte> q, Span2D<float> scales, Span2D<byte> zeros = default)
    {
        KernelsException.Require(group is 32 or 64 or 128, nameof(group), $"32, 64 or 128, not {group}");
        int groups = (w.Width + group - 1) / group;
        KernelsException.Require(q.Height == w.Height && q.Width == (w.Width + 1) / 2, nameof(q), $"shape [{w.Height}, {(w.Width + 1) / 2}], not [{q.Height}, {q.Width}]");
        KernelsException.Require(scales.Height == w.Height && scales.Width == groups, nameof(scales), $"shape [{w.Height}, {groups}], not [{scales.Height}, {scales.Width}]");
        bool symmetric = zeros.Length == 0;
        KernelsException.Require(symmetric || (zeros.Height == w.Height && zeros.Width == groups), nameof(zeros), $"empty or shape [{w.Height}, {groups}], not [{zeros.Height}, {zeros.Width}]");
        var error = new ErrorSum();
        for (int n = 0; n < w.Height; n++)
        {
            ReadOnlySpan<float> row = w.GetRowSpan(n);
            Span<byte> to = q.GetRowSpan(n);
            to.Clear();
            for (int g = 0; g < groups; g++)
            {
                ReadOnlySpan<float> part = row[(g * group)..Math.Min(row.Length, (g + 1) * group)];
                (float scale, int zero) = symmetric ? (MaxAbs(part) / 7, 8) : Asymmetric(part);
                scales[n, g] = scale;
                if (!symmetric) zeros[n, g] = (byte)zero;
                for (int i = 0; i < part.Length; i++)
                {
                    int value = zero + Round(part[i], scale, (symmetric ? 1 : 0) - zero, 15 - zero);
                    to[(g * group + i) / 2] |= (byte)(value << ((g * group + i) % 2 * 4));
                    error.Add(part[i], (double)(value - zero) * scale);
                }
            }
        }
        return error.Total;
    }

    private static (float Scale, int Zero) Asymmetric(ReadOnlySpan<float> part)
    {
        float low = 0, high = 0;
        _ = MaxAbs(part);
        foreach (float v in part) (low, high) = (Math.Min(low, v), Math.Max(high, v));
        float scale = (high - low) / 15;
        return (scale, scale == 0 ? 8 : Math.Clamp((int)MathF.Round(-low / scale), 0, 15));
    }

    private static int Round(float value, float scale, int low, int high) =>
        scale == 0 ? 0 : Math.Clamp((int)MathF.Round(value / scale, MidpointRounding.ToEven), low, high);

    private static float MaxAbs(ReadOnlySpan<float> values)
    {
        float most = 0;
        foreach (float v in values)
        {
            if (!float.IsFinite(v)) throw new KernelsException(Status.Invalid, "w", $"finite weights, not {v}");
            most = Math.Max(most, Math.Abs(v));
        }
        return most;
    }

    private struct ErrorSum
    {
        private double _most, _squares, _weights;

        public void Add(float w, double quantized)
        {
            double e = Math.Abs(w - quantized);
            _most = Math.Max(_most, e);
            _squares += e * e;
            _weights += (double)w * w;
        }

        public readonly QuantizationError Total => new(_most, _weights == 0 ? 0 : Math.Sqrt(_squares / _weights));
    }
}
