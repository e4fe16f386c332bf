using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The schedule of values alone (spgemm_schedule.h) in plain C#: the same terms, made by a table of C's columns, summed lane by lane.</summary>
internal static unsafe partial class SpGemmManagedKernel<TIndex, T, TSemiring>
{
    private static int Lanes(SpGemmManagedCall* call) => SpGemmSchedule.Lanes(*call->Problem);

    private static long Addends(SpGemmManagedCall* call, long i) =>
        SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Accumulate) ? call->Args->D.Offsets[i + 1] - call->Args->D.Offsets[i] : 0;

    private static ushort* Counts(SpGemmManagedCall* call, long i) => call->Args->Schedule.Counts + call->Args->COffsets[i] / Lanes(call) + i;

    /// <summary>Where the terms of every row begin, from how many they are.</summary>
    private static void SumSizes(SpGemmManagedCall* call)
    {
        long* offsets = call->Args->Schedule.Offsets;
        offsets[0] = 0;
        for (long i = 0; i < call->Problem->M; i++) offsets[i + 1] += offsets[i];
    }

    /// <summary>Sizes or terms of a row; <paramref name="blocks"/> has room for a number per block of C.</summary>
    private static void ScheduleRow(SpGemmManagedCall* call, ref Scratch s, long i, uint* blocks)
    {
        KnSpgemmArgs* a = call->Args;
        bool sizes = a->Phase == (int)KnSpgemmPhase.ScheduleSizes, masked = SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Mask);
        long entries = a->COffsets[i + 1] - a->COffsets[i], n = call->Problem->N;
        if (sizes) a->Schedule.Offsets[i + 1] = 0;
        if (entries == 0 || a->A.Offsets[i + 1] - a->A.Offsets[i] > ushort.MaxValue || (!sizes && a->Schedule.Offsets[i + 1] == a->Schedule.Offsets[i])) return;
        if (masked)
        {
            Ready(ref s, n);
            MarkMask(call, s.Zero, i, 0, n, true);
        }
        // Sums are not wanted here. A column that is not in the row has any place.
        uint* places = (uint*)s.Zero.Sums;
        TIndex* c = (TIndex*)a->CColumns + a->COffsets[i];
        for (long j = 0; j < entries; j++) places[Column(c, j)] = (uint)j;
        if (sizes) a->Schedule.Offsets[i + 1] = SizeOf(call, ref s, i, (entries + Lanes(call) - 1) / Lanes(call), blocks);
        else Fill(call, ref s, i, (entries + Lanes(call) - 1) / Lanes(call), blocks);
        if (masked) MarkMask(call, s.Zero, i, 0, n, false);
    }

    /// <summary>Counts the terms of every block; returns how many they are with the addends, or 0 where a count would not fit.</summary>
    private static long SizeOf(SpGemmManagedCall* call, ref Scratch s, long i, long blocks, uint* count)
    {
        NativeMemory.Clear(count, (nuint)blocks * sizeof(uint));
        for (var t = new Terms(call, i); t.Next(ref s);) count[t.Block]++;
        long n = Addends(call, i);
        uint most = 0;
        for (long block = 0; block < blocks; block++)
        {
            Counts(call, i)[block] = (ushort)count[block];
            (most, n) = (Math.Max(most, count[block]), n + count[block]);
        }
        return most > ushort.MaxValue || n > uint.MaxValue ? 0 : n;
    }

    private static void Fill(SpGemmManagedCall* call, ref Scratch s, long i, long blocks, uint* next)
    {
        KnSpgemmArgs* a = call->Args;
        KnSpgemmTerm* to = a->Schedule.Terms + a->Schedule.Offsets[i];
        long addends = Addends(call, i);
        for (long j = 0; j < addends; j++) to[j] = new KnSpgemmTerm { B = ((uint*)s.Zero.Sums)[Column(a->D, a->D.Offsets[i] + j)] };
        uint at = (uint)addends;
        for (long block = 0; block < blocks; block++) (next[block], at) = (at, at + Counts(call, i)[block]);
        for (var t = new Terms(call, i); t.Next(ref s);) to[next[t.Block]++] = t.Term;
    }

    /// <summary>The terms of a row in the order of A's.</summary>
    private ref struct Terms
    {
        private readonly SpGemmManagedCall* _call;
        private readonly int _lanes;
        private readonly bool _masked, _complement;
        private readonly long _first, _end, _entries;
        private readonly TIndex* _c;
        private long _e, _j, _to;

        public KnSpgemmTerm Term;
        public long Block;

        public Terms(SpGemmManagedCall* call, long i)
        {
            _call = call;
            (_lanes, _first, _end) = (Lanes(call), call->Args->A.Offsets[i], call->Args->A.Offsets[i + 1]);
            _e = _first - 1;
            _c = (TIndex*)call->Args->CColumns + call->Args->COffsets[i];
            _entries = call->Args->COffsets[i + 1] - call->Args->COffsets[i];
            (_masked, _complement) = (SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Mask), SpGemmRules.Has(*call->Problem, KnSpgemmFlags.Complement));
        }

        public bool Next(ref Scratch s)
        {
            ref readonly KnCsr b = ref _call->Args->B;
            long place = -1;
            while (place < 0)
            {
                while (_j == _to)
                {
                    if (++_e >= _end) return false;
                    long k = Column(_call->Args->A, _e);
                    (_j, _to) = (b.Offsets[k], b.Offsets[k + 1]);
                }
                place = Place(ref s, Column(b, _j++));
            }
            Term = new KnSpgemmTerm { B = (uint)(_j - 1), A = (ushort)(_e - _first) };
            Block = place / _lanes;
            for (long last = -1; place > last && place / _lanes == Block;)
            {
                Term.Lanes |= (ushort)(1 << (int)(place % _lanes));
                last = place;
                if (_j == _to || (place = Place(ref s, Column(b, _j))) < 0) break;
                if (place > last && place / _lanes == Block) _j++;
            }
            return true;
        }

        /// <summary>Of a product in its row of C; -1 where the mask leaves it out. A valued mask may have changed since it made C: then C has no place.</summary>
        private readonly long Place(ref Scratch s, long column)
        {
            if (_masked && s.Zero.IsMasked(column) == _complement) return -1;
            uint at = ((uint*)s.Zero.Sums)[column];
            return at < _entries && Column(_c, at) == column ? at : -1;
        }
    }

    /// <summary>Values of the blocks of row i that are the part-th of so many parts.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sum(SpGemmManagedCall* call, long i, long part, long parts)
    {
        KnSpgemmArgs* a = call->Args;
        int lanes = Lanes(call);
        long entries = a->COffsets[i + 1] - a->COffsets[i], blocks = (entries + lanes - 1) / lanes, first = blocks * part / parts, last = blocks * (part + 1) / parts;
        T* v = (T*)a->CValues + a->COffsets[i];
        T* x = call->ReadsValues ? (T*)a->A.Values + a->A.Offsets[i] : null;
        KnSpgemmTerm* t = a->Schedule.Terms + a->Schedule.Offsets[i];
        for (long j = first * lanes; j < Math.Min(last * lanes, entries); j++) v[j] = TSemiring.Zero;
        long addends = Addends(call, i);
        for (long j = 0; j < addends; j++, t++)
            if (t->B >= first * lanes && t->B < last * lanes) v[t->B] = TSemiring.Add(TSemiring.Zero, ((T*)a->D.Values)[a->D.Offsets[i] + j]);
        ushort* counts = Counts(call, i);
        for (long block = 0; block < first; block++) t += counts[block];
        for (long block = first; block < last; block++)
        {
            T* sums = v + block * lanes;
            for (KnSpgemmTerm* end = t + counts[block]; t < end; t++)
            {
                T* y = call->ReadsValues ? (T*)a->B.Values + t->B : null;
                T coefficient = call->ReadsValues ? x[t->A] : default;
                for (uint some = t->Lanes; some != 0; some &= some - 1)
                {
                    T* sum = sums + BitOperations.TrailingZeroCount(some);
                    *sum = TSemiring.Add(*sum, TSemiring.Multiply(coefficient, call->ReadsValues ? *y++ : default));
                }
            }
        }
    }
}
