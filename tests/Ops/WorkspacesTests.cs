namespace Kernels.Tests.Ops;

/// <summary>Scratch of a plan's concurrent callers on the CPU.</summary>
[TestFixture]
public sealed class WorkspacesTests
{
    [Test]
    public void EachConcurrentCallerHasItsOwnAndNoneIsLetGo()
    {
        using var all = new Workspaces(256);
        Workspaces.Slot[] held = [all.Take(), all.Take(), all.Take()];
        Assert.That(held, Is.Unique);
        Assert.That(all.Count, Is.EqualTo(3));
        foreach (Workspaces.Slot slot in held) all.Return(slot);
        Workspaces.Slot[] again = [all.Take(), all.Take(), all.Take()];
        Assert.That(again, Is.EquivalentTo(held));
        Assert.That(all.Count, Is.EqualTo(3));
        foreach (Workspaces.Slot slot in again) all.Return(slot);
    }

    [Test]
    public void WhatIsHeldWhileThePlanIsDisposedIsFreedOnReturn()
    {
        var all = new Workspaces(256);
        Workspaces.Slot held = all.Take(), idle = all.Take();
        all.Return(idle);
        all.Dispose();
        Assert.That(() => idle.Buffer.Span.Length, Throws.InstanceOf<Exception>());
        Assert.That(held.Buffer.Span.Length, Is.EqualTo(256));
        all.Return(held);
        Assert.That(() => held.Buffer.Span.Length, Throws.InstanceOf<Exception>());
        Assert.That(() => all.Take(), Throws.TypeOf<KernelsException>());
    }

    /// <summary>Threads that run one plan allocate nothing once each has run beside the others.</summary>
    [Test]
    public void ConcurrentCallersAllocateNothing()
    {
        const int Callers = 3;
        var options = new FlatGemmOptions { K = 64, N = 32, MaxM = 4, Input = DType.Float32, Weights = DType.Float32, Output = DType.Float32 };
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create<float>(options, new float[32, 64]);
        // Every caller holds a workspace of its own before the first is given back: from then on there are enough.
        Workspaces.Slot[] warm = [.. Enumerable.Range(0, Callers).Select(_ => plan.Workspaces!.Take())];
        foreach (Workspaces.Slot slot in warm) plan.Workspaces!.Return(slot);
        var bytes = new long[Callers];
        using var together = new Barrier(Callers);
        Thread[] threads = [.. Enumerable.Range(0, Callers).Select(i => new Thread(() =>
        {
            float[] x = new float[4 * 64], y = new float[4 * 32];
            Action run = () => plan.Run<float, float>(x, y);
            for (int n = 0; n < 100; n++) run();
            together.SignalAndWait();
            bytes[i] = Allocations.Of(500, run);
        }))];
        foreach (Thread t in threads) t.Start();
        foreach (Thread t in threads) t.Join();
        Assert.That(bytes, Is.All.Zero);
        Assert.That(plan.Workspaces!.Count, Is.EqualTo(Callers));
    }
}
