using System.Reflection;

namespace Kernels.Tests;

/// <summary>The public surface, by name: a type that becomes public, or stops being it, is a decision and not an accident.</summary>
[TestFixture]
public sealed class PublicApi
{
    [Test]
    public void HoldsTheseTypes()
    {
        string[] expected =
        [
            "Kernels.Activation", "Kernels.AttentionMask", "Kernels.BFloat16", "Kernels.Buffer`1", "Kernels.Choice", "Kernels.ChoiceSource", "Kernels.DType",
            "Kernels.DTypes", "Kernels.DecodeAttention", "Kernels.DecodeAttentionChoice", "Kernels.DecodeAttentionOptions", "Kernels.Device", "Kernels.DeviceHandle", "Kernels.DeviceKind", "Kernels.Event",
            "Kernels.FlatGemm",
            "Kernels.FlatGemmOptions", "Kernels.FlatGemmWeights", "Kernels.Float8E4M3", "Kernels.Graph", "Kernels.KernelsException", "Kernels.KvCache`1", "Kernels.KvLayout",
            "Kernels.LogSumExp", "Kernels.PhiProposal", "Kernels.QuantizationError", "Kernels.Quantize", "Kernels.SoftmaxCalibration", "Kernels.SoftmaxDataflow",
            "Kernels.Status", "Kernels.Stream", "Kernels.TensorView`1", "Kernels.Tuning.Dataflow",
            "Kernels.CsrMatrix", "Kernels.CsrMatrix`1", "Kernels.CsrStructure", "Kernels.ISemiring`1", "Kernels.MatrixMarket", "Kernels.MaxPlus`1",
            "Kernels.MinPlus`1", "Kernels.OrAnd`1", "Kernels.PlusPair`1", "Kernels.PlusTimes`1", "Kernels.Semiring", "Kernels.SpGemm", "Kernels.SpGemmChoice",
            "Kernels.SpGemmOptions", "Kernels.SpGemmPlan`1",
            "Kernels.Prune", "Kernels.PruneScope", "Kernels.Pruned", "Kernels.PrunedLinear", "Kernels.SparseLinear", "Kernels.SparseLinearChoice", "Kernels.SparseLinearWeights",
        ];
        IEnumerable<string?> actual = typeof(Device).Assembly.GetExportedTypes().Where(t => !t.IsNested).Select(t => t.FullName);
        Assert.That(actual, Is.EquivalentTo(expected));
    }

    [Test]
    public void ShowsNothingOfInterop() =>
        Assert.That(typeof(Device).Assembly.GetExportedTypes()
            .SelectMany(t => t.GetMembers(BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly))
            .Where(m => m is MethodInfo method && method.GetParameters().Select(p => p.ParameterType).Append(method.ReturnType)
                .Any(t => t.Namespace?.StartsWith("Kernels.Interop", StringComparison.Ordinal) == true)), Is.Empty);
}
