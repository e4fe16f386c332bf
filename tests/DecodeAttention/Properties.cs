using FsCheck;
using FsCheck.Fluent;
using Kernels.Interop.Native;
using Microsoft.FSharp.Core;

namespace Kernels.Tests.DecodeAttention;

/// <summary>What holds for every shape: pages may lie anywhere, splits only round, halves merge to the whole by their lse.</summary>
[TestFixture]
public sealed unsafe class Properties
{
    /// <summary>A random shape; Launch chooses among the launches of the row.</summary>
    internal sealed record Shape(int Kind, int Group, int KvHeads, int Dim, int PageSize, int KvLen, int QLen, int Window, KnAttentionFlags Flags, int Launch, ulong Seed)
    {
        public KnDecodeAttentionProblem Problem => DecodeAttentionCases.Problem(DecodeAttentionCases.MainKinds[Kind], 3, QLen, Group * KvHeads, KvHeads, Dim, Dim, KvLen, PageSize,
            (Flags & KnAttentionFlags.Full) != 0 ? 0 : Window, 0, Flags | KnAttentionFlags.Phi | KnAttentionFlags.Norms);
    }

    private static readonly Gen<Shape> s_shapes =
        from kind in Gen.Choose(0, DecodeAttentionCases.MainKinds.Length - 1)
        from heads in Gen.Elements((1, 1), (4, 1), (5, 2), (7, 1), (8, 2), (1, 3), (16, 1))
        from dim in Gen.Elements(64, 80, 96, 128)
        from page in Gen.Choose(1, 40)
        from length in Gen.Choose(0, 900)
        from qLen in Gen.Choose(1, 16)
        from window in Gen.Elements(0, 0, 1, 30, 600)
        from flags in Gen.Elements(KnAttentionFlags.None, KnAttentionFlags.Tree, KnAttentionFlags.Full, KnAttentionFlags.Alibi | KnAttentionFlags.Sinks)
        from launch in Gen.Choose(0, 1000)
        from seed in Gen.Choose(0, int.MaxValue)
        select new Shape(kind, heads.Item1, heads.Item2, dim, page, length, qLen, window, flags, launch, (ulong)seed);

    /// <summary>A shape of the types that the row takes, and for sm90 of its few sizes of pages: chance would hit them too rarely.</summary>
    private static Gen<Shape> ShapesFor(Row row)
    {
        int[] pages = row.Name.Contains("/sm90", StringComparison.Ordinal) ? [8, 16, 32, 64] : [];
        int[] kinds = [.. Enumerable.Range(0, DecodeAttentionCases.MainKinds.Length).Where(kind =>
        {
            KnDecodeAttentionProblem problem = new Shape(kind, 4, 1, 64, 16, 100, 1, 0, KnAttentionFlags.None, 0, 0).Problem;
            return row.Accepts(&problem, row.DefaultLaunch(0), out _);
        })];
        return s_shapes.Select(s => s with { Kind = kinds[s.Kind % kinds.Length], PageSize = pages.Length > 0 ? pages[s.PageSize % pages.Length] : s.PageSize });
    }

    private static IEnumerable<Shape> Smaller(Shape s)
    {
        if (s.KvLen > 1) yield return s with { KvLen = s.KvLen / 2 };
        if (s.QLen > 1) yield return s with { QLen = s.QLen / 2 };
        if (s.Group > 1) yield return s with { Group = 1 };
        if (s.Flags != 0) yield return s with { Flags = 0 };
        if (s.Window > 0) yield return s with { Window = 0 };
    }

    private static IEnumerable<string> Names() => Tables.Anywhere(KnOp.DecodeAttention).Select(r => r.Name);

    private static void ForAll(string name, int times, Func<Row, Shape, bool> holds)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        int ran = 0;
        Config config = Config.QuickThrowOnFailure.WithMaxTest(times).WithQuietOnSuccess(true)
            .WithReplay(FSharpOption<FsCheck.Replay>.Some(new FsCheck.Replay(new Rnd(Tables.Seed, Tables.Seed | 1), FSharpOption<int>.None)));
        Prop.ForAll(Arb.From(ShapesFor(row), Smaller), (Action<Shape>)(shape => ran += holds(row, shape) ? 1 : 0)).Check(config);
        Assert.That(ran, Is.GreaterThan(times / 6), $"{name} refused nearly every shape, seed {Tables.Seed}");
    }

    private static KnLaunch Launch(Row row, Shape shape)
    {
        KnLaunch[] launches = [.. row.Launches(shape.Launch % 3)];
        return launches[shape.Launch % launches.Length];
    }

    private static bool Run(Row row, in KnLaunch launch, DecodeAttentionTrial trial, bool check = true)
    {
        if (!trial.Prepare(row, launch, out _)) return false;
        trial.Poison();
        Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
        if (!check) return true;
        DecodeAttentionVerdict verdict = trial.Check();
        Assert.That(verdict.Ok, $"{row.Name} [{string.Join(' ', ((ReadOnlySpan<int>)launch.Param).ToArray())}]: {verdict}");
        return true;
    }

    /// <summary>Where the pages lie, and how far apart tokens and heads are, changes no bit.</summary>
    [TestCaseSource(nameof(Names))]
    public void PermutingPagesChangesNoBit(string name) => ForAll(name, 60, (row, shape) =>
    {
        ulong[] content = [shape.Seed, shape.Seed + 1, shape.Seed + 2];
        int[] kvLens = [shape.KvLen, shape.KvLen / 3, Math.Min(shape.KvLen, shape.PageSize)], qLens = [shape.QLen, 1, shape.QLen / 2];
        var data = new DecodeAttentionData(1) { Content = content, KvLens = kvLens, QLens = qLens };
        using var first = new DecodeAttentionTrial(shape.Problem, data);
        using var second = new DecodeAttentionTrial(shape.Problem, data with { Seed = 2, HeadMajor = true, Strided = shape.Launch % 2 == 0 });
        KnLaunch launch = Launch(row, shape);
        if (!Run(row, launch, first, check: false) || !Run(row, launch, second, check: false)) return false;
        for (long t = 0; t < first.Tokens; t++)
            for (int h = 0; h < shape.Problem.QHeads; h++)
                Assert.That(first.Output(t, h).SequenceEqual(second.Output(t, h)) && first.Lse(t, h).Equals(second.Lse(t, h)), $"row [{t}, {h}] depends on where its pages lie");
        return true;
    });

    /// <summary>Whatever the split and the softmax, out and lse are within their tolerances of the same exact values.</summary>
    [TestCaseSource(nameof(Names))]
    public void SplittingOnlyRounds(string name) => ForAll(name, 15, (row, shape) =>
    {
        using var trial = new DecodeAttentionTrial(shape.Problem, new DecodeAttentionData(shape.Seed));
        int ran = 0;
        foreach (KnLaunch launch in Dataflows.Launches(row)) ran += Run(row, launch, trial) ? 1 : 0;
        return ran > 1;
    });

    /// <summary>
    /// Two halves of the keys, merged by weights exp(lse), are the whole, whatever the mask, the window and the slopes: within the halves' own
    /// tolerances, the errors of the weights times what they weigh, and nothing else.
    /// </summary>
    [TestCaseSource(nameof(Names))]
    public void HalvesMergeToTheWhole(string name) => ForAll(name, 15, (row, shape) =>
    {
        // A sink would be in both halves.
        shape = shape with { Flags = shape.Flags & ~KnAttentionFlags.Sinks, KvLen = Math.Max(2, shape.KvLen) };
        int cut = 1 + shape.Launch % (shape.KvLen - 1);
        var data = new DecodeAttentionData(1) { Content = [shape.Seed], QLens = [shape.QLen] };
        using var whole = new DecodeAttentionTrial(shape.Problem, data with { KvLens = [shape.KvLen] });
        using var left = new DecodeAttentionTrial(shape.Problem, data with { KvLens = [cut], KvLater = [shape.KvLen - cut] });
        using var right = new DecodeAttentionTrial(shape.Problem, data with { KvLens = [shape.KvLen - cut], KeyOffset = cut });
        KnLaunch launch = Launch(row, shape);
        if (!Run(row, launch, left) || !Run(row, launch, right)) return false;
        DecodeAttentionTrial.RowExpected[] lefts = left.Expect().Each, rights = right.Expect().Each, wholes = whole.Expect().Each;
        for (int i = 0; i < wholes.Length; i++) Merge(left, lefts[i], right, rights[i], wholes[i], shape.Dim);
        return true;
    });

    private static void Merge(DecodeAttentionTrial left, DecodeAttentionTrial.RowExpected l, DecodeAttentionTrial right, DecodeAttentionTrial.RowExpected r,
        DecodeAttentionTrial.RowExpected whole, int dim)
    {
        Assert.That(l.Keys.Length + r.Keys.Length, Is.EqualTo(whole.Keys.Length));
        if (whole.Keys.Length == 0) return;
        double a = left.Lse(l.Token, l.Head), b = right.Lse(r.Token, r.Head), top = Math.Max(a, b), wa = Math.Exp(a - top), wb = Math.Exp(b - top), sum = wa + wb;
        (wa, wb) = (wa / sum, wb / sum);
        double lseError = l.Lse.Tolerance + r.Lse.Tolerance;
        Assert.That(top + Math.Log(sum), Is.EqualTo(whole.Lse.Value).Within(lseError), "lse");
        for (int d = 0; d < dim; d++)
        {
            double x = left.Value(l.Token, l.Head, d), y = right.Value(r.Token, r.Head, d);
            // d(wa) = wa wb d(lse), and exp(2 e) is less than 1 + 3 e here.
            double tolerance = wa * l.Out[d].Tolerance + wb * r.Out[d].Tolerance + 3 * wa * wb * lseError * Math.Abs(x - y);
            Assert.That(wa * x + wb * y, Is.EqualTo(whole.Out[d].Value).Within(tolerance), $"[{whole.Token}, {whole.Head}, {d}]");
        }
    }
}
