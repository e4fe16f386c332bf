using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>More products, and more entries of C, than 32 bits count: a column times a row, of which C is never there at once.</summary>
[TestFixture]
public sealed class Large
{
    // 46341^2 is the first square above 2^31.
    private const int N = 46_341;
    private const long Products = (long)N * N;

    private static SparseStructure Tall => new(N, 1, [.. Enumerable.Range(0, N + 1).Select(i => (long)i)], new int[N]);

    private static SparseStructure Wide => new(1, N, [0, N], [.. Enumerable.Range(0, N)]);

    [Test]
    public void EveryRowCountsThem()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.SpGemm))
        {
            Row row = Tables.Find(name, KnOp.SpGemm);
            using var trial = new SpGemmTrial(new SpGemmCase("column times row", Tall, Wide, DType.None, 4, Semiring.PlusTimes, KnSpgemmFlags.None), 1);
            Assert.That(trial.Analyse(row, row.DefaultLaunch(0)), Is.Null, name);
            Assert.That((trial.Problem.Products, trial.Problem.Most), Is.EqualTo((Products, N)), name);
        }
    }

    /// <summary>All of C, 8 GB, is refused with the bytes that it would take; pieces of 64 MiB make it up. On the managed row that is half a minute: left out.</summary>
    [Test, NonParallelizable]
    public void ABudgetHoldsWhateverCIs()
    {
        if (!Device.Cpu.Table.Of(KnOp.SpGemm).Any(r => r.Name == "spgemm/avx512" && Device.Cpu.Table.Runs(r, out _))) Assert.Ignore("no AVX-512 here");
        SparseStructure column = Tall, row = Wide;
        using CsrMatrix<float> a = CsrMatrix.Create<float>(N, 1, column.Offsets, column.Indices), b = CsrMatrix.Create<float>(1, N, row.Offsets, row.Indices);
        using SpGemmPlan<float> plan = SpGemmPlan<float>.Create(a, b, new SpGemmOptions { StructureOnly = true, MemoryBudget = 64 << 20, Row = "spgemm/avx512" });
        Assert.That((plan.Products, plan.MostNonZeros), Is.EqualTo((Products, Products)));
        long need = plan.Choice.WorkspaceBytes + sizeof(int) * Products + sizeof(long) * (N + 2L), rows = 0, entries = 0;
        Assert.That(() => plan.Product(), Throws.TypeOf<KernelsException>().With.Property("Status").EqualTo(Status.NoMemory).And.Message.Contains($"at least {need} bytes"));
        foreach (CsrMatrix<float> piece in plan.Pieces())
            using (piece)
            {
                Assert.That(piece.NonZeros, Is.EqualTo(piece.Rows * N));
                Assert.That((piece.ColumnIndices[0], piece.ColumnIndices[^1]), Is.EqualTo((0, N - 1)));
                (rows, entries) = (rows + piece.Rows, entries + piece.NonZeros);
            }
        Assert.That((rows, entries), Is.EqualTo(((long)N, Products)));
    }
}
