using Kernels.Interop.Native;

namespace Kernels.Tests.SpGemm;

/// <summary>
/// A·A of matrices of real problems, which are not part of the repository: counts and sums that others computed, and every row against the oracle.
/// Their folder is KN_MATRICES, or ../shared/data/matrices beside the repository.
/// </summary>
[TestFixture]
public sealed class RealMatrices
{
    /// <param name="File">Its name.</param>
    /// <param name="Entries">Of A.</param>
    /// <param name="LongestOfA">Entries of its longest row.</param>
    /// <param name="Products">Of all rows.</param>
    /// <param name="MostProducts">Of a row.</param>
    /// <param name="NonZeros">Of C.</param>
    /// <param name="Longest">Entries of its longest row.</param>
    /// <param name="Sum">Of the sizes of C's values, to nine digits.</param>
    private sealed record Anchor(string File, long Entries, long LongestOfA, long Products, long MostProducts, long NonZeros, long Longest, double Sum)
    {
        public override string ToString() => File;
    }

    private static readonly Anchor[] s_anchors =
    [
        new("memplus", 126_150, 574, 9_518_740, 39_523, 5_121_784, 8963, 155.64625), new("bcsstk13", 83_883, 95, 4_554_541, 7311, 396_773, 412, 4.01298949e26),
        new("fidap007", 54_487, 75, 2_201_795, 3087, 259_351, 243, 8.16306603e20), new("zenios", 27_191, 47, 596_993, 1635, 51_631, 73, 460.548855),
        new("cryg2500", 12_349, 5, 61_146, 25, 31_650, 13, 5.14020106e9), new("olm1000", 3_996, 6, 15_972, 24, 7_984, 10, 5.16275075e11),
        new("jagmesh7", 7_450, 7, 49_582, 49, 19_078, 19, 49_582), new("ani4", 20_971, 9, 143_985, 65, 55_991, 25, 17_230.5484),
        new("1138_bus", 4_054, 18, 18_138, 88, 11_142, 52, 3.36103719e10),
    ];

    private static long LongestRow(CsrMatrix<double> x) => Enumerable.Range(0, (int)x.Rows).Max(i => x.RowOffsets[i + 1] - x.RowOffsets[i]);

    private static string Folder()
    {
        string? root = AppContext.BaseDirectory;
        while (root is not null && !File.Exists(Path.Combine(root, "Kernels.sln"))) root = Path.GetDirectoryName(root);
        string folder = Environment.GetEnvironmentVariable("KN_MATRICES") ?? Path.Combine(root ?? ".", "..", "shared", "data", "matrices");
        return Directory.Exists(folder) ? folder : throw new IgnoreException($"no real matrices: {Path.GetFullPath(folder)} is not there, and KN_MATRICES names no other folder");
    }

    private static CsrMatrix<double> Load(string name)
    {
        using CsrMatrix<double> x = MatrixMarket.Read<double>(Path.Combine(Folder(), name + ".mtx"));
        return CsrMatrix.Create<double>(x.Rows, x.Columns, x.RowOffsets, x.ColumnIndices, x.HasValues ? x.Values : Enumerable.Repeat(1.0, (int)x.NonZeros).ToArray());
    }

    [TestCaseSource(nameof(s_anchors))]
    public void SquaresAreTheAnchorsAndTheOracles(object anchor)
    {
        var known = (Anchor)anchor;
        using CsrMatrix<double> a = Load(known.File);
        var operand = new SpGemmOperand(new SparseStructure(a.Rows, a.Columns, a.RowOffsets.ToArray(), a.ColumnIndices.ToArray()), a.Values.ToArray());
        SpGemmExpectedRow[] expected = SpGemmOracle.Product(operand, operand, null, null, false, Semiring.PlusTimes, DType.Float64);
        foreach (Row row in Device.Cpu.Table.Of(KnOp.SpGemm).Where(r => Device.Cpu.Table.Runs(r, out _)))
        {
            using SpGemmPlan<double> plan = SpGemmPlan<double>.Create(a, a, new SpGemmOptions { Row = row.Name });
            using CsrMatrix<double> c = plan.Product();
            Assert.That((a.NonZeros, LongestRow(a), plan.Products, plan.MostProducts, c.NonZeros, LongestRow(c)),
                Is.EqualTo((known.Entries, known.LongestOfA, known.Products, known.MostProducts, known.NonZeros, known.Longest)), row.Name);
            Assert.That(c.Values.ToArray().Sum(Math.Abs).ToString("e8"), Is.EqualTo(known.Sum.ToString("e8")), row.Name);
            Assert.That(SpGemmVerdict.Of(c, i => expected[i]).Fault, Is.Null, row.Name);
            using CsrMatrix<double> symbolic = plan.Symbolic();
            plan.Numeric(symbolic);
            Assert.That(symbolic.ColumnIndices.SequenceEqual(c.ColumnIndices) && symbolic.Values.SequenceEqual(c.Values), $"{row.Name}: the numeric phase");
        }
    }
}
