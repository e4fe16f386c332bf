// kn_peers.h in C#: attention composed from a peer's primitives.
using System.Runtime.InteropServices;

namespace Kernels.Perf;

/// <summary>out = softmax(scale q . kᵀ) . v per sequence and kv head, without any mask; k and v by strides in elements.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PeerAttentionProblem
{
    public uint Size;
    public int Type;
    public int Batch, KvHeads, Rows, HeadDim, VHeadDim, KvLen;
    public int Threads;
    public float Scale;
    public long KBatch, KHead, KToken;
    public long VBatch, VHead, VToken;
}

/// <summary>A peer's attention for one problem, ready to run.</summary>
internal sealed unsafe class PeerAttention : SafeHandle
{
    private readonly PeerExports _exports;

    private PeerAttention(PeerExports exports, nint handle)
        : base(0, ownsHandle: true)
    {
        _exports = exports;
        SetHandle(handle);
    }

    public override bool IsInvalid => handle == 0;

    /// <summary>False, and why, when the peer does not do this.</summary>
    internal static bool TryCreate(PeerExports exports, int peer, string name, PeerAttentionProblem problem, out PeerAttention? attention, out string reason)
    {
        problem.Size = (uint)sizeof(PeerAttentionProblem);
        nint handle;
        int status = exports.CreateAttention(peer, &problem, &handle);
        attention = status == 0 ? new PeerAttention(exports, handle) : null;
        reason = status == 0 ? "" : $"{name}: {exports.LastError()}";
        return status is 0 or PeerExports.Unsupported ? status == 0 : throw new InvalidOperationException(reason);
    }

    /// <summary>q [batch, kv_heads, rows, head_dim] and out [batch, kv_heads, rows, v_head_dim], contiguous.</summary>
    internal void Run(void* q, void* k, void* v, void* output)
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        if (_exports.RunAttention(handle, q, k, v, output) != 0) throw new InvalidOperationException(_exports.LastError());
    }

    protected override bool ReleaseHandle()
    {
        _exports.DestroyAttention(handle);
        return true;
    }
}
