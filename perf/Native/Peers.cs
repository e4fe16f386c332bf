// kn_peers.h in C#: the peers, and their flat GEMM.
using System.Runtime.InteropServices;

namespace Kernels.Perf;

/// <summary>y[m,n] = x[m,k] . w[n,k]^T, dense and row-major. Types are kn_dtype; x and w have the same one.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PeerProblem
{
    public uint Size;
    public int Type;
    public int YType;
    public int M, N, K;
    public int Threads;
    public int Copies;
}

/// <summary>
/// One peer: a library and its version. Create and run gemms on one thread, because an OpenMP runtime keeps a team for every
/// thread that calls it; and interleave peers by rounds, not by calls (see <see cref="BusyWait"/>).
/// </summary>
internal sealed unsafe class Peer
{
    private readonly PeerExports _exports;
    private readonly int _index;

    internal string Name { get; }

    internal Peer(PeerExports exports, int index, string name) => (_exports, _index, Name) = (exports, index, name);

    /// <summary>Packs the weights [n,k] (scales[n] for s8, else empty). False, and why, when the peer does not do this.</summary>
    internal bool TryCreate<T>(PeerProblem problem, ReadOnlySpan<T> weights, ReadOnlySpan<float> scales, out PeerGemm? gemm,
        out string reason)
        where T : unmanaged
    {
        gemm = null;
        problem.Size = (uint)sizeof(PeerProblem);
        if ((long)weights.Length < (long)problem.N * problem.K || (!scales.IsEmpty && scales.Length < problem.N))
            throw new ArgumentException("weights hold n * k elements, scales none or n");
        nint handle;
        int status;
        fixed (T* w = weights)
        fixed (float* s = scales)
            status = _exports.Create(_index, &problem, w, s, &handle);
        if (status == 0)
            gemm = new PeerGemm(_exports, handle);
        reason = status == 0 ? "" : $"{Name}: {_exports.LastError()}";
        return status is 0 or PeerExports.Unsupported ? status == 0 : throw new InvalidOperationException(reason);
    }

    /// <summary>False, and why, when the peer does not do this.</summary>
    internal bool TryCreate(in PeerAttentionProblem problem, out PeerAttention? attention, out string reason) =>
        PeerAttention.TryCreate(_exports, _index, Name, problem, out attention, out reason);

    /// <summary>False, and why, when the peer does not do this.</summary>
    internal bool TryCreate(in PeerSpGemmProblem problem, out PeerSpGemm? product, out string reason) =>
        PeerSpGemm.TryCreate(_exports, _index, Name, problem, out product, out reason);
}

/// <summary>A problem with its weights packed, ready to run.</summary>
internal sealed unsafe class PeerGemm : SafeHandle
{
    private readonly PeerExports _exports;

    internal PeerGemm(PeerExports exports, nint handle)
        : base(0, ownsHandle: true)
    {
        _exports = exports;
        SetHandle(handle);
    }

    public override bool IsInvalid => handle == 0;

    /// <summary>Runs on packed copy <paramref name="copy"/>; x [m,k] and y [m,n] are the caller's to keep in place.</summary>
    internal void Run(int copy, void* x, void* y)
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        if (_exports.Run(handle, copy, x, y) != 0)
            throw new InvalidOperationException(_exports.LastError());
    }

    protected override bool ReleaseHandle()
    {
        _exports.Destroy(handle);
        return true;
    }
}

/// <summary>The exports of one peer module. Each module binds to its own oneDNN, whatever else is loaded.</summary>
internal sealed unsafe class PeerExports
{
    internal const int Unsupported = 2;  // kn_status

    internal readonly delegate* unmanaged[Cdecl]<int, PeerProblem*, void*, float*, nint*, int> Create;
    internal readonly delegate* unmanaged[Cdecl]<nint, int, void*, void*, int> Run;
    internal readonly delegate* unmanaged[Cdecl]<nint, void> Destroy;
    internal readonly delegate* unmanaged[Cdecl]<int, PeerAttentionProblem*, nint*, int> CreateAttention;
    internal readonly delegate* unmanaged[Cdecl]<nint, void*, void*, void*, void*, int> RunAttention;
    internal readonly delegate* unmanaged[Cdecl]<nint, void> DestroyAttention;
    internal readonly delegate* unmanaged[Cdecl]<int, PeerSpGemmProblem*, nint*, int> CreateSpGemm;
    internal readonly delegate* unmanaged[Cdecl]<nint, long*, int> RunSpGemm;
    internal readonly delegate* unmanaged[Cdecl]<nint, long*, int*, void*, int> CopySpGemm;
    internal readonly delegate* unmanaged[Cdecl]<nint, void> DestroySpGemm;
    private readonly delegate* unmanaged[Cdecl]<int, byte*> _name;
    private readonly delegate* unmanaged[Cdecl]<byte*> _lastError;

    internal PeerExports(NativeModule module)
    {
        Create = (delegate* unmanaged[Cdecl]<int, PeerProblem*, void*, float*, nint*, int>)module.Export("kn_peer_create");
        Run = (delegate* unmanaged[Cdecl]<nint, int, void*, void*, int>)module.Export("kn_peer_run");
        Destroy = (delegate* unmanaged[Cdecl]<nint, void>)module.Export("kn_peer_destroy");
        CreateAttention = (delegate* unmanaged[Cdecl]<int, PeerAttentionProblem*, nint*, int>)module.Export("kn_peer_attention_create");
        RunAttention = (delegate* unmanaged[Cdecl]<nint, void*, void*, void*, void*, int>)module.Export("kn_peer_attention_run");
        DestroyAttention = (delegate* unmanaged[Cdecl]<nint, void>)module.Export("kn_peer_attention_destroy");
        CreateSpGemm = (delegate* unmanaged[Cdecl]<int, PeerSpGemmProblem*, nint*, int>)module.Export("kn_peer_spgemm_create");
        RunSpGemm = (delegate* unmanaged[Cdecl]<nint, long*, int>)module.Export("kn_peer_spgemm_run");
        CopySpGemm = (delegate* unmanaged[Cdecl]<nint, long*, int*, void*, int>)module.Export("kn_peer_spgemm_copy");
        DestroySpGemm = (delegate* unmanaged[Cdecl]<nint, void>)module.Export("kn_peer_spgemm_destroy");
        _name = (delegate* unmanaged[Cdecl]<int, byte*>)module.Export("kn_peer_name");
        _lastError = (delegate* unmanaged[Cdecl]<byte*>)module.Export("kn_peer_last_error");
    }

    internal string? NameOf(int peer) => Marshal.PtrToStringUTF8((nint)_name(peer));

    internal string LastError() => Marshal.PtrToStringUTF8((nint)_lastError()) ?? "";
}

/// <summary>All peers of a build: those of kn_peers, then the second oneDNN of kn_peers_prefix.</summary>
internal static unsafe partial class Peers
{
    /// <summary>
    /// A worker of a peer busy-waits after a call and takes a core from whoever runs next. With the wait cut short the peer
    /// itself would lose, call by call, the time to wake its workers; so it keeps its wait, several calls in a row make a
    /// turn, and the next turn begins with this long of calls that do not count.
    /// </summary>
    internal static readonly TimeSpan BusyWait = TimeSpan.FromMilliseconds(25);

    /// <summary>Every peer that loads. False, and why, when there is none.</summary>
    internal static bool TryLoad(string directory, out IReadOnlyList<Peer> peers, out string reason)
    {
        // OpenBLAS would wait 2^26 cycles, well beyond the rest between rounds; 2^22 still covers a gap between calls.
        SetEnvironment("OPENBLAS_THREAD_TIMEOUT", "22");
        var found = new List<Peer>();
        var reasons = new List<string>();
        foreach (string name in (string[])["kn_peers", "kn_peers_prefix"])
        {
            if (!NativeModule.TryLoad(directory, name, out NativeModule module, out string why))
            {
                reasons.Add(why);
                continue;
            }
            var exports = new PeerExports(module);
            for (int i = 0; exports.NameOf(i) is { } peer; i++)
                found.Add(new Peer(exports, i, peer));
        }
        peers = found;
        reason = found.Count != 0 ? "" : string.Join("; ", reasons);
        return found.Count != 0;
    }

    // On Unix .NET keeps an environment of its own that no native library sees, and libraries read theirs when they load.
    private static void SetEnvironment(string name, string value)
    {
        if (OperatingSystem.IsWindows())
        {
            if (Environment.GetEnvironmentVariable(name) is null)
                Environment.SetEnvironmentVariable(name, value);
        }
        else
        {
            _ = SetEnv(name, value, overwrite: 0);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetEnv(string name, string value, int overwrite);
}
