using System.Collections.Immutable;
using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// spgemm/gpu: hash tables filled by 8 lanes, a wave or a block for each row of C (spgemm_gpu.h), NVIDIA and AMD.
/// Ordered: the bits are those of the CPU's rows, whatever the schedule. ANALYSE waits for the stream, since what it finds wrong is
/// its answer; the other phases only enqueue. Rows of C come out sorted where that is not asked for, too.
/// </summary>
internal sealed unsafe class SpGemmGpu : GpuRow
{
    private const string File = "spgemm_gpu";
    // KN_SPGEMM_GPU_RANGE, _MOST, _MASKED_N, _FAULT_PRODUCTS
    private const int Range = 2048, Most = 1 << 28, MaskedN = 1 << 30, FaultProducts = 256;
    private const int Threads = 256, SmallThreads = 128, Lanes = 8, LongestGrid = 65535, CounterBytes = 256;
    private const int LanesEntries = 64, WaveEntries = 512, BlockEntries = 2048, Staged = 1024, MostRanges = 8192;
    private const long LanesProducts = 1024, MostTableBytes = 256L << 20, MostPartBytes = 64L << 20;

    private enum Step { Count, Fill, Values }

    private readonly GpuKernel _offsets, _columns, _count, _total, _bin, _done;
    private readonly GpuScan _scan;
    private readonly GpuKernel[] _rows;  // [structure f32 f64][lanes wave block device ranges]

    public SpGemmGpu(GpuDriver gpu) : base(gpu, "spgemm/gpu", File, "spgemm_gpu_bin")
    {
        (_offsets, _columns, _count, _total) = (Kernel("spgemm_gpu_offsets"), Kernel("spgemm_gpu_columns"), Kernel("spgemm_gpu_count"), Kernel("spgemm_gpu_total"));
        (_bin, _done, _scan) = (Kernel("spgemm_gpu_bin"), Kernel("spgemm_gpu_done"), new GpuScan(gpu));
        _rows = [.. from value in (string[])["structure", "f32", "f64"] from width in (string[])["lanes", "wave", "block", "device", "ranges"] select Kernel($"spgemm_gpu_{value}_{width}")];
    }

    public override KnOp Op => KnOp.SpGemm;

    public override string? Bits => "ordered";

    /// <summary>
    /// Tables in device memory, for rows that shared memory does not hold; 0: two for each multiprocessor, up to 256 MiB. Of those rows, from how
    /// many products on one is spread over all multiprocessors by ranges of columns, where B is sorted and n at most 2^24.
    /// </summary>
    public override ImmutableArray<RowParameter> Parameters { get; } = [new("tables", [0, 1, 8, 64]), new("giant", [1 << 16, 1 << 14, 1 << 30])];

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        if (problem == null || launch.Size != sizeof(KnLaunch))
        {
            why = problem == null ? "problem != null" : "launch.Size == sizeof(KnLaunch)";
            return false;
        }
        ref readonly KnSpgemmProblem p = ref *(KnSpgemmProblem*)problem;
        if (!SpGemmRules.Valid(p, out why)) return false;
        bool values = Parameters[0].Values.Contains(launch.Param[0]) && Parameters[1].Values.Contains(launch.Param[1]) && !((ReadOnlySpan<int>)launch.Param)[2..].ContainsAnyExcept(0);
        why = !values ? "launch parameters among the values of this row"
            : Math.Max(p.M, p.N) > SpGemmRules.Longest32 ? "p.M < 2^31 && p.N < 2^31"
            : p.Most > Most ? "p.Most <= 2^28"
            : SpGemmRules.Has(p, KnSpgemmFlags.Mask) && p.N >= MaskedN ? "p.N < 2^30 with a mask"
            : null;
        return why is null;
    }

    public override long Workspace(void* problem, in KnLaunch launch) => new Scratch(*(KnSpgemmProblem*)problem, launch, Gpu).Bytes;

    /// <summary>Where things are in the workspace.</summary>
    private readonly struct Scratch
    {
        public readonly long TileSumsAt, ListAt, PartsAt, TablesAt, TableSlots, TableCount, Ranges, Giant, Bytes;

        public Scratch(in KnSpgemmProblem p, in KnLaunch launch, GpuDriver gpu)
        {
            TileSumsAt = CounterBytes;
            ListAt = TileSumsAt + RoundUp(GpuScan.Bytes(p.M), 256);
            PartsAt = TablesAt = ListAt + RoundUp(2 * p.M * sizeof(int), 256);
            Bytes = TablesAt;
            long entries = Math.Min(p.N, SpGemmRules.Has(p, KnSpgemmFlags.Mask) ? 2 * p.Most : p.Most);
            if (entries <= BlockEntries) return;
            Giant = launch.Param[1];
            long ranges = (p.N + Range - 1) / Range, parts = (p.Products / Giant + 1) * ranges * sizeof(uint);
            if (SpGemmRules.Has(p, KnSpgemmFlags.BSorted) && ranges <= MostRanges && p.Most >= Giant && parts <= MostPartBytes)
            {
                Ranges = ranges;
                Bytes = TablesAt += RoundUp(parts, 256);
            }
            TableSlots = (long)BitOperations.RoundUpToPowerOf2((ulong)(2 * entries));
            long one = TableSlots * (sizeof(uint) + ValueBytes(p)), fit = Math.Max(1, MostTableBytes / one);
            TableCount = Math.Min(p.M, launch.Param[0] > 0 ? launch.Param[0] : Math.Min(fit, 2 * Math.Max(1, gpu.Limits.Multiprocessors)));
            Bytes += TableCount * RoundUp(one, 256);
        }
    }

    private static int ValueBytes(in KnSpgemmProblem p) => ((DType)p.Type).Bits() / 8;

    protected override void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        ref readonly KnSpgemmProblem p = ref *(KnSpgemmProblem*)problem;
        ref readonly KnSpgemmArgs a = ref *(KnSpgemmArgs*)args;
        if (a.Phase is (int)KnSpgemmPhase.ScheduleSizes or (int)KnSpgemmPhase.Schedule)
            throw new KernelsException(Status.Unsupported, "phase", "requires none of a schedule, which this row does not keep");
        var scratch = new Scratch(p, launch, Gpu);
        if (!SpGemmRules.Check(p, a, scratch.Bytes, true, out string? argument, out string? rule))
            throw new KernelsException(Status.Invalid, argument!, $"requires {rule}");
        KnSpgemmGpu k = Argument(p, a, scratch);
        switch ((KnSpgemmPhase)a.Phase)
        {
            case KnSpgemmPhase.Analyse:
                Analyse(p, k, stream);
                break;
            case KnSpgemmPhase.Numeric:
                if (SpGemmRules.HasValues(p)) Rows(p, k, Step.Values, stream);
                break;
            default:
                Rows(p, k, Step.Count, stream);
                _scan.Run(a.COffsets, a.RowTo - a.RowFrom, k.TileSums, stream);
                if (a.Phase == (int)KnSpgemmPhase.Symbolic) break;
                _done.Launch(new GpuGrid(1, 1, 1, 1), stream, k);
                Rows(p, k, Step.Fill, stream);
                break;
        }
    }

    private static KnSpgemmGpu Argument(in KnSpgemmProblem p, in KnSpgemmArgs a, in Scratch scratch)
    {
        byte* workspace = (byte*)a.Workspace;
        return new KnSpgemmGpu
        {
            A = a.A,
            B = a.B,
            Mask = SpGemmRules.Has(p, KnSpgemmFlags.Mask) ? a.Mask : default,
            D = SpGemmRules.Has(p, KnSpgemmFlags.Accumulate) ? a.D : default,
            Products = a.Products,
            Most = a.Most,
            COffsets = a.COffsets,
            CColumns = a.CColumns,
            CValues = a.CValues,
            RowsDone = a.RowsDone,
            TileSums = (long*)(workspace + scratch.TileSumsAt),
            Counters = (uint*)workspace,
            List = (int*)(workspace + scratch.ListAt),
            Parts = (uint*)(workspace + scratch.PartsAt),
            Tables = workspace + scratch.TablesAt,
            CCapacity = a.CCapacity,
            TableSlots = scratch.TableSlots,
            TableCount = scratch.TableCount,
            Ranges = scratch.Ranges,
            Giant = scratch.Giant,
            RowFrom = a.RowFrom,
            RowTo = a.RowTo,
            M = p.M,
            K = p.K,
            N = p.N,
            ANnz = p.ANnz,
            BNnz = p.BNnz,
            Semiring = p.Semiring,
            Flags = p.Flags,
            MaskBytes = SpGemmRules.Has(p, KnSpgemmFlags.Valued) ? ValueBytes(p) : 0,
            IndexBytes = p.IndexBytes,
        };
    }

    /// <summary>Blocks that take an element a thread, as many as a device keeps busy.</summary>
    private GpuGrid Some(long elements, int threads = Threads)
    {
        long wanted = Math.Max(1, (elements + threads - 1) / threads), full = 32L * Math.Max(1, Gpu.Limits.Multiprocessors);
        return new GpuGrid((int)Math.Min(Math.Min(wanted, full), LongestGrid), 1, 1, threads);
    }

    private static GpuGrid All(long elements) => new((int)Math.Max(1, (elements + Threads - 1) / Threads), 1, 1, Threads);

    private void Analyse(in KnSpgemmProblem p, in KnSpgemmGpu k, nint stream)
    {
        Gpu.Fill((nint)k.Counters, 0, 4 * sizeof(uint), stream);
        Gpu.Fill((nint)k.Most, 0, sizeof(long), stream);
        _offsets.Launch(Some(Math.Max(p.M, p.K)), stream, k);
        _columns.Launch(Some(Math.Max(p.ANnz, p.BNnz)), stream, k);
        _count.Launch(All(p.M), stream, k);
        _scan.Run(k.Products, p.M, k.TileSums, stream);
        _total.Launch(Some(p.M), stream, k);
        uint faults = 0;
        Gpu.Copy(GpuCopy.ToHost, (nint)(&faults), (nint)k.Counters, sizeof(uint), stream);
        Gpu.Synchronize(stream);
        if (faults == 0) return;
        int operand = BitOperations.TrailingZeroCount(faults) % 4;
        if ((faults & (FaultProducts - 1)) == 0) throw new KernelsException(Status.Invalid, "products", "requires products[m] <= 2^60");
        throw new KernelsException(Status.Invalid, ((string[])["a", "b", "mask", "d"])[operand],
            $"requires {((faults & 15) != 0 ? "ascending offsets" : operand == 0 ? "0 <= column < k" : "0 <= column < n")}");
    }

    /// <summary>All rows, width by width; a width that no row can need is not launched.</summary>
    private void Rows(in KnSpgemmProblem p, in KnSpgemmGpu args, Step step, nint stream)
    {
        long rows = args.RowTo - args.RowFrom;
        if (rows == 0) return;
        KnSpgemmGpu k = args;
        k.Step = (int)step;
        // Values are found by bisection there.
        if (step == Step.Values && SpGemmRules.Has(p, KnSpgemmFlags.Unsorted)) k.Ranges = 0;
        int bytes = step == Step.Count ? 0 : ValueBytes(p), kind = bytes / 4 * 5;
        int waves = SmallThreads / Gpu.Limits.WaveSize, groups = SmallThreads / Lanes;
        _rows[kind].Launch(Some(rows * Lanes, SmallThreads) with { SharedBytes = groups * TableBytes(LanesEntries, bytes) }, stream, k);
        long most = SpGemmRules.Has(p, KnSpgemmFlags.Mask) ? 2 * p.Most : p.Most, entries = Math.Min(p.N, most);
        if (entries <= LanesEntries && most <= LanesProducts) return;
        Gpu.Fill((nint)k.Counters, 0, 5 * sizeof(uint), stream);
        _bin.Launch(All(rows), stream, k);
        _rows[kind + 1].Launch(Some(rows * Gpu.Limits.WaveSize, SmallThreads) with { SharedBytes = waves * TableBytes(WaveEntries, bytes) }, stream, k);
        _rows[kind + 2].Launch(Some(rows * Threads) with { SharedBytes = TableBytes(BlockEntries, bytes) }, stream, k);
        if (k.Ranges > 0)
            _rows[kind + 4].Launch(Some(k.Ranges * Math.Min(rows, p.Products / k.Giant) * Threads) with { SharedBytes = RangeBytes(bytes) }, stream, k);
        if (entries > BlockEntries)
            _rows[kind + 3].Launch(new GpuGrid((int)Math.Min(rows, k.TableCount), 1, 1, Threads, SharedBytes: TableBytes(0, 0)), stream, k);
    }

    /// <summary>
    /// Seconds of sizes and product: an entry of B for every product, counted twice and filled once, over the bandwidth; and for rows that shared
    /// memory does not hold, which take turns at the tables or have the whole device, what a block's accesses to memory cost. How many those are is
    /// not known: as many as the products give rows like the longest.
    /// </summary>
    public double Seconds(in KnSpgemmProblem p, in KnLaunch launch)
    {
        const double Launch = 2.5e-6, UnknownRate = 500e9, Launches = 20, InTable = 5e-9;
        double rate = Gpu.Limits.MemoryRate > 0 ? 0.8 * Gpu.Limits.MemoryRate : UnknownRate;
        double seconds = Launches * Launch + p.Products * (3.0 * p.IndexBytes + ValueBytes(p)) / rate;
        var scratch = new Scratch(p, launch, Gpu);
        if (scratch.TableCount == 0) return seconds;
        double turns = Math.Ceiling(Math.Clamp(p.Products / Math.Max(1, p.Most), 1, p.M) / (double)scratch.TableCount);
        long blocks = Math.Max(1, Math.Min(scratch.Ranges, Gpu.Limits.Multiprocessors));
        return seconds + turns * p.Most * InTable / blocks;
    }

    /// <summary>Of a table in shared memory, half full at most: keys and sums, the list of columns, its length.</summary>
    private static int TableBytes(int entries, int valueBytes) => 2 * entries * (sizeof(uint) + valueBytes) + entries * sizeof(uint) + 16;

    /// <summary>Of a range: where rows of B begin and end, a sum and a state for each column, staged products.</summary>
    private static int RangeBytes(int valueBytes) => 2 * Threads * sizeof(long) + (Range + Staged) * (sizeof(uint) + valueBytes);
}
