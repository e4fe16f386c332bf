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
            "Kernels.DTypes", "Kernels.DecodeAttention", "Kernels.DecodeAttentionChoice", "Kernels.DecodeAttentionOptions", "Kernels.Device", "Kernels.FlatGemm",
            "Kernels.FlatGemmOptions", "Kernels.FlatGemmWeights", "Kernels.Float8E4M3", "Kernels.KernelsException", "Kernels.KvCache`1", "Kernels.KvLayout",
            "Kernels.LogSumExp", "Kernels.PhiProposal", "Kernels.Prune", "Kernels.PruneScope", "Kernels.Pruned", "Kernels.QuantizationError", "Kernels.Quantize",
            "Kernels.SoftmaxCalibration", "Kernels.SoftmaxDataflow", "Kernels.SparseLinear", "Kernels.SparseLinearChoice", "Kernels.SparseLinearWeights",
            "Kernels.Status", "Kernels.TensorView`1", "Kernels.Tuning.Dataflow",
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
