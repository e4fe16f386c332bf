using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Chooses the row of a sparse product: the forced one, else the best that takes it, with the largest launch that keeps to the budget.</summary>
internal static unsafe class SpGemmSelection
{
    internal static (Row Row, KnLaunch Launch, SpGemmChoice Choice) Choose(Device device, SpGemmOptions options, KnSpgemmProblem problem)
    {
        if (options.Row is { } name)
        {
            Row forced = device.Table.Of(KnOp.SpGemm).FirstOrDefault(r => r.Name == name)
                ?? throw new KernelsException(Status.Unsupported, nameof(options.Row),
                    $"one of {string.Join(", ", device.Table.Of(KnOp.SpGemm))}, not {name}{(device.NativeProblem is { } p ? $" ({p})" : "")}");
            if (!device.Table.Runs(forced, out string? lacks)) throw new KernelsException(Status.Unsupported, name, lacks!);
            if (!forced.Accepts(&problem, forced.DefaultLaunch(options.Threads), out string? why)) throw new KernelsException(Status.Unsupported, name, $"requires {why}");
            return Make(forced, device, options, problem, ChoiceSource.Forced, "the caller named it");
        }
        foreach (Row row in device.Table.Of(KnOp.SpGemm))
            if (device.Table.Runs(row, out _) && row.Accepts(&problem, row.DefaultLaunch(options.Threads), out _))
                return Make(row, device, options, problem, ChoiceSource.Modelled, Reason(problem));
        throw new KernelsException(Status.Unsupported, device.ToString(), $"takes no such product: {Refusals(device, problem)}");
    }

    /// <summary>Row by row why none runs, which can be on a GPU alone: the managed row takes every problem.</summary>
    private static string Refusals(Device device, KnSpgemmProblem problem) =>
        string.Join("; ", device.Table.Of(KnOp.SpGemm).Select(r => $"{r.Name}: {Refusal(device, r, problem)}"));

    private static string? Refusal(Device device, Row row, KnSpgemmProblem problem)
    {
        if (!device.Table.Runs(row, out string? lacks)) return lacks;
        row.Accepts(&problem, row.DefaultLaunch(0), out string? why);
        return $"requires {why}";
    }

    private static string Reason(in KnSpgemmProblem p) => FormattableString.Invariant(
        $"the first row that takes it: {p.Products} products, {p.Products / Math.Max(1.0, p.M):0.#} a row, {p.Most} in the longest");

    /// <summary>The default launch; where its scratch would take more than half of the budget, the one that takes least, then one thread.</summary>
    internal static (Row, KnLaunch, SpGemmChoice) Make(Row row, Device device, SpGemmOptions options, KnSpgemmProblem problem, ChoiceSource source, string reason)
    {
        // Fixes what "all threads" means, so that a later resize of the pool cannot outgrow the workspace.
        int threads = options.Threads == 0 ? device.Threads : options.Threads;
        KnLaunch launch = row.DefaultLaunch(threads);
        long bytes = row.Workspace(&problem, launch);
        if (options.MemoryBudget > 0 && bytes > options.MemoryBudget / 2)
        {
            foreach (int fewer in threads == 1 ? (int[])[1] : [threads, 1])
                foreach (KnLaunch other in row.Launches(fewer))
                    if (row.Accepts(&problem, other, out _) && row.Workspace(&problem, other) is var less && bytes > options.MemoryBudget / 2 && less < bytes)
                        (launch, bytes) = (other, less);
            reason += $", and its scratch keeps to a budget of {options.MemoryBudget} bytes";
        }
        return (row, launch, new SpGemmChoice(row.Dataflow(launch), source, reason, bytes));
    }
}
