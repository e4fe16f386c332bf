using Kernels.Interop.Native;

namespace Kernels;

public sealed unsafe partial class SpGemmPlan<T>
{
    // Making a schedule takes as long as some two to eight products, and each call with it is shorter by half of one.
    private const int ScheduledFrom = 8;

    // Managed code takes terms one product at a time, mostly no faster than without.
    private bool MakesSchedule => _chosen.Row is not SpGemmManaged;

    private PooledMemory? _scratch;  // of Numeric, between its calls
    private SpGemmSchedule? _schedule;
    private int _calls;  // of Numeric

    /// <summary>
    /// The values of <paramref name="c"/>, which Symbolic or Product of this plan made, from the operands' values as they are now. The eighth call makes the
    /// schedule that <see cref="Schedule"/> makes at once, but not on the managed row. But for that and the first call nothing is allocated: scratch and
    /// schedule stay with the plan.
    /// </summary>
    /// <exception cref="KernelsException">A matrix that this plan did not make (a copy of one to its device will do), a piece of C, or none with values.</exception>
    public void Numeric(CsrMatrix<T> c)
    {
        Check(c);
        if (MakesSchedule && _calls < ScheduledFrom && Interlocked.Increment(ref _calls) == ScheduledFrom && Volatile.Read(ref _schedule) is null) Schedule(c);
        KnSpgemmArgs args = Args(KnSpgemmPhase.Numeric, c);
        SpGemmSchedule? schedule = Volatile.Read(ref _schedule);
        args.Schedule = schedule?.Native ?? default;
        Call(args, c, schedule);
    }

    /// <summary>
    /// Makes the schedule of Numeric from the structure of <paramref name="c"/>, which Symbolic or Product of this plan made: which products meet in a register of C.
    /// Numeric then neither looks at columns nor searches, with the same bits. Takes as long as two to eight products, once for a plan, and from about 1.8 bytes a product
    /// where entries lie together to 6 where they do not: 8 for a register's products of one entry of the left matrix.
    /// </summary>
    /// <returns>Whether there is one: not on a GPU, above 2^22 columns of C or 2^32 entries of B, or where it would take more than <see cref="SpGemmOptions.ScheduleLimit"/>, the
    /// budget or memory allows; Numeric then goes without.</returns>
    /// <exception cref="KernelsException">As Numeric's.</exception>
    public bool Schedule(CsrMatrix<T> c)
    {
        Check(c);
        if (Volatile.Read(ref _schedule) is not null) return true;
        long left = _options.ScheduleLimit ?? PooledMemory.Available / 8;
        if (_options.MemoryBudget > 0) left = Math.Min(left, _options.MemoryBudget - Need(c.NonZeros));
        left -= SpGemmSchedule.LeastBytes(_problem, c.NonZeros);
        if (left < 0 || _device.Gpu is not null || !SpGemmRules.MaySchedule(_problem)) return false;
        SpGemmSchedule? schedule = null;
        try
        {
            schedule = new SpGemmSchedule(_problem, c.NonZeros);
            KnSpgemmArgs args = Args(KnSpgemmPhase.ScheduleSizes, c);
            args.Schedule = schedule.Native;
            Call(args, c, schedule);
            if (!schedule.TryRentTerms(_a.Rows, left)) return false;
            (args.Phase, args.Schedule) = ((int)KnSpgemmPhase.Schedule, schedule.Native);
            Call(args, c, schedule);
            // Another call may have made one meanwhile.
            if (Interlocked.CompareExchange(ref _schedule, schedule, null) is null) schedule = null;
            return true;
        }
        catch (KernelsException e) when (e.Status == Status.NoMemory)
        {
            return false;
        }
        finally
        {
            schedule?.Dispose();
        }
    }

    /// <summary>Bytes of the schedule that Numeric keeps; 0: there is none.</summary>
    public long ScheduleBytes => Volatile.Read(ref _schedule)?.Bytes ?? 0;

    private void Check(CsrMatrix<T> c)
    {
        ArgumentNullException.ThrowIfNull(c);
        KernelsException.Require(!c.IsDisposed, nameof(c), "one that was not disposed");
        KernelsException.Require(c.Rows == _a.Rows && c.Columns == _b.Columns, nameof(c), $"[{_a.Rows}, {_b.Columns}], not [{c.Rows}, {c.Columns}]");
        KernelsException.Require(ReferenceEquals(c.Origin, _origin), nameof(c), "a matrix that Symbolic or Product of this plan made: values go to the places of its structure");
        KernelsException.Require(ValueBytes > 0 && c.HasValues, nameof(c), "values");
        KernelsException.Require(c.Device.Shares(_device), nameof(c), $"a matrix on {_device}, not on {c.Device}");
    }

    private KnSpgemmArgs Args(KnSpgemmPhase phase, CsrMatrix<T> c)
    {
        KnSpgemmArgs args = Args(phase, 0, _a.Rows);
        args.COffsets = c.OffsetsAt;
        args.CColumns = c.ColumnsAt;
        args.CValues = c.ValuesAt;
        args.CCapacity = c.NonZeros;
        return args;
    }

    /// <summary>A phase of a known C, in the scratch that stays; a call beside this one takes its own.</summary>
    private void Call(in KnSpgemmArgs args, CsrMatrix<T> c, SpGemmSchedule? schedule)
    {
        KnSpgemmProblem problem = _problem;
        long bytes = _chosen.Row.Workspace(&problem, _chosen.Launch);
        PooledMemory scratch = Interlocked.Exchange(ref _scratch, null) ?? PooledMemory.Rent(bytes, "workspace", _device);
        try
        {
            scratch.Touch(bytes);
            Call(_chosen.Row, problem, _chosen.Launch, args, scratch, c, schedule);
        }
        finally
        {
            if (Interlocked.CompareExchange(ref _scratch, scratch, null) is not null) scratch.Dispose();
        }
    }
}
