using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>One call of flat_gemm/managed: what its tasks share. Lies on the caller's stack.</summary>
internal unsafe struct FlatGemmManagedPlan
{
    /// <summary>
    /// Elements of k per f32 partial sum. At most 2^10 products of s8 by s8, each at most 2^14, so their sum in f32 is exact in
    /// any order; and four rows of x in f32 and four of w in bf16 of this length stay in L1.
    /// </summary>
    public const int BlockK = 1024;

    /// <summary>k is padded to this in a copy of x: two of the widest vectors.</summary>
    private const int PadK = 32;

    private const int MaxRows = 96, MaxColumns = 64;

    /// <summary>Four rows of w as f32, behind the totals of a worker.</summary>
    public const int WideBytes = 4 * BlockK * sizeof(float);

    /// <summary>From this many rows on, weights are widened once for all of them instead of once for every two or four.</summary>
    public static int WidenFrom(int weights) => (DType)weights switch { DType.Float16 or DType.UInt4 => 3, DType.Int8 => 24, _ => int.MaxValue };

    /// <summary>Elements of x in a task that leave L2 room for weights: 256 KB of f32.</summary>
    public const long WholeRowsUpTo = 65536;

    public KnFlatGemmProblem* Problem;
    public KnFlatGemmArgs* Args;
    public float* X;        // [m, Ldx] f32; s8 values as they are
    public long Ldx;
    public float* XScales;  // of quantised or given s8 x; null where x is not s8
    public byte* Scratch;
    public long ScratchBytes;
    public long BlockM, BlockN, MTasks, NTasks;
    public bool InPlace, Quantize, Gated, Split;
    public ulong* Outputs;  // null, or a bit per column: those whose bit is clear are 0

    public static bool Integer(in KnFlatGemmProblem p) =>
        p.XType == (int)DType.Int8 || (p.Flags & (int)KnGemmFlags.QuantizeX) != 0;

    private static long RoundUp(long value, long step) => (value + step - 1) / step * step;

    /// <summary>Whether weights lie several in a word: tiles of dense rows then want x in the order in which they come out.</summary>
    public static bool Interleaves(in KnFlatGemmProblem p) => (DType)p.WType is DType.BFloat16 or DType.Float16 or DType.UInt4;

    public static long XBytes(in KnFlatGemmProblem p, long m, bool split, out bool inPlace)
    {
        bool quantize = (p.Flags & (int)KnGemmFlags.QuantizeX) != 0;
        inPlace = p.XType == (int)DType.Float32 && !quantize && !split && p.K % PadK == 0;
        return (inPlace ? 0 : RoundUp(m * RoundUp(p.K, PadK) * 4, 64)) + (quantize ? RoundUp(m * 4, 64) : 0);
    }

    private static long ScratchOf(in KnFlatGemmProblem p, long m) => WideBytes
        + Math.Min(m, MaxRows) * MaxColumns * sizeof(double) * ((p.Flags & (int)KnGemmFlags.Gated) != 0 ? 2 : 1);

    public static long Workspace(in KnFlatGemmProblem p, int threads) =>
        p.M == 0 || p.N == 0 ? 0 : XBytes(p, p.M, Interleaves(p), out _) + ManagedPool.Workers(threads) * ScratchOf(p, p.M);

    /// <summary><paramref name="split"/>: x by even and odd elements of every two vectors.</summary>
    public FlatGemmManagedPlan(KnFlatGemmProblem* problem, KnFlatGemmArgs* args, int threads, bool split)
    {
        Split = split;
        Problem = problem;
        Args = args;
        long m = args->M, n = problem->N;
        Gated = (problem->Flags & (int)KnGemmFlags.Gated) != 0;
        Quantize = (problem->Flags & (int)KnGemmFlags.QuantizeX) != 0;
        Scratch = (byte*)args->Workspace + XBytes(*problem, m, split, out InPlace);
        ScratchBytes = ScratchOf(*problem, m);
        X = InPlace ? (float*)args->X : (float*)args->Workspace;
        Ldx = InPlace ? args->Ldx : RoundUp(problem->K, PadK);
        XScales = Quantize ? (float*)(Scratch - RoundUp(m * 4, 64)) : problem->XType == (int)DType.Int8 ? args->XScales : null;
        BlockM = Math.Min(m, MaxRows);
        MTasks = (m + BlockM - 1) / BlockM;
        // Eight tasks a thread even out unequal cores; wide tasks read x fewer times.
        long wanted = 8L * ManagedPool.Workers(threads);
        BlockN = Math.Clamp(RoundUp(n * MTasks / wanted, 4), 4, MaxColumns);
        NTasks = (n + BlockN - 1) / BlockN;
    }

    /// <summary>Task of the pool: one row of x as f32, padded with zeros. Width: elements per vector.</summary>
    public static void PrepareRow<L, V>(void* context, long row, int worker) where L : struct, ILanes<V> where V : struct
    {
        ref readonly FlatGemmManagedPlan plan = ref *(FlatGemmManagedPlan*)context;
        ref readonly KnFlatGemmProblem p = ref *plan.Problem;
        float* to = plan.X + row * plan.Ldx;
        var type = (DType)p.XType;
        byte* from = (byte*)plan.Args->X + row * plan.Args->Ldx * type.Bits() / 8;
        if (plan.Split)
        {
            WidenSplit<L, V>(type, from, p.K, to, plan.Ldx);
            return;
        }
        Widening.Row<L, V>(type, from, p.K, to);
        new Span<float>(to + p.K, (int)(plan.Ldx - p.K)).Clear();
        if (plan.Quantize) QuantizeRow(to, p.K, out plan.XScales[row]);
    }

    // In every step of two vectors the even elements, then the odd ones: the order in which weights come out of words.
    private static void WidenSplit<L, V>(DType type, byte* from, long k, float* to, long padded) where L : struct, ILanes<V> where V : struct
    {
        int count = L.Count, step = 2 * count;
        long whole = type == DType.Float32 ? 0 : k / step * step;
        for (long i = 0; i < whole; i += step)
        {
            ushort* pairs = (ushort*)from + i;
            L.Store(type == DType.BFloat16 ? L.BFloat16Even(pairs) : L.HalfEven(pairs), to + i);
            L.Store(type == DType.BFloat16 ? L.BFloat16Odd(pairs) : L.HalfOdd(pairs), to + i + count);
        }
        for (long i = whole; i < padded; i += step)
            for (int j = 0; j < step; j++)
                to[i + j / 2 + j % 2 * count] = i + j < k ? Read(type, from, i + j) : 0;
    }

    /// <summary>
    /// quantize_row of flat_gemm_quantize.h: round_to_even(x * 127 / max|x|) and its inverse. A row holding NaN or infinity gets
    /// the scale NaN, so that it spoils its own outputs and no others.
    /// </summary>
    private static void QuantizeRow(float* x, long k, out float scale)
    {
        float peak = 0, poison = 0;
        for (long i = 0; i < k; i++)
        {
            peak = Math.Max(peak, Math.Abs(x[i]));
            poison += x[i] * 0f;
        }
        if (float.IsNaN(poison))
        {
            new Span<float>(x, (int)k).Clear();
            scale = float.NaN;
            return;
        }
        // 127 / peak overflows for a row of denormals; the largest float still keeps it exact enough to round.
        float up = peak > 0 ? Math.Min(127f / peak, float.MaxValue) : 0;
        scale = up > 0 ? 1f / up : 0;
        for (long i = 0; i < k; i++) x[i] = Math.Clamp(MathF.Round(x[i] * up), -128f, 127f);
    }

    /// <summary>The totals of `rows` by `columns` elements (ld apart; those of up behind those of the gate) to y.</summary>
    public readonly void WriteOut(double* totals, long ld, long upAt, long row0, long rows, long column0, long columns)
    {
        ref readonly KnFlatGemmProblem p = ref *Problem;
        var activation = (FlatGemmActivation)p.Activation;
        var type = (DType)p.YType;
        bool residual = (p.Flags & (int)KnGemmFlags.Residual) != 0;
        for (long r = 0; r < rows; r++)
        {
            long row = row0 + r;
            for (long j = 0; j < columns; j++)
            {
                long column = column0 + j;
                float z = FlatGemmActivations.Apply(activation, Finish(totals[r * ld + j], row, column));
                if (Gated) z *= Finish(totals[upAt + r * ld + j], row, p.N + column);
                if (Outputs != null && (Outputs[column >> 6] >> (int)(column & 63) & 1) == 0) z = 0;
                if (residual) z += Read(type, Args->Residual, row * Args->Ldr + column);
                Write(type, Args->Y, row * Args->Ldy + column, z);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private readonly float Finish(double total, long row, long column)
    {
        float z = (float)total;
        if (XScales != null) z *= XScales[row];
        if (Problem->WType == (int)DType.Int8 && Problem->K > 0) z *= Args->Scales[column];
        return (Problem->Flags & (int)KnGemmFlags.Bias) != 0 ? z + Args->Bias[column] : z;
    }

    private static float Read(DType type, void* at, long i) => type switch
    {
        DType.Float32 => ((float*)at)[i],
        DType.BFloat16 => ((BFloat16*)at)[i],
        _ => (float)((Half*)at)[i],
    };

    private static void Write(DType type, void* at, long i, float value)
    {
        if (type == DType.Float32) ((float*)at)[i] = value;
        else if (type == DType.BFloat16) ((BFloat16*)at)[i] = (BFloat16)value;
        else ((Half*)at)[i] = (Half)value;
    }
}
