namespace Kernels.Tests.Simt;

/// <summary>Barriers, shuffles, votes, atomics and cooperative grids for waves of 32 and 64, with and without checks.</summary>
[TestFixture]
public sealed class SimtCollectiveTests
{
    [TearDown]
    public void FreeMemory()
    {
        SimtLibrary.Get(check: true).FreeAll();
        SimtLibrary.Get(check: false).FreeAll();
    }

    [Test]
    public void BlockSum([Values(32, 64)] int wave, [Values] bool check, [Values(0u, 3u)] uint order, [Values(1, 64, 96, 1024)] int threads)
    {
        SimtLibrary simt = SimtLibrary.Get(check, wave, order: order);
        int width = (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)threads), blocks = 5, n = blocks * width - width / 3;
        int[] values = [.. Enumerable.Range(0, n).Select(i => i * 7919 % 1000)];
        nint output = simt.Allocate(blocks * 4);
        simt.Run("simt_block_sum", blocks, width, width * 4, new() { In = simt.Upload<int>(values), Out = output, N = n });
        Assert.That(simt.Download<int>(output, blocks), Is.EqualTo(Enumerable.Range(0, blocks).Select(b => values.Skip(b * width).Take(width).Sum())));
    }

    [Test]
    public void Collectives([Values(32, 64)] int wave, [Values] bool check, [Values(0u, 3u)] uint order)
    {
        const int Threads = 128;
        SimtLibrary simt = SimtLibrary.Get(check, wave, order: order);
        int[] v = [.. Enumerable.Range(0, Threads).Select(i => i * 37 % 101)];
        nint output = simt.Allocate(Threads * 9 * 8);
        simt.Run("simt_collectives", 1, Threads, 0, new() { In = simt.Upload<int>(v), Out = output, N = Threads });
        long[] got = simt.Download<long>(output, Threads * 9);
        for (int t = 0; t < Threads; t++)
        {
            int lane = t % wave, first = t - lane;
            int[] mine = v[first..(first + wave)];
            long ballot = mine.Select((x, i) => x % 3 == 0 ? 1L << i : 0).Aggregate((a, b) => a | b);
            int partner = lane % 2 != 0 ? lane ^ 2 : lane % 4 + 2 < 4 ? lane + 2 : lane;
            long[] expected =
            [
                mine[5],
                mine[lane >= 3 ? lane - 3 : lane],
                mine[lane % 8 + 3 < 8 ? lane + 3 : lane],
                mine[lane ^ (wave / 2)],
                ballot,
                (mine.Contains(7) ? 2 : 0) + 1,
                v.Count(x => x % 2 != 0) * 4 + (v.Contains(7) ? 2 : 0) + 1,
                mine[partner],
                mine[lane ^ 1],
            ];
            Assert.That(got[(t * 9)..(t * 9 + 9)], Is.EqualTo(expected), $"thread {t}");
        }
    }

    [Test]
    public void CooperativeGrid([Values(32, 64)] int wave, [Values] bool check, [Values(1, 6, 32)] int blocks)
    {
        SimtLibrary simt = SimtLibrary.Get(check, wave);
        int count = 1 + blocks * 64;
        nint output = simt.Upload<uint>(new uint[count]);
        simt.Run("simt_grid", blocks, 64, 0, new() { Out = output }, cooperative: true);
        Assert.That(simt.Download<uint>(output, count), Is.All.EqualTo((uint)blocks * 64));
    }

    [Test]
    public void Atomics([Values(32, 64)] int wave, [Values] bool check)
    {
        const int Threads = 6 * 64;
        SimtLibrary simt = SimtLibrary.Get(check, wave);
        nint output = simt.Upload<long>(new long[16]);
        simt.Run("simt_atomics", 6, 64, 0, new() { Out = output });
        Assert.That(simt.Download<int>(output, 5), Is.EqualTo(new[] { Threads * (Threads - 1) / 2, Threads - 1, 1 - Threads, int.MaxValue, Threads }));
        Assert.That(simt.Download<float>(output + 32, 1)[0], Is.EqualTo((float)Threads));
        Assert.That(simt.Download<double>(output + 64, 1)[0], Is.EqualTo(Threads * 0.5));
    }

    /// <summary>Producer warps hand 8 pieces to consumer warps by named barriers, one of which waits and one arrives.</summary>
    [Test]
    public void NamedBarriers([Values] bool check, [Values(0u, 3u)] uint order)
    {
        SimtLibrary simt = SimtLibrary.Get(check, order: order);
        nint output = simt.Allocate(8 * 32 * 4);
        simt.Run("simt_named_barriers", 1, 64, 128, new() { Out = output });
        Assert.That(simt.Download<int>(output, 8 * 32), Is.EqualTo(Enumerable.Range(0, 8 * 32).Select(i => i / 32 * 100 + 31 - i % 32)));
    }

    [Test]
    public void SameBitsWhateverTheWorkersAndTheOrder([Values(32, 64)] int wave, [Values] bool check)
    {
        const int Blocks = 9, Threads = 128;
        int[] values = [.. Enumerable.Range(0, Threads * Blocks).Select(i => i % 101)];
        int[][] runs = [.. from workers in new[] { 1, 2, 5 } from order in new[] { 0u, 1u, 99u } select Sums(workers, order)];
        Assert.That(runs, Is.All.EqualTo(runs[0]));

        int[] Sums(int workers, uint order)
        {
            SimtLibrary simt = SimtLibrary.Get(check, wave, workers, order);
            nint output = simt.Allocate(Blocks * 4);
            simt.Run("simt_block_sum", Blocks, Threads, Threads * 4, new() { In = simt.Upload<int>(values), Out = output, N = values.Length });
            return simt.Download<int>(output, Blocks);
        }
    }

    /// <summary>The same fault is named in every run on one worker, thread and text included.</summary>
    [Test]
    public void SameReportInEveryRun()
    {
        SimtLibrary simt = SimtLibrary.Get(check: true, workers: 1);
        string[] texts = [.. Enumerable.Range(0, 4).Select(_ =>
        {
            simt.Launch("simt_fault_race", 4, 64, 256, new() { Out = simt.Allocate(256), Mode = 1 });
            return simt.Faults()[0].Text;
        })];
        Assert.That(texts, Is.All.EqualTo(texts[0]));
    }
}
