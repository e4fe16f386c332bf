using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

internal sealed unsafe partial class SpGemmTrial
{
    /// <summary>The values of C by a schedule, which a row of the CPU makes first; null, or what went wrong.</summary>
    public string? Scheduled(Row row, in KnLaunch launch)
    {
        if (row is GpuRow || !SpGemmRules.MaySchedule(*_problem)) return null;
        long m = Case.A.Rows;
        using GuardedMemory offsets = new((m + 1) * sizeof(long)), counts = new(SpGemmSchedule.CountBytes(*_problem, NonZeros));
        _args.Schedule = new KnSpgemmSchedule { Offsets = (long*)offsets.At, Counts = (ushort*)counts.At };
        try
        {
            if (Run(row, launch, KnSpgemmPhase.ScheduleSizes, 0, m) is { } sizes) return sizes;
            long terms = _args.Schedule.Offsets[m];
            if (terms < 0 || terms > _problem->Products) return $"schedule: {terms} terms of {_problem->Products} products";
            using var list = new GuardedMemory(terms * sizeof(KnSpgemmTerm));
            _args.Schedule.Terms = (KnSpgemmTerm*)list.At;
            if (Run(row, launch, KnSpgemmPhase.Schedule, 0, m) is { } schedule) return schedule;
            _values.Fill(0xff);
            if (Run(row, launch, KnSpgemmPhase.Numeric, 0, m) is { } numeric) return numeric;
            return offsets.Untouched(offsets.Bytes) && list.Untouched(list.Bytes) && counts.Untouched(counts.Bytes) ? null : "schedule: something outside it was written";
        }
        finally
        {
            _args.Schedule = default;
        }
    }
}
