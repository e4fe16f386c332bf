using System.Diagnostics;
using System.Globalization;
using System.Numerics;
using Kernels.Tuning;
using MathNet.Numerics.LinearAlgebra.Double;

namespace Kernels.Perf;

/// <summary>Operands of one sparse product, and every way to compute it.</summary>
internal sealed unsafe class SpGemmWorkbench<T> : Workbench where T : unmanaged, INumber<T>
{
    // What a product of MathNet's takes minutes for is left out.
    private const long MostForMathNet = 1_000_000;
    private const int WarmUp = 3;

    // Scratch, offsets, columns and values each end within a page of 2 MiB, which counts whole.
    private const long PageSlack = 4 * (2 << 20);

    private readonly SpGemmLayer _layer;
    private readonly CsrMatrix<T> _a, _b, _c;
    private readonly SpGemmOperands<T> _there;
    private readonly List<IDisposable> _held = [];
    private readonly long _products;
    private readonly CsrMatrix<T>? _counts;  // the mask's entries that count
    private CsrMatrix<double>? _bounds;

    public SpGemmWorkbench(SpGemmLayer layer, Device device)
    {
        _layer = layer;
        _a = SpGemmMatrixSpec.Matrix<T>(layer.Matrix, layer.IndexBits);
        _b = layer.Transposed ? Transpose(_a) : _a;
        CsrMatrix<T>? mask = layer.Masked ? _a : null, addend = layer.Accumulate ? _a : null;
        _counts = layer.Options.ValuedMask ? SpGemmMatrixSpec.NotZero(_a) : mask;
        using SpGemmPlan<T> plan = SpGemmPlan<T>.Create(_a, _b, layer.Options with { Row = "spgemm/managed", MemoryBudget = 0, Sorted = true }, mask, addend);
        _products = plan.Products;
        _c = plan.Product();
        _there = new SpGemmOperands<T>(_a, _b, device, mask, addend);
        Screen.Note($"{_products} products, {_c.NonZeros} entries of C, ratio {_products / Math.Max(1.0, _c.NonZeros):0.##}");
    }

    /// <summary>A's transpose, and a note of how fast one is made: the median of a few.</summary>
    private static CsrMatrix<T> Transpose(CsrMatrix<T> a)
    {
        CsrMatrix<T>? made = null;
        var seconds = new double[WarmUp];
        for (int i = 0; i < seconds.Length; i++)
        {
            made?.Dispose();
            long start = Stopwatch.GetTimestamp();
            made = a.Transpose();
            seconds[i] = Stopwatch.GetElapsedTime(start).TotalSeconds;
        }
        double bytes = 2.0 * ((a.Rows + 1) * sizeof(long) + a.NonZeros * (a.IndexBytes + (long)sizeof(T))), median = Estimate.Of(seconds).Median;
        Screen.Note(string.Create(CultureInfo.InvariantCulture, $"transposed in {median * 1e3:0.###} ms by all threads, {bytes / median / 1e9:0.#} GB/s of what is read and written once"));
        return made!;
    }

    public override Layer Layer => _layer;

    /// <summary>Operands and C once through memory; the pages of C that are fresh come on top.</summary>
    public override Work WorkAt(int at)
    {
        long operands = Bytes(_a) + (ReferenceEquals(_a, _b) ? 0 : Bytes(_b));
        return new Work(operands + Bytes(_c), 2.0 * _products, [], _c.NonZeros);
    }

    private long Bytes(CsrMatrix<T> x) => (x.Rows + 1) * sizeof(long) + x.NonZeros * (x.IndexBytes + (_layer.Options.StructureOnly ? 0 : sizeof(T)));

    private Device Where => _there.Device;

    // Nothing rotates: what a product writes is larger than what would stay from the call before. A GPU's calls wait for it, so that the
    // host's clock sees all of them.
    public override CallTimer Timer { get; } = new(1, CacheState.Cold);

    public override long? RotatedBytes(int at) => null;

    public override IReadOnlyList<TimedCall> Calls(int at, int threads, bool every)
    {
        SpGemmOptions options = _layer.Options with { Threads = threads };
        var calls = new List<TimedCall>();
        if (Where.Gpu is not null && at == SpGemmOperation.Nothing)
        {
            Screen.Note("reuse 1 is left out: the driver keeps a GPU's memory, so that it is reuse 2");
            return calls;
        }
        Dataflow chosen;
        using (SpGemmPlan<T> plan = _there.Plan(options)) chosen = plan.Choice.Dataflow;
        calls.Add(Call(options, chosen.ToString(), at));
        if (every)
            foreach (Row row in Where.Table.Of(Interop.Native.KnOp.SpGemm).Where(r => r.Name != chosen.Row && Where.Table.Runs(r, out _)))
                calls.Add(Call(options with { Row = row.Name }, row.Name, at));
        return calls;
    }

    /// <summary>A call that has been run once and found right: a wrong result has no speed.</summary>
    private TimedCall Call(SpGemmOptions options, string name, int at)
    {
        if (options.MemoryBudget > 0 && at != SpGemmOperation.StructureOfC) return Pieces(options, name);
        options = options with { MemoryBudget = 0 };
        using (CsrMatrix<T> product = _there.Product(options)) Require(product, name);
        if (at == SpGemmOperation.StructureOfC)
        {
            SpGemmPlan<T> plan = _there.Plan(options);
            CsrMatrix<T> c = plan.Symbolic();
            _held.AddRange([plan, c]);
            plan.Numeric(c);
            Require(c, name);
            long start = Stopwatch.GetTimestamp();
            // As calls of Numeric go on: the managed row makes a schedule only when asked.
            bool asked = options.ScheduleLimit is not null || plan.Choice.Dataflow.Row != "spgemm/managed";
            if (asked && plan.Schedule(c)) Screen.Note($"{_layer.Case}, {name}: a schedule of {Format.Bytes(plan.ScheduleBytes)}, made in {Stopwatch.GetElapsedTime(start).TotalMilliseconds:0.##} ms");
            else Screen.Note($"{_layer.Case}, {name}: no schedule");
            plan.Numeric(c);
            Require(c, name);
            return new TimedCall(name, _ => plan.Numeric(c));
        }
        // Memory that is there to be reused has been touched.
        for (int i = 0; i < WarmUp && at == SpGemmOperation.Memory; i++) _there.Product(options).Dispose();
        return new TimedCall(name, _ =>
        {
            if (at == SpGemmOperation.Nothing) SpGemm.TrimPool();
            _there.Product(options).Dispose();
        });
    }

    private void Require(CsrMatrix<T> c, string name)
    {
        if (!SpGemmSame.As(_c, c)) throw new KernelsException(Status.Internal, name, $"{_layer.Case}: another C than the managed row's");
    }

    /// <summary>C in pieces under the budget, of which the process is held to what it was told: a plan that takes more has no speed.</summary>
    private TimedCall Pieces(SpGemmOptions options, string name)
    {
        SpGemmPlan<T> plan = _there.Plan(options);
        SpGemm.TrimPool();
        long before = ProcessMemory.Resident(), rows = 0, pieces = 0, nonZeros = 0;
        ProcessMemory.ResetPeak();
        foreach (CsrMatrix<T> piece in plan.Pieces())
            using (piece) (rows, pieces, nonZeros) = (rows + piece.Rows, pieces + 1, nonZeros + piece.NonZeros);
        long peak = ProcessMemory.Peak() - before;
        if (rows != _c.Rows || nonZeros != _c.NonZeros) throw new KernelsException(Status.Internal, name, $"{nonZeros} entries in {rows} rows, not {_c.NonZeros} in {_c.Rows}");
        Screen.Note($"{_layer.Case}: budget {Format.Bytes(options.MemoryBudget)}, {pieces} pieces, the process grew by {Format.Bytes(peak)} at most");
        if (peak > options.MemoryBudget + PageSlack) throw new KernelsException(Status.Internal, name, $"at most {options.MemoryBudget} bytes; the process grew by {peak}");
        return new TimedCall(name, _ =>
        {
            foreach (CsrMatrix<T> piece in plan.Pieces()) piece.Dispose();
        });
    }

    public override IReadOnlyList<PeerCall> Peers(int at, int threads, PeerSet peers, List<string> reasons)
    {
        var calls = new List<PeerCall>();
        if (Where.Gpu is not null)
        {
            reasons.Add("there are no peers on a GPU yet");
            return calls;
        }
        if (at == SpGemmOperation.StructureOfC)
        {
            reasons.Add("no peer has a numeric phase of its own");
            return calls;
        }
        if (_layer.IndexBits != 32)
        {
            reasons.Add($"{_layer.Case}: peers are given columns of 32 bits, so that they are left out");
            return calls;
        }
        PeerSpGemmProblem problem = Problem(threads == 0 ? Device.Cpu.Threads : threads);
        foreach (Peer peer in peers.Native)
        {
            if (!peer.TryCreate(problem, out PeerSpGemm? product, out string reason))
            {
                reasons.Add(reason);
                continue;
            }
            Require(product!, peer.Name);
            calls.Add(new PeerCall(peer.Name, new TimedCall(peer.Name, _ => product!.Run()), product));
        }
        if ((object)_a is not CsrMatrix<double> a || (object)_b is not CsrMatrix<double> b || _products > MostForMathNet) return calls;
        if (_layer.More.Length == 0) calls.Add(MathNet(a, b));
        else reasons.Add($"{_layer.Case}: MathNet has the plain product alone");
        return calls;
    }

    private PeerSpGemmProblem Problem(int threads)
    {
        SpGemmOptions options = _layer.Options;
        return new PeerSpGemmProblem
        {
            Type = (int)(options.StructureOnly ? DType.None : _layer.Type),
            Threads = threads,
            Semiring = (int)options.Semiring,
            Complement = options.Complement ? 1 : 0,
            Unsorted = options.Sorted ? 0 : 1,
            M = _a.Rows,
            K = _a.Columns,
            N = _b.Columns,
            AOffsets = _a.OffsetsAt,
            AColumns = (int*)_a.ColumnsAt,
            AValues = _a.ValuesAt,
            BOffsets = _b.OffsetsAt,
            BColumns = (int*)_b.ColumnsAt,
            BValues = _b.ValuesAt,
            MaskOffsets = _counts is null ? null : _counts.OffsetsAt,
            MaskColumns = _counts is null ? null : (int*)_counts.ColumnsAt,
            DOffsets = _layer.Accumulate ? _a.OffsetsAt : null,
            DColumns = _layer.Accumulate ? (int*)_a.ColumnsAt : null,
            DValues = _layer.Accumulate ? _a.ValuesAt : null,
        };
    }

    /// <summary>A peer is held to our result: where the two differ by more than both may be off, one is wrong, and neither has a speed.</summary>
    private void Require(PeerSpGemm product, string name)
    {
        long nonZeros = product.Run();
        if (nonZeros != _c.NonZeros) throw Other(name, $"{nonZeros} entries, not {_c.NonZeros}");
        using Buffer<long> offsets = Buffer<long>.Allocate(_c.Rows + 1);
        using Buffer<int> columns = Buffer<int>.Allocate(nonZeros);
        using Buffer<T> values = Buffer<T>.Allocate(nonZeros);
        product.Copy(offsets.Pointer, columns.Pointer, _c.HasValues ? values.Pointer : null);
        for (long i = 0; i < _c.Rows; i++)
        {
            if (offsets.Pointer[i + 1] != _c.OffsetsAt[i + 1]) throw Other(name, $"row {i} ends at {offsets.Pointer[i + 1]}, not {_c.OffsetsAt[i + 1]}");
            for (long j = _c.OffsetsAt[i]; j < _c.OffsetsAt[i + 1]; j++)
            {
                if (columns.Pointer[j] != _c.ColumnAt(j)) throw Other(name, $"row {i}: an entry at column {columns.Pointer[j]}, not {_c.ColumnAt(j)}");
                if (_c.HasValues && !Near(values.Pointer[j], j)) throw Other(name, $"row {i}, column {columns.Pointer[j]}: {values.Pointer[j]}, not {_c.ValuesAt[j]}, off by {Bound(j):0.##e+0} at most");
            }
        }
    }

    private KernelsException Other(string name, string what) => new(Status.Internal, name, $"{_layer.Case}: our C, but it has {what}");

    private bool Near(T theirs, long j)
    {
        T ours = _c.ValuesAt[j];
        return theirs.Equals(ours) || Math.Abs(double.CreateChecked(theirs) - double.CreateChecked(ours)) <= Bound(j);
    }

    /// <summary>Nothing but sums depends on their order: a minimum of sums that are rounded once is the same everywhere, and so are 0 and 1.</summary>
    private double Bound(long j) => _layer.Options.Semiring is Semiring.PlusTimes or Semiring.PlusPair ? Bounds.ValuesAt[j] : 0;

    /// <summary>
    /// How far two right sums may be apart, entry by entry: each of t terms, products and addend, summed in any order, is off by (t + 1) u sum|a||b| at most to first
    /// order (Higham 2002, lemma 3.1), and t times by half of the smallest number.
    /// </summary>
    private CsrMatrix<double> Bounds => _bounds ??= MakeBounds();

    private CsrMatrix<double> MakeBounds()
    {
        using CsrMatrix<double> a = Sizes(_a), b = _layer.Transposed ? a.Transpose() : Sizes(_b);
        using CsrMatrix<double> ones = CsrMatrix.Create<double>(a.Rows, a.Columns, a.RowOffsets, a.ColumnIndices, Enumerable.Repeat(1.0, (int)a.NonZeros).ToArray());
        var options = new SpGemmOptions { Complement = _layer.Options.Complement };
        using CsrMatrix<double> terms = SpGemm.Multiply(a, b, options with { Semiring = Semiring.PlusPair }, _counts, _layer.Accumulate ? ones : null);
        CsrMatrix<double> bounds = SpGemm.Multiply(a, b, options with { Semiring = _layer.Options.Semiring }, _counts, _layer.Accumulate ? a : null);
        (double u, double tiny) = sizeof(T) == 8 ? (Math.ScaleB(1, -53), double.Epsilon) : (Math.ScaleB(1, -24), float.Epsilon);
        for (long j = 0; j < bounds.NonZeros; j++) bounds.ValuesAt[j] = 2 * (terms.ValuesAt[j] + 1) * u * bounds.ValuesAt[j] + terms.ValuesAt[j] * tiny;
        return bounds;
    }

    private static CsrMatrix<double> Sizes(CsrMatrix<T> x)
    {
        var values = new double[x.NonZeros];
        for (long j = 0; j < values.Length; j++) values[j] = Math.Abs(double.CreateChecked(x.ValuesAt[j]));
        return CsrMatrix.Create<double>(x.Rows, x.Columns, x.RowOffsets, x.ColumnIndices, values);
    }

    private PeerCall MathNet(CsrMatrix<double> a, CsrMatrix<double> b)
    {
        static SparseMatrix Of(CsrMatrix<double> x) => SparseMatrix.OfIndexed((int)x.Rows, (int)x.Columns, Entries(x));
        SparseMatrix left = Of(a), right = Of(b), c = left * right;
        // It leaves out sums that are 0.
        if (c.NonZerosCount > _c.NonZeros) throw Other("MathNet", $"{c.NonZerosCount} entries, not {_c.NonZeros}");
        for (int i = 0; i < _c.Rows; i++)
            for (long j = _c.OffsetsAt[i]; j < _c.OffsetsAt[i + 1]; j++)
                if (!Near(T.CreateChecked(c.At(i, (int)_c.ColumnAt(j))), j)) throw Other("MathNet", $"{c.At(i, (int)_c.ColumnAt(j))} at [{i}, {_c.ColumnAt(j)}], not {_c.ValuesAt[j]}");
        return new PeerCall("MathNet", new TimedCall("MathNet", _ => GC.KeepAlive(left * right)), null);
    }

    private static List<(int, int, double)> Entries(CsrMatrix<double> x)
    {
        var entries = new List<(int, int, double)>((int)x.NonZeros);
        for (int i = 0; i < x.Rows; i++)
            for (int j = (int)x.RowOffsets[i]; j < x.RowOffsets[i + 1]; j++) entries.Add((i, x.ColumnIndices[j], x.Values[j]));
        return entries;
    }

    public override void Dispose()
    {
        foreach (IDisposable held in _held) held.Dispose();
        _there.Dispose();
        _a.Dispose();
        _b.Dispose();
        _c.Dispose();
        _counts?.Dispose();
        _bounds?.Dispose();
    }
}
