using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// One case with random values, for tests: operands in memory of its own, outputs between guard bands. Runs the phases one by one
/// and says what is wrong with what came out.
/// </summary>
internal sealed unsafe partial class SpGemmTrial : IDisposable
{
    private readonly List<GuardedMemory> _owned = [];
    private readonly SpGemmOperand _a, _b;
    private readonly SpGemmOperand? _d;
    private readonly SparseStructure? _mask, _counted;
    private readonly KnSpgemmProblem* _problem;
    private readonly int _valueBytes;
    private KnSpgemmArgs _args;
    private GuardedMemory _offsets = new(0), _columns = new(0), _values = new(0), _workspace = new(0);
    private SpGemmExpectedRow[]? _expected;

    public SpGemmTrial(SpGemmCase c, ulong seed)
    {
        Case = c;
        _valueBytes = c.Type.Bits() / 8;
        _problem = (KnSpgemmProblem*)Own(sizeof(KnSpgemmProblem)).At;
        *_problem = c.Problem;
        var random = new TrialRandom(seed);
        _a = new SpGemmOperand(c.A, Draw(c.A.NonZeros, ref random));
        _b = ReferenceEquals(c.A, c.B) ? new SpGemmOperand(c.B, _a.Values) : new SpGemmOperand(c.B, Draw(c.B.NonZeros, ref random));
        _args = new KnSpgemmArgs { Size = (uint)sizeof(KnSpgemmArgs), A = Place(_a), B = Place(_b) };
        if (c.Flags.HasFlag(KnSpgemmFlags.Mask))
        {
            _mask = Other(c, 21);
            bool valued = c.Flags.HasFlag(KnSpgemmFlags.Valued);
            double[] values = valued ? Draw(_mask.NonZeros, ref random) : [];
            // A quarter more zeros than elsewhere, and what is neither 0 nor a number.
            for (int j = 0; j < values.Length; j++) values[j] = j % 4 == 1 ? 0 : j % 31 == 2 ? double.NaN : values[j];
            _args.Mask = Place(new SpGemmOperand(_mask, values));
            if (!valued) _args.Mask.Values = null;
            _counted = valued ? Counted(_mask, values) : _mask;
        }
        if (c.Flags.HasFlag(KnSpgemmFlags.Accumulate))
        {
            SparseStructure d = Other(c, 22);
            _d = new SpGemmOperand(d, Draw(d.NonZeros, ref random));
            _args.D = Place(_d);
        }
        _args.Products = (long*)Own((c.A.Rows + 1) * sizeof(long)).At;
        _args.Most = (long*)Own(sizeof(long)).At;
        _args.RowsDone = (long*)Own(sizeof(long)).At;
    }

    public SpGemmCase Case { get; }

    public KnSpgemmProblem Problem => *_problem;

    public KnSpgemmArgs Args => _args;

    public SpGemmExpectedRow[] Expected => _expected ??=
        SpGemmOracle.Product(_a, _b, _d, _counted, Case.Flags.HasFlag(KnSpgemmFlags.Complement), Case.Semiring, Case.Type);

    /// <summary>The worst error so far: as a fraction of its tolerance, in ulp, and relative to the value.</summary>
    public (double Fraction, double Ulp, double Relative) Worst { get; private set; }

    public long NonZeros => Expected.Sum(r => (long)r.Columns.Length);

    /// <summary>Bits of the values of C; empty for the structure alone.</summary>
    public ReadOnlySpan<byte> Values => new(_values.At, (int)(NonZeros * _valueBytes));

    /// <summary>Bits of the columns of C.</summary>
    public ReadOnlySpan<byte> Columns => new(_columns.At, (int)(NonZeros * Case.IndexBytes));

    /// <summary>A mask or an addend of the shape of C: where the product of the same matrices has about as many entries.</summary>
    private static SparseStructure Other(SpGemmCase c, ulong seed) =>
        SpGemmMatrices.Uniform(c.A.Rows, c.B.Columns, (int)Math.Min(c.B.Columns, 40), seed + (ulong)c.A.NonZeros);

    /// <summary>The entries of a mask whose values are not 0.</summary>
    private static SparseStructure Counted(SparseStructure mask, double[] values)
    {
        var offsets = new long[mask.Rows + 1];
        var indices = new List<int>();
        for (long i = 0; i < mask.Rows; i++)
        {
            for (long j = mask.Offsets[i]; j < mask.Offsets[i + 1]; j++)
                if (values[j] != 0) indices.Add(mask.Indices[j]);
            offsets[i + 1] = indices.Count;
        }
        return new SparseStructure(mask.Rows, mask.Columns, offsets, [.. indices]);
    }

    /// <summary>Every eighth value is a zero of either sign; the rest are of size one to eight.</summary>
    private double[] Draw(long count, ref TrialRandom random)
    {
        var values = new double[count];
        for (long i = 0; i < count; i++)
        {
            ulong bits = random.Next();
            double v = (bits & 7) == 0 ? 0 : 1 + random.Uniform(0, 7);
            v = (bits & 8) == 0 ? v : -v;
            values[i] = Case.Type == DType.Float32 ? (float)v : v;
        }
        return values;
    }

    private GuardedMemory Own(long bytes)
    {
        var memory = new GuardedMemory(bytes);
        _owned.Add(memory);
        return memory;
    }

    private KnCsr Place(SpGemmOperand x)
    {
        GuardedMemory offsets = Own(x.Structure.Offsets.Length * sizeof(long)), columns = Own(x.Structure.NonZeros * Case.IndexBytes), values = Own(x.Values.Length * _valueBytes);
        x.Structure.Offsets.CopyTo(new Span<long>(offsets.At, x.Structure.Offsets.Length));
        for (long j = 0; j < x.Structure.NonZeros; j++)
        {
            if (Case.IndexBytes == 4) ((int*)columns.At)[j] = x.Structure.Indices[j];
            else ((long*)columns.At)[j] = x.Structure.Indices[j];
        }
        for (long j = 0; j < x.Values.Length; j++)
        {
            if (Case.Type == DType.Float64) ((double*)values.At)[j] = x.Values[j];
            else if (Case.Type == DType.Float32) ((float*)values.At)[j] = (float)x.Values[j];
        }
        return new KnCsr { Offsets = (long*)offsets.At, Columns = columns.At, Values = _valueBytes == 0 ? null : values.At };
    }

    /// <summary>ANALYSE by this row; null, or what is wrong with its counts.</summary>
    public string? Analyse(Row row, in KnLaunch launch)
    {
        _problem->Products = _problem->Most = 0;
        if (Run(row, launch, KnSpgemmPhase.Analyse, 0, Case.A.Rows) is { } fault) return fault;
        long most = 0;
        for (long i = 0; i < Case.A.Rows; i++)
        {
            long products = _d is null ? 0 : _d.Structure.Offsets[i + 1] - _d.Structure.Offsets[i];
            for (long j = Case.A.Offsets[i]; j < Case.A.Offsets[i + 1]; j++) products += Case.B.Offsets[Case.A.Indices[j] + 1] - Case.B.Offsets[Case.A.Indices[j]];
            if (_args.Products[i + 1] - _args.Products[i] != products) return $"row {i} has {products} products, not {_args.Products[i + 1] - _args.Products[i]}";
            most = Math.Max(most, Math.Max(products, _mask is null ? 0 : _mask.Offsets[i + 1] - _mask.Offsets[i]));
        }
        if (*_args.Most != most) return $"the most are {most}, not {*_args.Most}";
        (_problem->Products, _problem->Most) = (_args.Products[Case.A.Rows], most);
        return null;
    }

    /// <summary>The other phases, C in windows of at most `capacity` entries where that is not 0; null, or what is wrong.</summary>
    public string? Check(Row row, in KnLaunch launch, long capacity = 0)
    {
        long m = Case.A.Rows;
        _offsets = Fresh(_offsets, (m + 1) * sizeof(long));
        _args.COffsets = (long*)_offsets.At;
        *_args.COffsets = 0;
        if (Run(row, launch, KnSpgemmPhase.Symbolic, 0, m) is { } symbolic) return symbolic;
        if (Offsets() is { } wrong) return $"symbolic: {wrong}";
        _columns = Fresh(_columns, NonZeros * Case.IndexBytes);
        _values = Fresh(_values, NonZeros * _valueBytes);
        _args.CColumns = _columns.At;
        _args.CValues = _valueBytes == 0 ? null : _values.At;
        new Span<byte>(_offsets.At, (int)_offsets.Bytes).Fill(0xa5);
        *_args.COffsets = 0;
        if (Product(row, launch, capacity) is { } product) return product;
        if ((Offsets() ?? Entries()) is { } wrongs) return $"product: {wrongs}";
        if (_valueBytes == 0) return null;
        byte[] bits = Values.ToArray();
        _values.Fill(0xff);
        if (Run(row, launch, KnSpgemmPhase.Numeric, 0, m) is { } numeric) return numeric;
        if (!Values.SequenceEqual(bits)) return $"numeric: other bits than product; {Entries()}";
        if (Scheduled(row, launch) is { } scheduled) return scheduled;
        if (!Values.SequenceEqual(bits)) return $"numeric with a schedule: other bits than product; {Entries()}";
        return _values.Untouched(_values.Bytes) && _columns.Untouched(_columns.Bytes) && _offsets.Untouched(_offsets.Bytes) ? null : "something outside the outputs was written";
    }

    private GuardedMemory Fresh(GuardedMemory old, long bytes)
    {
        old.Dispose();
        var memory = new GuardedMemory(bytes);
        memory.Fill(0xff);
        return memory;
    }

    private string? Product(Row row, in KnLaunch launch, long capacity)
    {
        long m = Case.A.Rows, from = 0;
        do
        {
            _args.COffsets = (long*)_offsets.At + from;
            _args.CCapacity = capacity == 0 ? NonZeros : Math.Min(NonZeros, *_args.COffsets + capacity);
            if (Run(row, launch, KnSpgemmPhase.Product, from, m) is { } fault) return fault;
            if (*_args.RowsDone < m && Enough(from, _args.CCapacity)) return $"rows {from} to {*_args.RowsDone} of {m} in {_args.CCapacity} entries: there was room for one more";
            if (*_args.RowsDone < m && *_args.RowsDone == from) capacity *= 2;
            from = *_args.RowsDone;
        }
        while (from < m);
        _args.COffsets = (long*)_offsets.At;
        _args.CCapacity = NonZeros;
        return null;
    }

    /// <summary>Whether all of C fits, so that stopping was wrong.</summary>
    private bool Enough(long from, long capacity)
    {
        long need = *_args.COffsets;
        for (long i = from; i < Case.A.Rows; i++) need += Expected[i].Columns.Length;
        return need <= capacity;
    }

    /// <summary>One phase over rows; null, or the refusal in words.</summary>
    public string? Run(Row row, in KnLaunch launch, KnSpgemmPhase phase, long from, long to)
    {
        long bytes = row.Workspace(_problem, launch);
        if (bytes != _workspace.Bytes)
        {
            _workspace.Dispose();
            _workspace = new GuardedMemory(bytes);
            _workspace.Fill(0x5a);
        }
        (_args.Phase, _args.RowFrom, _args.RowTo) = ((int)phase, from, to);
        _args.Workspace = _workspace.At;
        _args.WorkspaceBytes = bytes;
        KnSpgemmArgs args = _args;
        KnStatus status = row is GpuRow gpu ? RunOnDevice(gpu, launch, args) : row.Run(_problem, launch, &args);
        if (status != KnStatus.Ok) return $"{phase}: {status} {row.LastError}";
        return _workspace.Untouched(bytes) ? null : $"{phase}: workspace outgrown";
    }

    private string? Offsets()
    {
        long at = 0;
        for (long i = 0; i < Case.A.Rows; i++)
        {
            at += Expected[i].Columns.Length;
            if (((long*)_offsets.At)[i + 1] != at) return $"row {i} ends at {((long*)_offsets.At)[i + 1]}, not {at}";
        }
        return null;
    }

    private string? Entries()
    {
        var order = new List<(long Column, double Value)>();
        for (long i = 0, at = 0; i < Case.A.Rows; i++)
        {
            SpGemmExpectedRow row = Expected[i];
            order.Clear();
            for (int j = 0; j < row.Columns.Length; j++, at++) order.Add((Column(at), Value(at)));
            if (Case.Flags.HasFlag(KnSpgemmFlags.Unsorted)) order.Sort((x, y) => x.Column.CompareTo(y.Column));
            for (int j = 0; j < row.Columns.Length; j++)
            {
                if (order[j].Column != row.Columns[j]) return $"[{i}, entry {j}] is column {order[j].Column}, not {row.Columns[j]}";
                if (_valueBytes > 0) Note(Math.Abs(order[j].Value - row.Values[j]), row.Values[j], row.Tolerances[j]);
                if (_valueBytes > 0 && !(Math.Abs(order[j].Value - row.Values[j]) <= row.Tolerances[j] || order[j].Value.Equals(row.Values[j])))
                    return $"[{i}, {row.Columns[j]}] is {order[j].Value:r}, exact {row.Values[j]:r}, tolerance {row.Tolerances[j]:0.##e+0}";
            }
        }
        return null;
    }

    private void Note(double error, double exact, double tolerance)
    {
        if (!(error > 0) || !double.IsFinite(error)) return;
        double size = Math.Abs(exact), ulp = Case.Type == DType.Float32 ? MathF.BitIncrement((float)size) - (float)size : Math.BitIncrement(size) - size;
        Worst = (Math.Max(Worst.Fraction, error / tolerance), Math.Max(Worst.Ulp, error / ulp), Math.Max(Worst.Relative, size > 0 ? error / size : 0));
    }

    private long Column(long j) => Case.IndexBytes == 4 ? ((int*)_columns.At)[j] : ((long*)_columns.At)[j];

    private double Value(long j) => _valueBytes == 0 ? 0 : _valueBytes == 8 ? ((double*)_values.At)[j] : ((float*)_values.At)[j];

    public void Dispose()
    {
        foreach (GuardedMemory m in _owned) m.Dispose();
        foreach (GuardedMemory m in (GuardedMemory[])[_offsets, _columns, _values, _workspace]) m.Dispose();
    }
}
