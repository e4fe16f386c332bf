using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>What the common cases leave out of decode_attention/sm90: every kernel, every way that a cache lies, tiles that are partly of a split.</summary>
[TestFixture]
public sealed unsafe class DecodeAttentionSm90Tests
{
    private const KnAttentionFlags Fixed = KnAttentionFlags.Phi | KnAttentionFlags.Norms;
    private static readonly DecodeAttentionCases.Kind s_bf16 = new(DType.BFloat16, DType.BFloat16, DType.Float32), s_f16 = new(DType.Float16, DType.Float16, DType.Float16);

    private static DecodeAttentionSm90 Open(out Device device)
    {
        device = Simulated.Open("simt32");
        var row = (DecodeAttentionSm90)device.Table.Of(KnOp.DecodeAttention).First(r => r.Name == "decode_attention/sm90");
        return device.Table.Runs(row, out string? lacks) ? row : throw new IgnoreException(lacks!);
    }

    private static KnLaunch Launch(Row row, KnSoftmax softmax, int split)
    {
        KnLaunch launch = row.DefaultLaunch(0);
        (launch.Param[0], launch.Param[1]) = ((int)softmax, split);
        return launch;
    }

    private static void Holds(DecodeAttentionSm90 row, Device device, in KnDecodeAttentionProblem problem, DecodeAttentionData data, KnSoftmax softmax, int split = 64)
    {
        using var trial = new DecodeAttentionTrial(problem, data);
        KnLaunch launch = Launch(row, softmax, split);
        Assert.That(trial.Prepare(row, launch, out string error), error);
        Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
        DecodeAttentionVerdict verdict = trial.Check();
        Assert.That(verdict.Ok, $"{verdict}, seed {Tables.Seed}");
        Assert.That(device.Fault, Is.Null);
    }

    /// <summary>Tiles of 8, 16 and 32 rows, more rows than a tile has, by heads of every length that there are kernels for; more tiles than slots.</summary>
    [Test, Combinatorial]
    public void EveryKernel([Values(7, 13, 27, 40)] int heads, [Values(64, 128, 256)] int dim, [Values] bool f16, [Values(64, 1 << 28)] int split)
    {
        DecodeAttentionSm90 row = Open(out Device device);
        KnDecodeAttentionProblem problem = DecodeAttentionCases.Problem(f16 ? s_f16 : s_bf16, 1, 1, heads, 1, dim, dim, dim == 64 ? 540 : 290, 16, flags: Fixed);
        foreach (KnSoftmax softmax in f16 ? (KnSoftmax[])[KnSoftmax.Lazy] : [KnSoftmax.Sync, KnSoftmax.Bounded])
            Holds(row, device, problem, new DecodeAttentionData(Tables.Seed), softmax, split);
    }

    /// <summary>Pages of every size that it takes, in both orders of token and head, with and without a map; windows that begin inside of a tile and of a page.</summary>
    [Test, Combinatorial]
    public void EveryCache([Values(0, 8, 16, 32, 64, 128)] int page, [Values] bool headMajor, [Values] bool strided, [Values(0, 70)] int window, [Values(1, 2)] int kvHeads)
    {
        DecodeAttentionSm90 row = Open(out Device device);
        KnDecodeAttentionProblem problem = DecodeAttentionCases.Problem(s_bf16, 3, 2, kvHeads * 3, kvHeads, 72, 40, 203, page, window);
        Holds(row, device, problem, new DecodeAttentionData(Tables.Seed) { HeadMajor = headMajor, Strided = strided }, KnSoftmax.Lazy);
    }

    /// <summary>What the window leaves out may be anything, in the pages that it shares with what is seen as well.</summary>
    [Test]
    public void KeysBeforeTheWindowAreNotRead([Values(0, 16, 128)] int page)
    {
        DecodeAttentionSm90 row = Open(out _);
        const int Length = 200, Window = 70, Dim = 64;
        using var trial = new DecodeAttentionTrial(DecodeAttentionCases.Problem(s_bf16, 1, 1, 4, 1, Dim, Dim, Length, page, Window), new DecodeAttentionData(Tables.Seed));
        KnLaunch launch = Launch(row, KnSoftmax.Sync, 64);
        Assert.That(trial.Prepare(row, launch, out string error), error);
        for (int key = 0; key < Length - Window; key++)
        {
            long at = page == 0 ? 0 : trial.Args.Pages[key / page], token = page == 0 ? key : key % page;
            new Span<ushort>((ushort*)trial.Args.K + at * trial.Args.KPage + token * trial.Args.KToken, Dim).Fill(0x7fff);
            new Span<ushort>((ushort*)trial.Args.V + at * trial.Args.VPage + token * trial.Args.VToken, Dim).Fill(0x7fff);
        }
        Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
        DecodeAttentionVerdict verdict = trial.Check();
        Assert.That(verdict.Ok, verdict.ToString());
    }

    /// <summary>A cache without pages may end with its last key, although longer sequences may come.</summary>
    [Test]
    public void NothingIsReadBeyondTheLastKey([Values(1, 203)] int length)
    {
        DecodeAttentionSm90 row = Open(out Device device);
        Holds(row, device, DecodeAttentionCases.Problem(s_bf16, 1, 1, 4, 1, 64, 64, 500, 0), new DecodeAttentionData(Tables.Seed) { KvLens = [length], QLens = [1] }, KnSoftmax.Lazy);
    }

    /// <summary>The tile of rows follows from the most new tokens, and the bits do not follow from it.</summary>
    [Test]
    public void SameBitsInEveryTile([Values(1, 2, 3, 4)] int softmax)
    {
        DecodeAttentionSm90 row = Open(out _);
        byte[]? first = null;
        foreach (int qLen in (int[])[1, 2, 4, 16])
        {
            var data = new DecodeAttentionData(Tables.Seed) { KvLens = [150], QLens = [1], Content = [5] };
            using var trial = new DecodeAttentionTrial(DecodeAttentionCases.Problem(s_bf16, 1, qLen, 7, 1, 64, 64, 150, 16, flags: Fixed), data);
            KnLaunch launch = Launch(row, (KnSoftmax)softmax, 64);
            Assert.That(trial.Prepare(row, launch, out string error), error);
            Assert.That(trial.Run(row, launch), Is.EqualTo(KnStatus.Ok), row.LastError);
            byte[] bits = [.. Enumerable.Range(0, 7).SelectMany(h => trial.Output(0, h).ToArray())];
            first ??= bits;
            Assert.That(bits, Is.EqualTo(first), $"{qLen} new tokens at most");
        }
    }

    [Test]
    public void MapsAreOfPagesAndHeads()
    {
        KnDecodeAttentionProblem paged = DecodeAttentionCases.Problem(s_bf16, 2, 1, 8, 2, 72, 72, 100, 16), whole = paged with { PageSize = 0 };
        Assert.Multiple(() =>
        {
            // [page, token, head, element], [page, head, token, element], and no pages.
            Assert.That(Map(paged, 16 * 2 * 72, 2 * 72, 72), Is.EqualTo((KnCacheMap.TokensThird, (72L, 9 * 32 + 2L, 16L), 32, 1)));
            Assert.That(Map(paged, 16 * 2 * 72, 72, 16 * 72), Is.EqualTo((KnCacheMap.TokensSecond, (72L, 16L, 9 * 2 + 2L), 2, 1)));
            Assert.That(Map(whole, 100 * 2 * 72, 2 * 72, 72), Is.EqualTo((KnCacheMap.TokensThird, (72L, 9 * 200 + 2L, 100L), 200, 1)));
            // No multiples of 16 bytes; strides of which none divides the other; more steps than a coordinate has.
            Assert.That(Map(paged, (16 * 2 * 72) + 3, 2 * 72, 72), Is.Null);
            Assert.That(Map(paged, 16 * 2 * 72, 3 * 72, 2 * 72), Is.Null);
            Assert.That(Map(paged, 1L << 36, 2 * 72, 8), Is.Null);
        });

        static (KnCacheMap, (long, long, long), int, int)? Map(in KnDecodeAttentionProblem p, long page, long token, long head)
        {
            var cache = new KnDecodeAttentionCache { At = (void*)4096, Page = page, Token = token, Head = head, Dims = 72 };
            return DecodeAttentionSm90.Tensor(ref cache, p, 10, 16) is { } tensor ? (cache.Mapped, tensor.Shape, cache.PageStep, cache.HeadStep) : null;
        }
    }

    [Test]
    public void RunAllocatesNothing()
    {
        DecodeAttentionSm90 row = Open(out Device device);
        KnDecodeAttentionProblem problem = DecodeAttentionCases.Problem(s_bf16, 1, 1, 1, 1, 8, 8, 20, 0);
        using Buffer<BFloat16> cache = Buffer<BFloat16>.Of(device, new BFloat16[20 * 8]);
        using Buffer<float> result = Buffer<float>.Allocate(device, 8);
        using Buffer<int> lengths = Buffer<int>.Of(device, [20]);
        var args = new KnDecodeAttentionArgs { Size = (uint)sizeof(KnDecodeAttentionArgs), Batch = 1, KvLens = (int*)lengths.Pointer, PageCount = 1, Q = cache.Pointer, K = cache.Pointer, V = cache.Pointer, Out = result.Pointer, Scale = 1 };
        (args.QToken, args.QHead, args.KPage, args.KToken, args.KHead, args.VPage, args.VToken, args.VHead, args.OutToken, args.OutHead) = (8, 8, 160, 8, 8, 160, 8, 8, 8, 8);
        KnLaunch launch = row.DefaultLaunch(0);
        Assert.That(row.Run(&problem, launch, &args, 0), Is.EqualTo(KnStatus.Ok), row.LastError);
        KnDecodeAttentionProblem* at = &problem;
        KnDecodeAttentionArgs* with = &args;
        Assert.That(Allocations.Of(10, () => row.Run(at, launch, with, 0)), Is.Zero, "tensor maps and the launch");
    }

    [Test]
    public void RefusesWhatItCannotRead()
    {
        DecodeAttentionSm90 row = Open(out _);
        KnDecodeAttentionProblem sound = DecodeAttentionCases.Problem(s_bf16, 1, 1, 4, 1, 64, 64, 100, 16, flags: Fixed);
        Assert.Multiple(() =>
        {
            Assert.That(Why(sound, KnSoftmax.Unified), Is.Null);
            Assert.That(Why(sound with { PageSize = 24 }, KnSoftmax.Lazy), Does.Contain("pages of 8, 16, 32"));
            Assert.That(Why(sound with { KvType = (int)DType.Float8E4M3 }, KnSoftmax.Lazy), Does.Contain("all bf16"));
            Assert.That(Why(sound with { VHeadDim = 264 }, KnSoftmax.Lazy), Does.Contain("256"));
            Assert.That(Why(DecodeAttentionCases.Problem(s_f16, 1, 1, 4, 1, 64, 64, 100, 16, flags: Fixed), KnSoftmax.Unified), Does.Contain("sync or lazy"));
        });
        Row wide = Simulated.Open("simt64").Table.Of(KnOp.DecodeAttention).First(r => r.Name == row.Name);
        Assert.That(((DecodeAttentionSm90)wide).Lacks, Does.Contain("holds no decode_attention_sm90"));

        string? Why(KnDecodeAttentionProblem p, KnSoftmax softmax)
        {
            row.Accepts(&p, Launch(row, softmax, 64), out string? why);
            return why;
        }
    }
}
