using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// The closed-form cost of decode attention: bytes of the cache over bandwidth against multiply-adds and exponentials over the
/// rates of a row, whichever is longer, stretched by the unevenness of tasks over threads, plus the combine of the splits and
/// what a call costs. Rates are those of a server core at 3 GHz; their ratios order rows, splits and softmaxes of one machine.
/// </summary>
internal static class DecodeAttentionModel
{
    private const double CallSeconds = 1e-6, TaskSeconds = 3e-7, CacheRate = 30e9;

    /// <summary>Memory's time where a task leaves out heads of a token, so that the lines it reads are no run. An estimate.</summary>
    private const double Strided = 1.5;

    /// <summary>Bytes a second from memory: a core alone cannot draw what the socket has.</summary>
    private static double MemoryRate(int threads) => Math.Min(14e9 * threads, 250e9);

    /// <summary>
    /// Operations a second of one core. AMX works on 16 packed rows (tokens times heads of a group) whether they are there or not: for
    /// 64 keys of 128 elements 512 cycles of products, within some 2200 for all that loads, pairs, turns and stores tiles.
    /// </summary>
    private static double Rate(Row row, int packed, DType kv) => row.Target switch
    {
        "amx" => 0.7e12 * packed / (Math.Ceiling(packed / 16.0) * 16),
        // A key that several rows share is decoded once for them. By way of f16 that is most of the work.
        "avx512" when kv == DType.Float8E4M3 => 50e9 * Math.Min(1, 0.4 + 0.2 * packed),
        "avx512" or "avx512bf16" => (kv == DType.Float32 ? 120e9 : 90e9) * Math.Min(1, 0.4 + 0.2 * packed),
        // With AVX2 and FMA at 3 GHz; a row alone waits for its chains of sums. Of a busy machine, so rather low.
        _ => 33e9 * Math.Min(1, 0.4 + 0.2 * packed),
    };

    /// <summary>Seconds of one score on one core beside the products: exp, and what the reference costs.</summary>
    private static double Score(Row row, in KnLaunch launch, in KnDecodeAttentionProblem p)
    {
        double exp = row.Target == "managed" ? 1e-9 : 0.25e-9;
        return exp * (KnSoftmax)row.Value(launch, DecodeAttentionSelection.Softmax) switch
        {
            KnSoftmax.Sync => 1.3,
            KnSoftmax.Lazy => 1.15,
            // By norms alone: they may be loose, and rows then done again. Only a measurement takes it.
            KnSoftmax.Bounded when p.Softcap is 0 or > DecodeAttentionRules.ProvenSoftcap => 2,
            _ => 1,
        };
    }

    /// <summary>Keys of a split of equal sequences: the launch's, or fewer where the row cuts by cost.</summary>
    private static double Keys(Row row, in KnLaunch launch, in KnDecodeAttentionProblem p, double seen, int threads)
    {
        int split = row.Value(launch, DecodeAttentionSelection.Split), heads = Math.Clamp(row.Value(launch, DecodeAttentionSelection.Heads), 1, p.KvHeads);
        if (!DecodeAttentionManagedPlan.CutsByCost(p, threads)) return split;
        double most = p.Batch * seen * p.KvHeads / (heads * DecodeAttentionManagedPlan.Shares * threads);
        return Math.Min(split, Math.Max(DecodeAttentionManagedPlan.Shortest, Math.Ceiling(most / DecodeAttentionManagedPlan.Block) * DecodeAttentionManagedPlan.Block));
    }

    /// <summary>Tasks of a call, as the row cuts them, and whether each reads all heads of a token.</summary>
    private static (double Tasks, bool Together) Tasks(in KnDecodeAttentionProblem p, double splits, int heads, int threads)
    {
        if (heads <= 0) return (Math.Max(1, splits * p.KvHeads), true);
        heads = Math.Min(heads, p.KvHeads);
        while (heads > 1 && splits * Math.Ceiling((double)p.KvHeads / heads) < threads) heads = (heads + 1) / 2;
        return (Math.Max(1, splits * Math.Ceiling((double)p.KvHeads / heads)), heads == p.KvHeads);
    }

    /// <summary>Seconds of one call in which every sequence has kv_len tokens and q_len new ones.</summary>
    public static double Seconds(Row row, in KnLaunch launch, in KnDecodeAttentionProblem p, Device device)
    {
        if (row is DecodeAttentionGpu gpu) return gpu.Seconds(p, launch);
        int threads = Math.Max(1, Math.Min(launch.Threads == 0 ? device.Threads : launch.Threads, device.Threads));
        double seen = p.Window > 0 ? Math.Min(p.KvLen, p.Window + p.QLen - 1.0) : p.KvLen;
        double heads = (double)p.Batch * p.KvHeads, rows = (double)p.Batch * p.QHeads * p.QLen;
        int packed = p.QHeads / p.KvHeads * p.QLen, split = row.Value(launch, DecodeAttentionSelection.Split);
        double splits = split <= 0 ? 1 : Math.Max(1, Math.Ceiling(seen / Keys(row, launch, p, seen, threads)));
        (double tasks, bool together) = Tasks(p, p.Batch * splits, row.Value(launch, DecodeAttentionSelection.Heads), threads);
        double scales = ((KnAttentionFlags)p.Flags & KnAttentionFlags.Scales) != 0 ? 8 : 0;
        double bytes = heads * seen * ((p.HeadDim + p.VHeadDim) * ((DType)p.KvType).Bits() / 8.0 + scales);
        // A tile takes one line of each of its keys, where vectors read a key from end to end: no gain for a single row. Not measured.
        double memory = bytes / MemoryRate(threads) * (row.Target == "amx" ? 1.05 : 1) * (together ? 1 : Strided);
        double compute = rows * seen * (2.0 * (p.HeadDim + p.VHeadDim) / Rate(row, packed, (DType)p.KvType) + Score(row, launch, p)) / threads;
        // The last wave of tasks leaves some threads without work.
        double uneven = Math.Ceiling(tasks / threads) * threads / tasks;
        double combine = splits <= 1 ? 0 : rows * splits * ((p.VHeadDim + 2) * 8 / CacheRate + 2e-9) / threads;
        return (Math.Max(memory, compute) + 0.1 * Math.Min(memory, compute)) * uneven + combine + CallSeconds + TaskSeconds * tasks / threads;
    }
}
