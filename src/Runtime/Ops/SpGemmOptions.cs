using System.Collections.Immutable;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What a sparse product is asked for.</summary>
public sealed record SpGemmOptions
{
    /// <summary>What is added and multiplied with; a semiring of the user's own is a type argument instead.</summary>
    public Semiring Semiring { get; init; }

    /// <summary>C gets its structure and no values; those of the operands are not read.</summary>
    public bool StructureOnly { get; init; }

    /// <summary>Rows of C in the order of their columns. Without, in an order that is the same for any number of threads.</summary>
    public bool Sorted { get; init; } = true;

    /// <summary>The mask's entries are those that are left out.</summary>
    public bool Complement { get; init; }

    /// <summary>
    /// An entry of the mask, which then is a <see cref="CsrMatrix{T}"/> with values, counts only where its value is not 0 (NaN is not). The structure of C
    /// follows: a plan's Numeric asks that the mask's zeros are those of then.
    /// </summary>
    public bool ValuedMask { get; init; }

    /// <summary>
    /// Bytes that scratch and C may have together; 0 is no limit. <see cref="SpGemmPlan{T}.Pieces"/> keeps to it by pieces of C,
    /// <see cref="SpGemmPlan{T}.Product"/> and Symbolic are refused where C does not fit. The analysis of a plan, 8 bytes a row, comes on top, and of
    /// what the system counts a page of 2 MiB for each of scratch, offsets, columns and values, which end within one.
    /// </summary>
    public long MemoryBudget { get; init; }

    /// <summary>
    /// Bytes that the schedule of a plan's Numeric may take, within the budget where there is one. Null is an eighth of this process's memory, 0 is no
    /// schedule. Bits do not depend on it.
    /// </summary>
    public long? ScheduleLimit { get; init; }

    /// <summary>Upper bound on threads; 0 is the whole pool.</summary>
    public int Threads { get; init; }

    /// <summary>Forces this row, for example "spgemm/avx512". Refusal is an error, never a fallback.</summary>
    public string? Row { get; init; }

    /// <summary>
    /// Forces row and thresholds, as a plan's <see cref="SpGemmChoice"/> names them: window, sort, density, cached, table and blocks of the row's README, each among the
    /// values that the row lists. Null: those tuned for the class of the operands, else the defaults.
    /// </summary>
    public Dataflow? Dataflow { get; init; }

    /// <summary>Directory of the tuning database that thresholds come from; null: the user's, <see cref="Autotuner.DefaultDirectory"/>; empty: none. No tables ship: without a stored class thresholds are the defaults.</summary>
    public string? TuningDirectory { get; init; }

    /// <summary>The same as a store, which goes before it.</summary>
    internal TuningStore? Store { get; init; }

    internal void Check()
    {
        KernelsException.Require(Enum.IsDefined(Semiring), nameof(Semiring), $"a value of the enumeration, not {(int)Semiring}");
        KernelsException.Require(MemoryBudget >= 0, nameof(MemoryBudget), $"0 <= MemoryBudget, not {MemoryBudget}");
        KernelsException.Require(ScheduleLimit is null or >= 0, nameof(ScheduleLimit), $"0 <= ScheduleLimit, not {ScheduleLimit}");
        KernelsException.Require(Row is null || Dataflow is null || Row == Dataflow.Row, nameof(Dataflow), $"one of the row {Row}, not of {Dataflow?.Row}");
        KernelsException.Require(Threads is >= 0 and <= 1024, nameof(Threads), $"0 <= Threads <= 1024, not {Threads}");
    }
}

/// <summary>What a sparse product runs, and why.</summary>
/// <param name="Dataflow">Row and launch parameters.</param>
/// <param name="Source">Where the choice comes from.</param>
/// <param name="Reason">The same in words.</param>
/// <param name="WorkspaceBytes">Scratch of one call.</param>
public sealed record SpGemmChoice(Dataflow Dataflow, ChoiceSource Source, string Reason, long WorkspaceBytes);
