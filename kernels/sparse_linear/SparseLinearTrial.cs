using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Where the weights of a trial are not 0.</summary>
internal enum SparsePattern
{
    /// <summary>Anywhere, at the trial's density.</summary>
    Random,
    /// <summary>Random, but whole rows, columns of k and panels are 0.</summary>
    Holes,
    /// <summary>Only one input has weights.</summary>
    OneInput,
    /// <summary>One weight in all.</summary>
    One,
    /// <summary>Every other weight.</summary>
    Alternating,
    /// <summary>Only the last output and the last inputs.</summary>
    Tail,
    /// <summary>None.</summary>
    None,
    /// <summary>All.</summary>
    All,
}

/// <summary>
/// The operands of a flat_gemm trial with weights pruned: its oracle, guard bands and checks hold as they are, for the products
/// are the same. Rows of both operations can be prepared and run, so that they can be timed against each other.
/// </summary>
internal sealed unsafe class SparseLinearTrial : FlatGemmTrial
{
    private readonly KnSparseLinearProblem* _sparse;
    private readonly KnSparseSets _sets;
    private readonly ulong* _outputs, _inputs;
    private bool _counted;

    public SparseLinearTrial(in KnFlatGemmProblem layer, ulong seed, double density = 0.5, SparsePattern pattern = SparsePattern.Random,
        KnSparseSets sets = KnSparseSets.None, (double Outputs, double Inputs)? active = null, int copies = 1, bool strided = false, int exponent = 0, bool inPlace = false, int sampleRows = 0, int sampleColumns = 0)
        : base(layer, seed, copies, strided, exponent, inPlace, sampleRows, sampleColumns)
    {
        Pattern = pattern;
        _sets = sets;
        _sparse = (KnSparseLinearProblem*)Own(sizeof(KnSparseLinearProblem)).At;
        var random = new TrialRandom(seed + 20);
        Prune(density, pattern, ref random);
        // Active parts are whole panels and blocks, spread evenly.
        _outputs = active is { } part ? Set(layer.N, SparsePanels.Lanes, part.Outputs) : Set(layer.N, ref random);
        _inputs = active is not null ? Set(layer.K, SparsePanels.Block, active.Value.Inputs) : Set(layer.K, ref random);
        // What is not active may hold anything; s8 has no NaN.
        if ((sets & KnSparseSets.Inputs) != 0 && layer.XType != (int)DType.Int8)
            for (int r = 0; r < layer.M; r++)
                for (int i = 0; i < layer.K; i++)
                    if (!Reads(i)) SetX(r, i, float.NaN);
    }

    public SparsePattern Pattern { get; }

    /// <summary>The problem of the sparse rows.</summary>
    public KnSparseLinearProblem Sparse
    {
        get
        {
            Count();
            return *_sparse;
        }
    }

    private long WeightBytes => ((DType)_problem->WType).Bits() / 8;

    private void Prune(double density, SparsePattern pattern, ref TrialRandom random)
    {
        int n = (int)Outputs, k = _problem->K;
        for (int r = 0; r < n; r++)
            for (int i = 0; i < k; i++)
            {
                bool kept = pattern switch
                {
                    SparsePattern.Random => (random.Next() >> 40) * (1.0 / (1 << 24)) < density,
                    SparsePattern.Holes => r % 5 != 2 && i % 7 != 3 && r / 16 % 3 != 1 && random.Next() % 4 != 0,
                    SparsePattern.OneInput => i == k / 2,
                    SparsePattern.One => r == n / 2 && i == k - 1,
                    SparsePattern.Alternating => (r + i) % 2 == 0,
                    SparsePattern.Tail => r == n - 1 || i >= k - 3,
                    SparsePattern.All => true,
                    _ => false,
                };
                if (!kept) new Span<byte>((byte*)_args.W + (r * _args.Ldw + i) * WeightBytes, (int)WeightBytes).Clear();
            }
    }

    private void Count()
    {
        if (!_counted)
        {
            long nnz = 0;
            for (long r = 0; r < Outputs; r++)
                for (long i = 0; i < _problem->K; i++)
                    if (new ReadOnlySpan<byte>((byte*)_args.W + (r * _args.Ldw + i) * WeightBytes, (int)WeightBytes).ContainsAnyExcept((byte)0)) nnz++;
            *_sparse = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Sets = (int)_sets, Nnz = nnz };
            _counted = true;
        }
        _sparse->Layer = *_problem;
    }

    /// <summary>Whole words of bits come and go, and single ones too; bits beyond the end are set.</summary>
    private ulong* Set(int count, ref TrialRandom random)
    {
        int words = (count + 63) / 64;
        var set = (ulong*)Own(words * 8L).At;
        for (int i = 0; i < words; i++) set[i] = (random.Next() % 4) switch { 0 => 0, 1 => ~0UL, 2 => 0x00ff00000000ffffUL, _ => random.Next() };
        if (count % 64 != 0) set[words - 1] |= ~0UL << (count % 64);
        return set;
    }

    private ulong* Set(int count, int group, double part)
    {
        var set = (ulong*)Own((count + 63) / 64 * 8L).At;
        new Span<ulong>(set, (count + 63) / 64).Clear();
        for (int j = 0; j < count; j++)
            if (Math.Floor((j / group + 1) * part) > Math.Floor(j / group * part)) set[j / 64] |= 1UL << (j % 64);
        return set;
    }

    private protected override void* ProblemOf(Row row)
    {
        if (row.Op != KnOp.SparseLinear) return base.ProblemOf(row);
        Count();
        return _sparse;
    }

    private KnSparseLinearArgs Wrap(in KnFlatGemmArgs call) => new()
    {
        Size = (uint)sizeof(KnSparseLinearArgs),
        Call = call,
        Outputs = (_sets & KnSparseSets.Outputs) != 0 ? _outputs : null,
        Inputs = (_sets & KnSparseSets.Inputs) != 0 ? _inputs : null,
    };

    private protected override KnStatus RunRow(Row row, in KnLaunch launch, KnFlatGemmArgs args, DeviceCopies? there = null, nint stream = 0)
    {
        if (row.Op != KnOp.SparseLinear) return base.RunRow(row, launch, args, there, stream);
        KnSparseLinearArgs wrapped = Wrap(args);
        if (there is not null)
        {
            wrapped.Outputs = (ulong*)Keep(there, wrapped.Outputs);
            wrapped.Inputs = (ulong*)Keep(there, wrapped.Inputs);
        }
        return row.Run(_sparse, launch, &wrapped, stream);
    }

    private protected override KnStatus PackRow(Row row, KnFlatGemmArgs args)
    {
        if (row.Op != KnOp.SparseLinear) return base.PackRow(row, args);
        KnSparseLinearArgs wrapped = Wrap(args);
        return row.Prepack(_sparse, &wrapped);
    }

    private protected override bool Reads(int input) => (_sets & KnSparseSets.Inputs) == 0 || (_inputs[input >> 6] >> (input & 63) & 1) != 0;

    private protected override bool Computes(int output) => (_sets & KnSparseSets.Outputs) == 0 || (_outputs[output >> 6] >> (output & 63) & 1) != 0;
}
