using System.Reflection;

namespace Kernels.Tests;

/// <summary>The public surface, whose names `src/Runtime/PublicAPI.*.txt` hold.</summary>
[TestFixture]
public sealed class PublicApi
{
    [Test]
    public void ShowsNothingOfInterop() =>
        Assert.That(typeof(Device).Assembly.GetExportedTypes()
            .SelectMany(t => t.GetMembers(BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly))
            .Where(m => m is MethodInfo method && method.GetParameters().Select(p => p.ParameterType).Append(method.ReturnType)
                .Any(t => t.Namespace?.StartsWith("Kernels.Interop", StringComparison.Ordinal) == true)), Is.Empty);
}
