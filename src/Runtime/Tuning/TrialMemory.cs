using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels.Tuning;

/// <summary>Native memory, 64-byte aligned, between two bands that must come out as they went in.</summary>
internal sealed unsafe class GuardedMemory : IDisposable
{
    private const int Band = 256;
    private readonly byte _pattern;
    private byte* _all;

    /// <summary>Around what is read a pattern of 0xff is NaN in every dtype, so that reading it shows.</summary>
    public GuardedMemory(long bytes, byte pattern = 0xa5)
    {
        Bytes = bytes;
        _pattern = pattern;
        bool huge = bytes >= 4 << 20;  // as Buffer has it, so that what is timed lies in the same pages
        _all = (byte*)NativeMemory.AlignedAlloc((nuint)(bytes + 2 * Band), huge ? 2u << 20 : 64u);
        if (huge && OperatingSystem.IsLinux()) _ = Memory.Madvise(_all, (nuint)(bytes + 2 * Band), Memory.MadvHugepage);
        new Span<byte>(_all, Band).Fill(_pattern);
        EndAt(bytes);
    }

    public long Bytes { get; }

    public byte* At => _all + Band;

    /// <summary>Puts the second band behind the first `bytes` bytes.</summary>
    public void EndAt(long bytes) => new Span<byte>(At + bytes, Band).Fill(_pattern);

    /// <summary>Whether both bands are untouched, the second one behind the first `bytes` bytes.</summary>
    public bool Untouched(long bytes) =>
        new ReadOnlySpan<byte>(_all, Band).IndexOfAnyExcept(_pattern) < 0
        && new ReadOnlySpan<byte>(At + bytes, Band).IndexOfAnyExcept(_pattern) < 0;

    public void Fill(byte value) => NativeMemory.Fill(At, (nuint)Bytes, value);

    public void Dispose()
    {
        NativeMemory.AlignedFree(_all);
        _all = null;
    }
}

/// <summary>Random operands, eight bytes a step: gigabytes of weights are filled at the speed of memory.</summary>
internal struct TrialRandom(ulong seed)
{
    private ulong _state = seed * 0x9e3779b97f4a7c15 ^ 0xd1b54a32d192ed03;

    public ulong Next()
    {
        if (_state == 0) _state = 1;
        _state ^= _state << 13;
        _state ^= _state >> 7;
        _state ^= _state << 17;
        return _state;
    }

    public float Uniform(float low, float high) => low + (high - low) * (Next() >> 40) * (1f / (1 << 24));

    /// <summary>
    /// Whole bytes up to the next multiple of eight must be writable. Floats have random sign and fraction and four exponents,
    /// the largest giving values up to 2^exponent; the lowest exponents there are give denormals. Integers are any bits.
    /// </summary>
    public unsafe void Fill(DType type, void* at, long bytes, int exponent)
    {
        (ulong mask, ulong lane, int bias, int most, int fraction) = type switch
        {
            DType.Float32 => (0x81ffffff81ffffffUL, 0x0000000100000001UL, 127, 254, 23),
            DType.BFloat16 => (0x81ff81ff81ff81ffUL, 0x0001000100010001UL, 127, 254, 7),
            DType.Float16 => (0x8fff8fff8fff8fffUL, 0x0001000100010001UL, 15, 30, 10),
            DType.Float8E4M3 => (0x9f9f9f9f9f9f9f9fUL, 0x0101010101010101UL, 7, 14, 3),  // 15 holds NaN
            _ => (~0UL, 0UL, 0, 3, 0),
        };
        ulong field = (ulong)Math.Clamp(bias + exponent - 4, 0, most - 3);
        ulong add = lane * (field << fraction);
        var to = (ulong*)at;
        for (long i = 0; i < (bytes + 7) / 8; i++) to[i] = (Next() & mask) + add;
    }
}
