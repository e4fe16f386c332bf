using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The accumulator of a row: sums, what marks the columns that were touched, and how both come out.</summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    /// <summary>Columns that may be written behind the last one.</summary>
    private const int Behind = SpGemmManagedCall.Behind;

    /// <summary>What the accumulator's first column is a multiple of.</summary>
    private const long Origin = 4096;

    /// <summary>Where column 0 would be, whichever column comes first: that is a multiple of 4096, so that all of its marks begin a word.</summary>
    private readonly struct Accumulator(T* sums, byte* marks, ulong* bits, ulong* words, ulong* mask)
    {
        public readonly T* Sums = sums;
        public readonly byte* Marks = marks;
        public readonly ulong* Bits = bits, Words = words, Mask = mask;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public Accumulator From(long low) => new(Sums - low, Marks - low, Bits - low / 64, Words - low / 4096, Mask - low / 64);

        public bool IsMasked(long column) => (Mask[column >> 6] >> (int)column & 1) != 0;
    }

    /// <summary>Makes the first columns of the accumulator what it must be between rows; beyond, it is never touched.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Ready(ref Scratch s, long columns)
    {
        if (columns > s.State->Ready) MakeReady(ref s, s.State->Ready, Math.Min((columns + Origin - 1) & -Origin, s.Columns));
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void MakeReady(ref Scratch s, long from, long to)
    {
        for (long j = from; HasValues && j < to; j++) s.Zero.Sums[j] = TSemiring.Zero;
        new Span<byte>(s.Zero.Marks + from, (int)(to - from)).Clear();
        new Span<ulong>(s.Zero.Bits + from / 64, (int)(to - from) / 64).Clear();
        new Span<ulong>(s.Zero.Mask + from / 64, (int)(to - from) / 64).Clear();
        new Span<ulong>(s.Zero.Words + from / Origin, (int)((to - from + Origin - 1) / Origin)).Clear();
        s.State->Ready = to;
    }

    /// <summary>The mask's entries in columns [low, high), set or cleared.</summary>
    private static void MarkMask(SpGemmManagedCall* call, in Accumulator sums, long i, long low, long high, bool set)
    {
        ref readonly KnCsr m = ref call->Args->Mask;
        bool valued = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Valued);
        for (long j = m.Offsets[i]; j < m.Offsets[i + 1]; j++)
        {
            long column = Column(m, j);
            if (column < low || column >= high || (set && valued && EqualityComparer<T>.Default.Equals(((T*)m.Values)[j], default))) continue;
            if (set) sums.Mask[column >> 6] |= 1UL << (int)column;
            else sums.Mask[column >> 6] = 0;
        }
    }

    /// <summary>How a column that is touched is remembered.</summary>
    private interface IMarks
    {
        static abstract void Mark(byte* marks, ulong* bits, ulong* words, long column);
    }

    private readonly struct Bytes : IMarks
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Mark(byte* marks, ulong* bits, ulong* words, long column) => marks[column] = 0xff;
    }

    private readonly struct Bits : IMarks
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Mark(byte* marks, ulong* bits, ulong* words, long column)
        {
            ulong before = bits[column >> 6];
            bits[column >> 6] = before | 1UL << (int)column;
            if (before == 0) words[column >> 12] |= 1UL << (int)(column >> 6);
        }
    }

    /// <summary>For values of known columns.</summary>
    private readonly struct Nothing : IMarks
    {
        public static void Mark(byte* marks, ulong* bits, ulong* words, long column) { }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Accumulate<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r, bool masked) where TMarks : struct, IMarks
    {
        if (SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Accumulate)) Addend<TMarks>(call, to, r);
        if (masked || (!r.Whole && !call->BSorted)) Chosen<TMarks>(call, to, r, masked);
        else Products<TMarks>(call, to, r);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Products<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r) where TMarks : struct, IMarks
    {
        // Copies in registers: the loop stores, and the compiler cannot know that it does not store to these.
        KnCsr a = call->Args->A, b = call->Args->B;
        T* sums = to.Sums;
        byte* marks = to.Marks;
        ulong* bits = to.Bits, words = to.Words;
        bool whole = r.Whole, reads = HasValues && call->ReadsValues;
        for (long e = a.Offsets[r.I], end = a.Offsets[r.I + 1]; e < end; e++)
        {
            long k = Column(a, e), from = b.Offsets[k], n = b.Offsets[k + 1] - from;
            if (!whole)
            {
                n += from;
                from = Bisect(b, from, n, r.Low);
                n = Bisect(b, from, n, r.High) - from;
            }
            TIndex* c = (TIndex*)b.Columns + from;
            if (reads)
            {
                T x = ((T*)a.Values)[e];
                T* y = (T*)b.Values + from;
                for (long j = 0; j < n; j++)
                {
                    long column = Column(c, j);
                    sums[column] = TSemiring.Add(sums[column], TSemiring.Multiply(x, y[j]));
                    TMarks.Mark(marks, bits, words, column);
                }
            }
            else
            {
                for (long j = 0; j < n; j++)
                {
                    long column = Column(c, j);
                    if (HasValues) sums[column] = TSemiring.Add(sums[column], TSemiring.Multiply(default, default));
                    TMarks.Mark(marks, bits, words, column);
                }
            }
        }
    }

    /// <summary>Products in the part's columns that the mask lets through.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Chosen<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r, bool masked) where TMarks : struct, IMarks
    {
        KnCsr a = call->Args->A, b = call->Args->B;
        bool complement = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Complement), reads = HasValues && call->ReadsValues;
        for (long e = a.Offsets[r.I], end = a.Offsets[r.I + 1]; e < end; e++)
        {
            T x = reads ? ((T*)a.Values)[e] : default;
            for (long k = Column(a, e), j = b.Offsets[k], last = b.Offsets[k + 1]; j < last; j++)
            {
                long column = Column(b, j);
                if (column < r.Low || column >= r.High || (masked && to.IsMasked(column) == complement)) continue;
                if (HasValues) to.Sums[column] = TSemiring.Add(to.Sums[column], TSemiring.Multiply(x, reads ? ((T*)b.Values)[j] : default));
                TMarks.Mark(to.Marks, to.Bits, to.Words, column);
            }
        }
    }

    /// <summary>Entries of D.</summary>
    private static void Addend<TMarks>(SpGemmManagedCall* call, in Accumulator to, in SpGemmPart r) where TMarks : struct, IMarks
    {
        ref readonly KnCsr d = ref call->Args->D;
        for (long j = d.Offsets[r.I]; j < d.Offsets[r.I + 1]; j++)
        {
            long column = Column(d, j);
            if (column < r.Low || column >= r.High) continue;
            if (HasValues) to.Sums[column] = TSemiring.Add(to.Sums[column], ((T*)d.Values)[j]);
            TMarks.Mark(to.Marks, to.Bits, to.Words, column);
        }
    }

    /// <summary>Writes the marked columns and their sums, and makes both what they must be between rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long EmitBits(in Accumulator from, long low, long high, TIndex* c, T* v)
    {
        ulong* all = from.Bits;
        long count = 0;
        for (long i = low >> 12; i <= (high - 1) >> 12; i++)
        {
            ulong words = from.Words[i];
            if (words == 0) continue;
            from.Words[i] = 0;
            for (; words != 0; words &= words - 1)
            {
                long word = i * 64 + BitOperations.TrailingZeroCount(words);
                Emit(all[word], word * 64, c + count);
                count += BitOperations.PopCount(all[word]);
                all[word] = 0;
            }
        }
        Take(from.Sums, c, v, count);
        return count;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static long EmitBytes(in Accumulator from, long low, long high, TIndex* c, T* v)
    {
        long count = 0;
        for (long at = low & -64; at < high; at += 64)
        {
            byte* marks = from.Marks + at;
            Vector256<byte> lower = Vector256.Load(marks), upper = Vector256.Load(marks + 32);
            if ((lower | upper) == Vector256<byte>.Zero) continue;
            ulong bits = lower.ExtractMostSignificantBits() | (ulong)upper.ExtractMostSignificantBits() << 32;
            Vector256<byte>.Zero.Store(marks);
            Vector256<byte>.Zero.Store(marks + 32);
            Emit(bits, at, c + count);
            count += BitOperations.PopCount(bits);
        }
        Take(from.Sums, c, v, count);
        return count;
    }

    /// <summary>Columns of a word's bits, four at a time: how many a word has is nothing that could be predicted. What is behind the last one is written again.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Emit(ulong bits, long word, TIndex* c)
    {
        do
        {
            SetColumn(c, 0, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            SetColumn(c, 1, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            SetColumn(c, 2, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            SetColumn(c, 3, word + BitOperations.TrailingZeroCount(bits));
            bits &= bits - 1;
            c += Behind;
        }
        while (bits != 0);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Take(T* sums, TIndex* c, T* v, long count)
    {
        if (!HasValues) return;
        for (long j = 0; j < count; j++)
        {
            long column = Column(c, j);
            v[j] = sums[column];
            sums[column] = TSemiring.Zero;
        }
    }
}
