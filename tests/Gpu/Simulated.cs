namespace Kernels.Tests.Gpu;

/// <summary>The devices that GPU tests run on: simulated ones, checked, of both wave sizes, and whatever GPUs the machine has.</summary>
internal static class Simulated
{
    private static readonly Lazy<string?> s_absent = new(() => Device.TryGetSimulated(out _, out string? reason) ? null : reason);

    /// <summary>Names for test cases: "simt32", "simt64", "cuda0", ...</summary>
    public static IEnumerable<string> Names => ((string[])["simt32", "simt64"]).Concat(Real.Keys);

    private static Dictionary<string, Device> Real { get; } = Device.Gpus.ToDictionary(d => $"{d.Kind.ToString().ToLowerInvariant()}{d.Ordinal}");

    /// <summary>A device by name, a fresh one where it is simulated. Ignores the test, with the reason, where kn_simt was not built.</summary>
    public static Device Open(string name, bool check = true)
    {
        if (Real.TryGetValue(name, out Device? real)) return real;
        if (s_absent.Value is { } absent) Assert.Ignore($"no simulated device: {absent}");
        return Device.TryGetSimulated(out Device? device, out string? reason, name == "simt64" ? 64 : 32, check) ? device : throw new AssertionException(reason);
    }
}
