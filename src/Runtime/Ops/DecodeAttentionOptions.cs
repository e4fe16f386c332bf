using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Which keys a new token sees.</summary>
public enum AttentionMask
{
    /// <summary>Those at positions up to its own.</summary>
    Causal = 0,
    /// <summary>
    /// Every key before the new tokens, and the new tokens of its mask of 32 bits: speculative verification. A token's position
    /// is its depth in the tree.
    /// </summary>
    Tree = 1,
    /// <summary>Every key of its sequence: a shared prefix, cross attention.</summary>
    Full = 2,
}

/// <summary>What is subtracted from a score before exp. Every choice gives the same result up to rounding.</summary>
public enum SoftmaxDataflow
{
    /// <summary>
    /// <see cref="Bounded"/> where the soft cap alone proves that no row is done again, else what was tuned, or by the model Lazy, or
    /// Unified where there is a phi. Bounded by key norms is for the tuner to choose: where the norms are loose it does rows again.
    /// </summary>
    Auto = 0,
    /// <summary>The running maximum, with a rescale whenever it grows.</summary>
    Sync = 1,
    /// <summary>A maximum renewed only when a score passes it by more than a threshold; exact as well.</summary>
    Lazy = 2,
    /// <summary>
    /// A fixed phi per head for all splits, which then add up plainly; rows whose sums leave the range of float are done again by
    /// Sync. FlashDecoding++ (arXiv 2311.01282), section 3, with the check that it leaves out.
    /// </summary>
    Unified = 3,
    /// <summary>
    /// As Unified with a phi that cannot overflow: 0 where <see cref="DecodeAttentionOptions.SoftCap"/> is at most 60, else
    /// from |q| times the largest norm of a page's keys. Rows far below such a bound are done again.
    /// </summary>
    Bounded = 4,
}

/// <summary>
/// Attention of a few new tokens per sequence over its cache: <c>out[i,h] = sum_j p[j] v[j] / sum_j p[j]</c> with
/// <c>p[j] = exp(cap(scale q[i,h]·k[j]) + alibi[h] (position(j) - position(i)))</c> over the keys j that token i sees, and
/// <c>cap(s) = SoftCap tanh(s / SoftCap)</c>. Head h of q reads head h / (QHeads / KvHeads) of the cache.
/// </summary>
/// <remarks>
/// <code>
/// query          cache                output
/// f32 bf16 f16   as query, s8, e4m3   as query, f32
/// </code>
/// </remarks>
public sealed record DecodeAttentionOptions
{
    /// <summary>Heads of q.</summary>
    public required int QHeads { get; init; }

    /// <summary>Heads of the cache; QHeads is a multiple of it, any.</summary>
    public required int KvHeads { get; init; }

    /// <summary>Elements of a head of q and k: a multiple of 8, at most 1024.</summary>
    public required int HeadDim { get; init; }

    /// <summary>Elements of a head of v and of the output; 0 is HeadDim.</summary>
    public int VHeadDim { get; init; }

    /// <summary>The most sequences that one call will bring.</summary>
    public int MaxBatch { get; init; } = 1;

    /// <summary>The most new tokens that one sequence will bring, 1 to 16.</summary>
    public int MaxQLen { get; init; } = 1;

    /// <summary>The most tokens of one sequence in the cache, new ones included.</summary>
    public required int MaxKvLen { get; init; }

    /// <summary>Tokens of a page, any number. 0: the cache is contiguous, sequence b is its page b.</summary>
    public int PageSize { get; init; }

    /// <summary>Keys that a token sees, its own included; 0 is all.</summary>
    public int Window { get; init; }

    /// <summary>Cap of the scores in nats; 0 is none.</summary>
    public float SoftCap { get; init; }

    /// <summary>What q·k is multiplied with; 0 is 1 / sqrt(HeadDim).</summary>
    public float Scale { get; init; }

    /// <summary>Whether scores have a bias linear in the distance (Press et al. 2022), with a slope per head of q.</summary>
    public bool Alibi { get; init; }

    /// <summary>Whether each head of q has a sink: one more key with a logit of its own, no bias and the value 0.</summary>
    public bool Sinks { get; init; }

    /// <summary>Which keys a new token sees.</summary>
    public AttentionMask Mask { get; init; }

    /// <summary>Type of q.</summary>
    public DType Query { get; init; } = DType.BFloat16;

    /// <summary>Type of the cache.</summary>
    public DType Kv { get; init; } = DType.BFloat16;

    /// <summary>Type of the output.</summary>
    public DType Output { get; init; } = DType.BFloat16;

    /// <summary>Whether an e4m3 cache has scales per token and head; an s8 cache always has.</summary>
    public bool KvScales { get; init; }

    /// <summary>Whether the cache keeps the largest norm of each page's keys, so that Bounded can be chosen without a soft cap.</summary>
    public bool KeyNorms { get; init; }

    /// <summary>Which dataflow of the softmax.</summary>
    public SoftmaxDataflow Softmax { get; init; }

    /// <summary>
    /// Promise that the bits of a sequence's outputs depend on that sequence alone: not on the batch, the place in it, the
    /// threads, or how many tokens are verified at a time. The split and the row are then fixed by shape and types.
    /// </summary>
    public bool BatchInvariant { get; init; }

    /// <summary>Upper bound on threads; 0 is the whole pool.</summary>
    public int Threads { get; init; }

    /// <summary>Forces this row, for example "decode_attention/avx512". Refusal is an error, never a fallback.</summary>
    public string? Row { get; init; }

    /// <summary>Where the cache of keys and values lies when a call begins: the choice is the one that was tuned for that. The model does not tell them apart.</summary>
    public CacheState Cache { get; init; }

    /// <summary>Directory of the tuning database that the choice comes from, over the shipped tables; null: the user's, <see cref="Autotuner.DefaultDirectory"/>; empty: the shipped tables alone.</summary>
    public string? TuningDirectory { get; init; }

    internal int ValueDim => VHeadDim == 0 ? HeadDim : VHeadDim;

    internal float ScoreScale => Scale == 0 ? 1 / MathF.Sqrt(HeadDim) : Scale;

    /// <summary>Whether the soft cap alone keeps every sum in range.</summary>
    internal bool CapBounds => SoftCap is > 0 and <= 60;

    /// <summary>
    /// Whether no row of Bounded is ever done again: nothing overflows, and the denominator is at least e^-SoftCap for every key in sight,
    /// hardly fewer than kv_len and then above kv_len 2^-102. A window or slopes may leave a single one of up to 2^28 keys: ln 2^28 + 51
    /// is below 102 ln 2.
    /// </summary>
    internal bool CapProves => SoftCap > 0 && SoftCap <= (Window > 0 || Alibi ? 51 : 60);

    /// <summary>Whether the cache holds a scale per token and head.</summary>
    internal bool Scaled => KvScales || Kv == DType.Int8;

    /// <summary>Bytes of so many tokens of every sequence, with their scales.</summary>
    internal long KvBytes(int kvLen) => (long)MaxBatch * KvHeads * kvLen * ((HeadDim + ValueDim) * Kv.Bits() / 8 + (Scaled ? 8 : 0));

    /// <summary>The native problem for calls of up to <paramref name="kvLen"/> tokens in the cache.</summary>
    internal unsafe KnDecodeAttentionProblem Problem(int kvLen, bool phi) => new()
    {
        Size = (uint)sizeof(KnDecodeAttentionProblem),
        QType = (int)Query,
        KvType = (int)Kv,
        OutType = (int)Output,
        Batch = MaxBatch,
        QLen = MaxQLen,
        QHeads = QHeads,
        KvHeads = KvHeads,
        HeadDim = HeadDim,
        VHeadDim = ValueDim,
        KvLen = kvLen,
        PageSize = PageSize,
        Window = Window,
        Softcap = SoftCap,
        Flags = (int)((Mask == AttentionMask.Tree ? KnAttentionFlags.Tree : 0) | (Mask == AttentionMask.Full ? KnAttentionFlags.Full : 0)
            | (Alibi ? KnAttentionFlags.Alibi : 0) | (Sinks ? KnAttentionFlags.Sinks : 0) | (Scaled ? KnAttentionFlags.Scales : 0)
            | (phi ? KnAttentionFlags.Phi : 0) | (KeyNorms ? KnAttentionFlags.Norms : 0) | (BatchInvariant ? KnAttentionFlags.Invariant : 0)),
    };

    /// <summary>Throws for the first rule of the operation that these options break, naming the property.</summary>
    internal void Check()
    {
        KernelsException.Require(MaxBatch is >= 0 and <= 1 << 20, nameof(MaxBatch), $"0 <= MaxBatch <= 2^20, not {MaxBatch}");
        KernelsException.Require(MaxQLen is >= 1 and <= 16, nameof(MaxQLen), $"1 <= MaxQLen <= 16, not {MaxQLen}");
        KernelsException.Require(KvHeads is >= 1 and <= 1 << 16, nameof(KvHeads), $"1 <= KvHeads <= 2^16, not {KvHeads}");
        KernelsException.Require(QHeads is >= 1 and <= 1 << 16 && QHeads % KvHeads == 0, nameof(QHeads), $"a multiple of KvHeads = {KvHeads} up to 2^16, not {QHeads}");
        KernelsException.Require(IsDim(HeadDim), nameof(HeadDim), $"a multiple of 8 from 8 to 1024, not {HeadDim}");
        KernelsException.Require(IsDim(ValueDim), nameof(VHeadDim), $"0 or a multiple of 8 from 8 to 1024, not {VHeadDim}");
        KernelsException.Require(MaxKvLen is >= 0 and <= 1 << 28, nameof(MaxKvLen), $"0 <= MaxKvLen <= 2^28, not {MaxKvLen}");
        KernelsException.Require(PageSize is >= 0 and <= 1 << 28, nameof(PageSize), $"0 <= PageSize <= 2^28, not {PageSize}");
        KernelsException.Require(Window is >= 0 and <= 1 << 28, nameof(Window), $"0 <= Window <= 2^28, not {Window}");
        KernelsException.Require(float.IsFinite(SoftCap) && SoftCap >= 0, nameof(SoftCap), $"finite and at least 0, not {SoftCap}");
        KernelsException.Require(float.IsFinite(Scale) && Scale >= 0, nameof(Scale), $"finite and at least 0, not {Scale}");
        KernelsException.Require(Threads is >= 0 and <= 1024, nameof(Threads), $"0 <= Threads <= 1024, not {Threads}");
        KernelsException.Require(Enum.IsDefined(Mask), nameof(Mask), $"a value of the enumeration, not {(int)Mask}");
        KernelsException.Require(Enum.IsDefined(Softmax), nameof(Softmax), $"a value of the enumeration, not {(int)Softmax}");
        KernelsException.Require(Mask != AttentionMask.Full || (!Alibi && Window == 0), nameof(Mask), $"Causal or Tree with Alibi or Window, which need positions");
        CheckTypes();
    }

    private void CheckTypes()
    {
        KernelsException.Require(!BatchInvariant || Softmax != SoftmaxDataflow.Bounded || CapBounds, nameof(Softmax),
            $"Bounded by a SoftCap up to 60 in a batch-invariant plan, since the norm of a page covers keys that a token does not see");
        KernelsException.Require(Query is DType.Float32 or DType.BFloat16 or DType.Float16, nameof(Query), $"f32, bf16 or f16, not {Query.Name()}");
        bool quantized = Kv is DType.Int8 or DType.Float8E4M3;
        KernelsException.Require(Kv == Query || quantized, nameof(Kv), $"{Query.Name()}, s8 or e4m3 under a query of {Query.Name()}, not {Kv.Name()}");
        KernelsException.Require(Output == Query || Output == DType.Float32, nameof(Output), $"f32 or the query's {Query.Name()}, not {Output.Name()}");
        KernelsException.Require(!KvScales || quantized, nameof(KvScales), $"an s8 or e4m3 cache, not {Kv.Name()}");
    }

    private static bool IsDim(int dim) => dim is >= 8 and <= 1024 && dim % 8 == 0;
}
