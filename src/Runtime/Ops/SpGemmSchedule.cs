using Kernels.Interop.Native;

namespace Kernels;

/// <summary>How the values of C come about from those of the operands (spgemm.h): what a plan keeps for Numeric.</summary>
internal sealed unsafe class SpGemmSchedule : IDisposable
{
    private readonly PooledMemory _offsets, _counts;
    private PooledMemory? _terms;

    /// <summary>Room for offsets and counts.</summary>
    public SpGemmSchedule(in KnSpgemmProblem problem, long nonZeros)
    {
        (_offsets, _counts) = (Rent((problem.M + 1) * sizeof(long)), Rent(CountBytes(problem, nonZeros)));
        Bytes = LeastBytes(problem, nonZeros);
    }

    public KnSpgemmSchedule Native => new() { Offsets = (long*)_offsets.At, Terms = _terms is null ? null : (KnSpgemmTerm*)_terms.At, Counts = (ushort*)_counts.At };

    public long Bytes { get; private set; }

    /// <summary>Room for terms, where they take no more than that.</summary>
    public bool TryRentTerms(long rows, long most)
    {
        long bytes = _offsets[rows] * sizeof(KnSpgemmTerm);
        if (bytes > most) return false;
        _terms = Rent(bytes);
        Bytes += bytes;
        return true;
    }

    /// <summary>Keeps the memory from being freed during a call.</summary>
    public void Hold(ref Held held)
    {
        held.Add(_offsets, "plan");
        held.Add(_counts, "plan");
        held.Add(_terms, "plan");
    }

    private static PooledMemory Rent(long bytes)
    {
        PooledMemory memory = PooledMemory.Rent(bytes, "schedule");
        memory.Touch(bytes);
        return memory;
    }

    /// <summary>Entries of C in a block.</summary>
    internal static int Lanes(in KnSpgemmProblem problem) => (DType)problem.Type == DType.Float32 ? 16 : 8;

    internal static long CountBytes(in KnSpgemmProblem problem, long nonZeros) => (nonZeros / Lanes(problem) + problem.M + 1) * sizeof(ushort);

    /// <summary>Bytes that it takes whatever its terms are.</summary>
    internal static long LeastBytes(in KnSpgemmProblem problem, long nonZeros) => (problem.M + 1) * sizeof(long) + CountBytes(problem, nonZeros);

    public void Dispose()
    {
        _offsets.Dispose();
        _counts.Dispose();
        _terms?.Dispose();
    }
}
