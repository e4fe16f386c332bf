// kernels/spgemm/spgemm.h in C#.
using System.Runtime.InteropServices;

namespace Kernels.Interop.Native;

[Flags]
internal enum KnSpgemmFlags { None = 0, Mask = 1, Complement = 2, Accumulate = 4, Unsorted = 8, BSorted = 16, Valued = 32 }

internal enum KnSpgemmPhase { Analyse = 0, Symbolic = 1, Product = 2, Numeric = 3, ScheduleSizes = 4, Schedule = 5 }

[StructLayout(LayoutKind.Sequential)]
internal struct KnSpgemmProblem
{
    public uint Size;
    public int Type;
    public int IndexBytes;
    public int Semiring;
    public int Flags;
    public int Reserved;
    public long M, K, N;
    public long ANnz, BNnz;
    public long Products;
    public long Most;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnCsr
{
    public long* Offsets;
    public void* Columns;
    public void* Values;
}

[StructLayout(LayoutKind.Sequential)]
internal struct KnSpgemmTerm
{
    public uint B;
    public ushort A, Lanes;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSpgemmSchedule
{
    public long* Offsets;
    public KnSpgemmTerm* Terms;
    public ushort* Counts;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSpgemmArgs
{
    public uint Size;
    public int Phase;
    public long RowFrom, RowTo;
    public KnCsr A, B;
    public KnCsr Mask;
    public KnCsr D;
    public long* Products;
    public long* Most;
    public long* COffsets;
    public void* CColumns;
    public void* CValues;
    public long CCapacity;
    public KnSpgemmSchedule Schedule;
    public long* RowsDone;
    public void* Workspace;
    public long WorkspaceBytes;
}

/// <summary>kernels/spgemm/spgemm_gpu.h: the one argument of the GPU kernels.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSpgemmGpu
{
    public KnCsr A, B, Mask, D;
    public long* Products;
    public long* Most;
    public long* COffsets;
    public void* CColumns;
    public void* CValues;
    public long* RowsDone;
    public long* Scan;
    public long* TileSums;
    public uint* Counters;
    public int* List;
    public uint* Parts;
    public byte* Tables;
    public long ScanCount;
    public long CCapacity;
    public long TableSlots, TableCount;
    public long Ranges, Giant;
    public long RowFrom, RowTo;
    public long M, K, N, ANnz, BNnz;
    public int Semiring;
    public int Flags;
    public int Step;
    public int MaskBytes;
    public int IndexBytes;
    public int Reserved;
}

/// <summary>kernels/spgemm/transpose_gpu.h.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnTransposeGpu
{
    public KnCsr From;
    public KnCsr To;
    public ulong* Keys;
    public long M, N, Nnz;
    public int IndexBytes;
    public int ValueBytes;
}
