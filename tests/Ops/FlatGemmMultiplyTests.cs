using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Tests;

/// <summary>The product without a plan: what it computes for every type, that w is read where it lies, and what it refuses.</summary>
[TestFixture]
public sealed unsafe class FlatGemmMultiplyTests
{
    private static IEnumerable<FlatGemmCases.Kind> Kinds => FlatGemmCases.Kinds();

    [TestCaseSource(nameof(Kinds))]
    public void AgreesWithTheOracle(object kind)
    {
        foreach (bool strided in (bool[])[false, true])
            foreach (bool gated in (bool[])[false, true])
                foreach (int m in (int[])[1, 5, 66])
                {
                    FlatGemmActivation activation = gated ? FlatGemmActivation.Silu : FlatGemmActivation.GeluTanh;
                    KnGemmFlags flags = KnGemmFlags.Bias | KnGemmFlags.Residual | (gated ? KnGemmFlags.Gated : 0);
                    using var trial = new FlatGemmTrial(FlatGemmCases.Problem((FlatGemmCases.Kind)kind, m, 19, 97, activation, flags), Tables.Seed, strided: strided, inPlace: strided);
                    Multiply(trial);
                    FlatGemmVerdict verdict = trial.Check(m);
                    Assert.That(verdict.Ok, $"{FlatGemmCases.Describe(trial.Problem)}{(strided ? " strided" : "")}, seed {Tables.Seed}: {verdict}");
                }
    }

    private static void Multiply(FlatGemmTrial trial)
    {
        switch ((DType)trial.Problem.XType)
        {
            case DType.Float32: OfX<float>(trial); break;
            case DType.BFloat16: OfX<BFloat16>(trial); break;
            case DType.Float16: OfX<Half>(trial); break;
            default: OfX<sbyte>(trial); break;
        }
    }

    private static void OfX<TX>(FlatGemmTrial trial) where TX : unmanaged
    {
        switch ((DType)trial.Problem.WType)
        {
            case DType.Float32: OfW<TX, float>(trial); break;
            case DType.BFloat16: OfW<TX, BFloat16>(trial); break;
            case DType.Float16: OfW<TX, Half>(trial); break;
            case DType.Int8: OfW<TX, sbyte>(trial); break;
            default: OfW<TX, byte>(trial); break;
        }
    }

    private static void OfW<TX, TW>(FlatGemmTrial trial) where TX : unmanaged where TW : unmanaged
    {
        switch ((DType)trial.Problem.YType)
        {
            case DType.Float32: Multiply<TX, TW, float>(trial); break;
            case DType.BFloat16: Multiply<TX, TW, BFloat16>(trial); break;
            default: Multiply<TX, TW, Half>(trial); break;
        }
    }

    /// <summary>By the short overload where it can say the problem, else by options.</summary>
    private static void Multiply<TX, TW, TY>(FlatGemmTrial trial) where TX : unmanaged where TW : unmanaged where TY : unmanaged
    {
        KnFlatGemmProblem p = trial.Problem;
        KnFlatGemmArgs a = trial.Args;
        var flags = (KnGemmFlags)p.Flags;
        bool gated = (flags & KnGemmFlags.Gated) != 0, u4 = p.WType == (int)DType.UInt4, scaled = u4 || p.WType == (int)DType.Int8;
        int outputs = gated ? 2 * p.N : p.N, width = u4 ? (p.K + 1) / 2 : p.K, groups = u4 ? (p.K + p.Group - 1) / p.Group : 1;
        var x = new ReadOnlySpan2D<TX>(a.X, p.M, p.K, (int)a.Ldx - p.K);
        var w = new ReadOnlySpan2D<TW>(a.W, outputs, width, (int)(u4 ? a.Ldw / 2 : a.Ldw) - width);
        var y = new Span2D<TY>(a.Y, p.M, p.N, (int)a.Ldy - p.N);
        var residual = new ReadOnlySpan2D<TY>(a.Residual, p.M, p.N, (int)a.Ldr - p.N);
        var bias = new ReadOnlySpan<float>(a.Bias, outputs);
        if (!gated && !scaled)
        {
            Kernels.FlatGemm.Multiply(x, w, y, bias, (Activation)p.Activation, residual);
            return;
        }
        var options = new FlatGemmOptions
        {
            N = p.N,
            K = p.K,
            MaxM = p.M,
            Weights = (DType)p.WType,
            Input = (DType)p.XType,
            Output = (DType)p.YType,
            Group = p.Group,
            Activation = (Activation)p.Activation,
            Gated = gated,
            Bias = true,
            Residual = true,
            ZeroPoints = (flags & KnGemmFlags.Zeros) != 0,
            QuantizeInput = (flags & KnGemmFlags.QuantizeX) != 0,
        };
        Kernels.FlatGemm.Multiply(options, x, w, y, bias, residual, new ReadOnlySpan<float>(a.Scales, scaled ? outputs * groups : 0),
            new ReadOnlySpan<byte>(a.Zeros, options.ZeroPoints ? outputs * groups : 0), new ReadOnlySpan<float>(a.XScales, a.XScales == null ? 0 : p.M));
    }

    private static readonly FlatGemmOptions s_int8 = new() { N = 8, K = 16, Weights = DType.Int8, Output = DType.Float32 };

    [Test]
    public void ItAllocatesNothing()
    {
        float[] x = new float[2 * 16], y = new float[2 * 8], w = new float[8 * 16], scales = new float[8];
        var xb = new BFloat16[2 * 16];
        var q = new sbyte[8 * 16];
        void Floats() => Kernels.FlatGemm.Multiply(new ReadOnlySpan2D<float>(x, 2, 16), new ReadOnlySpan2D<float>(w, 8, 16), new Span2D<float>(y, 2, 8));
        void Quantised() => Kernels.FlatGemm.Multiply(s_int8, new ReadOnlySpan2D<BFloat16>(xb, 2, 16), new ReadOnlySpan2D<sbyte>(q, 8, 16), new Span2D<float>(y, 2, 8), scales: scales);
        foreach (Action call in (Action[])[Floats, Quantised])
        {
            for (int i = 0; i < 50; i++) call();
            Assert.That(Allocations.Of(1000, call), Is.Zero);
        }
    }

    /// <summary>The overlap of y with w itself is seen, which no copy of w would have.</summary>
    [Test]
    public void WIsReadWhereItLies()
    {
        float[] x = [.. Enumerable.Repeat(1f, 16)], w = [.. Enumerable.Repeat(1f, 8 * 16)], y = new float[8];
        void Multiply(float[] to) => Kernels.FlatGemm.Multiply(new ReadOnlySpan2D<float>(x, 1, 16), new ReadOnlySpan2D<float>(w, 8, 16), new Span2D<float>(to, 1, 8));
        Multiply(y);
        Assert.That(y, Is.All.EqualTo(16f));
        w[3 * 16] = 5;
        Multiply(y);
        Assert.That(y[3], Is.EqualTo(20f));
        var e = Assert.Throws<KernelsException>(() => Multiply(w))!;
        Assert.That((e.Status, e.Argument), Is.EqualTo((Status.Invalid, "y")));
        Assert.That(w[0], Is.EqualTo(1f));
    }

    [Test]
    public void EmptyProductsAreLegal()
    {
        float[] y = [7, 7, 7, 7], bias = [1, -2];
        Kernels.FlatGemm.Multiply(new ReadOnlySpan2D<float>([], 2, 0), new ReadOnlySpan2D<float>([], 2, 0), new Span2D<float>(y, 2, 2), bias, Activation.Relu);
        Assert.That(y, Is.EqualTo(new[] { 1f, 0, 1, 0 }), "k = 0: what follows the product");
        Kernels.FlatGemm.Multiply(default(ReadOnlySpan2D<float>), new ReadOnlySpan2D<float>([], 3, 0), default(Span2D<float>));
        Kernels.FlatGemm.Multiply(new ReadOnlySpan2D<float>(new float[8], 2, 4), default(ReadOnlySpan2D<float>), default(Span2D<float>));
    }

    [Test]
    public void WrongOperandsAreRefusedByName()
    {
        float[] y = [.. Enumerable.Repeat(7f, 16)];
        void Refused(string argument, string rule, Action call)
        {
            var e = Assert.Throws<KernelsException>(call)!;
            Assert.That(e.Argument, Is.EqualTo(argument), e.Message);
            Assert.That(e.Message, Does.Contain(rule));
            Assert.That(y, Is.All.EqualTo(7f));
        }
        ReadOnlySpan2D<float> X() => new(new float[8], 2, 4);
        ReadOnlySpan2D<float> W(int n = 8, int k = 4) => new(new float[n * k], n, k);
        Span2D<float> Y(int m = 2) => new(y, m, 8);
        Refused("w", "k = 4 columns", () => Kernels.FlatGemm.Multiply(X(), W(4, 8), Y()));
        Refused("y", "shape [2, 8], not [1, 8]", () => Kernels.FlatGemm.Multiply(X(), W(), Y(1)));
        Refused("y", "shape [2, 8], not [0, 0]", () => Kernels.FlatGemm.Multiply(X(), W(), default(Span2D<float>)));
        Refused("bias", "8 values or none", () => Kernels.FlatGemm.Multiply(X(), W(), Y(), new float[7]));
        Refused("residual", "shape [2, 8]", () => Kernels.FlatGemm.Multiply(X(), W(), Y(), residual: new ReadOnlySpan2D<float>(new float[8], 1, 8)));
        Refused("threads", "0 <= threads", () => Kernels.FlatGemm.Multiply(X(), W(), Y(), threads: -1));
        // More than any native row takes: managed alone would run it.
        Refused("threads", "threads <= 1024", () => Kernels.FlatGemm.Multiply(X(), W(), Y(), threads: 1025));
        Refused("activation", "not 9", () => Kernels.FlatGemm.Multiply(X(), W(), Y(), activation: (Activation)9));
        Refused("w", "bf16 x f32 -> f32", () => Kernels.FlatGemm.Multiply(new ReadOnlySpan2D<BFloat16>(new BFloat16[8], 2, 4), W(), Y()));
        Refused("w", "not s8", () => Kernels.FlatGemm.Multiply(X(), new ReadOnlySpan2D<sbyte>(new sbyte[32], 8, 4), Y()));
        var layer = new FlatGemmOptions { N = 8, K = 4, Weights = DType.Float32, Input = DType.Float32, Output = DType.Float32 };
        Refused("scales", "0 values", () => Kernels.FlatGemm.Multiply(layer, X(), W(), Y(), scales: new float[8]));
        Refused("Row", "flat_gemm/nonsense", () => Kernels.FlatGemm.Multiply(layer with { Row = "flat_gemm/nonsense" }, X(), W(), Y()));
        foreach (Row row in KernelTable.Default.Of(KnOp.FlatGemm).Where(r => r.Packs && KernelTable.Default.Runs(r, out _)))
            Refused("Row", "packs it", () => Kernels.FlatGemm.Multiply(layer with { Row = row.Name }, X(), W(), Y()));
    }
}
