// One decode step of a layer's attention as an engine would call it: a paged cache, new tokens appended to their sequences,
// grouped query heads, and a system prompt that all sequences share, attended once for all of them and merged by log-sum-exp; then the
// same step on the first GPU, or on the simulated one, as a captured graph (OnGpu.cs).
//   dotnet run -c Release --project samples/Decode [batch] [kv_len] [prefix]
using System.Diagnostics;
using CommunityToolkit.HighPerformance;
using Kernels;

int batch = args.Length > 0 ? int.Parse(args[0]) : 8, kvLen = args.Length > 1 ? int.Parse(args[1]) : 1024, prefix = args.Length > 2 ? int.Parse(args[2]) : 2048;
const int QHeads = 32, KvHeads = 8, Dim = 128, PageSize = 16;
var random = new Random(1);
BFloat16[] Random(int count) => [.. Enumerable.Range(0, count).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))];

// Pages are handed out in any order; sequence b owns the ids in its row of the table.
int columns = (kvLen + PageSize - 1) / PageSize;
int[] ids = [.. Enumerable.Range(0, batch * columns)];
random.Shuffle(ids);
var pages = new int[batch, columns];
for (int i = 0; i < ids.Length; i++) pages[i / columns, i % columns] = ids[i];
using KvCache<BFloat16> cache = KvCache<BFloat16>.Allocate(ids.Length, PageSize, KvHeads, Dim, keyNorms: true);

// The first tokens of every sequence, then one new token each. kvLens counts the new tokens too, here and in Run.
int[] lengths = [.. Enumerable.Range(0, batch).Select(b => kvLen - 1 - b % Math.Min(kvLen, 5))];
int[] start = [0, .. lengths.Select((_, b) => lengths[..(b + 1)].Sum())];
cache.Append<BFloat16>(Random(start[^1] * KvHeads * Dim), Random(start[^1] * KvHeads * Dim), lengths, pages, start);
for (int b = 0; b < batch; b++) lengths[b]++;
BFloat16[] q = Random(batch * QHeads * Dim);
BFloat16[] newK = Random(batch * KvHeads * Dim), newV = Random(batch * KvHeads * Dim);
cache.Append<BFloat16>(newK, newV, lengths, pages);
Console.WriteLine($"on {Device.Cpu}");

var layer = new DecodeAttentionOptions { QHeads = QHeads, KvHeads = KvHeads, HeadDim = Dim, MaxBatch = batch, MaxKvLen = kvLen, PageSize = PageSize, Output = DType.Float32 };
using DecodeAttention own = DecodeAttention.Create(layer with { KeyNorms = true });
var output = new float[batch * QHeads * Dim];
var lse = new LogSumExp[batch * QHeads];
own.Run<BFloat16, BFloat16, float>(q, cache, lengths, pages, output, lse);
Report("each its own", own, () => own.Run<BFloat16, BFloat16, float>(q, cache, lengths, pages, output, lse), 2.0 * lengths.Sum() * KvHeads * Dim * 2);

OnGpu.Step(layer with { KeyNorms = true }, cache, newK, newV, q, lengths, pages, output);

// The shared prefix is one contiguous sequence. Its queries are those of all sequences, up to 16 as the new tokens of one call.
using KvCache<BFloat16> shared = KvCache<BFloat16>.Allocate(1, prefix, KvHeads, Dim);
shared.Append<BFloat16>(Random(prefix * KvHeads * Dim), Random(prefix * KvHeads * Dim), [prefix], default);
using DecodeAttention common = DecodeAttention.Create(layer with { MaxBatch = 1, MaxQLen = 16, MaxKvLen = prefix, PageSize = 0, Mask = AttentionMask.Full });
var prefixOutput = new float[output.Length];
var prefixLse = new LogSumExp[lse.Length];
void Shared()
{
    for (int b = 0; b < batch; b += 16)
    {
        int count = Math.Min(16, batch - b), from = b * QHeads, to = (b + count) * QHeads;
        common.Run<BFloat16, BFloat16, float>(q.AsSpan(from * Dim, (to - from) * Dim), shared, [prefix], default,
            prefixOutput.AsSpan(from * Dim, (to - from) * Dim), prefixLse.AsSpan(from, to - from));
    }
}
Shared();
Report("shared prefix", common, Shared, 2.0 * prefix * KvHeads * Dim * 2 * ((batch + 15) / 16));

DecodeAttention.MergeInto<float>(prefixOutput, prefixLse, output, lse);
Console.WriteLine($"merged: head 0 of sequence 0 has lse {lse[0]:0.000}, output {string.Join(' ', output.Take(4).Select(v => v.ToString("0.0000")))} ...");

static void Report(string name, DecodeAttention plan, Action step, double bytes)
{
    foreach (DecodeAttentionChoice c in plan.Choices)
        Console.WriteLine($"{name}, kv_len {c.KvFrom}..{c.KvTo}: {c.Dataflow} ({c.Softmax}, splits of {c.Split}; {c.Source}: {c.Reason})");
    for (int i = 0; i < 5; i++) step();
    const int Steps = 20;
    long start = Stopwatch.GetTimestamp();
    for (int i = 0; i < Steps; i++) step();
    double ms = Stopwatch.GetElapsedTime(start).TotalMilliseconds / Steps;
    Console.WriteLine($"{name}: {ms:0.000} ms, {bytes / ms / 1e6:0.0} GB/s of keys and values, {plan.RecomputedRows} rows done again");
}
