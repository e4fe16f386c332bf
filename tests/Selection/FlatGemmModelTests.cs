using Kernels.Tuning;

namespace Kernels.Tests.Selection;

/// <summary>Where the cost model takes operands to lie.</summary>
[TestFixture]
public sealed class FlatGemmModelTests
{
    private static double Rate(double bytes, CacheState cache) => bytes / FlatGemmModel.ReadSeconds(bytes, 1, Device.Cpu, cache);

    [Test]
    public void WarmOperandsAreReadFromTheFirstLevelThatHasRoomForThem()
    {
        (long l2, long l3) = (Device.Cpu.CacheBytes[1], Device.Cpu.CacheBytes[2]);
        if (l2 == 0 || l3 < 2 * l2) Assert.Ignore("the system does not say how large the caches are, or the L3 holds no more than an L2");
        double memory = Rate(2 * l3, CacheState.Warm), shared = Rate(l3 - 1, CacheState.Warm), own = Rate(l2 - 1, CacheState.Warm);
        Assert.That(own, Is.GreaterThan(1.2 * shared));
        Assert.That(shared, Is.GreaterThan(1.2 * memory));
        Assert.That(Rate(l3 - 1, CacheState.Cold), Is.EqualTo(memory).Within(1e-9).Percent, "cold ones are in memory");
    }
}
