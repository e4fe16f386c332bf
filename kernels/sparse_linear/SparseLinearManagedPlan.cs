using Kernels.Interop.Native;

namespace Kernels;

/// <summary>One call of sparse_linear/managed: what its tasks share. Lies on the caller's stack.</summary>
internal unsafe struct SparseLinearManagedPlan
{
    public const int MaxRows = 64;

    /// <summary>
    /// With more rows than this a block is expanded once for all of them. Expanding bf16 anew for every four rows costs less than a store and loads
    /// (0.9 of it at 8 rows, 0.85 at 16), other types more.
    /// </summary>
    public static int ExpandFrom(int weights) => weights == (int)DType.BFloat16 ? 16 : 4;

    /// <summary>A block of one panel as f32 [64][16].</summary>
    public const long WideBytes = SparsePanels.Block * SparsePanels.Lanes * sizeof(float);

    /// <summary>
    /// Blocks whose products are one chain in f32 before it is added to a sum in f64: 256 products of s8 by s8, each at most 2^14, are exact in it.
    /// </summary>
    public const int Chain = 4;

    public const long SumsBytes = MaxRows * SparsePanels.Lanes * sizeof(float);

    /// <summary>A block as f32, sums of chains, totals [2][64][16] in f64.</summary>
    public const long ScratchBytes = WideBytes + SumsBytes + 2 * MaxRows * SparsePanels.Lanes * sizeof(double);

    public FlatGemmManagedPlan Flat;
    public SparsePanels At;
    public ulong* Inputs;
    public long MTasks;
    public byte* Table;  // of SparseTables, for the weights' dtype

    private static long RoundUp(long value) => (value + 63) / 64 * 64;

    private static long ScalesBytes(in KnSparseLinearProblem p) =>
        p.Layer.WType == (int)DType.Int8 ? RoundUp(new SparsePanels(p).Count * SparsePanels.Lanes * 4) : 0;

    private static long KeptBytes(in KnSparseLinearProblem p, long m) =>
        (p.Sets & (int)KnSparseSets.Inputs) != 0 ? RoundUp(m * p.Layer.K * ((DType)p.Layer.XType).Bits() / 8) : 0;

    public static long Workspace(in KnSparseLinearProblem p, int threads) => p.Layer.M == 0 || p.Layer.N == 0 ? 0
        : FlatGemmManagedPlan.XBytes(p.Layer, p.Layer.M, false, out _) + ManagedPool.Workers(threads) * ScratchBytes + ScalesBytes(p) + KeptBytes(p, p.Layer.M);

    /// <summary><paramref name="call"/>: a copy of the call's arguments, which this changes and keeps.</summary>
    public SparseLinearManagedPlan(KnSparseLinearProblem* p, KnSparseLinearArgs* a, KnFlatGemmArgs* call, int threads)
    {
        At = new SparsePanels(*p);
        Inputs = (p->Sets & (int)KnSparseSets.Inputs) != 0 ? a->Inputs : null;
        Flat = new FlatGemmManagedPlan(&p->Layer, call, threads, false);
        byte* scales = Flat.Scratch + ManagedPool.Workers(threads) * ScratchBytes, kept = scales + ScalesBytes(*p);
        if (p->Layer.WType == (int)DType.Int8)
        {
            call->Scales = (float*)scales;
            for (long panel = 0; panel < At.Count; panel++)
                for (int lane = 0; lane < SparsePanels.Lanes; lane++)
                    if (At.SourceRow(p->Layer.N, panel, lane) is >= 0 and var row)
                        call->Scales[row] = ((float*)((byte*)call->Packed + At.ScalesAt))[panel * SparsePanels.Lanes + lane];
        }
        if (Inputs != null) KeepActive(*p, call, kept);
        if (Flat.InPlace)
        {
            Flat.X = (float*)call->X;
            Flat.Ldx = call->Ldx;
        }
        Flat.Outputs = (p->Sets & (int)KnSparseSets.Outputs) != 0 ? a->Outputs : null;
        MTasks = (call->M + MaxRows - 1L) / MaxRows;
    }

    /// <summary>Lets the call read a copy of x with zeros for inputs that are not active.</summary>
    private readonly void KeepActive(in KnSparseLinearProblem p, KnFlatGemmArgs* call, byte* kept)
    {
        int bytes = ((DType)p.Layer.XType).Bits() / 8, k = p.Layer.K;
        for (long r = 0; r < call->M; r++)
            for (long i = 0; i < k; i++)
                for (int b = 0; b < bytes; b++)
                    kept[(r * k + i) * bytes + b] = Active(Inputs, i) ? ((byte*)call->X)[(r * call->Ldx + i) * bytes + b] : (byte)0;
        call->X = kept;
        call->Ldx = k;
    }

    private static bool Active(ulong* set, long i) => (set[i >> 6] >> (int)(i & 63) & 1) != 0;

    /// <summary>Whether any of these outputs is active.</summary>
    public readonly bool Computes(long column, long count)
    {
        if (Flat.Outputs == null) return true;
        for (long i = 0; i < count; i++)
            if (Active(Flat.Outputs, column + i)) return true;
        return false;
    }

    /// <summary>Whether any input of a block is active.</summary>
    public readonly bool Reads(long block)
    {
        if (Inputs == null) return true;
        long left = Flat.Problem->K - block * SparsePanels.Block;
        return left > 0 && (Inputs[block] & (left >= 64 ? ~0UL : (1UL << (int)left) - 1)) != 0;
    }
}
