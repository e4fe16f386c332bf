using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Under which key the choices of decode attention are stored.</summary>
internal static class DecodeAttentionTuned
{
    internal const string Operation = "decode_attention";

    /// <summary>
    /// The key. kv_len is no part of it: it is what the intervals are over. Of the soft cap it matters whether there is one and
    /// whether it bounds the scores, alone or with no row done again; the policy of the softmax decides which launches were candidates.
    /// </summary>
    internal static TuningKey Key(Device device, DecodeAttentionOptions o, bool phi, CacheState cache)
    {
        var flags = (KnAttentionFlags)o.Problem(0, phi).Flags;
        return TuningKey.Of(Operation, StoredChoices.DeviceOf(device, o.Threads), device.Build, TuningPolicy.Of(device, cache),
            ("batch", o.MaxBatch), ("q_len", o.MaxQLen), ("q_heads", o.QHeads), ("kv_heads", o.KvHeads), ("head_dim", o.HeadDim), ("v_head_dim", o.ValueDim),
            ("query", o.Query.Name()), ("kv", o.Kv.Name()), ("output", o.Output.Name()), ("page_size", o.PageSize), ("window", o.Window),
            ("softcap", o.CapProves ? "proving" : o.CapBounds ? "bounding" : o.SoftCap > 0 ? "wide" : "none"), ("mask", o.Mask.ToString().ToLowerInvariant()),
            ("alibi", Bit(KnAttentionFlags.Alibi)), ("sinks", Bit(KnAttentionFlags.Sinks)), ("scales", Bit(KnAttentionFlags.Scales)),
            ("phi", Bit(KnAttentionFlags.Phi)), ("norms", Bit(KnAttentionFlags.Norms)), ("softmax", o.Softmax.ToString().ToLowerInvariant()),
            ("batch_invariant", o.BatchInvariant ? 1 : 0));

        int Bit(KnAttentionFlags flag) => (flags & flag) != 0 ? 1 : 0;
    }
}
