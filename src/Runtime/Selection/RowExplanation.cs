using Kernels.Tuning;

namespace Kernels;

/// <summary>What one row says to a problem at one point of its axis: m of a GEMM, kv_len of attention.</summary>
/// <param name="Row">Its name.</param>
/// <param name="Accepts">Whether the machine has what it needs and it takes the problem.</param>
/// <param name="Refusal">Why it is no candidate: what the machine lacks, the first condition that does not hold, or the layout that it reads; null if it is one.</param>
/// <param name="Dataflow">The chosen launch, or the row's default one; null where it does not accept.</param>
/// <param name="ModelSeconds">Seconds of a call by the cost model; null where it does not accept.</param>
/// <param name="TunedSeconds">The best median of its launches in the record that choices come from here; null where none was timed on this device.</param>
/// <param name="TunedAt">The point at which that was timed, the first measured one that is not below this one.</param>
/// <param name="IsChosen">Whether a plan runs it here.</param>
public sealed record RowExplanation(string Row, bool Accepts, string? Refusal, Dataflow? Dataflow, double? ModelSeconds, double? TunedSeconds, int? TunedAt, bool IsChosen);
