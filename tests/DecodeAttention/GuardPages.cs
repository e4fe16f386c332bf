using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>Queries, keys, values and workspace that end where a page begins that nobody may read, with a key in the last slot.</summary>
[TestFixture]
public sealed unsafe class GuardPages
{
    private static IEnumerable<string> Rows => Tables.Runnable(KnOp.DecodeAttention).Select(r => r.Name);

    [TestCaseSource(nameof(Rows))]
    public void NothingIsReadBehindTheOperands(string name)
    {
        if (!OperatingSystem.IsLinux()) Assert.Ignore("pages are mapped as Linux has it");
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        int ran = 0;
        foreach (DecodeAttentionCases.Kind kind in DecodeAttentionCases.Kinds())
            // Whole vectors of every width and not; blocks that are full and not; one row, and more than are widened one by one.
            foreach ((int dim, int vDim) in ((int, int)[])[(64, 64), (24, 8), (8, 72), (80, 104)])
                foreach ((int qLen, int kvLen, int page) in ((int, int, int)[])[(1, 80, 16), (3, 128, 16), (4, 130, 16), (2, 5, 5), (1, 67, 0)])
                {
                    KnDecodeAttentionProblem problem = DecodeAttentionCases.Problem(kind, 1, qLen, 6, 2, dim, vDim, kvLen, page);
                    using var trial = new DecodeAttentionTrial(problem, new DecodeAttentionData(Tables.Seed) { HeadMajor = page == 16 && qLen == 3 });
                    KnLaunch launch = row.DefaultLaunch(2);
                    if (!trial.Prepare(row, launch, out _)) continue;
                    ran++;
                    KnDecodeAttentionArgs args = trial.Call();
                    int bits = ((DType)problem.KvType).Bits();
                    using var q = new ProtectedPages(args.Q, (long)qLen * problem.QHeads * dim * ((DType)problem.QType).Bits() / 8);
                    using var k = new ProtectedPages(args.K, args.PageCount * args.KPage * bits / 8);
                    using var v = new ProtectedPages(args.V, args.PageCount * args.VPage * bits / 8);
                    // A workspace begins at a line.
                    using var workspace = new ProtectedPages((args.WorkspaceBytes + 63) / 64 * 64);
                    args.Q = q.At;
                    args.K = k.At;
                    args.V = v.At;
                    args.Workspace = workspace.At;
                    trial.Poison();
                    Assert.That(row.Run(&problem, launch, &args), Is.EqualTo(KnStatus.Ok), row.LastError);
                    DecodeAttentionVerdict verdict = trial.Check();
                    Assert.That(verdict.Ok, $"{DecodeAttentionCases.Describe(problem)}, seed {Tables.Seed}: {verdict}");
                }
        Assert.That(ran, Is.Positive);
    }
}
