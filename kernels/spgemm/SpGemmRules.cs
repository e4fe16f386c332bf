using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The rules of spgemm in C#, condition by condition those of spgemm_operands.h.</summary>
internal static unsafe class SpGemmRules
{
    internal const long Longest32 = int.MaxValue, Longest64 = 1L << 40, MostProducts = 1L << 60, MostScheduledColumns = 1L << 22;

    internal static bool Valid(in KnSpgemmProblem p, out string? why)
    {
        long longest = p.IndexBytes == 4 ? Longest32 : Longest64;
        why = Refuse(p.Size == sizeof(KnSpgemmProblem))
            ?? Refuse((DType)p.Type is DType.Float32 or DType.Float64 or DType.None)
            ?? Refuse(p.IndexBytes is 4 or 8)
            ?? Refuse(Enum.IsDefined((Semiring)p.Semiring))
            ?? Refuse(p.Flags is >= 0 and < 64)
            ?? Refuse(Has(p, KnSpgemmFlags.Mask) || !Has(p, KnSpgemmFlags.Complement))
            ?? Refuse(!Has(p, KnSpgemmFlags.Valued) || (Has(p, KnSpgemmFlags.Mask) && HasValues(p)))
            ?? Refuse(p.Reserved == 0)
            ?? Refuse(p.M >= 0 && p.M <= longest)
            ?? Refuse(p.K >= 0 && p.K <= longest)
            ?? Refuse(p.N >= 0 && p.N <= longest)
            ?? Refuse(p.ANnz >= 0 && p.ANnz <= Longest64)
            ?? Refuse(p.BNnz >= 0 && p.BNnz <= Longest64)
            ?? Refuse(p.Products >= 0 && p.Products <= MostProducts)
            ?? Refuse(p.Most >= 0 && p.Most <= MostProducts);
        return why is null;
    }

    internal static bool Has(in KnSpgemmProblem p, KnSpgemmFlags flag) => (p.Flags & (int)flag) != 0;

    /// <summary>Whether values of A and B are read.</summary>
    internal static bool ReadsValues(in KnSpgemmProblem p) => (DType)p.Type != DType.None && (Semiring)p.Semiring != Semiring.PlusPair;

    internal static bool HasValues(in KnSpgemmProblem p) => (DType)p.Type != DType.None;

    /// <summary>Whether a row that keeps schedules can make one.</summary>
    internal static bool MaySchedule(in KnSpgemmProblem p) => HasValues(p) && p.N <= MostScheduledColumns && p.BNnz <= uint.MaxValue;

    /// <summary>Memory of a device is not looked into: ANALYSE there checks what of it matters.</summary>
    internal static bool Check(in KnSpgemmProblem p, in KnSpgemmArgs a, long workspace, bool onDevice, out string? argument, out string? rule)
    {
        bool analyse = a.Phase == (int)KnSpgemmPhase.Analyse;
        argument = "args";
        rule = Refuse(a.Size == sizeof(KnSpgemmArgs));
        argument = rule is null ? "phase" : argument;
        rule ??= Refuse(Enum.IsDefined((KnSpgemmPhase)a.Phase));
        argument = rule is null ? "rows" : argument;
        rule ??= Refuse(a.RowFrom >= 0 && a.RowFrom <= a.RowTo && a.RowTo <= p.M);
        rule ??= Refuse(!analyse || (a.RowFrom == 0 && a.RowTo == p.M));
        bool reads = ReadsValues(p) && !analyse;
        bool ok = rule is null && Operand("a", a.A, p.M, p.ANnz, reads, onDevice, ref argument, ref rule)
            && Operand("b", a.B, p.K, p.BNnz, reads, onDevice, ref argument, ref rule)
            && (!Has(p, KnSpgemmFlags.Mask) || Operand("mask", a.Mask, p.M, -1, Has(p, KnSpgemmFlags.Valued) && !analyse, onDevice, ref argument, ref rule))
            && (!Has(p, KnSpgemmFlags.Accumulate) || Operand("d", a.D, p.M, -1, HasValues(p) && !analyse, onDevice, ref argument, ref rule));
        if (!ok) return false;
        return (analyse ? CheckAnalyse(a, ref argument, ref rule) : CheckOutput(p, a, onDevice, ref argument, ref rule))
            && Workspace(a, workspace, ref argument, ref rule);
    }

    private static bool Operand(string name, in KnCsr x, long rows, long nnz, bool values, bool onDevice, ref string? argument, ref string? rule)
    {
        argument = name;
        rule = Refuse(x.Offsets != null);
        if (!onDevice) rule ??= Refuse(x.Offsets[0] == 0) ?? Refuse(nnz < 0 || x.Offsets[rows] == nnz);
        if (rule is not null) return false;
        // How many entries a mask or D of a device has is not known here.
        nnz = !onDevice ? x.Offsets[rows] : Math.Max(nnz, 0);
        rule = Refuse(nnz is >= 0 and <= Longest64) ?? Refuse(nnz == 0 || x.Columns != null) ?? Refuse(nnz == 0 || !values || x.Values != null);
        return rule is null;
    }

    private static bool CheckAnalyse(in KnSpgemmArgs a, ref string? argument, ref string? rule)
    {
        argument = "products";
        rule = Refuse(a.Products != null) ?? Refuse(a.Most != null);
        return rule is null;
    }

    private static bool CheckOutput(in KnSpgemmProblem p, in KnSpgemmArgs a, bool onDevice, ref string? argument, ref string? rule)
    {
        argument = "products";
        rule = Refuse(a.Products != null);
        if (!onDevice) rule ??= Refuse(a.Products[0] == 0) ?? Refuse(a.Products[p.M] == p.Products);
        if (rule is not null) return false;
        argument = "c";
        rule = Refuse(a.COffsets != null);
        if (!onDevice) rule ??= Refuse(a.COffsets[0] >= 0);
        if (rule is not null || a.Phase == (int)KnSpgemmPhase.Symbolic) return rule is null;
        rule = Refuse(a.CCapacity >= (onDevice ? 0 : a.COffsets[0])) ?? Refuse(a.CCapacity == 0 || a.CColumns != null) ?? Refuse(a.CCapacity == 0 || !HasValues(p) || a.Phase > (int)KnSpgemmPhase.Numeric || a.CValues != null);
        if (rule is not null) return false;
        if (a.Phase == (int)KnSpgemmPhase.Product) rule = Refuse(a.RowsDone != null);
        else if (!onDevice) rule = Refuse(a.COffsets[a.RowTo - a.RowFrom] >= a.COffsets[0] && a.COffsets[a.RowTo - a.RowFrom] <= a.CCapacity);
        return rule is null && (onDevice || a.Phase < (int)KnSpgemmPhase.Numeric || CheckSchedule(p, a, ref argument, ref rule));
    }

    private static bool CheckSchedule(in KnSpgemmProblem p, in KnSpgemmArgs a, ref string? argument, ref string? rule)
    {
        if (a.Phase == (int)KnSpgemmPhase.Numeric && a.Schedule.Offsets == null) return true;
        argument = "schedule";
        rule = Refuse(MaySchedule(p)) ?? Refuse(a.RowFrom == 0 && a.RowTo == p.M && a.COffsets[0] == 0) ?? Refuse(a.Schedule.Offsets != null && a.Schedule.Counts != null)
            ?? Refuse(a.Phase == (int)KnSpgemmPhase.ScheduleSizes || a.Schedule.Offsets[p.M] == 0 || a.Schedule.Terms != null);
        return rule is null;
    }

    private static bool Workspace(in KnSpgemmArgs a, long bytes, ref string? argument, ref string? rule)
    {
        argument = "workspace";
        rule = Refuse(bytes == 0 || a.Workspace != null) ?? Refuse(((nuint)a.Workspace & 63) == 0) ?? Refuse(a.WorkspaceBytes >= bytes);
        return rule is null;
    }

    private static string? Refuse(bool holds, [CallerArgumentExpression(nameof(holds))] string condition = "") => holds ? null : condition;
}
