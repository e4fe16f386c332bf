using System.Runtime.Intrinsics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// All query rows of one KV head over one split of the keys. A row's numbers are one chain along the keys, block by block, so
/// they do not depend on which other rows share the task.
/// </summary>
internal static unsafe class DecodeAttentionManagedSplit<L, V>
    where L : struct, ILanes<V>
    where V : struct
{
    private const int Block = DecodeAttentionManagedPlan.Block;

    /// <summary>A block of keys in a worker's scratch.</summary>
    private struct Keys
    {
        public float* K, V;       // [Block, PaddedK], [Block, PaddedV]
        public float* X, P;       // [Block] of the row in turn: logits, then exp; exp times the scale of the value
        public float* KFactors, VFactors;  // [Block]: scale times that of the key; of the value
        public int First, Skip, Count;    // keys First + Skip .. First + Count - 1 are there
    }

    /// <summary>Task of the pool.</summary>
    public static void Task(void* context, long task, int worker)
    {
        ref readonly DecodeAttentionManagedPlan plan = ref *(DecodeAttentionManagedPlan*)context;
        ref readonly KnDecodeAttentionProblem p = ref *plan.Problem;
        int place = plan.Owner(task, true), b = plan.Sequences[place].Placed;
        ref readonly DecodeAttentionSequence s = ref plan.Sequences[b];
        long item = task - plan.Sequences[place].FirstTask;
        int kvHead = (int)(item / s.Splits), split = (int)(item % s.Splits);
        if (plan.OnlyFailed && !AnyFailed(plan, s, kvHead)) return;
        float* floats = (float*)(plan.Scratch + worker * plan.ScratchBytes);
        float* tail = floats + Block * (plan.PaddedK + plan.PaddedV);
        var keys = new Keys { K = floats, V = floats + Block * plan.PaddedK, X = tail, P = tail + Block, KFactors = tail + 2 * Block, VFactors = tail + 3 * Block };
        long first = (long)(s.FirstSplit + split) * s.Split;
        int begin = (int)Math.Max(first, s.FirstKey), end = (int)Math.Min(first + s.Split, s.EndKey);
        for (int t = 0; t < s.Tokens; t++)
            for (int g = 0; g < plan.Group; g++)
            {
                int h = kvHead * plan.Group + g;
                long row = (s.FirstToken + t) * p.QHeads + h;
                if (plan.OnlyFailed && plan.Failed[row] == 0) continue;
                float* o = Partial(plan, s, t, h, split);
                new Span<float>(o, plan.PaddedV + 1).Clear();
                o[plan.PaddedV + 1] = plan.Softmax is KnSoftmax.Unified or KnSoftmax.Bounded ? plan.References[row] : float.NegativeInfinity;
            }
        // Blocks begin at multiples of their length whatever the window: the chains of sums depend on positions alone.
        for (keys.First = begin / Block * Block; keys.First < end; keys.First += Block)
        {
            keys.Skip = Math.Max(0, begin - keys.First);
            keys.Count = Math.Min(end - keys.First, Block);
            Load(plan, b, kvHead, keys);
            for (int t = 0; t < s.Tokens; t++) Token(plan, s, t, kvHead, split, keys);
        }
    }

    private static bool AnyFailed(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int kvHead)
    {
        for (int t = 0; t < s.Tokens; t++)
            for (int g = 0; g < plan.Group; g++)
                if (plan.Failed[(s.FirstToken + t) * plan.Problem->QHeads + kvHead * plan.Group + g] != 0) return true;
        return false;
    }

    private static float* Partial(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int t, int h, int split) =>
        plan.Partials + (s.FirstPartial + ((long)t * plan.Problem->QHeads + h) * s.Splits + split) * plan.PartialLength;

    private static void Load(in DecodeAttentionManagedPlan plan, int b, int kvHead, in Keys keys)
    {
        ref readonly KnDecodeAttentionProblem p = ref *plan.Problem;
        ref readonly KnDecodeAttentionArgs a = ref *plan.Args;
        var type = (DType)p.KvType;
        int size = type.Bits() / 8;
        bool scales = (plan.Flags & KnAttentionFlags.Scales) != 0;
        for (int j = keys.Skip; j < keys.Count; j++)
        {
            long page = p.PageSize == 0 ? b : a.Pages[b * a.PagesLd + (keys.First + j) / p.PageSize];
            long token = p.PageSize == 0 ? keys.First + j : (keys.First + j) % p.PageSize;
            float* k = keys.K + j * plan.PaddedK, v = keys.V + j * plan.PaddedV;
            Widening.Row<L, V>(type, (byte*)a.K + (page * a.KPage + token * a.KToken + kvHead * a.KHead) * size, p.HeadDim, k);
            Widening.Row<L, V>(type, (byte*)a.V + (page * a.VPage + token * a.VToken + kvHead * a.VHead) * size, p.VHeadDim, v);
            for (int i = p.HeadDim; i < plan.PaddedK; i++) k[i] = 0;
            for (int i = p.VHeadDim; i < plan.PaddedV; i++) v[i] = 0;
            long at = page * a.ScalePage + token * a.ScaleToken + kvHead * a.ScaleHead;
            keys.KFactors[j] = scales ? a.Scale * a.KScales[at] : a.Scale;
            keys.VFactors[j] = scales ? a.VScales[at] : 1;
        }
        for (int j = 0; j < Block; j++)
            if (j < keys.Skip || j >= keys.Count) keys.KFactors[j] = keys.VFactors[j] = 0;
    }

    private static void Token(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int t, int kvHead, int split, in Keys keys)
    {
        plan.Seen(s, t, out int begin, out int end);
        begin = Math.Max(begin - keys.First, keys.Skip);
        end = Math.Min(end - keys.First, keys.Count);
        if (begin >= end) return;
        for (int g = 0; g < plan.Group; g++)
        {
            int h = kvHead * plan.Group + g;
            long row = (s.FirstToken + t) * plan.Problem->QHeads + h;
            if (plan.OnlyFailed && plan.Failed[row] == 0) continue;
            Dots(plan.Q + row * plan.PaddedK, keys, plan.PaddedK);
            float top = Logits(plan, s, t, h, begin, end, keys);
            Accumulate(plan, top, Partial(plan, s, t, h, split), keys);
        }
    }

    // x[j] = q . k_j for whole groups of four keys; where there is no key the scratch holds anything.
    private static void Dots(float* q, in Keys keys, nint length)
    {
        for (int j = 0; j < keys.Count; j += 4)
        {
            float* k0 = keys.K + j * length, k1 = k0 + length, k2 = k1 + length, k3 = k2 + length;
            V s0 = L.Broadcast(0), s1 = s0, s2 = s0, s3 = s0;
            for (nint i = 0; i < length; i += L.Count)
            {
                V x = L.Load(q + i);
                s0 = L.MultiplyAdd(x, L.Load(k0 + i), s0);
                s1 = L.MultiplyAdd(x, L.Load(k1 + i), s1);
                s2 = L.MultiplyAdd(x, L.Load(k2 + i), s2);
                s3 = L.MultiplyAdd(x, L.Load(k3 + i), s3);
            }
            LaneSums.Of(L.Fold(s0), L.Fold(s1), L.Fold(s2), L.Fold(s3)).Store(keys.X + j);
        }
    }

    // What makes logits of dot products; hidden keys and the rest of the block become -infinity. Returns the largest.
    private static float Logits(in DecodeAttentionManagedPlan plan, in DecodeAttentionSequence s, int t, int h, int begin, int end, in Keys keys)
    {
        float* x = keys.X;
        for (int j = 0; j < Block; j += L.Count) L.Store(L.Multiply(L.Load(x + j), L.Load(keys.KFactors + j)), x + j);
        float softcap = plan.Problem->Softcap;
        if (softcap > 0)
            for (int j = begin; j < end; j++) x[j] = softcap * MathF.Tanh(x[j] / softcap);
        int fresh = s.FirstNew - keys.First;  // the first new token, as a key of this block
        bool tree = (plan.Flags & KnAttentionFlags.Tree) != 0;
        if ((plan.Flags & KnAttentionFlags.Alibi) != 0)
        {
            float slope = plan.Args->Alibi[h];
            int position = plan.Position(s, t) - keys.First;
            for (int j = begin; j < end; j++)
                x[j] += slope * ((tree && j >= fresh ? plan.Position(s, j - fresh) - keys.First : j) - position);
        }
        for (int j = tree ? Math.Max(begin, fresh) : end; j < end; j++)
            if (!plan.Sees(s, t, j - fresh)) x[j] = float.NegativeInfinity;
        new Span<float>(x, begin).Fill(float.NegativeInfinity);
        new Span<float>(x + end, Block - end).Fill(float.NegativeInfinity);
        V top = L.Load(x);
        for (int j = L.Count; j < Block; j += L.Count) top = L.Max(top, L.Load(x + j));
        Vector128<float> four = L.FoldMax(top);
        return Math.Max(Math.Max(four[0], four[1]), Math.Max(four[2], four[3]));
    }

    // O += sum exp(x - reference) v, l += sum exp(x - reference). Keys of weight 0, hidden ones among them, are passed over,
    // so that what they hold does not matter.
    private static void Accumulate(in DecodeAttentionManagedPlan plan, float top, float* o, in Keys keys)
    {
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
        if (float.IsNegativeInfinity(reference)) return;
        V from = L.Broadcast(reference), sum = L.Broadcast(0);
        for (int j = 0; j < Block; j += L.Count)
        {
            V p = L.Exp(L.Subtract(L.Load(keys.X + j), from));
            sum = L.Add(sum, p);
            L.Store(p, keys.X + j);
            L.Store(L.Multiply(p, L.Load(keys.VFactors + j)), keys.P + j);
        }
        l += LaneSums.Sum(L.Fold(sum));
        nint length = plan.PaddedV, at = 0;
        for (; at + 4 * L.Count <= length; at += 4 * L.Count)
        {
            V a0 = L.Load(o + at), a1 = L.Load(o + at + L.Count), a2 = L.Load(o + at + 2 * L.Count), a3 = L.Load(o + at + 3 * L.Count);
            for (int j = 0; j < keys.Count; j++)
            {
                if (keys.X[j] == 0) continue;
                V p = L.Broadcast(keys.P[j]);
                float* v = keys.V + j * length + at;
                a0 = L.MultiplyAdd(p, L.Load(v), a0);
                a1 = L.MultiplyAdd(p, L.Load(v + L.Count), a1);
                a2 = L.MultiplyAdd(p, L.Load(v + 2 * L.Count), a2);
                a3 = L.MultiplyAdd(p, L.Load(v + 3 * L.Count), a3);
            }
            L.Store(a0, o + at);
            L.Store(a1, o + at + L.Count);
            L.Store(a2, o + at + 2 * L.Count);
            L.Store(a3, o + at + 3 * L.Count);
        }
        for (; at < length; at += L.Count)
        {
            V a = L.Load(o + at);
            for (int j = 0; j < keys.Count; j++)
                if (keys.X[j] != 0) a = L.MultiplyAdd(L.Broadcast(keys.P[j]), L.Load(keys.V + j * length + at), a);
            L.Store(a, o + at);
        }
    }
}
