namespace Kernels;

/// <summary>Matrices of the host as a device multiplies them: there themselves, or copies that are freed with this.</summary>
internal sealed class SpGemmOperands<T> : IDisposable where T : unmanaged
{
    private readonly Dictionary<CsrStructure, CsrStructure> _copies = [];

    public SpGemmOperands(CsrMatrix<T> a, CsrMatrix<T> b, Device device, CsrStructure? mask = null, CsrMatrix<T>? addend = null)
    {
        Device = device;
        (A, B, Mask, Addend) = (There(a), There(b), mask is null ? null : There(mask), addend is null ? null : There(addend));
    }

    public Device Device { get; }

    public CsrMatrix<T> A { get; }

    public CsrMatrix<T> B { get; }

    public CsrStructure? Mask { get; }

    public CsrMatrix<T>? Addend { get; }

    public SpGemmPlan<T> Plan(SpGemmOptions options) => SpGemmPlan<T>.Create(A, B, options, Mask, Addend, Device);

    public CsrMatrix<T> Product(SpGemmOptions options)
    {
        using SpGemmPlan<T> plan = Plan(options);
        return plan.Product();
    }

    /// <summary>One copy of a matrix, however often it is an operand.</summary>
    private TMatrix There<TMatrix>(TMatrix x) where TMatrix : CsrStructure
    {
        if (Device.Gpu is null) return x;
        if (!_copies.TryGetValue(x, out CsrStructure? copy)) _copies[x] = copy = x.Copy(Device);
        return (TMatrix)copy;
    }

    public void Dispose()
    {
        foreach (CsrStructure copy in _copies.Values) copy.Dispose();
    }
}
