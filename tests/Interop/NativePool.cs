using System.Globalization;
using Kernels.Interop.Native;

namespace Kernels.Tests.Interop;

/// <summary>The native pool as Linux sees it: where its threads may run, and which calls wake them.</summary>
[TestFixture, Platform(Include = "Linux", Reason = "threads are watched in /proc")]
public sealed class NativePool
{
    private const string Tasks = "/proc/self/task";

    [SetUp]
    public void HasANativePool()
    {
        if (KernelTable.Default.Problem is { } problem) Assert.Ignore(problem);
        if (Device.Cpu.Cores < 2) Assert.Ignore("one core: there is no other thread, and no other core to tie it to");
    }

    [TearDown]
    public void Restore() => Device.Cpu.SetThreads(0);

    /// <summary>Resizes the pool and finds its workers: the threads that came with that. The runtime may start one meanwhile; then it is done again.</summary>
    private static string[] Workers(int threads, bool pin = false)
    {
        for (int attempt = 0; attempt < 20; attempt++)
        {
            Device.Cpu.SetThreads(1);
            HashSet<string> before = [.. Directory.GetDirectories(Tasks)];
            Device.Cpu.SetThreads(threads, pin);
            string[] came = [.. Directory.GetDirectories(Tasks).Where(t => !before.Contains(t))];
            if (came.Length == threads - 1) return came;
        }
        throw new InvalidOperationException("the pool's threads cannot be told from others");
    }

    private static string Status(string task, string field) => File.ReadLines(Path.Combine(task, "status")).First(l => l.StartsWith(field + ":", StringComparison.Ordinal))[(field.Length + 1)..].Trim();

    private static string Cores(string task) => Status(task, "Cpus_allowed_list");

    [Test]
    public void PinnedWorkersHaveACoreEachAndThoseBeyondTheCoresNone()
    {
        int cores = Device.Cpu.Cores;
        string all = Cores("/proc/self");
        string[] workers = Workers(cores + 2, pin: true);
        // A worker ties itself as its first act, which the resize does not wait for.
        Assert.That(() => workers.Count(w => Cores(w) != all), Is.EqualTo(cores - 1).After(5000, 10));
        string[] tied = [.. workers.Select(Cores).Where(c => c != all)];
        Assert.That(tied, Is.Unique.And.All.Matches<string>(c => int.TryParse(c, NumberStyles.None, CultureInfo.InvariantCulture, out _)));
        Assert.That(Cores("/proc/thread-self"), Is.EqualTo(all), "the caller is not tied");
        Assert.That(Workers(cores + 2).Select(Cores), Is.All.EqualTo(all), "nobody is when that is not asked for");
    }

    [Test]
    public void TheSizeIsNeverOneOnTheWayToAnother()
    {
        Device.Cpu.SetThreads(2);
        var seen = new HashSet<int>();
        Task resizes = Task.Run(() =>
        {
            for (int i = 0; i < 300; i++) Device.Cpu.SetThreads(2 + i % 2);
        });
        while (!resizes.IsCompleted) seen.Add(Device.Cpu.Threads);
        resizes.Wait();
        Assert.That(seen, Is.SubsetOf(new[] { 2, 3 }));
    }

    private static IEnumerable<string> NativeRows => KernelTable.Default.Of(KnOp.FlatGemm).Where(r => r is NativeRow && KernelTable.Default.Runs(r, out _)).Select(r => r.Name);

    /// <summary>A worker that was woken parks again, which counts as one more wait.</summary>
    [TestCaseSource(nameof(NativeRows))]
    public void SmallProductsStayOnTheCallersThread(string name)
    {
        Row row = Tables.Find(name);
        string worker = Workers(2)[0];
        long Waits() => long.Parse(Status(worker, "voluntary_ctxt_switches"), CultureInfo.InvariantCulture);
        bool Wakes(int m, int n, int k, int milliseconds)
        {
            using FlatGemmTrial trial = Trial(row, m, n, k);
            // It spins for some 100 us before it parks, on a core that it may have to wait for.
            while (SpinWait.SpinUntil(Changed(), 50)) { }
            Func<bool> woken = Changed();
            Assert.That(trial.Run(row, row.DefaultLaunch(0), m), Is.EqualTo(KnStatus.Ok), row.LastError);
            return SpinWait.SpinUntil(woken, milliseconds);
        }
        Func<bool> Changed()
        {
            long before = Waits();
            return () => Waits() != before;
        }
        Assert.That(Wakes(1, 64, 64, 50), Is.False, "4096 multiply-adds");
        Assert.That(Wakes(4, 1024, 1024, 5000), Is.True, "2^22 multiply-adds");
    }

    private static FlatGemmTrial Trial(Row row, int m, int n, int k)
    {
        foreach (FlatGemmCases.Kind kind in FlatGemmCases.MainKinds)
        {
            var trial = new FlatGemmTrial(FlatGemmCases.Problem(kind, m, n, k), Tables.Seed);
            if (trial.Prepare(row, row.DefaultLaunch(0), out _, out _)) return trial;
            trial.Dispose();
        }
        throw new InvalidOperationException($"{row.Name} takes no kind");
    }
}
