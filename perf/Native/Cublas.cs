using System.Globalization;
using Kernels.Interop;
using Kernels.Interop.Cuda;

namespace Kernels.Perf;

/// <summary>cuBLAS as a peer on an NVIDIA GPU: loaded where the machine has it, linked by nothing. Bound from its documentation, not yet run.</summary>
internal sealed unsafe class Cublas : IDisposable
{
    // What cuBLAS is told to have on Hopper; a capture may not allocate.
    private const long WorkspaceBytes = 32 << 20;

    private readonly Device _device;
    private readonly nint _handle;
    private readonly Buffer<byte> _workspace;

    private Cublas(Device device, nint handle, nint stream)
    {
        (_device, _handle, _workspace) = (device, handle, Buffer<byte>.Allocate(device, WorkspaceBytes));
        Check(CublasApi.cublasSetStream_v2(handle, stream), nameof(CublasApi.cublasSetStream_v2));
        Check(CublasApi.cublasSetWorkspace_v2(handle, _workspace.Pointer, (nuint)WorkspaceBytes), nameof(CublasApi.cublasSetWorkspace_v2));
        int version = 0;
        Check(CublasApi.cublasGetVersion_v2(handle, &version), nameof(CublasApi.cublasGetVersion_v2));
        Name = string.Create(CultureInfo.InvariantCulture, $"cuBLAS {version / 10000}.{version / 100 % 100}.{version % 100}");
    }

    public string Name { get; }

    /// <summary>Null, and why: another kind of device, or no library here.</summary>
    public static Cublas? TryOpen(Device device, nint stream, out string reason)
    {
        reason = $"no peer runs on {device}";
        if (device.Kind != DeviceKind.Cuda) return null;
        DriverLibrary.Register();
        try
        {
            using var current = new Current(device);
            nint handle;
            int status = CublasApi.cublasCreate_v2(&handle);
            reason = $"cuBLAS: cublasCreate_v2 gives {status}";
            return status == 0 ? new Cublas(device, handle, stream) : null;
        }
        catch (DllNotFoundException)
        {
            reason = $"cuBLAS is missing: none of {string.Join(", ", DriverLibrary.Candidates(DriverLibrary.Cublas))} is found; NVIDIA's CUDA toolkit brings it";
            return null;
        }
    }

    /// <summary>The type as cuBLAS has it; null: it multiplies none such here.</summary>
    public static CudaDataType? TypeOf(DType type) => type switch
    {
        DType.Float32 => CudaDataType.R32F,
        DType.Float16 => CudaDataType.R16F,
        DType.BFloat16 => CudaDataType.R16BF,
        _ => null,
    };

    /// <summary>y[m,n] = x[m,k] w[n,k]ᵀ, rows of ld elements, enqueued: by columns it is yᵀ = (wᵀ)ᵀ xᵀ.</summary>
    public void Gemm(CudaDataType operands, CudaDataType result, int m, int n, int k, void* x, int ldx, void* w, int ldw, void* y, int ldy)
    {
        using var current = new Current(_device);
        float one = 1, zero = 0;
        Check(CublasApi.cublasGemmEx(_handle, CublasOperation.T, CublasOperation.N, n, m, k, &one, w, operands, ldw, x, operands, ldx, &zero, y, result, ldy,
            CublasComputeType.F32, CublasApi.DefaultAlgorithm), nameof(CublasApi.cublasGemmEx));
    }

    private static void Check(int status, string function)
    {
        if (status != 0) throw new KernelsException(Status.Device, function, $"cublasStatus_t {status}");
    }

    public void Dispose()
    {
        using (new Current(_device)) _ = CublasApi.cublasDestroy_v2(_handle);
        _workspace.Dispose();
    }

    /// <summary>The device's context for a call, as functions of the runtime API find it.</summary>
    private readonly ref struct Current
    {
        public Current(Device device) => _ = CudaApi.cuCtxPushCurrent_v2(device.Gpu!.Context);

        public void Dispose()
        {
            nint popped;
            _ = CudaApi.cuCtxPopCurrent_v2(&popped);
        }
    }
}
