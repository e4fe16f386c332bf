// kernels/flat_gemm/flat_gemm.h in C#.
using System.Runtime.InteropServices;
using Kernels.Interop.Cuda;

namespace Kernels.Interop.Native;

[Flags]
internal enum KnGemmFlags { None = 0, Bias = 1, Residual = 2, Gated = 4, Zeros = 8, QuantizeX = 16 }

[StructLayout(LayoutKind.Sequential)]
internal struct KnFlatGemmProblem
{
    public uint Size;
    public int XType, WType, YType;
    public int M, N, K;
    public int Group;
    public int Activation;
    public int Flags;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnFlatGemmArgs
{
    public uint Size;
    public int M;
    public void* X;
    public long Ldx;
    public float* XScales;
    public void* W;
    public long Ldw;
    public float* Scales;
    public byte* Zeros;
    public void* Packed;
    public long PackedBytes;
    public float* Bias;
    public void* Residual;
    public long Ldr;
    public void* Y;
    public long Ldy;
    public void* Workspace;
    public long WorkspaceBytes;
}

/// <summary>kernels/flat_gemm/flat_gemm_gpu.h: the one argument of the GPU kernels.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnFlatGemmGpu
{
    public void* X;
    public void* W;
    public float* Scales;
    public byte* Zeros;
    public float* Bias;
    public void* Residual;
    public void* Y;
    public void* Partial;
    public float* XScales;
    public sbyte* Quantized;
    public long Ldx, Ldw, Ldr, Ldy, Ldq;
    public int M, N, K;
    public int KSplit;
    public int Splits;
    public int Group;
    public int XType, WType, YType;
    public int Activation;
    public int Flags;
    public int Integer;
}

/// <summary>The argument of flat_gemm_sm90: tensor maps of x and w, and whether there are any.</summary>
[StructLayout(LayoutKind.Sequential, Size = 448)]
internal struct KnFlatGemmSm90
{
    public CUtensorMap XMap, WMap;
    public KnFlatGemmGpu Call;
    public int XMapped, WMapped;
}
