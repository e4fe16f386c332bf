using System.Collections.Immutable;
using System.Globalization;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Where kernels run. The CPU is always there; a GPU is where its driver is. Nothing is loaded before it is asked for.</summary>
public sealed partial class Device
{
    private static readonly Lazy<Device> s_cpu = new(() => new Device(KernelTable.Default));

    internal Device(KernelTable table)
    {
        Table = table;
        (Model, CacheBytes) = CpuFacts.Read();
        Cores = Environment.ProcessorCount;
    }

    /// <summary>The processor this process runs on.</summary>
    public static Device Cpu => s_cpu.Value;

    internal KernelTable Table { get; }

    /// <summary>Processor name as the system gives it, or the GPU's.</summary>
    public string Model { get; }

    /// <summary>Cores that this process may use; multiprocessors of a GPU.</summary>
    public int Cores { get; }

    /// <summary>
    /// Bytes of one core's L1 data cache and L2, and of the shared last level; 0 where the system does not say. Of a GPU: a
    /// multiprocessor's shared memory, L2, and 0.
    /// </summary>
    public ImmutableArray<long> CacheBytes { get; }

    /// <summary>
    /// Instruction sets that rows may need and this machine grants: "Avx512, Avx512Bf16" and so on; "None" is possible. A GPU's
    /// architecture: sm_90, gfx942.
    /// </summary>
    public string InstructionSets => Gpu?.Limits.Architecture ?? Table.Features.ToString();

    /// <summary>
    /// File of the native library, or null: then only managed rows run, and <see cref="NativeProblem"/> says why. Of a GPU: its
    /// driver and version.
    /// </summary>
    public string? NativeLibrary => Table.Path;

    /// <summary>Why there is no native library; null when there is one.</summary>
    public string? NativeProblem => Table.Problem;

    /// <summary>Identity of the sources of the rows, native and managed, or of the device images: part of every tuning key.</summary>
    public string Build => Table.Build;

    /// <summary>Threads of the pool, the caller's included; 1 for a GPU.</summary>
    public int Threads => Table.Threads;

    /// <summary>
    /// Resizes the pool: the native one, waiting for the call that runs on it, or without the native library that of the managed rows. 0 is one
    /// thread per core this process may use. A GPU has no pool.
    /// </summary>
    /// <param name="count">Threads, the caller's included.</param>
    /// <param name="pin">
    /// Tie each worker to a core of its own, on Linux and Windows. Workers beyond the cores, and the caller, run where the system lets them;
    /// managed threads cannot be tied.
    /// </param>
    /// <exception cref="KernelsException">A count outside 0..1024, fewer threads to be had than asked, or threads that cannot be tied.</exception>
    public void SetThreads(int count, bool pin = false) => Table.SetThreads(count, pin);

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Model}, {Cores} cores, {InstructionSets}");
}

/// <summary>Name and caches of the processor, from where each system keeps them.</summary>
internal static class CpuFacts
{
    internal static (string Model, ImmutableArray<long> Caches) Read()
    {
        string model = "unknown processor";
        long[] caches = [0, 0, 0];
        try
        {
            if (OperatingSystem.IsLinux())
            {
                model = LinuxModel() ?? model;
                for (int i = 0; i < 8; i++) LinuxCache($"/sys/devices/system/cpu/cpu0/cache/index{i}/", caches);
            }
            else if (OperatingSystem.IsWindows())
            {
                model = Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") ?? model;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A sandbox may hide these files; the facts are then unknown, which the model allows for.
        }
        return (model, [.. caches]);
    }

    /// <summary>The name alone is too general on some machines ("AMD EPYC"), so family, model and stepping go with it.</summary>
    private static string? LinuxModel()
    {
        var facts = new Dictionary<string, string>();
        foreach (string line in File.ReadLines("/proc/cpuinfo").TakeWhile(l => l.Length > 0))
        {
            int colon = line.IndexOf(':');
            if (colon > 0) facts.TryAdd(line[..colon].Trim(), line[(colon + 1)..].Trim());
        }
        if (!facts.TryGetValue("model name", out string? name)) return null;
        return facts.TryGetValue("cpu family", out string? family)
            ? $"{name} family {family} model {facts.GetValueOrDefault("model")} stepping {facts.GetValueOrDefault("stepping")}"
            : name;
    }

    private static void LinuxCache(string directory, long[] caches)
    {
        if (!File.Exists(directory + "level") || File.ReadAllText(directory + "type").Trim() == "Instruction") return;
        int level = int.Parse(File.ReadAllText(directory + "level"), CultureInfo.InvariantCulture);
        string size = File.ReadAllText(directory + "size").Trim();
        long unit = size[^1] switch { 'K' => 1 << 10, 'M' => 1 << 20, _ => 1 };
        if (level is >= 1 and <= 3 && long.TryParse(size.TrimEnd('K', 'M'), CultureInfo.InvariantCulture, out long value))
            caches[level - 1] = value * unit;
    }
}
