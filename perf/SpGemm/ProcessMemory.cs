using System.Globalization;

namespace Kernels.Perf;

/// <summary>The pages that this process holds, as Linux counts them.</summary>
internal static class ProcessMemory
{
    /// <summary>Bytes in memory now.</summary>
    public static long Resident() => Field("VmRSS:");

    /// <summary>The most since <see cref="ResetPeak"/>.</summary>
    public static long Peak() => Field("VmHWM:");

    public static void ResetPeak()
    {
        GC.Collect();
        if (!OperatingSystem.IsLinux()) throw new MissingException("the memory of a process is measured on Linux alone");
        File.WriteAllText("/proc/self/clear_refs", "5");
    }

    private static long Field(string name)
    {
        if (!OperatingSystem.IsLinux()) throw new MissingException("the memory of a process is measured on Linux alone");
        string line = File.ReadLines("/proc/self/status").First(l => l.StartsWith(name, StringComparison.Ordinal));
        return 1024 * long.Parse(line[name.Length..].Replace("kB", "", StringComparison.Ordinal), NumberStyles.AllowLeadingWhite | NumberStyles.AllowTrailingWhite, CultureInfo.InvariantCulture);
    }
}
