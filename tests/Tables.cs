using Kernels.Interop.Native;

namespace Kernels.Tests;

/// <summary>The tables under test: what users get, and the library whose missing instructions run in software.</summary>
internal static class Tables
{
    private static readonly Lazy<KernelTable?> s_emulated = new(LoadEmulated);

    /// <summary>Random runs differ and print this; `-- TestRunParameters.Parameter(name=\"seed\", value=\"..\")` repeats one.</summary>
    public static ulong Seed { get; } = ulong.TryParse(TestContext.Parameters["seed"], out ulong seed) ? seed : (ulong)DateTime.UtcNow.Ticks;

    public static KernelTable? Emulated => s_emulated.Value;

    /// <summary>Every row of the operation that this machine can run, with its table: the default table's, then those of which something is emulated.</summary>
    public static IEnumerable<(KernelTable Table, Row Row, string Name)> Runnable(KnOp op = KnOp.FlatGemm)
    {
        foreach (Row row in KernelTable.Default.Of(op))
            if (KernelTable.Default.Runs(row, out _)) yield return (KernelTable.Default, row, row.Name);
        if (Emulated is null) yield break;
        foreach (Row row in Emulated.Of(op))
            if ((row.Needs & Emulated.Emulated) != 0 && Emulated.Runs(row, out _)) yield return (Emulated, row, $"{row.Name} (emulated)");
    }

    /// <summary>The native row of this name; where this machine cannot run it, as asking it for its rules is running it, the test is left out.</summary>
    public static Row Native(string name)
    {
        Row? row = KernelTable.Default.Rows.FirstOrDefault(r => r.Name == name);
        if (row is null) Assert.Ignore($"no {name} to compare with: {KernelTable.Default.Problem}");
        if (!KernelTable.Default.Runs(row!, out string? lacks)) Assert.Ignore($"no {name} to compare with: {lacks}");
        return row!;
    }

    public static Row Find(string name, KnOp op = KnOp.FlatGemm) => Anywhere(op).First(r => r.Name == name).Row;

    /// <summary>The same, and the rows of a simulated GPU, which here checks nothing and so runs faster.</summary>
    public static IEnumerable<(KernelTable Table, Row Row, string Name)> Anywhere(KnOp op)
    {
        foreach (var here in Runnable(op)) yield return here;
        if (s_simulated.Value is not { } device) yield break;
        foreach (Row row in device.Table.Of(op))
            if (device.Table.Runs(row, out _)) yield return (device.Table, row, $"{row.Name} ({device.InstructionSets})");
    }

    private static readonly Lazy<Device?> s_simulated = new(() => Device.TryGetSimulated(out Device? device, out _, check: false) ? device : null);

    private static KernelTable? LoadEmulated()
    {
        string file = KernelTable.LibraryName.Replace("kn_cpu", "kn_cpu_emulated", StringComparison.Ordinal);
        string?[] directories = [Environment.GetEnvironmentVariable("KERNELS_NATIVE"), AppContext.BaseDirectory];
        string? path = directories.Where(d => !string.IsNullOrEmpty(d)).Select(d => Path.Combine(d!, file)).FirstOrDefault(File.Exists);
        return path is null ? null : KernelTable.Load(path);
    }
}
