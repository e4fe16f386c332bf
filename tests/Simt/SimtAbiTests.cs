using Kernels.Interop.Native;

namespace Kernels.Tests.Simt;

/// <summary>What is wrong in a call to the simulated device is answered with a status and a sentence.</summary>
[TestFixture]
public sealed unsafe class SimtAbiTests
{
    private const int Invalid = 1, Unsupported = 2;

    [TearDown]
    public void FreeMemory() => SimtLibrary.Get(check: true).FreeAll();

    [Test]
    public void KernelsAreListed()
    {
        SimtLibrary simt = SimtLibrary.Get(check: true);
        Assert.That(simt.Table.KernelCount, Is.Positive);
        for (int i = 0; i < simt.Table.KernelCount; i++)
        {
            var kernel = new KnSimtKernel { Size = (uint)sizeof(KnSimtKernel) };
            Assert.That(simt.Table.Kernel(i, &kernel), Is.Zero);
            Assert.That((kernel.Name != null, kernel.ArgsBytes > 0), Is.EqualTo((true, true)));
        }
        var none = new KnSimtKernel { Size = (uint)sizeof(KnSimtKernel) };
        Assert.That(simt.Table.Kernel(simt.Table.KernelCount, &none), Is.EqualTo(Unsupported));
    }

    [Test]
    public void WrongLaunchesAreRefused()
    {
        SimtLibrary simt = SimtLibrary.Get(check: true);
        SimtTestArgs args = new() { Out = simt.Allocate(1024) };
        Refused(simt.Launch("no_such_kernel", 1, 32, 0, args), Unsupported, "no_such_kernel");
        Refused(simt.Launch("simt_block_sum", 1, 32, 128, args, argsBytes: 8), Invalid, "args");
        Refused(simt.Launch("simt_block_sum", 1, 1025, 128, args), Invalid, "block");
        Refused(simt.Launch("simt_block_sum", 0, 32, 128, args), Invalid, "grid");
        Refused(simt.Launch("simt_block_sum", 1, 32, 1 << 20, args), Invalid, "dynamic_shared");
        Refused(simt.Launch("simt_grid", 100_000, 64, 0, args, cooperative: true), Invalid, "grid");
        Assert.That(simt.Launch("simt_grid", 1, 64, 0, args), Is.EqualTo(4), "a grid barrier in an ordinary launch");
        simt.SetOptions(64, 0, 0, false);
        Refused(simt.Launch("simt_fault_trap", 1, 32, -1, args), Invalid, "dynamic_shared");

        void Refused(int status, int expected, string name)
        {
            Assert.That((status, simt.LastError), Is.EqualTo((expected, simt.LastError)));
            Assert.That(simt.LastError, Does.StartWith(name));
            Assert.That(simt.Table.FaultCount(), Is.Zero);
        }
    }

    [Test]
    public void MemoryIsGuarded()
    {
        SimtLibrary simt = SimtLibrary.Get(check: true);
        byte* pointer = (byte*)simt.Allocate(1000);
        byte* host = stackalloc byte[2000];
        Assert.That((long)pointer % 256, Is.Zero);
        Assert.That(simt.Table.Copy(host, pointer, 1000), Is.Zero);
        Assert.That(simt.Table.Copy(host, pointer, 1001), Is.EqualTo(Invalid));
        Assert.That(simt.Table.Copy(pointer + 900, host, 101), Is.EqualTo(Invalid));
        Assert.That(simt.Table.Fill(pointer + 999, 0, 2), Is.EqualTo(Invalid));
        Assert.That(simt.Table.Fill(null, 0, 2), Is.EqualTo(Invalid));
        Assert.That(simt.Table.Free(pointer + 256), Is.EqualTo(Invalid));
        byte* second = (byte*)simt.Allocate(10);
        Assert.That(simt.Table.Free(second), Is.Zero);
        Assert.That(simt.Table.Free(second), Is.EqualTo(Invalid), "twice");
        Assert.That(simt.Table.Copy(host, second, 1), Is.EqualTo(Invalid), "after it was freed");
        void* none;
        Assert.That(simt.Table.Alloc(-1, &none), Is.EqualTo(Invalid));
        Assert.That(simt.Table.Alloc(0, &none), Is.Zero);
        Assert.That(none == null);
        Assert.That(simt.Table.Free(null), Is.Zero);
    }

    [TestCase(nameof(KnSimtOptions.WaveSize), 48)]
    [TestCase(nameof(KnSimtOptions.SmCount), 0)]
    [TestCase(nameof(KnSimtOptions.SharedPerBlock), 1 << 20)]
    [TestCase(nameof(KnSimtOptions.Workers), -1)]
    [TestCase(nameof(KnSimtOptions.Size), 4)]
    public void WrongOptionsAreRefused(string name, int value)
    {
        SimtLibrary simt = SimtLibrary.Get(check: true);
        var options = new KnSimtOptions { Size = (uint)sizeof(KnSimtOptions) };
        simt.Table.GetOptions(&options);
        KnSimtOptions wrong = options;
        switch (name)
        {
            case nameof(KnSimtOptions.WaveSize): wrong.WaveSize = value; break;
            case nameof(KnSimtOptions.SmCount): wrong.SmCount = value; break;
            case nameof(KnSimtOptions.SharedPerBlock): wrong.SharedPerBlock = value; break;
            case nameof(KnSimtOptions.Workers): wrong.Workers = value; break;
            default: wrong.Size = (uint)value; break;
        }
        Assert.That(simt.Table.SetOptions(&wrong), Is.EqualTo(Invalid));
        KnSimtOptions after = new() { Size = (uint)sizeof(KnSimtOptions) };
        simt.Table.GetOptions(&after);
        Assert.That(after, Is.EqualTo(options));
    }
}
