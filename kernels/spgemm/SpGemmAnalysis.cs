using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The phase ANALYSE: operands are what they must be, and how much work every row is.</summary>
internal static unsafe class SpGemmAnalysis
{
    internal static bool Run(KnSpgemmProblem* p, KnSpgemmArgs* a, out string? argument, out string? rule)
    {
        bool masked = SpGemmRules.Has(*p, KnSpgemmFlags.Mask), accumulate = SpGemmRules.Has(*p, KnSpgemmFlags.Accumulate);
        if (!Sound("a", a->A, p->M, p->K, p->IndexBytes, out argument, out rule)
            || !Sound("b", a->B, p->K, p->N, p->IndexBytes, out argument, out rule)
            || (masked && !Sound("mask", a->Mask, p->M, p->N, p->IndexBytes, out argument, out rule))
            || (accumulate && !Sound("d", a->D, p->M, p->N, p->IndexBytes, out argument, out rule)))
            return false;
        long most = 0;
        a->Products[0] = 0;
        for (long i = 0; i < p->M; i++)
        {
            long products = accumulate ? a->D.Offsets[i + 1] - a->D.Offsets[i] : 0;
            for (long j = a->A.Offsets[i]; j < a->A.Offsets[i + 1]; j++)
            {
                long k = Column(a->A, p->IndexBytes, j);
                products += a->B.Offsets[k + 1] - a->B.Offsets[k];
            }
            a->Products[i + 1] = a->Products[i] + products;
            if (a->Products[i + 1] > SpGemmRules.MostProducts)
            {
                (argument, rule) = ("products", "products[m] <= 2^60");
                return false;
            }
            most = Math.Max(most, Math.Max(products, masked ? a->Mask.Offsets[i + 1] - a->Mask.Offsets[i] : 0));
        }
        *a->Most = most;
        return true;
    }

    internal static long Column(in KnCsr x, int indexBytes, long j) => indexBytes == 4 ? ((int*)x.Columns)[j] : ((long*)x.Columns)[j];

    private static bool Sound(string name, in KnCsr x, long rows, long columns, int indexBytes, out string? argument, out string? rule)
    {
        (argument, rule) = (name, "ascending offsets");
        for (long i = 0; i < rows; i++)
            if (x.Offsets[i] > x.Offsets[i + 1]) return false;
        rule = name == "a" ? "0 <= column < k" : "0 <= column < n";
        for (long j = 0; j < x.Offsets[rows]; j++)
            if ((ulong)Column(x, indexBytes, j) >= (ulong)columns) return false;
        argument = rule = null;
        return true;
    }
}
