namespace Kernels.Tests;

[TestFixture]
public sealed unsafe class ManagedPoolTests
{
    private struct Work
    {
        public fixed int Count[1000];
        public fixed int Inside[64];
        public int Limit, Faults, Nested;
    }

    private static void Body(void* context, long task, int worker)
    {
        var work = (Work*)context;
        if (worker < 0 || worker >= work->Limit) Interlocked.Increment(ref work->Faults);
        else if (Interlocked.Increment(ref work->Inside[worker]) != 1) Interlocked.Increment(ref work->Faults);
        Interlocked.Increment(ref work->Count[task]);
        if (task == 17) ManagedPool.Run(0, 10, &Nested, context);
        if (worker >= 0 && worker < work->Limit) Interlocked.Decrement(ref work->Inside[worker]);
    }

    private static void Nested(void* context, long task, int worker) => Interlocked.Increment(ref ((Work*)context)->Nested);

    private static void Exercise(int threads, int rounds)
    {
        for (int round = 0; round < rounds; round++)
        {
            Work work = default;
            int tasks = round % 7 == 0 ? 1000 : round % 40;
            work.Limit = ManagedPool.Workers(threads);
            ManagedPool.Run(threads, tasks, &Body, &work);
            for (int t = 0; t < 1000; t++)
                if (work.Count[t] != (t < tasks ? 1 : 0)) Assert.Fail($"task {t} of {tasks} ran {work.Count[t]} times");
            Assert.That(work.Faults, Is.Zero, "a worker's number was out of range or shared");
            Assert.That(work.Nested, Is.EqualTo(tasks > 17 ? 10 : 0));
        }
    }

    [Test]
    public void EveryTaskRunsOnce()
    {
        foreach (int threads in (int[])[0, 1, 2, -3, 1000]) Exercise(threads, 2000);
    }

    [Test]
    public void AnyNumberOfCallers()
    {
        Task[] callers = [.. Enumerable.Range(0, 6).Select(i => Task.Run(() => Exercise(i % 3, 2000)))];
        Assert.That(Task.WaitAll(callers, TimeSpan.FromSeconds(60)), "a caller hangs");
    }

    [Test]
    public void WorkersThatSleepWakeUp()
    {
        for (int i = 0; i < 20; i++)
        {
            Thread.Sleep(10);
            Exercise(0, 8);
        }
    }

    [Test]
    public void SmallProblemsOfTheManagedRowStayOnTheCallersThread()
    {
        if (ManagedPool.Size < 2) Assert.Ignore("one core: there is no other thread");
        long Posted(int n)
        {
            var layer = new FlatGemmOptions { N = n, K = 128, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32, Row = "flat_gemm/managed" };
            using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(layer, new CommunityToolkit.HighPerformance.ReadOnlySpan2D<float>(new float[n * 128], n, 128));
            long before = ManagedPool.Jobs;
            plan.Run<float, float>(new float[128], new float[n]);
            return ManagedPool.Jobs - before;
        }
        Assert.That(Posted(256), Is.Zero, "four tasks, half of what is worth a thread");
        Assert.That(Posted(1024), Is.EqualTo(1));
    }
}
