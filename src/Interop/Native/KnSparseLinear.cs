// kernels/sparse_linear/sparse_linear.h in C#.
using System.Runtime.InteropServices;

namespace Kernels.Interop.Native;

[Flags]
internal enum KnSparseSets { None = 0, Outputs = 1, Inputs = 2 }

[StructLayout(LayoutKind.Sequential)]
internal struct KnSparseLinearProblem
{
    public uint Size;
    public int Sets;
    public KnFlatGemmProblem Layer;
    public long Nnz;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSparseLinearArgs
{
    public uint Size;
    public int Reserved;
    public KnFlatGemmArgs Call;
    public ulong* Outputs;
    public ulong* Inputs;
}

/// <summary>kernels/sparse_linear/sparse_linear_gpu.h: the one argument of the GPU kernels.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSparseLinearGpu
{
    public KnFlatGemmGpu Layer;
    public ulong* Outputs;
    public ulong* Inputs;
    public long BitsAt, ValuesAt;
    public long KPadded, Blocks;
}
