using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// A block of keys of a sequence in a worker's scratch: where each lies, for kv head 0. Slots without a key hold the place of
/// another, so that steps of several keys need not look.
/// </summary>
internal unsafe struct DecodeAttentionManagedKeys
{
    private const int Block = DecodeAttentionManagedPlan.Block, Step = 8, Line = 64;

    public byte** K, V;     // [Block]
    public long* Scales;    // [Block]: the element of the scale
    public int First, Skip, Count;  // keys First + Skip .. First + Count - 1 are there

    /// <summary>Scratch of a task: two blocks, the factors of one head, and a step's rows as f32 with their places.</summary>
    public static long Bytes(long padded) => 2 * Block * 24 + 2 * Block * sizeof(float) + Step * (padded * sizeof(float) + 8);

    public static DecodeAttentionManagedKeys At(ref byte* scratch)
    {
        var keys = new DecodeAttentionManagedKeys { K = (byte**)scratch, V = (byte**)scratch + Block, Scales = (long*)scratch + 2 * Block };
        scratch += Block * 24;
        return keys;
    }

    /// <summary>Finds the keys begin .. end - 1 that are among those of the block from `first` on.</summary>
    public void Find(in DecodeAttentionManagedPlan plan, int b, int first, int begin, int end)
    {
        ref readonly KnDecodeAttentionProblem p = ref *plan.Problem;
        ref readonly KnDecodeAttentionArgs a = ref *plan.Args;
        int size = ((DType)p.KvType).Bits() / 8;
        First = first;
        Skip = Math.Max(0, begin - first);
        Count = Math.Min(end - first, Block);
        for (int j = Skip; j < Count;)
        {
            long page = b, token = first + j;
            int stop = Count;
            if (p.PageSize != 0)
            {
                int index = (first + j) / p.PageSize;
                page = a.Pages[b * a.PagesLd + index];
                token -= (long)index * p.PageSize;
                stop = (int)Math.Min(stop, j + p.PageSize - token);
            }
            for (; j < stop; j++, token++)
            {
                K[j] = (byte*)a.K + (page * a.KPage + token * a.KToken) * size;
                V[j] = (byte*)a.V + (page * a.VPage + token * a.VToken) * size;
                Scales[j] = page * a.ScalePage + token * a.ScaleToken;
            }
        }
        for (int j = 0; j < Skip; j++) Repeat(j);
        for (int j = Count; j < Block; j++) Repeat(j);
    }

    private readonly void Repeat(int j)
    {
        K[j] = K[Skip];
        V[j] = V[Skip];
        Scales[j] = Scales[Skip];
    }

    /// <summary>Brings the rows of a step near while another is multiplied: prefetchers lose rows some KB apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Fetch(byte** rows, nint offset, nint bytes)
    {
        if (!Sse.IsSupported) return;
        for (int j = 0; j < Step; j++)
            for (nint i = 0; i < bytes; i += Line) Sse.Prefetch0(rows[j] + offset + i);
    }
}
