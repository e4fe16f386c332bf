using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// All query rows of some KV heads over one split of the keys. A row's numbers are one chain along the keys, block by block, so
/// they do not depend on which other rows share the task.
/// </summary>
internal static unsafe class DecodeAttentionManagedSplit<L, V>
    where L : struct, ILanes<V>
    where V : struct
{
    private const int Block = DecodeAttentionManagedPlan.Block, Step = 8;

    /// <summary>A task: what it reads and the scratch it has.</summary>
    private struct Walk
    {
        public DecodeAttentionManagedRow* Rows;
        public int* Starts;                // the first row of each head, and the end
        public float* KFactors, VFactors;  // [Block]: scale times that of the key; of the value
        public float* Wide;                // [Step, PaddedK or PaddedV]: rows of a step that are widened first, for many rows of q
        public byte** WideRows;            // [Step]
        public bool Widens;
        public int B, Split, Element;
        public DecodeAttentionManagedKeys Keys, Next;
    }

    /// <summary>Task of the pool.</summary>
    public static void Task(void* context, long task, int worker)
    {
        ref readonly DecodeAttentionManagedPlan plan = ref *(DecodeAttentionManagedPlan*)context;
        int place = plan.Owner(task, true), b = plan.Sequences[place].Placed;
        ref readonly DecodeAttentionSequence s = ref plan.Sequences[b];
        long item = task - plan.Sequences[place].FirstTask;
        var type = (DType)plan.Problem->KvType;
        Walk walk = New(plan, plan.Scratch + worker * plan.ScratchBytes);
        walk.B = b;
        walk.Split = (int)(item % s.Splits);
        int first = (int)(item / s.Splits) * plan.Heads, heads = Math.Min(plan.Problem->KvHeads - first, plan.Heads);
        bool whole = plan.Problem->HeadDim % L.Count == 0 && plan.Problem->VHeadDim % L.Count == 0;
        // Beyond four rows a key would be widened several times; f32 needs no widening.
        walk.Widens = !whole || (s.Tokens * (long)plan.Group > 4 && type != DType.Float32);
        walk.Element = type.Bits() / 8;
        switch (walk.Widens ? DType.Float32 : type)
        {
            case DType.Float32: Blocks<Float32Elements>(plan, s, first, heads, ref walk); break;
            case DType.BFloat16: Blocks<BFloat16Elements>(plan, s, first, heads, ref walk); break;
            case DType.Float16: Blocks<HalfElements>(plan, s, first, heads, ref walk); break;
            case DType.Float8E4M3: Blocks<E4M3Elements>(plan, s, first, heads, ref walk); break;
            default: Blocks<Int8Elements>(plan, s, first, heads, ref walk); break;
        }
    }

    private static Walk New(in DecodeAttentionManagedPlan plan, byte* scratch)
    {
        const int Rows = DecodeAttentionManagedPlan.Rows;
        var walk = new Walk();
        float* x = (float*)scratch;
        scratch += Rows * Block * sizeof(float);
        walk.KFactors = (float*)scratch;
        walk.VFactors = walk.KFactors + Block;
        walk.Wide = walk.VFactors + Block;
        int padded = Math.Max(plan.PaddedK, plan.PaddedV);
        scratch = (byte*)(walk.Wide + Step * padded);
        walk.WideRows = (byte**)scratch;
        scratch += Step * 8;
        walk.Keys = DecodeAttentionManagedKeys.At(ref scratch);
        walk.Next = DecodeAttentionManagedKeys.At(ref scratch);
        walk.Rows = (DecodeAttentionManagedRow*)scratch;
        walk.Starts = (int*)(walk.Rows + Rows);
        for (int i = 0; i < Rows; i++) walk.Rows[i].X = x + i * Block;
        for (int j = 0; j < Step; j++) walk.WideRows[j] = (byte*)(walk.Wide + j * padded);
        return walk;
    }

    private static void Blocks<E>(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int firstHead, int heads, ref Walk walk)
        where E : struct, IElements
    {
        long from = (long)(s.FirstSplit + walk.Split) * s.Split;
        int begin = (int)Math.Max(from, s.FirstKey), end = (int)Math.Min(from + s.Split, s.EndKey);
        // Blocks begin at multiples of their length whatever the window: the chains of sums depend on positions alone.
        int first = begin / Block * Block;
        Clear(plan, s, firstHead, heads, walk.Split);
        // A window that ends before the first key of the split: no slot would hold a place.
        if (begin >= end) return;
        new Span<float>(walk.KFactors, Block).Fill(plan.Args->Scale);
        new Span<float>(walk.VFactors, Block).Fill(1);
        walk.Keys.Find(plan, walk.B, first, begin, end);
        int together = (int)Math.Max(1, DecodeAttentionManagedPlan.Rows / (s.Tokens * (long)plan.Group));
        for (; first < end; first += Block)
        {
            bool more = first + Block < end;
            if (more) walk.Next.Find(plan, walk.B, first + Block, begin, end);
            for (int i = 0; i < heads; i += together)
            {
                byte** ahead = i + together < heads ? walk.Keys.K : more ? walk.Next.K : null;
                Team<E>(plan, s, firstHead + i, Math.Min(together, heads - i), ahead, i + together < heads ? firstHead + i + together : firstHead, ref walk);
            }
            (walk.Keys, walk.Next) = (walk.Next, walk.Keys);
        }
    }

    private static void Clear(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int firstHead, int heads, int split)
    {
        for (int t = 0; t < s.Tokens; t++)
            for (int h = firstHead * plan.Group; h < (firstHead + heads) * plan.Group; h++)
            {
                long row = (s.FirstToken + t) * plan.Problem->QHeads + h;
                if (plan.OnlyFailed && plan.Failed[row] == 0) continue;
                float* o = Partial(plan, s, t, h, split);
                new Span<float>(o, plan.PaddedV + 1).Clear();
                o[plan.PaddedV + 1] = plan.Softmax is KnSoftmax.Unified or KnSoftmax.Bounded ? plan.References[row] : float.NegativeInfinity;
            }
    }

    private static float* Partial(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int t, int h, int split) =>
        plan.Partials + (s.FirstPartial + ((long)t * plan.Problem->QHeads + h) * s.Splits + split) * plan.PartialLength;

    private static void Factors(in DecodeAttentionManagedPlan plan, int head, ref Walk walk)
    {
        ref readonly KnDecodeAttentionArgs a = ref *plan.Args;
        for (int j = 0; j < Block; j++)
        {
            long at = walk.Keys.Scales[j] + head * a.ScaleHead;
            walk.KFactors[j] = a.Scale * a.KScales[at];
            walk.VFactors[j] = a.VScales[at];
        }
    }

    // The rows of some heads over a block. A head of more rows than a team holds is walked once for each team of them.
    private static void Team<E>(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int firstHead, int heads, byte** ahead, int headAhead,
        ref Walk walk) where E : struct, IElements
    {
        int count = 0;
        for (int i = 0; i < heads; i++)
        {
            walk.Starts[i] = count;
            for (int t = 0; t < s.Tokens; t++)
            {
                plan.Seen(s, t, out int begin, out int end);
                begin = Math.Max(begin - walk.Keys.First, walk.Keys.Skip);
                end = Math.Min(end - walk.Keys.First, walk.Keys.Count);
                if (begin >= end) continue;
                for (int h = (firstHead + i) * plan.Group; h < (firstHead + i + 1) * plan.Group; h++)
                {
                    long row = (s.FirstToken + t) * plan.Problem->QHeads + h;
                    if (plan.OnlyFailed && plan.Failed[row] == 0) continue;
                    if (count == DecodeAttentionManagedPlan.Rows)
                    {
                        walk.Starts[1] = count;
                        Attend<E>(plan, s, firstHead, 1, null, 0, ref walk);
                        count = 0;
                    }
                    ref DecodeAttentionManagedRow r = ref walk.Rows[count++];
                    (r.Token, r.Head, r.Begin, r.End) = (t, h, begin, end);
                    r.Q = plan.Q + row * plan.PaddedK;
                    r.O = Partial(plan, s, t, h, walk.Split);
                }
            }
        }
        walk.Starts[heads] = count;
        if (count > 0) Attend<E>(plan, s, firstHead, heads, ahead, headAhead, ref walk);
    }

    /// <summary>Rows of a block that are walked step by step, and all heads in each, as they lie in memory.</summary>
    private readonly struct Pass(byte** rows, long offset, long head, long bytes)
    {
        // 12 steps of a head: 48 KB of f32, whose rows 4 KB apart share sets of L1 with few others that far ahead.
        private const int Ahead = 12;

        public byte** Rows { get; } = rows;

        public nint Offset(int i) => (nint)(offset + i * head);

        /// <summary>Fetches what comes some steps after that of head i at a slot, in this pass or the next.</summary>
        public void Fetch(in Pass next, int slot, int end, int i, int heads)
        {
            int unit = i + Math.Min(Ahead, Block / Step * heads);
            slot += unit / heads * Step;
            if (slot < end) DecodeAttentionManagedKeys.Fetch(Rows + slot, Offset(unit % heads), (nint)bytes);
            else if (next.Rows != null) next.Fetch(slot - (end + Step - 1) / Step * Step, unit % heads);
        }

        private void Fetch(int slot, int i) => DecodeAttentionManagedKeys.Fetch(Rows + slot, Offset(i), (nint)bytes);
    }

    private static void Attend<E>(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int firstHead, int heads, byte** ahead,
        int headAhead, ref Walk walk) where E : struct, IElements
    {
        ref readonly KnDecodeAttentionProblem p = ref *plan.Problem;
        ref readonly DecodeAttentionManagedKeys at = ref walk.Keys;
        long kHead = plan.Args->KHead * walk.Element, vHead = plan.Args->VHead * walk.Element, kBytes = p.HeadDim * walk.Element;
        var keys = new Pass(at.K, firstHead * kHead, kHead, kBytes);
        var values = new Pass(at.V, firstHead * vHead, vHead, p.VHeadDim * walk.Element);
        var next = new Pass(ahead, headAhead * kHead, kHead, kBytes);
        int from = at.Skip / Step * Step;
        for (int j = from; j < at.Count; j += Step)
            for (int i = 0; i < heads; i++)
            {
                keys.Fetch(values, j, at.Count, i, heads);
                if (walk.Widens) Widen(at.K + j, keys.Offset(i), p.HeadDim, plan.PaddedK, p.KvType, ref walk);
                DecodeAttentionManagedProducts<L, V, E>.Dots(walk.Rows + walk.Starts[i], walk.Starts[i + 1] - walk.Starts[i], walk.Widens ? walk.WideRows : at.K + j,
                    walk.Widens ? 0 : keys.Offset(i), walk.Widens ? plan.PaddedK : p.HeadDim, j);
            }
        for (int i = 0; i < heads; i++)
        {
            if ((plan.Flags & KnAttentionFlags.Scales) != 0) Factors(plan, firstHead + i, ref walk);
            for (int r = walk.Starts[i]; r < walk.Starts[i + 1]; r++) Weights(plan, walk.Rows[r], Logits(plan, s, walk.Rows[r], walk), walk);
        }
        for (int j = from; j < at.Count; j += Step)
            for (int i = 0; i < heads; i++)
            {
                values.Fetch(next, j, at.Count, i, heads);
                if (walk.Widens) Widen(at.V + j, values.Offset(i), p.VHeadDim, plan.PaddedV, p.KvType, ref walk);
                for (int r = walk.Starts[i], end = walk.Starts[i + 1]; r < end;)
                {
                    int together = end - r >= 4 ? 4 : end - r >= 2 ? 2 : 1;
                    Add<E>(plan, s, walk.Rows + r, together, j, walk.Widens ? walk.WideRows : at.V + j, walk.Widens ? 0 : values.Offset(i), walk.Widens ? plan.PaddedV : p.VHeadDim, at.First);
                    r += together;
                }
            }
    }

    private static void Widen(byte** from, nint offset, int dim, int padded, int type, ref Walk walk)
    {
        for (int j = 0; j < Step; j++)
        {
            float* to = (float*)walk.WideRows[j];
            Widening.Row<L, V>((DType)type, from[j] + offset, dim, to);
            for (int i = dim; i < padded; i++) to[i] = 0;
        }
    }

    // O += weights times values of a step. Hidden keys are passed over, so that what they hold does not matter: where rows do not
    // see the same keys, one by one.
    private static void Add<E>(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, DecodeAttentionManagedRow* r, int rows, int slot,
        byte** values, nint offset, nint length, int first) where E : struct, IElements
    {
        int begin = Math.Max(slot, r->Begin), end = Math.Min(slot + Step, r->End), fresh = s.FirstNew - first;
        bool tree = (plan.Flags & KnAttentionFlags.Tree) != 0 && end > fresh, same = true;
        for (int i = 1; i < rows; i++) same &= r[i].Begin == r->Begin && r[i].End == r->End;
        if (same && !tree)
        {
            if (begin < end) DecodeAttentionManagedProducts<L, V, E>.Sums(r, rows, values + (begin - slot), end - begin, offset, length, begin);
            return;
        }
        for (int i = 0; i < rows; i++)
        {
            end = Math.Min(slot + Step, r[i].End);
            for (int j = Math.Max(slot, r[i].Begin); j < end; j++)
                if (!tree || j < fresh || plan.Sees(s, r[i].Token, j - fresh))
                    DecodeAttentionManagedProducts<L, V, E>.Sums(r + i, 1, values + (j - slot), 1, offset, length, j);
        }
    }

    // What makes logits of dot products; hidden keys and the rest of the block become -infinity. Returns the largest.
    private static float Logits(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, in DecodeAttentionManagedRow r, in Walk walk)
    {
        float* x = r.X;
        for (int j = 0; j < Block; j += L.Count) L.Store(L.Multiply(L.Load(x + j), L.Load(walk.KFactors + j)), x + j);
        float softcap = plan.Problem->Softcap;
        if (softcap > 0)
        {
            V cap = L.Broadcast(softcap);
            for (int j = 0; j < Block; j += L.Count) L.Store(L.Multiply(cap, LaneMath.Tanh<L, V>(L.Divide(L.Load(x + j), cap))), x + j);
        }
        int fresh = s.FirstNew - walk.Keys.First;  // the first new token, as a key of this block
        bool tree = (plan.Flags & KnAttentionFlags.Tree) != 0;
        if ((plan.Flags & KnAttentionFlags.Alibi) != 0)
        {
            float slope = plan.Args->Alibi[r.Head];
            int position = plan.Position(s, r.Token) - walk.Keys.First;
            for (int j = r.Begin; j < r.End; j++)
                x[j] += slope * ((tree && j >= fresh ? plan.Position(s, j - fresh) - walk.Keys.First : j) - position);
        }
        for (int j = tree ? Math.Max(r.Begin, fresh) : r.End; j < r.End; j++)
            if (!plan.Sees(s, r.Token, j - fresh)) x[j] = float.NegativeInfinity;
        new Span<float>(x, r.Begin).Fill(float.NegativeInfinity);
        new Span<float>(x + r.End, Block - r.End).Fill(float.NegativeInfinity);
        V top = L.Load(x);
        for (int j = L.Count; j < Block; j += L.Count) top = L.Max(top, L.Load(x + j));
        Vector128<float> four = L.FoldMax(top);
        return Math.Max(Math.Max(four[0], four[1]), Math.Max(four[2], four[3]));
    }

    // Logits to weights exp(x - reference) times the scale of the value, and l += sum exp(x - reference); O follows the reference.
    private static void Weights(in DecodeAttentionManagedPlan plan, in DecodeAttentionManagedRow r, float top, in Walk walk)
    {
        float* o = r.O;
        ref float l = ref o[plan.PaddedV], reference = ref o[plan.PaddedV + 1];
        float margin = plan.Softmax == KnSoftmax.Lazy ? DecodeAttentionManagedPlan.Lazy : 0;
        if (plan.Softmax is KnSoftmax.Sync or KnSoftmax.Lazy && !(top <= reference + margin))
        {
            float factor = MathF.Exp(reference - top);
            V by = L.Broadcast(factor);
            for (int d = 0; d < plan.PaddedV; d += L.Count) L.Store(L.Multiply(L.Load(o + d), by), o + d);
            l *= factor;
            reference = top;
        }
        // Nothing seen so far: x - reference would be NaN.
        V from = L.Broadcast(float.IsNegativeInfinity(reference) ? 0 : reference), sum = L.Broadcast(0);
        for (int j = 0; j < Block; j += L.Count)
        {
            V p = LaneMath.Exp<L, V>(L.Subtract(L.Load(r.X + j), from));
            sum = L.Add(sum, p);
            L.Store(L.Multiply(p, L.Load(walk.VFactors + j)), r.X + j);
        }
        l += LaneSums.Sum(L.Fold(sum));
    }
}
