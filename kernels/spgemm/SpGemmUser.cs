using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The managed row with a user's own semiring: values of any type, operators that may throw.</summary>
internal sealed unsafe class SpGemmUser<T, TSemiring> : SpGemmManaged where T : unmanaged where TSemiring : struct, ISemiring<T>
{
    private protected override int ValueBytes(in KnSpgemmProblem p) => sizeof(T);

    private protected override void Compute(KnSpgemmProblem* p, KnSpgemmArgs* a, int threads)
    {
        if (OnlyStructure(*p, *a))
        {
            base.Compute(p, a, threads);
            return;
        }
        var failure = new StrongBox<Exception?>();
        GCHandle handle = GCHandle.Alloc(failure);
        try
        {
            if (p->IndexBytes == 4) Run<int, T, TSemiring>(p, a, threads, handle);
            else Run<long, T, TSemiring>(p, a, threads, handle);
        }
        finally
        {
            handle.Free();
        }
        if (failure.Value is { } thrown) throw new KernelsException(Status.Invalid, typeof(TSemiring).Name, $"operators that do not throw, but: {thrown.Message}");
    }
}
