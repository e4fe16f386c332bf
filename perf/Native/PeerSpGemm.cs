// kn_peers.h in C#: sparse products by GraphBLAS and Eigen.
using System.Runtime.InteropServices;

namespace Kernels.Perf;

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct PeerSpGemmProblem
{
    public uint Size;
    public int Type;
    public int Threads;
    public int Semiring;
    public int Complement;
    public int Unsorted;
    public long M, K, N;
    public long* AOffsets;
    public int* AColumns;
    public void* AValues;
    public long* BOffsets;
    public int* BColumns;
    public void* BValues;
    public long* MaskOffsets;
    public int* MaskColumns;
    public long* DOffsets;
    public int* DColumns;
    public void* DValues;
}

/// <summary>A peer's product of two matrices, which it holds in its own form.</summary>
internal sealed unsafe class PeerSpGemm : SafeHandle
{
    private readonly PeerExports _exports;

    private PeerSpGemm(PeerExports exports, nint handle)
        : base(0, ownsHandle: true)
    {
        _exports = exports;
        SetHandle(handle);
    }

    public override bool IsInvalid => handle == 0;

    /// <summary>False, and why, when the peer does not do this.</summary>
    internal static bool TryCreate(PeerExports exports, int peer, string name, PeerSpGemmProblem problem, out PeerSpGemm? product, out string reason)
    {
        problem.Size = (uint)sizeof(PeerSpGemmProblem);
        nint handle;
        int status = exports.CreateSpGemm(peer, &problem, &handle);
        product = status == 0 ? new PeerSpGemm(exports, handle) : null;
        reason = status == 0 ? "" : $"{name}: {exports.LastError()}";
        return status is 0 or PeerExports.Unsupported ? status == 0 : throw new InvalidOperationException(reason);
    }

    /// <summary>Makes C, kept until the next call, and returns how many entries it has.</summary>
    internal long Run()
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        long nonZeros;
        return _exports.RunSpGemm(handle, &nonZeros) == 0 ? nonZeros : throw new InvalidOperationException(_exports.LastError());
    }

    /// <summary>Copies the last C: offsets [m + 1], columns and, but for the structure alone, values of as many entries as Run said.</summary>
    internal void Copy(long* offsets, int* columns, void* values)
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        if (_exports.CopySpGemm(handle, offsets, columns, values) != 0) throw new InvalidOperationException(_exports.LastError());
    }

    protected override bool ReleaseHandle()
    {
        _exports.DestroySpGemm(handle);
        return true;
    }
}
