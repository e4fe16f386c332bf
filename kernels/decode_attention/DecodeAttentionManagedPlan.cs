using System.Numerics;
using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Sequence b of a call: where its tokens and tasks begin, and the keys that one of its tokens sees, cut into splits.</summary>
internal struct DecodeAttentionSequence
{
    public long FirstPartial, FirstToken;
    public int Tokens, KvLen, FirstKey, EndKey, Split, FirstSplit, Splits;

    /// <summary>The first new token as a key; below 0 where the cache holds fewer, or past its end.</summary>
    public int FirstNew;

    /// <summary>Not of this sequence, but of this place in the order of tasks: the sequence that has it, and the tasks before.</summary>
    public int Placed;
    public long FirstTask;
}

/// <summary>
/// One call of decode_attention/managed: what its tasks share. Lies on the caller's stack. A row is one head of one token; its
/// partial result over one split is O [Dv], the sum l and the reference that was subtracted.
/// </summary>
internal unsafe struct DecodeAttentionManagedPlan
{
    /// <summary>Keys between two looks at the reference.</summary>
    public const int Block = 64;

    /// <summary>Rows that pass over a block together, of as many heads: their q, sums and weights stay in L2.</summary>
    public const int Rows = 128;

    /// <summary>Head dimensions are padded to this with zeros: the widest vector.</summary>
    private const int Pad = 16;

    /// <summary>lazy renews its reference when x passes it by this much: sums of 2^28 exp(16) stay far below the end of f32.</summary>
    public const float Lazy = 16;

    /// <summary>bounded: exp(64) times 2^28 keys times v to 2^7 is finite, and down to -37 from the bound nothing is lost.</summary>
    private const float Headroom = 64;

    /// <summary>Fewer products than this are less than waking a thread costs.</summary>
    private const double LeastProducts = 1 << 18;

    /// <summary>Tasks that a worker's share of the call is cut into, at least, but for splits of so few keys.</summary>
    public const int Shares = 4, Shortest = 256;

    public KnDecodeAttentionProblem* Problem;
    public KnDecodeAttentionArgs* Args;
    public KnSoftmax Softmax;
    public KnAttentionFlags Flags;
    public int Group, PaddedK, PaddedV, Heads;  // kv heads of a task, but for the last
    public long Tokens, Tasks, Failures;
    public double Products;  // of q, k and v elements, about
    public int Threads;
    public bool OnlyFailed;
    public DecodeAttentionSequence* Sequences;
    public float* Q;           // [rows, PaddedK]
    public float* References;  // [rows], of unified and bounded
    public int* Failed;        // [rows]
    public float* Partials;    // [partials, PaddedV + 2]: O, l, reference
    public byte* Scratch;
    public long ScratchBytes;

    public readonly long PartialLength => PaddedV + 2;

    private static long RoundUp(long value, long step) => (value + step - 1) / step * step;

    private static Int128 Bytes(Int128 count, int each) => (count * each + 63) / 64 * 64;

    private static long ScratchOf(in KnDecodeAttentionProblem p) =>
        DecodeAttentionManagedKeys.Bytes(RoundUp(Math.Max(p.HeadDim, p.VHeadDim), Pad)) + Rows * (Block * sizeof(float) + sizeof(DecodeAttentionManagedRow)) + (Rows + 2) * sizeof(int);

    /// <summary>Saturates where no memory could hold it.</summary>
    public static long Workspace(in KnDecodeAttentionProblem p, int split, int threads)
    {
        Int128 rows = (Int128)p.Batch * p.QLen * p.QHeads, splits = MostSplits(p, split) * (Int128)p.Batch;
        // By cost, n keys have n / split + 2 splits, where a split has the launch's keys or those of a task of the most cost.
        if (CutsByCost(p, ManagedPool.Workers(threads)))
            splits = Int128.Min(MostSplits(p, Math.Min(split, Shortest)) * (Int128)p.Batch, splits + 2 * p.Batch + Shares * ManagedPool.Workers(threads));
        Int128 bytes = Bytes(p.Batch, sizeof(DecodeAttentionSequence)) + Bytes(rows, 8) + Bytes(rows, 4 * (int)RoundUp(p.HeadDim, Pad))
            + Bytes(splits * p.QLen * p.QHeads, 4 * (int)(RoundUp(p.VHeadDim, Pad) + 2)) + (Int128)ManagedPool.Workers(threads) * ScratchOf(p);
        return p.Batch == 0 ? 0 : (long)Int128.Min(bytes, long.MaxValue / 64 * 64);
    }

    private static long MostSplits(in KnDecodeAttentionProblem p, int split)
    {
        long splits = ((long)p.KvLen + split - 1) / split;
        return p.Window > 0 ? Math.Min(splits, (p.Window + (p.QLen - 2L)) / split + 2) : splits;
    }

    /// <summary>Whether splits are shortened so that no task is long: not where bits must not depend on the batch.</summary>
    public static bool CutsByCost(in KnDecodeAttentionProblem p, int workers) => workers > 1 && ((KnAttentionFlags)p.Flags & KnAttentionFlags.Invariant) == 0;

    public DecodeAttentionManagedPlan(KnDecodeAttentionProblem* problem, KnDecodeAttentionArgs* args, KnSoftmax softmax, int split, int threads)
    {
        Problem = problem;
        Args = args;
        Softmax = softmax;
        Flags = (KnAttentionFlags)problem->Flags;
        Group = problem->QHeads / problem->KvHeads;
        PaddedK = (int)RoundUp(problem->HeadDim, Pad);
        PaddedV = (int)RoundUp(problem->VHeadDim, Pad);
        byte* at = (byte*)args->Workspace;
        Scratch = at;
        ScratchBytes = ScratchOf(*problem);
        at += ManagedPool.Workers(threads) * ScratchBytes;
        Sequences = (DecodeAttentionSequence*)at;
        at += (long)Bytes(args->Batch, sizeof(DecodeAttentionSequence));
        double total = 0;
        for (int b = 0; b < args->Batch; b++)
        {
            ref DecodeAttentionSequence s = ref Sequences[b];
            s = Sequence(b);
            Tokens += s.Tokens;
            Products += (double)(s.EndKey - s.FirstKey) * s.Tokens * problem->QHeads * (PaddedK + PaddedV);
            total += Cost(s, s.EndKey - s.FirstKey);
        }
        if (Products < LeastProducts) threads = 1;
        Threads = threads;
        int workers = ManagedPool.Workers(threads);
        double most = CutsByCost(*problem, workers) ? total * problem->KvHeads / (Shares * workers) : double.PositiveInfinity;
        // The heads of a token lie side by side: a task that walks them reads memory in longer stretches.
        for (Heads = problem->KvHeads; ; Heads = (Heads + 1) / 2)
        {
            Cut(split, most / Heads);
            if (Heads == 1 || workers == 1 || Tasks >= Shares * workers) break;
        }
        long rows = Tokens * problem->QHeads;
        References = (float*)at;
        Failed = (int*)(References + rows);
        at += (long)Bytes(rows, 8);
        Q = (float*)at;
        Partials = Q + rows * PaddedK;
    }

    private readonly DecodeAttentionSequence Sequence(int b)
    {
        var s = new DecodeAttentionSequence { Tokens = DecodeAttentionRules.Tokens(*Args, b, out long first), KvLen = Args->KvLens[b], FirstToken = first };
        s.FirstNew = DecodeAttentionRules.FirstNew(*Args, b, s.Tokens);
        if (s.Tokens == 0 || s.KvLen == 0) return s;
        // Positions ascend with the token, but for trees, where none is below that of the root.
        s.FirstKey = Math.Min(s.KvLen, DecodeAttentionRules.FirstKey(*Problem, s.FirstNew));
        s.EndKey = s.KvLen;
        return s;
    }

    /// <summary>Cost of some keys for one KV head: each is loaded and widened, about as much as two rows, and meets every row.</summary>
    private readonly double Cost(in DecodeAttentionSequence s, int keys) => (double)keys * (2 + (long)s.Tokens * Group);

    /// <summary>Cuts every sequence into splits that cost at most <paramref name="most"/>, and puts those with costly ones first.</summary>
    private void Cut(int split, double most)
    {
        Tasks = 0;
        int* next = stackalloc int[Ranks + 1];
        new Span<int>(next, Ranks + 1).Clear();
        long partials = 0;
        for (int b = 0; b < Args->Batch; b++)
        {
            ref DecodeAttentionSequence s = ref Sequences[b];
            double keys = Math.Ceiling(most / Cost(s, 1));
            s.Split = keys < split ? (int)Math.Min(split, Math.Max(Shortest, RoundUp((long)keys, Block))) : split;
            s.FirstSplit = s.FirstKey / s.Split;
            s.Splits = s.EndKey == 0 ? 0 : (int)(((long)s.EndKey + s.Split - 1) / s.Split) - s.FirstSplit;
            s.FirstPartial = partials;
            partials += (long)s.Tokens * Problem->QHeads * s.Splits;
            next[Rank(s) + 1]++;
        }
        for (int i = 0; i < Ranks; i++) next[i + 1] += next[i];
        for (int b = 0; b < Args->Batch; b++) Sequences[next[Rank(Sequences[b])]++].Placed = b;
        for (int place = 0; place < Args->Batch; place++)
        {
            Sequences[place].FirstTask = Tasks;
            Tasks += (long)Sequences[Sequences[place].Placed].Splits * ((Problem->KvHeads + Heads - 1) / Heads);
        }
    }

    private const int Ranks = 65;

    /// <summary>Costs within a factor of 2 are one rank, the highest first: enough for the last task to be a short one.</summary>
    private readonly int Rank(in DecodeAttentionSequence s) =>
        BitOperations.LeadingZeroCount((ulong)Cost(s, Math.Min(s.EndKey - s.FirstKey, s.Split)));

    /// <summary>Position of token t of a sequence; the same as a key.</summary>
    public readonly int Position(in DecodeAttentionSequence s, int t) => s.FirstNew
        + ((Flags & KnAttentionFlags.Tree) != 0 ? BitOperations.PopCount(Args->Tree[s.FirstToken + t]) - 1 : t);

    /// <summary>Keys begin .. end - 1 hold all that token t sees; in a tree some of the new ones among them are hidden.</summary>
    public readonly void Seen(in DecodeAttentionSequence s, int t, out int begin, out int end)
    {
        bool all = (Flags & (KnAttentionFlags.Full | KnAttentionFlags.Tree)) != 0;
        begin = DecodeAttentionRules.FirstKey(*Problem, Position(s, t));
        end = all ? s.KvLen : Math.Min(s.KvLen, s.FirstNew + t + 1);
    }

    /// <summary>Whether token t sees new token u, in a tree.</summary>
    public readonly bool Sees(in DecodeAttentionSequence s, int t, int u) =>
        (Args->Tree[s.FirstToken + t] >> u & 1) != 0 && (Problem->Window == 0 || Position(s, u) > (long)Position(s, t) - Problem->Window);

    private readonly bool SeesAny(in DecodeAttentionSequence s, int t)
    {
        Seen(s, t, out int begin, out int end);
        if ((Flags & KnAttentionFlags.Tree) == 0 || begin < s.FirstNew) return begin < end;
        for (int u = Math.Max(0, -s.FirstNew); u < s.Tokens && s.FirstNew + u < s.KvLen; u++)
            if (Sees(s, t, u)) return true;
        return false;
    }

    /// <summary>The sequence that has this token, or the place that has this task.</summary>
    public readonly int Owner(long index, bool task)
    {
        int low = 0, high = Args->Batch - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            if ((task ? Sequences[middle].FirstTask : Sequences[middle].FirstToken) <= index) low = middle;
            else high = middle - 1;
        }
        return low;
    }

    /// <summary>The rows that failed once more, by sync.</summary>
    public void Again()
    {
        Softmax = KnSoftmax.Sync;
        OnlyFailed = true;
    }

    /// <summary>Task of the pool: the query rows of one token as f32, and their fixed references.</summary>
    public static void Prepare<L, V>(void* context, long token, int worker) where L : struct, ILanes<V> where V : struct
    {
        ref readonly DecodeAttentionManagedPlan plan = ref *(DecodeAttentionManagedPlan*)context;
        ref readonly KnDecodeAttentionProblem p = ref *plan.Problem;
        ref readonly KnDecodeAttentionArgs a = ref *plan.Args;
        var type = (DType)p.QType;
        int b = plan.Owner(token, false);
        for (int h = 0; h < p.QHeads; h++)
        {
            long row = token * p.QHeads + h;
            float* q = plan.Q + row * plan.PaddedK;
            Widening.Row<L, V>(type, (byte*)a.Q + (token * a.QToken + h * a.QHead) * type.Bits() / 8, p.HeadDim, q);
            new Span<float>(q + p.HeadDim, plan.PaddedK - p.HeadDim).Clear();
            plan.Failed[row] = 0;
            plan.References[row] = plan.Softmax switch
            {
                KnSoftmax.Unified => a.Phi[h],
                KnSoftmax.Bounded => plan.Bound(b, (int)(token - plan.Sequences[b].FirstToken), h, q),
                _ => 0,
            };
        }
    }

    /// <summary>The least phi >= 0 that x cannot pass by more than the headroom.</summary>
    private readonly float Bound(int b, int t, int h, float* q)
    {
        ref readonly DecodeAttentionSequence s = ref Sequences[b];
        double bound = Problem->Softcap > 0 ? Problem->Softcap : double.PositiveInfinity;
        if ((Flags & KnAttentionFlags.Norms) != 0)
        {
            Seen(s, t, out int begin, out int end);
            double square = 0, longest = 0;
            for (int i = 0; i < Problem->HeadDim; i++) square += (double)q[i] * q[i];
            int size = Problem->PageSize == 0 ? Math.Max(1, s.KvLen) : Problem->PageSize;
            for (int page = begin / size; begin < end && (long)page * size < end; page++)
            {
                long id = Problem->PageSize == 0 ? b : Args->Pages[b * Args->PagesLd + page];
                longest = Math.Max(longest, Args->KeyNorms[id * Problem->KvHeads + h / Group]);
            }
            bound = Math.Min(bound, 1.001 * Math.Sqrt(square) * longest * Args->Scale);
        }
        return (float)Math.Max(0, bound - Headroom);
    }

    /// <summary>Task of the pool: the rows of one token from their partial results, in the order of the splits.</summary>
    public static void Combine<L, V>(void* context, long token, int worker) where L : struct, ILanes<V> where V : struct
    {
        ref DecodeAttentionManagedPlan plan = ref *(DecodeAttentionManagedPlan*)context;
        ref readonly DecodeAttentionSequence s = ref plan.Sequences[plan.Owner(token, false)];
        for (int h = 0; h < plan.Problem->QHeads; h++)
        {
            long row = token * plan.Problem->QHeads + h;
            if (plan.OnlyFailed && plan.Failed[row] == 0) continue;
            long at = s.FirstPartial + ((token - s.FirstToken) * plan.Problem->QHeads + h) * s.Splits;
            if (plan.CombineRow<L, V>(s, token, h, plan.Partials + at * plan.PartialLength)) continue;
            plan.Failed[row] = 1;
            Interlocked.Increment(ref plan.Failures);
        }
    }

    // Sums the partials into the first of them. False: the end test failed.
    private readonly bool CombineRow<L, V>(in DecodeAttentionSequence s, long token, int h, float* partials) where L : struct, ILanes<V> where V : struct
    {
        bool any = SeesAny(s, (int)(token - s.FirstToken));
        float sink = (Flags & KnAttentionFlags.Sinks) != 0 ? Args->Sinks[h] : float.NegativeInfinity;
        if (!any || s.Splits == 0)
        {
            Write(token, h, null, 0, sink);
            return true;
        }
        bool @fixed = Softmax is KnSoftmax.Unified or KnSoftmax.Bounded;
        float reference = @fixed ? References[token * Problem->QHeads + h] : sink;
        for (int i = 0; i < s.Splits && !@fixed; i++) reference = Math.Max(reference, partials[i * PartialLength + PaddedV + 1]);
        double l = 0;
        for (int i = 0; i < s.Splits; i++)
        {
            float* o = partials + i * PartialLength;
            float from = o[PaddedV + 1];
            float weight = @fixed ? 1 : float.IsNegativeInfinity(from) ? 0 : MathF.Exp(from - reference);
            l += (double)weight * o[PaddedV];
            V by = L.Broadcast(weight);
            for (int d = 0; d < PaddedV; d += L.Count)
                L.Store(i == 0 ? L.Multiply(by, L.Load(o + d)) : L.MultiplyAdd(by, L.Load(o + d), L.Load(partials + d)), partials + d);
        }
        bool sinks = !float.IsNegativeInfinity(sink);
        if (@fixed && !Passes(partials, (float)l, sinks ? Math.Exp((double)sink - reference) : 0, s.KvLen)) return false;
        float top = Math.Max(reference, sink);
        double kept = top > reference ? Math.Exp((double)reference - top) : 1;
        l *= kept;
        if (sinks) l += Math.Exp((double)sink - top);
        Write(token, h, partials, kept / l, (float)(top + Math.Log(l)));
        return true;
    }

    // The end test of decode_attention.h.
    private readonly bool Passes(float* o, float l, double sink, int kvLen)
    {
        bool finite = float.IsFinite(l) && l + sink >= kvLen * 1.9721523e-31;  // 2^-102
        for (int d = 0; d < Problem->VHeadDim && finite; d++) finite = float.IsFinite(o[d]);
        return finite;
    }

    private readonly void Write(long token, int h, float* o, double factor, float lse)
    {
        byte* at = (byte*)Args->Out + (token * Args->OutToken + h * Args->OutHead) * ((DType)Problem->OutType).Bits() / 8;
        for (int d = 0; d < Problem->VHeadDim; d++)
        {
            float value = o == null ? 0 : (float)(o[d] * factor);
            if (Problem->OutType == (int)DType.Float32) ((float*)at)[d] = value;
            else if (Problem->OutType == (int)DType.BFloat16) ((BFloat16*)at)[d] = (BFloat16)value;
            else ((Half*)at)[d] = (Half)value;
        }
        if (Args->Lse != null) Args->Lse[token * Args->LseToken + h] = lse;
    }
}
