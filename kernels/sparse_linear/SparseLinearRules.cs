using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>The rules of sparse_linear, as `valid` and `check` of sparse_linear_panel.cpp have them.</summary>
internal static unsafe class SparseLinearRules
{
    public static bool Valid(in KnSparseLinearProblem p, [NotNullWhen(false)] out string? why)
    {
        long columns = (p.Layer.Flags & (int)KnGemmFlags.Gated) != 0 ? 2L * p.Layer.N : p.Layer.N;
        return Holds(p.Size == sizeof(KnSparseLinearProblem), out why)
            && FlatGemmRules.Valid(p.Layer, out why)
            && Holds(p.Layer.WType != (int)DType.UInt4, out why)
            && Holds((p.Sets & ~3) == 0, out why)
            && Holds(p.Nnz >= 0 && p.Nnz <= columns * p.Layer.K, out why);
    }

    /// <summary>Packed weights of a device are not looked into.</summary>
    public static bool Check(in KnSparseLinearProblem p, in KnSparseLinearArgs a, long workspace, bool onDevice,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var at = new SparsePanels(p);
        if (!Holds(a.Size == sizeof(KnSparseLinearArgs), "args", out argument, out rule)
            || !FlatGemmRules.Check(p.Layer, a.Call, at.Total, workspace, out argument, out rule))
            return false;
        if (a.Call.M == 0 || p.Layer.N == 0) return true;
        bool outputs = (p.Sets & (int)KnSparseSets.Outputs) != 0, inputs = (p.Sets & (int)KnSparseSets.Inputs) != 0;
        long nBytes = (p.Layer.N + 63L) / 64 * 8, kBytes = (p.Layer.K + 63L) / 64 * 8;
        long* offsets = (long*)a.Call.Packed;
        return Holds(a.Outputs != null || !outputs, "outputs", out argument, out rule)
            && Holds(a.Inputs != null || !inputs || p.Layer.K == 0, "inputs", out argument, out rule)
            && Holds(!outputs || FlatGemmRules.Apart(p.Layer, a.Call, a.Outputs, nBytes), "y", out argument, out rule)
            && Holds(!inputs || FlatGemmRules.Apart(p.Layer, a.Call, a.Inputs, kBytes), "y", out argument, out rule)
            && Holds(onDevice || (offsets[0] == 0 && offsets[at.Count * at.Blocks] == p.Nnz), "packed", out argument, out rule);
    }

    private static bool Holds(bool condition, [NotNullWhen(false)] out string? why,
        [CallerArgumentExpression(nameof(condition))] string rule = "")
    {
        why = condition ? null : rule;
        return condition;
    }

    private static bool Holds(bool condition, string name, [NotNullWhen(false)] out string? argument,
        [NotNullWhen(false)] out string? rule, [CallerArgumentExpression(nameof(condition))] string text = "")
    {
        argument = condition ? null : name;
        rule = condition ? null : text;
        return condition;
    }
}
