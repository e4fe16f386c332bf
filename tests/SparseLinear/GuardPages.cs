using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Tests.SparseLinear;

/// <summary>Packed weights that end where a page begins that nobody may read: an expand load beyond them ends the process.</summary>
[TestFixture]
public sealed unsafe class GuardPages
{
    private static IEnumerable<TestCaseData> RowsByPattern()
    {
        foreach ((_, _, string name) in Tables.Runnable(KnOp.SparseLinear))
            foreach (SparsePattern pattern in Enum.GetValues<SparsePattern>())
                yield return new TestCaseData(name, pattern);
    }

    [TestCaseSource(nameof(RowsByPattern))]
    public void NothingIsReadBehindThePackedWeights(string name, object pattern)
    {
        if (!OperatingSystem.IsLinux()) Assert.Ignore("pages are mapped as Linux has it");
        Row row = Tables.Find(name, KnOp.SparseLinear);
        int ran = 0;
        foreach (FlatGemmCases.Kind kind in SparseLinearCases.MainKinds)
            // Whole panels and blocks; one more of each; and one weight more than fills a register.
            foreach ((int m, int n, int k) in ((int, int, int)[])[(3, 64, 256), (5, 17, 65), (1, 1, 129)])
            {
                using var trial = new SparseLinearTrial(FlatGemmCases.Problem(kind, m, n, k), Tables.Seed, 0.5, (SparsePattern)pattern);
                KnSparseLinearProblem problem = trial.Sparse;
                foreach (KnLaunch launch in row.Launches(1).Concat(row.Launches(2)))
                {
                    if (!row.Accepts(&problem, launch, out _)) continue;
                    ran++;
                    string what = $"{row.Dataflow(launch)}: {FlatGemmCases.Describe(problem.Layer)}, seed {Tables.Seed}";
                    long bytes = row.PackedBytes(&problem), scratch = row.Workspace(&problem, launch);
                    using var packed = new ProtectedPages(bytes);
                    using var workspace = new ProtectedPages((scratch + 63) / 64 * 64);
                    var args = new KnSparseLinearArgs { Size = (uint)sizeof(KnSparseLinearArgs), Call = trial.Args };
                    args.Call.Packed = packed.At;
                    args.Call.Workspace = workspace.At;
                    (args.Call.PackedBytes, args.Call.WorkspaceBytes) = (bytes, scratch);
                    Assert.That(row.Prepack(&problem, &args), Is.EqualTo(KnStatus.Ok), $"{what}: {row.LastError}");
                    args.Call.W = null;
                    args.Call.Scales = null;
                    trial.Poison();
                    Assert.That(row.Run(&problem, launch, &args), Is.EqualTo(KnStatus.Ok), $"{what}: {row.LastError}");
                    FlatGemmVerdict verdict = trial.Check(m);
                    Assert.That(verdict.Ok, $"{what}: {verdict}");
                }
            }
        Assert.That(ran, Is.Positive);
    }

    /// <summary>The last row has other places when it is written than when it was counted: more of them, none, or others in another block.</summary>
    [TestCase(96, 0)]
    [TestCase(0, 0)]
    [TestCase(48, 20)]
    public void PackingEndsWhereRowsChange(int count, int first)
    {
        if (!OperatingSystem.IsLinux()) Assert.Ignore("pages are mapped as Linux has it");
        const int Rows = 16, K = 96;
        KnSparseLinearProblem problem = Kernels.SparseLinear.Problem(
            new FlatGemmOptions { N = Rows, K = K, MaxM = 1, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32 }, 1, 0, KnSparseSets.None);
        (int First, int Count) last = (0, 48);
        var packing = new SparsePacking(problem, (row, to) => new Span<float>((float*)to, K).Slice(row == Rows - 1 ? last.First : 0, row == Rows - 1 ? last.Count : K).Fill(1));
        using var packed = new ProtectedPages(packing.Bytes);
        Assert.That(packing.Write(packed.At, null), Is.True);
        last = (first, count);
        Assert.That(packing.Write(packed.At, null), Is.False);
    }
}
