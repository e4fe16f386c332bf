using Kernels.Tuning;

namespace Kernels.Tests.Gpu;

/// <summary>The kernels that measure a GPU's peaks do the products that are counted for them: of ones, so that the sums tell how many.</summary>
[TestFixture]
public sealed class DevicePeaks
{
    private static IEnumerable<TestCaseData> Cases() =>
        from name in Simulated.Names from peak in DevicePeak.All select new TestCaseData(name, peak.Name).SetArgDisplayNames(name, peak.Name);

    /// <summary>Outputs of a block, and what each multiplies and adds in a round, by the shapes of the instructions.</summary>
    private static (int Outputs, int K) Of(DevicePeak peak)
    {
        int k = peak.Kind == "s8" ? 32 : 16;
        return peak.File switch
        {
            "peak_gpu" => (256 * 16, 1),            // threads, chains
            "peak_sm80" => (8 * 8 * 16 * 8, k),     // warps, sums of each, m16n8
            _ => (64 * 128, 16 * k),                // m64n128, sixteen of them
        };
    }

    [TestCaseSource(nameof(Cases))]
    public void DoWhatIsCounted(string name, string kernel)
    {
        DevicePeak peak = DevicePeak.All.Single(p => p.Name == kernel);
        const int Blocks = 2, Rounds = 3;
        Device device = Simulated.Open(name);
        if (!device.Gpu!.HasImage(peak.File, peak.Name, out string lacks))
        {
            Assert.That(peak.File, Is.Not.EqualTo("peak_gpu"), lacks);
            Assert.That(DevicePeak.Of(device.Gpu, peak.Kind)?.File, Is.Not.EqualTo(peak.File));
            return;
        }
        using Buffer<float> sums = Buffer<float>.Allocate(device, Blocks * peak.Threads);
        peak.Launch(new GpuKernel(device.Gpu, peak.File, peak.Name), sums, Blocks, Rounds);
        float[] got = new float[sums.Length];
        sums.CopyTo(got);
        (int outputs, int k) = Of(peak);
        Assert.That(peak.Operations, Is.EqualTo(2.0 * outputs * k));
        Assert.That(got, Is.All.EqualTo(peak.File switch { "peak_gpu" => 16 * (2 - 1 / 8f), "peak_sm80" => 8 * Rounds * k, _ => (float)Rounds * k }));
    }

    [TestCase("simt32", "f32", "peak_gpu_f32")]
    [TestCase("simt32", "bf16", "peak_sm90_bf16")]
    [TestCase("simt64", "f32", "peak_gpu_f32")]
    [TestCase("simt64", "bf16", null)]
    [TestCase("simt32", "u8s8", null)]
    public void TheFastestThatADeviceHas(string name, string kind, string? expected)
    {
        Device device = Simulated.Open(name, check: false);
        Assert.That(DevicePeak.Of(device.Gpu!, kind)?.Name, Is.EqualTo(expected));
        if (kind == "f32") Assert.That(DevicePeak.Of(device.Gpu!, kind)!.Rate(device), Is.Positive);
    }
}
