using System.Runtime.CompilerServices;

namespace Kernels.Tests.Tensors;

/// <summary>E4M3 by its definition: every pattern, and every tie and its neighbours between two of them.</summary>
[TestFixture]
public sealed unsafe class Float8E4M3Tests
{
    /// <summary>The value by the OCP formula: 2^(e-7) (1 + m/8), subnormal 2^-6 m/8.</summary>
    private static double Formula(int bits)
    {
        int e = bits >> 3 & 15, m = bits & 7;
        double magnitude = (bits & 0x7f) == 0x7f ? double.NaN : e == 0 ? m * Math.Pow(2, -9) : Math.Pow(2, e - 7) * (1 + m / 8.0);
        return (bits & 0x80) != 0 ? -magnitude : magnitude;
    }

    /// <summary>The pattern nearest to |x|, ties to the even one, by search.</summary>
    private static int Nearest(double x)
    {
        int best = 0;
        for (int bits = 1; bits < 0x7f; bits++)
        {
            double gap = Math.Abs(Formula(bits) - Math.Abs(x)), least = Math.Abs(Formula(best) - Math.Abs(x));
            if (gap < least || (gap == least && bits % 2 == 0)) best = bits;
        }
        return best | (double.IsNegative(x) ? 0x80 : 0);
    }

    private static IEnumerable<float> Values()
    {
        for (int bits = 0; bits < 0x7e; bits++)
        {
            float tie = (float)((Formula(bits) + Formula(bits + 1)) / 2), value = (float)Formula(bits);
            foreach (float v in (float[])[value, MathF.BitIncrement(value), tie, MathF.BitDecrement(tie), MathF.BitIncrement(tie)]) yield return v;
        }
        foreach (float v in (float[])[448, 449, 463.99997f, 464, float.Epsilon, 1e-30f]) yield return v;
    }

    [Test]
    public void EveryPatternIsTheValueOfTheFormulaAndComesBack()
    {
        Assert.That(Unsafe.SizeOf<Float8E4M3>(), Is.EqualTo(1));
        Assert.That(DTypes.Of<Float8E4M3>(), Is.EqualTo(DType.Float8E4M3));
        for (int bits = 0; bits < 256; bits++)
        {
            var value = Float8E4M3.FromBits((byte)bits);
            Assert.That((double)(float)value, Is.EqualTo(Formula(bits)));
            Assert.That(Float8E4M3.IsNaN(value), Is.EqualTo(double.IsNaN(Formula(bits))));
            if (double.IsNaN(Formula(bits))) continue;
            Assert.That(((Float8E4M3)(float)value).Bits, Is.EqualTo(bits));
            Assert.That(Float8E4M3.Saturate(value).Bits, Is.EqualTo(bits));
        }
        Assert.That((float)Float8E4M3.MaxValue, Is.EqualTo(448));
    }

    [Test]
    public void RoundsToNearestEven()
    {
        foreach (float v in Values())
            foreach (float x in (float[])[v, -v])
            {
                Assert.That(((Float8E4M3)x).Bits, Is.EqualTo(Nearest(x)), $"{x:r}");
                Assert.That(Float8E4M3.Saturate(x).Bits, Is.EqualTo(Nearest(x)), $"{x:r}");
            }
    }

    [Test]
    public void BeyondTheRangeOneConversionGivesNaNAndTheOtherTheLargest()
    {
        foreach (float x in (float[])[464.00003f, 480, 1e10f, float.MaxValue, float.PositiveInfinity])
        {
            Assert.That(Float8E4M3.IsNaN((Float8E4M3)x) && Float8E4M3.IsNaN((Float8E4M3)(-x)), $"{x:r}");
            Assert.That((float)Float8E4M3.Saturate(x), Is.EqualTo(448));
            Assert.That((float)Float8E4M3.Saturate(-x), Is.EqualTo(-448));
        }
        Assert.That(Float8E4M3.IsNaN((Float8E4M3)float.NaN) && Float8E4M3.IsNaN(Float8E4M3.Saturate(float.NaN)));
    }

    [Test]
    public void OrderAndEqualityAreThoseOfTheNumbers()
    {
        Float8E4M3 zero = (Float8E4M3)0f, minusZero = (Float8E4M3)(-0f), nan = (Float8E4M3)float.NaN, one = (Float8E4M3)1f, alsoOne = Float8E4M3.Saturate(1);
        Assert.That(zero == minusZero && nan != Float8E4M3.FromBits(0x7f) && one > zero && zero < one && one >= alsoOne && one <= alsoOne);
        Assert.That(one.Equals(Float8E4M3.FromBits(0x38)) && one.CompareTo(zero) > 0);
    }

    [Test]
    public void EightAtATimeAreTheSameAsOne()
    {
        float[] values = [.. Values(), .. Values().Select(v => -v), float.NaN, float.PositiveInfinity, float.NegativeInfinity, 1e6f, -1e6f, 65504, 65519.996f, 65520, 6.1e-5f, 6.0e-8f, 3e-8f, 2.98e-8f];
        float* from = stackalloc float[8], back = stackalloc float[8];
        Float8E4M3* narrow = stackalloc Float8E4M3[8];
        Half* half = stackalloc Half[8];
        BFloat16* brain = stackalloc BFloat16[8];
        foreach (float[] part in values.Chunk(8))
        {
            for (int i = 0; i < 8; i++) from[i] = part[i % part.Length];
            FloatRow.Store(FloatRow.Load(from), narrow);
            FloatRow.Store(FloatRow.Load(from), half);
            FloatRow.Store(FloatRow.Load(from), brain);
            FloatRow.Store(FloatRow.Load(narrow), back);
            for (int i = 0; i < 8; i++)
            {
                Assert.That(Float8E4M3.IsNaN(narrow[i]) ? 0x7f : narrow[i].Bits, Is.EqualTo(float.IsNaN(from[i]) ? 0x7f : Float8E4M3.Saturate(from[i]).Bits), $"{from[i]:r}");
                Assert.That((float)half[i], Is.EqualTo((float)(Half)from[i]), $"{from[i]:r}");
                Assert.That((float)brain[i], Is.EqualTo((float)(BFloat16)from[i]), $"{from[i]:r}");
                Assert.That(back[i], Is.EqualTo((float)narrow[i]));
            }
        }
        for (int bits = 0; bits < 1 << 16; bits++)
        {
            for (int i = 0; i < 8; i++) from[i] = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
            FloatRow.Store(FloatRow.Load(from), half);
            Assert.That((float)half[bits % 8], Is.EqualTo(from[0]));
        }
    }
}
