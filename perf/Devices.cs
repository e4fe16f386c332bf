using System.CommandLine;
using System.Globalization;

namespace Kernels.Perf;

/// <summary>The devices that verbs see, by the names of --device.</summary>
internal static class Devices
{
    private static readonly Dictionary<string, Device> s_simulated = [];

    /// <summary>Where an operation runs.</summary>
    public static Option<string?> Name { get; } = new("--device") { Description = "cpu (default), cuda:N, hip:N, simt or simt64: the simulated GPU, checked", HelpName = "DEVICE" };

    public static string NameOf(Device device) => device.Kind switch
    {
        DeviceKind.Cpu => "cpu",
        DeviceKind.Simulated => device.InstructionSets == "simt64" ? "simt64" : "simt",
        _ => string.Create(CultureInfo.InvariantCulture, $"{device.Kind.ToString().ToLowerInvariant()}:{device.Ordinal}"),
    };

    /// <summary>The CPU, the GPUs that are here, and the simulated one where it was built.</summary>
    public static IEnumerable<Device> All()
    {
        yield return Device.Cpu;
        foreach (Device gpu in Device.Gpus) yield return gpu;
        if (Device.TryGetSimulated(out Device? simulated, out _)) yield return simulated;
    }

    public static Device Find(ParseResult parsed) => Find(parsed.GetValue(Name));

    /// <summary>The device in the head of a table: times of the simulated one are named as what they are.</summary>
    public static string TitleOf(Device device) => device.Kind == DeviceKind.Simulated ? $"{device.Model}; SIMULATED: these are times of the host, of no GPU" : device.Model;

    public static Device Find(string? name)
    {
        Device? device = null;
        string? reason = null;
        if (name is null or "cpu") return Device.Cpu;
        if (name is "simt" or "simt32" or "simt64")
        {
            // Each opening is another device, and a command line means one.
            if (s_simulated.TryGetValue(name, out device)) return device;
            if (Device.TryGetSimulated(out device, out reason, name == "simt64" ? 64 : 32)) s_simulated.Add(name, device);
        }
        else if (Ordinal(name, "cuda:") is { } cuda) Device.TryGetCuda(cuda, out device, out reason);
        else if (Ordinal(name, "hip:") is { } hip) Device.TryGetHip(hip, out device, out reason);
        else throw new UsageException($"--device {name}: cpu, cuda:N, hip:N, simt or simt64");
        return device ?? throw new MissingException($"--device {name}: {reason}");
    }

    private static int? Ordinal(string name, string prefix) =>
        name.StartsWith(prefix, StringComparison.Ordinal) && int.TryParse(name[prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out int n) ? n : null;

    /// <summary>What doctor says: each kind of GPU with its devices or the reason why there is none, and the images inside the assembly.</summary>
    public static IEnumerable<(string What, string Value, string? Missing)> Facts()
    {
        yield return Kind("NVIDIA GPUs", DeviceKind.Cuda, Device.TryGetCuda(0, out _, out string? cuda) ? null : cuda);
        yield return Kind("AMD GPUs", DeviceKind.Hip, Device.TryGetHip(0, out _, out string? hip) ? null : hip);
        yield return Device.TryGetSimulated(out Device? simulated, out string? why)
            ? ("simulated GPU", simulated.Model, null)
            : ("simulated GPU", "none", $"{why}; ./build.sh builds it on Linux on x86-64");
        string targets = string.Join(", ", Images.All.GroupBy(i => i.Target).Select(g => $"{g.Key}: {string.Join(' ', g.Select(i => i.File))}"));
        yield return Images.All.Count > 0
            ? ("device images", $"{targets} ({Images.Build})", null)
            : ("device images", "none", "built without a device compiler: apt-get install clang-19 lld-19 and build again");
    }

    private static (string, string, string?) Kind(string what, DeviceKind kind, string? reason)
    {
        IEnumerable<Device> found = Device.Gpus.Where(d => d.Kind == kind);
        return (what, reason is not null ? $"none: {reason}" : string.Join("; ", found.Select(Describe)), null);
    }

    private static string Describe(Device d) => string.Create(CultureInfo.InvariantCulture,
        $"{d}, {Format.Bytes(d.MemoryBytes)}, {d.NativeLibrary}, {(d.Table.Rows.FirstOrDefault(r => d.Table.Runs(r, out _)) is { } row ? $"runs {row.Name} and {d.Table.Rows.Count(r => d.Table.Runs(r, out _)) - 1} more" : "runs no row")}");
}
