using FsCheck.Fluent;

namespace Kernels.Tests.Tensors;

[TestFixture]
public sealed class BFloat16Tests
{
    [Test]
    public void EveryValueComesBack()
    {
        for (int bits = 0; bits <= 0xffff; bits++)
        {
            BFloat16 value = BFloat16.FromBits((ushort)bits);
            float wide = value;
            int expected = float.IsNaN(wide) ? bits | 0x40 : bits;  // a NaN comes back quiet
            if (((BFloat16)wide).Bits != expected || ((BFloat16)(double)wide).Bits != expected) Assert.Fail($"0x{bits:x4}");
            Assert.That(BFloat16.IsNaN(value), Is.EqualTo(float.IsNaN(wide)));
        }
    }

    /// <summary>The nearer of the two neighbours in exact arithmetic; their midpoint has 9 bits and is exact in double.</summary>
    private static ushort Reference(double value)
    {
        double magnitude = Math.Abs(value);
        int low = 0, high = 0x7f80;  // the largest with Value(low) <= magnitude; infinity counts as 2^128
        while (high - low > 1)
        {
            int middle = (low + high) / 2;
            if (Value(middle) <= magnitude) low = middle;
            else high = middle;
        }
        double midpoint = (Value(low) + Value(low + 1)) / 2;
        int nearest = magnitude > midpoint || (magnitude == midpoint && low % 2 != 0) ? low + 1 : low;
        return (ushort)(nearest | (double.IsNegative(value) ? 0x8000 : 0));
    }

    private static double Value(int bits) => bits == 0x7f80 ? Math.ScaleB(1, 128) : (float)BFloat16.FromBits((ushort)bits);

    [Test]
    public void FloatsRoundToNearestEven()
    {
        var random = new TrialRandom(Tables.Seed);
        for (int i = 0; i < 3_000_000; i++)
        {
            uint bits = (uint)(random.Next() >> 32);
            if (i % 4 == 0) bits = (bits & 0xffff0000) + 0x8000;  // ties
            if (i % 4 == 1) bits = (bits & 0xffff0000) + 0x7fff + (uint)(random.Next() % 3);
            float value = BitConverter.UInt32BitsToSingle(bits);
            var rounded = (BFloat16)value;
            bool right = float.IsNaN(value) ? BFloat16.IsNaN(rounded) : rounded.Bits == Reference(value);
            if (!right) Assert.Fail($"seed {Tables.Seed}: 0x{bits:x8} became 0x{rounded.Bits:x4}");
        }
    }

    [Test]
    public void DoublesRoundOnce()
    {
        var random = new TrialRandom(Tables.Seed + 1);
        for (int i = 0; i < 2_000_000; i++)
        {
            // Around midpoints of bf16, by less than half an ulp of float: what rounding twice gets wrong.
            double middle = (Value((int)(random.Next() % 0x7f80)) is var low && low == 0 ? 0 : low) * (1 + Math.ScaleB(1, -8));
            double value = (i % 3) switch
            {
                0 => BitConverter.UInt64BitsToDouble(random.Next()),
                1 => middle * (1 + Math.ScaleB((double)(int)(random.Next() % 7) - 3, -30 - (int)(random.Next() % 22))),
                _ => BitConverter.UInt64BitsToDouble((random.Next() & 0x8fffffffffffffff) | (0x36UL << 56) + (random.Next() % 9 << 56)),
            };
            var rounded = (BFloat16)value;
            bool right = double.IsNaN(value) ? BFloat16.IsNaN(rounded) : rounded.Bits == Reference(value);
            if (!right) Assert.Fail($"seed {Tables.Seed}: {value:r} became 0x{rounded.Bits:x4}, not 0x{Reference(value):x4}");
        }
    }

    [Test]
    public void RoundingKeepsOrder() => FsCheck.Check.QuickThrowOnFailure(
        Prop.ForAll<float, float>((a, b) => !(a <= b) || (BFloat16)a <= (BFloat16)b));

    [Test]
    public void NaNStaysNaN()
    {
        foreach (uint bits in (uint[])[0x7f800001, 0x7fffffff, 0xff800001, 0xffffffff, 0x7f808000, 0x7fff8000])
            Assert.That(BFloat16.IsNaN((BFloat16)BitConverter.UInt32BitsToSingle(bits)), $"0x{bits:x8}");
        Assert.That(BFloat16.IsNaN((BFloat16)double.NaN));
    }

    [Test]
    public void EqualityIsThatOfNumbers()
    {
        BFloat16 zero = BFloat16.FromBits(0), minus = BFloat16.FromBits(0x8000), nan = BFloat16.FromBits(0x7fc0);
        Assert.That(zero == minus);
        Assert.That(nan != BFloat16.FromBits(0x7fc0));
        Assert.That(nan.Equals(BFloat16.FromBits(0x7fc1)), "equal to itself for the sake of dictionaries");
        Assert.That(zero.GetHashCode() == minus.GetHashCode() || !zero.Equals(minus));
    }
}
