namespace Kernels;

/// <summary>
/// Sparse products <c>C = D ⊕ A·B</c> in compressed sparse rows, over a semiring, with an optional mask, structural or by value. Row-wise
/// (Gustavson, ACM TOMS 4, 1978); which accumulator sums a row of C follows from its products and their span of columns, as in
/// SMASH (Shivdikar, arXiv 2105.14156) in tables that fit a core's caches. Bits do not depend on threads, rows or windows.
/// </summary>
public static class SpGemm
{
    /// <summary>The product of <paramref name="a"/> [m,k] and <paramref name="b"/> [k,n].</summary>
    /// <param name="a">[m,k].</param>
    /// <param name="b">[k,n], columns of as many bits as those of a.</param>
    /// <param name="options">The usual product when null.</param>
    /// <param name="mask">[m,n]: products outside its entries (at them, with Complement) are left out.</param>
    /// <param name="addend">[m,n]: D. Its entries are in C whatever the mask says.</param>
    /// <param name="device">Where all operands are; that of a when null.</param>
    /// <exception cref="KernelsException">A shape, type or option that breaks a rule, memory that is not to be had, a forced row that cannot run.</exception>
    public static CsrMatrix<T> Multiply<T>(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions? options = null, CsrStructure? mask = null,
        CsrMatrix<T>? addend = null, Device? device = null) where T : unmanaged
    {
        using SpGemmPlan<T> plan = SpGemmPlan<T>.Create(a, b, options, mask, addend, device);
        return plan.Product();
    }

    /// <summary>The same over a semiring of the user's own, by the managed row.</summary>
    /// <exception cref="KernelsException">A shape, type or option that breaks a rule, memory that is not to be had, an operator that throws.</exception>
    public static CsrMatrix<T> Multiply<T, TSemiring>(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions? options = null, CsrStructure? mask = null,
        CsrMatrix<T>? addend = null) where T : unmanaged where TSemiring : struct, ISemiring<T>
    {
        using SpGemmPlan<T> plan = SpGemmPlan<T>.Create<TSemiring>(a, b, options, mask, addend);
        return plan.Product();
    }

    /// <summary>Bytes of freed matrices that are kept for the next ones at most; a quarter of this process's memory by default.</summary>
    public static long PoolLimit
    {
        get => PooledMemory.Limit;
        set
        {
            KernelsException.Require(value >= 0, nameof(PoolLimit), $"0 <= PoolLimit, not {value}");
            PooledMemory.Limit = value;
        }
    }

    /// <summary>Gives back to the system what the pool keeps.</summary>
    public static void TrimPool() => PooledMemory.Trim();
}
