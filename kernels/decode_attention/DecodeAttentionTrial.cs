using System.Runtime.InteropServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// What Check found: the worst error as a fraction of its tolerance and where; the largest error of out and that of the plain
/// low-precision reference, both absolute; the largest error of lse, in nats.
/// </summary>
internal readonly record struct DecodeAttentionVerdict(bool Ok, double Fraction, double Error, double Plain, double LseError, string Worst, string? Fault)
{
    /// <summary>The error as a fraction of twice that of the plain reference and the spread of f32: at most 1.</summary>
    public double OfTwicePlain { get; init; }

    public override string ToString() => Fault
        ?? $"{Fraction:0.###} of the tolerance, error {Error:0.##e+0}, plain reference {Plain:0.##e+0}, lse {LseError:0.##e+0}; worst at {Worst}";
}

/// <summary>
/// One problem with random operands, for tests, tuning and timing. Owns all memory of it: pages in random order, NaN wherever no
/// token may look, out and lse between guard bands, workspace as announced, keys and values in `Copies` copies for cold rotation.
/// </summary>
internal sealed unsafe partial class DecodeAttentionTrial : IDisposable
{
    private readonly List<GuardedMemory> _owned = [];
    private readonly KnDecodeAttentionProblem* _problem;
    private readonly int[] _kvLens, _qLens;
    private readonly long[] _firstToken;
    private readonly (GuardedMemory K, GuardedMemory V)[] _cache;
    private readonly GuardedMemory _out, _lse, _recomputed;
    private KnDecodeAttentionArgs _args;
    private GuardedMemory _workspace = new(0);
    private (Row Row, KnLaunch Launch, long Bytes)? _prepared;
    private Rows? _expected;

    public DecodeAttentionTrial(in KnDecodeAttentionProblem problem, DecodeAttentionData data)
    {
        Data = data;
        _problem = (KnDecodeAttentionProblem*)Own(sizeof(KnDecodeAttentionProblem)).At;
        *_problem = problem;
        var random = new TrialRandom(data.Seed + 1);
        _kvLens = data.KvLens ?? Lengths(problem, ref random);
        _qLens = data.QLens ?? TokenCounts(problem, data, ref random);
        _firstToken = new long[_qLens.Length + 1];
        for (int b = 0; b < _qLens.Length; b++) _firstToken[b + 1] = _firstToken[b] + _qLens[b];
        _args = new KnDecodeAttentionArgs { Size = (uint)sizeof(KnDecodeAttentionArgs), Batch = _qLens.Length, QLen = data.NoStarts ? _qLens.DefaultIfEmpty().Max() : 0 };
        LayOut(ref random);
        _cache = new (GuardedMemory, GuardedMemory)[data.Copies];
        _cache[0] = (Own(CacheBytes(_args.KPage, _args.KToken, _args.KHead, problem.HeadDim), 0xff), Own(CacheBytes(_args.VPage, _args.VToken, _args.VHead, problem.VHeadDim), 0xff));
        _args.K = _cache[0].K.At;
        _args.V = _cache[0].V.At;
        FillHeads();
        for (int b = 0; b < _qLens.Length; b++) FillSequence(b);
        FillNorms();
        for (int i = 1; i < data.Copies; i++) _cache[i] = (CopyOf(_cache[0].K), CopyOf(_cache[0].V));
        var type = (DType)problem.OutType;
        _out = Own(Tokens == 0 ? 0 : ((Tokens - 1) * _args.OutToken + (problem.QHeads - 1) * _args.OutHead + problem.VHeadDim) * type.Bits() / 8);
        _lse = Own(Tokens == 0 ? 0 : ((Tokens - 1) * _args.LseToken + problem.QHeads) * 4);
        _recomputed = Own(8);
        _args.Out = _out.At;
        _args.Lse = data.NoLse ? null : (float*)_lse.At;
        _args.Recomputed = (long*)_recomputed.At;
        Poison();
    }

    public DecodeAttentionData Data { get; }

    public ref readonly KnDecodeAttentionProblem Problem => ref *_problem;

    public KnDecodeAttentionProblem* ProblemAt => _problem;

    /// <summary>The arguments as they are, without a workspace. What they point to may be changed before the first Check.</summary>
    public ref KnDecodeAttentionArgs Args => ref _args;

    public ReadOnlySpan<int> KvLens => _kvLens;

    public ReadOnlySpan<int> QLens => _qLens;

    public long Tokens => _firstToken[^1];

    public long FirstToken(int sequence) => _firstToken[sequence];

    /// <summary>Bytes of one copy of k and v.</summary>
    public long KvBytes => _cache[0].K.Bytes + _cache[0].V.Bytes;

    /// <summary>Bytes of k, v and their scales that the visible keys hold: what a call has to read.</summary>
    public long BytesRead { get; private set; }

    /// <summary>Rows done again by sync since the last Poison.</summary>
    public long Recomputed => *_args.Recomputed;

    private bool Has(KnAttentionFlags flag) => (_problem->Flags & (int)flag) != 0;

    /// <summary>Makes room for the workspace, filled with NaN. False: the row refuses, and error says why.</summary>
    public bool Prepare(Row row, in KnLaunch launch, out string error)
    {
        bool accepts = row.Accepts(_problem, launch, out string? why);
        error = accepts ? "" : why ?? "no reason given";
        if (!accepts) return false;
        long bytes = row.Workspace(_problem, launch);
        if (_workspace.Bytes < bytes)
        {
            _workspace.Dispose();
            _workspace = new GuardedMemory(bytes);
        }
        _workspace.Fill(0xff);
        _workspace.EndAt(bytes);
        _prepared = (row, launch, bytes);
        return true;
    }

    /// <summary>Runs the prepared row with the given copy of the keys and values. Allocates nothing.</summary>
    public KnStatus Run(Row row, in KnLaunch launch, int copy = 0)
    {
        if (_prepared is not { } prepared || !ReferenceEquals(prepared.Row, row)) throw new InvalidOperationException($"{row.Name} is not prepared");
        KnDecodeAttentionArgs args = Call(copy);
        return row is GpuRow gpu ? RunOnDevice(gpu, launch, args) : row.Run(_problem, launch, &args);
    }

    /// <summary>Runs a row that was prepared, maybe before others were, with all the workspace there is: candidates take turns.</summary>
    public KnStatus Turn(Row row, in KnLaunch launch, int copy)
    {
        KnDecodeAttentionArgs args = Call(copy) with { WorkspaceBytes = _workspace.Bytes };
        return row.Run(_problem, launch, &args);
    }

    /// <summary>The arguments of a call as it was prepared.</summary>
    public KnDecodeAttentionArgs Call(int copy = 0) => _args with
    {
        K = _cache[copy].K.At,
        V = _cache[copy].V.At,
        Workspace = _workspace.At,
        WorkspaceBytes = _prepared!.Value.Bytes,
    };

    /// <summary>Makes out and lse NaN, marks the gaps and clears the counter: what a run must overwrite or leave.</summary>
    public void Poison()
    {
        _out.Fill(Gap);
        _lse.Fill(Gap);
        for (long t = 0; t < Tokens; t++)
            for (int h = 0; h < _problem->QHeads; h++)
            {
                OutputAt(t, h).Fill(Unwritten);
                if (_args.Lse != null) _args.Lse[t * _args.LseToken + h] = float.NaN;
            }
        *_args.Recomputed = 0;
    }

    /// <summary>Whether out, lse, the counter and the workspace are as Poison and Prepare left them.</summary>
    public bool Untouched()
    {
        for (long t = 0; t < Tokens; t++)
            for (int h = 0; h < _problem->QHeads; h++)
                if (Output(t, h).IndexOfAnyExcept(Unwritten) >= 0 || (_args.Lse != null && !float.IsNaN(Lse(t, h)))) return false;
        return Recomputed == 0 && new ReadOnlySpan<byte>(_workspace.At, (int)_prepared!.Value.Bytes).IndexOfAnyExcept(Unwritten) < 0 && Touched() is null;
    }

    /// <summary>The bytes of one row of out.</summary>
    public ReadOnlySpan<byte> Output(long token, int head) => OutputAt(token, head);

    /// <summary>One element of out.</summary>
    public double Value(long token, int head, int d) => Decode((DType)_problem->OutType, _args.Out, token * _args.OutToken + head * _args.OutHead + d);

    public float Lse(long token, int head) => _args.Lse[token * _args.LseToken + head];

    /// <summary>What one row must be; sampled rows only, see <see cref="DecodeAttentionData.SampleRows"/>.</summary>
    public Rows Expect() => _expected ??= ExpectRows();

    /// <summary>Compares with the oracle, by each tolerance and by the plain reference, and what a run must not touch with what it was.</summary>
    public DecodeAttentionVerdict Check()
    {
        string? fault = Touched();
        if (fault is not null) return new(false, 0, 0, 0, 0, "", fault);
        Rows rows = Expect();
        var type = (DType)_problem->OutType;
        bool ok = true;
        double worst = -1, error = 0, lseError = 0;
        string at = "";
        foreach (RowExpected row in rows.Each)
        {
            for (int d = 0; d <= _problem->VHeadDim; d++)
            {
                bool lse = d == _problem->VHeadDim;
                if (lse && _args.Lse == null) continue;
                ref readonly Expected e = ref lse ? ref row.Lse : ref row.Out[d];
                double got = lse ? Lse(row.Token, row.Head) : Value(row.Token, row.Head, d);
                bool agrees = lse && double.IsNegativeInfinity(e.Value) && e.Outcome == Outcome.Finite
                    ? Exactly(got, e.Value, out double fraction) : e.Agrees(lse ? DType.Float32 : type, got, out fraction);
                if (e.Outcome == Outcome.Finite && double.IsFinite(got) && lse) lseError = Math.Max(lseError, Math.Abs(got - e.Value));
                else if (e.Outcome == Outcome.Finite && double.IsFinite(got)) error = Math.Max(error, Math.Abs(got - e.Value));
                if (fraction > worst || (!agrees && ok))
                    (worst, at) = (fraction, $"[{row.Token}, {row.Head}, {(lse ? "lse" : d)}]: {got:r}, exact {e.Value:r}{(e.Outcome == Outcome.Finite ? "" : $" ({e.Outcome})")}");
                ok &= agrees;
            }
        }
        double twice = 2 * rows.PlainError + rows.Spread;
        if (ok && error > twice)
            fault = $"error {error:0.###e+0} is more than twice that of the plain reference ({rows.PlainError:0.###e+0}) and the spread of f32 ({rows.Spread:0.###e+0})";
        return new DecodeAttentionVerdict(ok && fault is null, worst, error, rows.PlainError, lseError, at, fault) { OfTwicePlain = error == 0 ? 0 : error / twice };
    }

    public void Dispose()
    {
        foreach (GuardedMemory memory in _owned) memory.Dispose();
        _owned.Clear();
        _workspace.Dispose();
        _there?.Dispose();
    }

    private static bool Exactly(double got, double expected, out double fraction)
    {
        fraction = got == expected ? 0 : double.PositiveInfinity;
        return got == expected;
    }

    private GuardedMemory Own(long bytes, byte pattern = Gap)
    {
        var memory = new GuardedMemory(bytes, pattern);
        _owned.Add(memory);
        return memory;
    }

    private GuardedMemory CopyOf(GuardedMemory memory)
    {
        GuardedMemory copy = Own(memory.Bytes, 0xff);
        System.Buffer.MemoryCopy(memory.At, copy.At, memory.Bytes, memory.Bytes);
        return copy;
    }

    private Span<byte> OutputAt(long token, int head)
    {
        int bits = ((DType)_problem->OutType).Bits();
        return new Span<byte>(_out.At + (token * _args.OutToken + head * _args.OutHead) * bits / 8, _problem->VHeadDim * bits / 8);
    }

    /// <summary>The first thing that the last run touched and must not have, or null.</summary>
    private string? Touched()
    {
        if (!_out.Untouched(_out.Bytes) || !_lse.Untouched(_lse.Bytes)) return "out or lse was written outside of its ends";
        foreach (GuardedMemory memory in _owned)
            if (!memory.Untouched(memory.Bytes)) return "an operand was written outside of its ends";
        if (_prepared is { } prepared && !_workspace.Untouched(prepared.Bytes)) return $"the workspace was written outside of its {prepared.Bytes} bytes";
        byte[] rest = new ReadOnlySpan<byte>(_out.At, (int)Math.Min(_out.Bytes, 64 << 20)).ToArray();
        byte[] lse = new ReadOnlySpan<byte>(_lse.At, (int)_lse.Bytes).ToArray();
        int bits = ((DType)_problem->OutType).Bits();
        for (long t = 0; t < Tokens; t++)
        {
            for (int h = 0; h < _problem->QHeads; h++)
            {
                long at = (t * _args.OutToken + h * _args.OutHead) * bits / 8;
                if (at + _problem->VHeadDim * bits / 8 <= rest.Length) rest.AsSpan((int)at, _problem->VHeadDim * bits / 8).Fill(Gap);
            }
            if (_args.Lse != null) lse.AsSpan((int)(t * _args.LseToken * 4), _problem->QHeads * 4).Fill(Gap);
        }
        return rest.AsSpan().IndexOfAnyExcept(Gap) >= 0 ? "out was written between its rows"
            : lse.AsSpan().IndexOfAnyExcept(Gap) >= 0 ? "lse was written between its rows" : null;
    }
}
