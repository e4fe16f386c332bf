using System.Runtime.InteropServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What Check found. Worst error as a fraction of the tolerance, in ulp of y's dtype, and relative to y; the place of the worst.</summary>
internal readonly record struct FlatGemmVerdict(bool Ok, double Fraction, double Ulp, double Relative, int Row, int Column,
    double Expected, double Actual, string? Fault)
{
    public override string ToString() => Fault
        ?? $"{Fraction:0.###} of the tolerance, {Ulp:0.##} ulp, {Relative:0.##e+0} relative; worst at [{Row}, {Column}]: {Actual:r}, exact {Expected:r}";
}

/// <summary>
/// One problem with random operands, for tests, tuning and timing. Owns all memory of it: strided operands with poisoned gaps,
/// an output between guard bands, workspace as announced, packed weights per layout in `copies` copies for cold rotation.
/// </summary>
internal unsafe partial class FlatGemmTrial : IDisposable
{
    private sealed record Call(Row Row, KnLaunch Launch, GuardedMemory[]? Packed, long PackedBytes, long WorkspaceBytes);

    private readonly List<GuardedMemory> _owned = [];
    private readonly List<Call> _calls = [];
    private readonly Dictionary<string, GuardedMemory[]> _packed = [];
    private protected readonly KnFlatGemmProblem* _problem;
    private readonly GuardedMemory _x, _w, _y;
    private readonly GuardedMemory? _residual;
    private readonly int _copies;
    private readonly int _sampleRows, _most;
    private readonly int[] _columns;  // that the oracle looks at
    private int[] _rows;
    private protected KnFlatGemmArgs _args;
    private GuardedMemory[]? _raw;
    private GuardedMemory _workspace = new(0);
    private Call? _last, _guarded;
    private Expected[]? _expected;

    /// <summary>
    /// exponent: x reaches 2^exponent. inPlace: the residual is y. sampleRows, sampleColumns: how many of them the oracle looks
    /// at, chosen at random; 0 = all.
    /// </summary>
    public FlatGemmTrial(in KnFlatGemmProblem problem, ulong seed, int copies = 1, bool strided = false, int exponent = 0,
        bool inPlace = false, int sampleRows = 0, int sampleColumns = 0)
    {
        Seed = seed;
        (_copies, _sampleRows, _most) = (copies, sampleRows, problem.M);
        _problem = (KnFlatGemmProblem*)Own(sizeof(KnFlatGemmProblem)).At;
        *_problem = problem;
        int k = problem.K, n = problem.N;
        _args = new KnFlatGemmArgs
        {
            Size = (uint)sizeof(KnFlatGemmArgs),
            M = problem.M,
            Ldx = k + (strided ? 7 : 0),
            Ldw = problem.WType == (int)DType.UInt4 ? (k + 1) / 2 * 2 + (strided ? 6 : 0) : k + (strided ? 5 : 0),
            Ldy = n + (strided ? 3 : 0),
            Ldr = n + (strided && !inPlace ? 9 : strided ? 3 : 0),
        };
        int level = Math.ILogB(Math.Max(k, 1)) / 2;  // keeps the sums near the size of x
        _x = Matrix((DType)problem.XType, problem.M, k, _args.Ldx, seed + 1, exponent, Unwritten);
        _w = Matrix((DType)problem.WType, Outputs, k, _args.Ldw, seed + 2, -level, Unwritten);
        _y = Matrix((DType)problem.YType, problem.M, n, _args.Ldy, seed, 0, Gap);
        _args.X = _x.At;
        _args.W = _w.At;
        _args.Y = _y.At;
        if (Has(KnGemmFlags.Residual))
        {
            _residual = Matrix((DType)problem.YType, problem.M, n, _args.Ldr, seed + 3, exponent, Unwritten);
            _args.Residual = inPlace ? _y.At : _residual.At;
        }
        if (Has(KnGemmFlags.Bias)) _args.Bias = Floats(Outputs, seed + 4, -1, 1, exponent);
        if (problem.XType == (int)DType.Int8) _args.XScales = Floats(problem.M, seed + 5, 0.5f, 1, exponent - 7);
        if (problem.WType is (int)DType.Int8 or (int)DType.UInt4)
            _args.Scales = Floats(Outputs * Groups, seed + 6, -0.25f, 1, -level - (problem.WType == (int)DType.Int8 ? 7 : 3));
        if (Has(KnGemmFlags.Zeros)) _args.Zeros = ZeroPoints(Outputs * Groups, seed + 7);
        var random = new TrialRandom(seed + 8);
        _rows = Sample(problem.M, sampleRows, ref random);
        _columns = Sample(n, sampleColumns, ref random);
        Poison();
    }

    public ulong Seed { get; }

    public ref readonly KnFlatGemmProblem Problem => ref *_problem;

    /// <summary>The arguments as they are, without packed weights and workspace.</summary>
    public ref readonly KnFlatGemmArgs Args => ref _args;

    private protected long Outputs => Has(KnGemmFlags.Gated) ? 2L * _problem->N : _problem->N;

    /// <summary>Scales of a row of w.</summary>
    private long Groups => _problem->WType == (int)DType.UInt4 ? ((long)_problem->K + _problem->Group - 1) / _problem->Group : 1;

    private bool Has(KnGemmFlags flag) => (_problem->Flags & (int)flag) != 0;

    /// <summary>
    /// Makes the problem one of at most m rows, as a plan for that many has it. Packed weights stay; calls must be prepared again.
    /// </summary>
    public void Narrow(int m)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(m, _most);
        _problem->M = _args.M = m;
        var random = new TrialRandom(Seed + 9 + (ulong)m);
        _rows = Sample(m, _sampleRows, ref random);
        _expected = null;
        _calls.Clear();
        _last = _guarded = null;
    }

    /// <summary>Packs the weights, once per layout, and makes room for the workspace. False: the row refuses, and error says why.</summary>
    public bool Prepare(Row row, in KnLaunch launch, out KnStatus status, out string error)
    {
        status = KnStatus.Unsupported;
        void* problem = ProblemOf(row);
        if (!row.Accepts(problem, launch, out string? why))
        {
            error = why ?? "no reason given";
            return false;
        }
        status = KnStatus.Ok;
        error = "";
        string? layout = row.Layout(problem);
        long packedBytes = layout is null ? 0 : row.PackedBytes(problem);
        GuardedMemory[]? packed = null;
        if (layout is null) CopyWeights();
        else if (!_packed.TryGetValue(layout, out packed))
        {
            status = Pack(row, packedBytes, out packed);
            if (status != KnStatus.Ok) error = row.LastError;
            if (status != KnStatus.Ok) return false;
            _packed[layout] = packed;
        }
        long bytes = row.Workspace(problem, launch);
        if (_workspace.Bytes < bytes)
        {
            _workspace.Dispose();
            _workspace = new GuardedMemory(bytes);
        }
        _workspace.Fill(0xff);  // NaN: scratch that is read before it is written shows
        _workspace.EndAt(bytes);
        _guarded = Find(row, launch);
        if (_guarded is null) _calls.Add(_guarded = new Call(row, launch, packed, packedBytes, bytes));
        return true;
    }

    /// <summary>Runs a prepared row on the first m rows, with the given copy of the weights. Allocates nothing.</summary>
    public KnStatus Run(Row row, in KnLaunch launch, int m, int copy = 0)
    {
        Call? call = _last is { } last && Is(last, row, launch) ? last : Find(row, launch);
        if (call is null) throw new InvalidOperationException($"{row.Name} is not prepared");
        _last = call;
        KnFlatGemmArgs args = ArgsOf(call, m, copy);
        return row is GpuRow gpu ? RunOnDevice(gpu, launch, args, call) : RunRow(row, launch, args);
    }

    private KnFlatGemmArgs ArgsOf(Call call, int m, int copy)
    {
        KnFlatGemmArgs args = _args;
        args.M = m;
        args.Workspace = _workspace.At;
        args.WorkspaceBytes = call.WorkspaceBytes;
        if (call.Packed is not null)
        {
            args.Packed = call.Packed[copy].At;
            args.PackedBytes = call.PackedBytes;
            args.W = null;  // a row with a layout of its own must not look at these
            args.Scales = null;
            args.Zeros = null;
        }
        else if (copy > 0)
        {
            args.W = _raw![copy - 1].At;
        }
        return args;
    }

    /// <summary>Compares the first m rows of y with the oracle, and everything that a run must not touch with what it was.</summary>
    public FlatGemmVerdict Check(int m)
    {
        string? fault = Touched(m);
        if (fault is not null) return new FlatGemmVerdict(false, 0, 0, 0, 0, 0, 0, 0, fault);
        Expected[] expected = _expected ??= Expect();
        var type = (DType)_problem->YType;
        var worst = new FlatGemmVerdict(true, -1, 0, 0, 0, 0, 0, 0, null);
        double ulp = 0, relative = 0;
        for (int i = 0; i < _rows.Length && _rows[i] < m; i++)
            for (int j = 0; j < _columns.Length; j++)
            {
                ref Expected e = ref expected[i * _columns.Length + j];
                double got = Decode(type, _args.Y, _rows[i] * _args.Ldy + _columns[j]);
                bool agrees = e.Agrees(type, got, out double fraction);
                if (e.Outcome == Outcome.Finite && double.IsFinite(got) && got != e.Value)
                {
                    double difference = Math.Abs(got - e.Value);
                    ulp = Math.Max(ulp, difference / (2 * Rounding.HalfUlp(type, Math.Abs(e.Value))));
                    if (e.Value != 0) relative = Math.Max(relative, difference / Math.Abs(e.Value));
                }
                if (fraction > worst.Fraction || (!agrees && worst.Ok))
                    worst = new FlatGemmVerdict(worst.Ok && agrees, fraction, 0, 0, _rows[i], _columns[j], e.Value, got, null);
            }
        return worst with { Ulp = ulp, Relative = relative };
    }

    /// <summary>The bytes of one row of y.</summary>
    public ReadOnlySpan<byte> Output(int row)
    {
        int bits = ((DType)_problem->YType).Bits();
        return new ReadOnlySpan<byte>(_y.At + row * _args.Ldy * bits / 8, _problem->N * bits / 8);
    }

    public virtual void Dispose()
    {
        foreach (GuardedMemory memory in _owned) memory.Dispose();
        _owned.Clear();
        _workspace.Dispose();
        _there?.Dispose();
    }

    /// <summary>What a row is asked about: a trial of another operation on these operands has a problem of its own.</summary>
    private protected virtual void* ProblemOf(Row row) => _problem;

    /// <summary>With the operands where the row runs; `there` are those of a GPU.</summary>
    private protected virtual KnStatus RunRow(Row row, in KnLaunch launch, KnFlatGemmArgs args, DeviceCopies? there = null, nint stream = 0) => row.Run(_problem, launch, &args, stream);

    private protected virtual KnStatus PackRow(Row row, KnFlatGemmArgs args) => row.Prepack(_problem, &args);

    /// <summary>Whether x counts there; else it is 0.</summary>
    private protected virtual bool Reads(int input) => true;

    /// <summary>Whether the output is computed; else it is 0, and the residual is added.</summary>
    private protected virtual bool Computes(int output) => true;

    private static bool Is(Call call, Row row, in KnLaunch launch)
    {
        KnLaunch stored = call.Launch;
        return ReferenceEquals(call.Row, row) && MemoryMarshal.AsBytes(new ReadOnlySpan<KnLaunch>(in launch))
            .SequenceEqual(MemoryMarshal.AsBytes(new ReadOnlySpan<KnLaunch>(in stored)));
    }

    private Call? Find(Row row, in KnLaunch launch)
    {
        foreach (Call call in _calls)
            if (Is(call, row, launch)) return call;
        return null;
    }

    private protected GuardedMemory Own(long bytes)
    {
        var memory = new GuardedMemory(bytes);
        _owned.Add(memory);
        return memory;
    }
}
