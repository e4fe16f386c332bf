using System.CommandLine;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>perf doctor: what is here, what is missing and how to get it. Works when everything is missing.</summary>
internal static class DoctorVerb
{
    private sealed record Fact(string What, string Value, string? Missing);

    private sealed record RowFact(string Device, string Row, bool Available, string? Lacks, bool? SelfTest, string? Fault);

    public static Command Create()
    {
        Option<string?> db = Verb.DatabaseOption();
        return Verb.Make("doctor", "Shows the machine, the library, the rows with a self test each, the database, and what is missing.", [db, Devices.Name], (parsed, screen, _) =>
        {
            List<Fact> facts = [.. System(), .. Library(), .. Tools(), .. Devices.Facts().Select(f => new Fact(f.What, f.Value, f.Missing)), Database(Verb.Store(parsed.GetValue(db)))];
            var table = new Table("", "what", "value");
            foreach (Fact f in facts) table.Add(f.What, f.Value);
            screen.Show(table);
            // What is here, and the simulated GPU when asked for by its name.
            Device[] devices = [.. new[] { Device.Cpu }.Concat(Device.Gpus).Append(Devices.Find(parsed)).Distinct()];
            List<RowFact> rows = [.. devices.SelectMany(Rows)];
            var shown = new Table("rows", "device", "row", "available", "self test");
            foreach (RowFact r in rows) shown.Add(r.Device, r.Row, r.Available ? "yes" : r.Lacks, r.SelfTest is null ? "" : r.Fault ?? "ok");
            screen.Show(shown);
            foreach (Fact f in facts.Where(f => f.Missing is not null)) screen.Line($"{f.What}: {f.Missing}");
            bool well = Device.Cpu.NativeProblem is null && rows.All(r => r.SelfTest != false);
            screen.Line(well ? "All that is expected here is there." : "Something that is expected is missing or wrong.");
            screen.Json(new { well, facts, rows });
            return well ? Exit.Ok : Exit.Bad;
        });
    }

    /// <summary>What managed rows compute with here; DOTNET_EnableAVX512=0 and DOTNET_EnableAVX2=0 make it less.</summary>
    internal static int Vectors => Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : 128;

    private static IEnumerable<Fact> System()
    {
        Device device = Device.Cpu;
        yield return new("system", RuntimeInformation.OSDescription, null);
        yield return new("runtime", $"{RuntimeInformation.FrameworkDescription}, {RuntimeInformation.RuntimeIdentifier}", null);
        yield return new("processor", device.Model, null);
        yield return new("vectors of managed rows", $"{Vectors} bits", null);
        yield return new("cores, threads of the pool", $"{device.Cores}, {device.Threads}", null);
        yield return new("cores of this process, NUMA nodes", $"{Affinity()}, {NumaNodes()}", null);
        yield return new("caches L1, L2, L3", string.Join(", ", device.CacheBytes.Select(Format.Bytes)), null);
    }

    /// <summary>"0-3,8": the cores that its threads may run on, as Linux lists them.</summary>
    private static string Affinity() => Seen(() => File.ReadLines("/proc/self/status").First(l => l.StartsWith("Cpus_allowed_list:", StringComparison.Ordinal))["Cpus_allowed_list:".Length..].Trim());

    private static string NumaNodes() => Seen(() => Format.Int(Directory.GetDirectories("/sys/devices/system/node", "node*").Length));

    private static string Seen(Func<string> look)
    {
        try
        {
            return OperatingSystem.IsLinux() ? look() : "unknown";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidOperationException)
        {
            return "unknown";  // a sandbox may hide these files
        }
    }

    private static IEnumerable<Fact> Library()
    {
        Device device = Device.Cpu;
        yield return device.NativeProblem is { } problem
            ? new("native library", "missing: managed rows only", $"{problem}. ./build.sh builds it; KERNELS_NATIVE names a directory that has it.")
            : new("native library", device.NativeLibrary!, null);
        yield return new("ABI, build", $"{KnExports.Abi}, {device.Build}", null);
        bool without = device.NativeProblem is null && device.Table.Features == KnCpu.None;
        yield return new("instruction sets", device.InstructionSets, without ? "no AVX-512: managed rows run, on what .NET finds" : null);
        yield return new("AMX", AmxState(device), null);
    }

    /// <summary>What the processor says against what the process was granted.</summary>
    private static string AmxState(Device device)
    {
        if ((device.Table.Features & KnCpu.Amx) != 0) return "granted";
        if (!X86Base.IsSupported) return "not an x86 processor";
        (int max, _, _, _) = X86Base.CpuId(0, 0);
        (_, _, _, int edx) = max >= 7 ? X86Base.CpuId(7, 0) : default;
        bool tile = (edx >> 24 & 1) != 0;
        if (!tile) return "this processor has none";
        if (device.NativeProblem is not null) return "in the processor; the native library that would ask for it is missing";
        return "in the processor, but its tile state was refused: Linux 5.16 or newer grants it (arch_prctl), in a container unless seccomp forbids it";
    }

    private static IEnumerable<Fact> Tools()
    {
        yield return Limits.TryLoad(AppContext.BaseDirectory, out _, out string why)
            ? new("kn_limits", "there", null)
            : new("kn_limits", "missing", $"{why}; bench then prints no fraction of a limit. ./build.sh builds it.");
        PeerSet peers = PeerSet.Load(AppContext.BaseDirectory, out List<string> missing);
        yield return new("peers", peers.Native.Count == 0 ? "none" : string.Join(", ", peers.Native.Select(p => p.Name)), missing.Count == 0 ? null : string.Join("; ", missing));
    }

    private static Fact Database(TuningStore store)
    {
        if (store.Directory.Length == 0) return new("tuning database", "none: there is no home directory", "choices come from the model; perf tune --db DIR stores elsewhere");
        var entries = store.List();
        int sound = entries.Count(e => e.Record is not null && e.Source != TuningSource.Device), shipped = entries.Count(e => e.Source == TuningSource.Device);
        int here = entries.Count(e => e.Record is { } r && r.Key.Build == Device.Cpu.Build && r.Key.Device.Model == Device.Cpu.Model);
        TuningEntry[] broken = [.. entries.Where(e => e.Record is null)];
        string state = $"{store.Directory}: {sound} entries, {here} of them for this build and processor; {shipped} shipped";
        string? missing = broken.Length > 0 ? $"{broken.Length} entries cannot be used ({broken[0].Name}: {broken[0].Reason}); perf db list names them"
            : here == 0 ? "nothing is tuned here yet: ./build.sh tune, or perf tune --model NAME" : null;
        return new("tuning database", state, missing);
    }

    private static IEnumerable<RowFact> Rows(Device device)
    {
        string name = Devices.NameOf(device);
        foreach (Row row in device.Table.Rows)
        {
            if (!device.Table.Runs(row, out string? lacks))
            {
                yield return new RowFact(name, row.Name, false, lacks, null, null);
                continue;
            }
            string? fault = Operation.All.FirstOrDefault(o => o.Op == row.Op) is { } operation ? operation.SelfTest(row) : GpuSelfTests.SelfTest(device, row.Op);
            yield return new RowFact(name, row.Name, true, null, fault is null, fault);
        }
    }
}
