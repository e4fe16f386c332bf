// The part of cuBLAS that perf compares with, by the names that libcublas exports. Nothing links it: it is loaded where it is
// first called. Matrices are column-major; a function returns a cublasStatus_t, 0 for success, and wants its context current.
using System.Runtime.InteropServices;

namespace Kernels.Interop.Cuda;

internal enum CublasOperation
{
    N = 0,
    T = 1,
}

/// <summary>cudaDataType_t.</summary>
internal enum CudaDataType
{
    R32F = 0,
    R16F = 2,
    R16BF = 14,
}

/// <summary>cublasComputeType_t.</summary>
internal enum CublasComputeType
{
    F32 = 68,
}

internal static unsafe partial class CublasApi
{
    /// <summary>cublasGemmAlgo_t: cuBLAS chooses.</summary>
    internal const int DefaultAlgorithm = -1;

    [LibraryImport(DriverLibrary.Cublas)]
    internal static partial int cublasCreate_v2(nint* handle);

    [LibraryImport(DriverLibrary.Cublas)]
    internal static partial int cublasDestroy_v2(nint handle);

    [LibraryImport(DriverLibrary.Cublas)]
    internal static partial int cublasGetVersion_v2(nint handle, int* version);

    [LibraryImport(DriverLibrary.Cublas)]
    internal static partial int cublasSetStream_v2(nint handle, nint stream);

    [LibraryImport(DriverLibrary.Cublas)]
    internal static partial int cublasSetWorkspace_v2(nint handle, void* workspace, nuint bytes);

    [LibraryImport(DriverLibrary.Cublas)]
    internal static partial int cublasGemmEx(nint handle, CublasOperation a, CublasOperation b, int m, int n, int k, void* alpha, void* at, CudaDataType aType, int lda,
        void* bt, CudaDataType bType, int ldb, void* beta, void* c, CudaDataType cType, int ldc, CublasComputeType compute, int algorithm);
}
