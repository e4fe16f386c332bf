using CommunityToolkit.HighPerformance;

namespace Kernels;

/// <summary>Over what the smallest weights are chosen.</summary>
public enum PruneScope
{
    /// <summary>The whole matrix: rows keep different shares.</summary>
    Global,
    /// <summary>Each row for itself: every output keeps the same share.</summary>
    PerRow,
}

/// <summary>What pruning left.</summary>
/// <param name="Threshold">The smallest magnitude that was kept (per row: the smallest of all rows); 0 when nothing was kept.</param>
/// <param name="Density">Part of the weights that is not 0 now.</param>
public readonly record struct Pruned(float Threshold, double Density);

/// <summary>Makes weights sparse for <see cref="SparseLinear"/>.</summary>
public static class Prune
{
    /// <summary>
    /// Magnitude pruning: sets all but the <paramref name="density"/> n k weights of largest magnitude to 0 (rounded up; of equal
    /// ones the first are kept). NaN counts as larger than any number and is kept.
    /// </summary>
    /// <param name="w">[N, K] float, BFloat16 or Half, changed in place.</param>
    /// <param name="density">0 to 1.</param>
    /// <param name="scope">Over what.</param>
    /// <exception cref="KernelsException">A density outside 0 to 1, or another type.</exception>
    public static Pruned Magnitude<T>(Span2D<T> w, double density, PruneScope scope = PruneScope.Global) where T : unmanaged
    {
        KernelsException.Require(density is >= 0 and <= 1, nameof(density), $"0 <= density <= 1, not {density}");
        KernelsException.Require(DTypes.Of<T>() is DType.Float32 or DType.BFloat16 or DType.Float16, nameof(w), $"float, BFloat16 or Half, not {typeof(T).Name}: prune before quantising");
        KernelsException.Require(Enum.IsDefined(scope), nameof(scope), $"a value of the enumeration, not {(int)scope}");
        if (w.Length == 0) return default;
        float threshold = float.PositiveInfinity;
        if (scope == PruneScope.Global) threshold = Keep(w, density);
        else
            for (int r = 0; r < w.Height; r++) threshold = Math.Min(threshold, Keep(w.Slice(r, 0, 1, w.Width), density));
        long kept = 0;
        for (int r = 0; r < w.Height; r++)
            foreach (T value in w.GetRowSpan(r))
                if (Key(value) != 0) kept++;
        return new Pruned(float.IsPositiveInfinity(threshold) ? 0 : threshold, (double)kept / w.Length);
    }

    /// <summary>Bits of the magnitude as f32, which order like the magnitudes.</summary>
    private static uint Key<T>(T value) where T : unmanaged
    {
        float f = value is float v ? v : value is BFloat16 b ? b : (float)(Half)(object)value;
        return BitConverter.SingleToUInt32Bits(f) & 0x7fffffff;
    }

    /// <summary>The smallest magnitude kept; infinity when none is.</summary>
    private static float Keep<T>(Span2D<T> w, double density) where T : unmanaged
    {
        long wanted = (long)Math.Ceiling(density * w.Length);
        (uint threshold, long equal) = Select(w, wanted);
        for (int r = 0; r < w.Height; r++)
            foreach (ref T value in w.GetRowSpan(r))
            {
                uint key = Key(value);
                if (wanted > 0 && (key > threshold || (key == threshold && equal-- > 0))) continue;
                value = default;
            }
        return wanted == 0 ? float.PositiveInfinity : BitConverter.UInt32BitsToSingle(threshold);
    }

    /// <summary>The key of the wanted-th largest, and how many equal to it are among the wanted: two passes of a histogram of 16 bits.</summary>
    private static (uint Threshold, long Equal) Select<T>(Span2D<T> w, long wanted) where T : unmanaged
    {
        if (wanted == 0) return (uint.MaxValue, 0);
        var high = new long[1 << 16];
        for (int r = 0; r < w.Height; r++)
            foreach (T value in w.GetRowSpan(r)) high[Key(value) >> 16]++;
        (uint top, long left) = Rank(high, wanted);
        var low = new long[1 << 16];
        for (int r = 0; r < w.Height; r++)
            foreach (T value in w.GetRowSpan(r))
                if (Key(value) >> 16 == top) low[Key(value) & 0xffff]++;
        (uint bottom, long equal) = Rank(low, left);
        return (top << 16 | bottom, equal);
    }

    /// <summary>The bin that holds the wanted-th from above, and its rank within it.</summary>
    private static (uint Bin, long Rank) Rank(long[] bins, long wanted)
    {
        int bin = bins.Length - 1;
        for (; wanted > bins[bin]; bin--) wanted -= bins[bin];
        return ((uint)bin, wanted);
    }
}
