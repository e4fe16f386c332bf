using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Where the parts of packed sparse weights lie: the layout of sparse_linear_panel.h.</summary>
internal readonly unsafe struct SparsePanels
{
    public const int Lanes = 16, Block = 64;

    public readonly long Count, KPadded, Blocks, BitsAt, ScalesAt, SumsAt, ValuesAt, Total;
    public readonly int Step, Element, Pair;

    public SparsePanels(in KnSparseLinearProblem p)
    {
        var type = (DType)p.Layer.WType;
        Pair = (p.Layer.Flags & (int)KnGemmFlags.Gated) != 0 ? 2 : 1;
        Count = (p.Layer.N + Lanes - 1L) / Lanes * Pair;
        Step = type switch { DType.BFloat16 => 2, DType.Int8 => 4, _ => 1 };
        Element = type.Bits() / 8;
        long granule = type switch { DType.BFloat16 => 32, DType.Int8 => 64, _ => 1 };
        KPadded = RoundUp(p.Layer.K, granule);
        Blocks = (KPadded + Block - 1) / Block;
        BitsAt = RoundUp((Count * Blocks + 1) * 8, 64);
        ScalesAt = RoundUp(BitsAt + Count * KPadded * 2, 64);
        SumsAt = ScalesAt + (type == DType.Int8 ? Count * Lanes * 4 : 0);
        ValuesAt = SumsAt + (type == DType.Int8 ? Count * Lanes * 4 : 0);
        Total = RoundUp(ValuesAt + p.Nnz * Element + 64, 64);
    }

    private static long RoundUp(long value, long step) => (value + step - 1) / step * step;

    /// <summary>Column <paramref name="lane"/> of a panel is this row of w; -1 beyond n.</summary>
    public long SourceRow(int n, long panel, long lane)
    {
        long column = panel / Pair * Lanes + lane;
        return column >= n ? -1 : panel % Pair == 0 ? column : column + n;
    }

    /// <summary>The bits of the operand at <paramref name="k"/>, a multiple of Step.</summary>
    public ulong Bits(byte* packed, long panel, long k)
    {
        byte* at = packed + BitsAt + (panel * KPadded + k) * 2;
        return Step switch { 1 => *(ushort*)at, 2 => *(uint*)at, _ => *(ulong*)at };
    }

    /// <summary>
    /// Whether content from elsewhere is that of this layout, so that no row reads outside of it: every offset is the sum of the
    /// bits before it, and no bit is set in the padding. Null, or the part that is not.
    /// </summary>
    public string? Fault(in KnSparseLinearProblem p, byte* packed)
    {
        long* offsets = (long*)packed;
        long sum = 0;
        for (long panel = 0; panel < Count; panel++)
            for (long block = 0; block < Blocks; block++)
            {
                if (offsets[panel * Blocks + block] != sum) return $"offset {block} of panel {panel}";
                long end = Math.Min((block + 1) * Block, KPadded);
                for (long k = block * Block; k < end; k += Step)
                {
                    ulong bits = Bits(packed, panel, k);
                    sum += BitOperations.PopCount(bits);
                    if ((bits & ~Allowed(p, panel, k)) != 0) return $"padding of panel {panel} at k {k}";
                }
            }
        return offsets[Count * Blocks] != sum || sum != p.Nnz ? "number of values" : null;
    }

    private ulong Allowed(in KnSparseLinearProblem p, long panel, long k)
    {
        int lanes = (int)Math.Min(Lanes, p.Layer.N - panel / Pair * Lanes), used = (int)Math.Clamp(p.Layer.K - k, 0, Step);
        ulong lane = (1UL << used) - 1, all = 0;
        if (used == Step) return lanes * Step == 64 ? ~0UL : (1UL << (lanes * Step)) - 1;
        for (int i = 0; i < lanes; i++) all |= lane << (i * Step);
        return all;
    }
}
