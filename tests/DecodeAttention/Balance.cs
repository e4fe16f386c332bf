using Kernels.Interop.Native;

namespace Kernels.Tests.DecodeAttention;

/// <summary>The tables of tasks of the CPU rows: no task of a ragged batch is long, and the costly ones come first.</summary>
[TestFixture]
public sealed unsafe class Balance
{
    private const int Threads = 4, Long = 20000, Short = 300, Batch = 9, KvHeads = 4, Split = 4096;

    private static IEnumerable<string> Rows() => Tables.Anywhere(KnOp.DecodeAttention).Where(r => r.Row is NativeRow or DecodeAttentionManaged).Select(r => r.Name);

    private static KnDecodeAttentionProblem Problem(DecodeAttentionCases.Kind kind, KnAttentionFlags flags) =>
        DecodeAttentionCases.Problem(kind, Batch, 2, 8, KvHeads, 64, 64, Long, 16, 0, 0, flags);

    /// <summary>Of the first types that the row takes.</summary>
    private static DecodeAttentionTrial Trial(Row row, KnAttentionFlags flags) =>
        new(Problem(DecodeAttentionCases.MainKinds.First(kind => Dataflows.Takes(row, Problem(kind, flags))), flags), new DecodeAttentionData(Tables.Seed)
        {
            KvLens = [.. Enumerable.Repeat(Short, Batch - 1), Long],
            QLens = [.. Enumerable.Repeat(1, Batch - 1), 2],
            SampleRows = 4,
        });

    /// <summary>The sequence whose tasks go out first, how many tasks those are, and how many all.</summary>
    private static (long First, long Tasks, long All) Table(Row row, KnAttentionFlags flags)
    {
        using DecodeAttentionTrial trial = Trial(row, flags);
        KnLaunch launch = row.DefaultLaunch(Threads);
        launch.Param[row.IndexOf("split")] = Split;
        Assert.That(trial.Prepare(row, launch, out string error), error);
        KnDecodeAttentionArgs args = trial.Call();
        if (row is DecodeAttentionManaged)
        {
            var plan = new DecodeAttentionManagedPlan(trial.ProblemAt, &args, KnSoftmax.Lazy, Split, Threads);
            return (plan.Sequences[0].Placed, plan.Sequences[1].FirstTask, plan.Tasks);
        }
        Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
        // order [batch], then first_item [batch + 1], each from a line of 64 bytes on.
        var order = (long*)args.Workspace;
        long* first = order + (Batch + 1 + 7) / 8 * 8;
        return (order[0], first[1], first[Batch]);
    }

    [TestCaseSource(nameof(Rows))]
    public void OneLongSequenceAmongShortOnesIsManyTasks(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        (long first, long tasks, long all) = Table(row, 0);
        Assert.That(first, Is.EqualTo(Batch - 1), "the long one comes first");
        // It is more than 0.9 of the cost, so that a part of it is a sixteenth or less of the whole from 15 tasks on.
        Assert.That(tasks, Is.GreaterThanOrEqualTo(4 * Threads - 1));
        Assert.That(all - tasks, Is.InRange(Batch - 1, (Batch - 1) * 2 * KvHeads), "short ones are not cut to pieces");
    }

    /// <summary>Where bits must not depend on the batch the launch alone cuts; the order is the same.</summary>
    [TestCaseSource(nameof(Rows))]
    public void InvariantSplitsAreTheLaunchs(string name)
    {
        Row row = Tables.Find(name, KnOp.DecodeAttention);
        (long first, long tasks, _) = Table(row, KnAttentionFlags.Invariant);
        Assert.That(first, Is.EqualTo(Batch - 1));
        Assert.That(tasks, Is.GreaterThan(0));
        Assert.That(tasks % ((Long + Split - 1) / Split), Is.Zero, "splits of the launch times blocks of heads");
    }
}
