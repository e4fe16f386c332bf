using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>
/// One sparse product, analysed: how many products it has, which row runs it, in how much scratch. Product computes C in one pass;
/// Symbolic makes the structure of C once and Numeric its values any number of times while the operands' values change. The
/// operands must outlive the plan, and their structure must not change. Any number of threads may use one plan at a time, each call of Numeric with a C
/// of its own.
/// </summary>
/// <remarks>
/// On a GPU operands and C are there (<see cref="CsrMatrix{T}.CopyTo"/>). Every call waits for what it enqueued on the default
/// stream, since sizes are known only then; C is sized before it is computed, so that it takes what it needs.
/// </remarks>
public sealed unsafe partial class SpGemmPlan<T> : IDisposable where T : unmanaged
{
    private readonly CsrMatrix<T> _a, _b;
    private readonly CsrMatrix<T>? _addend;
    private readonly CsrStructure? _mask;
    private readonly SpGemmOptions _options;
    private readonly PooledMemory _products;
    private readonly Device _device;
    private readonly SpGemmChosen _chosen;
    private readonly KnSpgemmProblem _problem;
    // What says of a matrix that its structure is C's.
    private readonly object _origin = new();
    private SpGemmChoice? _choice;

    internal KnSpgemmProblem Problem => _problem;

    private SpGemmPlan(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions options, CsrStructure? mask, CsrMatrix<T>? addend, Device device, Row? user)
    {
        (_a, _b, _options, _mask, _addend, _device) = (a, b, options, mask, addend, device);
        // A word more for the longest row.
        _products = PooledMemory.Rent((a.Rows + 2) * sizeof(long), "plan", device);
        _products.Touch((a.Rows + 2) * sizeof(long));
        try
        {
            KnSpgemmProblem problem = Describe(user is not null);
            KnSpgemmArgs args = Args(KnSpgemmPhase.Analyse, 0, a.Rows);
            args.Most = args.Products + a.Rows + 1;
            Row first = user ?? SpGemmSelection.First(device, options.Threads, problem);
            Call(first, problem, first.DefaultLaunch(options.Threads), args);
            (problem.Products, problem.Most) = (_products[a.Rows], _products[a.Rows + 1]);
            _problem = problem;
            bool tuned = problem.Products >= SpGemmSelection.LeastTuned && (options.Row ?? options.Dataflow?.Row) is null;
            _chosen = user is null ? SpGemmSelection.Choose(device, options, problem, tuned ? Sample() : null)
                : SpGemmSelection.Make(user, device, options, problem, ChoiceSource.Forced, "a user's semiring runs here");
        }
        catch
        {
            _products.Dispose();
            throw;
        }
    }

    /// <summary>What runs, and why.</summary>
    public SpGemmChoice Choice => _choice ??= _chosen.Choice(_problem);

    /// <summary>The class of the product, from a few of its rows where they are in the host's memory.</summary>
    internal SpGemmSample Sample() => _device.Gpu is null ? new(_problem, Args(KnSpgemmPhase.Symbolic, 0, _a.Rows)) : new(_problem);

    /// <summary>What every row of the device says to the product, beside the choice.</summary>
    internal ImmutableArray<RowExplanation> Explain(TuningStore store)
    {
        var thresholds = new SpGemmThresholds(_device, _options.Threads, _problem, Sample());
        return thresholds.Explain(KnOp.SpGemm, SpGemmThresholds.Memory, [thresholds.Make(_chosen.Row, _chosen.Launch, 0, SpGemmThresholds.Memory, Choice.Source, Choice.Reason)], store, CacheState.Cold);
    }

    /// <summary>Multiplications; entries of the addend count as one.</summary>
    public long Products => _problem.Products;

    /// <summary>The most products, or entries of the mask, in a row.</summary>
    public long MostProducts => _problem.Most;

    /// <summary>Entries that C cannot exceed.</summary>
    public long MostNonZeros => (long)Int128.Min(Products, (Int128)_problem.M * _problem.N);

    /// <summary>Analyses the product of <paramref name="a"/> [m,k] and <paramref name="b"/> [k,n], and chooses its row.</summary>
    /// <param name="a">[m,k].</param>
    /// <param name="b">[k,n], columns of as many bits as those of a.</param>
    /// <param name="options">The usual product when null.</param>
    /// <param name="mask">[m,n]: products outside its entries (at them, with Complement) are left out.</param>
    /// <param name="addend">[m,n]: D. Its entries are in C whatever the mask says.</param>
    /// <param name="device">Where all operands are; that of a when null.</param>
    /// <exception cref="KernelsException">A shape, type or option that breaks a rule, or a forced row that cannot run.</exception>
    public static SpGemmPlan<T> Create(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions? options = null, CsrStructure? mask = null,
        CsrMatrix<T>? addend = null, Device? device = null)
    {
        options ??= new SpGemmOptions();
        Check(a, b, options, mask, addend, device);
        KernelsException.Require(options.StructureOnly || typeof(T) == typeof(float) || typeof(T) == typeof(double), "T",
            $"float or double, or a semiring as a type argument, not {typeof(T).Name}");
        bool reads = !options.StructureOnly && options.Semiring != Semiring.PlusPair;
        KernelsException.Require(!reads || a.HasValues, nameof(a), $"values, which {options.Semiring} reads (StructureOnly and PlusPair do not)");
        KernelsException.Require(!reads || b.HasValues, nameof(b), $"values, which {options.Semiring} reads (StructureOnly and PlusPair do not)");
        return new SpGemmPlan<T>(a, b, options, mask, addend, device ?? a.Device, null);
    }

    /// <summary>The same over a semiring of the user's own, by the managed row.</summary>
    /// <exception cref="KernelsException">A shape, type or option that breaks a rule.</exception>
    public static SpGemmPlan<T> Create<TSemiring>(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions? options = null, CsrStructure? mask = null,
        CsrMatrix<T>? addend = null) where TSemiring : struct, ISemiring<T>
    {
        options ??= new SpGemmOptions();
        Check(a, b, options, mask, addend, Device.Cpu);
        KernelsException.Require(options.Semiring == Semiring.PlusTimes, nameof(options.Semiring), "none beside the type argument");
        KernelsException.Require(options.Row is null && options.Dataflow is null, nameof(options.Row), "none: a user's semiring runs on the managed row");
        KernelsException.Require(options.StructureOnly || (a.HasValues && b.HasValues), nameof(a), "values of a and b, which the semiring reads");
        return new SpGemmPlan<T>(a, b, options, mask, addend, Device.Cpu, new SpGemmUser<T, TSemiring>());
    }

    private static void Check(CsrMatrix<T> a, CsrMatrix<T> b, SpGemmOptions options, CsrStructure? mask, CsrMatrix<T>? addend, Device? device)
    {
        ArgumentNullException.ThrowIfNull(a);
        ArgumentNullException.ThrowIfNull(b);
        options.Check();
        device ??= a.Device;
        There(nameof(a), a);
        There(nameof(b), b);
        There(nameof(mask), mask);
        There(nameof(addend), addend);
        KernelsException.Require(a.Columns == b.Rows, nameof(b), $"{a.Columns} rows, as a has columns, not {b.Rows}");
        KernelsException.Require(a.IndexBits == b.IndexBits, nameof(b), $"columns of {a.IndexBits} bits, as a, not {b.IndexBits}");
        KernelsException.Require(mask is not null || !options.Complement, nameof(options.Complement), "a mask");
        KernelsException.Require(!options.ValuedMask || mask is CsrMatrix<T> { HasValues: true }, nameof(options.ValuedMask), $"a mask with values of {typeof(T).Name}");
        KernelsException.Require(!options.ValuedMask || !options.StructureOnly, nameof(options.ValuedMask), "a product with values");
        OfShape(nameof(mask), mask);
        OfShape(nameof(addend), addend);
        KernelsException.Require(addend is null || options.StructureOnly || addend.HasValues, nameof(addend), "values");

        void There(string name, CsrStructure? x) => KernelsException.Require(x is null || x.Device.Shares(device), name, $"a matrix on {device}, not on {x?.Device}; CopyTo copies");

        void OfShape(string name, CsrStructure? x)
        {
            KernelsException.Require(x is null || (x.Rows == a.Rows && x.Columns == b.Columns), name, $"[{a.Rows}, {b.Columns}], not [{x?.Rows}, {x?.Columns}]");
            KernelsException.Require(x is null || x.IndexBits == a.IndexBits, name, $"columns of {a.IndexBits} bits, as a, not {x?.IndexBits}");
        }
    }

    private KnSpgemmProblem Describe(bool user) => new()
    {
        Size = (uint)sizeof(KnSpgemmProblem),
        // To the managed row a user's type is any type with values.
        Type = (int)(_options.StructureOnly ? DType.None : user || typeof(T) == typeof(double) ? DType.Float64 : DType.Float32),
        IndexBytes = _a.IndexBytes,
        Semiring = (int)_options.Semiring,
        Flags = (int)((_mask is null ? 0 : KnSpgemmFlags.Mask) | (_options.Complement ? KnSpgemmFlags.Complement : 0) | (_options.ValuedMask ? KnSpgemmFlags.Valued : 0)
            | (_addend is null ? 0 : KnSpgemmFlags.Accumulate) | (_options.Sorted ? 0 : KnSpgemmFlags.Unsorted) | (_b.Sorted ? KnSpgemmFlags.BSorted : 0)),
        M = _a.Rows,
        K = _a.Columns,
        N = _b.Columns,
        ANnz = _a.NonZeros,
        BNnz = _b.NonZeros,
    };

    private KnSpgemmArgs Args(KnSpgemmPhase phase, long from, long to)
    {
        KernelsException.Require(!_products.IsClosed, "plan", "a plan that was not disposed");
        RequireLiving(_a, _b, _mask, _addend);
        return new()
        {
            Size = (uint)sizeof(KnSpgemmArgs),
            Phase = (int)phase,
            RowFrom = from,
            RowTo = to,
            A = _a.Native,
            B = _b.Native,
            Mask = _mask?.Native ?? default,
            D = _addend?.Native ?? default,
            Products = (long*)_products.At,
        };
    }

    private static void RequireLiving(CsrMatrix<T> a, CsrMatrix<T> b, CsrStructure? mask, CsrMatrix<T>? addend)
    {
        KernelsException.Require(!a.IsDisposed, nameof(a), "one that was not disposed");
        KernelsException.Require(!b.IsDisposed, nameof(b), "one that was not disposed");
        KernelsException.Require(mask?.IsDisposed != true, nameof(mask), "one that was not disposed");
        KernelsException.Require(addend?.IsDisposed != true, nameof(addend), "one that was not disposed");
    }

    private void Call(Row row, KnSpgemmProblem problem, in KnLaunch launch, KnSpgemmArgs args)
    {
        long bytes = row.Workspace(&problem, launch);
        using PooledMemory? scratch = bytes == 0 ? null : PooledMemory.Rent(bytes, "workspace", _device);
        scratch?.Touch(bytes);
        Call(row, problem, launch, args, scratch);
    }

    private void Call(Row row, KnSpgemmProblem problem, in KnLaunch launch, KnSpgemmArgs args, PooledMemory? scratch, CsrMatrix<T>? c = null, SpGemmSchedule? schedule = null)
    {
        args.Workspace = scratch is null ? null : scratch.At;
        args.WorkspaceBytes = scratch?.Bytes ?? 0;
        // Nothing that was passed may be freed meanwhile: the pool would hand it to the next matrix.
        var held = new Held();
        try
        {
            held.Add(_products, "plan");
            schedule?.Hold(ref held);
            _a.Hold(ref held, "a");
            if (_b != _a) _b.Hold(ref held, "b");
            _mask?.Hold(ref held, "mask");
            _addend?.Hold(ref held, "addend");
            c?.Hold(ref held, nameof(c));
            KnStatus status = row.Run(&problem, launch, &args);
            if (status != KnStatus.Ok) throw row.Failure(status);
            _device.Gpu?.Synchronize(0);
        }
        finally
        {
            held.Dispose();
        }
    }

    private int ValueBytes => _options.StructureOnly ? 0 : sizeof(T);

    private int EntryBytes => _a.IndexBytes + ValueBytes;

    /// <summary>Offsets of so many rows of C, and a word more that says how far a call came.</summary>
    private static long OffsetBytes(long rows) => Math.Max((rows + 2) * sizeof(long), PooledMemory.Least);

    /// <summary>C. On Linux in one pass, into memory that is only reserved until it is written; elsewhere, under a budget and where the bound is above half of the memory, sizes first.</summary>
    /// <exception cref="KernelsException">C does not fit the budget, or memory is not to be had.</exception>
    public CsrMatrix<T> Product() => All(_problem);

    /// <summary>All of C, or of its structure alone.</summary>
    private CsrMatrix<T> All(in KnSpgemmProblem problem)
    {
        // With room for the register that a row may store behind its last entry, so that the last rows are computed in place, too.
        long entries = MostNonZeros + 64, reserve = entries <= long.MaxValue / 16 ? entries * EntryBytes : long.MaxValue;
        if (!OperatingSystem.IsLinux() || _device.Gpu is not null || _options.MemoryBudget > 0 || reserve > PooledMemory.Available / 2)
            using (PooledMemory sizes = Sizes()) entries = sizes[_a.Rows];
        return Compute(problem, 0, _a.Rows, entries, out _);
    }

    /// <summary>Exact sizes of the rows of C, within the budget.</summary>
    private PooledMemory Sizes()
    {
        RequireBudget(Need(0));
        PooledMemory offsets = Offsets(_a.Rows);
        KnSpgemmArgs args = Args(KnSpgemmPhase.Symbolic, 0, _a.Rows);
        args.COffsets = (long*)offsets.At;
        Call(_chosen.Row, _problem, _chosen.Launch, args);
        try
        {
            RequireBudget(Need(offsets[_a.Rows]));
            return offsets;
        }
        catch
        {
            offsets.Dispose();
            throw;
        }
    }

    /// <summary>Bytes of scratch and all of C with so many entries.</summary>
    private long Need(long entries) => _chosen.WorkspaceBytes + entries * EntryBytes + OffsetBytes(_a.Rows);

    private void RequireBudget(long need)
    {
        if (_options.MemoryBudget > 0 && need > _options.MemoryBudget)
            throw new KernelsException(Status.NoMemory, nameof(SpGemmOptions.MemoryBudget), $"at least {need} bytes for all of C ({_chosen.WorkspaceBytes} of them scratch), not {_options.MemoryBudget}; Pieces needs less");
    }

    private PooledMemory Offsets(long rows)
    {
        PooledMemory offsets = PooledMemory.Rent(OffsetBytes(rows), "c", _device);
        offsets[0] = 0;
        return offsets;
    }

    private CsrMatrix<T> Compute(in KnSpgemmProblem problem, long from, long to, long capacity, out long done)
    {
        PooledMemory offsets = Offsets(to - from), columns = PooledMemory.Rent(capacity * _a.IndexBytes, "c", _device);
        PooledMemory? values = !SpGemmRules.HasValues(problem) ? null : PooledMemory.Rent(capacity * sizeof(T), "c", _device);
        KnSpgemmArgs args = Args(KnSpgemmPhase.Product, from, to);
        args.COffsets = (long*)offsets.At;
        args.CColumns = columns.At;
        args.CValues = values is null ? null : values.At;
        args.CCapacity = capacity;
        args.RowsDone = args.COffsets + (to - from + 1);
        Call(_chosen.Row, problem, _chosen.Launch, args);
        done = offsets[to - from + 1];
        return new CsrMatrix<T>(done - from, _b.Columns, offsets[done - from], _a.IndexBits, _options.Sorted, offsets, columns, values) { Origin = _origin };
    }

    /// <summary>C by pieces of rows, from the first to the last, of which each with the scratch keeps to the budget once the one before is disposed.</summary>
    /// <exception cref="KernelsException">No budget, or one that is too small for a row.</exception>
    public IEnumerable<CsrMatrix<T>> Pieces()
    {
        KernelsException.Require(_options.MemoryBudget > 0, nameof(SpGemmOptions.MemoryBudget), "a budget");
        return Each();

        IEnumerable<CsrMatrix<T>> Each()
        {
            long at = 0;
            while (at < _a.Rows)
            {
                CsrMatrix<T> piece = Piece(at, out long done);
                at = done;
                yield return piece;
            }
        }
    }

    private CsrMatrix<T> Piece(long from, out long done)
    {
        // A row of the offsets is 8 bytes; half of what scratch leaves is for them at most.
        long left = _options.MemoryBudget - _chosen.WorkspaceBytes, rows = Math.Min(_a.Rows - from, Math.Max(left / 16, 1));
        long capacity = (left - OffsetBytes(rows)) / EntryBytes;
        CsrMatrix<T>? piece = capacity > 0 ? Compute(_problem, from, from + rows, Math.Min(capacity, _products[from + rows] - _products[from]), out done) : null;
        if (piece is { Rows: > 0 })
        {
            done = from + piece.Rows;
            return piece;
        }
        piece?.Dispose();
        throw new KernelsException(Status.NoMemory, nameof(SpGemmOptions.MemoryBudget), $"enough for row {from} of C and {_chosen.WorkspaceBytes} bytes of scratch, not {_options.MemoryBudget}");
    }

    /// <summary>The structure of C with values that are not yet computed. With a valued mask it is that of the mask's values as they are now.</summary>
    /// <exception cref="KernelsException">C does not fit the budget, or memory is not to be had.</exception>
    public CsrMatrix<T> Symbolic()
    {
        if (_options.ValuedMask || _options.StructureOnly) return Product();
        // The budget is asked about C with its values, scratch is at most that of the product.
        CsrMatrix<T> pattern = All(_problem with { Type = (int)DType.None });
        try
        {
            return pattern.WithValues();
        }
        catch
        {
            pattern.Dispose();
            throw;
        }
    }

    /// <summary>Frees the analysis, the scratch and the schedule of Numeric once the calls that run have returned. Operands and results stay.</summary>
    public void Dispose()
    {
        _products.Dispose();
        Interlocked.Exchange(ref _schedule, null)?.Dispose();
        Interlocked.Exchange(ref _scratch, null)?.Dispose();
    }
}
