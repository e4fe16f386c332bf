// kn_limits.h in C#: what this machine can do at best.
using System.Runtime.InteropServices;

namespace Kernels.Perf;

/// <summary>The best cold read: bytes per second in 10^9, and the loop that reached it.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct ColdRead
{
    public readonly double GigabytesPerSecond;
    public readonly int Streams;
    public readonly int Prefetch;
}

/// <summary>
/// Measured limits of this machine. Every figure is the median of many passes; rates are in 10^9 per second. All measurements
/// share one buffer, which <see cref="Release"/> gives back.
/// </summary>
internal sealed unsafe class Limits
{
    private readonly delegate* unmanaged[Cdecl]<long, int, int, double, double*, int> _read, _write, _copy;
    private readonly delegate* unmanaged[Cdecl]<long, long, int, double, ColdRead*, int> _cold;
    private readonly delegate* unmanaged[Cdecl]<int, int, double*, int> _peak;
    private readonly delegate* unmanaged[Cdecl]<void> _release;

    /// <summary>Names of the arithmetic kinds of this build: f32_avx512, bf16_amx...</summary>
    internal IReadOnlyList<string> Kinds { get; }

    private Limits(NativeModule module)
    {
        _read = (delegate* unmanaged[Cdecl]<long, int, int, double, double*, int>)module.Export("kn_limits_read");
        _write = (delegate* unmanaged[Cdecl]<long, int, int, double, double*, int>)module.Export("kn_limits_write");
        _copy = (delegate* unmanaged[Cdecl]<long, int, int, double, double*, int>)module.Export("kn_limits_copy");
        _cold = (delegate* unmanaged[Cdecl]<long, long, int, double, ColdRead*, int>)module.Export("kn_limits_cold");
        _peak = (delegate* unmanaged[Cdecl]<int, int, double*, int>)module.Export("kn_limits_peak");
        _release = (delegate* unmanaged[Cdecl]<void>)module.Export("kn_limits_release");
        var name = (delegate* unmanaged[Cdecl]<int, byte*>)module.Export("kn_limits_peak_name");
        var kinds = new List<string>();
        while (Marshal.PtrToStringUTF8((nint)name(kinds.Count)) is { } kind)
            kinds.Add(kind);
        Kinds = kinds;
    }

    internal static bool TryLoad(string directory, out Limits? limits, out string reason)
    {
        limits = null;
        try
        {
            if (NativeModule.TryLoad(directory, "kn_limits", out NativeModule module, out reason))
                limits = new Limits(module);
        }
        catch (EntryPointNotFoundException e)
        {
            reason = e.Message;
        }
        return limits is not null;
    }

    /// <summary>Reads bytesPerThread on every thread as 1, 2, 4 or 8 streams. For DRAM take at least 1 GiB in total.</summary>
    internal double Read(long bytesPerThread, int threads, int streams, double seconds)
    {
        double rate;
        Check(_read(bytesPerThread, threads, streams, seconds, &rate));
        return rate;
    }

    internal double Write(long bytesPerThread, int threads, bool nontemporal, double seconds)
    {
        double rate;
        Check(_write(bytesPerThread, threads, nontemporal ? 1 : 0, seconds, &rate));
        return rate;
    }

    /// <summary>Copies one half of bytesPerThread to the other; counts bytes read plus bytes written.</summary>
    internal double Copy(long bytesPerThread, int threads, bool nontemporal, double seconds)
    {
        double rate;
        Check(_copy(bytesPerThread, threads, nontemporal ? 1 : 0, seconds, &rate));
        return rate;
    }

    /// <summary>Reads weights of <paramref name="chunk"/> bytes, always the next ones of a rotating set.</summary>
    internal ColdRead Cold(long setBytes, long chunk, int threads, double seconds)
    {
        ColdRead best;
        Check(_cold(setBytes, chunk, threads, seconds, &best));
        return best;
    }

    /// <summary>Multiplies and adds in 10^9 a second; null when this CPU or this build lacks the kind.</summary>
    internal double? Peak(string kind, int threads)
    {
        for (int i = 0; i < Kinds.Count; i++)
        {
            if (Kinds[i] != kind)
                continue;
            double rate;
            int status = _peak(i, threads, &rate);
            if (status == Unsupported)
                return null;
            Check(status);
            return rate;
        }
        return null;
    }

    internal void Release() => _release();

    private const int Invalid = 1, Unsupported = 2, NoMemory = 3;  // kn_status

    private static void Check(int status)
    {
        if (status == 0)
            return;
        throw status switch
        {
            Invalid => new ArgumentException("kn_limits: bytes, threads, streams or seconds out of range"),
            NoMemory => new OutOfMemoryException("kn_limits: no memory for the buffer"),
            _ => new InvalidOperationException($"kn_limits: status {status}"),
        };
    }
}
