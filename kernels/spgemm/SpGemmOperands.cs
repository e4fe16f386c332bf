namespace Kernels;

/// <summary>Matrices of the host as a device multiplies them: there themselves, or copies that are freed with this.</summary>
internal sealed class SpGemmOperands<T> : IDisposable where T : unmanaged
{
    public SpGemmOperands(CsrMatrix<T> a, CsrMatrix<T> b, Device device)
    {
        Device = device;
        A = device.Gpu is null ? a : a.CopyTo(device);
        B = ReferenceEquals(a, b) ? A : device.Gpu is null ? b : b.CopyTo(device);
    }

    public Device Device { get; }

    public CsrMatrix<T> A { get; }

    public CsrMatrix<T> B { get; }

    public void Dispose()
    {
        if (Device.Gpu is null) return;
        A.Dispose();
        B.Dispose();
    }
}
