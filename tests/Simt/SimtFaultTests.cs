namespace Kernels.Tests.Simt;

/// <summary>Every kind of fault, planted in native/simt/kernels/faults.cu, is found in its line; the kernels without it pass.</summary>
[TestFixture]
public sealed class SimtFaultTests
{
    private const int SharedBounds = 1, GlobalBounds = 2, AfterFree = 3, Misaligned = 4, Uninitialised = 5, Race = 6, Divergent = 7, Async = 8, Trap = 9;

    /// <summary>Kernel, mode, kind of the fault, the thread that is named, or -1 where another order of threads names another one.</summary>
    private static readonly (string Kernel, int Mode, int Kind, int Thread)[] s_planted =
    [
        ("shared_bounds", 1, SharedBounds, 7),
        ("array_bounds", 1, SharedBounds, 9),
        ("global_bounds", 1, GlobalBounds, 36),
        ("global_read", 1, AfterFree, 0),
        ("race", 1, Race, -1),
        ("write_after_read", 1, Race, -1),
        ("wave_race", 1, Race, -1),
        ("divergent_barrier", 1, Divergent, -1),
        ("divergent_barrier", 2, Divergent, -1),
        ("divergent_shuffle", 1, Divergent, -1),
        ("uninitialised", 1, Uninitialised, 5),
        ("uninitialised_static", 1, Uninitialised, 5),
        ("uninitialised_global", 1, Uninitialised, 6),
        ("misaligned", 1, Misaligned, 2),
        ("async", 1, Async, -1),
        ("async_race", 1, Race, -1),
        ("atomic_race", 1, Race, -1),
        ("division", 1, Trap, 0),
        ("trap", 1, Trap, 1),
        ("stack", 1, Trap, -1),
    ];

    private static IEnumerable<TestCaseData> Planted =>
        from wave in new[] { 32, 64 }
        from order in new[] { 0u, 7u }
        from p in s_planted
        select new TestCaseData(p.Kernel, p.Mode, p.Kind, p.Thread, wave, order);

    [TearDown]
    public void FreeMemory()
    {
        SimtLibrary.Get(check: true).FreeAll();
        SimtLibrary.Get(check: false).FreeAll();
    }

    [TestCaseSource(nameof(Planted))]
    public void PlantedFaultIsFound(string kernel, int mode, int kind, int thread, int wave, uint order)
    {
        SimtLibrary simt = SimtLibrary.Get(check: true, wave, order: order, checkGlobal: true);
        Assert.That(Launch(simt, kernel, mode), Is.EqualTo(4), "KN_DEVICE");
        SimtFault[] faults = simt.Faults();
        SimtFault fault = faults[0];
        Assert.That(faults, Has.Length.EqualTo(1), string.Join('\n', faults.Select(f => f.Text)));
        Assert.That(fault.Kind, Is.EqualTo(kind), fault.Text);
        Assert.That(fault.Kernel, Is.EqualTo("simt_fault_" + kernel));
        Assert.That(fault.Block, Is.EqualTo((kernel == "global_bounds" ? 1u : 0, 0u, 0u)), fault.Text);
        if (thread >= 0 && order == 0) Assert.That(fault.Thread, Is.EqualTo(((uint)thread, 0u, 0u)), fault.Text);
        // Of a race, either access may come second.
        Assert.That(PlantedLines(kernel), Has.Some.AnyOf(fault.Line, fault.OtherLine), fault.Text);
        Assert.That(fault.File, Does.EndWith("native/simt/kernels/faults.cu"));
        Assert.That(fault.Text, Does.Contain($"faults.cu:{fault.Line}: "));
        Assert.That(simt.LastError, Is.EqualTo(fault.Text));
    }

    [Test]
    public void CorrectKernelPasses([Values(32, 64)] int wave, [Values(0u, 7u)] uint order, [Values] bool check)
    {
        SimtLibrary simt = SimtLibrary.Get(check, wave, order: order, checkGlobal: true);
        foreach (string kernel in s_planted.Select(p => p.Kernel).Distinct())
            Assert.That(Launch(simt, kernel, 0), Is.Zero, kernel + ": " + simt.LastError);
    }

    /// <summary>Without checks the processor's own exceptions still stop a kernel and not the process.</summary>
    [TestCase("global_read", AfterFree)]
    [TestCase("misaligned", 0)]
    [TestCase("division", Trap)]
    [TestCase("trap", Trap)]
    [TestCase("stack", Trap)]
    [TestCase("divergent_barrier", Divergent)]
    [TestCase("divergent_shuffle", Divergent)]
    public void FastBuildStopsToo(string kernel, int kind)
    {
        SimtLibrary simt = SimtLibrary.Get(check: false);
        int status = Launch(simt, kernel, 1);
        if (kind == 0)  // depends on the instructions that the compiler chose
            Assert.That(status, Is.AnyOf(0, 4));
        else
            Assert.That((status, simt.Faults()[0].Kind), Is.EqualTo((4, kind)), simt.LastError);
        Assert.That(Launch(simt, kernel, 0), Is.Zero, "the device goes on");
    }

    private static int Launch(SimtLibrary simt, string kernel, int mode)
    {
        nint input = simt.Upload<int>(Enumerable.Range(1, 1024).ToArray());
        if (kernel == "global_read" && mode == 1)
        {
            input = simt.Allocate(4096);
            unsafe
            {
                Assert.That(simt.Table.Free((void*)input), Is.Zero);
            }
        }
        if (kernel == "uninitialised_global") input = simt.Allocate(64 * 4);
        nint output = simt.Allocate(100 * 4);
        int shared = kernel.StartsWith("async", StringComparison.Ordinal) ? 1024 : 256;
        return simt.Launch("simt_fault_" + kernel, kernel == "global_bounds" ? 2 : 1, 64, shared, new() { In = input, Out = output, N = 100, Mode = mode });
    }

    private static int[] PlantedLines(string kernel)
    {
        string[] lines = SimtLibrary.Source("faults.cu");
        int first = Array.FindIndex(lines, l => l.Contains($"// {kernel}", StringComparison.Ordinal) || l.StartsWith($"KERNEL({kernel})", StringComparison.Ordinal));
        int last = Array.FindIndex(lines, first + 1, l => l.StartsWith('}') && !l.Contains("planted", StringComparison.Ordinal));
        return [.. Enumerable.Range(first, last - first).Where(i => lines[i].Contains("// planted", StringComparison.Ordinal)).Select(i => i + 1)];
    }
}
