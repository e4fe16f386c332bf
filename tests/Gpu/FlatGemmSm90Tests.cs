using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>What the shapes of the common cases leave out of flat_gemm/sm90: every tile, more tiles than blocks, operands without a tensor map.</summary>
[TestFixture]
public sealed unsafe class FlatGemmSm90Tests
{
    private const int N = 150, K = 200, LongK = 840;  // two tiles of columns; 4 stages, and 14, more than any ring has; the last of each partly outside
    private static readonly FlatGemmCases.Kind s_bf16 = new(DType.BFloat16, DType.BFloat16, DType.Float32), s_f16 = new(DType.Float16, DType.Float16, DType.Float16);

    private static FlatGemmSm90 Open(out Device device)
    {
        device = Simulated.Open("simt32");
        var row = (FlatGemmSm90)device.Table.Of(KnOp.FlatGemm).First(r => r.Name == "flat_gemm/sm90");
        return device.Table.Runs(row, out string? lacks) ? row : throw new IgnoreException(lacks!);
    }

    private static KnLaunch Launch(Row row, int rows, int splits)
    {
        KnLaunch launch = row.DefaultLaunch(0);
        (launch.Param[0], launch.Param[2]) = (rows, splits);
        return launch;
    }

    [Test, Combinatorial]
    public void EveryTile([Values(8, 16, 32, 64, 128, 256)] int rows, [Values(1, 2)] int splits, [Values] bool gated, [Values] bool strided)
    {
        FlatGemmSm90 row = Open(out Device device);
        int m = rows + 5, n = gated ? N / 2 : N;
        KnGemmFlags flags = KnGemmFlags.Bias | KnGemmFlags.Residual | (gated ? KnGemmFlags.Gated : 0);
        KnFlatGemmProblem problem = FlatGemmCases.Problem(strided ? s_f16 : s_bf16, m, n, strided ? K : LongK, FlatGemmActivation.Silu, flags);
        // Strides of 207 and 205 elements are no multiples of 16 bytes, so there are no tensor maps.
        using var trial = new FlatGemmTrial(problem, Tables.Seed, strided: strided);
        KnLaunch launch = Launch(row, rows, splits);
        Assert.That(trial.Prepare(row, launch, out _, out string error), error);
        Assert.That(trial.Run(row, launch, m), Is.EqualTo(KnStatus.Ok), row.LastError);
        FlatGemmVerdict verdict = trial.Check(m);
        Assert.That(verdict.Ok, $"{verdict}, seed {Tables.Seed}");
        Assert.That(device.Fault, Is.Null);
    }

    /// <summary>Weights of 8 and 4 bits: s8 by s8, and decoded in registers, of every group; splits of u4 end inside of a stage.</summary>
    [Test, Combinatorial]
    public void EveryTileOfNarrowWeights([Values(8, 16, 32, 64, 128, 256)] int rows, [Values(1, 2)] int splits, [Values] bool gated, [Values] bool strided,
        [Values("s8 s8", "s8 bf16", "u4/32", "u4/64", "u4/128 zeros")] string kind)
    {
        FlatGemmSm90 row = Open(out Device device);
        int m = rows + 5, n = gated ? N / 2 : N;
        KnGemmFlags flags = (gated ? KnGemmFlags.Gated : KnGemmFlags.Bias) | (kind == "s8 s8" ? KnGemmFlags.QuantizeX : 0) | (kind.EndsWith("zeros", StringComparison.Ordinal) ? KnGemmFlags.Zeros : 0);
        bool u4 = kind.StartsWith("u4", StringComparison.Ordinal);
        int group = u4 ? int.Parse(kind.Split('/')[1].Split(' ')[0], null) : 0;
        var types = new FlatGemmCases.Kind(DType.BFloat16, u4 ? DType.UInt4 : DType.Int8, DType.BFloat16, group);
        KnFlatGemmProblem problem = FlatGemmCases.Problem(types, m, n, 736, FlatGemmActivation.Silu, flags);
        using var trial = new FlatGemmTrial(problem, Tables.Seed, strided: strided);
        KnLaunch launch = Launch(row, rows, splits);
        Assert.That(trial.Prepare(row, launch, out _, out string error), error);
        Assert.That(trial.Run(row, launch, m), Is.EqualTo(KnStatus.Ok), row.LastError);
        FlatGemmVerdict verdict = trial.Check(m);
        Assert.That(verdict.Ok, $"{verdict}, seed {Tables.Seed}");
        Assert.That(device.Fault, Is.Null);
    }

    /// <summary>The operands change sides above 64 rows; the chain of a sum does not.</summary>
    [Test]
    public void SameBitsInEveryTile([Values] bool gated)
    {
        FlatGemmSm90 row = Open(out _);
        using var trial = new FlatGemmTrial(FlatGemmCases.Problem(s_bf16, 9, 70, K, gated ? FlatGemmActivation.Silu : FlatGemmActivation.None, gated ? KnGemmFlags.Gated : 0), Tables.Seed);
        byte[][]? first = null;
        foreach (int rows in (int[])[8, 16, 32, 64, 128, 256])
        {
            KnLaunch launch = Launch(row, rows, 1);
            Assert.That(trial.Prepare(row, launch, out _, out string error), error);
            trial.Poison();
            Assert.That(trial.Run(row, launch, 9), Is.EqualTo(KnStatus.Ok), row.LastError);
            byte[][] now = [.. Enumerable.Range(0, 9).Select(i => trial.Output(i).ToArray())];
            first ??= now;
            Assert.That(now, Is.EqualTo(first), $"{rows} rows");
        }
    }

    /// <summary>A view of x that no tensor copy can read, over weights that one can; the same numbers as from x without gaps.</summary>
    [Test]
    public void OnlyWeightsHaveAMap()
    {
        FlatGemmSm90 row = Open(out Device device);
        const int M = 11;
        var layer = new FlatGemmOptions { N = N, K = K, MaxM = M, Weights = DType.BFloat16, Input = DType.BFloat16, Output = DType.Float32, Row = row.Name };
        var random = new Random(5);
        var w = new BFloat16[N, K];
        foreach (ref BFloat16 v in w.AsSpan()) v = (BFloat16)random.Next(-4, 5);
        using Kernels.FlatGemm plan = Kernels.FlatGemm.Create<BFloat16>(layer, w, device: device);
        var x = new BFloat16[M * (K + 1)];
        foreach (ref BFloat16 v in x.AsSpan()) v = (BFloat16)random.Next(-4, 5);
        using Buffer<BFloat16> there = Buffer<BFloat16>.Of(device, x);
        using Buffer<float> y = Buffer<float>.Allocate(device, M * N);
        plan.Run(new TensorView<BFloat16>(there, 0, [M, K], [K + 1, 1]), new TensorView<float>(y, M, N));
        var back = new float[M * N];
        y.CopyTo(back);
        for (int i = 0; i < back.Length; i++)
            Assert.That(back[i], Is.EqualTo(Enumerable.Range(0, K).Sum(k => (float)x[i / N * (K + 1) + k] * (float)w[i % N, k])), $"{i}");
    }

    [Test]
    public void RunAllocatesNothing()
    {
        FlatGemmSm90 row = Open(out Device device);
        KnFlatGemmProblem problem = FlatGemmCases.Problem(s_bf16, 4, 16, 64);
        using Buffer<BFloat16> x = Buffer<BFloat16>.Of(device, new BFloat16[4 * 64]), w = Buffer<BFloat16>.Of(device, new BFloat16[16 * 64]);
        using Buffer<float> y = Buffer<float>.Allocate(device, 4 * 16);
        var args = new KnFlatGemmArgs { Size = (uint)sizeof(KnFlatGemmArgs), M = 4, X = x.Pointer, Ldx = 64, W = w.Pointer, Ldw = 64, Y = y.Pointer, Ldy = 16 };
        KnLaunch launch = row.DefaultLaunch(0);
        Assert.That(row.Run(&problem, launch, &args, 0), Is.EqualTo(KnStatus.Ok), row.LastError);
        KnFlatGemmProblem* at = &problem;
        KnFlatGemmArgs* with = &args;
        Assert.That(Allocations.Of(10, () => row.Run(at, launch, with, 0)), Is.Zero, "tensor maps and the launch");
    }

    [Test]
    public void RefusesWhatItCannotRead()
    {
        FlatGemmSm90 row = Open(out Device device);
        KnFlatGemmProblem problem = FlatGemmCases.Problem(s_bf16, 1, N, 201);
        Assert.That(row.Accepts(&problem, row.DefaultLaunch(0), out string? why), Is.False);
        Assert.That(why, Does.Contain("p.K % 8"));
        Row wide = Simulated.Open("simt64").Table.Of(KnOp.FlatGemm).First(r => r.Name == row.Name);
        Assert.That(((FlatGemmSm90)wide).Lacks, Does.Contain("holds no flat_gemm_sm90"));
    }
}
