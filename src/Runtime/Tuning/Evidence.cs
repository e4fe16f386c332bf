using System.Collections.Immutable;

namespace Kernels.Tuning;

/// <summary>Why a candidate is out.</summary>
internal enum FailureKind
{
    /// <summary>The row does not accept the problem or the parameters.</summary>
    Constraint,

    /// <summary>The result is outside the bound of the oracle, or something outside the output was written.</summary>
    WrongResult,

    /// <summary>It did not finish in time.</summary>
    Timeout,

    /// <summary>The process that ran it ended.</summary>
    Crash,

    /// <summary>It threw, or gave a time that is none.</summary>
    Error,

    /// <summary>It ran, and was dropped as surely slower than another.</summary>
    Slower,
}

/// <summary>Why a candidate is out, in kind and in words.</summary>
internal sealed record Failure(FailureKind Kind, string Detail);

/// <summary>Thrown by a timed function for a failure of its candidate other than <see cref="FailureKind.Error"/>.</summary>
internal sealed class CandidateFailedException(FailureKind kind, string detail) : Exception(detail)
{
    public FailureKind Kind { get; } = kind;
}

/// <summary>All samples of one candidate in seconds, in the order of the rounds, and why it is out if it is.</summary>
internal sealed record Timing(ImmutableArray<double> Samples, Failure? Failure)
{
    public Estimate Estimate => Estimate.Of(Samples.AsSpan());
}

/// <summary>Winner and incumbent timed again, alone and alternating.</summary>
internal sealed record Rematch(int Incumbent, int Candidate, ImmutableArray<double> IncumbentSamples, ImmutableArray<double> CandidateSamples);

/// <summary>How a tournament ended.</summary>
internal enum TournamentEnd
{
    /// <summary>Every survivor has all its samples and the winner its rematch.</summary>
    Complete,

    /// <summary>The time ran out first.</summary>
    Budget,

    /// <summary>The caller cancelled.</summary>
    Cancelled,
}

/// <summary>All that was measured, and what follows from it under the rule that was in force.</summary>
/// <param name="Timings">One per candidate, in the fixed order.</param>
/// <param name="Rematches">The rematches, in the order in which they took place.</param>
/// <param name="Rounds">Full rounds.</param>
/// <param name="End">Whether the measurement is complete.</param>
/// <param name="Winner">Index of the chosen candidate; -1 where none ran.</param>
internal sealed record TournamentResult(
    ImmutableArray<Timing> Timings, ImmutableArray<Rematch> Rematches, int Rounds, TournamentEnd End, int Winner);

/// <summary>The tournament at one m.</summary>
internal sealed record Evidence(int M, ImmutableArray<Dataflow> Candidates, TournamentResult Result)
{
    /// <summary>The samples of what ran and the winner under <paramref name="rule"/>, from the samples alone.</summary>
    public MPoint Point(SelectionRule rule)
    {
        var samples = ImmutableDictionary.CreateBuilder<Dataflow, ImmutableArray<double>>();
        for (int i = 0; i < Candidates.Length; i++)
        {
            Timing timing = Result.Timings[i];
            if (timing.Failure is null or { Kind: FailureKind.Slower } && !timing.Samples.IsEmpty)
                samples[Candidates[i]] = timing.Samples;
        }
        int winner = rule.Decide(Result.Timings, Result.Rematches).Winner;
        bool ran = winner >= 0 && !Result.Timings[winner].Samples.IsEmpty;
        return new MPoint(M, samples.ToImmutable(), ran ? Candidates[winner] : null);
    }

    /// <summary>What is wrong with evidence that was read from outside; null if nothing.</summary>
    public string? Check()
    {
        if (Candidates.IsDefault || Result is null || Result.Timings.IsDefault || Result.Rematches.IsDefault)
            return $"m {M}: a part is absent";
        int n = Candidates.Length;
        if (Candidates.Contains(null!) || Candidates.Distinct().Count() != n || Result.Timings.Length != n)
            return $"m {M}: candidates and timings do not match";
        if (Result.Timings.Any(t => t is null || !AreTimes(t.Samples)))
            return $"m {M}: a sample is no time";
        if (Result.Rematches.Any(r => r is null || !IsIndex(r.Incumbent) || !IsIndex(r.Candidate)
                || !AreTimes(r.IncumbentSamples) || !AreTimes(r.CandidateSamples)))
            return $"m {M}: a rematch is broken";
        return Result.Winner == -1 || IsIndex(Result.Winner) ? null : $"m {M}: the winner is no candidate";

        bool IsIndex(int i) => i >= 0 && i < n;
        static bool AreTimes(ImmutableArray<double> samples) => !samples.IsDefault && samples.All(s => s >= 0 && double.IsFinite(s));
    }
}
